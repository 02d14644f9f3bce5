# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long quarantined things are kept: what is too old, or too much, is deleted for good. Nothing else deletes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..base.clock import age_of
from ..base.errors import Denied, LoopError
from ..base.files import alone_in, inside, remove_tree, size_of
from ..base.untrusted import opened, show, shown
from ..git.repository import Repo, open_repo
from ..host.users import name_of, whose
from .manifests import ID, Manifest, manifests, write_manifest
from .owners import LOCK_SECONDS, as_owner, needs_root
from .salvage import ASIDE, drop_refs
from .whole_moves import mounts_below


@dataclass(frozen=True)
class Retention:
    """What may go: what is older than ``age`` seconds, then the oldest while the whole exceeds ``size`` bytes.

    Never what is younger than ``min_age`` seconds. None is no limit.
    """

    age: float | None = None
    size: float | None = None
    min_age: float | None = 86400


@dataclass
class _Thing:
    """One quarantined thing, measured."""

    manifest: Manifest
    repo: Repo | None  # where the rest of it is, if it may be touched
    age: float  # seconds
    size: int  # bytes on disk

    @property
    def aside(self) -> str:
        """What lies of it in the repository's git directory."""
        return os.path.join(self.repo.common, ASIDE, self.manifest.id) if self.repo else ""


def purge(quarantine: str, keep: Retention, *, check: bool = False, within: Sequence[str] = ()) -> dict[str, Any]:
    """Delete for good what need not be kept any more.

    Runs as the quarantine's owner. Of a repository that a manifest names only what has the thing's id goes, and only
    if it is the owner's (and lies in one of ``within``, if given).
    Returns ``purged[]{id,from,size,age,why} stuck[]{id,from,why} left size``: ``stuck`` would have gone, but cannot.
    """
    if not os.path.isdir(quarantine):
        return {"purged": [], "stuck": [], "left": 0, "size": 0}
    quarantine, root_waits = whose(quarantine)[0], os.geteuid() == 0
    places = [whose(each)[0] for each in within]

    def work(_done: list[dict[str, Any]]) -> dict[str, Any]:
        things = [_measured(manifest, places, check) for manifest in manifests(quarantine)]
        return _purge(things, keep, check, root_waits)

    with alone_in(quarantine, LOCK_SECONDS):  # to the end: what is half gone must not be put back
        answer: dict[str, Any] = as_owner([quarantine], [quarantine], work)
        answer.pop("quarantined")
        for gone in [each for each in answer["purged"] if each.pop("root") and not check]:
            try:
                _delete_as_root(quarantine, gone["id"])
            except LoopError as error:
                answer["purged"].remove(gone)
                answer["stuck"].append({"id": gone["id"], "from": gone["from"], "why": str(error)})
    return shown(answer)  # type: ignore[no-any-return]


def _measured(manifest: Manifest, places: Sequence[str], check: bool) -> _Thing:
    # An id that tells no moment is older than every other.
    thing = _Thing(manifest, _repo_of(manifest, places), age_of(manifest.id) or time.time(), 0)
    thing.size = size_of(manifest.directory) + (size_of(thing.aside) if thing.repo else 0)
    if manifest.size is None and manifest.described and not check:
        with contextlib.suppress(LoopError, Denied):  # a full disk is what this is to help with
            write_manifest(manifest.directory, {"size": thing.size})
    return thing


def _purge(things: Sequence[_Thing], keep: Retention, check: bool, root_waits: bool) -> dict[str, Any]:
    total, purged, stuck = sum(thing.size for thing in things), [], []
    broken: dict[str, str] = {}  # repositories in which git does not work: each is tried once
    for thing in things:
        why = "older than its time" if keep.age is not None and thing.age > keep.age else ""
        if not why and keep.size is not None and total > keep.size:
            why = "the quarantine is larger than allowed"
        if not why or thing.age < (keep.min_age or 0):
            continue
        told = {"id": thing.manifest.id, "from": thing.manifest.origin}
        try:
            for_root = _is_for_root(thing.manifest.directory, root_waits)
            if not check:
                _delete(thing, broken, for_root)
        except (LoopError, OSError, Denied) as error:
            stuck.append({**told, "why": needs_root(error.source) if isinstance(error, Denied) else str(error)})
            continue
        total -= thing.size
        purged.append({**told, "size": thing.size, "age": int(thing.age), "why": why, "root": for_root})
    return {"purged": purged, "stuck": stuck, "left": len(things) - len(purged), "size": total}


def _is_for_root(directory: str, root_waits: bool) -> bool:
    """Whether root has to delete it. LoopError where not all of a thing can go: it goes whole or not at all."""
    mounted = mounts_below(directory)
    if mounted:
        raise LoopError(f"{mounted[0]} is mounted in it: unmount it first")
    if os.geteuid() == 0:
        return False
    others = _owners_below(directory) - {os.geteuid()}
    for owner in others - {0}:
        raise LoopError(f"something in {directory} belongs to uid {owner}: give it to {name_of(os.geteuid())} (chown)")
    if others and not root_waits:
        raise LoopError(f"something in {directory} is root's: let root purge it (git_worktree_sweep as root)")
    return bool(others)


def _owners_below(directory: str) -> set[int]:
    """Whose the directories in ``directory`` are (find knows no depth at which it ends)."""
    command = ["find", directory, "-xdev", "-type", "d", "!", "-uid", str(os.geteuid()), "-printf", "%U\n"]
    found = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, cwd="/").stdout
    return {int(each) for each in found.split() if each.isdigit()}


def _repo_of(manifest: Manifest, places: Sequence[str]) -> Repo | None:
    """The repository that the manifest names, where it is one of this user's and lies where it may lie."""
    told = manifest.repo
    try:
        if not told or os.path.realpath(told) != told or (places and not any(inside(told, each) for each in places)):
            return None
        repo = open_repo(told)
        return repo if {os.lstat(each).st_uid for each in (told, repo.common)} == {os.geteuid()} else None
    except (LoopError, OSError):
        return None


def _delete(thing: _Thing, broken: dict[str, str], for_root: bool) -> None:
    """First the refs, then what is on disk, the manifest last: cut off anywhere, the next purge goes on."""
    repo = thing.repo
    if repo:
        if repo.path in broken:
            raise LoopError(broken[repo.path])
        try:
            drop_refs(repo, thing.manifest.id)
        except LoopError as error:
            broken[repo.path] = str(error)
            raise
        if os.path.islink(os.path.dirname(thing.aside)):
            raise LoopError(f"{os.path.dirname(thing.aside)} is a link: remove it")
        remove_tree(thing.aside)
    if not for_root:  # else root does it, when all else is gone
        remove_tree(os.path.join(thing.manifest.directory, "tree"))
        remove_tree(thing.manifest.directory)


def _delete_as_root(quarantine: str, name: str) -> None:
    """Delete what lies in the user's quarantine as root: from its open directory on, where rm follows no link."""
    if not ID.fullmatch(name):
        raise LoopError(f"{show(name)} is no id")
    with opened(quarantine) as top:
        done = subprocess.run(
            ["rm", "-rf", "--one-file-system", "--", name], cwd=f"/proc/self/fd/{top}", pass_fds=[top],
            stdin=subprocess.DEVNULL, capture_output=True, check=False,
        )  # fmt: skip
    if done.returncode:
        told = done.stderr.decode("utf-8", "surrogateescape").splitlines() or ["no message"]
        raise LoopError(f"{quarantine}/{name} cannot be removed: {show(told[0])}")
