# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory: the one thing that goes from cell to cell, copied into each with bounds, and back after it."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import subprocess
from collections.abc import Sequence
from typing import Any, TypeAlias

from ..base import untrusted
from ..base.errors import LoopError
from ..base.files import remove_tree
from ..base.journal import say
from ..host.settings import Settings
from ..host.users import account, as_user

Copied: TypeAlias = dict[str, Any]

MAX_FILES, MAX_BYTES, MAX_DEPTH = 2_000, 64 * 1024 * 1024, 8
THE_REST = "everything after"  # what is left out begins so where nobody knows its names


def copy(user: str, source: str, target: str) -> Copied:
    """Copy what memory has, as the loop's user, into the empty directory ``target``; ``{files, bytes, left_out}``.

    Regular files and directories only, no link is followed, and only as much as is allowed. What cannot be read is left
    out like what may not be. Without a target it is read, and no more.
    """
    if not os.path.isdir(source):
        return {"files": 0, "bytes": 0, "left_out": []}
    answer: Copied = as_user(user, lambda: _copy_bounded(source, target))
    return answer


def _copy_bounded(source: str, target: str) -> Copied:
    """Breadth first and by name, so that of too much the same is taken each time."""
    left_out: list[str] = []
    seen = total = 0
    directories = [("", 0)]
    for relative, depth in directories:
        try:
            entries = _entries(source, relative)
        except LoopError:
            if not relative:
                raise
            left_out.append(untrusted.show(relative))
            continue
        if relative and target:
            os.mkdir(f"{target}/{relative}", 0o750)
        for name, status in entries:
            inner = f"{relative}/{name}".lstrip("/")
            seen += 1
            if seen > MAX_FILES:
                left_out = [*left_out[:20], f"{THE_REST} {MAX_FILES} files"]
                return {"files": seen - 1, "bytes": total, "left_out": left_out}
            try:
                if stat.S_ISDIR(status.st_mode) and depth < MAX_DEPTH:
                    directories.append((inner, depth + 1))
                elif stat.S_ISREG(status.st_mode):
                    content = untrusted.read(f"{source}/{inner}", source, MAX_BYTES - total) or b""
                    total += len(content)
                    if target:
                        _put(f"{target}/{inner}", content, status)
                else:
                    left_out.append(untrusted.show(inner))
            except LoopError:
                left_out.append(untrusted.show(inner))
    return {"files": seen, "bytes": total, "left_out": left_out[:20]}


def _entries(source: str, relative: str) -> list[tuple[str, os.stat_result]]:
    """What is in a directory of memory, by name, but no more than is taken of all; LoopError where it cannot be read.

    Whoever wrote it may have put millions of names there.
    """
    with untrusted.opened(f"{source}/{relative}".rstrip("/"), source) as directory:
        try:
            with os.scandir(directory) as found:
                names = sorted(entry.name for entry in itertools.islice(found, MAX_FILES + 1))
            return [(name, os.stat(name, dir_fd=directory, follow_symlinks=False)) for name in names]
        except OSError as error:
            raise LoopError(f"{untrusted.show(relative or source)} cannot be read: {error.strerror}") from error


