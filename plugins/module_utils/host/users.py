# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Work in a process of its own: as another user, for good (root never runs git where that user can write)."""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import signal
import stat
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from ..base.errors import LoopError


def entry_of(name: str) -> pwd.struct_passwd | None:
    """The user's passwd entry; None where there is none."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def account(name: str) -> pwd.struct_passwd:
    """The user's passwd entry; LoopError where there is none."""
    if entry := entry_of(name):
        return entry
    raise LoopError(f"there is no user {name} on this host")


def name_of(uid: int) -> str:
    """The user's name; LoopError where there is no such account."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError as error:
        raise LoopError(f"uid {uid} has no account on this host") from error


def whose(path: str) -> tuple[str, int]:
    """``path`` with its links resolved, and whose it is.

    For root only where nobody but that user and root has a say in it: no link of another user's is followed, a
    directory of one user lies in no other's, and nobody else may write above what is root's. LoopError otherwise.
    """
    if os.geteuid() != 0:
        try:
            return os.path.realpath(path), os.stat(path).st_uid
        except OSError as error:
            raise LoopError(f"{path} cannot be read: {error.strerror}") from error
    way, uid, loose = "/", 0, ""
    waiting, links = os.path.abspath(path).split("/")[:0:-1], 0
    while waiting:
        part = waiting.pop()
        if part in ("", "."):
            continue
        if part == "..":  # of a link of root's
            way = os.path.dirname(way)
            continue
        here = os.path.join(way, part)
        try:
            status = os.lstat(here)
            target = os.readlink(here) if stat.S_ISLNK(status.st_mode) else None
        except OSError as error:
            raise LoopError(f"{path} cannot be read: {error.strerror}") from error
        if target is not None:
            links += 1
            if status.st_uid or uid or loose or links > 40:
                raise LoopError(f"{here} is a link that root does not follow: name what it leads to")
            way = "/" if target.startswith("/") else way
            waiting += target.split("/")[::-1]
            continue
        if uid and status.st_uid != uid:
            raise LoopError(
                f"{here} belongs to {name_of(status.st_uid)} and {way} to {name_of(uid)}: both must belong to one"
                " of them (chown)"
            )
        way, uid = here, status.st_uid
        if not uid and status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX and stat.S_ISDIR(status.st_mode):
            loose = loose or ("" if not status.st_mode & 0o002 and status.st_gid == 0 else here)
    if loose and not uid:
        raise LoopError(f"{loose} may be written by others: root does not work below it")
    return way, uid


LIBC = ctypes.CDLL(None)  # looked up here: between fork and exec of a program with threads that could wait for ever


def end_with_parent(parent: int) -> None:
    """In a child of ``parent``: however that ends, it ends as well, and no orphan goes on writing or holds a lock."""
    LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)  # it has ended before that


def as_user(name: str, work: Callable[[], Any]) -> Any:
    """Run ``work`` as user ``name`` in a child process and return what it returned.

    The result crosses a pipe as JSON: ``work`` returns plain data. The child has the
    user's groups, HOME and umask 0027, and cannot get back. Where this process already
    is that user nothing is forked. LoopError of the child is raised here again, and as one an OSError.
    """
    entry = account(name)
    if os.geteuid() == entry.pw_uid:
        return work()
    if os.geteuid() != 0:
        raise LoopError(f"this must run as {name} or as root (it runs as uid {os.geteuid()})")
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _work_in_child(entry, parent, work, writer)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as pipe:
        text = pipe.read()
    _unused, status = os.waitpid(child, 0)
    try:
        answer = json.loads(text)
    except ValueError as error:  # nothing, or a part of it: the child was killed
        raise LoopError(
            f"the work done as {name} ended without an answer (wait status {status}); run it again"
        ) from error
    if "crash" in answer:
        raise RuntimeError(answer["crash"])
    if "error" in answer:
        raise LoopError(answer["error"])
    return answer["result"]


def _work_in_child(entry: pwd.struct_passwd, parent: int, work: Callable[[], Any], writer: int) -> NoReturn:
    """Become that user for good, do the work, write into the pipe what came of it, and end."""
    try:
        os.setsid()
        os.initgroups(entry.pw_name, entry.pw_gid)
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
        end_with_parent(parent)  # after that: a change of user takes it away. We hold the locks that it holds
        os.umask(0o027)
        os.environ.update(HOME=entry.pw_dir, USER=entry.pw_name, LOGNAME=entry.pw_name)
        os.chdir("/")
        text = json.dumps({"result": work()})
    except LoopError as error:
        text = json.dumps({"error": str(error)})
    except OSError as error:  # a full disk, say
        text = json.dumps({"error": f"{error.filename or type(error).__name__}: {error.strerror or error}"})
    except BaseException:  # noqa: BLE001 - the parent must hear of anything
        text = json.dumps({"crash": traceback.format_exc()})
    try:
        with os.fdopen(writer, "w", encoding="utf-8") as pipe:
            pipe.write(text)
    finally:
        os._exit(0)
