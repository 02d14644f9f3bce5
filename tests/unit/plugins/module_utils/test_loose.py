# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read and changed without git: the same that git reads and changes, or left to git."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils import loose
from ansible_collections.as215932.engineering_loop.plugins.module_utils.gitrepo import objects, open_repo, refs_below

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from leftovers import BRANCH, MISSING, SHAPES, World, git

REF = f"refs/heads/{BRANCH}"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def common(world: World) -> str:
    return str(world.repo / ".git")


@pytest.mark.parametrize("name", SHAPES)
def test_it_reads_what_git_reads(world: World, name: str) -> None:
    SHAPES[name](world)
    repo = open_repo(str(world.repo))
    asked = dataclasses.replace(repo, simple=False)
    for branch in (BRANCH, "hyrule-feature", f"{BRANCH}/extra", "main", "nowhere"):
        assert refs_below(repo, [branch]) == refs_below(asked, [branch])
    names = [*world.commits, world.base, f"{world.base}^{{tree}}", MISSING, f"{MISSING}^{{tree}}", "-", "-^{tree}", REF]
    assert objects(repo, names) == objects(asked, names)


def test_a_branch_may_have_a_line_separator_in_its_name(world: World) -> None:
    odd = f"{BRANCH}/x\u2028y\u00a0z"
    git(world.repo, "update-ref", f"refs/heads/{odd}", world.base)
    repo = open_repo(str(world.repo))
    for way in (repo, dataclasses.replace(repo, simple=False)):
        assert refs_below(way, [BRANCH]) == {odd: (world.base, "")}


def test_a_damaged_packed_ref_is_left_to_git(world: World, common: str) -> None:
    Path(common, "packed-refs").write_text(f"# pack-refs with: peeled\nzz {REF}\n")
    assert loose.branches(common, BRANCH) is None
    Path(common, "packed-refs").write_text(f"{world.base} {REF}\n")
    assert loose.branches(common, BRANCH) == {BRANCH: (world.base, "")}


def test_packed_objects_are_asked_of_git(world: World) -> None:
    git(world.repo, "gc", "-q")
    assert loose.kind_of_object(str(world.repo / ".git"), world.base) is None
    tree = git(world.repo, "rev-parse", "HEAD^{tree}")
    repo = open_repo(str(world.repo))
    assert objects(repo, [world.base, f"{world.base}^{{tree}}"]) == [(world.base, "commit"), (tree, "tree")]


def test_an_object_that_is_damaged_is_none(world: World, common: str) -> None:
    place = Path(common, "objects", world.base[:2], world.base[2:])
    place.chmod(0o600)
    place.write_bytes(b"no object")
    assert loose.tree_of(common, world.base) is None


def test_forebears_are_found_as_far_as_commits_lead(world: World, common: str) -> None:
    one = world.commit(world.repo, "one\n")
    two = world.commit(world.repo, "two\n")
    assert list(loose.forebears(common, two)) == [one, world.base]
    assert list(loose.forebears(common, two, most=1)) == [one]
    assert list(loose.forebears(common, MISSING)) == []


@pytest.mark.parametrize("setting", ["extensions.refStorage", "extensions.objectFormat", "core.sharedRepository"])
def test_another_format_is_gits(world: World, common: str, setting: str) -> None:
    assert loose.simple(common)
    subprocess.run(["git", "config", "--file", f"{common}/config", setting, "x"], check=True)
    assert not loose.simple(common)


def test_what_it_makes_and_deletes_git_sees(world: World, common: str) -> None:
    assert loose.make(common, REF, world.base)
    assert git(world.repo, "rev-parse", REF) == world.base
    other = world.commit(world.repo, "more\n")
    assert loose.make(common, REF, other)
    assert git(world.repo, "rev-parse", REF) == other
    assert not loose.delete(common, REF, world.base)
    assert git(world.repo, "rev-parse", REF) == other
    assert loose.delete(common, REF, other)
    assert git(world.repo, "for-each-ref", "--format=%(refname)") == "refs/heads/main"
    assert not Path(common, "refs/heads/hyrule-feature").exists()
    assert Path(common, "refs/heads").is_dir()
    assert not list(Path(common).rglob("*.lock"))


def locked(world: World) -> None:
    (world.repo / ".git" / f"{REF}.lock").write_text("")


def packed_locked(world: World) -> None:
    (world.repo / ".git" / "packed-refs.lock").write_text("")


def packed(world: World) -> None:
    git(world.repo, "pack-refs", "--all", "--no-prune")


def packed_alone(world: World) -> None:
    git(world.repo, "pack-refs", "--all")


def below_a_symlink(world: World) -> None:
    place = world.repo / ".git" / "refs" / "heads" / "hyrule-feature"
    place.rename(world.root / "elsewhere")
    place.symlink_to(world.root / "elsewhere")


@pytest.mark.parametrize("change", [locked, packed_locked, packed, packed_alone, below_a_symlink])
def test_what_is_not_plain_is_left_to_git(world: World, common: str, change: Callable[[World], None]) -> None:
    loose.make(common, REF, world.base)
    change(world)
    files = sorted(Path(common).rglob("*"))
    assert not loose.delete(common, REF, world.base)
    assert sorted(Path(common).rglob("*")) == files
    assert git(world.repo, "rev-parse", REF) == world.base


def test_it_makes_no_ref_beyond_a_symlink(world: World, common: str) -> None:
    elsewhere = world.root / "elsewhere"
    elsewhere.mkdir()
    Path(common, "refs", "loop-salvage").symlink_to(elsewhere)
    assert not loose.make(common, "refs/loop-salvage/x/heads/y", world.base)
    assert not list(elsewhere.iterdir())


def test_two_cannot_hold_one_lock(world: World, common: str) -> None:
    loose.make(common, REF, world.base)
    with subprocess.Popen(
        ["git", "update-ref", "--stdin"], cwd=world.repo, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout
        process.stdin.write(f"start\nupdate {REF} {world.base}\nprepare\n".encode())
        process.stdin.flush()
        assert [process.stdout.readline() for _unused in range(2)] == [b"start: ok\n", b"prepare: ok\n"]
        assert not loose.make(common, REF, MISSING)
        assert not loose.delete(common, REF, world.base)
        process.kill()
    os.unlink(f"{common}/{REF}.lock")
    assert loose.delete(common, REF, world.base)
