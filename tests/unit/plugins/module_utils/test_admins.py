# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Among hundreds of admin directories the right ones are read again, whoever changed them."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils import admins
from ansible_collections.as215932.engineering_loop.plugins.module_utils.gitrepo import inside, open_repo

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from leftovers import BRANCH, World, git

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000


@pytest.fixture
def world(tmp_path: Path) -> World:
    """More admin directories than are read one by one; they need no worktree for that."""
    world = World(tmp_path)
    world.worktree(world.root / "first", "others/first")
    for number in range(admins.MANY + 10):
        register(world, f"other{number}", world.root / f"tree{number}", f"others/{number}")
    return world


def register(world: World, name: str, place: Path, branch: str) -> None:
    admin = world.admins / name
    admin.mkdir()
    (admin / "gitdir").write_text(f"{place}/.git\n")
    (admin / "HEAD").write_text(f"ref: refs/heads/{branch}\n")
    (admin / "commondir").write_text("../..\n")


def near(world: World, path: Path | None = None, branch: str = BRANCH) -> list[str]:
    return [each.name for each in admins.admins_near(open_repo(str(world.repo)), str(path or world.path), branch)]


def test_what_is_plainly_elsewhere_is_not_near(world: World) -> None:
    assert near(world) == []
    assert near(world, world.root / "tree3") == ["other3"]
    assert near(world, world.root / "tree3" / "deeper") == ["other3"]
    assert near(world, branch="others/5") == ["other5"]
    assert near(world, branch="others/5/deeper") == ["other5"]
    assert len(near(world, branch="others")) == admins.MANY + 11


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("HEAD", ""),
        ("HEAD", "1" * 40 + "\n"),
        ("HEAD", f"ref: refs/heads/{BRANCH}"),
        ("gitdir", "relative/.git\n"),
        ("gitdir", "/somewhere\n"),
        ("commondir", ""),
    ],
)
def test_what_git_would_not_write_is_always_near(world: World, file: str, content: str) -> None:
    assert near(world) == []
    (world.admins / "other7" / file).write_text(content)
    assert near(world) == ["other7"]
    assert near(world, branch="others/5") == ["other5", "other7"]


def test_what_git_changes_is_seen(world: World) -> None:
    assert near(world) == []
    git(world.root / "first", "checkout", "-q", "-b", BRANCH)
    assert near(world) == ["first"]
    git(world.root / "first", "checkout", "-q", "others/first")
    assert near(world) == []
    git(world.repo, "worktree", "move", str(world.root / "first"), str(world.path))
    assert near(world) == ["first"]
    git(world.repo, "worktree", "remove", "--force", str(world.path))
    assert near(world) == []
    git(world.repo, "worktree", "add", "-q", str(world.path), BRANCH)
    assert near(world) == [world.path.name]


def test_a_repository_that_took_the_place_of_another_is_read_anew(world: World) -> None:
    assert near(world) == []
    copy = world.repo.with_name("copy")
    shutil.copytree(world.repo, copy)
    (copy / ".git" / "worktrees" / "other7" / "HEAD").write_text(f"ref: refs/heads/{BRANCH}\n")
    world.repo.rename(world.repo.with_name("old"))
    copy.rename(world.repo)
    assert near(world) == ["other7"]


def test_a_queue_that_ran_over_is_no_harm(world: World) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    assert near(world) == []
    busy = [world.admins / "other1" / name for name in ("a", "b")]
    busy[0].write_text("")
    for number in range(limit // 2 + 10):  # two events each
        busy[number % 2].rename(busy[1 - number % 2])
    (world.admins / "other7" / "HEAD").write_text(f"ref: refs/heads/{BRANCH}\n")
    assert near(world) == ["other7"]


def test_where_nothing_can_be_watched_everything_is_read(world: World) -> None:
    assert near(world) == []
    child = os.fork()
    if child == 0:
        status = 1
        try:
            libc = ctypes.CDLL(None)
            proc = world.root / "proc"  # in a container that of all is read-only
            proc.mkdir()
            assert libc.unshare(CLONE_NEWNS) == 0
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            subprocess.run(["mount", "-t", "proc", "proc", str(proc)], check=True)
            assert libc.unshare(CLONE_NEWUSER) == 0
            (proc / "sys/user/max_inotify_instances").write_text("0")
            status = int(near(world) != sorted(os.listdir(world.admins)))
        except BaseException:  # noqa: BLE001 - the parent must hear of anything
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_nothing_that_matters_is_ever_missed(world: World) -> None:
    """Changes at random, by git's way and by hand; each time beside what reading all of them says."""
    chance = random.Random(4)
    repo = open_repo(str(world.repo))
    places = [world.path, world.path.parent, world.root / "tree1", world.root / "tree1" / "below"]
    branches = [BRANCH, "hyrule-feature", f"{BRANCH}/extra", "others/1", "others/2"]
    for _turn in range(300):
        name = f"other{chance.randrange(9)}"  # the rest are enough to be many
        admin = world.admins / name
        if not admin.exists():
            register(world, name, chance.choice(places), chance.choice(branches))
        elif chance.random() < 0.2:
            shutil.rmtree(admin)
        elif chance.random() < 0.2:
            admin.rename(world.root / f"gone-{_turn}")
        elif chance.random() < 0.5:
            (admin / "HEAD").write_text(f"ref: refs/heads/{chance.choice(branches)}\n")
        else:
            (admin / "new").write_text(f"{chance.choice(places)}/.git\n")
            (admin / "new").rename(admin / "gitdir")
        path, branch = str(chance.choice(places)), chance.choice(branches)
        wanted = {
            each.name
            for each in admins.admins_of(repo)
            if inside(path, each.target) or any(inside(held, branch) or inside(branch, held) for held in each.branches)
        }
        assert set(near(world, Path(path), branch)) == wanted
