# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Healer and `git worktree add` killed at random moments: the next run succeeds and nothing is gone, every time.

    LOOP_KILLS=500 pytest tests/unit/plugins/module_utils/worktrees/test_killed.py

A kill that came too late, after the work had ended, does not count.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.heal import absent
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.manifests import listing
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.restore import restore
from worlds import BRANCH, World, git, heal, quarantine, reachable, swept, usable, wanted

KILLS = int(os.environ.get("LOOP_KILLS", "100"))
WORKERS = 2
ROUNDS = 20  # kills in one world: what they leave piles up there
SENTINELS = ("docs/page.md", "untracked.txt", "debug.log")  # tracked, untracked, ignored
PR_SET_CHILD_SUBREAPER = 36
RAM = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def healed(world: World) -> None:
    done = heal(world, quarantine=quarantine(world))
    assert done["head"] == world.base


def add(world: World) -> None:
    os.execvp("git", ["git", "-C", str(world.repo), "worktree", "add", "-q", "-b", BRANCH, str(world.path)])


WORKS: list[Callable[[World], object]] = [healed, healed, swept, add]


def killed(work: Callable[[World], object], world: World, after: float) -> bool:
    """Run ``work`` in a process group of its own and kill that, whole; was it still at work?"""
    child = os.fork()
    with contextlib.suppress(PermissionError):  # by both, whoever comes first
        os.setpgid(child, child)
    if child == 0:
        try:
            work(world)
        finally:
            os._exit(0)
    time.sleep(after)
    os.killpg(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    with contextlib.suppress(ChildProcessError):
        while True:  # all that it started is ours now: a run begins when all are dead, as systemd has it
            os.waitpid(-1, 0)
    return os.WIFSIGNALED(status)


def write_sentinels(world: World, text: str) -> None:
    world.commit(world.path, f"committed {text}")
    for name in SENTINELS:
        (world.path / name).write_text(f"{name} {text}")


def missing(world: World, texts: list[str]) -> set[str]:
    """Which sentinels are neither at the path nor in the quarantine."""
    wanted = {f"{name} {text}" for name in SENTINELS for text in texts}
    trees = [world.path, *(world.runs / ".quarantine").glob("*/tree")]
    return wanted - {(tree / name).read_text() for tree in trees for name in SENTINELS if (tree / name).is_file()}


def one_world(seed: int, rounds: int) -> int:
    """``rounds`` kills in one world, each followed by a run; how many hit."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    chance, hits, texts = random.Random(seed), 0, list[str]()
    root = Path(tempfile.mkdtemp(prefix="loop-kill-", dir=RAM))
    try:
        world = World(root)
        for number in range(40):
            (world.repo / "docs" / f"{number}.md").write_text(f"{number}\n" * 50)
        git(world.repo, "add", "-A")
        git(world.repo, "commit", "-qm", "pages")
        world.base = git(world.repo, "rev-parse", "HEAD")
        quarantine = str(world.runs / ".quarantine")
        git(world.repo, "worktree", "add", "-q", "-b", BRANCH, str(world.path))
        began = time.monotonic()
        healed(world)
        length = {healed: time.monotonic() - began, swept: time.monotonic() - began, add: 0.02}
        while hits < rounds:
            work = chance.choice(WORKS)
            texts.append(f"{seed}.{len(texts)}")
            write_sentinels(world, texts[-1])
            if work is add:
                absent(wanted(world, quarantine=quarantine))
            hits += killed(work, world, chance.uniform(0, length[work]))
            if work is swept and chance.random() < 0.5:
                swept(world)
            began = time.monotonic()
            healed(world)
            length[healed] = length[swept] = time.monotonic() - began
            usable(world)
            assert not missing(world, texts)
            assert set(world.commits) <= reachable(world)
        git(world.repo, "fsck", "--connectivity-only")
        restored(world, chance)
    finally:
        shutil.rmtree(root)
    return hits


def restored(world: World, chance: random.Random) -> None:
    """Some of what the killed healers put aside comes back with its commit."""
    quarantine = str(world.runs / ".quarantine")
    whole = [thing for thing in listing(quarantine) if os.path.isfile(f"{thing['to']}/tree/untracked.txt")]
    for thing in chance.sample(whole, min(3, len(whole))):
        text = Path(thing["to"], "tree", "untracked.txt").read_text().split()[1]
        back = Path(restore(quarantine, thing["id"])["path"])
        assert (back / "untracked.txt").read_text() == f"untracked.txt {text}"
        assert git(back, "log", "-1", "--format=%s") == f"committed {text}"


def test_killed_at_any_moment() -> None:
    seed = int(os.environ.get("LOOP_SEED", time.time_ns() // 1000))
    print(f"LOOP_SEED={seed}")
    worlds = -(-KILLS // ROUNDS)
    with multiprocessing.get_context("fork").Pool(WORKERS) as pool:
        hits = pool.starmap(one_world, [(seed + number, ROUNDS) for number in range(worlds)], chunksize=1)
    assert sum(hits) >= KILLS
