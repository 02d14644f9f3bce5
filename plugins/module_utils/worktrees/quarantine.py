# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking leftovers out of the way, in steps of which each leaves a state that the next call understands.

One quarantined thing has one id. Its parts are ``<quarantine>/<id>/tree`` (the directory or file as
it stood), ``<quarantine>/<id>/manifest.json``, ``<git dir>/loop-quarantine/<id>/…`` (what lay inside
the repository's git directory, under the same relative path) and ``refs/loop-salvage/<id>/…`` (every
commit that would have become unreachable). Nothing is ever copied: a part moves by one ``rename``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..base.clock import utc_now
from ..base.errors import Denied, LoopError, playbook
from ..git.locks import lock_holder
from ..git.repository import Repo, read_small
from ..host.processes import Running, user_of
from .leftovers import Leftover, change_of
from .manifests import ID, new_id, write_manifest
from .owners import needs_root
from .salvage import find_unreachable, free_branches, put_aside, salvage_refs
from .whole_moves import move, other_file_system, standing

MARK = "quarantined-as"  # in an admin directory: the id that a pass gave it


@dataclass
class Pass:
    """One run of the healer over one or more repositories."""

    quarantine: str
    running: Running
    done: list[dict[str, Any]]  # what was quarantined, as it is returned
    check: bool = False
    healed: list[str] = field(default_factory=list)
    plan: list[str] = field(default_factory=list)
    # With a list, what cannot go is added there with its reason and the rest goes on; without, the reason is raised.
    kept: list[dict[str, str]] | None = None
    root: bool = False  # what this user may not do is done by root, who waits for it

    def keep(self, path: str, why: str | Exception) -> None:
        """Leave what is at ``path``, and say why."""
        if self.kept is None:
            raise why if isinstance(why, Exception) else LoopError(why)
        self.kept.append({"path": path, "why": needs_root(why.source) if isinstance(why, Denied) else str(why)})

    @contextlib.contextmanager
    def keeping(self, leftover: Leftover, *tolerated: type[Exception]) -> Iterator[None]:
        """A step of one leftover's: where it fails with one of ``tolerated``, that one is kept, if any may be."""
        try:
            yield
        except tolerated as error:
            if isinstance(error, Denied) and self.root:
                raise
            self.keep(leftover.target or leftover.branch or leftover.debris[0], error)
            self.done[:] = [record for record in self.done if record["id"] != leftover.id]


def check_free(leftovers: Iterable[Leftover], running: Running, quarantine: str) -> None:
    """LoopError where something alive uses a leftover, or where it cannot be renamed into the quarantine."""
    for leftover in leftovers:
        for directory in [leftover.path, leftover.admin.directory if leftover.admin else ""]:
            holder = user_of(directory, running) if directory else None
            if holder:
                raise LoopError(f"{leftover.target} is in use: {holder}; nothing was touched")
        for lock in (name for name in leftover.debris if name.endswith((".lock", ".new"))):
            holder = lock_holder(lock, leftover.repo, running) if leftover.repo else None
            if holder:
                raise LoopError(f"{lock} is held by {holder}: wait for it to end; nothing was touched")
        if leftover.path:
            device = os.lstat(leftover.path).st_dev
            if device != os.lstat(os.path.dirname(leftover.path)).st_dev:
                raise LoopError(f"{leftover.path} is a mount point: unmount it first")
            if device != os.stat(standing(quarantine)).st_dev:
                raise LoopError(other_file_system(leftover.path, quarantine))


