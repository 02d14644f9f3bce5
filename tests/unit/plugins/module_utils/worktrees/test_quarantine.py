# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept: described, restored where it may go, let go whole or not at all."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.sizes import limits_of
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.manifests import Manifest, listing
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.moves import mounts_below
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.restore import Chosen, restore
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.retention import Retention, purge
from disks import on_a_disk_of_its_own
from leftovers import BRANCH, World, git, heal, quarantine, sentinels, snapshot, swept, usable

NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def kept(world: World) -> dict[str, Any]:
    """A worktree with work in it, put aside."""
    world.worktree()
    thing: dict[str, Any] = swept(world)["quarantined"][0]
    return thing


def everything(world: World) -> tuple[object, str]:
    files = snapshot(world.root)
    return {name: entry for name, entry in files.items() if not name.endswith("loop-worktrees.lock")}, git(
        world.repo, "for-each-ref"
    )


# --- what is told of it -----------------------------------------------------------------------


def test_the_manifest_tells_all_that_a_person_asks(world: World, kept: dict[str, Any]) -> None:
    told = json.loads(Path(kept["manifest"]).read_text())
    wanted = {
        "id": kept["id"],
        "what": "worktree",
        "from": str(world.path),
        "path": str(world.path),
        "repo": str(world.repo),
        "branch": BRANCH,
        "tip": world.commits[0],
        "change_id": "ISSUE_APP_1",
        "salvage": {f"refs/loop-salvage/{kept['id']}/heads/{BRANCH}": world.commits[0]},
        "size": None,
        "uid": os.geteuid(),
    }
    assert {key: told[key] for key in wanted} == wanted
    assert told["restore"].endswith(f"what={kept['id']}")
    assert told["when"][:4].isdecimal() and told["why"]
    purge(quarantine(world), Retention(age=3600))  # retention measures, off the path on which a run waits
    assert (Manifest.read(kept["manifest"].removesuffix("/manifest.json")).size or 0) >= 5 * 4096


# --- where it may return to -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"path": "relative"}, "absolute"),
        ({"path": "/"}, "below /"),
        ({"path": "{repo}"}, "is taken"),
        ({"path": "{repo}/inside"}, "one inside the other"),
        ({"path": "{repo}/.git/x"}, "inside a git directory"),
        ({"path": "{quarantine}/x"}, "one inside the other"),
        ({"path": "{other}/deeper"}, "inside another worktree"),
        ({"path": "{other}"}, "is taken"),
        ({"branch": "main"}, "protected"),
        ({"branch": "-x"}, "^branch "),
        ({"repo": "relative"}, "absolute"),
        ({"repo": "{root}/nowhere"}, "cannot be read"),
        ({"repo": "{root}"}, "not a git repository"),
        ({"quarantine": "relative"}, "absolute"),
    ],
)
def test_a_place_that_is_none_is_refused_and_nothing_changes(
    world: World, kept: dict[str, Any], options: dict[str, str], words: str
) -> None:
    world.worktree(world.other, "somebody/else")
    names = {"repo": world.repo, "quarantine": quarantine(world), "other": world.other, "root": world.root}
    given = {key: value.format(**names) for key, value in options.items()}
    before = everything(world)
    with pytest.raises(LoopError, match=words) as caught:
        restore(given.pop("quarantine", quarantine(world)), kept["id"], Chosen(**given))
    assert "\n" not in str(caught.value)
    assert everything(world) == before


def test_a_place_on_another_file_system_says_what_it_would_have_to_copy(world: World, kept: dict[str, Any]) -> None:
    before = everything(world)
    other = next(
        each for each in ("/dev/shm", "/tmp", "/var/tmp") if os.stat(each).st_dev != os.stat(world.root).st_dev
    )
    with (
        tempfile.TemporaryDirectory(dir=other) as place,
        pytest.raises(LoopError, match=r"another file system .* would have to copy \d{4,} bytes"),
    ):
        restore(quarantine(world), kept["id"], Chosen(path=f"{place}/back"))
    assert everything(world) == before
    assert restore(quarantine(world), kept["id"])["path"] == str(world.path)


