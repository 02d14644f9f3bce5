# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The canary against the real local forge: a cycle is proven, shown while it runs, and tidied up after."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import attempts
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell.attempts import Attempt
from ansible_collections.as215932.engineering_loop.plugins.module_utils.forge.client import Forge
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import (
    cycle_run,
    timer_hold,
)
from deployed import BOT, BRANCH, ISSUE, OTHER, REPO, SHA, Host, published
from proofs import docs, empty, failed, ready, unlabelled


def test_a_good_cycle_is_proven_and_leaves_a_receipt(host: Host) -> None:
    host.journal = [f"engine: token {host.forge.token}", "cycle published"]
    result = docs(host, applied_by="ops", overrides=["engineering_loop_x"])

    assert result["passed"], result["failed"]
    receipt, reason = timer_hold.matching(host.config)
    assert receipt is not None, reason
    assert receipt.proven.engine_sha == SHA
    assert receipt.document["applied_by"] == "ops" and receipt.document["overrides"] == ["engineering_loop_x"]
    assert receipt.document["how"]["files"] == ["docs/canary.md"]
    assert receipt.document["how"]["pulls"][0]["branch"] == BRANCH and receipt.document["how"]["identity"] == BOT
    assert result["evidence"]["journal"] == ["engine: token ***", "cycle published"]
    assert host.forge.token not in json.dumps(result)
    assert len(result["expectations"]) == 15


@pytest.mark.parametrize("prefix", ["./docs", "docs/", "docs//", "."])
def test_a_prefix_may_be_written_as_the_gate_takes_it(host: Host, prefix: str) -> None:
    host.config["allowed_paths"] = {"hyrule-infra": [prefix]}
    host.write_config()
    result = docs(host)
    assert result["passed"], result["failed"]


def test_settings_that_were_written_while_it_ran_prove_nothing(host: Host) -> None:

    def cycle(host: Host) -> dict[str, Any]:
        settings = json.loads(host.config_file.read_text())
        host.config_file.write_text(json.dumps({**settings, "allowed_paths": {"hyrule-infra": ["docs", "src"]}}))
        return published(host)

    host.cycle = cycle
    result = docs(host)
    assert not result["passed"] and result["failed"].startswith("host unchanged: "), result["failed"]


def test_each_step_and_each_line_of_the_journal_is_said_once_and_while_it_happens(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    pauses = iter(["2026-01-01T12:00:01+00:00 loop engine[7]: [worktree] done", f"token {host.forge.token}", None])

    def cycle(host: Host) -> dict[str, Any]:
        report = published(host)
        host.running = "activating"
        return report

    def pause(seconds: float) -> None:
        """What happens meanwhile: another line, and after the last one the end."""
        line = next(pauses, None)
        if line is None:
            host.running = ""
        else:
            assert not any("looking at what it did" in text for text in said)
            host.journal.append(line)

    monkeypatch.setattr(cycle_run._Tail, "PAUSE", 0.0)
    monkeypatch.setattr(cycle_run.time, "sleep", pause)
    host.cycle = cycle
    assert docs(host, say=said.append)["passed"]
    assert said[:4] == [
        f"budget is left, the engine would take {REPO}#{ISSUE}, {BOT} may push and open pull requests: "
        "starting hyrule-engineering-loop.service",
        "12:00:01 engine[7]: [worktree] done",
        "token ***",
        said[3],
    ]
    assert said[3].startswith("it ended after ") and said[4] == "ok: cycle ended: the cycle ends within the time-out"
    assert len(said) == 4 + 15


def test_a_failed_expectation_is_said(host: Host) -> None:
    said: list[str] = []
    host.cycle = ready
    docs(host, say=said.append)
    assert "FAILED: draft: open draft; seen: open and ready for review" in said


def test_a_cycle_whose_invocation_systemd_forgot_is_found_by_its_record(host: Host) -> None:
    host.forgets = True
    assert docs(host)["passed"]


def test_cleanup_leaves_the_forge_as_it_was(host: Host) -> None:
    result = docs(host, cleanup=True)
    assert result["passed"]
    forge = Forge(host.config["api_url"], host.forge.token)
    assert forge.pulls(REPO, state="open") == []
    assert list(forge.branches(REPO)) == ["main"]
    assert forge.approved_issues(REPO, "loop:approved") == []
    assert len(result["cleanup"]) == 3 and not any("not done" in line for line in result["cleanup"])


def test_a_cycle_that_hangs_is_given_up_but_not_stopped(host: Host) -> None:
    def hang(host: Host) -> dict[str, Any]:
        host.running = "activating"
        return {"outcome": "running"}

    host.cycle = hang
    result = docs(host, timeout=0.3, cleanup=True)
    assert result["cleanup"] == []  # not under a running cycle
    assert failed(result)[0] == "cycle ended"
    assert "still running" in result["failed"]
    assert len(host.started) == 1


def test_a_cycle_without_a_record_is_not_proven(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_record", lambda: None)
    assert failed(docs(host))[:2] == ["outcome", "engine"]


# --- empty


def test_the_empty_canary_proves_idleness_and_no_more(host: Host) -> None:
    unlabelled(host)
    host.cycle = lambda host: {"outcome": "idle"}
    result = empty(host)
    assert result["passed"], result["failed"]
    assert timer_hold.matching(host.config, mode="empty").receipt is not None
    receipt, reason = timer_hold.matching(host.config, mode="docs")
    assert receipt is None and "only the empty canary was passed" in reason


def test_the_empty_canary_needs_an_empty_queue(host: Host) -> None:
    with pytest.raises(LoopError, match=f"an empty queue, and {REPO}#{ISSUE}"):
        empty(host)


def test_an_idle_cycle_that_opens_a_pull_request_is_seen(host: Host) -> None:
    unlabelled(host)

    def cycle(host: Host) -> dict[str, Any]:
        published(host)
        return {"outcome": "idle"}

    host.cycle = cycle
    assert failed(empty(host)) == ["nothing else"]


# --- beside what is held


def tried(host: Host, number: int, repo: str = REPO) -> None:
    """As often as an issue may be, and it is what it was."""
    issue = Forge(host.config["api_url"], host.forge.token).issue(repo, number)
    assert issue
    for cycle in ("a", "b", "c"):
        attempt = Attempt(f"{cycle}{repo}{number}", repo, number, "error", digest=attempts.digest_of(issue))
        attempts.count(host.config, attempt)


def test_what_is_held_stands_in_no_canarys_way_and_its_own_issue_is_released(host: Host) -> None:
    host.side("issues", {"repo": OTHER, "title": "Poison", "labels": ["loop:approved", "Security"]})
    with pytest.raises(LoopError, match="Poison"):
        docs(host)
    tried(host, 1, OTHER)
    tried(host, ISSUE)
    assert len(attempts.held(host.config)) == 2
    result = docs(host)
    assert result["passed"], result["failed"]
    assert [one["repo"] for one in attempts.held(host.config)] == [OTHER]


def test_a_queue_of_what_is_held_is_empty(host: Host) -> None:
    tried(host, ISSUE)
    host.cycle = lambda host: {"outcome": "idle"}
    assert empty(host)["passed"]
