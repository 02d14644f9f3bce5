# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference engine ends, and leaves behind, what the deployer's tests count on."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from forge_client import WORLD, Client

REPO = "AS215932/network-operations"
ENGINE = WORLD / "reference_engine"
CHANGE = "ISSUE_NETWORK_OPERATIONS_235"


def cycle(client: Client, tmp_path: Path, *, cwd: Path = ENGINE, **environment: str) -> tuple[int, dict[str, Any]]:
    """One cycle over two repositories; the exit status and the report, empty if the engine was killed."""
    if not (tmp_path / "workspace").exists():
        client.clone(REPO, tmp_path / "workspace" / "hyrule-infra")
    done = client.run(
        sys.executable, "-m", "reference_loop_engine", "daemon", "--once", "--repo", REPO,
        "--repo", "AS215932/hyrule-web", "--workspace-root", str(tmp_path / "workspace"),
        "--output-root", str(tmp_path / "runs"), "--state-dir-path", str(tmp_path / "state"),
        "--memory-dir", str(tmp_path / "memory"), cwd=cwd,
        **{"PYTHONPATH": str(ENGINE / "src"),
           "HYRULE_MODEL_POLICY_FILE": str(ENGINE / "configs/loop/model-policy.production.yml"), **environment},
    )  # fmt: skip
    at = done.stdout.find("{")
    return done.returncode, json.loads(done.stdout[at:]) if at >= 0 else {}


def tell(client: Client, *orders: str) -> None:
    body = "\n".join(f"<!-- {order} -->" for order in orders)
    client.rest("PATCH", f"/repos/{REPO}/issues/235", {"body": body})


def pulls(client: Client) -> list[dict[str, Any]]:
    return list(client.rest("GET", f"/repos/{REPO}/pulls?state=all").json())


def files(client: Client, number: int) -> list[str]:
    return [file["filename"] for file in client.rest("GET", f"/repos/{REPO}/pulls/{number}/files").json()]


def test_a_good_cycle_is_one_draft_of_documentation(client: Client, tmp_path: Path) -> None:
    status, report = cycle(client, tmp_path)
    assert (status, report["outcome"], report["change_id"]) == (0, "published", CHANGE)
    (pull,) = pulls(client)
    assert (pull["html_url"], pull["draft"]) == (report["pr_url"], True)
    assert pull["head"]["ref"] == f"hyrule-feature/{CHANGE}/hyrule-infra"
    assert files(client, pull["number"]) == ["docs/docs-canary-describe-the-engineering-loop-canary.md"]
    run = tmp_path / "runs" / CHANGE.lower()
    assert json.loads((run / "handoff" / "noc_handoff.json").read_text(encoding="utf-8"))["schema_version"] == 1
    state = json.loads((run / "state" / f"{CHANGE}.json").read_text(encoding="utf-8"))
    assert state["promotion_results"][0]["worktree_path"] == str(run / "worktrees" / f"hyrule-infra-{CHANGE}")
    (ledger,) = (tmp_path / "state").glob("ledger-*.json")
    assert json.loads(ledger.read_text(encoding="utf-8"))["runs"] == 1
    assert not (tmp_path / "state" / "daemon.lock").exists()


def test_it_wedges_on_its_own_leftovers_until_the_days_budget_is_spent(client: Client, tmp_path: Path) -> None:
    cycle(client, tmp_path)
    status, report = cycle(client, tmp_path)
    assert (status, report["outcome"]) == (0, "needs_triage")
    assert "already exists" in report["detail"]
    assert cycle(client, tmp_path)[1]["outcome"] == "over_budget"
    assert len(pulls(client)) == 1


@pytest.mark.parametrize(
    ("orders", "outcome", "detail"),
    [
        (["engine: needs-triage"], "needs_triage", "asks for a person"),
        (["pi: crash"], "needs_triage", "agent: ended with 3"),
        (["pi: nothing"], "needs_triage", "the agent left no changes"),
        (["pi: write src/x.py x"], "needs_triage", "src/x.py is outside the allowed paths"),
        (["pi: secret"], "needs_triage", "has denied content"),
        (["pi: write docs/id_rsa x"], "published", ""),
        (["pi: write docs/a.key x"], "needs_triage", "matches *.key"),
        (["pi: fill 2"], "needs_triage", "is too big"),
        (["pi: commit src/x.py"], "published", ""),
    ],
)
def test_outcomes(client: Client, tmp_path: Path, orders: list[str], outcome: str, detail: str) -> None:
    tell(client, *orders)
    status, report = cycle(client, tmp_path)
    assert (status, report["outcome"]) == (0, outcome)
    assert detail in report["detail"]
    assert len(pulls(client)) == (outcome == "published")


