# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Putting a quarantined thing back, byte for byte.

First what a caller and a manifest may ask for, and where it goes; then branch, tree, and the admin directory that
makes it a worktree.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..base.errors import LoopError
from ..base.files import alone_in, inside, size_of, write_atomic
from ..base.untrusted import show, shown
from ..git.command import rows
from ..git.repository import (
    Repo,
    check_branch,
    check_path,
    commits,
    files_below,
    filters_off,
    open_repo,
    read_small,
    refs_below,
)
from ..git.worktree_admin import Admin, admins_of, check_outside, last_commit, read_admin
from ..host.processes import check_run_lock
from ..host.users import whose
from .manifests import ID, Manifest, write_manifest
from .owners import LOCK_SECONDS, as_owner, owner_of
from .quarantine import MARK
from .salvage import ASIDE, SALVAGE
from .whole_moves import check_apart, move, standing


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
        if self.manifest.described and not told.described:
            raise LoopError(f"{self.id} was kept long enough and let go just now: {self.quarantine} has it no more")
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
        with contextlib.ExitStack() as stack:
            if repo:
                stack.enter_context(alone_in(repo.common, LOCK_SECONDS))
            if os.path.isdir(self.quarantine):  # a purge, which lets things go, takes this one alone
                stack.enter_context(alone_in(self.quarantine, LOCK_SECONDS))
            told = self.told_again()
            if repo:
                check_outside(self.path or told.path or "/", admins_of(repo))
                answer = _put_back(repo, told, self.path, self.branch, check)
            else:
                answer = _move_back(told, self.path, check)
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


# --- giving it back to its repository ----------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """What is left of a quarantined thing that a repository knew."""

    repo: Repo
    told: Manifest
    aside: str  # what of it lies in the git directory
    admin: str  # its admin directory in there; empty where it has none
    tree: bool  # is its tree still kept, or back already?
    halfway: str  # where a restore that was cut off moved the tree
    branch: str
    tip: str  # the commit that the branch has to get; empty where the branch stayed

    @classmethod
    def read(cls, repo: Repo, told: Manifest) -> _Found:
        tree, aside = told.tree_path, f"{repo.common}/{ASIDE}/{told.id}"
        admin = f"{aside}/worktrees/{told.admin or '-'}"
        admin = admin if os.path.isdir(admin) else ""
        halfway = told.restored_to if not os.path.lexists(tree) else ""
        if halfway and os.path.isdir(f"{halfway}/.git"):
            raise LoopError(
                f"{show(halfway)} is a repository of its own and not what was restored as {told.id}: name a path"
            )
        has_tree = os.path.lexists(halfway or tree)
        branch, tip = _branch_to_restore(repo, told)
        if admin and branch and not tip:  # its branch was broken, or somebody else's: it may have moved on
            now_at, known = commits(repo, [f"refs/heads/{branch}", last_commit(read_admin(admin)) or "-"])
            tip = known if now_at != known else ""
        if not has_tree and not admin and not tip:
            raise LoopError(
                f"nothing of {told.id} is left in {told.directory} or {repo.common}: it was restored or purged"
            )
        return cls(repo, told, aside, admin, has_tree, halfway, branch, tip)


def _put_back(repo: Repo, told: Manifest, path: str | None, branch: str | None, check: bool) -> dict[str, Any]:
    """Put the thing back as a worktree of ``repo``; only its tree where git knew none. The answer of a restore."""
    found = _Found.read(repo, told)
    tree, tip = told.tree_path, found.tip
    if found.tree and not found.admin and (not tip or os.path.islink(tree) or not os.path.isdir(tree)):
        return _move_back(told, path, check)
    path = path or (found.halfway if found.tree and found.admin else "") or _free_place(told)
    new = ""
    if found.branch:  # one of somebody else's was left where it was, and so is the HEAD that names it
        kept = _free_branch(repo, found.branch, told.id) if tip else found.branch
        new = branch or told.restored_as or kept
    plan = [f"branch {new} at {tip}"] if new and tip else []
    plan.append(f"move {tree} to {path}" if found.tree else f"add worktree {path}")
    if not check:
        write_manifest(told.directory, {"restored_to": path, "restored_as": new})
        _attach(found, path, new)
    head = tip or told.head
    return {"path": path, "branch": new, "head": head, "registered": True, "plan": plan, "changed": True}


