# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The timer's gate: enabled and active exactly where it is wanted and proven."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import systemd as units
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import installed, receipts, timer_hold
from ansible_collections.as215932.engineering_loop.plugins.modules import loop_timer
from deployed import Host

NEXT = "Thu 2026-01-01 12:00:00 UTC"
NEXT_ISO = "2026-01-01T12:00:00Z"


class Systemd:
    """Plays systemctl for one timer and counts how often it is asked."""

    def __init__(self, enabled: bool = False, active: bool = False, load: str = "loaded") -> None:
        self.enabled, self.active, self.load = enabled, active, load
        self.next = NEXT
        self.commands: list[str] = []
        self.tell: list[tuple[str, ...]] = []  # what the units that tell were asked

    def __call__(self, *arguments: str) -> str:
        if "-tell." in arguments[-1]:
            self.tell.append(arguments)
            on = any(words[0] == "enable" for words in self.tell)
            states = ("active", "enabled") if on else ("inactive", "disabled")
            return f"LoadState={self.load}\nActiveState={states[0]}\nUnitFileState={states[1]}\n"
        self.commands.append(arguments[0])
        assert arguments[-1] == "hyrule-engineering-loop.timer"
        if arguments[0] in ("enable", "disable"):
            assert arguments[1] == "--now"
            self.enabled = self.active = arguments[0] == "enable"
            return ""
        if arguments[0] == "list-timers":
            return '[{"next": 1767268800123456, "unit": "hyrule-engineering-loop.timer"}]\n'
        assert arguments[0] == "show"
        states = f"UnitFileState={'enabled' if self.enabled else 'disabled'}\n"
        states += f"ActiveState={'active' if self.active else 'inactive'}\n"
        return f"LoadState={self.load}\n{states}NextElapseUSecRealtime={self.next if self.active else ''}\n"


