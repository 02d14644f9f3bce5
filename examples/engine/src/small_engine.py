# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""An engine: one issue, an agent in a worktree, one draft pull request. What it owes is in docs/engine-contract.md."""

import argparse
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

LABEL, PREFIX = "agent:go", "small"  # engineering_loop_label and engineering_loop_branch_prefixes of the inventory


def run(*words: str | Path, cwd: str | Path = "/") -> str:
    return subprocess.run(words, cwd=cwd, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def work(asked: argparse.Namespace, issue: dict, change: str) -> dict:
    """The agent's work on one issue, published; what is reported of it."""
    repo, checkout = issue["repo"], issue["repo"].split("/")[1]
    place, branch = asked.output_root / change.lower(), f"{PREFIX}/{change}/{checkout}"
    tree, title = place / "worktrees" / checkout, issue["title"]
    run("git", "worktree", "add", "--quiet", "-b", branch, tree, cwd=asked.workspace_root / checkout)
    backends = json.loads(Path(os.environ["HYRULE_MODEL_POLICY_FILE"]).read_text())["backends"]
    body = json.loads(run("gh", "issue", "view", str(issue["number"]), "--repo", repo, "--json", "body"))["body"]
    command = backends["definitions"][backends["default"]]["command"]
    run(*(word.replace("{prompt}", f"{title}\n\n{body}\n\nChange docs/ alone.") for word in command), cwd=tree)
    told = {"change_id": change, "backend_name": backends["default"], "schema_version": 1}
    for name in (f"state/{change}.json", "handoff/noc_handoff.json"):
        (place / name).parent.mkdir(parents=True)
        (place / name).write_text(json.dumps(told))
    run("git", "add", "--all", cwd=tree)
    run("git", "commit", "--quiet", "-m", title, cwd=tree)
    run("git", "push", "--quiet", "origin", f"HEAD:refs/heads/{branch}", cwd=tree)
    text = f"Closes #{issue['number']}"
    url = run("gh", "pr", "create", "--draft", "--head", branch, "--title", title, "--body", text, cwd=tree)
    return {"outcome": "published", "pr_url": url, "issue": issue, "state_path": str(place / f"state/{change}.json")}


def cycle(asked: argparse.Namespace) -> dict:
    for repo in asked.repo:
        listed = run("gh", "issue", "list", "--repo", repo, "--label", LABEL, "--json", "number,title")
        for issue in json.loads(listed):
            change = f"ISSUE_{repo.split('/')[1].upper().replace('-', '_')}_{issue['number']}"
            return work(asked, {**issue, "repo": repo}, change)
    return {"outcome": "idle"}


def main() -> None:
    parser = argparse.ArgumentParser()
    daemon = parser.add_subparsers(required=True).add_parser("daemon", help="run one cycle")
    daemon.add_argument("--once", action="store_true", required=True)
    daemon.add_argument("--repo", action="append", required=True)
    for name in ("--workspace-root", "--output-root", "--state-dir-path", "--memory-dir"):
        daemon.add_argument(name, type=Path, required=True)
    for name in ("--max-runs-per-day", "--max-cost-usd-per-day"):
        daemon.add_argument(name, type=float)  # the deployment counts both as well
    asked = parser.parse_args()
    try:
        report = cycle(asked)
    except (subprocess.CalledProcessError, OSError, ValueError, KeyError) as error:
        traceback.print_exc()
        report = {"outcome": "error", "detail": f"{error}"}
    print(json.dumps({"detail": "", "cost_usd": 0.0, **report}))
    sys.exit(report["outcome"] == "error")
