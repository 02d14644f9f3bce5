# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files: written whole or not at all, digests, and locks that living processes hold."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator

from .errors import LoopError


def read_bytes(path: str, limit: int = 16 * 1024 * 1024) -> bytes | None:
    """The content of a regular file, or None where nothing stands at ``path``.

    Never follows a symlink in the last component. Raises LoopError where the path
    is not a regular file, is larger than ``limit`` bytes or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LoopError(f"{path} cannot be read: {error.strerror}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)  # fdopen would refuse a directory in words of its own
        raise LoopError(f"{path} is not a regular file")
    with os.fdopen(descriptor, "rb") as handle:
        if status.st_size > limit:
            raise LoopError(f"{path} has {status.st_size} bytes, more than the {limit} that are allowed")
        return handle.read()


def write_atomic(path: str, content: bytes, mode: int = 0o644, uid: int = -1, gid: int = -1) -> None:
    """Replace ``path`` by ``content``: temporary file beside it, fsync, rename.

    ``uid`` and ``gid`` of -1 keep the writer's own. Whoever reads ``path`` sees the old
    content or the new, never a part. Raises LoopError; then ``path`` is as it was.
    """
    directory = os.path.dirname(path) or "."
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=directory)
    except OSError as error:
        raise LoopError(f"{path} cannot be written: {error.strerror} ({directory})") from error
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fchown(descriptor, uid, gid)  # first: it takes setuid and setgid away
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        os.rename(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise LoopError(f"{path} cannot be written: {error.strerror}") from error
    sync_directory(directory)


def sync_directory(path: str) -> None:
    """Make the renames in a directory survive a power cut."""
    # Some file systems cannot, and some directories may be written but not read; the rename is still atomic.
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sha256(content: bytes) -> str:
    """Hex SHA-256 of ``content``."""
    return hashlib.sha256(content).hexdigest()


@contextlib.contextmanager
def flocked(path: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive ``flock`` on ``path`` (made if need be, mode 0640, never removed).

    Yields True while held. With ``wait=False`` yields False at once where another
    living process holds it: the kernel drops the lock of a dead one by itself.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise LoopError(f"the lock {path} cannot be opened: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)
