# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Worktrees that never wedge and never lose work.

Every call reads the repository's truth once (registered worktrees, refs, what stands on disk),
decides, and then acts in steps of which each leaves a state that the next call understands:
describe, keep every commit reachable and free the branch (one ref transaction), rename the tree
and its admin directory into the quarantine, add the new worktree.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..base.clock import utc_now
from ..base.errors import Denied, LoopError, playbook
from ..base.files import inside, lstat_of, write_atomic
from ..base.untrusted import show, shown
from ..git.command import git
from ..git.locks import lock_holder
from ..git.repository import (
    OBJECT,
    Repo,
    check_branch,
    check_path,
    commits,
    default_of,
    files_below,
    filters_off,
    git_locks,
    main_branch,
    objects,
    open_repo,
    read_small,
    ref_debris,
    refs_below,
    unknown_extensions,
)
from ..git.worktree_admin import Admin, admins_of, adopt, check_outside, index_tree, last_commit, mentioned, staged
from ..host.processes import Running, check_run_lock, git_user_of, processes, user_of
from ..host.users import name_of, whose
from . import quarantine as store
from .quarantine import MARK, SALVAGE, alone, as_owner, check_apart, hold, move, new_id, purge, standing, unlock

TOLD_TO_KEEP = "keep names"

# --- deciding ---------------------------------------------------------------------------------


def change_of(path: str, branch: str) -> str:
    """The change id that a worktree's place or a branch's name tells; empty where neither does."""
    holder = os.path.dirname(path)
    if os.path.basename(holder) == "worktrees":
        return os.path.basename(os.path.dirname(holder)).upper()
    parts = branch.split("/")
    return parts[1] if len(parts) > 2 else ""


@dataclass
class Leftover:
    """One thing to take out of the way, with all its parts."""

    what: str
    why: str
    repo: Repo | None = None
    path: str = ""  # stands on disk and moves to <quarantine>/<id>/tree
    place: str = ""  # where it stands or stood
    admin: Admin | None = None
    branch: str = ""
    tip: str = ""  # the commit that the branch points to, empty where that commit is missing
    value: str = ""  # what the ref holds, to be deleted only while it still does
    keep: list[str] = field(default_factory=list)  # commits that must stay reachable, tip apart
    index: str = ""  # a tree of what is staged
    debris: list[str] = field(default_factory=list)  # files inside the git directory that go
    id: str = ""

    def words(self) -> str:
        name = self.place or self.branch or ", ".join(self.debris)
        return f"{self.what} {name}" + (f" (branch {self.branch})" if self.branch and self.place else "")


def kind_of(path: str) -> str:
    """What stands at ``path``, in a word."""
    mode = os.lstat(path).st_mode
    kinds = (
        (stat.S_ISLNK, "symlink"),
        (stat.S_ISDIR, "directory"),
        (stat.S_ISREG, "file"),
        (stat.S_ISFIFO, "fifo"),
        (stat.S_ISSOCK, "socket"),
    )
    return next((word for test, word in kinds if test(mode)), "device")


@dataclass
class Pass:
    """One run of the healer over one or more repositories."""

    quarantine: str
    running: Running
    done: list[dict[str, Any]]
    healed: list[str] = field(default_factory=list)
    plan: list[str] = field(default_factory=list)
    check: bool = False
    root: bool = False  # what this user may not do is done by root, who waits for it

    def item(self, leftover: Leftover) -> str:
        return os.path.join(self.quarantine, leftover.id)


def take(repo: Repo, refs: dict[str, tuple[str, str]], branch: str, why: str) -> Leftover:
    """The leftover that is branch ``branch`` alone."""
    found = Leftover("branch", why, repo)
    _own_branch(found, refs, branch)
    return found


def _own_branch(leftover: Leftover, refs: dict[str, tuple[str, str]], branch: str) -> None:
    commit, symref = refs[branch]
    leftover.branch, leftover.tip, leftover.value = branch, commit, "" if symref else commit


def _guess(admin: Admin, refs: dict[str, tuple[str, str]]) -> tuple[str, ...]:
    """The branch of a worktree whose HEAD is lost: by the names of both, or by its last commit."""
    named = [name for name in refs if os.path.basename(admin.target) == "-".join(name.split("/")[:0:-1])]
    return tuple(named or [name for name, (commit, _target) in refs.items() if commit == last_commit(admin)][:1])


def take_admin(
    repo: Repo,
    admin: Admin,
    refs: dict[str, tuple[str, str]],
    why: str,
    trees: bool = True,
    taken: Iterable[str] = (),
) -> Leftover:
    """The leftover that is a registered worktree: its tree if it stands, its admin directory, its branch."""
    found = Leftover("worktree", why, repo, place=admin.target, admin=admin)
    branches = admin.branches if admin.branches or admin.head else _guess(admin, refs)
    for branch in [name for name in branches if name in refs and name not in taken][:1]:
        _own_branch(found, refs, branch)
    if trees and admin.target and os.path.lexists(admin.target):
        found.path = admin.target
    else:
        found.what = "registered worktree without its directory" if trees else "admin directory"
    return found


