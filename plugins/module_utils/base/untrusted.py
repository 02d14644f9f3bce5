# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the loop's user wrote, read as input and never believed: the one reader for it.

A path is used relative to a directory that was opened before, no link in it is followed, nothing blocks
on a pipe, and size and depth are bounded. Whatever is told to a person goes through ``show``.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any

from .errors import LoopError, printable

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 32
MAX_SHOWN = 200


def show(text: object, limit: int = MAX_SHOWN) -> str:
    """A name or a line for a message: printable, on one line, not longer than it needs to be."""
    whole = str(text)
    plain = printable(whole[:limit])
    return plain if len(plain) <= limit and len(whole) <= limit else f"{plain[:limit]}..."


def shown(value: Any, limit: int = 5000) -> Any:
    """Plain data with every text in it as ``show`` has it, so that whoever prints it can."""
    if isinstance(value, dict):
        return {show(key, limit): shown(each, limit) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown(each, limit) for each in value]
    return show(value, limit) if isinstance(value, str) else value


@contextlib.contextmanager
def opened(path: str, top: str | None = None, each: Callable[[int], None] = lambda _descriptor: None) -> Iterator[int]:
    """A descriptor of the directory ``path``. Below ``top``, which is trusted, no component may be a link.

    Without ``top`` every component is looked at, from / on. ``each`` is called with every directory on the way.
    LoopError where it is no directory that can be entered.
    """
    start = "/" if top is None else top
    relative = os.path.relpath(path, start)
    if relative == ".." or relative.startswith("../") or "\0" in path:
        raise LoopError(f"{show(path)} does not lie in {start}")
    try:
        descriptor = os.open(start, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise LoopError(f"{show(start)} is no directory to enter ({error.strerror})") from error
    try:
        for part in relative.split("/") if relative != "." else []:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                deeper = os.open(part, flags, dir_fd=descriptor)
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", "no name")
                raise LoopError(f"{show(path)}: {show(part)} is no directory to enter ({why})") from error
            os.close(descriptor)
            descriptor = deeper
            each(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


def read(path: str, top: str, limit: int = MAX_BYTES) -> bytes | None:
    """The content of a regular file below ``top``; None where nothing stands at ``path``.

    Raises LoopError where something in the way is a link or no directory, where ``path`` is no regular file, or
    where it has more than ``limit`` bytes. A file that grows meanwhile is read up to ``limit``.
    """
    descriptor = _regular(path, top)
    if descriptor is None:
        return None
    with _closing(descriptor, path) as size:
        if size > limit:
            raise LoopError(f"{show(path)} has {size} bytes, more than the {limit} that are read")
        return _piece(descriptor, 0, limit)


def ends(path: str, top: str, limit: int) -> tuple[bytes, bytes, int] | None:
    """As ``read``, but of a file of more than ``limit`` bytes its beginning and its end, half of that each.

    Then how many bytes lie between the two. Nothing between them is looked at, so a file may be of any size.
    """
    descriptor = _regular(path, top)
    if descriptor is None:
        return None
    with _closing(descriptor, path) as size:
        if size <= limit:
            return _piece(descriptor, 0, limit), b"", 0
        half = limit // 2
        return _piece(descriptor, 0, half), _piece(descriptor, size - half, half), size - 2 * half


def _regular(path: str, top: str) -> int | None:
    """A descriptor of the regular file; None where nothing stands at ``path``."""
    try:
        with opened(os.path.dirname(path), top) as directory:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            descriptor = os.open(os.path.basename(path), flags, dir_fd=directory)
    except FileNotFoundError:
        return None
    except LoopError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    except (OSError, ValueError) as error:
        raise LoopError(f"{show(path)} cannot be read: {getattr(error, 'strerror', 'no name')}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise LoopError(f"{show(path)} is no regular file")
    return descriptor


@contextlib.contextmanager
def _closing(descriptor: int, path: str) -> Iterator[int]:
    """The size of an open file in bytes; afterwards it is closed."""
    try:
        yield os.fstat(descriptor).st_size
    except OSError as error:
        raise LoopError(f"{show(path)} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _piece(descriptor: int, begin: int, limit: int) -> bytes:
    content = b""
    while len(content) < limit and (chunk := os.pread(descriptor, limit - len(content), begin + len(content))):
        content += chunk
    return content


def parse(content: bytes, what: str, depth: int = MAX_DEPTH) -> dict[str, Any]:
    """The JSON object in ``content``. LoopError, which begins with ``what``, where it is none or nested deeper."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise LoopError(f"{what} is not JSON") from error
    if not isinstance(found, dict):
        raise LoopError(f"{what} is no JSON object")
    level: list[Any] = [found]
    for _level in range(depth):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return found
    raise LoopError(f"{what} is nested deeper than {depth} levels")
