# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkouts in which git does not work any more: put aside whole and made anew, and no other has to suffer for it."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest
import workspaces
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.files import remove_tree
from commands import sh
from damages import DAMAGES, SETTINGS, Spoil, left_by_a_killed_git, setting
from workspaces import NAMES, World, deep, head, put

# pytest finds fixtures by their names in this module.
world, ready = workspaces.world, workspaces.ready


GIT_FILES = ("HEAD", "config", "index", "packed-refs", "shallow", "info/exclude", "objects/info/alternates")
PLACES = [*(f".git/{name}" for name in GIT_FILES), ".gitignore", ".gitattributes", ".git/loop-worktrees.lock"]


def test_refs_in_a_reftable_are_replaced_by_a_clone(ready: World) -> None:
    (ready.root / "one/.git/HEAD").write_text("ref: refs/heads/.invalid\n")
    (ready.root / "one/mine").write_text("mine\n")
    done = ready.update()["repositories"][0]
    assert (done["status"], done["detail"]) == ("restored", "its refs are kept in a reftable")
    assert Path(done["quarantined"], "whole/mine").read_text() == "mine\n"
    assert ready.statuses() == ["current", "current", "current"]


@pytest.mark.parametrize("kind", ["fifo", "directory", "link"])
@pytest.mark.parametrize("name", PLACES)
def test_what_stands_in_the_place_of_a_file_stops_no_one(ready: World, name: str, kind: str) -> None:
    put(ready.root / "two" / name, kind)
    tips = {each: ready.push(each, "new") for each in NAMES}
    began = time.monotonic()
    done = ready.update()
    assert time.monotonic() - began < 20
    assert not done["failed"] and {each: head(ready, each) for each in NAMES} == tips
    assert ready.statuses() == ["current"] * 3


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_files_and_directories_without_permissions_stop_no_one(open_to_all: Path) -> None:
    for name in (".git/HEAD", ".git/config", ".git/index", ".git/objects", ".git", ".", ".gitignore"):
        path = Path(tempfile.mkdtemp(dir=open_to_all))
        path.chmod(0o755)
        world = World(path, user="nobody")
        sh(path, "chown", "-R", "nobody", "state", "forge")
        assert not world.update()["failed"]
        (world.root / "two" / name).chmod(0)
        done = world.update()
        assert not done["failed"], name
        assert (world.root / "two/README").read_text() == "0\n"


@pytest.mark.parametrize("ref", ["refs/remotes/origin/main", "refs/remotes/origin/gone", "refs/sessions/1/turn/7"])
@pytest.mark.parametrize("content", ["", "1" * 40 + "\n"])
def test_a_broken_ref_keeps_nothing_from_its_tip(ready: World, ref: str, content: str) -> None:
    (ready.root / "one/.git" / ref).parent.mkdir(parents=True, exist_ok=True)
    (ready.root / "one/.git" / ref).write_text(content)
    (ready.root / "one/mine").write_text("mine\n")
    tip = ready.push("one", "new")
    done = ready.update()["repositories"][0]
    assert done["status"] == "restored" and head(ready, "one") == tip
    assert [each.read_text() for each in Path(done["quarantined"]).glob("*/mine")] == ["mine\n"]


@pytest.mark.parametrize("new", [False, True], ids=["nothing new", "something new"])
@pytest.mark.parametrize("spoil", [pytest.param(spoil, id=name) for name, spoil in DAMAGES.items()])
def test_a_damaged_one_is_made_anew(ready: World, spoil: Spoil, new: bool) -> None:
    """In the same run, and no other has to suffer for it."""
    ready.push("one", "more")
    ready.update()
    (ready.root / "one/mine").write_text("mine\n")
    (ready.root / "one/mine").rename(ready.root / "mine")  # a clone in its place would be in its way
    spoil(ready.root / "one/.git")
    (ready.root / "mine").rename(ready.root / "one/mine")
    tip = ready.push("one", "new") if new else sh(ready.work / "one", "git", "rev-parse", "HEAD")
    one, two, three = ready.update()["repositories"]
    assert one["status"] == "restored" and "cannot be reached" not in one["detail"]
    assert (two["status"], three["status"]) == ("current", "current") and head(ready, "one") == tip
    assert [each.read_text() for each in Path(one["quarantined"]).glob("*/mine")] == ["mine\n"]
    assert ready.statuses() == ["current"] * 3
    sh(ready.root / "one", "git", "fsck", "--strict")


