# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job beside the cycle may ask, by its rights, and what it may not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.gateway import sessions
from celled import NEEDS_ROOT, TODAY
from gated import REPO, Cycle, Door, Running, door, journal

pytestmark = NEEDS_ROOT
ALL = ("read", "comment", "label")


@contextmanager
def job(gate: Door, may: Sequence[str]) -> Iterator[Cycle]:
    """A job of these rights that runs."""
    name, unit = f"{TODAY}T000000Z-0b0c0d0e", "hyrule-reliability-governor.service"
    gate.refresh(name)
    sessions.open_session(gate.config, unit, name, may=may)
    try:
        yield Cycle(gate, name, unit, gate.host.top)
    finally:
        sessions.close_session(gate.config, unit)


def ask(ours: Cycle, *words: str) -> Any:
    """What ``gh`` prints."""
    done = ours.gh(*words, "--repo", REPO, where=str(ours.workspace))
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(ours: Cycle, *words: str) -> str:
    done = ours.gh(*words, where=str(ours.workspace))
    assert done.returncode == 1 and not done.stdout
    return done.stderr


def labels(gate: Door, number: int) -> list[str]:
    return sorted(gate.forge.store.state["repos"][REPO]["issues"][str(number)]["labels"])


def test_it_reads_comments_and_moves_labels(gate: Door) -> None:
    number = gate.issue(labels=["loop:triage", "bug"])
    with job(gate, ALL) as ours:
        listed = json.loads(ask(ours, "issue", "list", "--state", "open", "--limit", "100", "--json", "number,labels"))
        assert {label["name"] for one in listed if one["number"] == number for label in one["labels"]} == {
            "loop:triage",
            "bug",
        }
        assert ask(ours, "issue", "comment", str(number), "--body", "Go on.\nIt is fine.").startswith("http")
        told = json.loads(ask(ours, "issue", "view", str(number), "--json", "comments,body"))
        (comment,) = told["comments"]
        assert comment["body"] == "Go on.\nIt is fine." and comment["author"]["login"] and comment["createdAt"]
        ask(ours, "issue", "edit", str(number), "--add-label", "loop:ready", "--remove-label", "loop:triage")
        assert labels(gate, number) == ["bug", "loop:ready"]
        done = [one["what"] for one in ours.entries()]
        assert [what for what in done if what in ("job-comment", "job-label")] == ["job-comment", "job-label"]
    assert "no cycle is running" in refused(ours, "issue", "list", "--repo", REPO, "--json", "number")


@pytest.mark.parametrize(
    ("may", "words", "why"),
    [
        (("comment",), ["list", "--json", "number"], "may not read: its `may` in engineering_loop_jobs names comment"),
        (("read",), ["comment", "N", "--body", "x"], "may not comment"),
        (("read",), ["edit", "N", "--add-label", "loop:x"], "may not label"),
        ((), ["view", "N", "--json", "body"], "may not read: its `may` in engineering_loop_jobs names nothing"),
        (ALL, ["edit", "N", "--add-label", "bug"], "begin with loop: and no others, not bug"),
        (ALL, ["edit", "N", "--remove-label", "bug"], "begin with loop: and no others"),
        (ALL, ["edit", "N", "--add-label", "loop:\u202ex"], "begin with loop: and no others"),
        (ALL, ["edit", "N", "--add-label", "loop:ready,loop:approved"], "may not approve"),
        (ALL, ["edit", "N", "--add-label", "loop:Approved"], "may not approve"),
        (ALL, ["edit", "N", "--add-label", "LOOP:APPROVED"], "may not approve"),
        (ALL, ["edit", "N", "--add-label", "Loop:x"], "begin with loop: and no others, not Loop:x"),
        (ALL, ["edit", "N"], "nothing to change"),
        (ALL, ["edit", "N", "--title", "x", "--add-label", "loop:x"], "does not know this of gh"),
        (ALL, ["close", "N"], "does not know this of gh"),
        (ALL, ["comment", "N", "--body", " "], "between 1 and 65536"),
        (ALL, ["comment", "N", "--body", "x" * 66000], "between 1 and 65536"),
        (ALL, ["comment", "-1", "--body", "x"], "-1 is not the number of an issue"),
        (ALL, ["comment", "9" * 12, "--body", "x"], "is not the number of an issue"),
        (ALL, ["view", "99", "--json", "body"], "Could not resolve to an issue"),
        (ALL, ["list", "--state", "closed", "--json", "number"], "lists open issues and no others"),
    ],
)
def test_what_it_may_not(gate: Door, may: Sequence[str], words: list[str], why: str) -> None:
    number = gate.issue(labels=["bug"])
    before = json.dumps(gate.forge.store.state["repos"][REPO]["issues"])
    with job(gate, may) as ours:
        asked = ["issue", *(str(number) if word == "N" else word for word in words), "--repo", REPO]
        assert why in refused(ours, *asked)
        assert ours.entries("refused")
    assert json.dumps(gate.forge.store.state["repos"][REPO]["issues"]) == before


