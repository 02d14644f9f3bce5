# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was put aside comes back: as it was, to a free place, once."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.files import alone_in, remove_tree
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.manifests import listing
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.restore import Chosen, restore
from worlds import (
    BRANCH,
    World,
    everything,
    git,
    heal,
    quarantine,
    sentinels,
    snapshot,
    swept,
    usable,
)


def test_a_restored_run_is_at_its_very_path_again(world: World) -> None:
    world.worktree()
    (world.path / "staged.txt").write_text("staged\n")
    git(world.path, "add", "staged.txt")
    before, status = snapshot(world.path), git(world.path, "status", "--porcelain=v2", "--branch")
    link, admin = (world.path / ".git").read_bytes(), snapshot(world.admin)
    swept(world)
    assert not world.path.exists()
    done = restore(str(world.runs / ".quarantine"), listing(str(world.runs / ".quarantine"))[0]["id"])
    assert done["path"] == str(world.path)
    assert done["branch"] == BRANCH
    assert snapshot(world.path) == before
    assert (world.path / ".git").read_bytes() == link
    assert git(world.path, "status", "--porcelain=v2", "--branch") == status
    assert {name: entry for name, entry in snapshot(world.admin).items() if name != "index"} == {
        name: entry for name, entry in admin.items() if name != "index"
    }
    assert git(world.path, "log", "-g", "--format=%gs", BRANCH).splitlines()[0] == "commit: a sentinel commit"


def test_a_restore_of_nothing_is_one_clear_error(world: World) -> None:
    for what in ("rubbish", "20260102T030405Z-1a2b3c4d-0"):
        with pytest.raises(LoopError):
            restore(str(world.runs / ".quarantine"), what)


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


@pytest.mark.parametrize("goes", [False, True], ids=["it stays", "it is let go"])
def test_it_waits_for_a_purge_that_is_at_work(world: World, kept: dict[str, Any], goes: bool) -> None:
    """Which measures everything first: what it lets go in the end is not half put back meanwhile."""
    with ThreadPoolExecutor(1) as pool, alone_in(quarantine(world), 1):
        answer = pool.submit(restore, quarantine(world), kept["id"])
        time.sleep(0.5)
        assert not answer.done() and not world.path.exists()
        if goes:
            remove_tree(f"{quarantine(world)}/{kept['id']}")
    if goes:
        assert "was kept long enough and let go just now" in str(answer.exception()) and not world.path.exists()
    else:
        assert answer.result()["changed"] and world.path.exists()


def test_it_waits_for_a_run_in_progress(world: World, kept: dict[str, Any]) -> None:
    lock = world.root / "daemon.lock"
    lock.write_text(json.dumps({"pid": os.getppid()}))
    with pytest.raises(LoopError, match="a run is in progress"):
        restore(quarantine(world), kept["id"], run_lock=str(lock))
    assert not world.path.exists()