def check_free(leftovers: Iterable[Leftover], now: Pass) -> None:
    """LoopError where something alive uses a leftover, or where it cannot be renamed into the quarantine."""
    for leftover in leftovers:
        for place in [leftover.path, leftover.admin.place if leftover.admin else ""]:
            holder = user_of(place, now.running) if place else None
            if holder:
                raise LoopError(f"{leftover.place} is in use: {holder}; nothing was touched")
        for lock in (name for name in leftover.debris if name.endswith((".lock", ".new"))):
            holder = lock_holder(lock, leftover.repo, now.running) if leftover.repo else None
            if holder:
                raise LoopError(f"{lock} is held by {holder}: wait for it to end; nothing was touched")
        if leftover.path:
            device = os.lstat(leftover.path).st_dev
            if device != os.lstat(os.path.dirname(leftover.path)).st_dev:
                raise LoopError(f"{leftover.path} is a mount point: unmount it first")
            if device != os.stat(standing(now.quarantine)).st_dev:
                raise LoopError(store.other_file_system(leftover.path, now.quarantine))


# --- acting -----------------------------------------------------------------------------------


def clear(repo: Repo | None, leftovers: list[Leftover], now: Pass, kept: list[dict[str, str]] | None = None) -> None:
    """Take ``leftovers`` of one repository (or of none) out of the way, all in one batch.

    With ``kept`` a leftover that cannot go is added there with its reason, and the others go.
    """
    for number, leftover in enumerate(leftovers):
        leftover.id = _id_of(leftover, number, now)
    try:
        if repo:
            keep_reachable(repo, leftovers, now.check)
    except LoopError as error:
        if kept is None or not repo:
            raise
        kept.append({"path": repo.path, "why": str(error)})
        return
    going = []
    for leftover in leftovers:
        with _going(leftover, now, kept, Denied):  # a quarantine that cannot be written stops them all
            describe(leftover, now)
            now.plan.append(f"quarantine {leftover.words()}: {leftover.why}")
            if not now.check:
                _hold(leftover, *leftover.debris)
            going.append(leftover)
    if now.check:
        return
    stuck = free_branches(repo, going, tolerant=kept is not None) if repo else {}
    for leftover in going:
        with _going(leftover, now, kept, (LoopError, Denied)):
            if leftover.id in stuck:
                raise stuck[leftover.id]
            _move_out(leftover, now)
            now.healed.append(leftover.words())


@contextlib.contextmanager
def _going(
    leftover: Leftover,
    now: Pass,
    kept: list[dict[str, str]] | None,
    tolerated: type[Exception] | tuple[type[Exception], ...],
) -> Iterator[None]:
    """A step of one leftover's; with ``kept`` one that fails leaves it where it is, and only that one."""
    try:
        yield
    except tolerated as error:
        if kept is None or (isinstance(error, Denied) and now.root):
            raise
        now.done[:] = [record for record in now.done if record["id"] != leftover.id]
        why = store.needs_root(error.source) if isinstance(error, Denied) else str(error)
        kept.append({"path": leftover.place or leftover.branch or leftover.debris[0], "why": why})


def _id_of(leftover: Leftover, number: int, now: Pass) -> str:
    """A new id, or the one that a pass which was cut off gave it: its work goes on under the same."""
    mark = read_small(f"{leftover.admin.place}/{MARK}") if leftover.admin else None
    if not mark or not store.ID.fullmatch(mark):
        return new_id(number)
    moved = os.path.lexists(os.path.join(now.quarantine, mark, "tree"))
    return new_id(number) if moved and leftover.path else mark


def _move_out(leftover: Leftover, now: Pass) -> None:
    if leftover.path:
        move(leftover.path, os.path.join(now.item(leftover), "tree"))
    if leftover.admin:
        _hold(leftover, leftover.admin.place)


