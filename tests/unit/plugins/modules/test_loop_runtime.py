# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `loop_runtime`: what a task shows of it, and what it carries when Ansible ships it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.as215932.engineering_loop.plugins.modules import loop_runtime

ROOT = os.geteuid() == 0
CHECKOUT = Path(__file__).resolve().parents[4]


def test_check_mode_foretells_and_a_second_run_is_idle(task: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    lib = tmp_path / "lib"
    foretold = task(loop_runtime, lib_dir=str(lib), _ansible_check_mode=True)
    assert foretold["changed"]
    assert f"{lib}/engineering_loop_core/cycle.py: file created\n" in foretold["diff"][0]["prepared"]
    assert not lib.exists()
    done = task(loop_runtime, lib_dir=str(lib))
    if ROOT:
        assert done == foretold
        again = task(loop_runtime, lib_dir=str(lib))
        assert (again["changed"], again["changed_paths"], again["diff"]) == (False, [], [])
    else:
        assert done["failed"]
        assert done["msg"].startswith(f"{lib} cannot be made: ")


def test_a_missing_parent_is_one_line(task: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    answer = task(loop_runtime, lib_dir=f"{tmp_path}/none/lib")
    assert answer["failed"]
    assert answer["msg"] == f"{tmp_path}/none/lib cannot be made: there is no directory {tmp_path}/none"


def test_what_ansible_ships_is_enough_to_run(tmp_path: Path) -> None:
    """A module arrives as an archive with what it imports and nothing else; the host's copy is made from that."""
    lib = tmp_path / "lib"
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible"), "localhost", "-i", "localhost,", "-c", "local",
         "-m", "as215932.engineering_loop.loop_runtime", "-a", f"lib_dir={lib}"],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / ".collections"),
             "ANSIBLE_PYTHON_INTERPRETER": sys.executable, "ANSIBLE_HOME": str(tmp_path / "ansible"),
             "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal", "ANSIBLE_FORCE_COLOR": "0"},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if not ROOT:
        assert f"{lib} cannot be made: " in done.stdout + done.stderr
        return
    assert json.loads(done.stdout[done.stdout.index("{") :])["changed"]
    for path in (lib / "engineering_loop_core").glob("*.py"):
        if path.name != "__init__.py":
            assert path.read_bytes() == (CHECKOUT / "plugins/module_utils" / path.name).read_bytes()
    started = subprocess.run(
        [sys.executable, "-I", lib / "loop", "cycle", f"{tmp_path}/none.json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (started.returncode, started.stderr) == (4, "")
    assert "this host was not deployed yet" in started.stdout
