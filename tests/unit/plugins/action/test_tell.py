# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator is told: whole lines, and each error once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[4]
OURS = "as215932.engineering_loop"
TELL = f"{OURS}.tell"
LONG = f"Next: {'a command that is longer than any terminal is wide ' * 4}-l loop"


def played(tmp_path: Path, task: dict[str, Any], *options: str, callback: str = "") -> tuple[int, str]:
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": {"box": here}}}), encoding="utf-8")
    play = {"hosts": "all", "gather_facts": False, "tasks": [task]}
    (tmp_path / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
    own = {"ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "ANSIBLE_NOCOLOR": "1"}
    own |= {"ANSIBLE_STDOUT_CALLBACK": callback} if callback else {}
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "hosts.json", "play.yml", *options],
        cwd=tmp_path, env={**os.environ, **own}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout + done.stderr


def test_each_line_is_whole_and_no_terminal_obeys_it(tmp_path: Path) -> None:
    lines = [LONG, "", "one\n\n  two \x1b[2J\u202e"]
    for options in ((), ("--check", "--diff")):
        status, said = played(tmp_path, {TELL: {"lines": lines}}, *options)
        assert status == 0 and "changed=0" in said, said
        told = [line for line in said.splitlines() if line.startswith("box | ")]
        assert told == [f"box | {LONG}", "box | one", "box | two \\x1b[2J\\u202e"], said


def test_a_failure_follows_what_was_told(tmp_path: Path) -> None:
    status, said = played(tmp_path, {TELL: {"lines": ["what now"], "failure": "it was so"}}, callback=f"{OURS}.plain")
    assert status == 2 and said.index("box | what now") < said.index("fatal: [box]: FAILED! => it was so\n"), said
    assert said.count("it was so") == said.count("what now") == 1, said


def test_an_error_is_shown_once_and_whole_and_all_of_it_on_demand(tmp_path: Path) -> None:
    task = {"ansible.builtin.fail": {"msg": LONG}}
    status, said = played(tmp_path, task, callback=f"{OURS}.plain")
    assert status == 2 and said.count(LONG) == 1 and f"fatal: [box]: FAILED! => {LONG}\n" in said, said
    status, said = played(tmp_path, task, "-v", callback=f"{OURS}.plain")
    assert status == 2 and '"changed": false' in said and LONG in said, said


def test_what_a_program_said_that_failed_is_still_shown(tmp_path: Path) -> None:
    task = {"ansible.builtin.command": "sh -c 'echo the cause >&2; exit 3'"}
    status, said = played(tmp_path, task, callback=f"{OURS}.plain")
    assert status == 2 and "the cause" in said and "non-zero return code" in said, said


def test_of_several_items_each_says_why(tmp_path: Path) -> None:
    task = {"ansible.builtin.fail": {"msg": "no {{ item }}"}, "loop": ["a", "b"]}
    status, said = played(tmp_path, task, callback=f"{OURS}.plain")
    assert status == 2 and all(f"=> no {item}" in said or f"no {item}" in said for item in "ab"), said
