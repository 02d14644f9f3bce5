# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The history of cycles as small charts: where each mark stands, for whoever draws them. Lengths are SVG's units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from ..base.clock import moment_of
from ..base.sizes import spoken

Json: TypeAlias = dict[str, Any]
History: TypeAlias = Sequence[Mapping[str, Any]]

WIDTH, LEFT, RIGHT, TOP = 360.0, 84.0, 8.0, 8.0
ROOM = WIDTH - LEFT - RIGHT
CYCLES, DAYS = 60, 14
HEIGHT = 104.0  # of the drawing below TOP
# Outcomes by lane: the place says what the colour says.
LANES = (
    ("published", "good", ("published",)),
    ("nothing to do", "dull", ("idle", "over_budget", "locked", "paused")),
    ("triage", "warn", ("needs_triage",)),
    ("refused", "bad", ("refused", "refused_ci")),
    ("failed", "bad", ("error", "interrupted")),
)


def lane_of(outcome: str) -> int:
    """The lane of an outcome; one that nobody knows is a failure."""
    return next((number for number, lane in enumerate(LANES) if outcome in lane[2]), len(LANES) - 1)


def when(stamp: str) -> str:
    """A moment as a person reads it."""
    return f"{stamp[:10]} {stamp[11:16]}"


def outcomes(history: History) -> Json:
    """Each of the last cycles as a mark in the lane of its outcome, the newest at the right."""
    shown = history[-CYCLES:]
    step, high = ROOM / CYCLES, HEIGHT / len(LANES)
    marks = []
    for number, one in enumerate(shown):
        lane = lane_of(one["outcome"])
        marks.append({
            "x": round(LEFT + ROOM - step * (len(shown) - number) + step / 2, 1),
            "y": round(TOP + high * (lane + 0.5), 1), "kind": LANES[lane][1],
            "title": f"{when(one['started'])} UTC: {one['outcome']} {one['issue']}".strip(),
        })  # fmt: skip
    counts = [sum(lane_of(one["outcome"]) == number for one in shown) for number in range(len(LANES))]
    lanes = [
        {"y": round(TOP + high * (number + 0.5), 1), "label": lane[0], "count": counts[number], "kind": lane[1]}
        for number, lane in enumerate(LANES)
    ]
    told = ", ".join(f"{lane['count']} {lane['label']}" for lane in lanes if lane["count"]) or "none yet"
    return {"marks": marks, "lanes": lanes, "told": f"Outcome of the last {len(shown)} cycles: {told}", **_ends(shown)}


def _ends(shown: History) -> Json:
    return {"first": when(shown[0]["started"]) if shown else "", "last": when(shown[-1]["started"]) if shown else ""}


def costs(history: History, cap: float, now: str) -> Json:
    """What each of the last days cost, and the cap of a day as a line."""
    end = _moment(now) or datetime.now(UTC)
    days = [f"{end - timedelta(days=back):%Y-%m-%d}" for back in reversed(range(DAYS))]
    spent = {day: sum(one["cost_usd"] for one in history if one["started"].startswith(day)) for day in days}
    top = max([cap, *spent.values()]) * 1.1 or 1.0
    step = ROOM / DAYS
    bars = [
        {**_bar(LEFT + number * step, step, spent[day] / top), "kind": "bad" if spent[day] >= cap > 0 else "plain",
         "title": f"{day}: {spent[day]:.2f} USD"}
        for number, day in enumerate(days)
    ]  # fmt: skip
    full = sum(spent[day] >= cap > 0 for day in days)
    reached = f"reached on {full} days" if full else "never reached"
    told = f"Cost of the last {DAYS} days: {sum(spent.values()):.2f} USD, cap {cap:g} USD a day, {reached}"
    return {"bars": bars, "cap": round(TOP + HEIGHT * (1 - cap / top), 1), "cap_told": f"cap {cap:g}", "told": told,
            "first": days[0], "last": days[-1]}  # fmt: skip


def durations(history: History) -> Json:
    """How long each of the last cycles that worked took."""
    worked = [one for one in history if lane_of(one["outcome"]) != 1][-CYCLES:]
    longest = max((one["seconds"] for one in worked), default=0.0) or 1.0
    step = ROOM / CYCLES
    bars = [
        {**_bar(LEFT + ROOM - step * (len(worked) - number), step, one["seconds"] / longest),
         "kind": LANES[lane_of(one["outcome"])][1],
         "title": f"{when(one['started'])} UTC: {spoken(one['seconds'])}, {one['outcome']}"}
        for number, one in enumerate(worked)
    ]  # fmt: skip
    usual = sorted(one["seconds"] for one in worked)[len(worked) // 2] if worked else 0.0
    told = f"Duration of the last {len(worked)} cycles that worked: half took up to {spoken(usual)}"
    return {"bars": bars, "most": spoken(longest) if worked else "", "told": told, **_ends(worked)}


def _bar(x: float, step: float, part: float) -> Json:
    high = round(HEIGHT * min(1.0, max(0.0, part)), 1)
    return {"x": round(x + step * 0.12, 1), "w": round(step * 0.76, 1), "y": round(TOP + HEIGHT - high, 1), "h": high}


def _moment(stamp: str) -> datetime | None:
    try:
        return moment_of(stamp)
    except ValueError:
        return None
