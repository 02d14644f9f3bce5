# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The canary against the real local forge: what it refuses to start, and what it sees in each misbehaviour."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.clock import stamp, utc_now
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import budget, records
from ansible_collections.as215932.engineering_loop.plugins.module_utils.forge.client import Forge
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import systemd
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import (
    canary,
    cycle_run,
    preconditions,
    timer_hold,
)
from deployed import BOT, BRANCH, CHANGE, ISSUE, OTHER, REPO, SEED, SHA, Host, Running, deployed, published, running


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("forge") / "root", seed=SEED) as forge:
        yield forge


@pytest.fixture
def host(tmp_path: Path, forge: Running, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = deployed(tmp_path, forge)
    monkeypatch.setattr(systemd, "UNIT_DIR", str(tmp_path / "systemd"))
    monkeypatch.setattr(cycle_run, "systemctl", partial(host.systemd, "systemctl"))
    monkeypatch.setattr(cycle_run, "journalctl", partial(host.systemd, "journalctl"))
    return host


def docs(host: Host, say: Callable[[str], object] = str, **options: Any) -> dict[str, Any]:
    asked = canary.Request(**{"mode": "docs", "repo": REPO, "issue": ISSUE, **options})
    return canary.run(host.config, asked, host.forge.token, say)


def empty(host: Host) -> dict[str, Any]:
    return canary.run(host.config, canary.Request("empty"), host.forge.token)


def failed(result: dict[str, Any]) -> list[str]:
    assert not result["passed"] and result["receipt"] is None
    return [item["name"] for item in result["expectations"] if not item["passed"]]


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
    result = docs(host)
    assert result["passed"], result["failed"]


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
    assert forge.approved_issues(REPO) == []
    assert len(result["cleanup"]) == 3 and not any("not done" in line for line in result["cleanup"])


# --- each misbehaviour is named


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


def ready(host: Host) -> dict[str, Any]:
    host.push({"docs/canary.md": "# Canary\n"})
    host.handoff()
    return host.report(host.pull(draft=False))


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
    assert not os.path.exists(host.config["receipts_dir"])


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


HOSTILE = "x\x1b[2J\x1b]0;owned\x07\x9b31m\u202egnp\u2066" + "\x1b" * 65536


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
    result["evidence"].pop("account")  # what root wrote: this host of the tests writes it as it comes
    assert len(said) > 10 and result["cleanup"] and result["evidence"]["bystanders"]
    for text in texts([said, result]):
        assert text.isprintable(), text[:200]
        assert len(text) <= 5003
    assert any("x\\x1b[2J\\x1b]0;owned" in text for text in said)
    assert "hyrule-feature/\\u202eod\\x9b1m\\u2028" in [pull["branch"] for pull in result["evidence"]["pulls"]]


def test_the_title_of_an_issue_in_a_refusal_tells_no_terminal_what_to_do(host: Host) -> None:
    approve(host, title=HOSTILE, labels=["loop:approved", "critical"])
    with pytest.raises(LoopError, match=r"\(x\\x1b\[2J.*stands before") as error:
        docs(host)
    assert str(error.value).isprintable() and len(str(error.value)) < 1000


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


# --- what must be true beforehand


def approve(host: Host, repo: str = OTHER, **more: Any) -> None:
    host.side("issues", {"repo": repo, "title": "Another", "labels": ["loop:approved"], **more})


def closed(host: Host) -> None:
    host.post(f"/repos/{REPO}/issues/{ISSUE}", {"state": "closed"}, method="PATCH")


def unlabelled(host: Host) -> None:
    Forge(host.config["api_url"], host.forge.token).remove_label(REPO, ISSUE, "loop:approved")


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


# --- small things


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
