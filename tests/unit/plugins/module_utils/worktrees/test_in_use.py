# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whom a heal and a sweep wait for: runs, processes inside, holders of locks; and who is none of these."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.files import alone_in
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees import heal as heal_module
from leftovers import SHAPES
from worlds import BRANCH, World, heal, refused, swept, usable


@pytest.fixture
def sleeper(world: World) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"], cwd="/")
    yield process
    process.kill()
    process.wait()


def test_a_living_run_is_left_alone(world: World, sleeper: subprocess.Popen[bytes]) -> None:
    world.worktree()
    lock = world.root / "daemon.lock"
    lock.write_text(json.dumps({"pid": sleeper.pid, "started_at": time.time()}))
    refused(world, "a run is in progress", run_lock=str(lock))
    with pytest.raises(LoopError, match="a run is in progress"):
        swept(world, run_lock=str(lock))


def test_the_lock_of_a_dead_process_is_nobodys(world: World) -> None:
    world.worktree()
    gone = subprocess.Popen(["true"])
    gone.wait()
    lock = world.root / "daemon.lock"
    lock.write_text(json.dumps({"pid": gone.pid, "started_at": time.time()}))
    heal(world, run_lock=str(lock))
    usable(world)


def test_a_pid_that_was_given_again_is_nobodys(world: World, sleeper: subprocess.Popen[bytes]) -> None:
    world.worktree()
    lock = world.root / "daemon.lock"
    lock.write_text(json.dumps({"pid": sleeper.pid, "started_at": "2020-01-02T03:04:05+00:00"}))
    heal(world, run_lock=str(lock))
    usable(world)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', '{"pid": -1}', '{"pid": 99999999999}'])
def test_a_damaged_lock_does_not_stop_the_next_run(world: World, content: str) -> None:
    world.worktree()
    lock = world.root / "daemon.lock"
    lock.write_text(content)
    heal(world, run_lock=str(lock))
    usable(world)


# Its first thread ends; the process, with all that it has open, goes on.
ONE_THREAD_LEFT = (
    "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(600,)).start();"
    "print(1, flush=True); ctypes.CDLL(None).pthread_exit(0)"
)


@pytest.mark.parametrize("how", ["cwd", "open file", "another worktree with the branch", "its first thread ended"])
def test_a_process_inside_is_left_alone(world: World, how: str) -> None:
    place = world.worktree(world.other if how.startswith("another") else world.path)
    thread = how.startswith("its")
    with (place / "debug.log").open() as handle:
        process = subprocess.Popen(
            [sys.executable, "-c", ONE_THREAD_LEFT] if thread else ["sleep", "600"],
            cwd="/" if how == "open file" else place / "docs",
            stdin=handle.fileno(),
            stdout=subprocess.PIPE if thread else None,
        )
    try:
        if process.stdout:
            process.stdout.readline()
            while " Z " not in Path(f"/proc/{process.pid}/stat").read_text():
                time.sleep(0.01)
        refused(world, f"is in use: process {process.pid}")
        assert [entry["why"] for entry in swept(world)["kept"]] != []
        assert (place / "untracked.txt").read_text() == "sentinel: untracked\n"
    finally:
        process.kill()
        process.communicate()
    heal(world)
    usable(world)


def test_a_ref_lock_that_a_living_git_holds_is_respected(world: World) -> None:
    world.worktree()
    with subprocess.Popen(
        ["git", "update-ref", "--stdin"], cwd=world.repo, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout
        process.stdin.write(f"start\nupdate refs/heads/{BRANCH} {world.base}\nprepare\n".encode())
        process.stdin.flush()
        assert [process.stdout.readline() for _unused in range(2)] == [b"start: ok\n", b"prepare: ok\n"]
        refused(world, f"app.lock is held by process {process.pid}")
        process.kill()
    heal(world)
    usable(world)


def test_a_lock_that_is_never_given_back_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with alone_in(str(world.repo / ".git"), 1):
        monkeypatch.setattr(heal_module, "LOCK_SECONDS", 0.1)
        refused(world, "another process has held the lock")


def test_a_dead_git_that_nobody_buried_holds_no_lock(world: World) -> None:
    SHAPES["stale ref lock"](world)
    with subprocess.Popen(["git", "version"], stdout=subprocess.DEVNULL) as zombie:
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        assert Path(f"/proc/{zombie.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        heal(world)
    usable(world)