def _move_back(told: Manifest, path: str | None, check: bool) -> dict[str, Any]:
    """Move the tree back as what it was: no worktree. The answer of a restore."""
    path, tree = path or _free_place(told), told.tree_path
    if not os.path.lexists(tree):
        raise LoopError(f"{tree} is gone: it was restored to {told.restored_to or 'nowhere'} or purged")
    if not check:
        write_manifest(told.directory, {"restored_to": path})
        move(tree, path)
        link = (read_small(f"{path}/.git") or "").strip()
        admin = os.path.join(path, link.removeprefix("gitdir:").strip())
        if link.startswith("gitdir:") and os.path.isdir(admin) and read_admin(admin).target != path:
            # It would speak for another worktree's branch and index.
            move(f"{path}/.git", os.path.join(told.directory, "dot-git"))
    plan = [f"move {tree} to {path}"]
    return {"path": path, "branch": "", "head": "", "registered": False, "plan": plan, "changed": True}


def _free_place(told: Manifest) -> str:
    """Where the thing goes: on after a restore that was cut off, back to its place, or beside it."""
    free = next((each for each in (told.restored_to, told.path) if each and not os.path.lexists(each)), "")
    if not free and not told.path:
        raise LoopError(f"the manifest of {told.id} does not say where it stood: name a path")
    return free or f"{told.path}.{told.id}"


def _branch_to_restore(repo: Repo, told: Manifest) -> tuple[str, str]:
    """The branch's name and commit: from the salvage refs, or from the manifest where they do not tell."""
    prefix = f"{SALVAGE}/{told.id}/"
    listed = repo.git(["for-each-ref", "--format=%(objectname) %(refname)", prefix])[1]
    refs = {ref.removeprefix(prefix): commit for commit, ref in (row.split(" ", 1) for row in rows(listed))}
    for ref, commit in refs.items():
        if ref.startswith("heads/"):
            return ref.removeprefix("heads/"), commit
    if told.tip and commits(repo, [told.tip]) == [told.tip]:
        return told.branch, told.tip
    return told.branch, "" if told.head else refs.get("HEAD", "")


def _free_branch(repo: Repo, name: str, thing: str) -> str:
    """``name`` where no branch is called so, above it or below it; else a name of the restore's own."""
    parts = name.split("/")
    ways = ["/".join(parts[:count]) for count in range(1, len(parts))]
    above = any(commits(repo, [f"refs/heads/{way}" for way in ways]))
    return f"loop-restored/{thing}/{name}" if above or refs_below(repo, [name]) else name


def _attach(found: _Found, path: str, branch: str) -> None:
    """Make the branch, move the tree to ``path``, and let git know it."""
    repo, tree = found.repo, found.told.tree_path
    if branch and found.tip and branch not in refs_below(repo, [branch]):
        repo.git(["update-ref", f"refs/heads/{branch}", found.tip, "0" * len(found.tip)])
        log, new_log = (
            f"{top}/logs/refs/heads/{name}" for top, name in ((found.aside, found.branch), (repo.common, branch))
        )
        if os.path.isfile(log):
            os.makedirs(os.path.dirname(new_log), exist_ok=True)
            os.rename(log, new_log)
    if not found.admin:
        _register_anew(found, path, branch or found.tip, found.tree)
        return
    if os.path.lexists(tree):
        move(tree, path)
    _register(found, path, branch)