def test_it_stands_beside_where_its_place_is_taken(world: World, kept: dict[str, Any]) -> None:
    heal(world, fresh=False)
    back = restore(quarantine(world), kept["id"])
    assert back["path"] == f"{world.path}.{kept['id']}"
    assert back["branch"] == f"loop-restored/{kept['id']}/{BRANCH}"
    assert sentinels(Path(back["path"])) >= {b"sentinel: untracked\n", b"sentinel: ignored\n"}
    assert git(Path(back["path"]), "rev-parse", "HEAD") == world.commits[0]
    usable(world)


def test_a_salvage_ref_comes_back_where_the_manifest_is_gone(world: World) -> None:
    commit = world.branch(BRANCH)
    thing = swept(world)["quarantined"][0]
    shutil.rmtree(quarantine(world))
    os.mkdir(quarantine(world))
    with pytest.raises(LoopError, match="name the repository"):
        restore(quarantine(world), thing["salvage_ref"])
    with pytest.raises(LoopError, match="name a path"):
        restore(quarantine(world), thing["salvage_ref"], Chosen(repo=str(world.repo)))
    back = restore(quarantine(world), thing["salvage_ref"], Chosen(repo=str(world.repo), path=str(world.path)))
    assert (back["branch"], back["head"]) == (BRANCH, commit)
    assert git(world.path, "rev-parse", "HEAD") == commit


def test_a_check_changes_nothing(world: World, kept: dict[str, Any]) -> None:
    before = everything(world)
    planned = restore(quarantine(world), kept["id"], check=True)
    assert everything(world) == before
    done = restore(quarantine(world), kept["id"])
    assert {**planned, "plan": []} == {**done, "plan": []}
    again = restore(quarantine(world), kept["id"])
    assert (again["changed"], again["path"]) == (False, done["path"])
    with pytest.raises(LoopError, match="restored before"):
        restore(quarantine(world), kept["id"], Chosen(path=str(world.other)))


def test_it_waits_for_a_run_in_progress(world: World, kept: dict[str, Any]) -> None:
    lock = world.root / "daemon.lock"
    lock.write_text(json.dumps({"pid": os.getppid()}))
    with pytest.raises(LoopError, match="a run is in progress"):
        restore(quarantine(world), kept["id"], run_lock=str(lock))
    assert not world.path.exists()


# --- letting it go ----------------------------------------------------------------------------


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


@pytest.mark.parametrize("given", [{"age": "2x"}, {"age": "5G"}, {"size": "5d"}, {"size": "-1"}, {"min_age": "1e9"}])
def test_a_limit_that_is_none_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(LoopError, match="is not a"):
        limits_of(given)


def test_limits_are_read_as_they_are_meant() -> None:
    assert limits_of({"age": "30d", "size": "1.5G", "min_age": ""}) == {
        "age": 30 * 86400, "size": 1.5 * 1024**3, "min_age": None
    }  # fmt: skip


# --- owners -----------------------------------------------------------------------------------


@pytest.fixture
def shared() -> Iterator[World]:
    """A world of nobody's in which somebody worked as root."""
    place = Path(tempfile.mkdtemp(prefix="loop-"))
    place.chmod(0o755)
    world = World(place / "world")
    world.worktree()
    subprocess.run(["chown", "-R", f"{NOBODY.pw_uid}:{NOBODY.pw_gid}", str(place / "world")], check=True)
    (world.path / "deep" / "deeper").mkdir(parents=True)
    (world.path / "deep" / "deeper" / "note").write_text("sentinel: root's\n")
    yield world
    shutil.rmtree(place)


def test_what_root_left_in_it_is_let_go_by_root(shared: World) -> None:
    thing = as_user("nobody", lambda: swept(shared))["quarantined"][0]
    before = snapshot(shared.root)
    answer = as_user("nobody", lambda: purge(quarantine(shared), Retention(age=0, min_age=0)))
    assert answer["purged"] == [] and "let root purge it" in answer["stuck"][0]["why"]
    assert git_as_root(shared, "rev-parse", thing["salvage_ref"]) == shared.commits[0]  # it goes whole or not at all
    assert {name for name in snapshot(shared.root) if "loop-worktrees" not in name} == {
        name for name in before if "loop-worktrees" not in name
    }
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
