# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is written of a quarantined thing, and what is made of a manifest that cannot be believed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.manifests import Manifest, listing
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.restore import Chosen, restore
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.retention import Retention, purge
from worlds import BRANCH, World, one_line, quarantine, swept


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


DAMAGED: dict[str, bytes | None] = {
    "a list": b"[1]",
    "empty": b"",
    "brackets": b"[" * 200_000,
    "brackets in it": b'{"repo": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "large": b'{"what": "' + b"x" * 15_000_000 + b'"}',
    "no text": b"\xff\xfe\xfd",
    "a number without end": b'{"size": 1e999}',
    "a wrong repo": b'{"what": "x", "repo": "relative"}',
    "a fifo": None,
    "a directory": None,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_manifest_stops_neither_list_nor_purge_nor_restore(world: World, name: str) -> None:
    content = DAMAGED[name]
    world.worktree()
    world.worktree(world.other, "hyrule-feature/ISSUE_APP_2/app")
    bad, good = sorted(one["id"] for one in swept(world)["quarantined"] if one["what"] == "worktree")
    manifest = Path(quarantine(world), bad, "manifest.json")
    manifest.unlink()
    if content is None:
        (os.mkfifo if name == "a fifo" else os.mkdir)(manifest)
    else:
        manifest.write_bytes(content)
    told = {one["id"]: one for one in listing(quarantine(world))}
    assert told[bad]["what"] == "damaged" and told[bad]["why"] and told[good]["what"] == "worktree"
    json.dumps(list(told.values()), ensure_ascii=False).encode()
    with pytest.raises(LoopError, match=r"damaged manifest .*name the repository") as caught:
        restore(quarantine(world), bad)
    one_line(caught.value)
    assert restore(quarantine(world), good)["registered"]
    back = restore(quarantine(world), bad, Chosen(repo=str(world.repo), path=str(world.root / "back")))
    assert (Path(back["path"]) / "untracked.txt").exists()
    answer = purge(quarantine(world), Retention(age=0, min_age=0))
    assert {one["id"] for one in answer["purged"]} >= {bad, good} and not answer["stuck"]


def test_a_name_that_is_no_text_is_kept_listed_restored_and_let_go(world: World) -> None:
    path = Path(os.fsdecode(os.fsencode(world.runs) + b"/caf\xe9/worktrees/caf\xe9"))
    path.parent.mkdir(parents=True)
    world.worktree(path)
    stray = path.parent / os.fsdecode(b"\xff\n\x1b[31m")
    stray.mkdir()
    (path / os.fsdecode(b"\xfe")).write_text("mine")
    done = swept(world)
    json.dumps(done, ensure_ascii=False).encode()
    assert any("caf\\xe9" in one for one in done["removed"])
    told = listing(quarantine(world))
    json.dumps(told, ensure_ascii=False).encode()
    assert all(one["from"].isprintable() for one in told)
    what = next(one["id"] for one in told if one["what"] == "worktree")
    back = restore(quarantine(world), what)
    json.dumps(back, ensure_ascii=False).encode()
    assert (path / os.fsdecode(b"\xfe")).read_text() == "mine" and not restore(quarantine(world), what)["changed"]
    json.dumps(purge(quarantine(world), Retention(age=0, min_age=0)), ensure_ascii=False).encode()
    assert listing(quarantine(world)) == []
