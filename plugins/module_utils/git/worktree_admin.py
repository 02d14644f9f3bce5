# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The directories of ``.git/worktrees``: what each says of its worktree, read without git and without trusting it."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..base.errors import Denied, LoopError
from ..base.files import inside, read_bytes
from .repository import OBJECT, SMALL, Repo, files_below, objects, read_small


@dataclass
class Admin:
    """One directory of ``.git/worktrees``, read without git and without trusting it."""

    name: str
    directory: str
    target: str = ""  # where the worktree should stand
    head: str = ""  # commit of a detached HEAD
    branches: tuple[str, ...] = ()  # checked out, or waited for by a rebase or bisect


def read_admin(directory: str, real: Callable[[str], str] = os.path.realpath) -> Admin:
    """What the admin directory says, as far as it can be read."""
    admin = Admin(os.path.basename(directory), directory)
    target = (read_small(f"{directory}/gitdir") or "").removesuffix("\n")
    if target.endswith("/.git") and "\0" not in target:
        target = os.path.normpath(os.path.join(directory, target[: -len("/.git")]))
        parent, name = os.path.split(target)
        admin.target = os.path.join(real(parent), name)
    head = (read_small(f"{directory}/HEAD") or "").strip()
    held = [head.removeprefix("ref:").strip()] if head.startswith("ref:") else []
    if OBJECT.fullmatch(head):
        admin.head = head
    # Only a detached worktree can wait for a branch; with many worktrees every file that is not read counts.
    for state in () if held else ("rebase-merge/head-name", "rebase-apply/head-name", "BISECT_START"):
        name = (read_small(f"{directory}/{state}") or "").strip()
        held.append(name if name.startswith("refs/") or not name else f"refs/heads/{name}")
    admin.branches = tuple(ref.removeprefix("refs/heads/") for ref in held if ref.startswith("refs/heads/"))
    return admin


def adopt(admins: Sequence[Admin], trees: Sequence[str]) -> None:
    """Join an admin directory that lost its worktree with the tree whose ``.git`` names it."""
    lost = {admin.directory: admin for admin in admins if not os.path.lexists(admin.target)}
    for tree in trees if lost else ():
        link = (read_small(f"{tree}/.git") or "").strip()
        admin = lost.get(os.path.realpath(link.removeprefix("gitdir:").strip())) if link.startswith("gitdir:") else None
        if admin:
            admin.target = tree


def resolver() -> Callable[[str], str]:
    """As realpath, but each directory that worktrees share is looked at once."""

    @functools.cache
    def real(path: str) -> str:
        parent, name = os.path.split(path)
        return os.path.realpath(path) if not name or os.path.islink(path) else os.path.join(real(parent), name)

    return real


def admins_of(repo: Repo) -> list[Admin]:
    """Every entry of ``.git/worktrees``, sorted by name."""
    top, real = f"{repo.common}/worktrees", resolver()
    try:
        return [read_admin(f"{top}/{name}", real) for name in sorted(os.listdir(top))]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        raise Denied(repo.common, "") from error


def check_outside(path: str, admins: Sequence[Admin]) -> None:
    """LoopError where ``path`` lies inside one of the worktrees."""
    for each in admins:
        if each.target and each.target != path and inside(path, each.target) and os.path.isdir(each.target):
            raise LoopError(f"path {path} lies inside another worktree, {each.target}")


def last_commit(admin: Admin) -> str:
    """Where the worktree's HEAD was last, as its reflog tells; empty where there is none."""
    rows = (read_small(f"{admin.directory}/logs/HEAD") or "").splitlines()
    words = rows[-1].split(" ") if rows else []
    return words[1] if len(words) > 1 and OBJECT.fullmatch(words[1]) else ""


def mentioned(directory: str) -> list[str]:
    """Every object name that the admin directory's text files hold: reflog, rebase state, ORIG_HEAD, …"""
    found: dict[str, None] = {}
    for file in files_below(directory):
        part = os.path.relpath(file, directory).split("/")
        if part[-1] != "index" and part[0] != "modules":
            found.update(dict.fromkeys(OBJECT.findall(read_small(file) or "")))
    return list(found)


def index_tree(admin: Admin) -> str:
    """The tree that the index says it equals (its cache-tree extension); empty where it differs from every tree."""
    try:
        content = read_bytes(f"{admin.directory}/index", limit=256 * SMALL) or b""
    except LoopError:
        return ""
    found = re.search(rb"TREE....\0(\d+) \d+\n", content[max(content.rfind(b"TREE"), 0) :], re.DOTALL)
    if not found:
        return ""
    start = max(content.rfind(b"TREE"), 0) + found.end()
    return content[start : start + (32 if len(admin.head) == 64 else 20)].hex()


def staged(repo: Repo, admin: Admin) -> str:
    """A tree that holds every object of the worktree's index, so that none is ever pruned; empty where it has none."""
    where = {"GIT_DIR": admin.directory, "GIT_COMMON_DIR": repo.common, "GIT_INDEX_FILE": f"{admin.directory}/index"}
    _status, out, _err = repo.git(["ls-files", "--stage", "-z", "--", ":/"], environment=where, ok=range(256))
    names = sorted({row.split(" ")[1] for row in out.split("\0") if row and not row.startswith("160000")})
    real = [name for name, kind in objects(repo, names) if kind == "blob"]
    if not real:
        return ""
    _status, tree, _err = repo.git(["mktree"], stdin="".join(f"100644 blob {name}\t{name}\n" for name in real).encode())
    return tree.strip()
