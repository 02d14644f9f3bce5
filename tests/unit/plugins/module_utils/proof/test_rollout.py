# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rollouts: whatever comes after a proof can be undone, and no timer ever runs what is not proven."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rolled
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import (
    managed_files,
    processes,
)
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import (
    systemd as units,
)
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import (
    installed,
    pause,
    receipts,
    rollback_sets,
    rollout,
    rollout_ledger,
    timer_hold,
)
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import store
from deployed import SHA, Host
from rolled import (
    BAD,
    THIRD,
    Systemd,
    as_written,
    everything,
    ledger,
    new_everything,
    new_policy,
    previous,
    prove,
    undo,
)

# pytest finds fixtures by their names in this module.
host, systemd = rolled.host, rolled.systemd


def test_the_timer_is_held_before_the_first_change_and_what_ran_is_noted(host: Host, systemd: Systemd) -> None:
    prove(host, systemd)
    key = ledger(host)["history"][0]["set"]
    rollout.begin(str(host.config_file), [str(host.top / "elsewhere"), host.config["env_file"]])
    assert systemd.on and ledger(host)["open"] is None  # neither has to do with the proof
    new_everything(host)
    assert not systemd.on
    assert (ledger(host)["open"]["from"], ledger(host)["open"]["timer"]) == (key, True)
    new_policy(host, 18)
    assert (ledger(host)["open"]["from"], ledger(host)["open"]["timer"]) == (key, True)
    prove(host, systemd)
    assert ledger(host)["open"] is None
    assert [event["sha"] for event in ledger(host)["history"]] == [SHA, BAD]


def test_the_way_out_is_part_of_what_is_proven(host: Host, systemd: Systemd) -> None:
    prove(host, systemd)
    before = installed.now(host.config).unit_digest
    socket = host.top / "systemd" / "hyrule-engineering-loop-egress.socket"
    rollout.begin(str(host.config_file), [str(socket)])
    assert not systemd.on
    socket.write_text("[Socket]\nListenStream=1\n")
    assert installed.now(host.config).unit_digest != before and not timer_hold.matching(host.config).receipt


def test_what_voids_a_proof_is_foretold_as_it_comes(host: Host, systemd: Systemd) -> None:
    prove(host, systemd)
    unit, lib = host.top / "systemd" / "hyrule-engineering-loop", host.top / "lib" / "engineering_loop_core"
    who = {"owner": "root", "group": "root"}
    changes: dict[str, dict[str, Any]] = {
        "settings without a say": {"path": host.config_file, "content": {**host.config, "min_free": "2G"}},
        "settings": {"path": host.config_file, "content": {**host.config, "daemon_args": ["--more"]}},
        "the service": {"path": f"{unit}.service", "content": "# another"},
        "the service's mode": {"path": f"{unit}.service", "content": None, "mode": 0o600},
        "a drop-in": {"path": f"{unit}.service.d/more.conf", "content": "[Service]"},
        "the timer": {"path": f"{unit}.timer", "content": "# another"},
        "our code": {"path": lib / "cycle.py", "content": "# another"},
        "something else": {"path": host.top / "etc" / "notes", "content": "more"},
    }
    (host.top / "systemd" / "hyrule-engineering-loop.service.d").mkdir()
    voided = []
    for what, change in changes.items():
        path = Path(change["path"])
        before = path.read_bytes() if path.exists() else None
        content = json.dumps(change["content"]) if isinstance(change["content"], dict) else change["content"]
        content = (before or b"").decode() if content is None else content
        entry = managed_files.Entry(str(path), content=content.encode(), mode=change.get("mode", 0o644), **who)
        foretold = rollout.voids(str(host.config_file), managed_files.converge([entry], check=True))
        assert managed_files.converge([entry]), what
        assert foretold == (timer_hold.matching(as_written(host)).receipt is None), what
        voided += [what] if foretold else []
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)
    assert voided == ["settings", "the service", "a drop-in", "our code"]
    # The settings name policy and agent, which are known before they are there.
    for more in ({"policy_sha256": "another"}, {"agent": {"path": "/another", "program": "another"}}):
        entry = managed_files.Entry(str(host.config_file), content=json.dumps({**host.config, **more}).encode())
        assert rollout.voids(str(host.config_file), managed_files.converge([entry], check=True))


