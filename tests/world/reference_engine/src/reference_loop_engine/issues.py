# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The queue: approved issues of all repositories, asked of `gh`."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from typing import Any

from reference_loop_engine.failures import RunError

ORDER = re.compile(r"<!--\s*engine:\s*(.+?)\s*-->")
WEIGHTS = {"critical": 5, "security": 4, "bug": 2}
CHECKOUTS = {"network-operations": "hyrule-infra", "noc-agent": "hyrule-noc-agent"}


def gh(*arguments: str, cwd: str | None = None) -> str:
    done = subprocess.run(["gh", *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(done.stderr.strip() or f"gh {arguments[0]} failed")
    return done.stdout


def next_issue(repos: Sequence[str]) -> dict[str, Any] | None:
    """The approved issue that weighs most; the older one of equals."""
    found = []
    for repo in repos:
        fields = "number,title,body,labels,url,updatedAt"
        listed = gh("issue", "list", "--repo", repo, "--state", "open", "--label", "loop:approved", "--json", fields)
        found += [{**issue, "repo": repo} for issue in json.loads(listed)]
    if not found:
        return None
    best: dict[str, Any] = min(found, key=lambda issue: (-_weight(issue), issue["updatedAt"], issue["number"]))
    viewed = gh("issue", "view", str(best["number"]), "--repo", best["repo"], "--json", "body")
    best["body"] = json.loads(viewed)["body"]
    return best


def _weight(issue: dict[str, Any]) -> int:
    return sum(WEIGHTS.get(label["name"], 0) for label in issue["labels"])


def change_id(issue: dict[str, Any]) -> str:
    name = issue["repo"].split("/")[-1]
    return f"ISSUE_{name.upper().replace('-', '_')}_{issue['number']}"


def checkout_name(issue: dict[str, Any]) -> str:
    name: str = issue["repo"].split("/")[-1]
    return CHECKOUTS.get(name, name)


def orders(issue: dict[str, Any]) -> list[str]:
    return ORDER.findall(issue["body"])
