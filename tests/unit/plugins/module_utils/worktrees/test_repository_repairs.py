# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Repositories in which git does not work: what is put right there, and that it stops no other."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.files import remove_tree
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.sweep import Scope, sweep
from worlds import BRANCH, World, git, heal, one_line, sweep_two, swept, usable


def broken_checkout(world: World, name: str, damage: str) -> Path:
    """A second checkout in the workspace, damaged as a cut-off power or an agent leaves it."""
    path = world.root / "workspace" / name
    git(world.root, "clone", "-q", str(world.repo), str(path))
    if damage == "reftable":
        (path / ".git/HEAD").write_text("ref: refs/heads/.invalid\n")
    elif damage == "HEAD empty":
        (path / ".git/HEAD").write_text("")
    else:
        shutil.move(path / ".git" / damage, world.root / f"{name}-{damage}")
    return path


@pytest.mark.parametrize("damage", ["HEAD", "HEAD empty", "objects", "refs", "config", "reftable"])
def test_a_checkout_that_is_no_repository_stops_no_other(world: World, damage: str) -> None:
    world.worktree()
    for name in ("aaa", "zzz"):
        broken_checkout(world, name, damage)
    answer = swept(world)
    assert str(world.path) in answer["removed"] and not world.path.exists()
    named = {entry["path"] for entry in answer["kept"]}
    assert damage == "config" or named == {str(world.root / "workspace" / name) for name in ("aaa", "zzz")}
    assert all("\n" not in entry["why"] for entry in answer["kept"])


def test_refs_in_a_reftable_are_refused_in_one_line(world: World) -> None:
    path = broken_checkout(world, "aaa", "reftable")
    with pytest.raises(LoopError, match=r"aaa keeps its refs in a reftable, .*: clone it anew"):
        heal(world, fresh=False, repo=str(path))
    with pytest.raises(LoopError, match="reftable"):
        sweep(Scope(str(world.runs), ["hyrule-loop"], [str(path)]))
    assert not world.path.exists()


def test_what_a_git_killed_while_it_packed_refs_leaves_is_out_of_the_way(world: World) -> None:
    world.worktree()
    git(world.repo, "pack-refs", "--all")
    for name in ("packed-refs.lock", "packed-refs.new", "foreign.lock"):
        (world.repo / ".git" / name).write_text("")
    assert str(world.path) in swept(world)["removed"]
    heal(world)
    usable(world)
    assert sorted(each.name for each in (world.repo / ".git").glob("*.[ln][oe]*")) == ["foreign.lock"]


def test_an_extension_of_a_newer_git_is_mended_or_named(world: World) -> None:
    world.worktree()
    git(world.repo, "config", "core.repositoryformatversion", "1")
    git(world.repo, "config", "extensions.ofTheFuture", "true")
    with pytest.raises(LoopError, match="extension ofthefuture"):
        heal(world)
    assert "ofthefuture" in swept(world)["kept"][0]["why"]
    file = str(world.repo / ".git/config")
    git(world.root, "config", "--file", file, "--unset", "extensions.ofTheFuture")
    git(world.root, "config", "--file", file, "extensions.relativeWorktrees", "true")
    heal(world)
    usable(world)


PARTS = ("HEAD", "config", "index", "packed-refs", "shallow", "info/exclude", "objects/info/alternates",
         "loop-worktrees.lock", "objects", "refs")  # fmt: skip


@pytest.mark.parametrize("kind", ["fifo", "directory", "link", "file"])
@pytest.mark.parametrize("part", PARTS)
def test_what_stands_in_the_place_of_a_part_stops_no_other_repository(world: World, part: str, kind: str) -> None:
    world.worktree()
    place = world.repo / ".git" / part
    place.parent.mkdir(exist_ok=True)
    remove_tree(str(place))
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "directory":
        (place / "x").mkdir(parents=True)
    elif kind == "link":
        place.symlink_to("/dev/zero")
    else:
        place.write_bytes(b"\xff[[[\n")
    began = time.monotonic()
    try:
        heal(world)
        if part != "objects/info/alternates":  # git goes on and says so in bytes that are no text
            usable(world)
    except LoopError as error:
        one_line(error)
    assert time.monotonic() - began < 20
    sweep_two(world)


def test_a_main_checkout_on_a_loop_branch_with_thousands_of_filters(world: World) -> None:
    git(world.repo, "checkout", "-q", "-b", BRANCH)
    proof = world.root / "ran"
    with (world.repo / ".git/config").open("a") as handle:
        handle.writelines(
            f'[filter "f{number}"]\n\tsmudge = touch {proof}; cat\n\trequired\n' for number in range(30_000)
        )
    (world.repo / ".git/info").mkdir(exist_ok=True)
    (world.repo / ".git/info/attributes").write_text("* filter=f7\n")
    began = time.monotonic()
    with pytest.raises(LoopError, match="defines 30000 filters"):
        heal(world, fresh=False)
    kept = sweep_two(world)["kept"]
    assert [one["path"] for one in kept] == [str(world.repo)]
    assert time.monotonic() - began < 30 and not proof.exists()
