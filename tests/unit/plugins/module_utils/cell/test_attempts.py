# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attempts per issue: counted once each, held after so many, forgotten when the issue is another or released."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import attempts
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell.attempts import Attempt, Count
from celled import Box, box

REPO = "AS215932/app"


def issue(title: str = "A page", body: str | None = "Write it.", labels: tuple[str, ...] = ("loop:approved",)) -> Any:
    return {"number": 7, "title": title, "body": body, "labels": [{"name": name} for name in labels]}


DIGEST = attempts.digest_of(issue())


@pytest.fixture
def host() -> Iterator[Box]:
    with box() as found:
        yield found


def tried(host: Box, cycle: str = "c1", number: int = 7, digest: str = DIGEST, **more: Any) -> Count:
    return attempts.count(host.config, Attempt(cycle, REPO, number, "error", "A page", digest, **more))


def test_what_an_issue_says_and_its_labels_make_it_that_issue() -> None:
    others = [
        issue("Another page"), issue(body="Write it!"), issue(body=None), issue(labels=()),
        issue(labels=("loop:approved", "bug")),
    ]  # fmt: skip
    assert len({DIGEST, *map(attempts.digest_of, others)}) == 6
    assert attempts.digest_of({**issue(), "updated_at": "later", "comments": 9}) == DIGEST
    two = attempts.digest_of(issue(labels=("bug", "loop:approved")))
    assert two == attempts.digest_of(issue(labels=("loop:approved", "bug")))  # their order says nothing
    assert attempts.digest_of(issue(body="\udcff\x00" * 9)) != DIGEST
    assert attempts.digest_of({"number": 1, "labels": None}) == attempts.digest_of(issue("", None, ()))


def test_each_cycle_counts_once_and_the_third_holds(host: Box) -> None:
    assert attempts.counts(host.config) == {} and attempts.held(host.config) == []
    assert tried(host, "c1", cost_usd=0.5).attempts == 1
    assert tried(host, "c1", cost_usd=0.5).attempts == 1  # whoever was killed asks again
    assert tried(host, "c2", cost_usd=0.25).attempts == 2
    assert attempts.why_held(host.config, REPO, issue()) == ""
    known = tried(host, "c3")
    assert (known.attempts, known.cost_usd, known.cycle, known.outcome) == (3, 0.75, "c3", "error")
    (one,) = attempts.held(host.config)
    assert (one["repo"], one["number"], one["title"], one["attempts"], one["cost_usd"]) == (REPO, 7, "A page", 3, 0.75)
    assert one["why"] == f"3 attempts without a pull request since {known.since}, the last ended as error"
    assert attempts.why_held(host.config, REPO, issue()) == one["why"]
    assert attempts.for_gateway(host.config) == {f"{REPO}#7": {"digest": DIGEST, "held": one["why"]}}
    path = Path(attempts.path_of(host.config))
    assert path.stat().st_mode & 0o777 == 0o644 and path.stat().st_uid == os.geteuid()


def test_an_issue_that_says_something_else_now_is_another(host: Box) -> None:
    for cycle in ("c1", "c2", "c3"):
        tried(host, cycle)
    changed = issue(body="Write it in docs/.")
    assert attempts.why_held(host.config, REPO, issue()) and not attempts.why_held(host.config, REPO, changed)
    known = tried(host, "c4", digest=attempts.digest_of(changed))
    assert known.attempts == 1 and attempts.held(host.config) == []
    assert not attempts.why_held(host.config, REPO, changed)


@pytest.mark.parametrize(("most", "held"), [(0, False), (1, True), (2, True), (3, False), (9, False)])
def test_how_many_are_enough_is_asked_each_time(host: Box, most: int, held: bool) -> None:
    for cycle in ("c1", "c2"):
        tried(host, cycle)
    host.config["max_attempts_per_issue"] = most
    assert bool(attempts.held(host.config)) == held == bool(attempts.why_held(host.config, REPO, issue()))
    assert bool(attempts.untold(host.config)) == held


