# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Giving a quarantined thing back to its repository: branch, tree, and the admin directory that makes it a worktree."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Any

from ..base.errors import LoopError
from ..base.files import write_atomic
from ..base.untrusted import show
from ..git.command import rows
from ..git.repository import Repo, commits, files_below, filters_off, read_small, refs_below
from ..git.worktree_admin import Admin, last_commit, read_admin
from .manifests import Manifest, write_manifest
from .moves import move
from .quarantine import MARK
from .salvage import ASIDE, SALVAGE


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


def put_back(repo: Repo, told: Manifest, path: str | None, branch: str | None, check: bool) -> dict[str, Any]:
    """Put the thing back as a worktree of ``repo``; only its tree where git knew none. The answer of a restore."""
    found = _Found.read(repo, told)
    tree, tip = told.tree_path, found.tip
    if found.tree and not found.admin and (not tip or os.path.islink(tree) or not os.path.isdir(tree)):
        return move_back(told, path, check)
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


def move_back(told: Manifest, path: str | None, check: bool) -> dict[str, Any]:
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