def test_a_host_that_is_not_deployed_has_nothing_to_remember(host: Host, systemd: Systemd) -> None:
    host.config_file.unlink()
    rollout.begin(str(host.config_file))
    host.config_file.write_text("{garbage")
    rollout.begin(str(host.config_file))
    assert systemd.commands == [] and not (host.top / "opt" / "rollout.json").exists()
    host.config_file.unlink()
    told = undo(host)
    assert not told["returned"] and not told["changed"] and "first deployment" in told["reason"]


def test_settings_of_an_earlier_version_are_enough_to_hold_and_to_return(host: Host, systemd: Systemd) -> None:
    for key in ("min_free", "quarantine_keep", "canary_required"):
        del host.config[key]
    host.write_config()
    prove(host, systemd)
    before = everything(host)
    new_everything(host)
    assert not systemd.on
    assert undo(host)["returned"] and everything(host) == before


def test_settling_twice_changes_nothing(host: Host, systemd: Systemd) -> None:
    prove(host, systemd)
    receipt = timer_hold.matching(host.config).receipt
    assert not rollout.end(str(host.config_file), receipt)
    assert not rollout.end(str(host.config_file), receipt, check=True)
    shutil.rmtree(host.top / "opt" / "proven")  # a host that was proven by an earlier version
    assert rollout.end(str(host.config_file), receipt, check=True)
    assert not (host.top / "opt" / "proven").exists()
    assert rollout.end(str(host.config_file), receipt)


def test_what_was_proven_by_an_earlier_version_is_kept_before_it_changes(host: Host, systemd: Systemd) -> None:
    receipts.write(host.config, "docs", installed.now(host.config), {}, applied_by="ops", overrides=[])
    systemd.on = True
    before = everything(host)
    new_everything(host)
    told = undo(host)
    assert told["returned"] and systemd.on and everything(host) == before


# --- back from a rollout that did not succeed


def test_everything_comes_back(host: Host, systemd: Systemd) -> None:
    prove(host, systemd)
    before = everything(host)
    new_everything(host)
    told = undo(host, check=True)
    assert told["returned"] and not systemd.on and store.active(host.config["install_dir"])["sha"] == BAD  # type: ignore[index]
    told = undo(host)
    assert (told["returned"], told["from"], told["to"]["sha"]) == (True, BAD, SHA)
    assert everything(host) == before
    assert told["reason"].startswith("proven by the docs canary") and told["timer"]["active"] and systemd.on
    assert "stop" in systemd.commands and "daemon-reload" in systemd.commands
    assert store.ledger(host.config["install_dir"])["marks"][BAD]["verdict"] == "failed"
    assert ledger(host)["open"] is None
    assert rollout_ledger.rejected(host.config["install_dir"])[BAD].startswith("failed at 20")
    again = undo(host, failed=False)
    assert not again["changed"] and not again["returned"]


@pytest.mark.parametrize(("on", "wanted", "then"), [(True, True, True), (False, True, False), (True, False, False)])
def test_the_timer_gets_the_state_that_it_had(host: Host, systemd: Systemd, on: bool, wanted: bool, then: bool) -> None:
    prove(host, systemd, on=on)
    new_everything(host)
    assert undo(host, wanted=wanted)["timer"]["active"] is then
    assert systemd.on is then


def test_while_it_is_paused_the_timer_stays_off_whatever_is_gone_back_to(host: Host, systemd: Systemd) -> None:
    prove(host, systemd)
    before = everything(host)
    new_everything(host)  # it notes that the timer was on
    made, _changed = pause.put(host.config, "why not", "ann")
    told = undo(host, check=True)
    assert told["returned"] and not told["timer"]["active"] and told["held"] == made.sentence
    told = undo(host)
    assert told["returned"] and everything(host) == before
    assert not told["timer"]["active"] and not systemd.on and told["held"] == made.sentence
    for check in (True, False):  # nothing to do
        told = undo(host, check=check, failed=False)
        assert not told["changed"] and told["held"] == made.sentence and not systemd.on
    pause.lift(host.config)
    assert undo(host, failed=False)["held"] == ""


def test_a_policy_that_fails_is_not_the_engine_s_fault(host: Host, systemd: Systemd) -> None:
    prove(host, systemd)
    before = everything(host)
    new_policy(host)
    told = undo(host)
    assert told["returned"] and told["to"]["sha"] == SHA and everything(host) == before
    assert store.ledger(host.config["install_dir"])["marks"][SHA]["verdict"] == "proven"


