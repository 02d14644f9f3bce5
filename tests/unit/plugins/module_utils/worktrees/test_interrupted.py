# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A heal, or a git worktree add, that dies half-way is finished by the next."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees import heal as heal_module
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees import quarantine as quarantine_module
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.manifests import listing
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.restore import restore
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.retention import Retention, purge
from worlds import BRANCH, World, git, heal, reachable, sentinels, usable


@pytest.mark.parametrize("steps", range(12))
def test_a_heal_that_dies_between_two_steps_is_finished_by_the_next(world: World, steps: int) -> None:
    """Every step that changes something is counted; after ``steps`` of them the process kills itself."""
    world.worktree()
    git(world.path, "checkout", "-q", "--detach")
    world.commit(world.path, "detached\n")
    before = sentinels(world.root)
    child = os.fork()
    if child == 0:
        left = [steps]

        def counted(work: Any) -> Any:
            def step(*arguments: Any, **options: Any) -> Any:
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                return work(*arguments, **options)

            return step

        for module, name in (
            (quarantine_module, "write_manifest"), (quarantine_module, "_mark"), (os, "rename"), (heal_module, "add")
        ):  # fmt: skip
            setattr(module, name, counted(getattr(module, name)))
        heal(world)
        os._exit(0)
    os.waitpid(child, 0)

    heal(world)

    usable(world)
    assert set(world.commits) <= reachable(world)
    assert sentinels(world.root) == before
    quarantine = str(world.path.parent / ".quarantine")
    with_tree = [thing for thing in listing(quarantine) if os.path.isfile(f"{thing['to']}/tree/untracked.txt")]
    assert len(with_tree) == 1
    back = Path(restore(quarantine, with_tree[0]["id"])["path"])
    assert (back / "untracked.txt").read_text() == "sentinel: untracked\n"
    assert git(back, "rev-parse", "HEAD") == world.commits[-1]


@pytest.mark.parametrize("delay", [0.001, 0.003, 0.006, 0.01, 0.015])
def test_a_killed_worktree_add_is_healed(world: World, delay: float) -> None:
    for number in range(300):
        (world.repo / "docs" / f"{number}.md").write_text(f"{number}\n")
    git(world.repo, "add", "-A")
    git(world.repo, "commit", "-qm", "many")
    world.base = git(world.repo, "rev-parse", "HEAD")
    command = ["git", "worktree", "add", "-q", "-b", BRANCH, str(world.path)]
    with subprocess.Popen(command, cwd=world.repo, start_new_session=True) as process:
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
    while group_lives(process.pid):  # a signal takes a moment on a busy machine, and what lives is rightly respected
        time.sleep(0.01)
    heal(world, fresh=False)
    usable(world)


def group_lives(group: int) -> bool:
    """Whether a process of that group is not dead yet."""
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _parent, own = place.read_text().rpartition(")")[2].split()[:3]
            if int(own) == group and state not in "ZX":
                return True
    return False


def test_a_killed_healer_leaves_a_lock_on_its_salvage_ref(world: World) -> None:
    world.worktree()
    name = "20260102T030405Z-1a2b3c4d-0"
    (world.admin / "quarantined-as").write_text(name)
    lock = world.repo / ".git" / "refs" / "loop-salvage" / name / "heads" / f"{BRANCH}.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("")
    done = heal(world)
    usable(world)
    assert done["quarantined"][0]["id"] == name
    assert git(world.repo, "rev-parse", done["quarantined"][0]["salvage_ref"]) == world.commits[0]
    lock.write_text("")
    purged = purge(str(world.path.parent / ".quarantine"), Retention(age=0, min_age=0))["purged"]
    assert [one["id"] for one in purged] == [name]
