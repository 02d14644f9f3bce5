# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What bounds a day's runs: one lock, one ledger."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LOCK_SECONDS = 2 * 60 * 60


@contextmanager
def locked(state: Path) -> Iterator[bool]:
    """Whether this process has the lock; it is given back unless the process is killed."""
    state.mkdir(parents=True, exist_ok=True)
    lock = state / "daemon.lock"
    if _is_held(lock):
        yield False
        return
    lock.write_text(json.dumps({"pid": os.getpid(), "started_at": time.time()}), encoding="utf-8")
    try:
        yield True
    finally:
        lock.unlink(missing_ok=True)


def _is_held(lock: Path) -> bool:
    try:
        holder = json.loads(lock.read_text(encoding="utf-8"))
        os.kill(int(holder["pid"]), 0)
    except (OSError, ValueError, KeyError):
        return False
    return time.time() - float(holder["started_at"]) < LOCK_SECONDS


def _file(state: Path) -> Path:
    return state / f"ledger-{datetime.now(UTC):%Y-%m-%d}.json"


def spent(state: Path) -> dict[str, Any]:
    file = _file(state)
    empty = {"runs": 0, "cost_usd": 0.0, "wall_clock_seconds": 0.0}
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else empty


def count_run(state: Path, cost: float, seconds: float) -> None:
    ledger = spent(state)
    ledger["runs"] += 1
    ledger["cost_usd"] += cost
    ledger["wall_clock_seconds"] += seconds
    _file(state).write_text(json.dumps(ledger, indent=2) + "\n", encoding="utf-8")