def describe(leftover: Leftover, now: Pass) -> None:
    """Mark the admin directory with the id, write the manifest, and report the thing as quarantined."""
    directory = now.item(leftover)
    tree = os.path.join(directory, "tree")
    moved = not leftover.path and os.path.lexists(tree)  # by a pass that was cut off, or by root
    what = "worktree" if moved and leftover.admin else leftover.what
    refs = salvage_refs(leftover)
    branch_ref = next(iter(refs), "")
    manifest = {
        "id": leftover.id,
        "what": what,
        "why": leftover.why,
        "when": utc_now(),
        "from": leftover.place or leftover.branch,
        "path": leftover.place,
        "tree": bool(leftover.path) or moved,
        "repo": leftover.repo.path if leftover.repo else "",
        "admin": leftover.admin.name if leftover.admin else "",
        "branch": leftover.branch or next(iter(leftover.admin.branches if leftover.admin else ()), ""),
        "tip": leftover.tip,
        "change_id": change_of(leftover.place, leftover.branch),
        "head": leftover.admin.head if leftover.admin else "",
        "salvage": refs,
        "debris": leftover.debris,
        "uid": os.lstat(leftover.path or tree).st_uid if leftover.path or moved else os.geteuid(),
        "size": None,  # to measure it takes longer than to move it: the first look of retention does
        "restore": f"{playbook('restore')} -e what={leftover.id}",
    }
    record = {
        "id": leftover.id,
        "what": what,
        "from": leftover.place or leftover.branch or ", ".join(leftover.debris),
        "to": tree if leftover.path or moved else directory,
        "branch": manifest["branch"],
        "tip": leftover.tip,
        "why": leftover.why,
        "salvage_ref": branch_ref or None,
        "manifest": os.path.join(directory, "manifest.json"),
    }
    if not now.check:
        # First: a pass that goes on later must go on under the id of the manifest.
        if leftover.repo and leftover.admin and not os.path.islink(leftover.admin.place):
            _mark(leftover.repo, leftover.admin.place, leftover.id)
        store.write_manifest(directory, manifest)
    now.done.append(record)


def _mark(repo: Repo, place: str, name: str) -> None:
    # Not written by rename: a half-written mark is no id, and is then ignored.
    try:
        descriptor = os.open(
            f"{place}/{MARK}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600
        )
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(name.encode())
    except PermissionError as error:
        if os.lstat(place).st_uid != os.geteuid():
            raise Denied(repo.common, "") from error
    except OSError:
        return  # it serves only a pass that is cut off


def _hold(leftover: Leftover, *places: str) -> None:
    if leftover.repo:
        hold(leftover.repo, leftover.id, places)


def salvage_refs(leftover: Leftover) -> dict[str, str]:
    """The refs that keep the leftover's commits: {ref: commit}, the branch's tip first."""
    base = f"{SALVAGE}/{leftover.id}"
    refs = {f"{base}/heads/{leftover.branch}": leftover.tip} if leftover.branch and leftover.tip else {}
    for number, commit in enumerate(leftover.keep):
        refs[f"{base}/HEAD" if leftover.admin and commit == leftover.admin.head else f"{base}/log/{number}"] = commit
    if leftover.index:
        refs[f"{base}/index"] = leftover.index
    return refs


def keep_reachable(repo: Repo, leftovers: list[Leftover], check: bool) -> None:
    """Fill ``keep`` and ``index``: what a leftover mentions and no ref reaches. Forget tips that do not exist."""
    wanted: dict[str, list[str]] = {}
    for leftover in leftovers:
        names = mentioned(leftover.admin.place) if leftover.admin else []
        for place in leftover.debris:
            names += OBJECT.findall(read_small(place) or "")
        if leftover.branch:
            names += OBJECT.findall(read_small(f"{repo.common}/logs/refs/heads/{leftover.branch}") or "")
        wanted[leftover.id] = [name for name in dict.fromkeys(names) if name != leftover.tip and set(name) != {"0"}]
    tips = [leftover.tip for leftover in leftovers if leftover.tip]
    indexed = [item for item in leftovers if item.admin and os.path.isfile(f"{item.admin.place}/index")]
    heads = [item.tip or (item.admin.head if item.admin else "") or "-" for item in indexed]
    asked = list(dict.fromkeys([*tips, *(name for names in wanted.values() for name in names)]))
    found = objects(repo, [*asked, *(f"{head}^{{tree}}" for head in heads)])
    real = {name for name, kind in found[: len(asked)] if kind == "commit"}
    lonely = _unreachable(repo, real - set(tips), real & set(tips))
    for leftover in leftovers:
        if leftover.tip not in real:
            leftover.tip = ""
        head = leftover.admin.head if leftover.admin else ""
        leftover.keep = [name for name in wanted[leftover.id] if name in lonely or (name == head and name in real)]
    for leftover, (tree, _kind) in zip(indexed, found[len(asked) :], strict=True):
        if leftover.admin and (not tree or index_tree(leftover.admin) != tree) and not check:
            leftover.index = staged(repo, leftover.admin)


def _unreachable(repo: Repo, names: set[str], tips: set[str]) -> set[str]:
    """Those of ``names`` that no ref leads to. ``tips`` have one, and get another before their branches go."""
    for known in ("HEAD", "--all"):  # mostly tips and HEAD lead to them; to look at all refs takes longer
        if names:
            status, out, _err = repo.git(
                ["rev-list", "--single-worktree", "--ignore-missing", "--stdin", "--not", known, "--"],
                stdin="".join([*(f"{name}\n" for name in names), *(f"^{tip}\n" for tip in tips)]).encode(),
                ok=(0, 128),
            )
            names = names if status else names & set(out.split())
    return names