def test_a_failure_before_the_canary_is_not_the_engine_s_fault(host: Host, systemd: Systemd) -> None:
    prove(host, systemd)
    new_everything(host)
    assert undo(host, failed=False)["returned"]
    assert BAD not in store.ledger(host.config["install_dir"])["marks"]
    assert "was returned from at 20" in rollout_ledger.rejected(host.config["install_dir"])[BAD]


def test_with_nothing_proven_the_timer_is_held(host: Host, systemd: Systemd) -> None:
    systemd.on = True  # somebody's hand
    told = undo(host)
    assert not told["returned"] and told["reason"] == rollout.NOTHING_PROVEN
    assert told["changed"] and not systemd.on


def test_with_nothing_changed_the_timer_is_as_it_was(host: Host, systemd: Systemd) -> None:
    prove(host, systemd)
    rollout.begin(str(host.config_file))
    assert not systemd.on
    told = undo(host, failed=False)
    assert not told["returned"] and "nothing that a proof covers was changed" in told["reason"] and systemd.on
    told = undo(host, failed=True)  # the proven engine failed a canary that was asked for again
    assert not told["returned"] and "nothing better" in told["reason"] and not systemd.on


def test_two_bad_engines_in_a_row(host: Host, systemd: Systemd) -> None:
    prove(host, systemd)
    before = everything(host)
    new_everything(host)
    assert undo(host)["to"]["sha"] == SHA
    new_everything(host, THIRD)
    assert undo(host)["to"]["sha"] == SHA
    assert everything(host) == before and systemd.on


def test_what_ran_before_is_gone_back_to_not_what_was_proven_last(host: Host, systemd: Systemd) -> None:
    prove(host, systemd)
    first = everything(host)
    config = dict(host.config)
    new_everything(host)
    prove(host, systemd)
    previous(host)
    assert everything(host) == first
    host.config.update(config)
    new_everything(host, THIRD)
    assert undo(host)["to"]["sha"] == SHA and everything(host) == first


def test_a_ledger_that_nobody_understands(host: Host, systemd: Systemd) -> None:
    prove(host, systemd)
    for text in ("[1]", "{"):
        (host.top / "opt" / "rollout.json").write_text(text)
        with pytest.raises(LoopError, match=r"rollout\.json cannot be understood .*: move it away"):
            undo(host)
    assert systemd.on


# --- killed anywhere


class Killed(BaseException):
    """The process ends here."""


