# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A manifest that the user wrote: root does nothing elsewhere for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.manifests import listing
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.restore import restore
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.retention import Retention, purge
from worlds import (
    NOBODY,
    World,
    git,
    one_line,
    quarantine,
    repository_of_roots,
    snapshot,
    swept,
)


@pytest.fixture
def shared(worked: World) -> World:
    """A world of nobody's, and root's own repository beside it."""
    repository_of_roots(worked.root.parent / "victim")
    return worked


def forge(world: World, thing: str, /, **fields: Any) -> None:
    manifest = Path(quarantine(world), thing, "manifest.json")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **fields}))


FORGED: dict[str, Callable[[str], dict[str, Any]]] = {
    "restored_to": lambda victim: {"restored_to": victim},
    "path": lambda victim: {"path": victim},
    "both": lambda victim: {"path": victim, "restored_to": victim, "from": victim},
    "below": lambda victim: {"path": f"{victim}/x/y", "restored_to": f"{victim}/.git"},
    "restored": lambda victim: {
        "restored_to": victim,
        "restored": {"branch": "", "head": "", "registered": True, "inode": os.stat(victim).st_ino},
    },
    "repo": lambda victim: {"repo": victim},
    "repo's git directory": lambda victim: {"repo": f"{victim}/.git"},
    "repo of nowhere": lambda victim: {"repo": "/nowhere"},
    "repo with dots": lambda victim: {"repo": f"{victim}/../victim"},
    "repo of a kind": lambda victim: {"repo": [victim]},
    "admin": lambda victim: {"admin": f"../../../../../../..{victim}/.git"},
    "branch": lambda victim: {"branch": f"../../../../../..{victim}/.git/HEAD", "tip": ""},
    "restored_as": lambda victim: {"restored_as": "../../x"},
    "tip": lambda victim: {"tip": "--upload-pack=x"},
    "id": lambda victim: {"id": f"../../..{victim}"},
    "a NUL": lambda victim: {"path": f"{victim}\0", "restored_to": "\0"},
    "a surrogate": lambda victim: {"path": "/\ud800", "branch": "\ud800"},
    "a number": lambda victim: {"what": 1, "from": {"x": 1}, "path": 7},
}


@pytest.mark.parametrize("tree", [True, False])
@pytest.mark.parametrize("fields", FORGED.values(), ids=FORGED)
def test_a_forged_manifest_makes_root_do_nothing_elsewhere(
    shared: World, fields: Callable[[str], dict[str, Any]], tree: bool
) -> None:
    what = as_user("nobody", lambda: swept(shared))["quarantined"][0]["id"]
    victim = shared.root.parent / "victim"
    before = snapshot(victim)
    forge(shared, what, **fields(str(victim)))
    if not tree:  # "it was moved back before the restore was cut off"; its admin directory is still held
        shutil.rmtree(f"{quarantine(shared)}/{what}/tree")
    try:
        restore(quarantine(shared), what)
    except LoopError as error:
        one_line(error)
    assert snapshot(victim) == before and victim.stat().st_uid == 0
    json.dumps(listing(quarantine(shared)), ensure_ascii=False).encode()
    answer = purge(quarantine(shared), Retention(age=0, min_age=0))
    assert [one["id"] for one in [*answer["purged"], *answer["stuck"]]] == [what]
    assert snapshot(victim) == before and git(victim, "rev-parse", "HEAD")


def test_what_root_left_elsewhere_in_the_users_places_is_not_moved_by_a_manifest(shared: World) -> None:
    """A directory of the user's that the caller did not name, with something of root's in it."""
    what = as_user("nobody", lambda: swept(shared))["quarantined"][0]["id"]
    place = shared.root / "elsewhere"
    place.mkdir()
    os.chown(place, NOBODY.pw_uid, NOBODY.pw_gid)
    shutil.copytree(shared.root.parent / "victim/.git", place / ".git")
    (place / ".git").chmod(0o700)
    before = snapshot(place)
    forge(shared, what, restored_to=str(place), path=str(place))
    shutil.rmtree(f"{quarantine(shared)}/{what}/tree")
    with pytest.raises(LoopError, match="name a path"):
        restore(quarantine(shared), what)
    purge(quarantine(shared), Retention(age=0, min_age=0))
    assert snapshot(place) == before and (place / ".git").stat().st_uid == 0


def test_a_held_directory_that_is_a_link_is_not_followed_by_a_purge(shared: World) -> None:
    what = as_user("nobody", lambda: swept(shared))["quarantined"][0]["id"]
    held = shared.repo / ".git/loop-quarantine"
    elsewhere = shared.root / "mine"
    (elsewhere / what).mkdir(parents=True)
    (elsewhere / what / "note").write_text("kept")
    subprocess.run(["chown", "-R", "nobody", str(elsewhere)], check=True)
    held.rename(f"{held}.away")
    held.symlink_to(elsewhere)
    answer = purge(quarantine(shared), Retention(age=0, min_age=0))
    assert "is a link" in answer["stuck"][0]["why"] and (elsewhere / what / "note").read_text() == "kept"