def free_branches(repo: Repo, leftovers: list[Leftover], tolerant: bool) -> dict[str, LoopError]:
    """One transaction: salvage refs made, branches deleted if they are still what we saw.

    ``tolerant``: where it fails, one transaction for each leftover; {id: error} of those that fail.
    """
    lines: list[str] = []
    for leftover in leftovers:
        unlock(repo, leftover.id)
        lines += [f"update {ref}\0{commit}\0\0" for ref, commit in salvage_refs(leftover).items()]
        if leftover.branch:
            lines += ["option no-deref\0", f"delete refs/heads/{leftover.branch}\0{leftover.value}\0"]
            _hold(leftover, f"{repo.common}/logs/refs/heads/{leftover.branch}")
    if not lines:
        return {}
    try:
        repo.git(["update-ref", "--stdin", "-z"], stdin=os.fsencode("".join(lines)))
    except LoopError as error:
        if not tolerant:
            raise
        if len(leftovers) == 1:
            return {leftovers[0].id: error}
        return {key: error for each in leftovers for key, error in free_branches(repo, [each], tolerant).items()}
    return {}


# --- the main checkout ------------------------------------------------------------------------


def leave_branch(repo: Repo, branch: str, now: Pass) -> None:
    """Move the main checkout off ``branch``. With uncommitted work only HEAD moves: no file is touched."""
    head, commit = default_of(repo, branch)
    holder = git_user_of(repo.path, now.running)
    if holder:
        raise LoopError(f"the main checkout {repo.path} is on {branch} and in use: {holder}; nothing was touched")
    now.plan.append(f"move the main checkout {repo.path} from {branch} to {head}")
    if now.check:
        return
    config = filters_off(repo)
    if not repo.bare:
        _status, dirty, _err = repo.git(["status", "--porcelain", "--ignore-submodules=all", "-uno"], config=config)
        if not dirty:
            repo.git(["read-tree", "-m", "-u", "HEAD", commit], config=config, ok=(0, 128))
    if head.startswith("ref:"):
        repo.git(["symbolic-ref", "-m", "loop: freed", "HEAD", head.removeprefix("ref: ")])
    else:
        repo.git(["update-ref", "--no-deref", "-m", "loop: freed", "HEAD", commit])
    now.healed.append(f"main checkout on {branch}")


# --- one worktree -----------------------------------------------------------------------------


def ensure(
    repo: str,
    path: str,
    branch: str,
    base_ref: str = "HEAD",
    fresh: bool = False,
    quarantine: str | None = None,
    run_lock: str | None = None,
    check: bool = False,
) -> dict[str, Any]:
    """A usable worktree at ``path`` on ``branch``, whatever stands there now; nothing anyone wrote is lost.

    Present and healthy (registered, on its branch, checkout usable): unchanged, unless ``fresh``.
    Everything else goes to ``quarantine`` (default ``.quarantine`` beside the worktree) and the
    branch starts at ``base_ref``. Runs as the repository's owner; as root, root runs no git.

    Returns ``path branch head base_sha healed[] quarantined[] changed plan[]``; each of
    ``quarantined`` has ``id what from to branch tip why salvage_ref manifest``. ``check`` only plans.
    Raises LoopError (one line, nothing changed) for bad input and where something alive is at work.
    """
    return _one(repo, path, branch, base_ref, fresh, quarantine, run_lock, check, present=True)


def absent(
    repo: str,
    path: str,
    branch: str,
    quarantine: str | None = None,
    run_lock: str | None = None,
    check: bool = False,
) -> dict[str, Any]:
    """Neither a worktree at ``path`` nor ``branch``: both go to the quarantine. Returns as ``ensure``."""
    return _one(repo, path, branch, "", True, quarantine, run_lock, check, present=False)


def _one(
    repo: str,
    path: str,
    branch: str,
    base_ref: str,
    fresh: bool,
    quarantine: str | None,
    run_lock: str | None,
    check: bool,
    present: bool,
) -> dict[str, Any]:
    check_branch(branch)
    path = check_path(path)
    if not os.path.isabs(repo):
        raise LoopError(f"repo {repo!r} must be absolute")
    if base_ref.startswith("-") or not base_ref.isprintable() or (present and not base_ref) or " " in base_ref:
        raise LoopError(f"base_ref {base_ref!r} is not the name of a commit")
    place = check_path(quarantine, "quarantine") if quarantine else f"{standing(os.path.dirname(path))}/.quarantine"
    root = whose(repo)[0]
    check_apart(path, root, place)
    check_run_lock(run_lock)
    running = processes()

    def work(done: list[dict[str, Any]]) -> dict[str, Any]:
        opened = open_repo(root)
        with alone([opened.common]):
            now = Pass(place, running, done, check=check)
            return _heal_one(opened, path, branch, base_ref if present else "", fresh, now)

    return shown(as_owner([root], [os.path.dirname(path), root, place], work))  # type: ignore[no-any-return]


