# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""One cycle, in the order in which it happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reference_loop_engine import __version__, agent, issues, ledger, policy, worktree
from reference_loop_engine.failures import NeedsTriage, RunError

REMOTE = "origin"
GATE = ["git", "diff", "--check"]


@dataclass(frozen=True)
class Options:
    repos: Sequence[str]
    workspace: Path
    runs: Path
    state: Path
    memory: Path | None
    max_runs: int
    max_cost: float
    allowed: dict[str, list[str]]


@dataclass
class Run:
    """One issue's way through a cycle, and where its files are."""

    issue: dict[str, Any]
    options: Options

    def __post_init__(self) -> None:
        self.change_id = issues.change_id(self.issue)
        self.checkout = issues.checkout_name(self.issue)
        self.directory = self.options.runs / self.change_id.lower()
        self.worktree = self.directory / "worktrees" / f"{self.checkout}-{self.change_id}"
        self.branch = f"hyrule-feature/{self.change_id}/{self.checkout}"
        self.allowed = self.options.allowed.get(self.checkout, ["docs"])
        self.orders = issues.orders(self.issue)
        self.handoff = self.directory / "handoff" / "noc_handoff.json"
        self.state_file = self.directory / "state" / f"{self.change_id}.json"

    def done(self, step: str) -> None:
        """A step is done: say so, and die of it if the issue wants that."""
        print(f"[{step}] done", flush=True)
        if f"crash-at {step}" in self.orders:
            os.kill(os.getpid(), signal.SIGKILL)

    def write(self, path: Path, content: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content, indent=2, sort_keys=True) + "\n"
        path.write_text(text, encoding="utf-8")

    def write_state(self, **facts: Any) -> None:
        told = {"change_id": self.change_id, "engine_version": __version__, "backend_name": agent.backend()}
        self.write(self.state_file, {**told, **facts})


def run_cycle(options: Options) -> dict[str, Any]:
    started = time.monotonic()
    report: dict[str, Any] = {
        "outcome": "error",
        "detail": "",
        "issue": None,
        "change_id": None,
        "state_path": None,
        "pr_url": None,
        "journal_path": None,
        "cost_usd": 0.0,
        "wall_clock_seconds": 0.0,
        "notifications": [],
    }
    try:
        report.update(_cycle(options))
    except (RunError, OSError, ValueError, KeyError) as error:
        report["detail"] = str(error)[:300]
    report["wall_clock_seconds"] = round(time.monotonic() - started, 1)
    return report


def _cycle(options: Options) -> dict[str, Any]:
    if os.environ.get("GITHUB_ACTIONS"):
        return {"outcome": "refused_ci", "detail": "this engine does not run in CI"}
    with ledger.locked(options.state) as mine:
        if not mine:
            return {"outcome": "locked", "detail": "another run has the lock"}
        spent = ledger.spent(options.state)
        if spent["runs"] >= options.max_runs or spent["cost_usd"] >= options.max_cost:
            return {"outcome": "over_budget", "detail": f"{spent['runs']} runs and ${spent['cost_usd']:.2f} today"}
        issue = issues.next_issue(options.repos)
        if issue is None:
            return {"outcome": "idle", "detail": "no approved issue"}
        return _work_on(Run(issue, options))


def _work_on(run: Run) -> dict[str, Any]:
    started = time.monotonic()
    result: dict[str, Any] = {
        "issue": {key: run.issue[key] for key in ("repo", "number", "title")},
        "change_id": run.change_id,
        "state_path": str(run.state_file),
    }
    try:
        _prepare(run)
        _make(run)
        urls = _publish(run)
        result.update(outcome="published", pr_url=urls[0], detail=f"pull request for {run.change_id}")
    except NeedsTriage as stop:
        run.write_state(signoff_status="blocked", failure=str(stop), promotion_results=_promotions(run))
        result.update(outcome="needs_triage", detail=str(stop)[:200])
    result["journal_path"] = _journal(run, result)
    ledger.count_run(run.options.state, 0.0, time.monotonic() - started)
    return result


