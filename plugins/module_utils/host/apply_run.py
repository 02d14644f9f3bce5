# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""One apply at a time. The one that began last goes on; the one before it ends at its next step, which says so.

An apply is many modules, and between two of them nobody on the host knows whether it is still wanted: its playbook may
have been killed. So nobody waits for it. What is noted is which apply came when, in /run, and each module looks whether
another one came after its own; while it works no other one does. The later one has all of its steps before it and comes
after what the earlier one was at, so what it leaves is its own as a whole.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..base import progress
from ..base.clock import utc_now
from ..base.errors import LoopError
from ..base.files import flocked, read_bytes, write_atomic

DIRECTORY = "/run"
REMEMBERED = 50
WAIT = 3600  # seconds for a step of another apply, such as a build, or one that waits for a cycle
BEGAN = "another apply"
OPTIONS: dict[str, Any] = {
    "id": {"type": "str", "required": True},
    "by": {"type": "str", "default": ""},
    "file": {"type": "path", "required": True},
}


def files(unit: str) -> list[str]:
    """What is noted of the applies of a unit's loop, and the lock of that."""
    return [f"{DIRECTORY}/{unit}.applies", f"{DIRECTORY}/{unit}.applies.lock"]


@contextlib.contextmanager
def step(run: Mapping[str, str] | None, *, check: bool = False) -> Iterator[None]:
    """Around all that a module of an apply does: no other one does anything meanwhile.

    LoopError where another apply began after this one.
    """
    if not run or check:
        yield
        return
    with _alone(f"{run['file']}.lock"):
        _note(run)
        yield


@contextlib.contextmanager
def beginning(run: Mapping[str, str] | None) -> Iterator[Callable[[], None]]:
    """Around the look by which an apply finds out what it has to do; called within, it begins there.

    No step of another one is in between, so what was seen is still so when the first of its own steps comes.
    """
    if not run:
        yield lambda: None
        return
    with _alone(f"{run['file']}.lock"):
        yield lambda: _note(run)


def still_wanted(run: Mapping[str, str] | None, *, check: bool = False) -> None:
    """The same question by a module that changes nothing of what is installed, and that may take an hour."""
    with step(run, check=check):
        pass


@contextlib.contextmanager
def _alone(lock: str) -> Iterator[None]:
    deadline = time.monotonic() + WAIT
    while True:
        with flocked(lock, wait=False) as held:
            if held:
                yield
                return
        if time.monotonic() >= deadline:
            raise LoopError(f"a step of another apply has gone on for {WAIT} s: wait for its end, and run this again")
        progress.step("waiting for a step of another apply")
        time.sleep(0.1)


def _note(run: Mapping[str, str]) -> None:
    known = _read(run["file"])
    if any(one["id"] == run["id"] for one in known[:-1]):
        last = known[-1]
        raise LoopError(
            f"{BEGAN}, by {last['by'] or 'somebody'}, began at {last['at']}, while this one was under way: that one"
            " goes on and this one changed nothing more. Wait for its end, and run this again if it is still wanted"
        )
    if not known or known[-1]["id"] != run["id"]:
        known.append({"id": run["id"], "by": run.get("by") or "", "at": utc_now()})
        write_atomic(run["file"], json.dumps(known[-REMEMBERED:]).encode(), mode=0o600)


def _read(path: str) -> list[dict[str, str]]:
    """Those that began since the host did, the latest last; what cannot be understood is nobody's."""
    try:
        found = json.loads(read_bytes(path) or b"[]")
        return [{key: str(one[key]) for key in ("id", "by", "at")} for one in found]
    except (ValueError, TypeError, KeyError):
        return []
