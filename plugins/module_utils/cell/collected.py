# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an engine writes that stays when its cell goes: its trace, line by line, and what it learned.

Both are written where generated code could have written as well, so they are the data of an untrusted writer: regular
files, read with a bound, no link followed. The trace file is root's; what is learned goes the way of memory.
"""

from __future__ import annotations

import json
import os
import stat
from typing import Any, TypeAlias

from ..base import untrusted
from ..base.errors import LoopError
from ..base.files import unlink
from ..base.journal import say
from ..base.redact import Redactor
from ..host.settings import Settings
from ..host.users import account, as_user
from . import memory
from .cells import Cell

Json: TypeAlias = dict[str, Any]

# Of one run, and of the whole file: whoever rotates it may be late.
MAX_TRACE, MAX_KEPT = 16 * 1024 * 1024, 256 * 1024 * 1024


def trace_in(state: str) -> str:
    """Where an engine with that state directory writes its trace."""
    return f"{state}/agent-core-trace.jsonl"


def learning_in(state: str) -> str:
    """Where an engine with that state directory writes what it learns."""
    return f"{state}/learning"


# --- what was learned -----------------------------------------------------------------------------


def give(config: Settings, cell: Cell) -> None:
    """As root, before a cycle: what was learned so far, as a copy in its cell."""
    if not config.learning_dir:
        return
    place = learning_in(cell.part("state"))
    as_user(config.user, lambda: os.mkdir(place, 0o700))
    try:
        memory.copy(config.user, config.learning_dir, place)
    except LoopError as error:
        say(f"the cycle has nothing of what was learned: {error}\n")


def take_back(config: Settings, cell: Cell, redact: Redactor, *, ended: bool) -> Json:
    """As root, after a cycle: what came of it, for the record. ``ended`` is whether the engine ended by itself.

    A failure is told and changes no outcome: what was there before stays.
    """
    found: Json = {}
    if config.trace_file:
        found["trace"] = trace(config, trace_in(cell.part("state")), cell.path, redact)
    if config.learning_dir and ended:
        try:
            found["learning"] = memory.exchange(
                config.user, learning_in(cell.part("state")), config.learning_dir, top=cell.path
            )
        except (LoopError, OSError) as error:
            say(f"what was learned stays as it was: {error}\n")
            found["learning"] = {"changed": False, "error": str(error)}
    return found


# --- the trace ------------------------------------------------------------------------------------


def trace(config: Settings, path: str, top: str, redact: Redactor) -> Json:
    """Append what a run wrote at ``path``, below ``top``, to the host's trace file; ``{lines, left_out}``.

    Only lines that are a JSON object, written anew, without secrets. Of a long one the beginning and the end. A failure
    is told and changes nothing else.
    """
    try:
        found = untrusted.ends(path, top, MAX_TRACE)
        if found is None:
            return {"lines": 0, "left_out": 0}
        begin, end, between = found
        given = [line for part in (begin, end) for line in part.split(b"\n") if line.strip()]
        lines = [text for line in given if (text := _line(line, redact))]
        _append(config, "".join(lines).encode())
    except (LoopError, OSError) as error:
        say(f"the trace was not collected: {error}\n")
        return {"lines": 0, "left_out": 0, "error": str(error)}
    if between:
        say(f"the trace of this run has {between} bytes more than are collected\n")
    return {"lines": len(lines), "left_out": len(given) - len(lines), "bytes_left_out": between}


def collect_from_job(config: Settings, state: str, redact: Redactor) -> Json:
    """The same of a job, whose directory stays: what was collected goes from there."""
    found = trace(config, trace_in(state), state, redact) if config.trace_file else {}
    if found and "error" not in found:
        as_user(config.user, lambda: unlink(trace_in(state)))
    return found


def _line(line: bytes, redact: Redactor) -> str:
    try:
        return json.dumps(redact.everywhere(untrusted.parse(line, "a line of the trace"))) + "\n"
    except (LoopError, ValueError):
        return ""


def _append(config: Settings, content: bytes) -> None:
    path = config.trace_file
    directory = os.path.dirname(path)
    os.makedirs(directory, 0o755, exist_ok=True)
    above = os.stat(directory)
    if above.st_uid != os.geteuid() or above.st_mode & 0o022:
        raise LoopError(f"{directory} must be root's, and nobody else's to write: name another place")
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o640)
    with open(descriptor, "ab", buffering=0) as handle:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise LoopError(f"{path} is no plain file: move it away")
        if status.st_size + len(content) > MAX_KEPT:
            raise LoopError(f"{path} has {status.st_size} bytes already: rotate it")
        os.fchown(descriptor, os.geteuid(), account(config.user).pw_gid)
        os.fchmod(descriptor, 0o640)
        try:
            while content:
                content = content[handle.write(content) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, status.st_size)  # no half line, which the next would go on in
            raise
