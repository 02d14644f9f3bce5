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


def move(source: str, target: str, *, keep: bool = False) -> None:
    """Move a file, a link or a directory; where ``target`` is taken, to the next free name that ends in ``~``.

    With ``keep`` it is copied. A copy that a killed run began is gone on with. LoopError where it is a mount point, or
    cannot be moved.
    """
    if not os.path.lexists(source):
        return
    target = _free(source, target)
    try:
        if not keep and not os.path.lexists(target):
            os.rename(source, target)
            return
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise LoopError(f"{source} is a mount point: unmount it and run this again") from error
        if error.errno != errno.EXDEV:
            raise LoopError(f"{source} cannot be moved to {target}: {error.strerror}") from error
    _copy(source, target)
    if not keep:
        remove_tree(source)


def _free(source: str, target: str) -> str:
    while os.path.lexists(target) and not _same(source, target):
        target += "~"
    return target


def _same(one: str, other: str) -> bool:
    """Whether ``other`` is a copy of ``one`` that a killed run made; directories are looked into by _copy."""
    here, there = os.lstat(one).st_mode, os.lstat(other).st_mode
    if stat.S_IFMT(here) != stat.S_IFMT(there):
        return False
    if stat.S_ISREG(here):
        return read_bytes(one, LARGEST) == read_bytes(other, LARGEST)
    return stat.S_ISDIR(here) or (stat.S_ISLNK(here) and os.readlink(one) == os.readlink(other))


def _copy(source: str, target: str) -> None:
    """A faithful copy: bytes, owner where we may, mode, time."""
    status = os.lstat(source)
    if stat.S_ISDIR(status.st_mode):
        with contextlib.suppress(FileExistsError):
            os.mkdir(target, 0o700)
        for name in os.listdir(source):
            _copy(f"{source}/{name}", _free(f"{source}/{name}", f"{target}/{name}"))
        os.chmod(target, stat.S_IMODE(status.st_mode))
    elif stat.S_ISLNK(status.st_mode):
        if not os.path.lexists(target):
            os.symlink(os.readlink(source), target)
    elif stat.S_ISREG(status.st_mode):
        write_atomic(target, read_bytes(source, LARGEST) or b"", stat.S_IMODE(status.st_mode))
    else:
        raise LoopError(f"{source} is no file, link or directory and cannot be moved to another file system")
    if os.geteuid() == 0:
        os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
