# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the user whose work it is can write: manifests, links, names, pipes. Root believes none of it."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.files import remove_tree
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user, whose
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.manifests import listing
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.restore import Chosen, restore
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.retention import Retention, purge
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.sweep import Scope, sweep
from leftovers import BRANCH, World, git, heal, quarantine, snapshot, swept, usable

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield World(tmp_path)
    remove_tree(str(tmp_path))  # deeper than pytest's own cleaning can go


@pytest.fixture
def shared() -> Iterator[World]:
    """A world of nobody's, and root's own repository beside it."""
    place = Path(tempfile.mkdtemp(prefix="loop-"))
    place.chmod(0o755)
    world = World(place / "world")
    world.worktree()
    victim = place / "victim"
    (victim / ".git").mkdir(parents=True)
    git(victim, "init", "-q", "-b", "main")
    git(victim, "commit", "-q", "--allow-empty", "-m", "root's")
    (victim / ".git").chmod(0o700)
    subprocess.run(["chown", "-R", f"{NOBODY.pw_uid}:{NOBODY.pw_gid}", str(place / "world")], check=True)
    yield world
    shutil.rmtree(place)


def one_line(error: LoopError) -> str:
    text = str(error)
    assert text.isprintable(), text
    return text


# --- 1: a manifest that somebody wrote --------------------------------------------------------


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


@ROOT
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


@ROOT
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


@ROOT
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


# --- 2: whose it is ---------------------------------------------------------------------------


@ROOT
def test_root_does_not_sweep_what_a_link_of_another_users_leads_to(shared: World) -> None:
    roots = shared.root.parent / "roots"
    roots.mkdir()
    (shared.root.parent / "victim").rename(roots / "victim")
    git(roots / "victim", "branch", "hyrule-feature/X/app")
    workspace = shared.root / "workspace"
    workspace.rename(shared.root / "away")
    workspace.symlink_to(roots)
    runs = shared.root.parent / "runs"
    runs.mkdir()
    for given in ({"workspace": str(workspace)}, {"repos": [str(workspace / "victim")]}):
        with pytest.raises(LoopError, match="is a link that root does not follow") as caught:
            sweep(Scope(str(runs), ["hyrule-feature"], **given))  # type: ignore[arg-type]
        one_line(caught.value)
    with pytest.raises(LoopError, match="is a link that root does not follow"):
        heal(shared, fresh=False, repo=str(workspace / "victim"), path=f"{runs}/x/worktrees/x")
    assert git(roots / "victim", "branch", "--list", "hyrule-feature/X/app")
    workspace.unlink()
    workspace.symlink_to(roots)  # root's own link in root's own directory is followed
    os.chown(shared.root, 0, 0)
    assert sweep(Scope(str(runs), ["hyrule-feature"], workspace=str(workspace)))["removed"]


@ROOT
def test_a_repository_in_another_users_directory_is_refused(shared: World) -> None:
    subprocess.run(["chown", "-R", "root:root", str(shared.repo)], check=True)
    with pytest.raises(LoopError, match=r"belongs to root and .* to nobody") as caught:
        heal(shared, fresh=False)
    one_line(caught.value)
    kept = sweep_two(shared)
    assert [one["path"] for one in kept["kept"]] == [str(shared.repo)] and "belongs to root" in kept["kept"][0]["why"]


def sweep_two(world: World) -> dict[str, Any]:
    """A sweep of the workspace with a second, sound checkout in it, which has a branch to take."""
    other = world.root / "workspace/zzz"
    other.mkdir()
    git(other, "init", "-q", "-b", "main")
    git(other, "commit", "-q", "--allow-empty", "-m", "one")
    git(other, "branch", BRANCH)
    if os.stat(world.runs).st_uid != os.geteuid():
        subprocess.run(["chown", "-R", str(os.stat(world.runs).st_uid), str(other)], check=True)
    began = time.monotonic()
    done = swept(world)
    assert time.monotonic() - began < 30
    assert BRANCH in done["removed"]
    return done


@ROOT
def test_root_works_in_its_own_repository_only_where_nobody_else_may_write_above_it(tmp_path: Path) -> None:
    place = tmp_path / "open/repo"
    place.mkdir(parents=True)
    assert whose(str(place)) == (str(place), 0)
    place.parent.chmod(0o777)
    with pytest.raises(LoopError, match="may be written by others"):
        whose(str(place))
    place.parent.chmod(0o1777)
    assert whose(str(place)) == (str(place), 0)
    os.chown(place, NOBODY.pw_uid, -1)
    place.parent.chmod(0o777)
    assert whose(str(place)) == (str(place), NOBODY.pw_uid)


