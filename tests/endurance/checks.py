# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must hold however many faults a loop met: each a function of what was seen, which names what does not hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# Outcomes of a cycle that may have worked on an issue, and of one that had none.
ENDS = (
    "published", "idle", "over_budget", "locked", "paused", "needs_triage", "refused", "error", "interrupted",
)  # fmt: skip


class Pull(NamedTuple):
    """A pull request, as the forge has it."""

    number: int
    issue: int
    draft: bool


class Limit(NamedTuple):
    """How far something that is sampled may go: to ``most``, and where that is 0 no further than it was before."""

    most: float
    why: str


@dataclass
class Seen:
    """All that the invariants look at. What the loop says of itself is in ``records``, ``attempts`` and ``ledger``."""

    issues: set[int] = field(default_factory=set)  # that were approved
    pulls: list[Pull] = field(default_factory=list)
    attempts: dict[int, int] = field(default_factory=dict)  # of each issue, as root counted
    most_attempts: int = 3
    starts: dict[str, str] = field(default_factory=dict)  # systemd's invocation of each cycle, and the fault in it
    records: dict[str, dict[str, Any]] = field(default_factory=dict)  # of each cycle
    unrecorded: set[str] = field(default_factory=set)  # faults that may end a cycle before it has a record
    agents: dict[str, int] = field(default_factory=dict)  # how many agents were seen in the cell of an invocation
    ledger: dict[str, list[str]] = field(default_factory=dict)  # of each day the invocations that were counted
    most_runs: dict[str, int] = field(default_factory=dict)  # of each day
    planted: dict[str, str] = field(default_factory=dict)  # each sentinel, and where it was seen first
    found: set[str] = field(default_factory=set)  # at the end, wherever the docs say that work is kept
    stuck: list[str] = field(default_factory=list)  # cycles that did not end
    waiting: list[int] = field(default_factory=list)  # issues that were still offered after the last cycle
    peaceful: int = 0  # cycles after the last fault, until nothing was left to do
    most_peaceful: int = 0
    samples: list[dict[str, float]] = field(default_factory=list)
    limits: dict[str, Limit] = field(default_factory=dict)


def one_end_each(seen: Seen) -> list[str]:
    """Every approved issue ends in one draft pull request, or is held, or waits for a person."""
    drafts = Counter(pull.issue for pull in seen.pulls)
    wrong = [f"pull request {pull.number} is no draft" for pull in seen.pulls if not pull.draft]
    triage = {one["issue"] for one in seen.records.values() if one["outcome"] == "needs_triage"}
    for issue in sorted(seen.issues):
        held = seen.attempts.get(issue, 0) >= seen.most_attempts
        if drafts[issue] > 1:
            wrong.append(f"issue {issue} has {drafts[issue]} pull requests")
        if drafts[issue] and held:
            wrong.append(f"issue {issue} is held although its pull request is open")
        if not drafts[issue] and not held and issue not in triage:
            wrong.append(f"issue {issue} has no end: {seen.attempts.get(issue, 0)} attempts")
    return wrong


def no_wedge(seen: Seen) -> list[str]:
    """Every cycle ends; after the last fault all that is left goes through, in so many cycles."""
    wrong = [f"a cycle did not end: {one}" for one in seen.stuck]
    wrong += [f"issue {number} is still offered after the last cycle" for number in seen.waiting]
    if seen.peaceful > seen.most_peaceful:
        wrong.append(f"{seen.peaceful} cycles after the last fault, {seen.most_peaceful} would do")
    return wrong


def nothing_lost(seen: Seen) -> list[str]:
    """Every sentinel that was ever seen is found again."""
    lost = sorted(seen.planted.keys() - seen.found)
    wrong = [f"{token} is gone, it was in {seen.planted[token]}" for token in lost]
    return wrong if seen.planted else ["no sentinel was planted"]


def work_was_seen(seen: Seen) -> list[str]:
    """Where root says that an agent was started, its cell was there after the cycle; a published one may go."""
    kept = {name: one for name, one in seen.records.items() if one["agents"] and one["outcome"] != "published"}
    by_invocation = {one["invocation"]: name for name, one in kept.items()}
    return [f"the cell of {name} is gone" for key, name in sorted(by_invocation.items()) if key not in seen.agents]


def budget_kept(seen: Seen) -> list[str]:
    """No agent runs uncounted, no run is counted twice, no day has more than it may."""
    counted = Counter(one for runs in seen.ledger.values() for one in runs)
    wrong = [f"{one} was counted {times} times" for one, times in counted.items() if times > 1]
    wrong += [
        f"an agent ran in {one}, which was not counted" for one, n in seen.agents.items() if n and one not in counted
    ]
    wrong += [f"{n} agents ran in {one}" for one, n in seen.agents.items() if n > 1]
    for day, runs in sorted(seen.ledger.items()):
        if len(runs) > seen.most_runs.get(day, 0):
            wrong.append(f"{len(runs)} runs on {day}, {seen.most_runs.get(day, 0)} are allowed")
    if len(seen.pulls) > sum(counted.values()):
        wrong.append(f"{len(seen.pulls)} pull requests of {sum(counted.values())} runs")
    return wrong


def all_recorded(seen: Seen) -> list[str]:
    """Every cycle that systemd started has one record, and each record says how its cycle ended."""
    having = Counter(one["invocation"] for one in seen.records.values())
    wrong = [f"{n} records of {one}" for one, n in having.items() if n > 1]
    wrong += [
        f"{one} has no record, with the fault {fault}"
        for one, fault in seen.starts.items()
        if one not in having and (fault not in seen.unrecorded or seen.agents.get(one))
    ]
    wrong += [f"{name} says {one['outcome']}" for name, one in seen.records.items() if one["outcome"] not in ENDS]
    return wrong


def nothing_grows(seen: Seen) -> list[str]:
    """What has a bound stays below it; what has none is no more in the last third of the run than in the middle one."""
    third = len(seen.samples) // 3
    if not third:
        return ["too few samples"]
    wrong = []
    for name, limit in seen.limits.items():
        figures = [sample.get(name, 0.0) for sample in seen.samples]
        middle, last = max(figures[third : 2 * third]), max(figures[2 * third :])
        if limit.most and max(figures) > limit.most:
            wrong.append(f"{name} came to {max(figures):.0f}, above {limit.most:.0f}: {limit.why}")
        if not limit.most and last > middle * 1.25 + 16:
            wrong.append(f"{name} grows: {middle:.0f} in the middle third, {last:.0f} in the last")
    return wrong


INVARIANTS: tuple[Callable[[Seen], list[str]], ...] = (
    one_end_each, no_wedge, nothing_lost, work_was_seen, budget_kept, all_recorded, nothing_grows,
)  # fmt: skip
