# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A set of files and directories, brought to the stated content, owner and mode in one go."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from .errors import LoopError
from .files import read_bytes, write_atomic


@dataclass(frozen=True)
class Entry:
    """What must stand at ``path``: a file with ``content``, a directory, nothing, or what is there as owned."""

    path: str
    state: str = "file"  # file | directory | absent | kept
    content: bytes = b""
    owner: str = "root"
    group: str = "root"
    mode: int = 0o644


@dataclass(frozen=True)
class Change:
    """What differs at ``path``; ``before`` and ``after`` are the contents of a file."""

    path: str
    what: str
    before: bytes | None = None
    after: bytes | None = None


def _ids(entry: Entry) -> tuple[int | None, int | None]:
    """uid and gid; None where the account does not exist (yet)."""
    uid = gid = None
    with contextlib.suppress(KeyError):
        uid = pwd.getpwnam(entry.owner).pw_uid
    with contextlib.suppress(KeyError):
        gid = grp.getgrnam(entry.group).gr_gid
    return uid, gid


def _known_ids(entry: Entry) -> tuple[int, int]:
    uid, gid = _ids(entry)
    if uid is None or gid is None:
        missing = f"user {entry.owner}" if uid is None else f"group {entry.group}"
        raise LoopError(f"{entry.path}: there is no {missing} on this host")
    return uid, gid


def compare(entry: Entry) -> Change | None:
    """What would have to change for ``entry`` to hold; None where it does. Changes nothing."""
    if not os.path.isabs(entry.path) or os.path.normpath(entry.path) != entry.path or "\0" in entry.path:
        raise LoopError(f"{entry.path!r} is not an absolute, plain path")
    try:
        status = os.lstat(entry.path)
    except OSError as error:
        if entry.state in ("absent", "kept") and isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return None
        if not isinstance(error, FileNotFoundError):
            raise LoopError(f"{entry.path} cannot be looked at: {error.strerror}") from error
        after = entry.content if entry.state == "file" else None
        return Change(entry.path, f"{entry.state} created", None, after)
    if entry.state == "absent":
        if stat.S_ISDIR(status.st_mode):
            raise LoopError(f"{entry.path} is a directory; only files are removed")
        return Change(entry.path, "removed", read_bytes(entry.path) if stat.S_ISREG(status.st_mode) else None)
    before = None
    if entry.state == "directory":
        status = _standing_directory(entry.path, status)
    else:
        before = _standing_file(entry, status)
        if entry.state == "file" and before != entry.content:
            return Change(entry.path, "content", before, entry.content)
    differs = []
    uid, gid = _ids(entry)
    if uid != status.st_uid or gid != status.st_gid:
        differs.append(f"owner {entry.owner}:{entry.group}")
    if stat.S_IMODE(status.st_mode) != entry.mode:
        differs.append(f"mode {entry.mode:04o}")
    return Change(entry.path, ", ".join(differs), before, before) if differs else None


def _standing_directory(path: str, status: os.stat_result) -> os.stat_result:
    if stat.S_ISLNK(status.st_mode) and status.st_uid == 0:
        with contextlib.suppress(OSError):  # else it leads nowhere
            status = os.stat(path)  # root moved it to a larger disk
    if not stat.S_ISDIR(status.st_mode):
        raise LoopError(f"{path} is in the way: a directory must stand there; move it aside and run again")
    return status


def _standing_file(entry: Entry, status: os.stat_result) -> bytes | None:
    """Content of the file that stands there; None for a link or the like, which is replaced, and for a secret."""
    if stat.S_ISDIR(status.st_mode):
        raise LoopError(f"{entry.path} is a directory where a file must stand; move it aside and run again")
    if entry.state == "kept" and not stat.S_ISREG(status.st_mode):
        raise LoopError(f"{entry.path} is not a regular file; put the file itself there")
    return read_bytes(entry.path) if stat.S_ISREG(status.st_mode) and entry.state == "file" else None


def apply(entry: Entry, change: Change) -> None:
    """Make ``entry`` hold. Parents must exist; no symlink is followed in the last component."""
    if entry.state == "absent":
        try:
            os.unlink(entry.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise LoopError(f"{entry.path} cannot be removed: {error.strerror}") from error
        return
    uid, gid = _known_ids(entry)
    if entry.state == "file":
        write_atomic(entry.path, entry.content, entry.mode, uid, gid)
        return
    try:
        if entry.state == "directory":
            with contextlib.suppress(FileExistsError):
                os.mkdir(entry.path, 0o700)
        follow = 0 if os.path.islink(entry.path) and os.lstat(entry.path).st_uid == 0 else os.O_NOFOLLOW
        kind = os.O_DIRECTORY if entry.state == "directory" else os.O_NONBLOCK
        descriptor = os.open(entry.path, os.O_RDONLY | kind | os.O_CLOEXEC | follow)
        try:
            os.fchown(descriptor, uid, gid)
            os.fchmod(descriptor, entry.mode)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise LoopError(f"{entry.path} cannot be made: {error.strerror}") from error


def converge(
    entries: Iterable[Entry], *, check: bool = False, before: Callable[[list[str]], None] | None = None
) -> list[Change]:
    """Bring every entry to hold, in order; the changes made (or, in check mode, needed).

    All are compared before the first is written, so that a path in the way, a parent that
    no earlier entry makes or an unknown account stops the set before anything changed.
    ``before`` is called with the paths where something changes, before it does.
    """
    entries = list(entries)
    paths = [entry.path for entry in entries]
    for path in paths:
        if paths.count(path) > 1:
            raise LoopError(f"{path} is asked for twice")
    planned = [(entry, change) for entry in entries if (change := compare(entry))]
    if not check:
        _check_possible(entry for entry, _change in planned)
        if planned and before:
            before([entry.path for entry, _change in planned])
        for entry, change in planned:
            apply(entry, change)
    return [change for _unused, change in planned]


def _check_possible(entries: Iterable[Entry]) -> None:
    made: set[str] = set()
    for entry in entries:
        if entry.state == "absent":
            continue
        _known_ids(entry)
        parent = os.path.dirname(entry.path)
        if parent not in made and not os.path.isdir(parent):
            raise LoopError(f"{entry.path} cannot be made: there is no directory {parent}")
        if entry.state == "directory":
            made.add(entry.path)


def entry_from(arguments: Mapping[str, object]) -> Entry:
    """An Entry from a module's option; LoopError on a mode that is not octal."""
    mode = str(arguments["mode"])
    # The leading 0 is asked for since an unquoted 0644 comes out of YAML as 420.
    if not re.fullmatch("0[0-7]{3,4}", mode):
        raise LoopError(f"{arguments['path']}: mode {mode!r} is not octal such as '0644', quoted")
    return Entry(
        path=str(arguments["path"]),
        state=str(arguments["state"]),
        content=str(arguments.get("content") or "").encode(),
        owner=str(arguments["owner"]),
        group=str(arguments["group"]),
        mode=int(mode, 8),
    )
