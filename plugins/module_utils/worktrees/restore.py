# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Putting a quarantined thing back, byte for byte: what a caller and a manifest may ask for, and where it goes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..base.errors import LoopError
from ..base.files import alone_in, inside, size_of
from ..base.untrusted import show, shown
from ..git.repository import check_branch, check_path, open_repo
from ..git.worktree_admin import admins_of, check_outside
from ..host.processes import check_run_lock
from ..host.users import whose
from .manifests import ID, Manifest, write_manifest
from .moves import check_apart, standing
from .owners import LOCK_SECONDS, as_owner, owner_of
from .reattach import move_back, put_back
from .salvage import SALVAGE


@dataclass(frozen=True)
class Chosen:
    """What the caller chooses of what comes back; what is None is as the manifest says."""

    repo: str | None = None
    path: str | None = None
    branch: str | None = None


AS_IT_WAS = Chosen()


def restore(
    quarantine: str,
    what: str,
    chosen: Chosen = AS_IT_WAS,
    *,
    within: Sequence[str] = (),
    run_lock: str | None = None,
    check: bool = False,
) -> dict[str, Any]:
    """Put the quarantined thing ``what`` (its id, or one of its salvage refs) back, byte for byte.

    The tree returns to the chosen path: by default to where it stood if that is free, else beside it with
    the id in its name. The branch gets its old name if that is free, else ``loop-restored/<id>/<name>``;
    HEAD, index, reflog and a rebase in progress are as they were. A branch that had no tree gets a
    new worktree. A repository is chosen only where the manifest does not name it. What was restored and
    still stands where it was put is unchanged.

    What the manifest says is input: a place that it names must lie beside the quarantine or in one of ``within``, or
    the caller names it, and a repository that it names must belong to the quarantine's owner (and lie in one of
    ``within``, where any are given). Root acts in what the caller named only.

    Returns ``id path branch head registered plan[] changed``: ``registered`` is whether git knows it
    as a worktree (what no repository knew before is only moved back).
    """
    order = _order(quarantine, what, chosen, within)
    before = order.restored_before()
    if before:
        if order.path not in (None, before["path"]) or order.branch not in (None, before["branch"]):
            raise LoopError(f"{order.id} was restored before, it stands at {show(before['path'])}")
        return {"id": order.id, **shown(before)}
    if order.path:
        _check_aim(order, order.path)
    check_run_lock(run_lock)
    repos = [order.repo, order.quarantine] if order.repo else [order.quarantine]
    answer: dict[str, Any] = as_owner(repos, order.places, lambda _done: order.carry_out(check))
    answer.pop("quarantined")
    return {"id": order.id, **shown(answer)}


@dataclass(frozen=True)
class _Order:
    """A restore as it was asked for, its names checked."""

    quarantine: str
    manifest: Manifest
    repo: str  # of the caller, or of the manifest; empty where neither names one
    path: str | None
    branch: str | None
    named: Sequence[str]  # directories in one of which a place that the manifest names must lie
    places: Sequence[str]  # those in which root may act
    uid: int

    @property
    def id(self) -> str:
        return self.manifest.id

    def admits(self, path: str) -> bool:
        """May a thing go to this place that a manifest names: no link, in a place of the caller's, and the user's?"""
        above = standing(os.path.dirname(path))
        if os.path.realpath(above) != above or os.lstat(above).st_uid not in (0, self.uid):
            return False
        return any(each != "/" and inside(path, each) and path != each for each in self.named)

    def restored_before(self) -> dict[str, Any] | None:
        """The answer of the restore that put the thing where it still stands; None where it has to be done."""
        known, path = self.manifest.restored, self.manifest.restored_to
        if not known or not path or not self.admits(path) or not os.path.lexists(path):
            return None
        if os.lstat(path).st_ino != known.inode:
            return None
        told = {"branch": known.branch, "head": known.head, "registered": known.registered}
        return {"path": path, **told, "plan": [], "changed": False}

    def told_again(self) -> Manifest:
        """The manifest, which a step of root's may have to be gone on from, without places that it may not choose."""
        told = Manifest.read(self.manifest.directory)
        if told.restored and told.restored_to == self.manifest.restored_to:
            # whole, once, and taken away since: only its commits are left to give
            told = replace(told, restored_to="", restored_as="")
        if self.path is not None:
            return replace(told, path="", restored_to="")
        for path in filter(None, (told.path, told.restored_to)):
            if not self.admits(path):
                raise LoopError(
                    f"{told.directory}/manifest.json says {show(path)}, which does not lie in"
                    f" {' or '.join(self.named)}: name a path"
                )
        return told

    def carry_out(self, check: bool) -> dict[str, Any]:
        """Put it back, as its owner."""
        repo = open_repo(self.repo) if self.repo else None
        with alone_in(repo.common if repo else self.quarantine, LOCK_SECONDS):
            told = self.told_again()
            if repo:
                check_outside(self.path or told.path or "/", admins_of(repo))
                answer = put_back(repo, told, self.path, self.branch, check)
            else:
                answer = move_back(told, self.path, check)
            if not check:
                known = {key: answer[key] for key in ("branch", "head", "registered")}
                restored = {**known, "inode": os.lstat(answer["path"]).st_ino}
                write_manifest(told.directory, {"restored": restored})
        return answer


