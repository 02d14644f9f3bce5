# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that are full, read-only or mounted in the way."""

from __future__ import annotations

import errno
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.restore import restore
from disks import on_a_disk_of_its_own
from worlds import (
    World,
    git,
    heal,
    reachable,
    sentinels,
    swept,
    usable,
)


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