@pytest.mark.parametrize(
    "spoil",
    [pytest.param(spoil, id=name) for name, spoil in SETTINGS.items()]
    + [pytest.param(setting("core.worktree", "/nowhere"), id="a worktree elsewhere")],
)
def test_settings_that_git_would_stop_at_are_put_right(ready: World, spoil: Spoil) -> None:
    spoil(ready.root / "one/.git")
    assert ready.update()["repositories"][0]["status"] in ("current", "restored")
    assert ready.statuses() == ["current"] * 3
    assert sh(ready.root / "one", "git", "status", "--short") == ""


def test_an_index_that_cannot_be_read(ready: World) -> None:
    (ready.root / "one/.git/index").write_bytes(b"DIRC" + bytes(100))
    assert ready.statuses() == ["restored", "current", "current"]
    assert ready.statuses() == ["current"] * 3


def test_what_a_killed_git_left_is_cleared_though_nothing_is_to_be_done(ready: World) -> None:
    left = left_by_a_killed_git(ready.root / "one/.git")
    assert ready.statuses(check=True) == ["current"] * 3 and all(path.exists() for path in left)
    assert ready.statuses() == ["current"] * 3 and not [path for path in left if path.exists()]


def test_cut_off_borrowed_and_partial_clones_are_made_anew(ready: World) -> None:
    forge = {name: f"file://{ready.forge}/acme/{name}.git" for name in NAMES}
    for name in NAMES:
        ready.push(name, "new")
        shutil.rmtree(ready.root / name)
    sh(ready.forge / "acme/three.git", "git", "config", "uploadpack.allowFilter", "true")
    sh(ready.root, "git", "clone", "-q", "--depth=1", forge["one"], "one")
    sh(ready.root, "git", "clone", "-q", "--reference", str(ready.work / "two"), forge["two"], "two")
    sh(ready.root, "git", "clone", "-q", "--filter=tree:0", forge["three"], "three")
    details = [one["detail"] for one in ready.update()["repositories"]]
    assert details == [
        "its history is cut off", "its objects are those of another repository", "it is a partial clone"
    ]  # fmt: skip
    assert ready.statuses() == ["current"] * 3
    for name in NAMES:
        sh(ready.root / name, "git", "fsck", "--strict")


def test_an_object_that_is_empty_is_found_though_nothing_is_to_be_done(ready: World) -> None:
    blob = sh(ready.root / "one", "git", "rev-parse", "HEAD:README")
    place = ready.root / f"one/.git/objects/{blob[:2]}/{blob[2:]}"
    place.unlink()  # the forge has a hard link to it
    place.write_bytes(b"")
    done = ready.update()["repositories"][0]
    assert done["status"] == "restored" and done["detail"] == f"{place} is empty or no file"
    assert ready.statuses() == ["current"] * 3


def test_what_cannot_be_cloned_anew_stays_where_it_is(ready: World) -> None:
    put(ready.root / "one/.git/HEAD", "fifo")
    (ready.forge / "acme/one.git").rename(ready.forge / "acme/away.git")
    done = ready.update()
    assert done["failed"] == ["one"] and "cannot be cloned" in done["repositories"][0]["detail"]
    assert (ready.root / "one/README").read_text() == "0\n" and not (ready.root / ".quarantine").exists()


def test_a_tree_deeper_than_a_walk_can_go_and_names_that_are_no_text(ready: World) -> None:
    top = ready.root / "one"
    (top / " ").mkdir()
    (top / " " / "file").write_text("mine\n")
    (top / os.fsdecode(b"caf\xe9")).write_text("mine\n")
    deep(top / "deep")
    shutil.copytree(top / " ", ready.root / ".clone-one")
    deep(ready.root / ".clone-one/deep")
    began = time.monotonic()
    done = ready.update()["repositories"][0]
    assert done["status"] == "restored" and not list(ready.root.glob(".clone-*"))
    assert time.monotonic() - began < 20
    assert (Path(done["quarantined"]) / "tree" / " " / "file").read_text() == "mine\n"
    assert ready.statuses() == ["current"] * 3
    remove_tree(str(ready.root))  # pytest's own cleaning would end in it
    assert not ready.root.exists()