def test_it_is_a_persons_to_approve_unless_they_say_otherwise(gate: Door) -> None:
    number = gate.issue(labels=["loop:triage"])
    with job(gate, (*ALL, "approve")) as ours:
        ask(ours, "issue", "edit", str(number), "--add-label", "loop:approved")
    assert "loop:approved" in labels(gate, number)


@pytest.mark.parametrize(
    ("label", "moved", "not_moved"),
    [
        ("agent:go", "agent:ready", "loop:ready"),
        ("team/agent: go", "team/agent:ready", "team/x"),
        ("ready", "ready:x", "readyx"),
    ],
)
def test_the_labels_are_those_that_begin_as_the_one_that_approves(
    forge: Running, label: str, moved: str, not_moved: str
) -> None:
    with door(forge, label=label) as gate:
        number = gate.issue(labels=["bug"])
        with job(gate, ALL) as ours:
            edit = ("issue", "edit", str(number), "--repo", REPO)
            ask(ours, *edit[:3], "--add-label", moved)
            assert "and no others" in refused(ours, *edit, "--add-label", not_moved)
            assert "may not approve" in refused(ours, *edit, "--add-label", label)
        assert labels(gate, number) == sorted(["bug", moved])


def test_another_repository_and_git_are_not_its_affair(gate: Door) -> None:
    with job(gate, ALL) as ours:
        why = refused(ours, "issue", "comment", "1", "--repo", "AS215932/elsewhere", "--body", "x")
        assert "is not one that the loop works on" in why
        done = ours.run("git", "ls-remote", f"{gate.forge.url}/{REPO}.git", where=str(ours.workspace))
        assert done.returncode != 0 and "has nothing to fetch or push here" in done.stderr + journal(gate.host)
        assert "does not know this of gh" in refused(ours, "pr", "create", "--repo", REPO, "--title", "t", "--draft")


def test_a_secret_in_a_comment_is_refused(gate: Door) -> None:
    number = gate.issue()
    with job(gate, ALL) as ours:
        text = "Look:\n-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl"
        assert "the comment is refused" in refused(
            ours, "issue", "comment", str(number), "--repo", REPO, "--body", text
        )


@pytest.mark.parametrize(("dest", "goes"), [("app", False), ("other", True)])
def test_a_comment_is_judged_by_the_policy_of_its_repository(forge: Running, dest: str, goes: bool) -> None:
    with (
        door(forge, policies=f"{{{dest}: {{denied_content_patterns: [core-switch]}}}}") as gate,
        job(gate, ALL) as ours,
    ):
        comment = ("issue", "comment", str(gate.issue()), "--repo", REPO, "--body", "See core-switch.")
        done = ours.gh(*comment, where=str(ours.workspace))
        assert ("the comment is refused" in done.stderr, done.returncode == 0) == (not goes, goes), done.stderr
