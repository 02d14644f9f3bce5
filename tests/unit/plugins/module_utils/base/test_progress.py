# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file in which a module says what it does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base import progress

COLLECTIONS = Path(__file__).resolve().parents[5] / ".collections"
SAYS = """
import os, sys
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base import progress
progress.step("one\\x1b[2J two\\nthree")
progress.step("again")
progress.step("again")
if os.fork() == 0:
    if os.geteuid() == 0:
        os.setuid(65534)
    progress.step("a child that has given root up")
    sys.exit()
os.wait()
assert progress.VARIABLE not in os.environ
path = sys.argv[1]
if os.path.lexists(path):
    print(oct(os.stat(path).st_mode & 0o777))
    print(open(path).read(), end="")
"""


def said(path: Path) -> list[str]:
    named = {"PYTHONPATH": str(COLLECTIONS), progress.VARIABLE: str(path)}
    done = subprocess.run(
        [sys.executable, "-c", SAYS, str(path)], env={**os.environ, **named},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.splitlines()


def test_each_step_is_a_line_that_a_terminal_can_show_and_the_file_goes_with_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "progress"
    assert said(path) == ["0o600", "one\\x1b[2J two\\nthree", "again", "a child that has given root up"]
    assert not path.exists()


def test_what_stands_there_already_is_left_alone(tmp_path: Path) -> None:
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_text("as it was\n", encoding="utf-8")
    link.symlink_to(victim)
    said(link)
    assert victim.read_text(encoding="utf-8") == "as it was\n" and link.is_symlink()


def test_nobody_looks_on(tmp_path: Path) -> None:
    assert said(tmp_path / "no" / "such" / "directory") == []


def test_a_step_is_never_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say = progress.writer(str(tmp_path / "log"))
    say("x" * 70_000)
    say("a\tb\r")
    first, second = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert len(first) == progress.MAX_LINE + 3 and second == "a       b\\r"
    os.unlink(tmp_path / "log")
    say("nobody looks on any more")
    assert not (tmp_path / "log").exists()
