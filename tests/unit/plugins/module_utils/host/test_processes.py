# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's lock is input: it holds up a heal only for a living process that could have written it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import processes
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.processes import (
    check_run_lock,
    cycle_in_progress,
    run_holder,
)
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
SLEEP = "import time; time.sleep(300)"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", SLEEP]) as process:
        yield process
        process.kill()


def has_begun(engine: subprocess.Popen[bytes]) -> None:
    """Wait until it is another program than ours: its arguments are there a moment after it was started."""
    for _time in range(500):
        if b"--once" in Path(f"/proc/{engine.pid}/cmdline").read_bytes():
            return
        time.sleep(0.02)
    raise AssertionError("it never began")


HOSTILE: dict[str, bytes] = {
    "pid 1": b'{"pid": 1}',
    "infinite": b'{"pid": 1e999}',
    "not a number": b'{"pid": NaN}',
    "negative": b'{"pid": -1}',
    "zero": b'{"pid": 0}',
    "huge": b'{"pid": ' + b"9" * 4000 + b"}",
    "huge text": b'{"pid": "' + b"9" * 4000 + b'"}',
    "true": b'{"pid": true}',
    "a list": b'{"pid": [1]}',
    "no object": b"[1]",
    "brackets": b"[" * 200_000,
    "brackets in it": b'{"pid": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "large": b" " * 15_000_000,
    "no text": b"\xff\xfe\x00",
    "a surrogate": rb'{"pid": "\ud800"}',
    "empty": b"",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_lock_that_names_nobody_is_nobodys(tmp_path: Path, content: bytes) -> None:
    lock = tmp_path / "daemon.lock"
    lock.write_bytes(content)
    began = time.monotonic()
    assert run_holder(str(lock)) is None
    assert cycle_in_progress(str(lock), "") == ""
    check_run_lock(str(lock))
    assert time.monotonic() - began < 5


STARTED: list[Any] = [1e999, -1e999, 10**400, [[]], True, None, "0001-01-01", "9999-12-31T23:59:59", "x" * 1000]


@pytest.mark.parametrize("started", STARTED, ids=range(len(STARTED)))
def test_whatever_it_says_of_when_it_began(tmp_path: Path, sleeper: subprocess.Popen[bytes], started: object) -> None:
    lock = tmp_path / "daemon.lock"
    lock.write_text(json.dumps({"pid": sleeper.pid, "started_at": started}))
    run_holder(str(lock))  # either answer; no traceback


@pytest.mark.parametrize("kind", ["fifo", "directory", "link", "link to nowhere", "nothing", "below a file"])
def test_what_is_no_file_is_no_lock(tmp_path: Path, kind: str) -> None:
    lock = tmp_path / "daemon.lock"
    if kind == "fifo":
        os.mkfifo(lock)
    elif kind == "directory":
        lock.mkdir()
    elif kind == "link":
        lock.symlink_to("/dev/null")  # which many have open
    elif kind == "link to nowhere":
        lock.symlink_to("nowhere")
    elif kind == "below a file":
        lock.write_text("")
        lock = lock / "daemon.lock"
    assert run_holder(str(lock)) is None


@ROOT
def test_a_lock_without_permissions_holds_up_its_owner_only_while_somebody_has_it_open(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_mode & 0o001 == 0:
            parent.chmod(0o755)
    lock = tmp_path / "daemon.lock"
    lock.write_text(json.dumps({"pid": os.getpid()}))
    lock.chmod(0)
    with pytest.raises(LoopError, match="cannot be read"):  # of root's, seen by another: an engine's, perhaps
        as_user("nobody", lambda: run_holder(str(lock)))
    os.chown(lock, 65534, 65534)
    assert as_user("nobody", lambda: run_holder(str(lock))) is None


@ROOT
def test_it_counts_for_its_owner_and_for_the_engine(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    lock = tmp_path / "daemon.lock"
    lock.write_text(json.dumps({"pid": sleeper.pid, "started_at": time.time()}))
    assert str(sleeper.pid) in (run_holder(str(lock)) or "")
    os.chown(lock, 65534, 65534)  # written by another user: a process of root's cannot have meant it
    assert run_holder(str(lock)) is None
    words = [sys.executable, "-c", SLEEP, "/opt/engine/bin/another", "daemon", "--once"]
    with subprocess.Popen(words) as engine:
        lock.write_text(json.dumps({"pid": engine.pid, "started_at": time.time()}))
        try:
            has_begun(engine)
            assert str(engine.pid) in (run_holder(str(lock)) or "")
        finally:
            engine.kill()


@pytest.mark.parametrize(
    "content", ['{"pid": 99999999, "started_at": 0}', '{"pid": "x"}', "[]", "nonsense", '{"pid": 1, "started_at": 1.0}']
)
def test_a_lock_of_nobody_stops_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / "daemon.lock").write_text(content)
    assert cycle_in_progress(str(tmp_path / "daemon.lock"), "") == ""


@pytest.mark.parametrize("days", [-400, 0, 400])
def test_a_clock_that_was_set_meanwhile_hides_no_cycle(tmp_path: Path, days: int) -> None:
    engine = tmp_path / "hyrule-engineering-loop"
    engine.write_text("import time\ntime.sleep(60)\n")
    process = subprocess.Popen([sys.executable, str(engine), "daemon", "--once"])
    try:
        has_begun(process)
        lock = tmp_path / "daemon.lock"
        lock.write_text(json.dumps({"pid": process.pid, "started_at": time.time() + days * 86400}))
        assert str(process.pid) in cycle_in_progress(str(lock), "")
    finally:
        process.kill()
        process.wait()
    assert cycle_in_progress(str(lock), "") == ""


@pytest.mark.parametrize(
    ("line", "service"),
    [
        ("0::/system.slice/hyrule-engineering-loop.service", "hyrule-engineering-loop.service"),
        ("0::/system.slice/cron.service", "cron.service"),
        ("0::/user.slice/user-999.slice/user@999.service/app.slice/evil.service", ""),
        ("0::/user.slice/user-999.slice/session-4.scope", ""),
        ("0::/", ""),
        ("0::/system.slice/a.service/sub", "a.service"),
        ("12:cpu:/x.service\n1:name=systemd:/system.slice/a.service", "a.service"),
        ("12:cpu:/x.service", ""),
        ("0::/a.service.d/x", ""),
    ],
)
def test_the_service_of_a_process(line: str, service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_content", lambda _pid, _part: f"{line}\n".encode())
    assert processes.service_of(1) == service


def test_the_service_of_nobody() -> None:
    assert processes.service_of(2**22 + 1) == ""


def test_a_cycle_that_begins_while_the_timer_is_being_held_is_waited_for(tmp_path: Path) -> None:
    lock, begun = tmp_path / "daemon.lock", tmp_path / "begun.lock"
    begun.write_text(json.dumps({"pid": os.getppid(), "started_at": time.time()}))
    with pytest.raises(LoopError, match=r"a cycle is in progress .* within 0 s: it stays"):
        processes.wait_until_idle(str(lock), "", 0, "it stays", hold=lambda: begun.rename(lock))
    held: list[bool] = []
    lock.rename(begun)
    processes.wait_until_idle(str(lock), "", 0, "it stays", hold=lambda: held.append(True))
    assert held == [True]
    begun.rename(lock)
    with pytest.raises(LoopError, match="it stays"):  # before it is over, the timer is left alone
        processes.wait_until_idle(str(lock), "", 0, "it stays", hold=lambda: held.append(True))
    assert held == [True]


HASHING = ["git", "hash-object", "--stdin"]  # until its input ends
THEIRS = f"import subprocess; one = subprocess.Popen({HASHING}); print(one.pid, flush=True); one.wait()"


def test_a_git_of_ours_that_was_still_a_fork_of_ours_when_we_looked_holds_nothing() -> None:
    """Between fork and exec it has open what we have, and by the time that its name is asked for it is git."""
    with (
        subprocess.Popen(HASHING, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as ours,
        subprocess.Popen([sys.executable, "-c", THEIRS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other,
    ):
        assert other.stdout
        theirs, own, until = int(other.stdout.readline()), os.readlink("/proc/self/exe"), time.monotonic() + 20
        for pid in (ours.pid, theirs):
            while processes.Process(pid, []).name != "git" and time.monotonic() < until:
                time.sleep(0.01)
        looks = [(ours.pid, own), (ours.pid, "/usr/bin/git"), (theirs, own), (2**22 + 1, own)]
        found = [[*processes.Running([processes.Process(pid, [exe, "/"])]).gits()] for pid, exe in looks]
        ours.communicate()
        other.communicate()
    assert [len(each) for each in found] == [0, 1, 1, 0]