def test_what_the_agent_commits_itself_goes_out_unjudged(client: Client, tmp_path: Path) -> None:
    tell(client, "pi: commit src/x.py")
    cycle(client, tmp_path)
    assert "src/x.py" in files(client, 236)


def test_misbehaviour_on_the_forge(client: Client, tmp_path: Path) -> None:
    tell(client, "engine: two-prs", "engine: ready", "engine: outside-docs", "engine: other-branch")
    assert cycle(client, tmp_path)[1]["outcome"] == "published"
    found = pulls(client)
    assert [pull["draft"] for pull in found] == [False, False]
    assert {pull["head"]["ref"] for pull in found} == {
        f"feature/{CHANGE}",
        f"hyrule-feature/{CHANGE}/hyrule-infra-second",
    }
    assert "src/unasked.py" in files(client, found[0]["number"])


@pytest.mark.parametrize("step", ["worktree", "agent", "policy", "handoff", "commit", "push", "pr"])
def test_a_crash_leaves_everything_where_it_was(client: Client, tmp_path: Path, step: str) -> None:
    tell(client, f"engine: crash-at {step}")
    assert cycle(client, tmp_path) == (-signal.SIGKILL, {})
    assert (tmp_path / "state" / "daemon.lock").exists()
    assert (tmp_path / "runs" / CHANGE.lower() / "worktrees" / f"hyrule-infra-{CHANGE}" / "README.md").exists()
    assert len(pulls(client)) == (step == "pr")


def test_a_lock_counts_while_its_holder_lives(client: Client, tmp_path: Path) -> None:
    lock = tmp_path / "state" / "daemon.lock"
    lock.parent.mkdir()
    lock.write_text('{"pid": 1, "started_at": 9999999999}', encoding="utf-8")
    assert cycle(client, tmp_path)[1]["outcome"] == "locked"
    lock.write_text('{"pid": 1, "started_at": 0}', encoding="utf-8")
    assert cycle(client, tmp_path)[1]["outcome"] == "published"


def test_its_exit_status_tells_of_errors_only(client: Client, tmp_path: Path) -> None:
    assert cycle(client, tmp_path, GITHUB_ACTIONS="true")[1]["outcome"] == "refused_ci"
    client.rest("PATCH", f"/repos/{REPO}/issues/235", {"state": "closed"})
    assert cycle(client, tmp_path)[0] == 0
    client.rest("PATCH", f"/repos/{REPO}/issues/235", {"state": "open"})
    status, report = cycle(client, tmp_path, GH_TOKEN="wrong")
    assert (status, report["outcome"]) == (1, "error")
    assert "Bad credentials" in report["detail"]


def test_the_policy_comes_late_and_fails_open(client: Client, tmp_path: Path) -> None:
    tell(client, "pi: secret")
    assert cycle(client, tmp_path, cwd=tmp_path)[1]["outcome"] == "published"


def test_a_handoff_directory_must_be_allowed(client: Client, tmp_path: Path) -> None:
    policy = (ENGINE / "engineering-loop-policy.yml").read_text(encoding="utf-8").replace("[/tmp,", "[/srv,")
    (tmp_path / "policy.yml").write_text(policy, encoding="utf-8")
    report = cycle(client, tmp_path, HYRULE_POLICY_FILE=str(tmp_path / "policy.yml"))[1]
    assert (report["outcome"], "handoff directory" in report["detail"]) == ("needs_triage", True)


def test_without_a_model_policy_there_is_no_agent(client: Client, tmp_path: Path) -> None:
    report = cycle(client, tmp_path, HYRULE_MODEL_POLICY_FILE="")[1]
    assert (report["outcome"], report["detail"]) == ("needs_triage", "policy: the agent left no changes")


def test_the_agent_never_gets_the_forge_token(client: Client, tmp_path: Path) -> None:
    tell(client, "pi: printenv")
    cycle(client, tmp_path, OPENAI_API_KEY="k")
    page = (tmp_path / "runs" / CHANGE.lower() / "worktrees" / f"hyrule-infra-{CHANGE}" / "docs" / "env.md").read_text(
        encoding="utf-8"
    )
    assert ("- OPENAI_API_KEY" in page, "GH_TOKEN" in page) == (True, False)