def _prepare(run: Run) -> None:
    issue = run.issue
    run.write(run.directory / "request.md", f"# {issue['title']}\n\nFrom {issue['url']}\n\n{issue['body']}\n")
    run.write(run.directory / "tasks" / f"{run.change_id}.md", f"# {run.change_id}\n\n{issue['title']}\n")
    run.worktree.parent.mkdir(parents=True, exist_ok=True)
    worktree.add(run.options.workspace / run.checkout, run.worktree, run.branch)
    run.done("worktree")


def _make(run: Run) -> None:
    run.handoff.parent.mkdir(parents=True, exist_ok=True)
    agent.work(run.worktree, run.issue, run.change_id, run.allowed, run.handoff.parent / "transcript.txt")
    while "hang" in run.orders:
        time.sleep(3600)
    run.done("agent")
    if "needs-triage" in run.orders:
        raise NeedsTriage("the issue asks for a person")
    rules = policy.load(run.checkout)
    policy.judge_changes(rules, run.worktree, worktree.changes(run.worktree), run.allowed)
    policy.judge_gate(rules, GATE)
    if subprocess.run(GATE, cwd=run.worktree, capture_output=True, check=False).returncode:
        raise NeedsTriage(f"gate: {' '.join(GATE)} failed")
    policy.judge_publication(rules, REMOTE, run.branch)
    policy.judge_handoff(rules, run.handoff.parent)
    run.done("policy")
    handed = {
        "schema_version": 1,
        "generated_at": datetime.now(UTC).isoformat(),
        "change_id": run.change_id,
        "promotion": {"results": _promotions(run)},
    }
    run.write(run.handoff, handed)
    run.write(run.handoff.parent / "loop_trace.json", {"engine": __version__, "change_id": run.change_id})
    run.write_state(
        signoff_status="ready_for_review",
        policy_status="passed",
        noc_handoff_path=str(run.handoff),
        promotion_results=_promotions(run),
    )
    run.done("handoff")


def _promotions(run: Run) -> list[dict[str, str]]:
    if not run.worktree.exists():
        return []
    return [{"repo": run.checkout, "branch": run.branch, "worktree_path": str(run.worktree)}]


def _publish(run: Run) -> list[str]:
    if "outside-docs" in run.orders:
        run.write(run.worktree / "src" / "unasked.py", "print('nobody asked for this')\n")
    worktree.git(run.worktree, "add", "--all", "--", ".")
    worktree.git(run.worktree, "commit", "--quiet", "-m", f"{run.change_id}: {run.issue['title']}")
    run.done("commit")
    targets = [f"feature/{run.change_id}" if "other-branch" in run.orders else run.branch]
    if "two-prs" in run.orders:
        targets.append(f"{run.branch}-second")
    for target in targets:
        worktree.git(run.worktree, "push", "--quiet", REMOTE, f"HEAD:refs/heads/{target}")
    run.done("push")
    urls = [_pull_request(run, target) for target in targets]
    run.done("pr")
    return urls


def _pull_request(run: Run, branch: str) -> str:
    draft = [] if "ready" in run.orders else ["--draft"]
    body = f"Closes {run.issue['url']}\n\nHandoff: {run.handoff}\n"
    made = issues.gh(
        "pr", "create", *draft, "--title", run.issue["title"], "--body", body, "--head", branch,
        cwd=str(run.worktree),
    )  # fmt: skip
    return made.strip()


def _journal(run: Run, result: dict[str, Any]) -> str | None:
    if run.options.memory is None:
        return None
    journal = run.options.memory / "journal" / f"{run.change_id}.md"
    run.write(journal, f"# {run.change_id}\n\n{result['outcome']}: {result['detail']}\n")
    return str(journal)
