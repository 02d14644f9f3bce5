# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Leftovers on top of leftovers, composed at random: the rule holds for all of them.

Whatever stands at the path or on the branch, the next run starts, or says in one line what a person must do;
nothing anyone wrote is ever gone. LOOP_EXAMPLES=1000 tries more, and others than the last time.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.heal import absent
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.manifests import listing
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.restore import restore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from leftovers import SHAPES
from worlds import World, git, heal, quarantine, sentinels, swept, usable, wanted

EXAMPLES = int(os.environ.get("LOOP_EXAMPLES", "0"))
RAM = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
NAME = re.compile(r"\b[0-9a-f]{40}\b")

# What composed leftovers may leave to a person, each in one line.
FOR_A_PERSON = re.compile(r"has no default branch to go back to")


# --- what happens between two crashes ---------------------------------------------------------


def healed(world: World) -> None:
    heal(world, quarantine=quarantine(world))


def gone(world: World) -> None:
    absent(wanted(world, quarantine=quarantine(world)))


def restored(world: World) -> None:
    quarantine = str(world.runs / ".quarantine")
    for thing in listing(quarantine)[-1:]:
        restore(quarantine, thing["id"])


def packed(world: World) -> None:
    git(world.repo, "pack-refs", "--all")


def collected(world: World) -> None:
    git(world.repo, "gc", "-q")


def noted(world: World) -> None:
    world.path.mkdir(parents=True, exist_ok=True)
    for name in ("note.txt", "note.log"):
        (world.path / name).write_text(f"sentinel: {name} {len(sentinels(world.root))}\n")


STEPS: dict[str, Callable[[World], object]] = {
    **SHAPES, "healed": healed, "swept": swept, "gone": gone, "restored": restored, "packed": packed,
    "collected": collected, "noted": noted,
}  # fmt: skip


def take(world: World, name: str) -> None:
    """A step that cannot be made where the last ones left the world stops half-way, as a crash would."""
    try:
        STEPS[name](world)
    except (subprocess.CalledProcessError, OSError, pytest.fail.Exception):
        return
    except LoopError as error:
        one_line(error)


def one_line(error: LoopError) -> None:
    assert "\n" not in str(error)


# --- what must not be lost --------------------------------------------------------------------


def known_commits(world: World) -> set[str]:
    """Those of our commits that a file of the repository still leads to; what only the quarantine names is no help."""
    names: set[str] = set()
    top = world.repo / ".git"
    for directory, deeper, files in os.walk(top):
        deeper[:] = [name for name in deeper if name not in ("objects", "loop-quarantine", "modules")]
        for file in files:
            path = Path(directory, file)
            if path.is_file() and not path.is_symlink() and file != "index":
                names.update(NAME.findall(path.read_text(errors="replace")))
    known = git(world.repo, "cat-file", "--batch-all-objects", "--batch-check=%(objectname) %(objecttype)").splitlines()
    real = names & {line.split()[0] for line in known if line.endswith(" commit")}
    return ancestors(world, real) & set(world.commits)


def ancestors(world: World, commits: set[str]) -> set[str]:
    """These and all that they come from, read from the objects alone: refs and HEAD may be broken."""
    found: set[str] = set()
    while commits:
        found |= commits
        texts = [git(world.repo, "cat-file", "commit", name).split("\n\n")[0] for name in commits]
        commits = {
            line.split()[1] for text in texts for line in text.splitlines() if line.startswith("parent ")
        } - found
    return found


# --- the rule ---------------------------------------------------------------------------------


@settings(
    max_examples=EXAMPLES or 40,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,  # as conftest.py says for all; these tests are run on a host as well, where that is not
    suppress_health_check=list(HealthCheck),
)
@given(
    steps=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=4),
    sweep_first=st.booleans(),
)
def test_the_next_run_starts_and_nothing_is_gone(steps: list[str], sweep_first: bool) -> None:
    root = Path(tempfile.mkdtemp(prefix="loop-shapes-", dir=RAM))
    try:
        world = World(root)
        for name in steps:
            take(world, name)
        files, commits = sentinels(root), known_commits(world)
        world.base = git(world.repo, "rev-parse", "refs/heads/main")
        try:
            if sweep_first:
                swept(world)
            heal(world, base_ref="refs/heads/main")
        except LoopError as error:
            one_line(error)
            assert FOR_A_PERSON.search(str(error)), error
        else:
            usable(world)
        assert files <= sentinels(root)
        assert commits <= known_commits(world)
    finally:
        shutil.rmtree(root, onerror=lambda _function, path, _info: Path(path).parent.chmod(0o700))
