# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `loop_info`: what a task shows of it."""

from __future__ import annotations

import json
import os
import pwd
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import records
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import settings
from ansible_collections.as215932.engineering_loop.plugins.modules import loop_info


def test_a_fresh_host(task: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    me = pwd.getpwuid(os.geteuid()).pw_name
    uv = str(Path(sys.executable).with_name("uv"))
    for check in (False, True):
        answer = task(
            loop_info, config=f"{tmp_path}/none.json", packages=["dpkg", "no-such-package"], uv=uv, user=me,
            _ansible_check_mode=check,
        )  # fmt: skip
        assert (answer["changed"], answer["loop"], answer["user_exists"]) == (False, None, True)
        assert answer["packages_missing"] == ["no-such-package"]
        assert answer["uv_version"].count(".") == 2
        assert answer["system"]["root"] == (os.geteuid() == 0)


def test_nothing_asked_is_nothing_found(task: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    answer = task(loop_info, config=str(tmp_path), details=False)
    assert [answer[key] for key in ("packages_missing", "uv_version", "user_exists", "loop")] == [[], "", False, None]


def test_units_are_shown_to_systemd(task: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    units = {"t.timer": "[Timer]\n# its_schedule: hourly\nOnCalendar=5 minutes\n", "t-none.service": ""}
    (line,) = task(loop_info, config=str(tmp_path), details=False, units=units)["units_refused"]
    assert line.startswith("its_schedule: systemd does not take OnCalendar=5 minutes in t.timer (")


def deploy(tmp_path: Path) -> Path:
    """The settings and the records of a host that has no engine yet."""
    values: dict[str, Any] = {key: kind() for key, kind in settings.KEYS.items()}
    for key in values:
        if key.endswith(("_dir", "_file")):
            values[key] = str(tmp_path / key)
    (tmp_path / "cycles_dir").mkdir()
    (tmp_path / "runs_dir").mkdir()
    config = tmp_path / "loop.json"
    config.write_text(json.dumps({**values, "unit": "no-such-unit"}))
    for number in range(3):
        records.write(values["cycles_dir"], {"cycle": f"20260101T00000{number}Z-a", "outcome": "idle"})
    return config


def test_a_host_that_is_half_deployed(task: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    config = deploy(tmp_path)
    loop = task(loop_info, config=str(config), cycles=2)["loop"]
    assert [cycle["cycle"][14] for cycle in loop["cycles"]] == ["1", "2"]
    assert (loop["engine"], loop["installed"], loop["kept"]) == ("", {}, [])
    assert (loop["proof"]["matches"], loop["timer"]["active"], loop["back"]) == (False, False, None)
    assert "no engine is installed" in loop["proof"]["reason"]
    assert task(loop_info, config=str(config), cycles=0)["loop"]["cycles"] == []


def test_broken_settings_are_one_line(task: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "loop.json").write_text("{")
    answer = task(loop_info, config=f"{tmp_path}/loop.json")
    assert answer["failed"]
    assert "is not JSON" in answer["msg"]
    assert "\n" not in answer["msg"]


def test_a_host_without_an_agent(task: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    def problem(programs: list[str], agent: dict[str, str]) -> str:
        asked = {"agent_programs": programs, "agent": agent, "config": f"{tmp_path}/none.json", "details": False}
        return str(task(loop_info, **asked)["agent_problem"])

    assert problem([], {}) == ""
    assert problem(["no-such-agent"], {}).startswith("no agent is on this host: no no-such-agent in /usr/local/sbin:")
    assert problem(["no-such-agent", "git"], {}) == ""
    assert problem(["pi"], {"path": "/nowhere/pi", "program": "pi"}).startswith(
        "engineering_loop_agent.path is /nowhere"
    )
    wrong = task(loop_info, agent_programs=["pi"], agent={"package": "p"}, details=False)
    assert wrong["failed"] and "engineering_loop_agent must have either package" in wrong["msg"]
