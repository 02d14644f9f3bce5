# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that are full or read-only, bad input of a sweep, and shapes that need more than files to be made."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.untrusted import show
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.manifests import listing
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.restore import restore
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.retention import Retention, purge
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.sweep import Scope, sweep
from disks import on_a_disk_of_its_own
from leftovers import BRANCH, SHAPES, World, git, heal, reachable, sentinels, swept, usable


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# --- disks ------------------------------------------------------------------------------------


def fill(world: World, leave: int) -> Path:
    """Fill the disk up to ``leave`` bytes."""
    filler = world.root / "filler"
    with filler.open("wb", buffering=0) as handle:
        while True:
            try:
                handle.write(b"x" * 4096)
            except OSError as error:
                assert error.errno == errno.ENOSPC
                break
        handle.truncate(max(0, filler.stat().st_size - leave))
    return filler


def or_one_line(work: Callable[[], object]) -> bool:
    """Did it succeed? If not, it says why in one line."""
    try:
        work()
    except LoopError as error:
        assert "\n" not in str(error)
        return False
    return True


@pytest.mark.parametrize("leave", [4096 * pages for pages in (0, 1, 2, 3, 5, 8, 13, 21, 34)])
@pytest.mark.parametrize("way", [heal, swept])
def test_no_space_left_in_the_middle(tmp_path: Path, way: Callable[[World], object], leave: int) -> None:
    def work(world: World) -> None:
        world.worktree()
        before = sentinels(world.root)
        filler = fill(world, leave)
        done = or_one_line(lambda: way(world))
        assert sentinels(world.root) == before
        assert set(world.commits) <= reachable(world)
        assert leave or not done
        filler.unlink()
        heal(world)
        usable(world)
        assert sentinels(world.root) == before
        assert set(world.commits) <= reachable(world)
        git(world.repo, "fsck", "--connectivity-only")

    on_a_disk_of_its_own(tmp_path, "size=2m", work)


def test_no_inode_left(tmp_path: Path) -> None:
    def work(world: World) -> None:
        world.worktree()
        before = sentinels(world.root)
        fillers = world.root / "fillers"
        fillers.mkdir()
        made = 0
        try:
            while True:
                (fillers / str(made)).touch()
                made += 1
        except OSError as error:
            assert error.errno == errno.ENOSPC
        assert not or_one_line(lambda: heal(world))
        assert sentinels(world.root) == before
        assert set(world.commits) <= reachable(world)
        shutil.rmtree(fillers)
        heal(world)
        usable(world)
        assert sentinels(world.root) == before

    on_a_disk_of_its_own(tmp_path, "size=8m,nr_inodes=400", work)


@pytest.mark.parametrize("leave", [0, 4096, 8192, 32768])
def test_a_restore_without_space_can_be_made_again(tmp_path: Path, leave: int) -> None:
    def work(world: World) -> None:
        world.worktree()
        before = sentinels(world.root)
        what = swept(world)["quarantined"][0]["id"]
        filler = fill(world, leave)
        or_one_line(lambda: restore(str(world.runs / ".quarantine"), what))
        assert sentinels(world.root) == before
        filler.unlink()
        assert restore(str(world.runs / ".quarantine"), what)["path"] == str(world.path)
        assert sentinels(world.path) >= {b"sentinel: untracked\n", b"sentinel: ignored\n"}
        assert git(world.path, "rev-parse", "HEAD") == world.commits[0]

    on_a_disk_of_its_own(tmp_path, "size=2m", work)


def test_a_read_only_file_system(tmp_path: Path) -> None:
    def work(world: World) -> None:
        world.worktree()
        before = sentinels(world.root)
        subprocess.run(["mount", "-o", "remount,ro", str(world.root)], check=True)
        for way in (heal, swept):
            with pytest.raises(LoopError, match="Read-only file system") as caught:
                way(world)
            assert "\n" not in str(caught.value)
        subprocess.run(["mount", "-o", "remount,rw", str(world.root)], check=True)
        heal(world)
        usable(world)
        assert sentinels(world.root) == before

    on_a_disk_of_its_own(tmp_path, "size=8m", work)


@pytest.mark.parametrize("what", ["path", "inside"])
def test_a_mount_in_the_way(tmp_path: Path, what: str) -> None:
    def work(world: World) -> None:
        world.worktree()
        place = world.path if what == "path" else world.path / "mounted"
        place.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], check=True)
        (place / "note.txt").write_text("sentinel: on another disk\n")
        before = sentinels(world.root)
        if not or_one_line(lambda: heal(world)):
            assert sentinels(world.root) == before
            subprocess.run(["umount", str(place)], check=True)
            before = sentinels(world.root)
            heal(world)
        usable(world)
        assert sentinels(world.root) == before

    on_a_disk_of_its_own(tmp_path, "size=8m", work)


# --- a sweep's bad input ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"repos": []}, "no repository to sweep"),
        ({"repos": ["{root}/nowhere"]}, "cannot be read"),
        ({"workspace": "{root}/nowhere"}, "is not a directory"),
        ({"worktree_root": "/"}, "below /"),
        ({"worktree_root": "relative"}, "absolute"),
        ({"worktree_root": "{repo}/.git/worktrees"}, "inside a git directory"),
        ({"worktree_root": "{repo}/runs"}, "one inside the other"),
        ({"worktree_root": "{root}"}, "one inside the other"),
        ({"branch_prefixes": ["main"]}, "protected"),
        ({"branch_prefixes": [""]}, "branch ''"),
        ({"branch_prefixes": ["refs/heads"]}, "protected"),
        ({"branch_prefixes": ["*"]}, "branch '\\*'"),
        ({"branch_prefixes": ["hyrule\u2010loop"]}, "look-alike"),
        ({"quarantine": "relative"}, "absolute"),
        ({"quarantine": "/"}, "below /"),
    ],
)
def test_a_sweep_refuses_in_one_line(world: World, options: dict[str, Any], words: str) -> None:
    world.worktree()

    def filled(value: Any) -> Any:
        return value.format(root=world.root, repo=world.repo) if isinstance(value, str) else list(map(filled, value))

    given = {"repos": [str(world.repo)], "branch_prefixes": ["hyrule-feature"], "worktree_root": str(world.runs)}
    with pytest.raises(LoopError, match=words) as caught:
        sweep(Scope(**{**given, **{key: filled(value) for key, value in options.items()}}))
    assert "\n" not in str(caught.value)
    assert (world.path / "untracked.txt").exists()
    assert not (world.runs / ".quarantine").exists()


