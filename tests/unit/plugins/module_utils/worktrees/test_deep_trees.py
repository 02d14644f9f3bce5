# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees deeper than a walk, or a path, can go."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.manifests import listing
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.retention import Retention, purge
from workspaces import deep
from worlds import BRANCH, World, heal, quarantine, swept, usable


def test_a_very_deep_tree(world: World) -> None:
    deep = world.worktree()
    here = Path.cwd()
    os.chdir(deep)
    try:
        for _level in range(300):
            os.mkdir("deeper-and-deeper")
            os.chdir("deeper-and-deeper")
        Path("note.txt").write_text("at the bottom\n")
    finally:
        os.chdir(here)
    done = heal(world)
    usable(world)
    found = subprocess.run(
        ["find", done["quarantined"][0]["to"], "-name", "note.txt"], capture_output=True, text=True, check=True
    )
    assert found.stdout.count("deeper-and-deeper") == 300
    subprocess.run(["rm", "-rf", str(world.runs)], check=True)


@pytest.mark.parametrize("where", ["tree", "admin", "refs", "held", "a space"])
def test_three_thousand_directories_are_no_matter(world: World, where: str) -> None:
    world.worktree()
    places = {
        "tree": world.path / "deep", "admin": world.admin / "deep", "refs": world.repo / f".git/refs/heads/{BRANCH}.x",
        "held": world.repo / ".git/loop-quarantine/x", "a space": world.path.parent / " ",
    }  # fmt: skip
    deep(places[where])
    began = time.monotonic()
    done = swept(world)
    assert time.monotonic() - began < 30
    assert str(world.path) in done["removed"]
    heal(world, fresh=False)
    usable(world)
    answer = purge(quarantine(world), Retention(age=0, min_age=0))
    assert answer["purged"] and not answer["stuck"] and all(one["size"] > 0 for one in answer["purged"])
    assert time.monotonic() - began < 60


def test_root_lets_go_of_what_it_left_however_deep(worked: World) -> None:
    what = as_user("nobody", lambda: swept(worked))["quarantined"][0]["id"]
    deep(Path(quarantine(worked), what, "tree/deep"))
    answer = as_user("nobody", lambda: purge(quarantine(worked), Retention(age=0, min_age=0)))
    assert "root's" in answer["stuck"][0]["why"]
    assert [one["id"] for one in purge(quarantine(worked), Retention(age=0, min_age=0))["purged"]] == [what]
    assert listing(quarantine(worked)) == []
