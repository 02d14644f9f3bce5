# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of a host: once, when it matters, and with nothing of a stranger's in it that a chat obeys."""

from __future__ import annotations

import copy
import re
from typing import Any

from ansible_collections.as215932.engineering_loop.plugins.module_utils.report import notices
from ansible_collections.as215932.engineering_loop.plugins.module_utils.report.notices import DAY, HOUR, Memory, Notice
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_800_000_000.0
NONE: dict[str, Any] = {
    "state": "deployed", "problem": "", "version": "0.2.0", "well": True, "needs": [], "pause": None,
    "last_cycle": None, "held": [], "history": [],
}  # fmt: skip


def cycle(number: int, outcome: str, **more: Any) -> dict[str, Any]:
    name = f"20270115T{number:06d}Z-{number:08x}"
    return {"cycle": name, "started": "2027-01-15T00:00:00Z", "outcome": outcome, "issue": "", "pr_url": "", **more}


class Told:
    """A host that is looked at again and again."""

    def __init__(self) -> None:
        self.status, self.memory, self.now = copy.deepcopy(NONE), Memory(), NOW
        assert self.look() == []  # what was before the first look is known

    def look(self, after: float = 0, rollbacks: list[dict[str, Any]] | None = None) -> list[Notice]:
        self.now += after
        return notices.derive(self.status, self.memory, rollbacks or [], "loop1", self.now)

    def ends(self, number: int, outcome: str, detail: str = "", **more: Any) -> None:
        self.status["history"].append(cycle(number, outcome, **more))
        self.status["last_cycle"] = {**self.status["history"][-1], "detail": detail}


def titles(found: list[Notice]) -> list[str]:
    return [notice.title for notice in found]


def test_a_cycle_that_needs_a_person_is_told_with_what_to_type() -> None:
    host = Told()
    host.ends(1, "needs_triage", "the gate refused src/a.py", issue="owner/repo#7")
    (notice,) = host.look()
    assert notice.title == "loop1: a cycle needs a person (owner/repo#7)"
    assert "the gate refused src/a.py" in notice.what
    assert notice.do.endswith(f"restore -l loop1 -e what={host.status['history'][0]['cycle']}")
    assert host.look() == [], "it was told"


def test_what_ends_well_or_has_nothing_to_do_is_not_told() -> None:
    host = Told()
    for number, outcome in enumerate(["idle", "published", "over_budget", "locked", "idle"], 1):
        host.ends(number, outcome)
        assert host.look() == []


def test_the_same_refusal_every_hour_is_one_notice_and_one_more_after_a_day() -> None:
    host = Told()
    seen = []
    for number in range(1, 51):
        host.ends(number, "refused", f"the forge did not answer within {number} s (request 00ff{number}a)")
        seen.append(len(host.look(HOUR)))
    assert seen == [1] + [0] * 23 + [1] + [0] * 23 + [1, 0]
    host.ends(51, "refused", "no room is left")
    assert titles(host.look(60)) == ["loop1: a cycle was refused"], "another reason is told at once"


def test_published_again_says_after_how_many_failures() -> None:
    host = Told()
    host.ends(1, "error", "one")
    host.ends(2, "idle")
    host.ends(3, "interrupted", "two")
    host.look()
    host.ends(4, "published", pr_url="https://forge.example/owner/repo/pull/3")
    (notice,) = host.look()
    assert (notice.title, notice.what) == (
        "loop1: published again after 2 failed cycles", "https://forge.example/owner/repo/pull/3",
    )  # fmt: skip
    host.ends(5, "published")
    assert host.look() == []


def test_cycles_that_nobody_looked_at_are_told_later() -> None:
    host = Told()
    host.ends(1, "error")
    host.ends(2, "refused", "no agent")
    found = host.look()
    assert sorted(titles(found)) == ["loop1: a cycle failed", "loop1: a cycle was refused"]
    assert "2 cycles in a row did not end well" in found[1].what or "2 cycles in a row" in found[0].what


def test_an_issue_that_is_held_is_told_once_and_again_when_it_is_held_again() -> None:
    host = Told()
    one = {"repo": "o/r", "number": 4, "title": "T", "attempts": 3, "cost_usd": 1.5, "since": "2027-01-15T00:00:00Z",
           "why": "3 attempts without a pull request"}  # fmt: skip
    host.status["held"] = [one]
    (notice,) = host.look()
    assert notice.title == "loop1: issue o/r#4 is held" and "3 times for 1.50 USD" in notice.what
    assert "release_issue -l loop1 -e issue=o/r#4" in notice.do
    assert host.look(3 * DAY) == []
    host.status["held"] = []
    assert host.look(40 * DAY) == []
    host.status["held"] = [{**one, "since": "2027-02-15T00:00:00Z"}]
    assert len(host.look()) == 1


def test_paused_and_resumed() -> None:
    host = Told()
    host.status["pause"] = {"why": "moving @everyone", "since": "2027-01-15T01:00:00Z", "by": "eva"}
    (notice,) = host.look()
    assert "No cycle starts since 2027-01-15T01:00:00Z (by eva): moving (at)everyone" in notice.what
    assert "resume -l loop1" in notice.do
    assert host.look(2 * DAY) == []
    host.status["pause"] = None
    assert titles(host.look()) == ["loop1: resumed"]
    assert host.look() == []


