# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `git_worktree_restore`: what was put aside comes back once, byte for byte, and only to a free place."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.manifests import listing
from ansible_collections.as215932.engineering_loop.plugins.modules import git_worktree_restore
from worlds import BRANCH, World, git, snapshot, swept

Restore = Callable[..., dict[str, Any]]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def restore(world: World, task: Callable[..., dict[str, Any]]) -> Restore:
    def call(what: str, **options: Any) -> dict[str, Any]:
        return task(git_worktree_restore, quarantine=str(world.runs / ".quarantine"), what=what, **options)

    return call


def swept_worktree(world: World) -> tuple[str, dict[str, tuple[str, int, bytes]]]:
    """The id of a worktree that a sweep took, and what it held."""
    before = snapshot(world.worktree())
    found: str = swept(world)["quarantined"][0]["id"]
    return found, before


def test_check_mode_says_where_it_would_go_and_moves_nothing(world: World, restore: Restore) -> None:
    what, _before = swept_worktree(world)
    planned = restore(what, _ansible_check_mode=True)
    assert planned["changed"]
    assert f"branch {BRANCH} at {world.commits[0]}\n" in planned["diff"]["prepared"]
    assert f" to {world.path}\n" in planned["diff"]["prepared"]
    assert not world.path.exists()


def test_it_comes_back_to_its_place_once(world: World, restore: Restore) -> None:
    what, before = swept_worktree(world)
    back = restore(what)
    assert (back["changed"], back["id"], back["path"]) == (True, what, str(world.path))
    assert (back["branch"], back["head"], back["registered"]) == (BRANCH, world.commits[0], True)
    assert snapshot(world.path) == before
    again = restore(what)
    assert again == {**back, "changed": False, "diff": {"prepared": ""}, "invocation": again["invocation"]}
    assert restore(what, path=str(world.path))["changed"] is False
    elsewhere = restore(what, path=str(world.root / "elsewhere"))
    assert elsewhere["msg"] == f"{what} was restored before, it stands at {world.path}"
    assert snapshot(world.path) == before


def test_a_tree_that_no_repository_knew_comes_back_once(world: World, restore: Restore) -> None:
    world.path.mkdir()
    (world.path / "note.txt").write_text("an operator's\n")
    what = swept(world)["quarantined"][0]["id"]
    assert restore(what)["registered"] is False
    assert (world.path / "note.txt").read_text() == "an operator's\n"
    assert restore(what)["changed"] is False


def test_what_was_taken_again_is_not_taken_for_restored(world: World, restore: Restore) -> None:
    first, _before = swept_worktree(world)
    restore(first)
    second = swept(world)["quarantined"][0]["id"]
    world.path.mkdir()
    again = restore(first)  # its files went with the second; its commits did not
    assert again["changed"] and again["path"] == f"{world.path}.{first}"
    assert git(Path(again["path"]), "rev-parse", "HEAD") == world.commits[0]
    back = restore(second)
    assert (Path(back["path"]) / "untracked.txt").read_text() == "sentinel: untracked\n"


def test_beside_where_the_place_is_taken(world: World, restore: Restore) -> None:
    what, before = swept_worktree(world)
    git(world.repo, "worktree", "add", "-q", "-b", BRANCH, str(world.path))
    back = restore(what)
    assert back["path"] == f"{world.path}.{what}"
    assert back["branch"] == f"loop-restored/{what}/{BRANCH}"
    assert snapshot(Path(back["path"])) == before
    assert git(world.path, "rev-parse", "HEAD") == world.base


def test_a_salvage_ref_and_names_of_ones_own(world: World, restore: Restore) -> None:
    commit = world.branch(BRANCH)
    gone = swept(world)["quarantined"][0]
    back = restore(gone["salvage_ref"], path=str(world.root / "looked-at"), branch="looked-at")
    assert (back["path"], back["branch"], back["head"]) == (str(world.root / "looked-at"), "looked-at", commit)
    assert git(world.root / "looked-at", "rev-parse", "looked-at") == commit


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"what": "ISSUE_APP_1"}, "is neither the id of a quarantined thing nor a ref below"),
        ({"what": "20260102T030405Z-1a2b3c4d-0"}, "has no manifest"),
        ({"what": "../../etc/20260102T030405Z-1a2b3c4d-0"}, "has no manifest"),
        ({"path": "{world}/workspace/app/.git/x"}, "lies inside a git directory"),
        ({"path": "{world}"}, "is taken: choose another path"),
        ({"branch": "a..b"}, "branch 'a..b'"),
        ({"repo": "/nonexistent"}, "/nonexistent"),
    ],
)
def test_bad_input_is_one_line(world: World, restore: Restore, options: dict[str, str], words: str) -> None:
    what, _before = swept_worktree(world)
    failed = restore(**{"what": what, **{key: value.format(world=world.root) for key, value in options.items()}})
    assert failed["failed"] and words in failed["msg"]
    assert "\n" not in failed["msg"]
    assert [thing["id"] for thing in listing(str(world.runs / ".quarantine"))] == [what]


def test_a_manifest_does_not_choose_as_whom_it_is_acted_on(world: World, restore: Restore) -> None:
    what, _before = swept_worktree(world)
    for place, _deeper, names in os.walk(world.runs):
        for name in [".", *names]:
            os.chown(os.path.join(place, name), 65534, 65534, follow_symlinks=False)
    manifest = world.runs / ".quarantine" / what / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "path": "/etc/loop-test"}))
    failed = restore(what)
    assert failed["failed"] and "different owners" in failed["msg"]
    assert not os.path.lexists("/etc/loop-test")
    shutil.rmtree(world.runs)
