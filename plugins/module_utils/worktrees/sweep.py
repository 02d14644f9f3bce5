# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole workspace: every leftover that a coming run would trip over, in one pass per repository."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..base.errors import Denied, LoopError
from ..base.files import alone_in, inside
from ..base.untrusted import shown
from ..git.repository import Repo, check_branch, check_path, open_repo
from ..git.worktree_admin import Admin
from ..host.processes import Running, check_run_lock, processes, seen_by_root
from ..host.users import name_of, whose
from .leftovers import Inventory, Leftover, change_of, strays, touched, trees_below
from .owners import LOCK_SECONDS, as_owner
from .quarantine import Pass, check_free, clear
from .repository_repairs import leave_branch, repair_extensions, repair_strangers
from .retention import Retention, purge

TOLD_TO_KEEP = "keep names"


@dataclass(frozen=True)
class Scope:
    """What a sweep may take.

    Leftovers are the worktrees below ``worktree_root`` (``<root>/<run>/worktrees/<name>``; the rest
    of a run's directory stays), the branches called one of ``branch_prefixes`` or below one, and what
    dead processes left in the repositories. ``repos`` are named, or are all in ``workspace``.
    """

    worktree_root: str
    branch_prefixes: Sequence[str]
    repos: Sequence[str] = ()
    workspace: str | None = None
    keep: Sequence[str] = ()  # paths, branches or change ids to leave
    older_than: float = 0  # seconds that a leftover must have been left alone
    quarantine: str | None = None  # <worktree_root>/.quarantine where it is not named
    run_lock: str | None = None  # the engine's lock: nothing is touched while a living process holds it

    def checked(self) -> Scope:
        """The same with its paths resolved; LoopError where it asks for what is not to be swept."""
        for prefix in self.branch_prefixes:
            check_branch(prefix)
        if not all(each.strip() for each in self.keep):
            raise LoopError("keep holds an empty entry: name paths, branches or change ids")
        root = os.path.realpath(check_path(self.worktree_root, "worktree_root"))
        if any(inside(root, each) or inside(each, root) for each in self.repos):
            raise LoopError(f"worktree_root {root} and a repository lie one inside the other")
        quarantine = check_path(self.quarantine, "quarantine") if self.quarantine else f"{root}/.quarantine"
        return replace(self, worktree_root=root, quarantine=quarantine)


def sweep(given: Scope, retention: Retention | None = None, *, check: bool = False) -> dict[str, Any]:
    """Take every leftover of ``given`` out of the way; ``retention`` also empties the quarantine by ``purge``.

    Returns ``removed[] kept[]{path,why} quarantined[] purged[] healed[] plan[] changed``.
    Raises LoopError while the run lock is held by a living process; a single leftover that is in
    use or cannot be moved is ``kept`` with the reason and stops nothing else.
    """
    found, strange = _checkouts(given.workspace) if given.workspace else ([], [])
    roots = list(dict.fromkeys([*(whose(repo)[0] for repo in given.repos), *found]))
    if not roots:
        why = f": {strange[0]['why']}" if strange else ""
        raise LoopError(f"no repository to sweep{f' in {given.workspace}' if given.workspace else ''}{why}")
    scope = replace(given, repos=roots).checked()
    root, quarantine = scope.worktree_root, scope.quarantine or ""
    check_run_lock(scope.run_lock)
    before, root_waits = seen_by_root(), os.geteuid() == 0

    def work(done: list[dict[str, Any]]) -> dict[str, Any]:
        this = Pass(quarantine, Running([]), done, check, kept=[], root=root_waits)
        with contextlib.ExitStack() as stack:
            repos = _open_all(roots, stack, this)
            this.running = processes(before)  # now, when the locks are ours
            return _sweep(repos, scope, this)

    answer: dict[str, Any] = as_owner(roots, [root, quarantine, *roots], work)
    answer["purged"], answer["kept"] = [], strange + answer["kept"]
    if retention is not None:
        gone = purge(quarantine, retention, check=check, within=[scope.workspace] if scope.workspace else roots)
        answer["purged"] = gone["purged"]
        answer["kept"] += [{"path": f"{quarantine}/{one['id']}", "why": one["why"]} for one in gone["stuck"]]
    answer["changed"] = bool(answer["plan"] or answer["purged"])
    return shown(answer)  # type: ignore[no-any-return]


