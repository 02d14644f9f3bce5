# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Returns: what is half of a rollout is no proof of anything, and whatever runs, runs under the rules in force."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import pytest
import rolled
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cycle import prepare
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import jobs, processes, telling
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import systemd as units
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import (
    installed,
    receipts,
    rollback_sets,
    rollout,
    timer_hold,
)
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import store
from ansible_collections.as215932.engineering_loop.plugins.module_utils.stages import files, timer
from ansible_collections.as215932.engineering_loop.plugins.module_utils.stages.outcome import How
from deployed import SHA, Host
from rolled import (
    BAD,
    THIRD,
    Systemd,
    activate,
    as_written,
    ledger,
    new_everything,
    new_policy,
    previous,
    prove,
    undo,
)

# pytest finds fixtures by their names in this module.
host, systemd = rolled.host, rolled.systemd
UNIT = "hyrule-engineering-loop"
GUARDS = {
    "canary_required": True, "canary_max_age": "30d", "max_runs_per_day": 2,
    "daemon_args": ["--max-runs-per-day", "2", "--max-cost-usd-per-day", "10"],
    "quarantine_keep": {"age": "", "size": "", "min_age": "90d"},
}  # fmt: skip


@pytest.fixture
def an_hour_ago(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have receipts dated as by a canary that long ago; called again, as by one now."""
    now = receipts.utc_now

    def back(hours: float = 1) -> None:
        monkeypatch.setattr(receipts, "utc_now", lambda: now() - datetime.timedelta(hours=hours))

    back()
    return back


def engine(host: Host) -> str:
    return os.path.basename(os.path.realpath(host.top / "opt/current"))


def rolled_back(host: Host, systemd: Systemd) -> None:
    """Two engines were proven, the second turned out bad, and ``rollback.yml`` went back to the first."""
    prove(host, systemd)
    rollout.begin(str(host.config_file))
    activate(host, BAD)
    prove(host, systemd)
    previous(host, reason="its pages are empty")
    assert engine(host) == SHA and systemd.on


def new_unit(host: Host) -> Path:
    unit = host.top / "systemd" / f"{UNIT}.service"
    rollout.begin(str(host.config_file), [str(unit)])
    unit.write_text(f"{unit.read_text()}MemoryMax=4G\n")
    return unit


# --- half of a rollout


def test_an_old_proof_of_half_a_rollout_is_not_what_ran_before(host: Host, systemd: Systemd, an_hour_ago: Any) -> None:
    rolled_back(host, systemd)
    an_hour_ago(hours=0)
    rollout.begin(str(host.config_file))
    activate(host, BAD)  # with the unit that it was proven with, until the next stage
    new_unit(host)
    assert ledger(host)["open"]["from"].startswith(SHA)
    told = undo(host, reason="the docs canary failed at paths")
    assert told["to"]["sha"] == engine(host) == SHA and systemd.on


def test_a_rollout_that_fails_half_way_goes_back_though_its_half_was_proven_once(
    host: Host, systemd: Systemd, an_hour_ago: Any
) -> None:
    rolled_back(host, systemd)
    an_hour_ago(hours=0)
    rollout.begin(str(host.config_file))
    activate(host, BAD)
    assert timer_hold.matching(as_written(host)).receipt
    assert "has not ended" in rollout.in_force(str(host.config_file)).reason  # a pause that is lifted starts no timer
    told = undo(host, failed=False, reason="a clone failed")
    assert told["returned"] and engine(host) == SHA and systemd.on
    assert rollout.in_force(str(host.config_file)).receipt


def test_what_a_canary_proved_in_this_rollout_is_what_ran_before_the_next(
    host: Host, systemd: Systemd, an_hour_ago: Any
) -> None:
    prove(host, systemd)
    an_hour_ago(hours=0)
    rollout.begin(str(host.config_file))
    activate(host, BAD)
    receipts.write(host.config, "docs", installed.now(host.config), {}, applied_by="ops", overrides=[])
    # Killed here, before the timer's stage; then another one begins.
    rollout.begin(str(host.config_file))
    activate(host, THIRD)
    assert ledger(host)["open"]["from"].startswith(BAD) and ledger(host)["open"]["timer"]
    assert undo(host)["to"]["sha"] == BAD and systemd.on


def test_what_somebody_added_stays_where_a_canary_cannot_start(host: Host, systemd: Systemd) -> None:
    prove(host, systemd)
    drop_in = host.top / "systemd" / f"{UNIT}.service.d" / "proxy.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\nEnvironment=HTTPS_PROXY=http://proxy:3128\n")
    told = undo(host, failed=False, reason="the budget of today is used up")
    assert not told["returned"] and "this run changed nothing of it" in told["reason"]
    assert drop_in.exists() and not systemd.on
    # Judged and found wanting, it goes, and a copy of it stays.
    told = undo(host, failed=True)
    (copy,) = (host.top / "opt" / "aside").rglob("proxy.conf")
    assert told["returned"] and not drop_in.exists() and "HTTPS_PROXY" in copy.read_text()
    assert f"{drop_in} was not there when that was proven: it is in {copy} now" in told["reason"]


# --- whom a failure blames


def test_a_proven_engine_is_not_blamed_for_a_policy(host: Host, systemd: Systemd) -> None:
    prove(host, systemd)
    rollout.begin(str(host.config_file))
    activate(host, BAD)
    prove(host, systemd)
    rollout.begin(str(host.config_file))
    activate(host, SHA)
    assert rollout.end(str(host.config_file), timer_hold.matching(as_written(host)).receipt)
    new_policy(host)
    activate(host, BAD)
    assert undo(host, reason="the docs canary failed at policy")["to"]["sha"] == SHA
    assert store.verdict(store.ledger(host.config["install_dir"]), BAD) == "proven"


# --- under which rules a set runs


@pytest.mark.parametrize("back", [undo, previous])
def test_the_guards_in_force_hold_for_whatever_is_gone_back_to(host: Host, systemd: Systemd, back: Any) -> None:
    loose = {
        "canary_required": False, "canary_max_age": "", "max_runs_per_day": 24, "quarantine_keep": {"age": "1d"},
        "daemon_args": ["--max-runs-per-day", "24", "--max-cost-usd-per-day", "500"],
    }  # fmt: skip
    host.config.update(loose)
    host.write_config()
    prove(host, systemd)
    host.config.update(GUARDS)
    host.write_config()
    assert not rollout.end(str(host.config_file), timer_hold.matching(host.config).receipt)  # the proof holds
    new_everything(host)
    host.config.update(GUARDS)
    host.write_config()
    if back is previous:
        prove(host, systemd)
    assert back(host)["returned"] and engine(host) == SHA and systemd.on
    assert {key: as_written(host)[key] for key in GUARDS} == GUARDS
    (host.top / "systemd" / f"{UNIT}.service").write_text("[Service]\n# not proven\n")
    with pytest.raises(LoopError, match="unit changed"):
        prepare.check_proven(as_written(host), "timer")


def test_a_proof_that_is_too_old_by_now_is_gone_back_to_without_the_timer(
    host: Host, systemd: Systemd, an_hour_ago: Any
) -> None:
    an_hour_ago(hours=24 * 120)
    prove(host, systemd)
    an_hour_ago(hours=0)
    new_everything(host)
    host.config["canary_max_age"] = "30d"
    host.write_config()
    prove(host, systemd)
    foretold, done = previous(host, check=True), previous(host)
    assert foretold["held"] == done["held"] and "older than the 720 hours that are allowed" in done["held"]
    assert (foretold["timer"]["active"], done["timer"]["active"]) == (False, False)
    assert engine(host) == SHA and not systemd.on


# --- what is kept


def test_a_damaged_set_is_kept_anew(host: Host, systemd: Systemd) -> None:
    prove(host, systemd)
    key = ledger(host)["history"][0]["set"]
    place = Path(rollback_sets.place_of(host.config["install_dir"], key))
    (copy,) = place.rglob("policy.yml")
    copy.write_bytes(b"")
    assert rollback_sets.load(host.config["install_dir"], key) is None
    assert rollout.end(str(host.config_file), timer_hold.matching(host.config).receipt)
    assert not rollout.end(str(host.config_file), timer_hold.matching(host.config).receipt)
    new_everything(host)
    assert undo(host)["returned"] and systemd.on


def test_an_account_that_was_made_anew_owns_what_comes_back(host: Host, systemd: Systemd) -> None:
    prove(host, systemd)
    key = ledger(host)["history"][0]["set"]
    place = Path(rollback_sets.place_of(host.config["install_dir"], key))
    for copy in (*place.rglob("loop.json"), *place.rglob("cycle.py")):
        os.chown(copy, 987654, 987654)
    os.chown(host.config_file, 0, 1)
    new_everything(host)  # and one of the two files is gone
    assert undo(host)["returned"] and systemd.on
    assert host.config_file.stat().st_gid == 1
    assert (host.top / "lib" / "engineering_loop_core" / "cycle.py").stat().st_uid == 0


@pytest.mark.parametrize("place", ["service.d", "hyrule-.service.d", "hyrule-engineering-.service.d", "socket.d"])
def test_a_drop_in_of_many_units_is_part_of_the_proof_but_not_ours_to_take(
    host: Host, systemd: Systemd, place: str
) -> None:
    prove(host, systemd)
    drop_in = host.top / "systemd" / place / "more.conf"
    drop_in.parent.mkdir()
    (drop_in.parent / "README").write_text("systemd reads no such file\n")
    assert timer_hold.matching(host.config).receipt
    drop_in.write_text("[Service]\nUser=root\n")
    assert "the unit changed" in timer_hold.matching(host.config).reason
    new_policy(host)
    with pytest.raises(LoopError, match=r"does not count as proven: the unit changed .*; timer held"):
        undo(host)
    assert drop_in.exists() and not systemd.on
    drop_in.unlink()
    assert undo(host)["returned"] and systemd.on


# --- what else goes on and off


class Units:
    """systemctl, with a state for each timer and for the cycle."""

    def __init__(self) -> None:
        self.on = {f"{UNIT}.timer": True}
        self.cycle = "inactive"
        self.asked: list[str] = []

    def __call__(self, *words: str) -> str:
        name = words[-1]
        self.asked.append(" ".join(words))
        if words[0] in ("enable", "disable"):
            self.on[name] = words[0] == "enable"
        if words[0] == "show" and name.endswith(".service"):
            return f"LoadState=loaded\nActiveState={self.cycle}\nUnitFileState=static\n"
        if words[0] == "show":
            state = ("enabled", "active") if self.on.get(name) else ("disabled", "inactive")
            return f"LoadState=loaded\nUnitFileState={state[0]}\nActiveState={state[1]}\nNextElapseUSecRealtime=\n"
        return "[]"


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Units:
    played = Units()
    monkeypatch.setattr(units, "systemctl", played)
    monkeypatch.setattr(telling, "bring", lambda unit, check: False)
    monkeypatch.setattr(units, "refused", lambda wanted: [])
    return played


def test_a_cycle_ends_before_its_units_are_changed(host: Host, played: Units, monkeypatch: pytest.MonkeyPatch) -> None:
    host.config["policy_sha256"] = installed.now(host.config).policy_digest
    host.write_config()
    receipts.write(host.config, "docs", installed.now(host.config), {}, applied_by="ops", overrides=[])
    service = host.top / "systemd" / f"{UNIT}.service"
    before, given = service.read_text(), dict.fromkeys(files.OPTIONS)
    given |= {"entries": [], "secrets": {}, "programs": [], "hold": str(host.config_file), "wait": 0.3}
    given["units"] = {f"{UNIT}.service": f"{before}MemoryMax=4G\n"}
    monkeypatch.setattr(
        processes, "cycle_in_progress", lambda lock, unit: f"{unit}.service is active" * bool(played.cycle)
    )
    played.cycle = "activating"
    with pytest.raises(LoopError, match=r"a cycle is in progress .*: its units and our code were not changed; run it"):
        files.bring(given, How())
    assert service.read_text() == before and played.on[f"{UNIT}.timer"]
    # What no proof is bound to waits for nobody, as a lower cap.
    lower = {"max_runs_per_day": 1, "daemon_args": ["--max-runs-per-day", "1"]}
    given |= {"settings": {**host.config, **lower}, "units": {}}
    assert files.bring(given, How()).result["changed"] and as_written(host)["max_runs_per_day"] == 1
    given["settings"] = None
    given["units"] = {f"{UNIT}.timer": "[Timer]\nOnCalendar=daily\n"}
    assert files.bring(given, How()).result["changed"]
    played.cycle = ""
    given["units"] = {f"{UNIT}.service": f"{before}MemoryMax=4G\n"}
    assert files.bring(given, How()).result["changed"] and not played.on[f"{UNIT}.timer"]


def test_timers_of_jobs_go_on_again_with_that_of_the_loop(host: Host, systemd: Systemd, played: Units) -> None:
    job = {
        "name": "digest", "unit": f"{UNIT}-job-digest", "command": ["x"], "args": [], "options": {}, "state": "/s",
        "may": ["read"], "proof": True, "enabled": True,
    }  # fmt: skip
    host.config["jobs"] = [job]
    host.write_config()
    receipts.write(host.config, "docs", installed.now(host.config), {}, applied_by="ops", overrides=[])
    store.record_verdict(host.config["install_dir"], SHA, "proven")
    given = dict.fromkeys(timer.OPTIONS, "") | {"config": str(host.config_file), "enabled": True, "required": True}
    given |= {"canary_mode": "docs", "overrides": []}
    timer.bring(given, How())
    assert played.on == {f"{UNIT}.timer": True, f"{UNIT}-job-digest.timer": True}
    rollout.begin(str(host.config_file))
    activate(host, BAD)
    timer.bring(given, How())
    assert played.on == {f"{UNIT}.timer": False, f"{UNIT}-job-digest.timer": False}
    assert previous(host)["returned"]
    assert played.on == {f"{UNIT}.timer": True, f"{UNIT}-job-digest.timer": True}
    # And off and on with a pause.
    brought = jobs.bring_timers(as_written(host), proven=False, paused=True)
    assert [one.changed for one in brought] == [True] and not played.on[f"{UNIT}-job-digest.timer"]
