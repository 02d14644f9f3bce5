# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Times as they are written: UTC, to the second."""

from __future__ import annotations

import calendar
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

Age: TypeAlias = Callable[[str], float]  # what age_of is


def utc_now() -> str:
    """This second, as a record writes it: ``2026-01-31T23:59:59Z``."""
    return written(datetime.now(UTC))


def written(moment: datetime) -> str:
    """A moment of UTC as ``utc_now`` writes it."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def moment_of(text: str) -> datetime:
    """The moment that ``utc_now`` wrote; ValueError where that is none."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def stamp(at: float | None = None) -> str:
    """This second, or that of ``at`` since 1970, in a name: ``20260131T235959Z``."""
    return f"{datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC):%Y%m%dT%H%M%SZ}"


def fine_stamp() -> str:
    """This microsecond in a name: ``20260131T235959.123456Z``."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"


def today() -> str:
    """This day, as the engine's ledger and the budget name it."""
    return f"{datetime.now(UTC):%Y-%m-%d}"


def age_of(name: str) -> float:
    """Seconds since the moment that ``name`` begins with (as ``stamp`` writes it); 0 where that is no moment."""
    # time.strptime would import more, which a child that gave root up may not be able to read.
    try:
        numbers = [int(name[at : at + 2]) for at in (0, 2, 4, 6, 9, 11, 13)]
        return time.time() - calendar.timegm((numbers[0] * 100 + numbers[1], *numbers[2:]))
    except ValueError:
        return 0.0
