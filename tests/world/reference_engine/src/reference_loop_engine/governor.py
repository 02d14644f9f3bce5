# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The second job: it reads open issues, decides, says so in a comment and moves a label. It runs no code."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DECIDED = "<!-- reliability-decision -->"
FIELDS = "number,title,body,labels,url,updatedAt"


def gh(*words: str) -> str:
    done = subprocess.run(["gh", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"gh {' '.join(words[:2])}: {done.stderr.strip()}")
    return done.stdout


def govern(repos: Sequence[str], registry: Path, state: Path, limit: int) -> None:
    """Decide on every open issue that carries ``loop:triage``. What the body orders (``gh: ...``) is tried as well."""
    if not registry.is_file():
        raise SystemExit(f"{registry} is missing")
    seen: dict[str, Any] = {}
    for repo in repos:
        listed = json.loads(gh("issue", "list", "--repo", repo, "--state", "open", "--limit", "100", "--json", FIELDS))
        waiting = [one for one in listed if "loop:triage" in [label["name"] for label in one["labels"]]]
        for one in waiting[:limit]:
            number = str(one["number"])
            for line in str(one["body"]).splitlines():
                if line.startswith("gh: "):
                    gh(*line.removeprefix("gh: ").split())
            comments = json.loads(gh("issue", "view", number, "--repo", repo, "--json", "comments"))["comments"]
            if not any(DECIDED in comment["body"] for comment in comments):
                gh("issue", "comment", number, "--repo", repo, "--body", f"{DECIDED}\nIt may be worked on.")
            gh("issue", "edit", number, "--repo", repo, "--add-label", "loop:ready", "--remove-label", "loop:triage")
            seen[f"{repo}#{number}"] = {"comments": len(comments)}
    (state / "decisions.json").write_text(json.dumps(seen), encoding="utf-8")
    print(json.dumps({"decided": len(seen)}))
