# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What waits to be sent: bounded, limited by the hour, tried again less and less often, and whole after any kill."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.targets import Target
from ansible_collections.as215932.engineering_loop.plugins.module_utils.report import outbox
from ansible_collections.as215932.engineering_loop.plugins.module_utils.report.notices import DAY, HOUR, Memory, Notice
from ansible_collections.as215932.engineering_loop.plugins.module_utils.report.send import Answer
from older_host import killed_at

NOW = 1_800_000_000.0
ONE = Target("json://one.example/secret-path", "a file, line 1")
TWO = Target("ntfy://two.example/secret-topic", "a file, line 2")
UP, DOWN = {ONE.id: Answer(99), TWO.id: Answer(99)}, {ONE.id: Answer(99), TWO.id: Answer(0, "connection refused")}


def some(count: int, kind: str = "warning") -> list[Notice]:
    return [Notice(f"k{number}", kind, f"loop1: notice {number}", f"what {number}", "type") for number in range(count)]


def sent(memory: Memory, now: float, answers: dict[str, Answer], per_hour: int = 10) -> dict[str, list[str]]:
    """The titles of what goes out now, by target."""
    due = outbox.due(memory, now, per_hour)
    fitting = {name: Answer(min(answer.taken, len(due.get(name, []))), answer.why) for name, answer in answers.items()}
    outbox.settle(memory, due, fitting, now)
    return {name: [one["title"] for one in messages] for name, messages in due.items()}


def test_each_target_gets_each_notice_once() -> None:
    memory = Memory()
    outbox.enqueue(memory, some(2), [ONE, TWO], NOW)
    both = ["loop1: notice 0", "loop1: notice 1"]
    assert sent(memory, NOW, UP) == {ONE.id: both, TWO.id: both}
    assert sent(memory, NOW, UP) == {} and memory.queue == []


def test_many_at_once_are_one_digest_with_the_gravest_first() -> None:
    memory = Memory()
    outbox.enqueue(memory, some(8, "info") + some(1, "failure"), [ONE], NOW)
    (message,) = outbox.due(memory, NOW)[ONE.id]
    assert (message["title"], message["kind"]) == ("loop1: 9 notices", "failure")
    assert message["body"].startswith("- loop1: notice 0: what 0 To do: type") and len(message["body"]) < 2000


def test_more_than_the_hour_allows_waits_and_becomes_a_digest() -> None:
    memory, seen = Memory(), []
    for minute in range(60):
        outbox.enqueue(memory, some(1), [ONE], NOW + minute * 60)
        seen += sent(memory, NOW + minute * 60, UP, per_hour=5).get(ONE.id, [])
    assert len(seen) == 5 and len(memory.queue) == 50, "of 55 the oldest five are lost, and counted"
    (message,) = outbox.due(memory, NOW + 2 * HOUR, 5)[ONE.id]
    assert (
        message["title"] == "loop1: 50 notices"
        and "(5 earlier notices could not be delivered here.)" in message["body"]
    )


def test_a_target_that_is_down_is_asked_less_and_less_often_and_the_other_is_not_held_up() -> None:
    memory, tries = Memory(), []
    for quarter in range(4 * 24):
        now = NOW + quarter * 900
        outbox.enqueue(memory, some(1) if quarter % 4 == 0 else [], [ONE, TWO], now)
        due = sent(memory, now, DOWN)
        tries += [quarter] if TWO.id in due else []
        assert (ONE.id in due) == (quarter % 4 == 0)
    assert tries[:5] == [0, 1, 3, 7, 15] and len(tries) == 8, tries
    assert len(memory.queue) <= outbox.QUEUE
    outbox.enqueue(memory, [], [ONE, TWO], NOW + DAY)
    (message,) = outbox.due(memory, NOW + DAY + 6 * HOUR)[TWO.id]
    assert message["title"].endswith("notices"), "what waited is one digest"


