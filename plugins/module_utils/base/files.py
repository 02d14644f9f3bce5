# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files: written whole or not at all, digests, and locks that living processes hold."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import stat
import subprocess
import time
from collections.abc import Iterator

from .errors import Denied, LoopError
from .untrusted import show

WRITER_SECONDS = 60.0  # no writer of ours takes longer; who only holds the lock is none


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
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.new")
    try:
        descriptor = _new_file(temporary)
    except OSError as error:
        raise LoopError(f"{path} cannot be written: {error.strerror} ({directory or '.'})") from error
    with os.fdopen(descriptor, "wb") as handle:  # open to the end: it holds the lock
        try:
            handle.write(content)
            handle.flush()
            if (uid, gid) != (-1, -1):  # a cycle may not even ask to
                os.fchown(descriptor, uid, gid)  # first: it takes setuid and setgid away
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
            os.rename(temporary, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            with contextlib.suppress(OSError):
                handle.close()  # what could not be flushed would raise once more
            raise LoopError(f"{path} cannot be written: {error.strerror}") from error
    sync_directory(directory or ".")


def _new_file(path: str) -> int:
    """A new, empty and locked file at ``path``. A living writer is waited for, the rest of a killed one goes.

    The name is always the same, so whatever a killed writer left is gone when its work is done again.
    """
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                _clear(path)
            continue
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                return descriptor
        os.close(descriptor)  # somebody took it for the rest of a killed writer


def _clear(path: str) -> None:
    """Remove what stands at ``path``, as soon as no writer of ours is at work on it."""
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        os.unlink(path)  # no work of ours; nobody else's lock is waited for
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    deadline = time.monotonic() + WRITER_SECONDS
    try:
        while time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.01)
        if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
            os.unlink(path)
    finally:
        os.close(descriptor)


def sync_directory(path: str) -> None:
    """Make the renames in a directory survive a power cut."""
    # Some file systems cannot, and some directories may be written but not read; the rename is still atomic.
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def inside(path: str, directory: str) -> bool:
    """Is ``path`` the directory or below it? Both absolute and resolved, or normalised: nothing is looked at."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


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
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise LoopError(f"the lock {path} cannot be opened: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise LoopError(f"the lock {path} is no regular file: move it aside")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def alone_in(directory: str, seconds: float) -> Iterator[None]:
    """Hold an exclusive ``flock`` on the directory itself: no file, so nothing can stand in its place or be removed.

    LoopError where it cannot be had within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while (descriptor := locked_directory(directory)) is None:
        if time.monotonic() > deadline:
            raise LoopError(f"another process has held the lock of {directory} for {seconds:.0f} s: wait, or end it")
        time.sleep(0.05)
    try:
        yield
    finally:
        os.close(descriptor)


def locked_directory(path: str) -> int | None:
    """A descriptor of the directory, locked; None where another living process holds it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise LoopError(f"{path} cannot be locked: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):  # else it was moved away meanwhile
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def remove_tree(path: str) -> None:
    """Remove whatever stands at ``path``, however deep, and nothing that is mounted in it. LoopError where that fails.

    Directories of ours without permissions get them. No link in it is followed; who else can rename what is above
    ``path`` must not have more rights than we have. Our own walk would end at a depth that rm does not know.
    """
    if not os.path.lexists(path):
        return
    if os.path.islink(path) or not os.path.isdir(path):
        unlink(path)
        return
    for command in (["rm", "-rf", "--one-file-system"], ["chmod", "-R", "u+rwx"], ["rm", "-rf", "--one-file-system"]):
        done = subprocess.run(
            [*command, "--", path], cwd="/", stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if command[0] == "rm" and done.returncode == 0:
            return
    lines = done.stderr.decode("utf-8", "surrogateescape").splitlines() or ["no message"]
    raise LoopError(f"{show(path)} cannot be removed: {show(lines[0])}")


def unlink(path: str) -> None:
    """Remove a file or a link where there is one. LoopError where that cannot be done."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise LoopError(f"{path} cannot be removed: {error.strerror}") from error


def discard(path: str) -> None:
    """As ``remove_tree``, of a directory out of sight by one rename first: nobody sees a part of it.

    Who is killed meanwhile leaves ``.trash-*`` beside it. A full disk has no room for another new name.
    """
    if os.path.isdir(path) and not os.path.islink(path):
        trash = f"{os.path.dirname(path)}/.trash-{secrets.token_hex(8)}"
        os.rename(path, trash)
        path = trash
    remove_tree(path)


def size_of(path: str) -> int:
    """Bytes on disk below ``path``, nothing mounted; what may not be looked at counts as nothing."""
    command = ["du", "-s", "-x", "--block-size=1", "--", path]
    done = subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, check=False)
    number = done.stdout.partition(b"\t")[0]
    return int(number) if number.isdigit() else 0


def lstat_of(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise Denied(path, "") from error
