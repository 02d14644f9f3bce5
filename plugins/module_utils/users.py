# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Work in a process of its own: as another user, for good (root never runs git where that user can write)."""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from .errors import LoopError


def account(name: str) -> pwd.struct_passwd:
    """The user's passwd entry; LoopError where there is none."""
    try:
        return pwd.getpwnam(name)
    except KeyError as error:
        raise LoopError(f"there is no user {name} on this host") from error


def end_with_parent() -> None:
    """For ``preexec_fn``: however we end, the program ends with us and no orphan goes on writing."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def as_user(name: str, work: Callable[[], Any]) -> Any:
    """Run ``work`` as user ``name`` in a child process and return what it returned.

    The result crosses a pipe as JSON: ``work`` returns plain data. The child has the
    user's groups, HOME and umask 0027, and cannot get back. Where this process already
    is that user nothing is forked. LoopError of the child is raised here again.
    """
    entry = account(name)
    if os.geteuid() == entry.pw_uid:
        return work()
    if os.geteuid() != 0:
        raise LoopError(f"this must run as {name} or as root (it runs as uid {os.geteuid()})")
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            os.setsid()
            os.initgroups(name, entry.pw_gid)
            os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
            os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
            os.umask(0o027)
            os.environ.update(HOME=entry.pw_dir, USER=name, LOGNAME=name)
            os.chdir("/")
            text = json.dumps({"result": work()})
        except LoopError as error:
            text = json.dumps({"error": str(error)})
        except BaseException:  # noqa: BLE001 - the parent must hear of anything
            text = json.dumps({"crash": traceback.format_exc()})
        try:
            with os.fdopen(writer, "w", encoding="utf-8") as pipe:
                pipe.write(text)
        finally:
            os._exit(0)
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