def _heal_one(repo: Repo, path: str, branch: str, base_ref: str, fresh: bool, now: Pass) -> dict[str, Any]:
    repair_extensions(repo, now)
    admins = admins_of(repo)
    adopt(admins, [path])
    check_outside(path, admins)
    parents = ["/".join(branch.split("/")[:count]) for count in range(1, branch.count("/") + 1)]
    head = main_branch(repo)
    refs = refs_below(repo, [branch])
    names = [f"{base_ref}^{{commit}}", *(f"refs/heads/{each}" for each in parents)]
    if base_ref in ("HEAD", "@") and (head == branch or head in parents):
        names[0] = default_of(repo, head)[1]
    # Only a new worktree needs the names above its branch: without one, what is called so is not in the way.
    base, *blocking = commits(repo, names) if base_ref else [""] * len(names)
    refs.update({each: (commit, "") for each, commit in zip(parents, blocking, strict=True) if commit})
    if base_ref and not base:
        raise LoopError(_no_base(repo, base_ref))
    answer = {"path": path, "branch": branch, "head": "", "base_sha": base, "healed": now.healed, "plan": now.plan}
    mine = next((each for each in admins if each.target == path), None)
    if base and not fresh and mine and branch in refs and healthy(repo, mine, branch):
        holder = user_of(path, now.running)
        if holder:
            raise LoopError(f"{path} is in use: {holder}; nothing was touched")
        return {**answer, "head": refs[branch][0], "changed": False}
    leftovers = find_one(repo, path, branch, admins, refs)
    check_free(leftovers, now)
    for each in dict.fromkeys([branch, *parents]):
        if head == each and each in refs:
            leave_branch(repo, each, now)
    clear(repo, leftovers, now)
    repair_strangers(repo, [each for each in admins if each not in [item.admin for item in leftovers]], now)
    if base:
        now.plan.append(f"add worktree {path} on {branch} at {base}")
        if not now.check:
            add(repo, path, branch, base)
    return {**answer, "head": base, "changed": bool(now.plan)}


def _no_base(repo: Repo, base_ref: str) -> str:
    if not files_below(f"{repo.common}/objects"):
        return f"{repo.path} has no commit yet: there is nothing that a worktree could start from"
    shallow = os.path.exists(f"{repo.common}/shallow")
    depth = " (this is a shallow clone: it may lie beyond its depth)" if shallow else ""
    return f"base_ref {base_ref!r} names no commit in {repo.path}, or more than one{depth}"


def find_one(
    repo: Repo, path: str, branch: str, admins: list[Admin], refs: dict[str, tuple[str, str]]
) -> list[Leftover]:
    """Everything in the way of a worktree at ``path`` on ``branch``."""
    found: list[Leftover] = []
    for admin in admins:
        held = [name for name in admin.branches if name == branch or name in refs]
        if admin.target == path or held:
            why = "stands at the path" if admin.target == path else f"holds the branch {held[0]}"
            trees = not any(item.path == admin.target for item in found)
            found.append(take_admin(repo, admin, refs, why, trees, [item.branch for item in found]))
    if os.path.lexists(path) and not any(item.path == path for item in found):
        found.append(Leftover(f"unregistered {kind_of(path)}", "stands at the path", repo, path, path))
    blocker = standing(os.path.dirname(path))
    if blocker != os.path.dirname(path):
        first = os.path.join(blocker, os.path.relpath(path, blocker).split("/")[0])
        if os.path.lexists(first):
            found.append(Leftover(kind_of(first), "stands where a directory must be", repo, first, first))
    taken = {item.branch for item in found}
    found += [take(repo, refs, name, "is in the way of the branch") for name in refs if name not in taken]
    debris = [*git_locks(repo.common), *ref_debris(repo, branch, refs)]
    debris += [entry for entry in [f"{repo.common}/worktrees"] if os.path.lexists(entry) and not os.path.isdir(entry)]
    if debris:
        found.append(Leftover("debris", "left behind by a dead process", repo, debris=debris))
    return found


