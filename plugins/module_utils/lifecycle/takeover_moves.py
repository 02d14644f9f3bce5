# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Moves of what an older layout has: whole, also to another file system, and never over something else."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from ..base.errors import LoopError
from ..base.files import read_bytes, remove_tree, write_atomic

LARGEST = 1 << 34  # bytes of a file that is copied


def move(source: str, target: str, *, keep: bool = False) -> str:
    """Move a file, a link or a directory; where ``target`` is taken, to the next free name that ends in ``~``.

    With ``keep`` it is copied. Returns where it is now; nowhere else where there is no ``source``. What was moved
    already and not yet removed here is. LoopError where it is a mount point, or cannot be moved.
    """
    if not os.path.lexists(source):
        return target
    if _is_directory(source) and os.path.isdir(target) and os.path.samefile(source, target):
        raise LoopError(f"{target} is {source} itself: remove the link, or unmount it, and run this again")
    while os.path.lexists(target) and not _has_all_of(target, source):
        target += "~"
    try:
        if not keep and not os.path.lexists(target):
            os.rename(source, target)
            return target
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise LoopError(f"{source} is a mount point: unmount it and run this again") from error
        if error.errno != errno.EXDEV:
            raise LoopError(f"{source} cannot be moved to {target}: {error.strerror}") from error
    if not os.path.lexists(target):  # it appears when it is whole
        making = f"{os.path.dirname(target)}/.{os.path.basename(target)}.moving"
        remove_tree(making)
        _copy(source, making)
        os.rename(making, target)
    if not keep:
        remove_tree(source)
    return target


def fill(source: str, target: str) -> None:
    """Move what is in a directory into another one, and so on for directories that both have; the rest goes beside."""
    for name in sorted(os.listdir(source)):
        one, other = f"{source}/{name}", f"{target}/{name}"
        if _is_directory(one) and _is_directory(other):
            fill(one, other)
            with contextlib.suppress(OSError):  # something is mounted there
                os.rmdir(one)
        else:
            move(one, other)


def _is_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _has_all_of(one: str, other: str) -> bool:
    """Whether all that is left of ``other`` stands in ``one`` as well, byte by byte: so much of it as was moved."""
    there, here = os.lstat(one).st_mode, os.lstat(other).st_mode
    if stat.S_IFMT(there) != stat.S_IFMT(here):
        return False
    if stat.S_ISREG(here):
        return read_bytes(one, LARGEST) == read_bytes(other, LARGEST)
    if stat.S_ISDIR(here):
        names = os.listdir(other)
        return all(
            os.path.lexists(f"{one}/{name}") and _has_all_of(f"{one}/{name}", f"{other}/{name}") for name in names
        )
    return stat.S_ISLNK(here) and os.readlink(one) == os.readlink(other)


def _copy(source: str, target: str) -> None:
    """A faithful copy: bytes, owner where we may, mode, time."""
    status = os.lstat(source)
    if stat.S_ISDIR(status.st_mode):
        os.mkdir(target, 0o700)
        for name in os.listdir(source):
            _copy(f"{source}/{name}", f"{target}/{name}")
        os.chmod(target, stat.S_IMODE(status.st_mode))
    elif stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(source), target)
    elif stat.S_ISREG(status.st_mode):
        write_atomic(target, read_bytes(source, LARGEST) or b"", stat.S_IMODE(status.st_mode))
    else:
        raise LoopError(f"{source} is no file, link or directory and cannot be moved to another file system")
    if os.geteuid() == 0:
        os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
