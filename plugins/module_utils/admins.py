# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The directories of ``.git/worktrees``: what each says of its worktree, read without git and without trusting it."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .errors import LoopError
from .files import read_bytes
from .gitrepo import OBJECT, SMALL, Denied, Repo, files_below, inside, objects, read_small
from .loose import read

MANY = 10  # fewer are read one by one


@dataclass
class Admin:
    """One directory of ``.git/worktrees``, read without git and without trusting it."""

    name: str
    place: str
    target: str = ""  # where the worktree should stand
    head: str = ""  # commit of a detached HEAD
    branches: tuple[str, ...] = ()  # checked out, or waited for by a rebase or bisect


def read_admin(place: str, real: Callable[[str], str] = os.path.realpath) -> Admin:
    """What the admin directory says, as far as it can be read."""
    admin = Admin(os.path.basename(place), place)
    target = (read_small(f"{place}/gitdir") or "").removesuffix("\n")
    if target.endswith("/.git") and "\0" not in target:
        target = os.path.normpath(os.path.join(place, target[: -len("/.git")]))
        parent, name = os.path.split(target)
        admin.target = os.path.join(real(parent), name)
    head = (read_small(f"{place}/HEAD") or "").strip()
    held = [head.removeprefix("ref:").strip()] if head.startswith("ref:") else []
    if OBJECT.fullmatch(head):
        admin.head = head
    # Only a detached worktree can wait for a branch; with many worktrees every file that is not read counts.
    for state in () if held else ("rebase-merge/head-name", "rebase-apply/head-name", "BISECT_START"):
        name = (read_small(f"{place}/{state}") or "").strip()
        held.append(name if name.startswith("refs/") or not name else f"refs/heads/{name}")
    admin.branches = tuple(ref.removeprefix("refs/heads/") for ref in held if ref.startswith("refs/heads/"))
    return admin


def adopt(admins: Sequence[Admin], trees: Sequence[str]) -> None:
    """Join an admin directory that lost its worktree with the tree whose ``.git`` names it."""
    lost = {admin.place: admin for admin in admins if not os.path.lexists(admin.target)}
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
    place = f"{repo.common}/worktrees"
    real = resolver()
    return [read_admin(f"{place}/{name}", real) for name in sorted(_names(repo))]


def _names(repo: Repo) -> list[str]:
    try:
        return os.listdir(f"{repo.common}/worktrees")
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
    rows = (read_small(f"{admin.place}/logs/HEAD") or "").splitlines()
    words = rows[-1].split(" ") if rows else []
    return words[1] if len(words) > 1 and OBJECT.fullmatch(words[1]) else ""


def mentioned(place: str) -> list[str]:
    """Every object name that the admin directory's text files hold: reflog, rebase state, ORIG_HEAD, …"""
    found: dict[str, None] = {}
    for file in files_below(place):
        part = os.path.relpath(file, place).split("/")
        if part[-1] != "index" and part[0] != "modules":
            found.update(dict.fromkeys(OBJECT.findall(read_small(file) or "")))
    return list(found)


def index_tree(admin: Admin) -> str:
    """The tree that the index says it equals (its cache-tree extension); empty where it differs from every tree."""
    try:
        content = read_bytes(f"{admin.place}/index", limit=256 * SMALL) or b""
    except LoopError:
        return ""
    found = re.search(rb"TREE....\0(\d+) \d+\n", content[max(content.rfind(b"TREE"), 0) :], re.DOTALL)
    if not found:
        return ""
    start = max(content.rfind(b"TREE"), 0) + found.end()
    return content[start : start + (32 if len(admin.head) == 64 else 20)].hex()


def staged(repo: Repo, admin: Admin) -> str:
    """A tree that holds every object of the worktree's index, so that none is ever pruned; empty where it has none."""
    where = {"GIT_DIR": admin.place, "GIT_COMMON_DIR": repo.common, "GIT_INDEX_FILE": f"{admin.place}/index"}
    _status, out, _err = repo.git(["ls-files", "--stage", "-z", "--", ":/"], environment=where, ok=range(256))
    names = sorted({row.split(" ")[1] for row in out.split("\0") if row and not row.startswith("160000")})
    real = [name for name, kind in objects(repo, names) if kind == "blob"]
    if not real:
        return ""
    _status, tree, _err = repo.git(["mktree"], stdin="".join(f"100644 blob {name}\t{name}\n" for name in real).encode())
    return tree.strip()


# --- those that matter to one worktree --------------------------------------------------------