def healthy(repo: Repo, admin: Admin, branch: str) -> bool:
    """Is this registered worktree complete, consistent and on ``branch``, with an index that git reads?"""
    if admin.branches != (branch,) or (read_small(f"{admin.place}/HEAD") or "").strip() != f"ref: refs/heads/{branch}":
        return False
    common = (read_small(f"{admin.place}/commondir") or "").strip()
    link = (read_small(f"{admin.target}/.git") or "").strip()
    gitdir = os.path.normpath(os.path.join(admin.target, link.removeprefix("gitdir:").strip()))
    if not common or os.path.realpath(os.path.join(admin.place, common)) != os.path.realpath(repo.common):
        return False
    if not link.startswith("gitdir:") or os.path.realpath(gitdir) != os.path.realpath(admin.place):
        return False
    locks = [name for name in os.listdir(admin.place) if name.endswith(".lock")]
    if locks or not os.path.isfile(f"{admin.place}/index") or os.path.islink(admin.target):
        return False
    where = {"GIT_DIR": admin.place, "GIT_COMMON_DIR": repo.common, "GIT_WORK_TREE": admin.target}
    status, _out, _err = repo.git(["diff-index", "--cached", "--quiet", "HEAD"], environment=where, ok=range(256))
    if status > 1:
        return False
    _status, top, _err = repo.git(["ls-tree", "--name-only", "-z", "HEAD"], environment=where, ok=range(256))
    names = [name for name in top.split("\0") if name]
    return not names or any(os.path.lexists(os.path.join(admin.target, name)) for name in names)


def repair_strangers(repo: Repo, admins: Iterable[Admin], now: Pass) -> None:
    """A broken ``commondir`` of any worktree stops git everywhere; it can only say one thing, so it is written anew."""
    for admin in admins:
        place = f"{admin.place}/commondir"
        common = (read_small(place) or "").strip()
        if common == "../.." or (common and os.path.isdir(os.path.join(admin.place, common))):
            continue
        if not os.path.isdir(admin.place) or os.path.islink(admin.place):
            continue
        now.plan.append(f"write {place} anew")
        broken = Leftover("debris", "broken commondir", repo, debris=[place], id=new_id(len(now.done)))
        describe(broken, now)
        if not now.check:
            _hold(broken, place)
            write_atomic(place, b"../..\n")
            now.healed.append(f"commondir of worktree {admin.name}")


def repair_extensions(repo: Repo, now: Pass) -> None:
    """An extension that a newer git sets and an older one refuses, though it changes nothing that is kept, goes."""
    unknown = unknown_extensions(repo)
    if not unknown:
        return
    if set(unknown) - {"relativeworktrees"}:
        raise LoopError(
            f"{repo.path} has the extension {show(', '.join(unknown))}, which this host's git does not know"
        )
    if now.check:
        raise LoopError(f"{repo.path} has the extension relativeWorktrees: without check mode it is removed")
    now.plan.append(f"remove the extension relativeWorktrees of {repo.path}")
    file = ["config", "--file", f"{repo.common}/config", "--no-includes"]
    git("/", [*file, "--unset-all", "extensions.relativeworktrees"])
    now.healed.append(f"extension relativeWorktrees of {repo.path}")


def add(repo: Repo, path: str, branch: str, base: str) -> None:
    """git worktree add, without hooks or filters; what it leaves when it fails is the next heal's work."""
    os.makedirs(os.path.dirname(path), mode=0o750, exist_ok=True)
    repo.git(["worktree", "add", "--quiet", "--no-track", "-b", branch, "--", path, base], config=filters_off(repo))


# --- a whole workspace ------------------------------------------------------------------------


