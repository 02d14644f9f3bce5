# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `loop_pause`: the file, the timer, a running cycle; check mode and diff tell the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import systemd as units
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import installed, pause, receipts
from ansible_collections.as215932.engineering_loop.plugins.modules import loop_pause, loop_timer
from deployed import Host

Task = Callable[..., dict[str, Any]]
INVOCATION = "0123abcd" * 4
CYCLE = "20260131T120000Z-0123abcd"


class Systemd:
    """Plays systemctl for the timer and the cycle."""

    def __init__(self, host: Host) -> None:
        self.host, self.on, self.running, self.commands = host, True, "", list[tuple[str, ...]]()
        self.job = True

    def __call__(self, *arguments: str) -> str:
        self.commands.append(arguments)
        if "-tell." in arguments[-1]:  # a host that tells nobody
            return "LoadState=not-found\nActiveState=inactive\nUnitFileState=\n"
        if arguments[0] == "list-timers":
            return "[]"
        if arguments[0] in ("enable", "disable"):
            setattr(self, "job" if arguments[-1] == "digest.timer" else "on", arguments[0] == "enable")
        elif arguments[:2] == ("stop", "--no-block"):
            assert self.running and pause.read(self.host.config)  # before that no other could begin
            self.running = ""
            record = {"cycle": CYCLE, "invocation_id": INVOCATION, "outcome": "interrupted", "kept": True}
            Path(self.host.config["cycles_dir"], f"{CYCLE}.json").write_text(json.dumps(record))
        elif arguments[-1].endswith(".timer"):
            on = self.job if arguments[-1] == "digest.timer" else self.on
            states = ("enabled", "active") if on else ("disabled", "inactive")
            return f"LoadState=loaded\nUnitFileState={states[0]}\nActiveState={states[1]}\nNextElapseUSecRealtime=\n"
        else:
            state = self.running or "inactive"
            return f"LoadState=loaded\nActiveState={state}\nResult=success\nInvocationID={INVOCATION}\nJob=\n"
        return ""