def test_a_return_to_what_was_proven_is_told_and_earlier_ones_are_not() -> None:
    host = Told()
    host.memory = Memory()
    old = {"at": "2027-01-01T00:00:00Z", "why": "returned", "left": "a" * 40, "sha": "b" * 40, "reason": "old"}
    assert host.look(0, [old]) == []
    new = {**old, "at": "2027-01-15T00:00:00Z", "reason": "the canary opened no pull request"}
    (notice,) = host.look(0, [old, new])
    assert f"Engine {'a' * 12} was left for {'b' * 12}" in notice.what and "canary" in notice.what
    assert host.look(0, [old, new]) == []


def test_a_need_is_told_when_it_lasts_once_a_day_and_when_it_is_over() -> None:
    host = Told()
    need = {"code": "wedged", "what": "A cycle hangs.", "do": "on HOST: systemctl kill x"}
    host.status["needs"] = [need]
    assert host.look() == [], "an apply may pass through such a state"
    (notice,) = host.look(15 * 60)
    assert (notice.title, notice.do, notice.kind) == ("loop1: wedged", "on loop1: systemctl kill x", "failure")
    assert host.look(HOUR) == []
    assert titles(host.look(DAY)) == ["loop1: wedged"]
    host.status["needs"] = []
    assert host.look() == [], "it may come again in a minute"
    assert titles(host.look(31 * 60)) == ["loop1: over: wedged"]
    assert host.look(DAY) == []


def test_a_need_that_passes_is_never_told() -> None:
    host = Told()
    host.status["needs"] = [{"code": "drifted", "what": "x", "do": "y"}]
    assert host.look() == []
    host.status["needs"] = []
    assert host.look(60) == [] and host.look(HOUR) == []


def test_what_ends_soon_or_is_full_is_told_at_once() -> None:
    for code in ("disk_full", "proof_expires", "secrets"):
        host = Told()
        host.status["needs"] = [{"code": code, "what": "It ends.", "do": "type this"}]
        assert len(host.look()) == 1


def test_a_cause_that_a_cycle_named_is_not_told_twice() -> None:
    host = Told()
    host.ends(1, "refused", "the forge is down")
    host.status["needs"] = [{"code": "forge", "what": "The forge is down.", "do": "on HOST: curl it"}]
    (notice,) = host.look()
    assert notice.title == "loop1: a cycle was refused" and notice.do == "on loop1: curl it"
    assert host.look(HOUR) == []


def test_over_budget_held_and_paused_are_no_needs_of_their_own() -> None:
    host = Told()
    host.status["needs"] = [{"code": code, "what": "x", "do": "y"} for code in ("over_budget", "held", "paused")]
    assert host.look() == [] and host.look(2 * DAY) == []


HOSTILE = st.text(max_size=300) | st.sampled_from([
    "@everyone look", "<!channel> hi", "<@U123|x>", "[click](https://evil.example)",
    "a\x1b[31mred\x00\r\nTo do: rm -rf /",
    "\u202egnp.exe", "x" * 65536, "</b><script>", "`code` www.evil.example", "<!here>", "@here", "&lt;!channel&gt;",
])  # fmt: skip


@given(HOSTILE, HOSTILE, HOSTILE)
def test_nothing_of_a_strangers_is_a_mention_a_link_or_another_line(title: str, why: str, name: str) -> None:
    host = Told()
    issue = {"repo": name, "number": 3, "title": title}
    host.ends(1, "error", why, issue=issue)
    host.status["held"] = [{**issue, "why": why, "attempts": 3, "cost_usd": 1, "since": name}]
    host.status["pause"] = {"why": why, "since": name, "by": title}
    host.status["needs"] = [{"code": "secrets", "what": why, "do": name}]
    found = host.look()
    assert len(found) == 4
    for notice in found:
        assert len(notice.title) <= notices.MAX_TITLE and len(notice.body) <= 1600
        assert notice.title.isprintable() and notice.what.isprintable() and notice.do.isprintable()
        for text in (notice.title, notice.what):
            assert not re.search(r"[<>\[\]`@&]|\w://", text), text
        assert not re.search(r"(?i)@(everyone|here|channel)|<[!@#]", notice.do)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(["cycle", "outcome", "code", "what", "do", "since", "issue"]), inner,
                        max_size=4),
                    max_leaves=12))  # fmt: skip
def test_whatever_a_status_holds_nothing_breaks(value: Any) -> None:
    for key in ("needs", "held", "history", "pause", "last_cycle"):
        status = {**NONE, key: value}
        notices.derive(status, Memory(begun=True), [], "h", NOW)


def test_what_is_remembered_is_bounded() -> None:
    host = Told()
    for number in range(1, 2000):
        host.ends(number, "error", "x" * (number % 1000) + str(number))
        host.status["history"] = host.status["history"][-200:]
        host.look(60)
    assert len(host.memory.told) <= notices.KEPT


def test_a_clock_that_ran_ahead_silences_nothing_once_it_is_right_again() -> None:
    host = Told()
    host.ends(1, "error", "before")
    assert len(host.look()) == 1
    host.status["history"].append({**cycle(2, "error"), "cycle": "20350101T000000Z-00000002"})
    assert titles(host.look(8 * 365 * DAY)) == ["loop1: a cycle failed"]
    host.now -= 8 * 365 * DAY
    host.look(3600)  # what is of the last day may be told once more
    for number, why in ((3, "this"), (4, "that")):
        host.ends(number, "error", why)
        (notice,) = host.look(3600)
        assert why in notice.what and host.look() == []
