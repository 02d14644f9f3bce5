# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Refs and objects that stand in files of their own, read and changed as git does it, without starting git.

To start git costs more than all the rest of a heal. So what is plain is done here, by git's own lock files, and
whatever is not (packed, symbolic, broken, locked, in another format) is answered with None: then git is asked.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import zlib
from collections.abc import Iterator

COMMIT = re.compile(rb"commit (\d+)\0tree ([0-9a-f]{40})\n((?:parent [0-9a-f]{40}\n)*)")
KIND = re.compile(rb"(commit|tree|blob|tag) \d+\0")
VALUE = re.compile(rb"([0-9a-f]{40})\n")
PACKED = 4 * 1024 * 1024  # a larger packed-refs is git's


def beginning(path: str, length: int) -> bytes | None:
    """The first bytes of a regular file; None where there is none to read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, length)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def read(path: str, limit: int = 65536) -> bytes | None:
    """The content of a regular file; None where there is none, or a longer one."""
    content = beginning(path, limit + 1)
    return None if content is None or len(content) > limit else content


def simple(common: str) -> bool:
    """Does the repository keep refs and objects as git always did?"""
    config = read(f"{common}/config")
    return config is not None and not re.search(rb"(?i)refstorage|objectformat|sharedrepository", config)


# --- objects ----------------------------------------------------------------------------------


def head_of_object(common: str, name: str) -> bytes:
    """Kind and size of the object ``name``, and how its content begins; empty where it is not loose."""
    packed = beginning(f"{common}/objects/{name[:2]}/{name[2:]}", 4096)
    try:
        return zlib.decompressobj().decompress(packed, 4096) if packed else b""
    except zlib.error:
        return b""


def kind_of_object(common: str, name: str) -> str | None:
    """commit, tree, blob or tag."""
    found = KIND.match(head_of_object(common, name))
    return found[1].decode() if found else None


def tree_of(common: str, name: str) -> str | None:
    """The tree of the commit ``name``."""
    found = COMMIT.match(head_of_object(common, name))
    return found[2].decode() if found else None


def forebears(common: str, name: str, most: int = 20) -> Iterator[str]:
    """Commits that ``name`` comes from, nearest first, as far as loose commits lead and not more than ``most``."""
    waiting = [name]
    for _count in range(most):
        found = COMMIT.match(head_of_object(common, waiting.pop(0))) if waiting else None
        parents = found[3].decode().split()[1::2] if found else []
        yield from parents
        waiting += parents


# --- refs -------------------------------------------------------------------------------------


def branches(common: str, name: str) -> dict[str, tuple[str, str]] | None:
    """The branch ``name`` and all below it, {branch: (commit, "")}, where that is one branch or none."""
    heads = f"{common}/refs/heads"
    way = heads
    for part in ["", *name.split("/")]:
        way = f"{way}/{part}" if part else way
        try:
            mode = os.lstat(way).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return _packed(common, name)
        except OSError:
            return None
        if not stat.S_ISDIR(mode):
            break
    if way != f"{heads}/{name}" or not stat.S_ISREG(mode):
        return _packed(common, name) if stat.S_ISDIR(mode) and not os.listdir(way) else None
    found = VALUE.fullmatch(read(way) or b"")
    below = _packed(common, name)
    if not found or below is None or set(found[1]) == {ord("0")}:
        return None
    return {name: (found[1].decode(), "")}


def _packed(common: str, name: str) -> dict[str, tuple[str, str]] | None:
    content = read(f"{common}/packed-refs", PACKED)
    if content is None:
        return None if os.path.lexists(f"{common}/packed-refs") else {}
    ref = os.fsencode(f" refs/heads/{name}")
    if ref + b"/" in content:
        return None
    at = content.find(ref + b"\n")
    if at < 0:
        return {}
    found = VALUE.fullmatch(content[max(at - 40, 0) : at] + b"\n")
    return {name: (found[1].decode(), "")} if found else None


def make(common: str, ref: str, commit: str) -> bool:
    """Let ``ref`` hold ``commit``, whatever it held; False where that is git's."""
    path = f"{common}/{ref}"
    try:
        with _locked(common, ref, make=True) as descriptor:
            os.write(descriptor, f"{commit}\n".encode())
            os.fsync(descriptor)
            os.rename(f"{path}.lock", path)
    except OSError:
        return False
    return True


def delete(common: str, ref: str, commit: str) -> bool:
    """Delete ``ref`` if it still holds ``commit``; False where that is git's, and then nothing was deleted."""
    path = f"{common}/{ref}"
    try:
        # With both locks, as git: a ref that is being packed must not outlive its file.
        with _locked(common, ref), _locked(common, "packed-refs"):
            if read(path) != f"{commit}\n".encode() or _packed(common, ref.removeprefix("refs/heads/")) != {}:
                return False
            os.unlink(path)
    except OSError:
        return False
    for top in (f"{common}/refs/heads", f"{common}/logs/refs/heads"):
        way = os.path.dirname(f"{top}/{ref.removeprefix('refs/heads/')}")
        with contextlib.suppress(OSError):
            while way != top:
                os.rmdir(way)
                way = os.path.dirname(way)
    return True


@contextlib.contextmanager
def _locked(common: str, name: str, make: bool = False) -> Iterator[int]:
    """Hold git's lock of the file ``name``; OSError where somebody else does, or where a symlink leads elsewhere."""
    way = common
    for part in name.split("/")[:-1]:
        way += f"/{part}"
        if make and not os.path.lexists(way):
            os.makedirs(way, exist_ok=True)
        if not stat.S_ISDIR(os.lstat(way).st_mode):
            raise NotADirectoryError(way)
    lock = f"{common}/{name}.lock"
    descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):  # renamed
            os.unlink(lock)
