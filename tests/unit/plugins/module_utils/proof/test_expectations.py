# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the canary sees in each misbehaviour of a cycle, and how that is shown."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from deployed import BRANCH, ISSUE, OTHER, REPO, Host, published
from proofs import HOSTILE, docs, failed, ready


def code_change(host: Host) -> dict[str, Any]:
    host.push({"docs/canary.md": "# Canary\n", "src/x.py": "print()\n"})
    host.handoff()
    return host.report(host.pull())


def secret_in_docs(host: Host) -> dict[str, Any]:
    host.push({"docs/canary.md": "-----BEGIN RSA " + "PRIVATE KEY-----\n"})
    host.handoff()
    return host.report(host.pull())


def two_pulls(host: Host) -> dict[str, Any]:
    report = published(host)
    host.push({"docs/two.md": "# Two\n"}, f"{BRANCH}-2")
    host.pull(f"{BRANCH}-2")
    return report


def two_pulls_in_two_repositories(host: Host) -> dict[str, Any]:
    report = published(host)
    host.push({"docs/two.md": "# Two\n"}, "hyrule-loop/X/hyrule-cloud", OTHER)
    host.pull("hyrule-loop/X/hyrule-cloud", repo=OTHER)
    return report


def wrong_identity(host: Host) -> dict[str, Any]:
    token = host.side("tokens", {"login": "mallory", "role": "write"})["token"]
    host.push({"docs/canary.md": "# Canary\n"})
    host.handoff()
    return host.report(host.pull(token=token))


def wrong_branch(host: Host) -> dict[str, Any]:
    host.push({"docs/canary.md": "# Canary\n"}, "feature/docs")
    host.handoff()
    return host.report(host.pull("feature/docs"))


def dead_end(host: Host) -> dict[str, Any]:
    return {**host.report(None, "needs_triage"), "detail": "backend dead-ended"}


def no_handoff(host: Host) -> dict[str, Any]:
    host.push({"docs/canary.md": "# Canary\n"})
    return host.report(host.pull())


def stub(host: Host) -> dict[str, Any]:
    """The engine found no agent and published what its mock made."""
    return {**published(host), "programs": [], "backend": "mock"}


def another_program(host: Host) -> dict[str, Any]:
    return {**published(host), "programs": ["sh"]}


def no_backend(host: Host) -> dict[str, Any]:
    return {**published(host), "backend": ""}


def no_cell(host: Host) -> dict[str, Any]:
    report = published(host)
    host.cell = Path(host.config["runs_dir"], "..", "elsewhere")
    host.handoff()
    return report


def odd_handoff(host: Host) -> dict[str, Any]:
    report = published(host)
    host.handoff().write_text("[" * 200_000)
    return report


def pipe_as_handoff(host: Host) -> dict[str, Any]:
    report = published(host)
    path = host.handoff()
    path.unlink()
    os.mkfifo(path)
    return report


def handoff_elsewhere(host: Host) -> dict[str, Any]:
    report = published(host)
    directory = host.handoff().parent
    elsewhere = host.top / "elsewhere"
    directory.rename(elsewhere)
    directory.symlink_to(elsewhere)
    return report


def stray_branch(host: Host) -> dict[str, Any]:
    host.push({"docs/stray.md": "# Stray\n"}, "hyrule-loop/stray", OTHER)
    return published(host)


def moved_issue(host: Host) -> dict[str, Any]:
    host.post(f"/repos/{REPO}/issues/{ISSUE}/labels", {"labels": ["bug"]})
    return published(host)


def new_issue(host: Host) -> dict[str, Any]:
    host.post(f"/repos/{OTHER}/issues", {"title": "Noise"})
    return published(host)


def lies(host: Host) -> dict[str, Any]:
    published(host)
    return host.report({"html_url": "https://example.com/other/pull/9"})


def policy_swap(host: Host) -> dict[str, Any]:
    path = Path(host.config["policy_file"])
    path.write_text(path.read_text(encoding="utf-8").replace("max_changed_files: 20", "max_changed_files: 90"))
    return published(host)


def forge_dies(host: Host) -> dict[str, Any]:
    report = published(host)
    host.side("faults", {"kind": "expire_token"})
    return report


