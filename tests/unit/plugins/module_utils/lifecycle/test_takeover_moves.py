# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Moves: whole, also to another file system, and never over something else."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.takeover_moves import fill, move
from older_host import content, put


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    put(tmp_path / "from/a/file", "text\n", 0o640)
    put(tmp_path / "from/b", "more\n")
    (tmp_path / "from/link").symlink_to("/nowhere")
    return tmp_path


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target is on another file system."""

    def rename(source: str, target: str) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    real = os.rename
    monkeypatch.setattr(
        os, "rename", lambda source, target: (real if re.search(r"\.(new|moving)$", source) else rename)(source, target)
    )


def test_a_copy_is_faithful_and_the_source_goes(tree: Path, elsewhere: None) -> None:
    before = content(tree / "from")
    os.utime(tree / "from/b", (7, 7))
    move(f"{tree}/from", f"{tree}/to")
    assert content(tree / "to") == before and not (tree / "from").exists()
    assert (tree / "to/b").stat().st_mtime == 7


def test_a_copy_that_was_begun_is_made_anew(tree: Path, elsewhere: None) -> None:
    before = content(tree / "from")
    put(tree / ".to.moving/b", "mo")
    put(tree / ".to.moving/a", "cut off")
    move(f"{tree}/from", f"{tree}/to")
    assert content(tree / "to") == before and sorted(os.listdir(tree)) == ["to"]


def test_killed_while_the_source_was_being_removed_it_is_moved_already(tree: Path, elsewhere: None) -> None:
    before = content(tree / "from")
    shutil.copytree(tree / "from", tree / "to", symlinks=True)
    (tree / "from/b").unlink()
    assert move(f"{tree}/from", f"{tree}/to") == f"{tree}/to"
    assert content(tree / "to") == before and sorted(os.listdir(tree)) == ["to"]


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_two_repositories_are_never_made_one(tree: Path, where: str, request: pytest.FixtureRequest) -> None:
    if where == "elsewhere":
        request.getfixturevalue("elsewhere")
    for name in ("from", "to"):
        put(tree / name / ".git/HEAD", f"ref: refs/heads/{name}\n")
        put(tree / name / ".git/same", "same\n")
    here, there = content(tree / "from"), content(tree / "to")
    assert move(f"{tree}/from", f"{tree}/to") == f"{tree}/to~"
    assert (content(tree / "to~"), content(tree / "to")) == (here, there) and not (tree / "from").exists()


def test_what_is_filled_keeps_what_it_has(tree: Path) -> None:
    before = content(tree / "from")
    put(tree / "to/b", "more\n")
    put(tree / "to/a/file", "another's\n")
    fill(f"{tree}/from", f"{tree}/to")
    assert content(tree / "to") == {**before, "a/file": ("another's\n", 0o644), "a/file~": before["a/file"]}
    assert os.listdir(tree / "from") == []


def test_one_place_by_two_ways_is_no_copy_of_itself(tree: Path) -> None:
    before = content(tree / "from")
    (tree / "to").symlink_to(tree / "from")
    with pytest.raises(LoopError, match="itself: remove the link, or unmount it, and run this again"):
        move(f"{tree}/from/a", f"{tree}/to/a")
    with pytest.raises(LoopError, match=f"{tree}/to is {tree}/from itself"):
        move(f"{tree}/from", f"{tree}/to")
    assert content(tree / "from") == before


def test_what_stands_there_stays(tree: Path) -> None:
    put(tree / "to", "somebody's\n")
    move(f"{tree}/from", f"{tree}/to")
    assert (tree / "to").read_text() == "somebody's\n" and (tree / "to~/b").read_text() == "more\n"
    move(f"{tree}/from", f"{tree}/to")  # it is not there any more
    assert not (tree / "to~~").exists()


def test_one_that_is_kept_is_copied_once(tree: Path) -> None:
    for _again in range(2):
        move(f"{tree}/from/b", f"{tree}/to", keep=True)
    assert sorted(os.listdir(tree)) == ["from", "to"] and (tree / "from/b").exists()


def test_a_pipe_is_not_copied(tree: Path, elsewhere: None) -> None:
    os.mkfifo(tree / "from/pipe")
    with pytest.raises(LoopError, match="is no file, link or directory and cannot be moved"):
        move(f"{tree}/from", f"{tree}/to")
    assert (tree / "from/b").exists()
