# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""How old a thing is that is kept: between two cycles a day passes at most.

By the clock alone, one that jumps ahead, or a host that was off for weeks, made all that is kept older than its limit
in a moment, and the next cycle deleted it. So root notes after each cycle what the clock said. Where it is more than a
day later at the next one, the rest does not count; where the clock went back again, it was never there. On a disk that
is full to the last byte the note of before stands: what is let go by it makes the room that the next note needs.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace

from ..base import clock, documents
from ..base.errors import LoopError
from ..base.files import read_bytes, write_atomic
from ..base.journal import say
from ..host.settings import Settings

MOST = 86400.0  # seconds
MANY = 50  # leaps that are told apart


@dataclass(frozen=True)
class Leap:
    """Time that does not count, in seconds since 1970."""

    begin: float
    end: float


@dataclass(frozen=True)
class Passed:
    """What root saw of the clock."""

    seen: float
    leaps: tuple[Leap, ...] = ()  # the oldest first, and none of them later than what was seen

    def until(self, now: float) -> Passed:
        """The same, with what the clock says now."""
        leaps = tuple(replace(leap, end=min(leap.end, now)) for leap in self.leaps if leap.begin < now)
        if now - self.seen > MOST:
            leaps = (*leaps, Leap(self.seen + MOST, now))
        if len(leaps) > MANY:  # as one they have what lies between them too: that is kept for longer
            leaps = (Leap(leaps[0].begin, leaps[1].end), *leaps[2:])
        return Passed(now, leaps)

    def age_of(self, name: str) -> float:
        """As ``clock.age_of``, without what did not count since."""
        age = clock.age_of(name)
        begun = self.seen - age
        return age - sum(max(0.0, leap.end - max(leap.begin, begun)) for leap in self.leaps)


def passed(config: Settings) -> Passed:
    """What counts by now. Where nothing is known yet, what the clock says; where it cannot be read, nothing is old."""
    now = time.time()
    try:
        content = read_bytes(path_of(config))
        known = Passed(now) if content is None else documents.load(Passed, content)
    except LoopError:
        known = Passed(now, (Leap(0.0, now),))
    return known.until(now)


def note(config: Settings) -> Passed:
    """As root, after a cycle: what counts from now on."""
    known = passed(config)
    try:
        write_atomic(path_of(config), (json.dumps(asdict(known)) + "\n").encode(), mode=0o644)
    except LoopError as error:
        say(f"{error}: what was noted of the clock before counts\n")
    return known


def path_of(config: Settings) -> str:
    return f"{config.install_dir}/clock.json"
