# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A set of files and directories, brought to the stated content, owner and mode in one go."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..base.errors import LoopError
from ..base.files import read_bytes, write_atomic

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


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


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[int, bool]]:
    """A descriptor of the directory ``path``, opened part by part, and whether nobody else has a say in it.

    A link is followed where it is root's (or ours) and nobody else could have put it there. OSError where something
    is missing or no directory, LoopError at any other link.
    """
    waiting, descriptor, safe, links = path.split("/")[::-1], os.open("/", DIRECTORY), True, 0
    try:
        while waiting:
            part = waiting.pop()
            if part in ("", "."):
                continue
            status = os.stat(part, dir_fd=descriptor, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                links += 1
                if links > 40:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                if not safe or status.st_uid not in (0, os.geteuid()):
                    raise LoopError(f"{path}: {part} is a link that root does not follow; name what it leads to")
                target = os.readlink(part, dir_fd=descriptor)
                waiting += target.split("/")[::-1]
                if target.startswith("/"):
                    os.close(descriptor)
                    descriptor = os.open("/", DIRECTORY)
                continue
            deeper = os.open(part, DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = deeper
            safe = safe and _safe(os.fstat(descriptor))
        yield descriptor, safe
    finally:
        os.close(descriptor)


def _safe(status: os.stat_result) -> bool:
    """Can nobody else change what stands in the directory? In a sticky one nobody else can change what is ours."""
    others = status.st_mode & (0o002 if status.st_gid in (0, os.getegid()) else 0o022)
    return status.st_uid in (0, os.geteuid()) and (not others or bool(status.st_mode & stat.S_ISVTX))


@contextlib.contextmanager
def _placed(path: str) -> Iterator[tuple[str, int, bool]]:
    """A name for ``path`` that leads to the parent directory as it was opened, that descriptor, whether it is safe."""
    with _opened(os.path.dirname(path)) as (descriptor, safe):
        yield f"/proc/self/fd/{descriptor}/{os.path.basename(path)}", descriptor, safe


def compare(entry: Entry) -> Change | None:
    """What would have to change for ``entry`` to hold; None where it does. Changes nothing."""
    if not os.path.isabs(entry.path) or os.path.normpath(entry.path) != entry.path or "\0" in entry.path:
        raise LoopError(f"{entry.path!r} is not an absolute, plain path")
    try:
        with _placed(entry.path) as (place, _descriptor, _safe_there):
            return _compare(entry, place, os.lstat(place))
    except OSError as error:
        if entry.state in ("absent", "kept") and isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return None
        if not isinstance(error, FileNotFoundError):
            raise LoopError(f"{entry.path} cannot be looked at: {error.strerror}") from error
        after = entry.content if entry.state == "file" else None
        return Change(entry.path, f"{entry.state} created", None, after)


def _compare(entry: Entry, place: str, status: os.stat_result) -> Change | None:
    if entry.state == "absent":
        if stat.S_ISDIR(status.st_mode):
            raise LoopError(f"{entry.path} is a directory; only files are removed")
        return Change(entry.path, "removed", _content(entry, place) if stat.S_ISREG(status.st_mode) else None)
    before = None
    if entry.state == "directory":
        status = _standing_directory(entry.path, status)
    else:
        before = _standing_file(entry, place, status)
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
    with contextlib.suppress(OSError):  # a link that leads nowhere
        if stat.S_ISLNK(status.st_mode) and status.st_uid == 0:  # root moved it to a larger disk
            with _opened(path) as (descriptor, _safe_there):
                status = os.fstat(descriptor)
    if not stat.S_ISDIR(status.st_mode):
        raise LoopError(f"{path} is in the way: a directory must stand there; move it aside and run again")
    return status


def _standing_file(entry: Entry, place: str, status: os.stat_result) -> bytes | None:
    """Content of the file that stands there; None for a link or the like, which is replaced, and for a secret."""
    if stat.S_ISDIR(status.st_mode):
        raise LoopError(f"{entry.path} is a directory where a file must stand; move it aside and run again")
    if entry.state == "kept" and not stat.S_ISREG(status.st_mode):
        raise LoopError(f"{entry.path} is not a regular file; put the file itself there")
    return _content(entry, place) if stat.S_ISREG(status.st_mode) and entry.state == "file" else None


def _content(entry: Entry, place: str) -> bytes | None:
    try:
        return read_bytes(place)
    except LoopError as error:
        raise LoopError(str(error).replace(place, entry.path)) from error


def apply(entry: Entry, change: Change) -> None:
    """Make ``entry`` hold, whatever became of its parents meanwhile: no link of another user's is followed."""
    verb = "removed" if entry.state == "absent" else "made"
    try:
        with _placed(entry.path) as (place, parent, safe):
            if entry.state == "absent":
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(place)
                return
            uid, gid = _known_ids(entry)
            if entry.state == "file":
                try:
                    write_atomic(place, entry.content, entry.mode, uid, gid)
                except LoopError as error:
                    raise LoopError(str(error).replace(os.path.dirname(place), os.path.dirname(entry.path))) from error
                return
            with contextlib.ExitStack() as stack:
                if entry.state == "directory":
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(place, 0o700)
                    descriptor = (
                        stack.enter_context(_opened(entry.path))[0] if safe else _descriptor(place, DIRECTORY, stack)
                    )
                else:
                    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
                    descriptor = _descriptor(place, flags, stack)
                if not safe:
                    _check_theirs(entry, descriptor, parent, uid)
                os.fchown(descriptor, uid, gid)
                os.fchmod(descriptor, entry.mode)
    except FileNotFoundError as error:
        if entry.state != "absent":
            raise LoopError(f"{entry.path} cannot be made: {error.strerror}") from error
    except OSError as error:
        raise LoopError(f"{entry.path} cannot be {verb}: {error.strerror}") from error


def _descriptor(place: str, flags: int, stack: contextlib.ExitStack) -> int:
    descriptor = os.open(place, flags)
    stack.callback(os.close, descriptor)
    return descriptor


def _check_theirs(entry: Entry, descriptor: int, parent: int, uid: int) -> None:
    """Where another user could have put it, root gives away only what is that user's, or a new directory."""
    status = os.fstat(descriptor)
    new = stat.S_ISDIR(status.st_mode) and not os.listdir(descriptor)
    owner = status.st_uid
    if owner not in (uid, os.fstat(parent).st_uid) and not (new and owner == os.geteuid()):
        raise LoopError(
            f"{entry.path} belongs to uid {owner} in another user's directory: give it to {entry.owner} (chown)"
        )
    if not stat.S_ISDIR(status.st_mode) and status.st_nlink != 1:
        raise LoopError(f"{entry.path} has another name as well (a hard link): put the file itself there")


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
