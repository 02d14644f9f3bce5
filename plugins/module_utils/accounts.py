# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each cycle left of itself: one JSON account under ``cycles_dir``, the newest ones kept."""

from __future__ import annotations

import contextlib
import json
import os
from datetime import UTC, datetime
from typing import Any

from .errors import LoopError
from .files import read_bytes, write_atomic

KEEP = 200
# What an account may hold of what others wrote: an engine's report is not ours to trust.
MAX_TEXT, MAX_ITEMS, MAX_DEPTH, MAX_BYTES = 2000, 100, 6, 256 * 1024


def utc_now() -> str:
    """This second, as an account and a receipt write it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def names(cycles_dir: str) -> list[str]:
    """File names of the accounts, oldest first; their names begin with the time."""
    try:
        found = os.listdir(cycles_dir)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LoopError(f"{cycles_dir} cannot be read: {error.strerror}") from error
    return sorted(name for name in found if name.endswith(".json") and name[0].isdigit())


def read(cycles_dir: str, last: int = KEEP) -> list[dict[str, Any]]:
    """The newest ``last`` accounts, oldest first. A file that is no account is passed over."""
    found = []
    for name in names(cycles_dir)[-last:] if last > 0 else []:
        with contextlib.suppress(LoopError, ValueError, RecursionError):
            account = json.loads(read_bytes(f"{cycles_dir}/{name}") or b"null")
            if isinstance(account, dict) and account.get("cycle") == name.removesuffix(".json"):
                found.append(account)
    return found


def bounded(value: Any, depth: int = MAX_DEPTH) -> Any:
    """``value`` with long texts and lists cut, and what is nested too deeply left out."""
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}... ({len(value)} characters)"
    if isinstance(value, (dict, list)) and not depth:
        return "..."
    if isinstance(value, dict):
        return {bounded(str(key)): bounded(item, depth - 1) for key, item in list(value.items())[:MAX_ITEMS]}
    if isinstance(value, list):
        return [bounded(item, depth - 1) for item in value[:MAX_ITEMS]]
    return value


def write(cycles_dir: str, account: dict[str, Any]) -> None:
    """Write or replace an account; its ``cycle`` names the file."""
    content = json.dumps(bounded(account), indent=2, sort_keys=True) + "\n"
    if len(content) > MAX_BYTES:
        plain = {key: value for key, value in account.items() if not isinstance(value, (dict, list))}
        plain = {**plain, "numbers": account.get("numbers", {}), "left_out": sorted(account.keys() - plain.keys())}
        content = json.dumps(bounded(plain), indent=2, sort_keys=True) + "\n"
    write_atomic(f"{cycles_dir}/{account['cycle']}.json", content.encode(), mode=0o640)


def close_interrupted(cycles_dir: str) -> None:
    """A cycle that was killed could not say so itself; the next one, before it begins, says it for it."""
    for account in read(cycles_dir):
        if account.get("outcome") == "running":
            account.update(outcome="interrupted", detail="the cycle was killed before it could end", ended=utc_now())
            write(cycles_dir, account)
    for name in names(cycles_dir)[:-KEEP]:
        with contextlib.suppress(OSError):  # whatever it is, it must not stop the cycle
            os.unlink(f"{cycles_dir}/{name}")