def test_a_workspace_without_repositories_is_named(world: World) -> None:
    (world.root / "empty").mkdir()
    with pytest.raises(LoopError, match=f"no repository to sweep in {world.root}/empty"):
        sweep(Scope(str(world.runs), ["x"], workspace=str(world.root / "empty")))


@pytest.mark.parametrize("name", ["-rf", "a b", "ü", "a\nb", "'; rm -rf x", "$(id)", "..."])
def test_a_run_with_a_hostile_name_is_swept_like_any_other(world: World, name: str) -> None:
    place = world.runs / name / "worktrees" / name
    place.parent.mkdir(parents=True)
    world.worktree(place, "hyrule-feature/ISSUE_APP_9/app")
    done = swept(world)
    assert done["removed"] == [show(str(place), 5000)]  # as it is told to people
    assert restore(str(world.runs / ".quarantine"), listing(str(world.runs / ".quarantine"))[0]["id"])
    assert (place / "untracked.txt").read_text() == "sentinel: untracked\n"


# --- others at work ---------------------------------------------------------------------------


def test_a_dead_git_that_nobody_buried_holds_no_lock(world: World) -> None:
    SHAPES["stale_ref_lock"](world)
    with subprocess.Popen(["git", "version"], stdout=subprocess.DEVNULL) as zombie:
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        assert Path(f"/proc/{zombie.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        heal(world)
    usable(world)


def test_a_killed_healer_leaves_a_lock_on_its_salvage_ref(world: World) -> None:
    world.worktree()
    name = "20260102T030405Z-1a2b3c4d-0"
    (world.admin / "quarantined-as").write_text(name)
    lock = world.repo / ".git" / "refs" / "loop-salvage" / name / "heads" / f"{BRANCH}.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("")
    done = heal(world)
    usable(world)
    assert done["quarantined"][0]["id"] == name
    assert git(world.repo, "rev-parse", done["quarantined"][0]["salvage_ref"]) == world.commits[0]
    lock.write_text("")
    purged = purge(str(world.path.parent / ".quarantine"), Retention(age=0, min_age=0))["purged"]
    assert [one["id"] for one in purged] == [name]


# --- other repositories -----------------------------------------------------------------------


def test_a_bare_repository(world: World) -> None:
    bare = world.root / "bare.git"
    git(world.root, "clone", "-q", "--bare", str(world.repo), str(bare))
    git(bare, "worktree", "add", "-q", "-b", BRANCH, str(world.path))
    (world.path / "untracked.txt").write_text("sentinel: in a bare one's worktree\n")
    done = heal(world, repo=str(bare))
    assert done["head"] == world.base
    assert sentinels(world.path.parent) == {b"sentinel: in a bare one's worktree\n"}
    assert git(world.path, "status", "--porcelain") == ""


def test_the_same_change_in_two_repositories(world: World) -> None:
    twin = world.repo.with_name("twin")
    shutil.copytree(world.repo, twin)
    second = world.path.with_name("twin-ISSUE_APP_1")
    world.worktree()
    git(twin, "worktree", "add", "-q", "-b", BRANCH, str(second))
    (second / "untracked.txt").write_text("sentinel: the twin's\n")
    before = sentinels(world.root)
    assert sorted(swept(world)["removed"]) == sorted([str(world.path), str(second)])
    assert sentinels(world.root) == before
    heal(world)
    usable(world)


def test_a_leftover_of_another_repository_at_our_path(world: World) -> None:
    twin = world.repo.with_name("twin")
    shutil.copytree(world.repo, twin)
    git(twin, "worktree", "add", "-q", "-b", BRANCH, str(world.path))
    (world.path / "untracked.txt").write_text("sentinel: another repository's\n")
    heal(world)
    usable(world)
    assert sentinels(world.path.parent) == {b"sentinel: another repository's\n"}
    assert git(twin, "rev-parse", BRANCH) == world.base


def test_a_path_through_a_symlink_is_the_same_place(world: World) -> None:
    world.worktree()
    link = world.root / "link"
    link.symlink_to(world.runs)
    through = link / world.path.relative_to(world.runs)
    again = heal(world, fresh=False, path=str(through))
    assert (again["changed"], again["path"]) == (False, str(world.path))
    heal(world, path=str(through))
    usable(world)


def test_a_thousand_branches_in_the_way(world: World) -> None:
    lines = "".join(f"create refs/heads/{BRANCH}/{number} {world.base}\n" for number in range(1000))
    subprocess.run(["git", "update-ref", "--stdin"], cwd=world.repo, input=lines, text=True, check=True)
    assert sum(one["what"] == "branch" for one in heal(world)["quarantined"]) == 1000
    usable(world)
    assert len(git(world.repo, "for-each-ref", "refs/loop-salvage").splitlines()) == 1000


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


# --- repositories that are none any more ------------------------------------------------------


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


# --- what another git left --------------------------------------------------------------------


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
