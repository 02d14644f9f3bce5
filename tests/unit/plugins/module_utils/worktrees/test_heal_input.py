# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and places that a heal refuses in one line, before anything is touched."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from worlds import (
    World,
    git,
    heal,
    refused,
)

BRANCHES = [
    "a..b", "a@{b", "-a", "a/-b", "a.lock", "a.lock/b", "a\tb", "a\nb", "a" * 300, "\u0430dmin/x", "a/", "/a", "a//b",
    ".a", "a/.b", "a.", "@", "a b", "a~1", "a^", "a:b", "a?", "a*", "a[b", "a\\b", "", "main", "HEAD", "refs/heads/a",
    "a;b", "$(a)", "`a`", "a\x7fb", "a\u200bb", "a|b", "a&b", "a'b", 'a"b', "..", "production",
]  # fmt: skip


@pytest.mark.parametrize("branch", BRANCHES)
def test_a_branch_that_could_be_misread_is_refused(world: World, branch: str) -> None:
    world.worktree()
    refused(world, "^branch ", branch=branch)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/", "below /"),
        ("relative/path", "absolute"),
        ("{repo}", "one inside the other"),
        ("{repo}/inside", "one inside the other"),
        ("{repo}/.git/worktrees/x", "inside a git directory"),
        ("{root}/workspace", "one inside the other"),
        ("{root}", "one inside the other"),
        ("{other}/deeper", "inside another worktree"),
        ("{root}/a/../b", "without"),
        ("{root}/a\nb", "control character"),
        ("{root}/" + "a" * 300, "too long"),
        ("{root}/x.git/../.git/y", "without"),
        ("//net/share", "absolute"),
    ],
)
def test_a_path_that_is_no_place_for_a_worktree_is_refused(world: World, path: str, words: str) -> None:
    world.worktree(world.other, "somebody/else")
    filled = path.format(repo=world.repo, root=world.root, other=world.other)
    refused(world, words, path=filled)


@pytest.mark.parametrize("base", ["nowhere", "--help", "", "a b", "0" * 40, "HEAD:docs", "HEAD^5", "\x00"])
def test_a_base_that_is_no_commit_is_refused(world: World, base: str) -> None:
    world.worktree()
    refused(world, "base_ref", base_ref=base)


@pytest.mark.parametrize("base", ["--help", "-", "main\nHEAD", "\x00", "", "a b"])
def test_a_base_that_git_could_misread_is_not_shown_to_it(world: World, base: str) -> None:
    refused(world, "is not the name of a commit", base_ref=base)


def test_an_ambiguous_base_is_refused(world: World) -> None:
    world.worktree()
    git(world.repo, "branch", "twice")
    git(world.repo, "tag", "twice")
    refused(world, "ambiguous", base_ref="twice")


def test_a_base_beyond_a_shallow_clone_is_refused(world: World) -> None:
    git(world.repo, "commit", "-q", "--allow-empty", "-m", "second")
    clone = world.root / "shallow"
    git(world.root, "clone", "-q", "--depth", "1", world.repo.as_uri(), str(clone))
    with pytest.raises(LoopError, match="this is a shallow clone"):
        heal(world, repo=str(clone), base_ref=world.base)
    assert heal(world, repo=str(clone))["head"] != world.base


def test_a_repository_without_commits_is_one_clear_error(world: World) -> None:
    empty = world.root / "empty"
    empty.mkdir()
    git(empty, "init", "-q")
    with pytest.raises(LoopError, match="has no commit yet"):
        heal(world, repo=str(empty))


@pytest.mark.parametrize("make", ["nothing", "directory", "worktree"])
def test_what_is_no_main_checkout_is_refused(world: World, make: str) -> None:
    place = world.root / "place"
    if make == "directory":
        place.mkdir()
    if make == "worktree":
        world.worktree(place, "somebody/else")
    with pytest.raises(LoopError, match=r"cannot be read|not a git repository|itself a linked worktree"):
        heal(world, repo=str(place))


def test_a_damaged_head_is_one_clear_error(world: World) -> None:
    (world.repo / ".git" / "HEAD").write_text("garbage\n")
    with pytest.raises(LoopError, match="is damaged"):
        heal(world)


def test_a_quarantine_on_another_file_system_says_how_much_it_would_copy(world: World) -> None:
    world.worktree()
    with tempfile.TemporaryDirectory(dir=other_file_system(world.root)) as place:
        refused(world, r"different file systems: it would have to copy \d{4,} bytes", quarantine=f"{place}/q")


def other_file_system(place: Path) -> str:
    return next(each for each in ("/dev/shm", "/tmp", "/var/tmp") if os.stat(each).st_dev != place.stat().st_dev)


@pytest.mark.parametrize("quarantine", ["relative", "{path}/inside", "{path}", "/"])
def test_a_quarantine_at_a_wrong_place_is_refused(world: World, quarantine: str) -> None:
    world.worktree()
    refused(world, "quarantine", quarantine=quarantine.format(path=world.path))
