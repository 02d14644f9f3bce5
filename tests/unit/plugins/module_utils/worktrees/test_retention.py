# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is let go: what is old or too much, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.manifests import listing
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.restore import restore
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.retention import Retention, purge
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.whole_moves import mounts_below
from disks import on_a_disk_of_its_own
from worlds import BRANCH, NOBODY, World, git, quarantine, sentinels, snapshot, swept


def test_purge_keeps_what_is_young_and_lets_the_oldest_go(world: World) -> None:
    quarantine = world.runs / ".quarantine"
    for days in (40, 20, 2, 0):
        world.path.mkdir(exist_ok=True)
        (world.path / "note.txt").write_text(f"{days}\n" * 4000)
        git(world.repo, "branch", "-f", BRANCH)
        swept(world)
        for thing in listing(str(quarantine)):
            if days and thing["when"] > "2001":
                age_by(world, thing, days)
    assert len(listing(str(quarantine))) == 8
    assert len(purge(str(quarantine), Retention(age=30 * 86400), check=True)["purged"]) == 2
    assert len(listing(str(quarantine))) == 8
    gone = purge(str(quarantine), Retention(age=30 * 86400))
    assert len(gone["purged"]) == 2
    assert all(entry["age"] > 39 * 86400 and entry["size"] > 0 for entry in gone["purged"])
    gone = purge(str(quarantine), Retention(size=0, min_age=86400))
    assert [entry["why"] for entry in gone["purged"]] == ["the quarantine is larger than allowed"] * 4
    assert gone["left"] == 2
    assert len(git(world.repo, "for-each-ref", "refs/loop-salvage").splitlines()) == 1
    assert purge(str(quarantine), Retention(age=0, min_age=0))["left"] == 0
    assert git(world.repo, "for-each-ref", "refs/loop-salvage") == ""


def age_by(world: World, thing: dict[str, Any], days: int) -> None:
    """Let a quarantined thing be older than it is: its id tells."""
    old = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() - days * 86400)) + thing["id"][16:]
    manifest = json.loads(Path(thing["to"], "manifest.json").read_text())
    manifest["when"] = "2000-01-01T00:00:00Z"
    Path(thing["to"], "manifest.json").write_text(json.dumps(manifest))
    Path(thing["to"]).rename(Path(thing["to"]).with_name(old))
    held = world.repo / ".git" / "loop-quarantine" / thing["id"]
    if held.exists():
        held.rename(held.with_name(old))
    for row in git(world.repo, "for-each-ref", "--format=%(objectname) %(refname)", "refs/loop-salvage").splitlines():
        commit, ref = row.split()
        if thing["id"] in ref:
            git(world.repo, "update-ref", ref.replace(thing["id"], old), commit)
            git(world.repo, "update-ref", "-d", ref)


def test_what_is_mounted_in_it_is_never_deleted(tmp_path: Path) -> None:
    def work(world: World) -> None:
        world.worktree()
        precious = world.root / "a place"
        precious.mkdir()
        (precious / "note.txt").write_text("sentinel: behind the mount\n")
        place = world.path / "mounted here"
        place.mkdir()
        subprocess.run(["mount", "--bind", str(precious), str(place)], check=True)
        thing = swept(world)["quarantined"][0]
        assert [Path(each).name for each in mounts_below(thing["to"])] == ["mounted here"]
        answer = purge(quarantine(world), Retention(age=0, min_age=0))
        assert answer["purged"] == [] and "is mounted in it" in answer["stuck"][0]["why"]
        assert "is mounted in it" in swept(world, retention=Retention(age=0, min_age=0))["kept"][0]["why"]
        assert (precious / "note.txt").exists()
        subprocess.run(["umount", mounts_below(thing["to"])[0]], check=True)
        assert [one["id"] for one in purge(quarantine(world), Retention(age=0, min_age=0))["purged"]] == [thing["id"]]
        assert (precious / "note.txt").exists()

    on_a_disk_of_its_own(tmp_path, "size=8m", work)


