# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `loop_leave`: what a task shows of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import leave
from ansible_collections.as215932.engineering_loop.plugins.modules import loop_leave


def test_check_and_diff_tell_what_then_happens_once(task: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    given = {key: str(tmp_path / key) for key in leave.NEEDED}
    given.update(user="no-such-user", group="no-such-group", unit="no-such-unit")
    for path in ("install_dir/releases.json", "env_file", "policy_file"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("{}")
    options = {"config": f"{tmp_path}/none.json", "settings": given, "remove": ["secrets"]}
    told = task(loop_leave, **options, _ansible_check_mode=True)
    assert told["changed"]
    assert (tmp_path / "env_file").exists()
    done = task(loop_leave, **options)
    assert done["removed"] == told["removed"] == done["diff"]["before"].splitlines()
    assert f"{tmp_path}/policy_file (config)" in done["kept"]
    assert not (tmp_path / "env_file").exists()
    assert not (tmp_path / "install_dir").exists()
    again = task(loop_leave, **options)
    assert (again["changed"], again["removed"]) == (False, [])


def test_settings_that_cannot_be_are_one_line(task: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    answer = task(loop_leave, config=f"{tmp_path}/none.json", settings={"user": "loop", "group": "loop", "unit": "x"})
    assert answer["failed"]
    assert answer["msg"] == "engineering_loop_install_dir '' is not an absolute, plain path"