def test_a_hold_is_told_once_and_the_next_one_again(host: Box) -> None:
    for cycle in ("c1", "c2", "c3"):
        tried(host, cycle)
    (known,) = attempts.untold(host.config)
    assert known.marker == f"<!-- engineering-loop held {REPO}#7 c3 -->"
    assert known.why in known.comment and f"release_issue -l HOST -e issue={REPO}#7\n" in known.comment
    assert known.written_after < known.last
    attempts.note_told(host.config, known, "HTTP 403\x1b[2J")
    assert attempts.untold(host.config) == []
    assert attempts.counts(host.config)[f"{REPO}#7"].untold == "HTTP 403\\x1b[2J"
    host.config["max_attempts_per_issue"] = 4
    tried(host, "c4")
    (again,) = attempts.untold(host.config)
    assert again.marker != known.marker
    attempts.note_told(host.config, known)  # what was said of the hold before
    assert attempts.untold(host.config) == [again]
    attempts.clear(host.config, {f"{REPO}#7": ""})
    attempts.note_told(host.config, again)
    assert attempts.counts(host.config) == {}


def test_who_clears_late_clears_nothing_that_came_since(host: Box) -> None:
    tried(host, "c1")
    tried(host, "c1b", number=8)
    assert attempts.clear(host.config, {}) == attempts.clear(host.config, {f"{REPO}#7": "0" * 64}) == []
    assert attempts.clear(host.config, {"x/y#1": "", f"{REPO}#7": DIGEST})[0].attempts == 1
    assert list(attempts.counts(host.config)) == [f"{REPO}#8"]
    assert tried(host, "c1").attempts == 0  # it was counted, and released
    assert tried(host, "c2").attempts == 1


def test_hostile_titles_are_told_in_one_line(host: Box) -> None:
    attempts.count(host.config, Attempt("c1", REPO, 7, "error", "\x1b[2J\u202e" + "x" * 70_000, DIGEST))
    title = attempts.counts(host.config)[f"{REPO}#7"].title
    assert title.startswith("\\x1b[2J\\u202exx") and len(title) < 210 and title.isprintable()


def test_what_is_kept_is_bounded(host: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "KEEP", 3)
    monkeypatch.setattr(attempts, "KEEP_CYCLES", 4)
    for number in range(1, 7):
        tried(host, f"c{number}", number=number)
    document = json.loads(Path(attempts.path_of(host.config)).read_text())
    assert len(document["issues"]) == 3 and f"{REPO}#6" in document["issues"]
    assert document["cycles"] == ["c3", "c4", "c5", "c6"]


BROKEN = [
    "[", "[]", "{}", '{"issues": [], "cycles": []}', '{"issues": {}, "cycles": 3}', "null", "[" * 100_000,
    '{"issues": {"a": {"repo": "a", "number": "7"}}, "cycles": []}', '{"issues": {"a": 1}, "cycles": []}',
]  # fmt: skip


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
def test_a_file_that_is_no_count_is_named(host: Box, content: str) -> None:
    path = Path(attempts.path_of(host.config))
    path.write_text(content)
    with pytest.raises(LoopError, match="cannot be read as the count of attempts per issue: move it aside"):
        tried(host)
    assert path.read_text() == content
    path.unlink()
    path.mkdir()
    with pytest.raises(LoopError, match="is not a regular file"):
        attempts.held(host.config)


def _count(host: Box, name: str) -> None:
    for number in range(20):
        tried(host, f"{name}{number}")


def test_two_that_count_at_once_lose_nothing(host: Box) -> None:
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_count, args=(host, name)) for name in "ab"]
    for one in both:
        one.start()
    for one in both:
        one.join(60)
    assert [one.exitcode for one in both] == [0, 0]
    assert attempts.counts(host.config)[f"{REPO}#7"].attempts == 40