def test_a_full_disk_does_not_stop_what_makes_room(tmp_path: Path) -> None:
    def work(world: World) -> None:
        world.worktree()
        swept(world)
        with (world.root / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space"):
            while True:
                filler.write(b"x" * 4096)
        assert len(purge(quarantine(world), Retention(age=0, min_age=0))["purged"]) == 1

    on_a_disk_of_its_own(tmp_path, "size=2m", work)


def test_a_thing_of_a_repository_that_is_gone_goes_as_well(world: World, kept: dict[str, Any]) -> None:
    shutil.rmtree(world.repo)
    assert [one["id"] for one in purge(quarantine(world), Retention(age=0, min_age=0))["purged"]] == [kept["id"]]
    assert listing(quarantine(world)) == []


def test_a_thing_without_a_manifest_is_kept_as_long_as_others(world: World, kept: dict[str, Any]) -> None:
    Path(kept["manifest"]).write_text("{ garbage")
    assert purge(quarantine(world), Retention(age=0))["left"] == 1
    assert purge(quarantine(world), Retention(size=0, min_age=0))["left"] == 0


def test_strangers_in_the_quarantine_are_left_alone(world: World, kept: dict[str, Any]) -> None:
    note = Path(quarantine(world), "README")
    note.write_text("sentinel: an operator's\n")
    purge(quarantine(world), Retention(age=0, min_age=0))
    assert note.exists()


def test_ids_that_are_no_time_and_links_are_let_go_as_well(world: World) -> None:
    place = Path(quarantine(world))
    (place / "99999999T999999Z-00000000-0").mkdir(parents=True)
    (place / "20200101T000000Z-00000000-0").symlink_to(world.repo)
    (place / "20200101T000000Z-00000000-1").write_text("")
    before = snapshot(world.repo)
    answer = purge(quarantine(world), Retention(age=0, min_age=0))
    assert len(answer["purged"]) == 3 and not answer["stuck"] and listing(quarantine(world)) == []
    assert snapshot(world.repo) == before


@pytest.fixture
def shared(worked: World) -> World:
    """A world of nobody's in which somebody worked as root."""
    (worked.path / "deep" / "deeper").mkdir(parents=True)
    (worked.path / "deep" / "deeper" / "note").write_text("sentinel: root's\n")
    return worked


def test_what_root_left_in_it_is_let_go_by_root(shared: World) -> None:
    thing = as_user("nobody", lambda: swept(shared))["quarantined"][0]
    before = snapshot(shared.root)
    answer = as_user("nobody", lambda: purge(quarantine(shared), Retention(age=0, min_age=0)))
    assert answer["purged"] == [] and "let root purge it" in answer["stuck"][0]["why"]
    assert git_as_root(shared, "rev-parse", thing["salvage_ref"]) == shared.commits[0]  # it goes whole or not at all
    assert snapshot(shared.root).keys() == before.keys()
    assert [one["id"] for one in purge(quarantine(shared), Retention(age=0, min_age=0))["purged"]] == [thing["id"]]
    assert listing(quarantine(shared)) == []


def test_what_a_third_user_left_in_it_is_named(shared: World) -> None:
    os.chown(shared.path / "deep" / "deeper", 1, 1)
    as_user("nobody", lambda: swept(shared))
    assert "give it to nobody" in purge(quarantine(shared), Retention(age=0, min_age=0))["stuck"][0]["why"]


def test_one_that_only_root_can_move_does_not_stop_the_others(shared: World) -> None:
    os.chown(shared.path, 0, 0)  # a directory that is moved must be writable itself
    other = shared.other
    other.mkdir()
    (other / "note").write_text("sentinel: nobody's\n")
    for place in (other, other / "note"):
        os.chown(place, NOBODY.pw_uid, NOBODY.pw_gid)
    before = sentinels(shared.root)
    answer = as_user("nobody", lambda: swept(shared))
    assert answer["removed"] == [str(other)]
    assert [(one["path"], "run the heal as root" in one["why"]) for one in answer["kept"]] == [(str(shared.path), True)]
    assert sentinels(shared.root) == before
    answer = swept(shared)  # by root
    assert answer["removed"] == [str(shared.path)] and not answer["kept"]
    whole = [thing for thing in listing(quarantine(shared)) if thing["from"] == str(shared.path)]
    assert [(thing["what"], thing["tree"], thing["uid"]) for thing in whole] == [("worktree", True, 0)]
    assert sentinels(shared.root) == before
    back = restore(quarantine(shared), whole[0]["id"])
    assert (back["path"], back["registered"]) == (str(shared.path), True)
    assert set(shared.commits) <= set(git_as_root(shared, "rev-list", "--all").split())


def git_as_root(world: World, *arguments: str) -> str:
    return git(world.repo, "-c", f"safe.directory={world.repo}", *arguments)
