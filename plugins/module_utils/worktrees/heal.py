# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Worktrees that never wedge and never lose work.

Every call reads the repository's truth once (``leftovers``), decides, and then acts: what is in the way goes into the
quarantine (``quarantine``), the new worktree is added.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from ..base.errors import LoopError
from ..base.files import alone_in
from ..base.untrusted import shown
from ..git.repository import Repo, check_branch, check_path, commits, default_of, files_below, filters_off, open_repo
from ..git.worktree_admin import check_outside
from ..host.processes import check_run_lock, processes, seen_by_root, user_of
from ..host.users import whose
from .leftovers import Inventory, healthy
from .owners import LOCK_SECONDS, as_owner
from .quarantine import Pass, check_free, clear
from .repository_repairs import leave_branch, repair_extensions, repair_strangers
from .whole_moves import check_apart, standing


@dataclass(frozen=True)
class Worktree:
    """The worktree that is asked for. ``quarantine`` is ``.quarantine`` beside it where it is not named."""

    repo: str
    path: str
    branch: str
    base_ref: str = "HEAD"  # the commit that the branch starts at
    quarantine: str | None = None
    run_lock: str | None = None  # the engine's lock: nothing is touched while a living process holds it


def ensure(wanted: Worktree, *, fresh: bool = False, check: bool = False) -> dict[str, Any]:
    """A usable worktree at the path on the branch, whatever stands there now; nothing anyone wrote is lost.

    Present and healthy (registered, on its branch, checkout usable): unchanged, unless ``fresh``.
    Everything else goes to the quarantine and the branch starts at ``base_ref``. Runs as the repository's owner; as
    root, root runs no git.

    Returns ``path branch head base_sha healed[] quarantined[] changed plan[]``; each of
    ``quarantined`` has ``id what from to branch tip why salvage_ref manifest``. ``check`` only plans.
    Raises LoopError (one line, nothing changed) for bad input and where something alive is at work.
    """
    base = wanted.base_ref
    if base.startswith("-") or not base.isprintable() or not base or " " in base:
        raise LoopError(f"base_ref {base!r} is not the name of a commit")
    return _healed(wanted, fresh, check)


def absent(wanted: Worktree, *, check: bool = False) -> dict[str, Any]:
    """Neither a worktree at the path nor the branch: both go to the quarantine. Returns as ``ensure``."""
    return _healed(replace(wanted, base_ref=""), True, check)


def _healed(given: Worktree, fresh: bool, check: bool) -> dict[str, Any]:
    check_branch(given.branch)
    path = check_path(given.path)
    if not os.path.isabs(given.repo):
        raise LoopError(f"repo {given.repo!r} must be absolute")
    beside = f"{standing(os.path.dirname(path))}/.quarantine"
    quarantine = check_path(given.quarantine, "quarantine") if given.quarantine else beside
    root = whose(given.repo)[0]
    check_apart(path, root, quarantine)
    check_run_lock(given.run_lock)
    wanted, before = replace(given, path=path), seen_by_root()

    def work(done: list[dict[str, Any]]) -> dict[str, Any]:
        repo = open_repo(root)
        with alone_in(repo.common, LOCK_SECONDS):
            # Looked at now: whom the lock was waited for is gone, and somebody else may have come.
            return _heal(repo, wanted, fresh, Pass(quarantine, processes(before), done, check))

    return shown(as_owner([root], [os.path.dirname(path), root, quarantine], work))  # type: ignore[no-any-return]


def _heal(repo: Repo, wanted: Worktree, fresh: bool, this: Pass) -> dict[str, Any]:
    path, branch = wanted.path, wanted.branch
    repair_extensions(repo, this)
    seen = Inventory.read(repo, [branch], [path])
    check_outside(path, seen.admins)
    parents = ["/".join(branch.split("/")[:count]) for count in range(1, branch.count("/") + 1)]
    base = _base(seen, wanted, parents) if wanted.base_ref else ""
    answer = {"path": path, "branch": branch, "head": "", "base_sha": base, "healed": this.healed, "plan": this.plan}
    mine = next((each for each in seen.admins if each.target == path), None)
    if base and not fresh and mine and branch in seen.refs and healthy(repo, mine, branch):
        holder = user_of(path, this.running)
        if holder:
            raise LoopError(f"{path} is in use: {holder}; nothing was touched")
        return {**answer, "head": seen.refs[branch][0], "changed": False}
    leftovers = seen.in_the_way(path, branch)
    check_free(leftovers, this.running, this.quarantine)
    if seen.head in (branch, *parents) and seen.head in seen.refs:
        leave_branch(repo, seen.head, this)
    clear(repo, leftovers, this)
    repair_strangers(repo, seen.strangers(leftovers), this)
    if base:
        this.plan.append(f"add worktree {path} on {branch} at {base}")
        if not this.check:
            add(repo, path, branch, base)
    return {**answer, "head": base, "changed": bool(this.plan)}


def _base(seen: Inventory, wanted: Worktree, parents: list[str]) -> str:
    """The commit that the branch starts at. The branches among ``parents``, which are in its way, are added to refs.

    Only a new worktree needs the names above its branch: without one, what is called so is not in the way.
    """
    repo, name = seen.repo, f"{wanted.base_ref}^{{commit}}"
    if wanted.base_ref in ("HEAD", "@") and seen.head in (wanted.branch, *parents):
        name = default_of(repo, seen.head)[1]
    base, *blocking = commits(repo, [name, *(f"refs/heads/{each}" for each in parents)])
    if not base:
        raise LoopError(_no_base(repo, wanted.base_ref))
    seen.refs.update({each: (commit, "") for each, commit in zip(parents, blocking, strict=True) if commit})
    return base


def _no_base(repo: Repo, base_ref: str) -> str:
    if not files_below(f"{repo.common}/objects"):
        return f"{repo.path} has no commit yet: there is nothing that a worktree could start from"
    shallow = os.path.exists(f"{repo.common}/shallow")
    depth = " (this is a shallow clone: it may lie beyond its depth)" if shallow else ""
    return f"base_ref {base_ref!r} names no commit in {repo.path}, or more than one{depth}"


def add(repo: Repo, path: str, branch: str, base: str) -> None:
    """git worktree add, without hooks or filters; what it leaves when it fails is the next heal's work."""
    os.makedirs(os.path.dirname(path), mode=0o750, exist_ok=True)
    repo.git(["worktree", "add", "--quiet", "--no-track", "-b", branch, "--", path, base], config=filters_off(repo))