def clear(repo: Repo | None, leftovers: list[Leftover], this: Pass) -> None:
    """Take ``leftovers`` of one repository (or of none) out of the way, all in one batch.

    Describe them, keep every commit reachable and free the branches (one ref transaction), rename the trees and their
    admin directories into the quarantine.
    """
    for number, leftover in enumerate(leftovers):
        leftover.id = _id_of(leftover, number, this)
    try:
        if repo:
            find_unreachable(repo, leftovers, this.check)
    except LoopError as error:
        this.keep(repo.path if repo else "", error)
        return
    going = []
    for leftover in leftovers:
        with this.keeping(leftover, Denied):  # a quarantine that cannot be written stops them all
            describe(leftover, this)
            this.plan.append(f"quarantine {leftover.words()}: {leftover.why}")
            if not this.check:
                _put_aside(leftover, *leftover.debris)
            going.append(leftover)
    if this.check:
        return
    stuck = free_branches(repo, going, tolerant=this.kept is not None) if repo else {}
    for leftover in going:
        with this.keeping(leftover, LoopError, Denied):
            if leftover.id in stuck:
                raise stuck[leftover.id]
            if leftover.path:
                move(leftover.path, os.path.join(this.quarantine, leftover.id, "tree"))
            if leftover.admin:
                _put_aside(leftover, leftover.admin.directory)
            this.healed.append(leftover.words())


def _id_of(leftover: Leftover, number: int, this: Pass) -> str:
    """A new id, or the one that a pass which was cut off gave it: its work goes on under the same."""
    mark = read_small(f"{leftover.admin.directory}/{MARK}") if leftover.admin else None
    if not mark or not ID.fullmatch(mark):
        return new_id(number)
    moved = os.path.lexists(os.path.join(this.quarantine, mark, "tree"))
    return new_id(number) if moved and leftover.path else mark


def describe(leftover: Leftover, this: Pass) -> None:
    """Mark the admin directory with the id, write the manifest, and report the thing as quarantined."""
    directory = os.path.join(this.quarantine, leftover.id)
    tree = os.path.join(directory, "tree")
    moved = not leftover.path and os.path.lexists(tree)  # by a pass that was cut off, or by root
    has_tree = bool(leftover.path) or moved
    admin, refs = leftover.admin, salvage_refs(leftover)
    both = {
        "id": leftover.id,
        "what": "worktree" if moved and admin else leftover.what,
        "why": leftover.why,
        "branch": leftover.branch or next(iter(admin.branches if admin else ()), ""),
        "tip": leftover.tip,
    }
    manifest = {
        **both,
        "when": utc_now(),
        "from": leftover.target or leftover.branch,
        "path": leftover.target,
        "tree": has_tree,
        "repo": leftover.repo.path if leftover.repo else "",
        "admin": admin.name if admin else "",
        "change_id": change_of(leftover.target, leftover.branch),
        "head": leftover.head,
        "salvage": refs,
        "debris": leftover.debris,
        "uid": os.lstat(leftover.path or tree).st_uid if has_tree else os.geteuid(),
        "size": None,  # to measure it takes longer than to move it: the first look of retention does
        "restore": f"{playbook('restore')} -e what={leftover.id}",
    }
    if not this.check:
        # First: a pass that goes on later must go on under the id of the manifest.
        if leftover.repo and admin and not os.path.islink(admin.directory):
            _mark(leftover.repo, admin.directory, leftover.id)
        write_manifest(directory, manifest)
    to, manifest_path = tree if has_tree else directory, os.path.join(directory, "manifest.json")
    ref = next(iter(refs), None)
    this.done.append({**both, "from": leftover.name, "to": to, "salvage_ref": ref, "manifest": manifest_path})


def _mark(repo: Repo, directory: str, name: str) -> None:
    # Not written by rename: a half-written mark is no id, and is then ignored.
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        with os.fdopen(os.open(f"{directory}/{MARK}", flags, 0o600), "wb") as handle:
            handle.write(name.encode())
    except PermissionError as error:
        if os.lstat(directory).st_uid != os.geteuid():
            raise Denied(repo.common, "") from error
    except OSError:
        return  # it serves only a pass that is cut off


def _put_aside(leftover: Leftover, *files: str) -> None:
    if leftover.repo:
        put_aside(leftover.repo, leftover.id, files)