def sweep(
    repos: Sequence[str] = (),
    branch_prefixes: Sequence[str] = (),
    worktree_root: str = "",
    keep: Sequence[str] = (),
    older_than: float = 0,
    quarantine: str | None = None,
    quarantine_keep: dict[str, Any] | None = None,
    run_lock: str | None = None,
    check: bool = False,
    workspace: str | None = None,
) -> dict[str, Any]:
    """Every leftover of a workspace in one pass per repository: what a coming run would trip over.

    Leftovers are the worktrees below ``worktree_root`` (``<root>/<run>/worktrees/<name>``; the rest
    of a run's directory stays), the branches called one of ``branch_prefixes`` or below one, and what
    dead processes left in the repositories. ``repos`` are named, or are all in ``workspace``.
    ``keep``: paths, branches or change ids to leave. ``older_than``: seconds that a leftover must have
    been left alone. ``quarantine``: default ``<worktree_root>/.quarantine``. ``quarantine_keep``:
    ``{age, size, min_age}`` (seconds, bytes, seconds) also empties the quarantine by ``purge``.

    Returns ``removed[] kept[]{path,why} quarantined[] purged[] healed[] plan[] changed``.
    Raises LoopError while ``run_lock`` is held by a living process; a single leftover that is in
    use or cannot be moved is ``kept`` with the reason and stops nothing else.
    """
    found, strange = _checkouts(workspace) if workspace else ([], [])
    roots = list(dict.fromkeys([*(whose(repo)[0] for repo in repos), *found]))
    for prefix in branch_prefixes:
        check_branch(prefix)
    if not all(each.strip() for each in keep):
        raise LoopError("keep holds an empty entry: name paths, branches or change ids")
    if not roots:
        why = f": {strange[0]['why']}" if strange else ""
        raise LoopError(f"no repository to sweep{f' in {workspace}' if workspace else ''}{why}")
    root = check_path(worktree_root, "worktree_root")
    root = os.path.realpath(root)
    if any(inside(root, each) or inside(each, root) for each in roots):
        raise LoopError(f"worktree_root {root} and a repository lie one inside the other")
    place = check_path(quarantine, "quarantine") if quarantine else f"{root}/.quarantine"
    check_run_lock(run_lock)
    running, root_waits = processes(), os.geteuid() == 0
    limits = Limits(root, place, tuple(branch_prefixes), tuple(keep), older_than)

    def work(done: list[dict[str, Any]]) -> dict[str, Any]:
        opened, kept = _open_all(roots)
        with contextlib.ExitStack() as stack:
            free = [repo for repo in opened if _lock(repo, stack, kept)]
            return _sweep(free, limits, Pass(place, running, done, check=check, root=root_waits), kept)

    answer: dict[str, Any] = as_owner(roots, [root, place, *roots], work)
    answer["purged"], answer["kept"] = [], strange + answer["kept"]
    if quarantine_keep is not None:
        gone = purge(place, check=check, within=[workspace] if workspace else roots, **quarantine_keep)
        answer["purged"] = gone["purged"]
        answer["kept"] += [{"path": f"{place}/{one['id']}", "why": one["why"]} for one in gone["stuck"]]
    answer["changed"] = bool(answer["plan"] or answer["purged"])
    return shown(answer)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Limits:
    """What a sweep may take."""

    root: str
    quarantine: str
    prefixes: tuple[str, ...]
    keep: tuple[str, ...]
    older_than: float


def _checkouts(workspace: str) -> tuple[list[str], list[dict[str, str]]]:
    """The checkouts in the workspace, and those that are not its owner's, each with the reason why it is left."""
    if not os.path.isdir(workspace):
        raise LoopError(f"workspace {workspace} is not a directory")
    top, owner = whose(workspace)
    found: list[str] = []
    strange: list[dict[str, str]] = []
    for place in (os.path.join(top, name) for name in sorted(os.listdir(top))):
        if os.path.islink(place) or not os.path.isdir(f"{place}/.git"):
            continue
        try:
            uid = whose(place)[1]
            if uid != owner:
                raise LoopError(f"{place} belongs to {name_of(uid)} and {top} to {name_of(owner)}")
        except LoopError as error:
            strange.append({"path": place, "why": str(error)})
        else:
            found.append(place)
    return found, strange


def _open_all(roots: Sequence[str]) -> tuple[list[Repo], list[dict[str, str]]]:
    """The repositories, and what is none any more; LoopError where that is all of them."""
    opened: list[Repo] = []
    kept: list[dict[str, str]] = []
    for root in roots:
        try:
            opened.append(open_repo(root))
        except (LoopError, Denied) as error:
            kept.append(
                {"path": root, "why": store.needs_root(error.source) if isinstance(error, Denied) else str(error)}
            )
    if not opened:
        raise LoopError(kept[0]["why"])
    return opened, kept


def _lock(repo: Repo, stack: contextlib.ExitStack, kept: list[dict[str, str]]) -> bool:
    try:
        stack.enter_context(alone([repo.common]))
    except LoopError as error:
        kept.append({"path": repo.path, "why": str(error)})
        return False
    return True


def _sweep(repos: list[Repo], limits: Limits, now: Pass, kept: list[dict[str, str]]) -> dict[str, Any]:
    standing = _trees(limits.root)
    work: list[tuple[Repo | None, list[Leftover], list[Admin]]] = []
    for repo in repos:
        try:
            repair_extensions(repo, now)
            leftovers, strangers = find_all(repo, limits, standing, now)
        except (LoopError, OSError, ValueError) as error:  # one damaged repository does not stop the others
            kept.append({"path": repo.path, "why": str(error)})
            continue
        except Denied as error:
            if now.root:
                raise
            kept.append({"path": repo.path, "why": store.needs_root(error.source)})
            continue
        work.append((repo, leftovers, strangers))
    claimed = {item.path for _repo, leftovers, _admins in work for item in leftovers}
    strays = [
        Leftover(f"unregistered {kind_of(path)}", "no repository knows it", None, path, path)
        for path in standing
        if path not in claimed
    ]
    work.append((None, strays, []))
    for owner, leftovers, strangers in work:
        ready = []
        for leftover in leftovers:
            why = _reason_to_keep(leftover, limits, now)
            if why:
                kept.append({"path": leftover.place or leftover.branch or leftover.debris[0], "why": why})
            else:
                ready.append(leftover)
        clear(owner, ready, now, kept)
        if owner:
            repair_strangers(owner, strangers, now)
    return {"removed": [entry["from"] for entry in now.done], "kept": kept, "healed": now.healed, "plan": now.plan}