def _put(path: str, content: bytes, status: os.stat_result) -> None:
    """A copy with the time of the original."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    with open(descriptor, "wb", buffering=0) as handle:
        while content:
            content = content[handle.write(content) :]
        os.utime(descriptor, ns=(status.st_atime_ns, status.st_mtime_ns))


def take_back(config: Settings, learned: str) -> Copied:
    """What the cycle ``learned``, a directory of its cell, is the memory of the next."""
    return exchange(config.user, learned, config.memory_dir)


def exchange(name: str, learned: str, memory: str, top: str = "") -> Copied:
    """``learned`` takes the place of ``memory``, which is kept beside it; no link on the way to it, below ``top``.

    Copied by a process of the user ``name``, file by file, with bounds. ``{changed, files, bytes, left_out}``; what is
    left out is said as well. LoopError where something of ``memory`` would be lost by it: all stays as it was.
    """
    fresh, previous = f"{memory}.new", f"{memory}.previous"
    user = account(name)
    if os.path.islink(learned) or not os.path.isdir(learned):
        raise LoopError(f"{learned} is no directory any more")
    with untrusted.opened(os.path.dirname(learned), top or os.path.dirname(learned)):
        pass  # LoopError where something on the way is a link
    remove_tree(fresh)
    os.mkdir(fresh, 0o700)
    os.chown(fresh, user.pw_uid, user.pw_gid)
    copied = copy(name, learned, fresh)
    os.chown(fresh, 0, user.pw_gid)
    os.chmod(fresh, 0o750)
    changed = not _same(fresh, memory)
    try:
        if changed:
            _check_given(name, memory)
            _check_whole(learned, copied, fresh, memory)
            remove_tree(previous)
            with contextlib.suppress(FileNotFoundError):
                os.rename(memory, previous)
            os.rename(fresh, memory)
    finally:
        remove_tree(fresh)
    if copied["left_out"]:
        say(f"of {learned} was not taken: {_few(copied['left_out'])}\n")
    return {"changed": changed, **copied}


def _check_given(name: str, memory: str) -> None:
    """LoopError where something of ``memory`` could not be given to the cell: what was learned there has not got it."""
    if never_given := copy(name, memory, "")["left_out"]:
        raise LoopError(
            f"{memory} has what {name} cannot read or what is too much ({_few(never_given)}): a change of it"
            f" would lose that; chown -R root:{name} and chmod -R g+rX it, or move it away"
        )


def _check_whole(learned: str, copied: Copied, fresh: str, memory: str) -> None:
    """LoopError where ``fresh``, a copy that is not whole, lacks something of ``memory``.

    Nobody knows then whether the cell has let go of it, or only the copy has no room for it.
    """
    if copied["left_out"] and (lacking := _files(memory) - _files(fresh)):
        raise LoopError(
            f"of {learned} could not be taken: {_few(copied['left_out'])}; so {_few(sorted(lacking))} of {memory} would"
            f" be lost, and nothing of it is taken; remove from {memory} what is of no use: {MAX_FILES} files and"
            f" {MAX_BYTES >> 20} MiB are allowed"
        )


def _files(place: str) -> set[str]:
    """Every file below, by its way from there."""
    found = (f"{base}/{name}" for base, _directories, names in os.walk(place) for name in names)
    return {os.path.relpath(path, place) for path in found}


def _few(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = [f"{len(names) - 3} more"] * (len(names) > 3)
    return ", ".join([*map(untrusted.show, names[:3]), *more])


def swap(config: Settings, *, check: bool = False) -> str:
    """Bring the memory before the last change back, and keep the present one in its place; what to tell."""
    memory, previous = config.memory_dir, f"{config.memory_dir}.previous"
    if not os.path.isdir(previous):
        raise LoopError(f"there is no earlier memory: {previous} is missing")
    if check:
        return "the memory of before would be brought back"
    aside = f"{memory}.swap"
    try:
        os.rename(memory, aside)
        os.rename(previous, memory)
        os.rename(aside, previous)
    except OSError as error:
        raise LoopError(f"{error.filename} cannot become {error.filename2}: {error.strerror}") from error
    return f"{memory} is the memory of before again; the other one is {previous}, and the same command swaps them back"


def _same(one: str, other: str) -> bool:
    """Whether two directories have the same files with the same content. ``diff`` follows no link with this."""
    command = ["diff", "--recursive", "--brief", "--no-dereference", one, other]
    try:
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def recover(memory: str) -> None:
    """Bring memory back to its place: killed between two renames, it stands beside that."""
    for beside in (".swap", ".previous"):
        if not os.path.lexists(memory) and os.path.isdir(memory + beside):
            os.rename(memory + beside, memory)
    if os.path.isdir(f"{memory}.swap") and not os.path.lexists(f"{memory}.previous"):
        os.rename(f"{memory}.swap", f"{memory}.previous")
