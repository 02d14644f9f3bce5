# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Moving a thing whole: by one rename or not at all, and the sentences for why it cannot be."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

from ..base.errors import Denied, LoopError
from ..base.files import inside, size_of


def move(source: str, target: str) -> None:
    """Rename ``source`` to ``target`` (which must be free), or raise: never a copy, never half.

    Raises Denied where another user's ownership forbids it, LoopError for everything else.
    """
    try:
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        if os.path.lexists(target):
            raise LoopError(f"{target} is taken: {source} stays where it is")
        _rename(source, target)
    except PermissionError as error:
        if error.errno == errno.EPERM and os.geteuid() == 0:
            raise LoopError(f"{source} cannot be moved, not even by root: is it immutable (lsattr)?") from error
        raise Denied(source, target) from error
    except OSError as error:
        raise LoopError(why_not(source, target, error)) from error


def _rename(source: str, target: str) -> None:
    try:
        os.rename(source, target)
    except PermissionError:
        # A directory that changes its parent must be writable itself: its '..' changes.
        status = os.lstat(source)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o700 == 0o700:
            raise
        os.chmod(source, status.st_mode | 0o700)
        try:
            os.rename(source, target)
        except OSError:
            os.chmod(source, stat.S_IMODE(status.st_mode))
            raise
        os.chmod(target, stat.S_IMODE(status.st_mode))


def standing(path: str) -> str:
    """The nearest directory at or above ``path`` that exists."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def check_apart(path: str, root: str, quarantine: str) -> None:
    """LoopError where a worktree's ``path``, its repository and the quarantine are not beside each other."""
    if root and (inside(root, path) or inside(path, root)):
        raise LoopError(f"path {path} and the repository {root} lie one inside the other: choose a place beside it")
    if inside(quarantine, path) or inside(path, quarantine):
        raise LoopError(f"path {path} and the quarantine {quarantine} lie one inside the other")


def why_not(source: str, target: str, error: OSError) -> str:
    """The sentence for a rename that the system refused with ``error``."""
    if error.errno == errno.EXDEV:
        return other_file_system(source, os.path.dirname(target))
    if error.errno == errno.EBUSY:
        return f"{source} is a mount point: unmount it first"
    return f"{source} cannot be moved to {target}: {error.strerror}"


def mounts_below(path: str) -> list[str]:
    """What is mounted below ``path``: a rename takes it along, but whoever deletes must not go there."""
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    places = (re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), line.split(b" ")[4]) for line in lines)
    return [place for place in map(os.fsdecode, places) if place.startswith(f"{path}/")]


def other_file_system(source: str, quarantine: str) -> str:
    """The sentence that says what a copy would cost."""
    return (
        f"{source} and the quarantine {quarantine} are on different file systems: it would have to copy "
        f"{size_of(source)} bytes; name a quarantine on the file system of {source}"
    )
