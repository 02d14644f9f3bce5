# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each invariant of the endurance run holds in a good world, and says so of a world in which it is broken."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from endurance import checks
from endurance.checks import Limit, Pull, Seen


def record(invocation: str, outcome: str = "published", issue: int = 1, agents: int = 1) -> dict[str, Any]:
    return {"invocation": invocation, "outcome": outcome, "issue": issue, "agents": agents}


def good() -> Seen:
    """One issue published at its second attempt, one held, one that waits for a person, one cycle that never began."""
    return Seen(
        issues={1, 2, 3},
        pulls=[Pull(10, 1, True)],
        attempts={2: 3},
        starts={"a": "none", "b": "reboot", "c": "none", "d": "prepare killed"},
        records={
            "1-a": record("a", "error"),
            "2-b": record("b"),
            "3-c": record("c", "needs_triage", 3),
        },
        unrecorded={"prepare killed"},
        agents={"a": 1, "b": 1, "c": 1},
        ledger={"2026-01-01": ["a", "b"], "2026-01-02": ["c"]},
        most_runs={"2026-01-01": 2, "2026-01-02": 2},
        planted={"x": "1-a", "y": "2-b"},
        found={"x", "y", "z"},
        peaceful=2,
        most_peaceful=2,
        samples=[{"files": 20.0, "runs KiB": float(size)} for size in (1, 2, 3, 4, 5, 6, 7, 8, 9)],
        limits={"files": Limit(0, ""), "runs KiB": Limit(9, "retention")},
    )


@pytest.mark.parametrize("check", checks.INVARIANTS)
def test_a_good_world(check: Callable[[Seen], list[str]]) -> None:
    assert check(good()) == []


def two_pulls(seen: Seen) -> None:
    seen.pulls.append(Pull(11, 1, True))


def not_a_draft(seen: Seen) -> None:
    seen.pulls[0] = Pull(10, 1, False)


def published_and_held(seen: Seen) -> None:
    seen.attempts[1] = 3


def no_end(seen: Seen) -> None:
    seen.attempts[2] = 2


def a_cycle_hangs(seen: Seen) -> None:
    seen.stuck.append("reboot: activating start-pre after 150 s")


def an_issue_waits(seen: Seen) -> None:
    seen.waiting.append(2)


def peace_is_long(seen: Seen) -> None:
    seen.peaceful = 3


def a_sentinel_is_gone(seen: Seen) -> None:
    seen.found.remove("x")


def none_was_planted(seen: Seen) -> None:
    seen.planted.clear()


def a_cell_is_gone(seen: Seen) -> None:
    del seen.agents["a"]


def counted_twice(seen: Seen) -> None:
    seen.ledger["2026-01-02"].append("a")


def not_counted(seen: Seen) -> None:
    seen.ledger["2026-01-01"].remove("a")


def two_agents(seen: Seen) -> None:
    seen.agents["a"] = 2


def too_many_today(seen: Seen) -> None:
    seen.most_runs["2026-01-01"] = 1


def more_pulls_than_runs(seen: Seen) -> None:
    seen.ledger = {}
    seen.agents = dict.fromkeys(seen.agents, 0)


def no_record(seen: Seen) -> None:
    del seen.records["2-b"]


def an_agent_without_a_record(seen: Seen) -> None:
    seen.agents["d"] = 1


def two_records(seen: Seen) -> None:
    seen.records["4-a"] = record("a")


def still_running(seen: Seen) -> None:
    seen.records["1-a"]["outcome"] = "running"


def above_its_bound(seen: Seen) -> None:
    seen.samples[0]["runs KiB"] = 10.0


def it_leaks(seen: Seen) -> None:
    for number, sample in enumerate(seen.samples):
        sample["files"] = 20.0 * (1 + number)


def too_short(seen: Seen) -> None:
    del seen.samples[2:]


BROKEN: list[tuple[Callable[[Seen], None], Callable[[Seen], list[str]], str]] = [
    (two_pulls, checks.one_end_each, "issue 1 has 2 pull requests"),
    (not_a_draft, checks.one_end_each, "pull request 10 is no draft"),
    (published_and_held, checks.one_end_each, "issue 1 is held although its pull request is open"),
    (no_end, checks.one_end_each, "issue 2 has no end: 2 attempts"),
    (a_cycle_hangs, checks.no_wedge, "a cycle did not end: reboot: activating start-pre after 150 s"),
    (an_issue_waits, checks.no_wedge, "issue 2 is still offered after the last cycle"),
    (peace_is_long, checks.no_wedge, "3 cycles after the last fault, 2 would do"),
    (a_sentinel_is_gone, checks.nothing_lost, "x is gone, it was in 1-a"),
    (none_was_planted, checks.nothing_lost, "no sentinel was planted"),
    (a_cell_is_gone, checks.work_was_seen, "the cell of 1-a is gone"),
    (counted_twice, checks.budget_kept, "a was counted 2 times"),
    (not_counted, checks.budget_kept, "an agent ran in a, which was not counted"),
    (two_agents, checks.budget_kept, "2 agents ran in a"),
    (too_many_today, checks.budget_kept, "2 runs on 2026-01-01, 1 are allowed"),
    (more_pulls_than_runs, checks.budget_kept, "1 pull requests of 0 runs"),
    (no_record, checks.all_recorded, "b has no record, with the fault reboot"),
    (an_agent_without_a_record, checks.all_recorded, "d has no record, with the fault prepare killed"),
    (two_records, checks.all_recorded, "2 records of a"),
    (still_running, checks.all_recorded, "1-a says running"),
    (above_its_bound, checks.nothing_grows, "runs KiB came to 10, above 9: retention"),
    (it_leaks, checks.nothing_grows, "files grows: 120 in the middle third, 180 in the last"),
    (too_short, checks.nothing_grows, "too few samples"),
]


@pytest.mark.parametrize(("harm", "check", "says"), BROKEN, ids=lambda one: getattr(one, "__name__", ""))
def test_a_broken_world(harm: Callable[[Seen], None], check: Callable[[Seen], list[str]], says: str) -> None:
    seen = copy.deepcopy(good())
    harm(seen)
    assert check(seen) == [says]


def test_every_invariant_is_shown_to_fail() -> None:
    assert {check for _harm, check, _says in BROKEN} == set(checks.INVARIANTS)