def admins_near(repo: Repo, path: str, branch: str) -> list[Admin]:
    """Those of ``admins_of`` that can matter to ``path`` or ``branch``, or that need a second look."""
    global _known
    top, names = f"{repo.common}/worktrees", _names(repo)
    if len(names) >= MANY:
        if not _known or not _known.fits(top):
            if _known:
                _known.close()
                _known = None
            _known = Known(top)
        link = os.path.basename((read_small(f"{path}/.git") or "").strip())
        wanted = _known.near(path, branch) | {link}
        names = [name for name in names if name in wanted]
    return [read_admin(f"{top}/{name}") for name in sorted(names)]


class Known:
    """What hundreds of admin directories say, read once; the kernel tells which to read again (inotify)."""

    # Whatever is written, made, renamed or deleted in a directory, and what becomes of the directory itself.
    CHANGES = 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800
    ONLY_A_DIRECTORY = 0x01000000 | 0x02000000

    def __init__(self, top: str) -> None:
        self.top, self.pid, self.inode = top, os.getpid(), os.stat(top).st_ino
        self.libc = ctypes.CDLL(None)
        self.queue: int = self.libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self.names: dict[int, str] = {}  # by watch
        self.keys: dict[str, tuple[int, list[str]]] = {}  # watch and index keys, by name
        self.index: dict[str, set[str]] = {}  # names by what plain_keys() tells of them
        self.unknown: set[str] = set()
        self.whole = self._watch(top, "") >= 0
        real = resolver()
        for name in os.listdir(top):
            self._learn(name, real)

    def close(self) -> None:
        if self.queue >= 0:
            os.close(self.queue)

    def fits(self, top: str) -> bool:
        """Is what is known true of ``top``? What changed is read again."""
        if (top, os.getpid()) != (self.top, self.pid) or not self.whole or os.stat(top).st_ino != self.inode:
            return False
        for name in set(self._changed()):
            self._forget(name)
            if os.path.lexists(f"{top}/{name}"):
                self._learn(name)
        return self.whole

    def near(self, path: str, branch: str) -> set[str]:
        """Those at ``path`` or around it, those whose branch is ``branch`` or in its way, and all unknown ones."""
        parts = branch.split("/")
        keys = [f"{branch}/", *("/".join(parts[:count]) for count in range(1, len(parts) + 1))]
        while path != "/":
            keys.append(path)
            path = os.path.dirname(path)
        return self.unknown.union(*(self.index.get(key, ()) for key in keys))

    def _changed(self) -> Iterator[str]:
        while True:
            try:
                content = os.read(self.queue, 65536)
            except BlockingIOError:
                return
            at = 0
            while at < len(content):
                watch, _mask, _cookie, length = struct.unpack_from("iIII", content, at)
                name = self.names.get(watch) or os.fsdecode(content[at + 16 : at + 16 + length].rstrip(b"\0"))
                at += 16 + length
                if name:
                    yield name
                elif watch < 0 or watch in self.names:
                    self.whole = False  # the queue ran over, or the directory of all went

    def _watch(self, path: str, name: str) -> int:
        wanted = self.CHANGES | self.ONLY_A_DIRECTORY
        watch: int = self.libc.inotify_add_watch(self.queue, os.fsencode(path), wanted)
        if watch >= 0:
            self.names[watch] = name
        return watch

    def _learn(self, name: str, real: Callable[[str], str] = os.path.realpath) -> None:
        place = f"{self.top}/{name}"
        watch = self._watch(place, name)  # first: no change is missed
        keys = plain_keys(place, real) if watch >= 0 else []
        self.keys[name] = (watch, keys)
        for key in keys:
            self.index.setdefault(key, set()).add(name)
        if not keys:
            self.unknown.add(name)

    def _forget(self, name: str) -> None:
        watch, keys = self.keys.pop(name, (-1, []))
        self.names.pop(watch, "")  # to end the watch would cost more than what it still says
        self.unknown.discard(name)
        for key in keys:
            self.index[key].discard(name)


_known: Known | None = None


def plain_keys(place: str, real: Callable[[str], str]) -> list[str]:
    """Where the worktree stands, its branch, and all that its branch is below, each with a / at its end.

    Empty where the admin directory does not say so in the very words that git writes.
    """
    target, head = read(f"{place}/gitdir") or b"", read(f"{place}/HEAD") or b""
    branch = os.fsdecode(head.removeprefix(b"ref: refs/heads/").removesuffix(b"\n"))
    if len(os.fsencode(branch)) != len(head) - 17 or not branch or read(f"{place}/commondir") != b"../..\n":
        return []
    if not target.startswith(b"/") or not target.endswith(b"/.git\n") or b"\0" in target:
        return []
    parent, name = os.path.split(os.path.normpath(os.fsdecode(target[: -len("/.git\n")])))
    parts = branch.split("/")
    return [os.path.join(real(parent), name), branch, *("/".join(parts[:at]) + "/" for at in range(1, len(parts)))]
