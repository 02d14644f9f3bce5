# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Times and sizes as an operator writes them: ``12h``, ``30d``, ``10G``."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .errors import LoopError

UNITS = {
    "": 1,
    "s": 1,
    "m": 60,
    "h": 3600,
    "d": 86400,
    "w": 604800,
    "K": 1024,
    "M": 1024**2,
    "G": 1024**3,
    "T": 1024**4,
}


def limits_of(given: Mapping[str, str | float | None]) -> dict[str, float | None]:
    """``age``, ``size`` and ``min_age`` in seconds and bytes; what is empty is no limit."""
    return {key: number_of(value, key) if value not in ("", None) else None for key, value in given.items()}


def number_of(text: str | float, what: str) -> float:
    """Seconds of '12h' or '2d', bytes of '10G'; LoopError where ``text`` is neither."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)([a-zA-Z]?)", str(text).strip())
    if not found or found[2] not in UNITS or (bool(found[2]) and (found[2] in "KMGT") != (what == "size")):
        example = "a size such as 10G" if what == "size" else "a time such as 2d"
        raise LoopError(f"{what} {str(text)!r} is not {example}")
    return float(found[1]) * UNITS[found[2]]


def readable(size: float) -> str:
    """Bytes for a person: ``512 B``, ``1.5 GiB``."""
    unit = "B"
    for larger in ("KiB", "MiB", "GiB"):
        if size >= 1000:
            size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"


def spoken(seconds: float) -> str:
    """A time for a person, to its two largest units: ``45 s``, ``2 h 5 min``, ``3 d``."""
    left, words = int(seconds), list[str]()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if left >= length or (unit == "s" and not words):
            words.append(f"{left // length} {unit}")
            left %= length
        elif words:
            break
    return " ".join(words[:2])


def short(seconds: float) -> str:
    """A time in a few letters, to its largest unit: ``45 s``, ``2 h``, ``3 d``."""
    return " ".join(spoken(seconds).split()[:2])
