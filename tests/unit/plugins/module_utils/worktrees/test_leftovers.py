# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever stands in the way: the next run starts, and what anyone wrote can be found and restored."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.restore import Chosen, restore
from leftovers import SHAPES, drawn
from worlds import (
    BRANCH,
    World,
    git,
    heal,
    reachable,
    sentinels,
    snapshot,
    swept,
    usable,
)


@pytest.mark.parametrize("name", SHAPES)
def test_a_run_starts_and_nothing_is_lost(world: World, name: str) -> None:
    SHAPES[name](world)
    before = sentinels(world.root)
    trees = {path: snapshot(path) for path in (world.path, world.other) if path.is_dir() and not path.is_symlink()}
    states = {path: state for path in trees if (state := status_of(path)) is not None}

    planned = heal(world, check=True)
    assert planned["changed"]
    assert sentinels(world.root) == before

    result = heal(world)

    moved_off = ["main checkout" for words in result["healed"] if words.startswith("main checkout")]
    assert (*dict.fromkeys(entry["what"] for entry in result["quarantined"]), *moved_off) == SHAPES[name].goes
    assert result["head"] == result["base_sha"] == world.base
    assert told(result) == told(planned)
    again = heal(world, fresh=False)
    assert again["changed"] is False
    usable(world)
    assert sentinels(world.root) == before
    assert set(world.commits) <= reachable(world)
    git(world.repo, "fsck", "--connectivity-only")  # now: what comes back may be as broken as it was
    moved = [entry for entry in result["quarantined"] if entry["to"].endswith("/tree")]
    for entry in moved:
        if entry["what"] != "worktree":
            states.pop(Path(entry["from"]), None)
        quarantine = os.path.dirname(os.path.dirname(entry["to"]))
        place = Path(restore(quarantine, entry["id"], within=[str(world.root)])["path"])
        if Path(entry["from"]) in trees:
            assert snapshot(place) == trees[Path(entry["from"])]
        if Path(entry["from"]) in states:
            assert status_of(place) == states[Path(entry["from"])]
    for entry in result["quarantined"]:
        if entry["what"] == "branch" and entry["salvage_ref"]:
            back = restore(
                os.path.dirname(os.path.dirname(entry["manifest"])),
                entry["salvage_ref"],
                Chosen(path=f"{world.root}/back-{entry['id']}"),
            )
            assert git(Path(back["path"]), "rev-parse", "HEAD") == entry["tip"]


def told(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: entry[key] for key in ("what", "from", "branch", "tip", "why")} for entry in answer["quarantined"]]


def status_of(path: Path) -> str | None:
    """git's own account of a worktree: branch aside, what is staged, changed, in conflict."""
    try:
        if "/worktrees/" not in git(path, "rev-parse", "--absolute-git-dir"):
            return None  # it speaks for another place
        git(path, "rev-parse", "--verify", "HEAD")
        return git(path, "status", "--porcelain=v2", "--ignored")
    except (subprocess.CalledProcessError, PermissionError):
        return None


@pytest.mark.parametrize("name", SHAPES)
def test_a_sweep_makes_way_for_a_plain_worktree_add(world: World, name: str) -> None:
    SHAPES[name](world)
    before = sentinels(world.root)

    result = swept(world)

    assert swept(world)["changed"] is False, result
    git(world.repo, "config", "--unset-all", "core.worktree") if name == "core worktree points elsewhere" else None
    world.path.parent.mkdir(exist_ok=True)
    git(world.repo, "worktree", "add", "-q", "-b", BRANCH, str(world.path), "main")
    usable(world)
    assert sentinels(world.root) == before
    assert set(world.commits) <= reachable(world)
    assert (world.path.parent.parent / "request.md").read_text() == "the request\n"


def test_the_table_in_the_docs_is_this_one() -> None:
    page = Path(__file__).resolve().parents[5] / "docs" / "worktrees.md"
    assert drawn() in page.read_text()