def _order(quarantine: str, what: str, chosen: Chosen, within: Sequence[str]) -> _Order:
    """LoopError where the id, a name or a place cannot be what is meant."""
    found = ID.search(what)
    if not found:
        raise LoopError(f"{what!r} is neither the id of a quarantined thing nor a ref below {SALVAGE}/")
    check_path(quarantine, "quarantine")
    quarantine = whose(quarantine)[0] if os.path.lexists(quarantine) else quarantine
    manifest = Manifest.read(os.path.join(quarantine, found[0]))
    if chosen.repo and not os.path.isabs(chosen.repo):
        raise LoopError(f"repo {chosen.repo!r} must be absolute")
    others = [whose(each)[0] for each in within]
    repo = whose(chosen.repo)[0] if chosen.repo else _told_repo(manifest, others)
    if not repo and not manifest.tree:
        lacks = f"a damaged manifest ({manifest.damaged})" if manifest.damaged else "no manifest"
        raise LoopError(f"{manifest.directory} has {lacks}: name the repository that holds {SALVAGE}/{manifest.id}")
    path = check_path(chosen.path) if chosen.path else None
    if chosen.branch:
        check_branch(chosen.branch)
    named = [os.path.dirname(quarantine), quarantine, *others]
    places = [*named, *([repo] if chosen.repo else []), *([os.path.dirname(path)] if path else [])]
    # Whoever may write a manifest must not choose as whom it is acted on.
    uid = owner_of([repo, quarantine] if repo else [quarantine])
    return _Order(quarantine, manifest, repo, path, chosen.branch or None, named, places, uid)


def _told_repo(manifest: Manifest, others: Sequence[str]) -> str:
    """The repository that a manifest names, if it names one, where that is no link and lies in one of ``others``."""
    told = manifest.repo
    if told and (whose(told)[0] != told or (others and not any(inside(told, each) for each in others))):
        where = f"outside of {', '.join(others)}" if others else "behind a link"
        raise LoopError(f"the manifest of {manifest.id} names a repository {where}: name the repository yourself")
    return told


def _check_aim(order: _Order, path: str) -> None:
    """LoopError where the tree cannot go to ``path``."""
    if os.path.lexists(path):
        raise LoopError(f"{path} is taken: choose another path")
    check_apart(path, order.repo, order.quarantine)
    tree = order.manifest.tree_path
    if os.path.lexists(tree) and os.lstat(tree).st_dev != os.stat(standing(os.path.dirname(path))).st_dev:
        raise LoopError(
            f"{path} is on another file system than {tree}: it would have to copy {size_of(tree)} bytes; "
            f"choose a path on the file system of {order.quarantine}"
        )
