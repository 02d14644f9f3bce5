# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""How old a thing is that is kept: between two cycles a day passes at most.

By the clock alone, one that jumps ahead, or a host that was off for weeks, made all that is kept older than its limit
in a moment, and the next cycle deleted it. So root notes after each cycle what the clock said. Where it is more than a
day later at the next one, the rest does not count; where the clock went back again, it was never there.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace

from ..base import clock, documents
from ..base.errors import LoopError
from ..base.files import read_bytes, write_atomic
from ..host.settings import Settings

MOST = 86400.0  # seconds
MANY = 50  # leaps that are told apart


@dataclass(frozen=True)
class Leap:
    """Time that did not count."""

    after: float  # seconds since 1970: when the clock was last seen before it
    seconds: float


@dataclass(frozen=True)
class Passed:
    """What root saw of the clock."""

    seen: float
    leaps: tuple[Leap, ...] = ()  # the oldest first

    def until(self, now: float) -> Passed:
        """The same, with what the clock says now."""
        if now < self.seen:
            return replace(self, seen=now, leaps=_taken_back(self.leaps, self.seen - now))
        if now - self.seen <= MOST:
            return replace(self, seen=now)
        leaps = (*self.leaps, Leap(self.seen, now - self.seen - MOST))
        if len(leaps) > MANY:  # as one they count for what lies between them too: that is kept for longer
            leaps = (Leap(leaps[1].after, leaps[0].seconds + leaps[1].seconds), *leaps[2:])
        return replace(self, seen=now, leaps=leaps)

    def age_of(self, name: str) -> float:
        """As ``clock.age_of``, without what did not count since."""
        begun = self.seen - clock.age_of(name)
        return self.seen - begun - sum(leap.seconds for leap in self.leaps if leap.after >= begun)


def passed(config: Settings) -> Passed:
    """What counts by now. Where nothing is known yet, what the clock says; where it cannot be read, nothing is old."""
    now = time.time()
    try:
        content = read_bytes(path_of(config))
        known = Passed(now) if content is None else documents.load(Passed, content)
    except LoopError:
        known = Passed(now, (Leap(now, now),))
    return known.until(now)


def note(config: Settings) -> Passed:
    """As root, after a cycle: what counts from now on."""
    known = passed(config)
    write_atomic(path_of(config), (json.dumps(asdict(known)) + "\n").encode(), mode=0o644)
    return known


def path_of(config: Settings) -> str:
    return f"{config.install_dir}/clock.json"


def _taken_back(leaps: tuple[Leap, ...], back: float) -> tuple[Leap, ...]:
    """The leaps without their newest ``back`` seconds."""
    left = list(leaps)
    while left and back > 0:
        last = left.pop()
        if last.seconds > back:
            left.append(replace(last, seconds=last.seconds - back))
        back -= last.seconds
    return tuple(left)
