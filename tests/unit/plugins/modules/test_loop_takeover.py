# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `loop_takeover`: what a task shows of it."""

from __future__ import annotations

import grp
import json
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.as215932.engineering_loop.plugins.modules import loop_info, loop_takeover


def layout(tmp_path: Path) -> dict[str, Any]:
    names = ("install_dir", "config_dir", "lib_dir", "memory_dir")
    found: dict[str, Any] = {name: str(tmp_path / name) for name in names}
    return {
        **found,
        "env_file": str(tmp_path / "config_dir/env"),
        "run_lock": str(tmp_path / "lock"),
        "unit": "no-such-unit",
        "unit_dir": str(tmp_path / "systemd"),
        "user": pwd.getpwuid(os.geteuid()).pw_name,
        "group": grp.getgrgid(os.getegid()).gr_name,
    }


def test_check_and_diff_tell_what_then_happens_once(task: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    given = layout(tmp_path)
    for path, text in (("install_dir/pyproject.toml", "[project]\n"), ("install_dir/.env", "GH_TOKEN=hidden\n")):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "config_dir").mkdir()
    assert len(task(loop_info, details=False, takeover=given)["takeover"]) == 2
    told = task(loop_takeover, layout=given, _ansible_check_mode=True)
    assert told["changed"]
    assert f"{tmp_path}/install_dir/pyproject.toml\n" in told["diff"]["before"]
    assert f"{tmp_path}/config_dir/env\n" in told["diff"]["after"]
    assert task(loop_takeover, layout=given, state="prepared", _ansible_check_mode=True)["changed"]
    assert os.listdir(tmp_path / "config_dir") == []
    ready = task(loop_takeover, layout=given, state="prepared")
    assert (ready["changed"], ready["beside"], ready["env_file"]) == (True, True, f"{tmp_path}/install_dir/.env")
    done = task(loop_takeover, layout=given)
    assert done["changed"]
    assert "hidden" not in str(done)
    assert (tmp_path / "config_dir/env").read_text() == "GH_TOKEN=hidden\n"
    again = task(loop_takeover, layout=given)
    assert (again["changed"], again["items"], again["diff"]) == (False, [], {"before": "", "after": ""})
    assert task(loop_info, details=False, takeover=given)["takeover"] == []
    told = task(loop_takeover, layout=given, state="put_back", _ansible_check_mode=True)
    assert told["changed"] and f"{tmp_path}/config_dir/env\n" in told["diff"]["before"]
    back = task(loop_takeover, layout=given, state="put_back")
    assert (back["changed"], back["diff"]) == (True, told["diff"]) and "hidden" not in str(back)
    assert (tmp_path / "install_dir/.env").read_text() == "GH_TOKEN=hidden\n"
    assert not task(loop_takeover, layout=given, state="put_back")["changed"]


def test_names_of_somebodys_making_tell_no_terminal_what_to_do(
    task: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    given = layout(tmp_path)
    (tmp_path / "config_dir").mkdir()
    (tmp_path / "install_dir").mkdir()
    for name in ("pyproject.toml", "x\x1b[2J\u202e\n"):
        (tmp_path / "install_dir" / name).write_text("[project]\n")
    told = [task(loop_info, details=False, takeover=given)["takeover"], task(loop_takeover, layout=given)]
    assert f"{tmp_path}/install_dir/x\\x1b[2J\\u202e\\n" in told[0]
    assert all(letter not in json.dumps(told, ensure_ascii=False) for letter in ("\x1b", "\\u001b", "\u202e"))


def test_what_stands_in_the_way_is_one_line(task: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    answer = task(loop_takeover, layout={**layout(tmp_path), "lib_dir": "/usr/../etc"})
    assert answer["failed"]
    assert answer["msg"] == "engineering_loop_lib_dir '/usr/../etc' is not a plain path: write /etc"