@ROOT
def test_root_puts_nothing_of_its_own_into_another_users_directory(shared: World) -> None:
    victim = str(shared.root.parent / "victim")
    with pytest.raises(LoopError, match="root works in its own places only"):
        heal(shared, fresh=False, repo=victim)
    assert not git(Path(victim), "branch", "--list", BRANCH)


# --- 4: what is no repository any more --------------------------------------------------------

PARTS = ("HEAD", "config", "index", "packed-refs", "shallow", "info/exclude", "objects/info/alternates",
         "loop-worktrees.lock", "objects", "refs")  # fmt: skip


@pytest.mark.parametrize("kind", ["fifo", "directory", "link", "file"])
@pytest.mark.parametrize("part", PARTS)
def test_what_stands_in_the_place_of_a_part_stops_no_other_repository(world: World, part: str, kind: str) -> None:
    world.worktree()
    place = world.repo / ".git" / part
    place.parent.mkdir(exist_ok=True)
    remove_tree(str(place))
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "directory":
        (place / "x").mkdir(parents=True)
    elif kind == "link":
        place.symlink_to("/dev/zero")
    else:
        place.write_bytes(b"\xff[[[\n")
    began = time.monotonic()
    try:
        heal(world)
        if part != "objects/info/alternates":  # git goes on and says so in bytes that are no text
            usable(world)
    except LoopError as error:
        one_line(error)
    assert time.monotonic() - began < 20
    sweep_two(world)


# --- 7: manifests and names that are none -----------------------------------------------------

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


def test_ids_that_are_no_time_and_links_are_let_go_as_well(world: World) -> None:
    place = Path(quarantine(world))
    (place / "99999999T999999Z-00000000-0").mkdir(parents=True)
    (place / "20200101T000000Z-00000000-0").symlink_to(world.repo)
    (place / "20200101T000000Z-00000000-1").write_text("")
    before = snapshot(world.repo)
    answer = purge(quarantine(world), Retention(age=0, min_age=0))
    assert len(answer["purged"]) == 3 and not answer["stuck"] and listing(quarantine(world)) == []
    assert snapshot(world.repo) == before


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


# --- 9: deeper than a walk can go -------------------------------------------------------------


def deep(top: Path, levels: int = 3000) -> None:
    top.mkdir(parents=True)
    descriptor = os.open(top, os.O_RDONLY)
    for _level in range(levels):
        os.mkdir("dd", dir_fd=descriptor)
        inner = os.open("dd", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)


@pytest.mark.parametrize("where", ["tree", "admin", "refs", "held", "a space"])
def test_three_thousand_directories_are_no_matter(world: World, where: str) -> None:
    world.worktree()
    places = {
        "tree": world.path / "deep", "admin": world.admin / "deep", "refs": world.repo / f".git/refs/heads/{BRANCH}.x",
        "held": world.repo / ".git/loop-quarantine/x", "a space": world.path.parent / " ",
    }  # fmt: skip
    deep(places[where])
    began = time.monotonic()
    done = swept(world)
    assert time.monotonic() - began < 30
    assert str(world.path) in done["removed"]
    heal(world, fresh=False)
    usable(world)
    answer = purge(quarantine(world), Retention(age=0, min_age=0))
    assert answer["purged"] and not answer["stuck"] and all(one["size"] > 0 for one in answer["purged"])
    assert time.monotonic() - began < 60


@ROOT
def test_root_lets_go_of_what_it_left_however_deep(shared: World) -> None:
    what = as_user("nobody", lambda: swept(shared))["quarantined"][0]["id"]
    deep(Path(quarantine(shared), what, "tree/deep"))
    answer = as_user("nobody", lambda: purge(quarantine(shared), Retention(age=0, min_age=0)))
    assert "root's" in answer["stuck"][0]["why"]
    assert [one["id"] for one in purge(quarantine(shared), Retention(age=0, min_age=0))["purged"]] == [what]
    assert listing(quarantine(shared)) == []


def test_a_main_checkout_on_a_loop_branch_with_thousands_of_filters(world: World) -> None:
    git(world.repo, "checkout", "-q", "-b", BRANCH)
    proof = world.root / "ran"
    with (world.repo / ".git/config").open("a") as handle:
        handle.writelines(
            f'[filter "f{number}"]\n\tsmudge = touch {proof}; cat\n\trequired\n' for number in range(30_000)
        )
    (world.repo / ".git/info").mkdir(exist_ok=True)
    (world.repo / ".git/info/attributes").write_text("* filter=f7\n")
    began = time.monotonic()
    with pytest.raises(LoopError, match="defines 30000 filters"):
        heal(world, fresh=False)
    kept = sweep_two(world)["kept"]
    assert [one["path"] for one in kept] == [str(world.repo)]
    assert time.monotonic() - began < 30 and not proof.exists()