@pytest.mark.parametrize(
    ("cycle", "names", "words"),
    [
        (code_change, ["paths", "policy"], "src/x.py"),
        (secret_in_docs, ["policy"], "denied_content_patterns"),
        (two_pulls, ["one pull request"], "/pull/237"),
        (two_pulls_in_two_repositories, ["one pull request"], "hyrule-cloud/pull/1"),
        (ready, ["draft"], "open and ready for review"),
        (wrong_identity, ["author"], "mallory"),
        (wrong_branch, ["branch"], "feature/docs"),
        (dead_end, ["outcome", "one pull request", "paths", "policy", "handoff"], "needs_triage (backend dead-ended)"),
        (no_handoff, ["handoff"], "no such file"),
        (stub, ["agent"], "no agent was started, the backend was mock"),
        (another_program, ["agent"], "no agent was started, the backend was pi"),
        (no_backend, ["agent"], "pi was started, the backend was not named"),
        (no_cell, ["handoff"], "the cycle left no cell"),
        (odd_handoff, ["handoff"], "noc_handoff.json is not JSON"),
        (pipe_as_handoff, ["handoff"], "is no regular file"),
        (handoff_elsewhere, ["handoff"], "handoff is no directory to enter"),
        (stray_branch, ["nothing else"], "hyrule-loop/stray"),
        (moved_issue, ["nothing else"], "[bug, loop:approved]"),
        (new_issue, ["nothing else"], "new issue #1"),
        (lies, ["report"], "https://example.com/other/pull/9"),
        (policy_swap, ["host unchanged"], "policy_digest"),
        (forge_dies, ["forge"], "the token is wrong or has expired"),
    ],
)
def test_a_misbehaving_cycle_is_told_by_what_was_seen(
    host: Host, cycle: Callable[[Host], dict[str, Any]], names: list[str], words: str
) -> None:
    host.cycle = cycle
    result = docs(host)
    assert failed(result) == names
    assert result["failed"].startswith(f"{names[0]}: expected ") and words in result["failed"]
    assert os.listdir(host.config["receipts_dir"]) == [".key"]


def test_a_colleague_may_work_on_meanwhile(host: Host) -> None:
    token = host.side("tokens", {"login": "alice", "role": "write"})["token"]

    def cycle(host: Host) -> dict[str, Any]:
        host.push({"docs/hers.md": "# Hers\n"}, "alice/docs", OTHER)
        host.pull("alice/docs", repo=OTHER, token=token)
        host.post(f"/repos/{OTHER}/issues", {"title": "A question"}, token)
        return published(host)

    host.cycle = cycle
    result = docs(host)
    assert result["passed"], result["failed"]
    assert result["evidence"]["bystanders"] == [
        f"{OTHER}: new pull request #1 by alice",
        f"{OTHER}: new issue #2 by alice",
    ]


def texts(value: Any) -> Iterator[str]:
    """Every text in plain data."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from texts(each)
    elif isinstance(value, str):
        yield value


def test_whatever_forge_and_engine_say_tells_no_terminal_what_to_do(host: Host) -> None:
    token = host.side("tokens", {"login": "ali\u202ece", "role": "write"})["token"]
    branch = "hyrule-feature/\u202eod\x9b1m\u2028"

    def cycle(host: Host) -> dict[str, Any]:
        host.post(f"/repos/{OTHER}/issues", {"title": HOSTILE}, token)
        host.post(f"/repos/{REPO}/issues/{ISSUE}", {"title": HOSTILE}, token, method="PATCH")
        host.push({"docs/\u202e\x1b[2J.md": "x\n", "docs/a.md": "a\n"}, branch)
        host.pull(branch)
        host.journal = [f"engine: {HOSTILE}"]
        return {**published(host), "outcome": "published", "pr_url": HOSTILE, "detail": HOSTILE}

    said: list[str] = []
    host.cycle = cycle
    result = docs(host, say=said.append, cleanup=True)
    assert {"nothing else", "one pull request", "report"} <= set(failed(result))
    result["evidence"].pop("record")  # what root wrote: this host of the tests writes it as it comes
    assert len(said) > 10 and result["cleanup"] and result["evidence"]["bystanders"]
    for text in texts([said, result]):
        assert text.isprintable(), text[:200]
        assert len(text) <= 5003
    assert any("x\\x1b[2J\\x1b]0;owned" in text for text in said)
    assert "hyrule-feature/\\u202eod\\x9b1m\\u2028" in [pull["branch"] for pull in result["evidence"]["pulls"]]