def test_killed_anywhere_on_the_way_back_it_goes_back_the_next_time(
    host: Host, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    prove(host, systemd)
    before = everything(host)
    left = 10**6

    def fatal(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return real(*arguments, **options)

        return call

    monkeypatch.setattr(managed_files, "write_atomic", fatal(managed_files.write_atomic))
    for module in (rollback_sets, rollout_ledger):
        monkeypatch.setattr(module, "write_atomic", fatal(module.write_atomic))
    monkeypatch.setattr(store, "write_atomic", fatal(store.write_atomic))
    monkeypatch.setattr(store, "switch", fatal(store.switch))
    monkeypatch.setattr(units, "systemctl", fatal(systemd))
    steps = 0
    while True:
        left = 10**6
        new_everything(host)
        assert not systemd.on
        left = steps
        try:
            undo(host)
            break
        except Killed:
            left = 10**6
            assert not systemd.on or timer_hold.matching(as_written(host)).receipt
            assert undo(host)["timer"]["active"]
        assert everything(host) == before and systemd.on
        steps += 1
    assert steps > 12 and everything(host) == before and systemd.on


def test_killed_anywhere_while_it_is_held(host: Host, systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    receipts.write(host.config, "docs", installed.now(host.config), {}, applied_by="ops", overrides=[])
    systemd.on = True
    real, left, steps = rollout_ledger.write_atomic, 0, 0

    def write(*arguments: Any, **options: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        real(*arguments, **options)

    for module in (rollback_sets, rollout_ledger):
        monkeypatch.setattr(module, "write_atomic", write)
    while True:
        left = steps
        try:
            rollout.begin(str(host.config_file))
            break
        except Killed:
            assert systemd.on  # nothing was changed yet, so what runs is proven
        steps += 1
    assert steps > 3 and not systemd.on and ledger(host)["open"]["timer"]
    assert len(os.listdir(host.top / "opt" / "proven")) == 1


# --- back from what was proven and turned out bad


def test_the_previous_release(host: Host, systemd: Systemd) -> None:
    prove(host, systemd)
    first = everything(host)
    new_everything(host)
    prove(host, systemd)
    second = everything(host)
    assert rollout.back(host.config)["sha"] == SHA  # type: ignore[index]
    told = previous(host, check=True)
    assert told["returned"] and everything(host) == second and systemd.on
    told = previous(host, reason="empty pages")
    assert (told["from"], told["to"]["sha"], told["timer"]["active"]) == (BAD, SHA, True)
    assert everything(host) == first and systemd.on
    assert "stop" not in systemd.commands  # a cycle in progress is waited for
    again = previous(host)
    assert not again["changed"] and "is in force already" in again["reason"]
    assert rollout_ledger.rejected(host.config["install_dir"]) == {
        BAD: f"was rolled back from at {ledger(host)['history'][-1]['at']} (empty pages)"
    }
    assert rollout.back(as_written(host)) is None  # never to one that was gone back from
    told = previous(host, to=BAD[:7])  # unless somebody names it
    assert told["to"]["sha"] == BAD and everything(host) == second
    assert rollout_ledger.rejected(host.config["install_dir"]).keys() == {SHA}


def test_of_two_that_go_back_the_second_finds_it_done(
    host: Host, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the first one, which leaves other settings than there were when it began."""
    prove(host, systemd)
    new_everything(host)
    prove(host, systemd)
    real = rollout_ledger.locked

    @contextlib.contextmanager
    def locked(*words: Any, **more: Any) -> Iterator[rollout_ledger.Ledger]:
        monkeypatch.setattr(rollout_ledger, "locked", real)
        assert previous(host)["returned"]  # by whoever has the lock before
        with real(*words, **more) as found:
            yield found

    monkeypatch.setattr(rollout_ledger, "locked", locked)
    told = previous(host)
    assert not told["returned"] and f"{SHA} is in force already" in told["reason"], told


def test_another_engine_rather_than_another_policy(host: Host, systemd: Systemd) -> None:
    prove(host, systemd)
    new_everything(host)
    prove(host, systemd)
    new_policy(host, 18)
    host.config["daemon_args"] = []
    host.write_config()
    prove(host, systemd)
    told = previous(host)
    assert told["to"]["sha"] == SHA


def test_another_policy_where_there_is_no_other_engine(host: Host, systemd: Systemd) -> None:
    prove(host, systemd)
    first = everything(host)
    new_policy(host)
    prove(host, systemd)
    told = previous(host)
    assert told["to"]["sha"] == SHA and everything(host) == first


def test_an_engine_that_was_never_proven_cannot_be_named(host: Host, systemd: Systemd) -> None:
    prove(host, systemd)
    with pytest.raises(LoopError, match=f"there is no proven release {THIRD} to go back to .*proven are: {SHA}"):
        previous(host, to=THIRD)
    told = previous(host, to=SHA)
    assert not told["changed"]


def test_a_cycle_in_progress_is_waited_for(host: Host, systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    prove(host, systemd)
    new_everything(host)
    prove(host, systemd)
    monkeypatch.setattr(processes, "cycle_in_progress", lambda run_lock, unit: "process 7 holds the lock")
    before = everything(host)
    with pytest.raises(LoopError, match=r"a cycle is in progress .*nothing was changed"):
        previous(host)
    assert everything(host) == before and systemd.on


def test_a_cycle_that_began_before_the_timer_was_held_is_waited_for(
    host: Host, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    prove(host, systemd)
    before = everything(host)
    new_everything(host)
    prove(host, systemd)
    now = everything(host)
    with monkeypatch.context() as during:
        during.setattr(processes, "cycle_in_progress", lambda run_lock, unit: "" if systemd.on else "it is activating")
        with pytest.raises(LoopError, match=r"a cycle is in progress .*the timer is held, and nothing else was"):
            previous(host)
        assert everything(host) == now and not systemd.on
    assert previous(host)["timer"]["active"]
    assert everything(host) == before and systemd.on


def test_an_old_proof_is_gone_back_to_and_holds_the_timer(
    host: Host, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.config["canary_max_age"] = "1d"
    host.write_config()
    prove(host, systemd)
    new_everything(host)
    later = receipts.utc_now() + receipts.datetime.timedelta(days=2)
    monkeypatch.setattr(receipts, "utc_now", lambda: later)
    told = undo(host)
    assert told["returned"] and "is older than" in told["held"] and not systemd.on