def _trees(root: str) -> list[str]:
    """Whatever stands where worktrees stand, ``<root>/<run>/worktrees/*``; no symlink is entered."""
    found: list[str] = []
    if not os.path.isdir(root):
        return found
    try:
        for run in sorted(os.scandir(root), key=lambda entry: entry.name):
            place = f"{run.path}/worktrees"
            if run.name.startswith(".") or not run.is_dir(follow_symlinks=False) or lstat_of(place) is None:
                continue
            if os.path.isdir(place) and not os.path.islink(place):
                found += [f"{place}/{name}" for name in sorted(os.listdir(place)) if name != ".quarantine"]
            else:
                found.append(place)
    except PermissionError as error:
        raise Denied(str(error.filename), "") from error
    return found


def find_all(repo: Repo, limits: Limits, standing: list[str], now: Pass) -> tuple[list[Leftover], list[Admin]]:
    """All leftovers of one repository, and the registered worktrees that are none."""
    head = main_branch(repo)
    refs = refs_below(repo, limits.prefixes) if limits.prefixes else {}
    if head in refs:
        leave_branch(repo, head, now)
    leftovers: list[Leftover] = []
    strangers: list[Admin] = []
    seen: set[str] = set()
    admins = admins_of(repo)
    adopt(admins, standing)
    for admin in admins:
        ours = inside(admin.target, limits.root) and not inside(admin.target, limits.quarantine)
        if not ours and not any(name in refs for name in admin.branches):
            strangers.append(admin)
            continue
        whole = admin.target in standing or (ours and os.path.dirname(admin.target) != limits.root)
        taken = {item.branch for item in leftovers}
        leftovers.append(take_admin(repo, admin, refs, "a run is over", whole and admin.target not in seen, taken))
        seen.add(admin.target)
    taken = {item.branch for item in leftovers}
    leftovers += [take(repo, refs, name, "a run is over") for name in refs if name not in taken]
    debris = git_locks(repo.common)
    for prefix in limits.prefixes:
        debris += ref_debris(repo, f"{prefix}/-", refs)
        for way in (f"{repo.common}/refs/heads", f"{repo.common}/logs/refs/heads"):
            below = files_below(f"{way}/{prefix}")
            debris += [entry for entry in below if entry.removeprefix(f"{way}/") not in refs]
    if os.path.lexists(f"{repo.common}/worktrees") and not os.path.isdir(f"{repo.common}/worktrees"):
        debris.append(f"{repo.common}/worktrees")
    leftovers += [
        Leftover("debris", "left behind by a dead process", repo, debris=[entry]) for entry in dict.fromkeys(debris)
    ]
    return leftovers, strangers


def _reason_to_keep(leftover: Leftover, limits: Limits, now: Pass) -> str:
    """Why a sweep leaves this leftover alone; empty where it goes."""
    names = {leftover.branch, *(leftover.admin.branches if leftover.admin else ())}
    change = change_of(leftover.place, leftover.branch).lower()
    for wanted in limits.keep:
        if wanted in names or (change and wanted.lower() == change) or wanted.lower() in _ids(names):
            return f"{TOLD_TO_KEEP} {wanted}"
        if wanted.startswith("/") and leftover.place and inside(leftover.place, os.path.normpath(wanted)):
            return f"{TOLD_TO_KEEP} {wanted}"
    age = time.time() - _touched(leftover)
    if limits.older_than and not leftover.debris and age < limits.older_than:
        return f"left alone for {max(age, 0):.0f} s only, less than {limits.older_than:.0f} s"
    try:
        check_free([leftover], now)
    except LoopError as error:
        return str(error)
    return ""


def _ids(branches: Iterable[str]) -> set[str]:
    return {part.lower() for name in branches for part in name.split("/")[1:2]}


def _touched(leftover: Leftover) -> float:
    """When the leftover last changed, as far as its outermost files tell."""
    places = [leftover.path, *leftover.debris]
    if leftover.admin:
        places += [f"{leftover.admin.place}/{name}" for name in ("HEAD", "index", "logs/HEAD")]
    if leftover.branch and leftover.repo:
        common = leftover.repo.common
        places += [f"{common}/{way}/refs/heads/{leftover.branch}" for way in (".", "logs")]
    times = [status.st_mtime for status in (lstat_of(place) for place in places if place) if status]
    return max(times, default=0.0)