@pytest.fixture
def host(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(units, "RUNNING_SYSTEMD", str(tmp_path))
    return host


@pytest.fixture
def apply(host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(systemd: Systemd, **options: Any) -> dict[str, Any]:
        warnings: list[str] = []
        monkeypatch.setattr(units, "systemctl", systemd)
        monkeypatch.setattr(AnsibleModule, "warn", lambda module, text: warnings.append(text))
        with patch_module_args({"config": str(host.config_file), **options}), pytest.raises(SystemExit):
            loop_timer.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return {**answer, "warned": warnings}

    return run


def prove(host: Host) -> None:
    receipts.write(host.config, "docs", installed.now(host.config), {}, applied_by="ops", overrides=[])


def test_without_a_proof_the_timer_is_held_and_the_apply_succeeds(apply: Any) -> None:
    systemd = Systemd(enabled=True, active=True)
    result = apply(systemd, enabled=True)
    assert result["changed"] and not result.get("failed")
    assert (result["enabled"], result["active"], result["proven"], result["next"]) == (False, False, False, "")
    assert result["held"].startswith("nothing was proven on this host yet; prove it with: ")
    assert not (systemd.enabled or systemd.active)
    again = apply(systemd, enabled=True)
    assert not again["changed"] and again["held"] == result["held"]


def test_with_a_proof_the_timer_runs(apply: Any, host: Host) -> None:
    prove(host)
    systemd = Systemd()
    result = apply(systemd, enabled=True)
    assert result["changed"] and result["enabled"] and result["active"] and result["proven"]
    assert (result["held"], result["next"]) == ("", NEXT_ISO)
    assert result["reason"].startswith("proven by the docs canary")
    assert systemd.enabled and systemd.active


def test_nothing_to_do_is_one_look(apply: Any, host: Host) -> None:
    prove(host)
    systemd = Systemd(enabled=True, active=True)
    assert apply(systemd, enabled=True)["changed"]  # what is proven is kept
    systemd.commands.clear()
    assert not apply(systemd, enabled=True)["changed"]
    assert systemd.commands == ["show"]


@pytest.mark.parametrize("enabled", [False, True])
def test_the_units_that_tell_run_whatever_the_timer_does(apply: Any, enabled: bool) -> None:
    systemd = Systemd()
    names = ["hyrule-engineering-loop-tell.timer", "hyrule-engineering-loop-tell.path"]
    assert apply(systemd, enabled=enabled, _ansible_check_mode=True)["changed"]
    assert {words[0] for words in systemd.tell} == {"show"}
    assert apply(systemd, enabled=enabled)["changed"]
    assert systemd.tell[-2:] == [
        ("enable", "--now", *names),
        ("start", "--no-block", "hyrule-engineering-loop-tell.service"),
    ]
    assert not apply(systemd, enabled=enabled)["changed"] and systemd.tell[-1][0] == "start"


def test_a_timer_that_counts_from_an_event_is_looked_up(apply: Any, host: Host) -> None:
    prove(host)
    systemd = Systemd(enabled=True, active=True)
    systemd.next = ""
    assert apply(systemd, enabled=True)["next"] == NEXT_ISO
    assert systemd.commands == ["show", "list-timers"]


@pytest.mark.parametrize(("enabled", "active"), [(True, False), (False, True)])
def test_a_half_running_timer_is_set_right(apply: Any, host: Host, enabled: bool, active: bool) -> None:
    prove(host)
    systemd = Systemd(enabled, active)
    assert apply(systemd, enabled=True)["changed"]
    assert systemd.enabled and systemd.active


def test_a_change_after_the_proof_holds_the_timer(apply: Any, host: Host) -> None:
    prove(host)
    host.config["daemon_args"] = ["--another"]
    host.write_config()
    systemd = Systemd(enabled=True, active=True)
    assert apply(systemd, enabled=True)["held"].startswith("the unit changed after the proof of ")
    assert not systemd.active


def test_a_timer_nobody_wants_is_stopped_and_not_held(apply: Any, host: Host) -> None:
    prove(host)
    systemd = Systemd(enabled=True, active=True)
    result = apply(systemd, enabled=False)
    assert result["changed"] and not result["active"] and result["held"] == "" and result["proven"]


def test_the_override_runs_what_is_not_proven_and_says_so(apply: Any) -> None:
    result = apply(Systemd(), enabled=True, required=False)
    assert result["active"] and not result["proven"] and result["held"] == ""
    assert "engineering_loop_canary_required is false" in result["warned"][0]


def test_the_override_is_silent_where_there_is_a_proof(apply: Any, host: Host) -> None:
    prove(host)
    assert apply(Systemd(), enabled=True, required=False)["warned"] == []


def test_check_mode_tells_and_changes_nothing(apply: Any, host: Host) -> None:
    prove(host)
    systemd = Systemd()
    result = apply(systemd, enabled=True, _ansible_check_mode=True, _ansible_diff=True)
    assert result["changed"] and result["active"]
    assert result["diff"] == {"before": "enabled: False\nactive: False\n", "after": "enabled: True\nactive: True\n"}
    assert systemd.commands == ["show"] and not systemd.active


def test_a_fresh_host_in_check_mode(apply: Any, host: Host) -> None:
    host.config_file.unlink()
    result = apply(Systemd(load="not-found"), enabled=True, _ansible_check_mode=True)
    assert not result["changed"] and "not deployed yet" in result["held"]
    failure = apply(Systemd(load="not-found"), enabled=True)
    assert failure["failed"] and "is missing: this host was not deployed yet" in failure["msg"]
    assert not apply(Systemd(load="not-found"), enabled=False)["changed"]


def test_check_mode_tells_what_is_foreseen(apply: Any, host: Host) -> None:
    prove(host)
    systemd = Systemd(enabled=True, active=True)
    told = apply(systemd, enabled=True, foreseen="unproven", _ansible_check_mode=True)
    assert told["changed"] and not told["active"] and "nobody has seen what this changes" in told["held"]
    told = apply(systemd, enabled=True, foreseen="proven", _ansible_check_mode=True)
    assert told["changed"] and told["active"] and told["held"] == "" and "once the canary" in told["reason"]
    assert told["next"] == ""
    assert not apply(systemd, enabled=False, foreseen="proven", _ansible_check_mode=True)["active"]
    assert systemd.active and "disable" not in systemd.commands
    del host.config["min_free"]  # as an earlier version had written them
    host.write_config()
    assert apply(systemd, enabled=True, _ansible_check_mode=True)["active"]
    # An apply sees for itself.
    assert apply(systemd, enabled=True, foreseen="unproven")["active"]
    host.config_file.unlink()
    told = apply(Systemd(load="not-found"), enabled=True, foreseen="proven", _ansible_check_mode=True)
    assert told["changed"] and told["active"]


def test_a_host_without_systemd_in_check_mode(apply: Any, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "RUNNING_SYSTEMD", str(host.top / "nothing"))
    prove(host)
    systemd = Systemd()
    assert apply(systemd, enabled=True, _ansible_check_mode=True)["changed"]
    assert "is not known to systemd" in apply(systemd, enabled=True)["msg"]
    assert systemd.commands == []


def test_a_missing_timer_is_an_error_only_where_it_should_run(apply: Any, host: Host) -> None:
    assert not apply(Systemd(load="not-found"), enabled=True)["changed"]
    assert not apply(Systemd(load="not-found"), enabled=False)["changed"]
    prove(host)
    assert "is not known to systemd" in apply(Systemd(load="not-found"), enabled=True)["msg"]


def test_a_masked_timer_is_left_to_the_operator(apply: Any, host: Host) -> None:
    prove(host)
    assert "is masked: look with" in apply(Systemd(load="masked"), enabled=True)["msg"]


def test_a_timer_that_systemd_cannot_read_keeps_nothing_from_being_mended(apply: Any, host: Host) -> None:
    """It fires no more; until what is applied has replaced it, it is one that does not run."""
    held = apply(Systemd(enabled=True, load="bad-setting"), enabled=True)  # nothing was proven
    assert held["changed"] and not held["enabled"] and not held["active"]
    prove(host)
    mended = Systemd(enabled=True)
    assert apply(mended, enabled=True)["active"]


def test_an_old_proof_holds_the_timer(apply: Any, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    prove(host)
    later = receipts.utc_now() + receipts.datetime.timedelta(days=91)
    monkeypatch.setattr(receipts, "utc_now", lambda: later)
    assert "is older than" in apply(Systemd(), enabled=True, canary_max_age="90d")["held"]
    assert "canary_max_age 'soon' is not a time" in apply(Systemd(), enabled=True, canary_max_age="soon")["msg"]


def test_an_unproven_timer_is_recorded_once_by_whom(apply: Any, host: Host) -> None:
    systemd = Systemd()
    wanted = {
        "enabled": True,
        "required": False,
        "applied_by": "ops",
        "overrides": ["engineering_loop_canary_required: false"],
    }
    told = apply(systemd, **wanted, _ansible_check_mode=True)
    assert told["changed"] and not Path(host.config["receipts_dir"]).exists()
    assert apply(systemd, **wanted)["changed"]
    (note,) = Path(host.config["receipts_dir"]).glob("*.note")
    record = json.loads(note.read_text(encoding="utf-8"))
    assert (record["mode"], record["applied_by"], record["overrides"]) == ("unproven", "ops", wanted["overrides"])
    assert record["proven"] == asdict(installed.now(host.config)) and record["hmac"]
    again = apply(systemd, **wanted)
    assert not again["changed"] and again["warned"] and not again["proven"]
    assert timer_hold.matching(host.config).reason.startswith("nothing was proven")  # a note is no receipt
    assert apply(systemd, **{**wanted, "applied_by": "another"})["changed"]
    assert len(list(Path(host.config["receipts_dir"]).glob("*.note"))) == 2