def test_what_waits_longer_than_a_day_is_given_up_and_counted() -> None:
    memory = Memory()
    outbox.enqueue(memory, some(2), [TWO], NOW)
    sent(memory, NOW, {TWO.id: Answer(0, "refused")})
    outbox.enqueue(memory, some(1), [TWO], NOW + 2 * DAY)
    (message,) = outbox.due(memory, NOW + 2 * DAY)[TWO.id]
    assert "(2 earlier notices could not be delivered here.)" in message["body"] and len(memory.queue) == 1
    outbox.settle(memory, {TWO.id: [message]}, {TWO.id: Answer(1)}, NOW + 2 * DAY)
    outbox.enqueue(memory, some(1), [TWO], NOW + 2 * DAY)
    assert "earlier" not in outbox.due(memory, NOW + 2 * DAY)[TWO.id][0]["body"], "it is said once"


def test_the_rest_of_what_was_taken_in_part_is_sent_later() -> None:
    memory = Memory()
    outbox.enqueue(memory, some(3), [ONE], NOW)
    outbox.settle(memory, outbox.due(memory, NOW), {ONE.id: Answer(2, "rate limit")}, NOW)
    assert sent(memory, NOW + HOUR, UP) == {ONE.id: ["loop1: notice 2"]}


def test_a_target_that_is_gone_holds_nothing() -> None:
    memory = Memory()
    outbox.enqueue(memory, some(2), [ONE, TWO], NOW)
    sent(memory, NOW, DOWN)
    outbox.enqueue(memory, [], [ONE], NOW)
    assert memory.queue == [] and list(memory.targets) == [ONE.id]
    outbox.enqueue(memory, some(1), [], NOW)
    assert memory.queue == [] and memory.targets == {}


def test_the_file_is_roots_and_holds_no_url(tmp_path: Path) -> None:
    config, memory = Settings({"install_dir": str(tmp_path)}), Memory()
    outbox.enqueue(memory, some(1), [ONE, TWO], NOW)
    sent(memory, NOW, DOWN)
    outbox.save(config, memory)
    path = Path(outbox.path_of(config))
    assert "secret" not in path.read_text() and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert outbox.load(config) == (memory, "")
    assert outbox.of_host(config) == {
        "targets": 2, "failing": [{"target": "ntfy://two.example/***", "why": "connection refused"}], "waiting": 1,
    }  # fmt: skip


def test_killed_in_the_middle_of_writing_nothing_is_lost(tmp_path: Path) -> None:
    config, memory = Settings({"install_dir": str(tmp_path)}), Memory()
    outbox.enqueue(memory, some(1), [ONE], NOW)
    outbox.save(config, memory)
    later, _why = outbox.load(config)
    outbox.enqueue(later, some(2), [ONE], NOW + 1)
    killed = 0
    while killed_at(killed, lambda: outbox.save(config, later)):
        assert outbox.load(config) in ((memory, ""), (later, "")), f"killed at change {killed}"
        killed += 1
    assert killed >= 3 and outbox.load(config) == (later, "")


@pytest.mark.parametrize("content", [b"", b"[", b"[]", b'{"told": 3}', b"\xff", b"{" * 5000])
def test_a_file_that_cannot_be_read_begins_anew_and_says_so(tmp_path: Path, content: bytes) -> None:
    config = Settings({"install_dir": str(tmp_path)})
    Path(outbox.path_of(config)).write_bytes(content)
    memory, why = outbox.load(config)
    assert memory == Memory() and "cannot be understood" in why


@pytest.mark.parametrize(
    "broken", [{"queue": [1, {"kind": "x"}, None]}, {"targets": {ONE.id: 3, TWO.id: {"sent": "x"}}}]
)
def test_a_part_that_is_broken_is_passed_over(tmp_path: Path, broken: dict[str, object]) -> None:
    config = Settings({"install_dir": str(tmp_path)})
    Path(outbox.path_of(config)).write_text(json.dumps(broken))
    memory, why = outbox.load(config)
    outbox.enqueue(memory, some(1), [ONE, TWO], NOW)
    assert not why and len(sent(memory, NOW, UP)) == 2


def test_a_clock_that_ran_ahead_does_not_hold_up_a_target() -> None:
    memory = Memory()
    outbox.enqueue(memory, some(1), [TWO], NOW + 1000 * DAY)
    assert sent(memory, NOW + 1000 * DAY, DOWN)
    outbox.enqueue(memory, some(1), [TWO], NOW)
    assert TWO.id in outbox.due(memory, NOW)