@pytest.fixture
def systemd(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    played = Systemd(host)
    monkeypatch.setattr(units, "RUNNING_SYSTEMD", str(tmp_path))
    monkeypatch.setattr(units, "systemctl", played)
    code = host.top / "lib/engineering_loop_core/proof"
    code.mkdir()
    (code / "pause.py").write_text("# looks\n")
    return played


@pytest.fixture
def call(task: Task, host: Host, monkeypatch: pytest.MonkeyPatch) -> Task:
    def call(**options: Any) -> dict[str, Any]:
        warned: list[str] = []
        monkeypatch.setattr(AnsibleModule, "warn", lambda module, text: warned.append(text))
        return {**task(loop_pause, config=str(host.config_file), applied_by="ann", **options), "warned": warned}

    return call


def test_a_pause_is_the_file_and_the_timer(call: Task, host: Host, systemd: Systemd) -> None:
    told = call(why="the forge moves", _ansible_check_mode=True)
    assert told["changed"] and pause.read(host.config) is None and systemd.on
    done = call(why="the forge moves")
    assert done["diff"] == told["diff"] and not systemd.on
    assert done["diff"]["before"] == "paused: False\ntimer enabled: True\ntimer active: True\n"
    assert done["diff"]["after"] == "paused: True\ntimer enabled: False\ntimer active: False\n"
    found = pause.read(host.config)
    assert found and done["paused"] == {
        "why": "the forge moves", "by": "ann", "since": found.since, "sentence": found.sentence,
    }  # fmt: skip
    assert (done["running"], done["ended"], done["warned"]) == (False, None, [])
    again = call()
    assert not again["changed"] and again["paused"] == done["paused"]
    systemd.on = True  # somebody turned it on by hand
    assert call()["changed"] and not systemd.on


def test_a_running_cycle_goes_on_unless_it_is_ended(call: Task, host: Host, systemd: Systemd) -> None:
    systemd.running = "activating"
    done = call()
    assert done["running"] and done["ended"] is None and systemd.running
    told = call(now=True, _ansible_check_mode=True)
    assert told["changed"] and told["ended"] == {} and systemd.running
    done = call(now=True)
    assert done["changed"] and not done["running"] and done["ended"]["cycle"] == CYCLE and done["ended"]["kept"]
    assert not call(now=True)["changed"]


def test_a_cycle_that_does_not_end_is_told_and_the_pause_holds(
    call: Task, host: Host, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemd.running = "activating"
    monkeypatch.setattr(Systemd, "__call__", lambda self, *words: "" if words[0] == "stop" else CALL(self, *words))
    answer = call(now=True, wait=0)
    assert answer["failed"] and answer["msg"].startswith(
        "the cycle is still being ended after 0 s: see systemctl status"
    )
    assert pause.read(host.config)


CALL = Systemd.__call__


def prove(host: Host) -> None:
    receipts.write(host.config, "docs", installed.now(host.config), {}, applied_by="ops", overrides=[])


def test_it_goes_on_where_it_is_wanted_and_proven(call: Task, host: Host, systemd: Systemd) -> None:
    prove(host)
    call(why="x")
    told = call(state="absent", timer_enabled=True, _ansible_check_mode=True)
    assert told["changed"] and told["timer"]["active"] and pause.read(host.config) and not systemd.on
    done = call(state="absent", timer_enabled=True)
    assert done["diff"] == told["diff"] and done["paused"]["why"] == "x" and done["held"] == ""
    assert pause.read(host.config) is None and systemd.on
    again = call(state="absent", timer_enabled=True)
    assert not again["changed"] and again["paused"] is None
    systemd.on = False  # killed after the file went
    assert call(state="absent", timer_enabled=True)["changed"] and systemd.on


def test_timers_of_jobs_go_off_and_on_with_it(call: Task, host: Host, systemd: Systemd) -> None:
    prove(host)
    job = {"name": "digest", "unit": "digest", "command": ["x"], "args": [], "options": {}, "state": "/s", "may": []}
    host.config["jobs"] = [{**job, "proof": True, "enabled": True}]
    host.write_config()
    call(why="x")
    assert not systemd.on and not systemd.job
    assert call(state="absent", timer_enabled=True, _ansible_check_mode=True)["changed"] and not systemd.job
    call(state="absent", timer_enabled=True)
    assert systemd.on and systemd.job
    systemd.job = False
    assert call(state="absent", timer_enabled=True)["changed"] and systemd.job


@pytest.mark.parametrize(
    ("wanted", "required", "on", "held"),
    [(True, True, False, True), (False, True, False, False), (True, False, True, False), (False, False, False, False)],
)
def test_what_is_not_proven_does_not_go_on(
    call: Task, host: Host, systemd: Systemd, wanted: bool, required: bool, on: bool, held: bool
) -> None:
    host.config["canary_required"] = required
    host.write_config()
    call()
    done = call(state="absent", timer_enabled=wanted)
    assert done["changed"] and systemd.on == done["timer"]["active"] == on
    assert done["held"].startswith("nothing was proven on this host yet; prove it with: ") == held


def test_an_apply_leaves_the_timer_off(call: Task, task: Task, host: Host, systemd: Systemd) -> None:
    prove(host)
    made = call(why="the forge moves")["paused"]
    for options in ({}, {"_ansible_check_mode": True}, {"_ansible_check_mode": True, "foreseen": "proven"}):
        told = task(loop_timer, config=str(host.config_file), enabled=True, **options)
        assert told["held"] == made["sentence"] and not told["active"] and told["proven"] and not systemd.on
    told = task(loop_timer, config=str(host.config_file), enabled=False)
    assert told["held"] == "" and not told["changed"]
    unproven = task(loop_timer, config=str(host.config_file), enabled=True, required=False, canary_max_age="1s")
    assert not unproven["active"] and not systemd.on


def test_code_of_an_earlier_version_does_not_look(call: Task, host: Host, systemd: Systemd) -> None:
    (host.top / "lib/engineering_loop_core/proof/pause.py").unlink()
    (warning,) = call()["warned"]
    assert "is of an earlier version, which does not look for a pause" in warning


def test_a_host_without_a_loop_is_one_line(call: Task, host: Host, systemd: Systemd) -> None:
    host.config_file.unlink()
    for state in ("present", "absent"):
        assert "this host was not deployed yet" in call(state=state)["msg"]
    assert systemd.commands == []
