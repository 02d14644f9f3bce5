# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps a leftover's commits from being pruned: ``refs/loop-salvage/<id>/…``, made before its branch goes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from ..base.errors import LoopError
from ..git.command import rows
from ..git.locks import lock_holder
from ..git.repository import OBJECT, Repo, files_below, objects, read_small
from ..git.worktree_admin import index_tree, mentioned, staged
from ..host.processes import processes
from .leftovers import Leftover
from .whole_moves import move

SALVAGE = "refs/loop-salvage"
ASIDE = "loop-quarantine"


def find_unreachable(repo: Repo, leftovers: Sequence[Leftover], check: bool) -> None:
    """Fill ``keep`` and ``index``: what a leftover mentions and no ref reaches. Forget tips that do not exist.

    Without ``check`` a tree of what is staged is written for each index that differs from its commit.
    """
    wanted = {item.id: _mentioned(repo, item) for item in leftovers}
    indexed = [item for item in leftovers if item.admin and os.path.isfile(f"{item.admin.directory}/index")]
    trees = [f"{item.tip or item.head or '-'}^{{tree}}" for item in indexed]
    tips = {item.tip for item in leftovers if item.tip}
    asked = list(dict.fromkeys([*tips, *(name for names in wanted.values() for name in names)]))
    found = objects(repo, [*asked, *trees])  # one git for all
    real = {name for name, kind in found[: len(asked)] if kind == "commit"}
    lonely = _unreachable(repo, real - tips, real & tips)
    for item in leftovers:
        item.tip = item.tip if item.tip in real else ""
        item.keep = [name for name in wanted[item.id] if name in lonely or (name == item.head and name in real)]
    for item, (tree, _kind) in zip(indexed, found[len(asked) :], strict=True):
        if item.admin and (not tree or index_tree(item.admin) != tree) and not check:
            item.index = staged(repo, item.admin)


def _mentioned(repo: Repo, leftover: Leftover) -> list[str]:
    """Every object that the leftover's files in the git directory name, but its branch's tip."""
    names = mentioned(leftover.admin.directory) if leftover.admin else []
    logs = [f"{repo.common}/logs/refs/heads/{leftover.branch}"] if leftover.branch else []
    for file in [*leftover.debris, *logs]:
        names += OBJECT.findall(read_small(file) or "")
    return [name for name in dict.fromkeys(names) if name != leftover.tip and set(name) != {"0"}]


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


def salvage_refs(leftover: Leftover) -> dict[str, str]:
    """The refs that keep the leftover's commits: {ref: commit}, the branch's tip first."""
    base = f"{SALVAGE}/{leftover.id}"
    refs = {f"{base}/heads/{leftover.branch}": leftover.tip} if leftover.branch and leftover.tip else {}
    for number, commit in enumerate(leftover.keep):
        refs[f"{base}/HEAD" if commit == leftover.head else f"{base}/log/{number}"] = commit
    if leftover.index:
        refs[f"{base}/index"] = leftover.index
    return refs


def free_branches(repo: Repo, leftovers: Sequence[Leftover], tolerant: bool) -> dict[str, LoopError]:
    """One transaction: salvage refs made, branches deleted if they are still what we saw.

    ``tolerant``: where it fails, one transaction for each leftover; {id: error} of those that fail.
    """
    lines: list[str] = []
    for leftover in leftovers:
        unlock(repo, leftover.id)
        lines += [f"update {ref}\0{commit}\0\0" for ref, commit in salvage_refs(leftover).items()]
        if leftover.branch:
            lines += ["option no-deref\0", f"delete refs/heads/{leftover.branch}\0{leftover.value}\0"]
            put_aside(repo, leftover.id, [f"{repo.common}/logs/refs/heads/{leftover.branch}"])
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


def drop_refs(repo: Repo, name: str) -> None:
    """Delete the salvage refs of the id ``name``."""
    unlock(repo, name)
    listed = repo.git(["for-each-ref", "--format=%(refname)", f"{SALVAGE}/{name}"])[1]
    if listed:
        lines = "".join(f"delete {ref}\0\0" for ref in rows(listed))
        repo.git(["update-ref", "--stdin", "-z"], stdin=os.fsencode(lines))


def put_aside(repo: Repo, name: str, files: Iterable[str]) -> None:
    """Move files of the git directory aside, to the same relative place below the id ``name``."""
    for file in files:
        if os.path.lexists(file):
            target = f"{repo.common}/{ASIDE}/{name}/{os.path.relpath(file, repo.common)}"
            while os.path.lexists(target):
                target += "~"
            move(file, target)


def unlock(repo: Repo, name: str) -> None:
    """Drop what a killed pass left of its locks on the salvage refs of the id ``name``: nobody else makes them."""
    for lock in files_below(f"{repo.common}/{SALVAGE}/{name}"):
        if lock.endswith(".lock"):
            holder = lock_holder(lock, repo, processes())
            if holder:
                raise LoopError(f"{lock} is held by {holder}: wait for it to end")
            os.unlink(lock)
