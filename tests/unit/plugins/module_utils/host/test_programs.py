# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that are run to their end: what they say, whose they are, and that nothing of them stays."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import programs

COLLECTIONS = Path(__file__).resolve().parents[5] / ".collections"


def sh(script: str, seconds: float = 10.0, **options: Any) -> subprocess.CompletedProcess[str]:
    return programs.run(["sh", "-c", script], seconds, **options)


def alive(pid: str) -> bool:
    return os.path.exists(f"/proc/{pid}/exe")


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 10
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
    return path.read_text().strip()


def test_what_it_says_and_ends_with() -> None:
    done = sh("echo out; printf 'err\\377' >&2; cat; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\ufffd")


def test_it_makes_files_that_others_read_and_sees_the_given_environment(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        done = sh('echo "$A:$HOME" > made; pwd', cwd=str(tmp_path), environment={"A": "b"})
    finally:
        os.umask(before)
    assert done.stdout == f"{tmp_path}\n" and (tmp_path / "made").read_text() == "b:\n"
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o644


def test_it_is_the_user_s_with_that_user_s_groups() -> None:
    nobody = pwd.getpwnam("nobody")
    assert sh("id -u; id -g; id -G", user="nobody").stdout.split() == [
        str(nobody.pw_uid), str(nobody.pw_gid), *map(str, os.getgrouplist("nobody", nobody.pw_gid)),
    ]  # fmt: skip


def test_what_cannot_be_started() -> None:
    with pytest.raises(FileNotFoundError):
        programs.run(["/nowhere/program"], 1)


def ends(pid: str) -> None:
    """It was killed: a process takes a moment to die."""
    deadline = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_too_late_it_ends_with_its_children(tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired, match=r"timed out after 2 seconds"):
        sh(f"sleep 60 & echo $! > {tmp_path}/pid; wait", 2)
    ends(wait_for(tmp_path / "pid"))


def test_a_child_that_stays_behind_is_neither_waited_for_nor_left(tmp_path: Path) -> None:
    began = time.monotonic()
    assert sh(f"sleep 60 & echo $! > {tmp_path}/pid").returncode == 0
    assert time.monotonic() - began < 10
    ends(wait_for(tmp_path / "pid"))


def test_it_ends_with_us(tmp_path: Path) -> None:
    script = f"from {programs.__name__} import run; run(['sh', '-c', 'echo $$ > {tmp_path}/pid; exec sleep 60'], 60)"
    ours = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(COLLECTIONS)})
    pid = wait_for(tmp_path / "pid")
    ours.send_signal(signal.SIGKILL)
    ours.wait()
    deadline = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("", "no message"),
        ("a\n\n b \nHint: ask\n", "a / b"),
        ("1\n2\n3\n4\n5\n", "2 / 3 / 4 / 5"),
        ("cannot fetch https://me:s3cret@h/x\n", "cannot fetch https://***@h/x"),
        ("x" * 1000, "x" * 600),
    ],
)
def test_last_words(said: str, words: str) -> None:
    assert programs.last_words(said) == words


def test_last_words_about_a_certificate_say_what_to_do() -> None:
    said = "https://h/x: SSL certificate problem: self-signed certificate\nmore\nand\nmuch\nmore\n"
    assert programs.last_words(said).startswith("the certificate of h is not accepted on ")
