# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whom a heal and a sweep wait for: runs, processes inside, holders of locks; and who is none of these."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.files import alone_in
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees import heal as heal_module
from leftovers import SHAPES
from worlds import BRANCH, NOBODY, World, heal, refused, swept, usable


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


@pytest.mark.parametrize("how", [heal, swept])
@pytest.mark.parametrize("whose", ["world", "worked"])
def test_who_is_at_work_is_looked_at_when_it_is_our_turn(
    whose: str, how: Callable[[World], dict[str, Any]], request: pytest.FixtureRequest
) -> None:
    """Whoever had the lock before us is gone then, and what it started; a stranger may have come meanwhile."""
    world: World = request.getfixturevalue(whose)
    place = world.path if whose == "worked" else world.worktree()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(os.getuid).result() == os.getuid()  # it is there

        def asked_while(block: Callable[[], object]) -> Future[dict[str, Any]]:
            """Somebody has the lock and does this; a heal has looked around before, and waits for the lock."""
            with alone_in(str(world.repo / ".git"), 1):
                answer = pool.submit(how, world)
                time.sleep(1)
                assert not answer.done()
                block()
            return answer

        strangers: list[subprocess.Popen[bytes]] = []
        user, group = (NOBODY.pw_uid, NOBODY.pw_gid) if whose == "worked" else (None, None)
        start = functools.partial(subprocess.Popen, ["sleep", "600"], cwd=place, user=user, group=group)
        first = asked_while(lambda: strangers.append(start()))
        said = str(first.exception() if how is heal else first.result()["kept"])
        second = asked_while(lambda: [(one.kill(), one.wait()) for one in strangers])
    assert f"is in use: process {strangers[0].pid}" in said
    assert len(second.result()["quarantined"]) == 1


def test_a_dead_git_that_nobody_buried_holds_no_lock(world: World) -> None:
    SHAPES["stale ref lock"](world)
    with subprocess.Popen(["git", "version"], stdout=subprocess.DEVNULL) as zombie:
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        assert Path(f"/proc/{zombie.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        heal(world)
    usable(world)