def _register(found: _Found, path: str, branch: str) -> None:
    """Give the tree at ``path`` its admin directory back; only what names the place or the branch changes."""
    admin, common = found.admin, found.repo.common
    home = f"{common}/worktrees/{os.path.basename(admin)}"
    final = next(each for each in [home, *(f"{home}-{count}" for count in range(1, 9999))] if not os.path.lexists(each))
    known = read_admin(admin)
    _mend(found, known, branch)
    if not found.tree:  # it was gone before: the files come back from the branch, the index as it was
        _register_anew(found, path, branch or found.tip or known.head, False)
        fresh = (read_small(f"{path}/.git") or "").strip().removeprefix("gitdir: ")
        if os.path.isfile(f"{admin}/index"):
            os.rename(f"{admin}/index", f"{fresh}/index")
        return
    was = (read_small(f"{admin}/gitdir") or "").strip().removesuffix("/.git")
    _content(f"{admin}/gitdir", f"{path}/.git\n")
    if (read_small(f"{path}/.git") or "").strip() != f"gitdir: {final}":
        if os.path.lexists(f"{path}/.git"):
            move(f"{path}/.git", os.path.join(found.told.directory, "dot-git"))
        write_atomic(f"{path}/.git", os.fsencode(f"gitdir: {final}\n"))
    if (was, home) != (path, final):
        _move_submodules(found, (home, was), (final, path))
    move(admin, final)


def _mend(found: _Found, known: Admin, branch: str) -> None:
    """Let the admin directory name the branch as it is called now, and make whole what was broken."""
    admin, old = found.admin, found.branch
    if not (read_small(f"{admin}/commondir") or "").strip():
        _content(f"{admin}/commondir", "../..\n")
    head = (read_small(f"{admin}/HEAD") or "").strip()
    broken = not known.head and not head.startswith("ref: refs/")
    if (branch != old and head == f"ref: refs/heads/{old}") or broken:
        named = f"ref: refs/heads/{branch}" if branch else found.tip or last_commit(known)
        _content(f"{admin}/HEAD", f"{named}\n")
    for state in ("rebase-merge/head-name", "rebase-apply/head-name", "BISECT_START"):
        waiting = (read_small(f"{admin}/{state}") or "").strip()
        if branch and waiting.removeprefix("refs/heads/") == old:
            _content(f"{admin}/{state}", waiting.removesuffix(old) + f"{branch}\n")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{admin}/{MARK}")


def _move_submodules(found: _Found, before: tuple[str, str], after: tuple[str, str]) -> None:
    """Submodules name their git directory and their tree by relative paths: write both anew."""
    for config in files_below(f"{found.admin}/modules"):
        directory, name = os.path.split(config)
        if name != "config" or not os.path.isfile(f"{directory}/HEAD"):
            continue
        part = os.path.relpath(directory, found.admin)
        value = found.repo.git(["config", "--file", config, "core.worktree"], ok=(0, 1))[1]
        tree = os.path.relpath(os.path.normpath(os.path.join(before[0], part, value.strip())), before[1])
        link = os.path.join(after[1], tree, ".git")
        if value.strip() and not tree.startswith("..") and os.path.isfile(link) and not os.path.islink(link):
            found.repo.git(["config", "--file", config, "core.worktree", os.path.join(after[1], tree)])
            _content(link, f"gitdir: {after[0]}/{part}\n")


def _content(path: str, text: str) -> None:
    """Let the file at ``path`` hold ``text``; what stands there and is no file is kept beside it."""
    if read_small(path) != text:
        if os.path.lexists(path) and not os.path.isfile(path):
            move(path, f"{path}.found")
        write_atomic(path, os.fsencode(text))


def _register_anew(found: _Found, path: str, commit: str, has_tree: bool) -> None:
    """A new admin directory for the kept tree (or, without one, for a new checkout) on ``commit`` or a branch."""
    repo, tree = found.repo, found.told.tree_path
    if not commit:
        raise LoopError(f"no commit of it is left: only its files can be had, in {tree if has_tree else ''}")
    os.makedirs(os.path.dirname(path), mode=0o750, exist_ok=True)
    how = ["--no-checkout"] if has_tree else []
    repo.git(["worktree", "add", "--quiet", *how, "--", path, commit], config=filters_off(repo))
    if not has_tree:
        return
    link = read_small(f"{path}/.git") or ""
    os.unlink(f"{path}/.git")
    os.rmdir(path)
    move(tree, path)
    if os.path.lexists(f"{path}/.git"):
        move(f"{path}/.git", os.path.join(found.told.directory, "dot-git"))
    _content(f"{path}/.git", link)
    where = {"GIT_DIR": link.strip().removeprefix("gitdir: "), "GIT_WORK_TREE": path}
    repo.git(["read-tree", "HEAD"], environment=where)
