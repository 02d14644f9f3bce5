# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""One apply at a time. The one that began last goes on; the one before it ends at its next step, which says so.

An apply is many modules, and between two of them nobody on the host knows whether it is still wanted: its playbook may
have been killed. So nobody waits for it. What is noted is which apply came when, in /run, and each module looks whether
another one came after its own. The later one has all of its steps before it, so what it leaves is its own as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..base.clock import utc_now
from ..base.errors import LoopError
from ..base.files import flocked, read_bytes, write_atomic

DIRECTORY = "/run"
REMEMBERED = 50
BEGAN = "another apply"
OPTIONS: dict[str, Any] = {
    "id": {"type": "str", "required": True},
    "by": {"type": "str", "default": ""},
    "file": {"type": "path", "required": True},
}


def files(unit: str) -> list[str]:
    """What is noted of the applies of a unit's loop, and the lock of that."""
    return [f"{DIRECTORY}/{unit}.applies", f"{DIRECTORY}/{unit}.applies.lock"]


def step(run: Mapping[str, str] | None, *, check: bool = False) -> None:
    """Called first by each module of an apply: LoopError where another apply began after this one."""
    if not run or check:
        return
    with flocked(f"{run['file']}.lock"):
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