def _checkouts(workspace: str) -> tuple[list[str], list[dict[str, str]]]:
    """The checkouts in the workspace, and those that are not its owner's, each with the reason why it is left."""
    if not os.path.isdir(workspace):
        raise LoopError(f"workspace {workspace} is not a directory")
    top, owner = whose(workspace)
    found: list[str] = []
    strange: list[dict[str, str]] = []
    for path in (os.path.join(top, name) for name in sorted(os.listdir(top))):
        if os.path.islink(path) or not os.path.isdir(f"{path}/.git"):
            continue
        try:
            uid = whose(path)[1]
            if uid != owner:
                raise LoopError(f"{path} belongs to {name_of(uid)} and {top} to {name_of(owner)}")
        except LoopError as error:
            strange.append({"path": path, "why": str(error)})
        else:
            found.append(path)
    return found, strange


def _open_all(roots: Sequence[str], stack: contextlib.ExitStack, this: Pass) -> list[Repo]:
    """The repositories, each locked on ``stack``; what is none any more is kept. LoopError where that is all."""
    opened: list[Repo] = []
    free: list[Repo] = []
    for root in roots:
        try:
            opened.append(open_repo(root))
            stack.enter_context(alone_in(opened[-1].common, LOCK_SECONDS))
            free.append(opened[-1])
        except (LoopError, Denied) as error:
            this.keep(root, error)
    if not opened and this.kept:
        raise LoopError(this.kept[0]["why"])
    return free


def _sweep(repos: list[Repo], scope: Scope, this: Pass) -> dict[str, Any]:
    trees = trees_below(scope.worktree_root)
    work: list[tuple[Repo | None, list[Leftover], list[Admin]]] = []
    for repo in repos:
        try:
            repair_extensions(repo, this)
            seen = Inventory.read(repo, scope.branch_prefixes, trees)
            leftovers = seen.of_runs(scope.worktree_root, this.quarantine, scope.branch_prefixes, trees)
            if seen.head in seen.refs:
                leave_branch(repo, seen.head, this)
        except (LoopError, OSError, ValueError, Denied) as error:  # one damaged repository does not stop the others
            if isinstance(error, Denied) and this.root:
                raise
            this.keep(repo.path, error)
            continue
        work.append((repo, leftovers, seen.strangers(leftovers)))
    work.append((None, strays(trees, [item for _repo, leftovers, _admins in work for item in leftovers]), []))
    for owner, leftovers, strangers in work:
        reasons = [(leftover, _reason_to_keep(leftover, scope, this)) for leftover in leftovers]
        for leftover, why in reasons:
            if why:
                this.keep(leftover.target or leftover.branch or leftover.debris[0], why)
        clear(owner, [leftover for leftover, why in reasons if not why], this)
        if owner:
            repair_strangers(owner, strangers, this)
    removed = [entry["from"] for entry in this.done]
    return {"removed": removed, "kept": this.kept, "healed": this.healed, "plan": this.plan}


def _reason_to_keep(leftover: Leftover, scope: Scope, this: Pass) -> str:
    """Why a sweep leaves this leftover alone; empty where it goes."""
    names = {leftover.branch, *(leftover.admin.branches if leftover.admin else ())}
    changes = {part.lower() for name in names for part in name.split("/")[1:2]}
    changes |= {change_of(leftover.target, leftover.branch).lower()} - {""}
    for wanted in scope.keep:
        below = wanted.startswith("/") and leftover.target and inside(leftover.target, os.path.normpath(wanted))
        if below or wanted in names or wanted.lower() in changes:
            return f"{TOLD_TO_KEEP} {wanted}"
    age = time.time() - touched(leftover)
    if scope.older_than and not leftover.debris and age < scope.older_than:
        return f"left alone for {max(age, 0):.0f} s only, less than {scope.older_than:.0f} s"
    try:
        check_free([leftover], this.running, this.quarantine)
    except LoopError as error:
        return str(error)
    return ""
