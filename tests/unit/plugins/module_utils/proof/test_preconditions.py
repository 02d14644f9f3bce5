# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the canary refuses to start, and the order of the engine's queue."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.clock import stamp, utc_now
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import budget, records
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import (
    preconditions,
)
from deployed import BOT, BRANCH, CHANGE, ISSUE, OTHER, REPO, Host, published
from proofs import HOSTILE, docs, unlabelled


def test_an_engine_of_ones_own_has_its_own_names(host: Host) -> None:
    host.config.update(
        label="agent:go", branch_prefixes=["small"], workspace_repositories=[], checkout_names={OTHER: "whole"}
    )
    target = preconditions.target_of(host.config, OTHER, 7)
    assert (target.checkout, target.label) == ("whole", "agent:go")
    assert target.branch == f"small/{target.change_id}/whole"
    host.config.update(checkout_names={OTHER.split("/")[1]: "short"})
    assert preconditions.target_of(host.config, OTHER, 7).checkout == "short"
    host.config.update(checkout_names={})
    assert preconditions.target_of(host.config, OTHER, 7).checkout == OTHER.split("/")[1]
    named = {"labels": [{"name": "Agent:Go"}]}
    assert preconditions.is_approved(named, target)  # as on the forge, which knows no capitals
    assert not preconditions.is_approved({"labels": [{"name": "agent:go2"}]}, target)


def approve(host: Host, repo: str = OTHER, **more: Any) -> None:
    host.side("issues", {"repo": repo, "title": "Another", "labels": ["loop:approved"], **more})


def closed(host: Host) -> None:
    host.post(f"/repos/{REPO}/issues/{ISSUE}", {"state": "closed"}, method="PATCH")


def has_pull(host: Host) -> None:
    published(host)


def more_urgent(host: Host) -> None:
    approve(host, labels=["loop:approved", "Security"])


def level(host: Host) -> None:
    approve(host, body="## Context\n## Action items\n## Related\n")
    with host.forge.store.lock:
        repos = host.forge.store.state["repos"]
        repos[OTHER]["issues"]["1"]["updated_at"] = repos[REPO]["issues"][str(ISSUE)]["updated_at"]


def runs_used(host: Host) -> None:
    for invocation in ("a", "b"):
        budget.take(host.config, invocation, "manual")


def money_used(host: Host) -> None:
    spend(host, 4.0, 6.0)


def spend(host: Host, *costs: object) -> None:
    """Cycles of today whose records say that they cost so much."""
    for number, cost in enumerate(costs):
        record = {"cycle": f"{stamp()}-{number:08x}", "started": utc_now(), "outcome": "published"}
        records.write(host.config["cycles_dir"], {**record, "numbers": {"cost_usd": cost}})


def may_not_push(host: Host) -> None:
    host.side("tokens", {"login": BOT, "role": "read"})


def busy(host: Host) -> None:
    host.running = "activating"


def no_engine(host: Host) -> None:
    (host.top / "opt" / "current").unlink()


def forge_down(host: Host) -> None:
    host.side("faults", {"kind": "down", "times": 99, "status": 500})


def out_of_sight(host: Host) -> None:
    for _unused in range(preconditions.LISTED):
        approve(host, REPO)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (closed, "is closed: open it again"),
        (unlabelled, "does not have the label loop:approved"),
        (has_pull, "already has the pull request http"),
        (level, f"{OTHER}#1 (Another) stands before {REPO}#{ISSUE}"),
        (more_urgent, f"{OTHER}#1 (Another) stands before {REPO}#{ISSUE} in the engine's queue (score 5.00 "),
        (runs_used, "2 of 2 runs"),
        (money_used, "10.00 of 10.00 USD"),
        (may_not_push, f"the token may not push to {REPO}"),
        (busy, "a cycle is running already"),
        (no_engine, "no engine is installed"),
        (forge_down, "HTTP 500"),
        (out_of_sight, "does not see"),
    ],
)
def test_a_cycle_is_not_spent_where_its_end_is_known(host: Host, spoil: Callable[[Host], None], words: str) -> None:
    spoil(host)
    with pytest.raises(LoopError) as error:
        docs(host)
    assert words in str(error.value)
    assert host.forge.token not in str(error.value)
    assert host.started == []


def test_all_that_speaks_against_it_is_told_at_once(host: Host) -> None:
    runs_used(host)
    closed(host)
    may_not_push(host)
    with pytest.raises(LoopError) as told:
        docs(host)
    words = ("2 of 2 runs", "is closed: open it again", "may not push")
    assert all(word in str(told.value) for word in words) and host.started == []


@pytest.mark.parametrize(
    ("repo", "issue", "words"),
    [
        ("AS215932/elsewhere", 1, "AS215932/elsewhere is not in the loop's scope: AS215932/network-operations"),
        (REPO, 999, f"there is no issue {REPO}#999"),
        (REPO, 0, "needs the number of its issue"),
        ("", 1, "no repository is not in the loop's scope"),
    ],
)
def test_an_issue_that_cannot_be_the_canarys(host: Host, repo: str, issue: int, words: str) -> None:
    with pytest.raises(LoopError, match=words.replace("#", "\\#")):
        docs(host, repo=repo, issue=issue)
    assert host.started == []


def test_a_pull_request_is_no_issue(host: Host) -> None:
    host.push({"docs/x.md": "x\n"}, "other")
    number = host.pull("other")["number"]
    with pytest.raises(LoopError, match="is a pull request, not an issue"):
        docs(host, issue=number)


def test_a_cost_that_is_none_counts_as_none(host: Host) -> None:
    spend(host, ["nonsense"], -5, 1e12, None, 9.99)
    preconditions.check_budget(host.config)
    host.config["daemon_args"] = []
    preconditions.check_budget(host.config)
    host.config["daemon_args"] = ["--max-cost-usd-per-day=9.5"]
    with pytest.raises(LoopError, match=r"9\.99 of 9\.50 USD were spent"):
        preconditions.check_budget(host.config)


def test_the_title_of_an_issue_in_a_refusal_tells_no_terminal_what_to_do(host: Host) -> None:
    approve(host, title=HOSTILE, labels=["loop:approved", "critical"])
    with pytest.raises(LoopError, match=r"\(x\\x1b\[2J.*stands before") as error:
        docs(host)
    assert str(error.value).isprintable() and len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("labels", "body", "updated_at", "score"),
    [
        ([], None, "2026-03-01T00:00:00Z", 1.0),
        (["Critical"], "", "2026-03-01T00:00:00Z", 6.0),
        (["security", "bug", "other"], "## Context\n## Action items\n## Related\n", "2026-03-01T00:00:00Z", 8.0),
        (["bgp", "monitoring", "routine", "firewall"], "## Context\n## Related\n", "2026-03-01T00:00:00Z", 7.0),
        ([], "", "2026-01-30T00:00:00Z", 2.0),
        ([], "", "2020-01-01T00:00:00Z", 3.0),
        ([], "", "2027-01-01T00:00:00Z", 1.0),
        ([], "", "yesterday", 1.0),
    ],
)
def test_the_queue_is_scored_as_the_engine_does(labels: list[str], body: str, updated_at: str, score: float) -> None:
    now = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
    issue = {"labels": [{"name": label} for label in labels], "body": body, "updated_at": updated_at}
    assert preconditions.score(issue, now) == score


def test_names_are_the_engines(host: Host) -> None:
    target = preconditions.target_of(host.config, REPO, ISSUE)
    assert (target.change_id, target.branch) == (CHANGE, BRANCH)
