# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring the forge to where one case begins: arrange.py STAGE.json '{"orders": […], "faults": […], …}'.

What an earlier case left is tidied up as a person would: its pull requests are closed, its branches
deleted, the canary's issue is open and approved again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import requests

REPO, ISSUE, BOT = "AS215932/network-operations", 235, "hyrule-loop[bot]"
APPROVED = "loop:approved"
stage = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
case: dict[str, Any] = json.loads(sys.argv[2])
session = requests.Session()


def ask(method: str, url: str, body: Any = None) -> Any:
    answer = session.request(method, url, json=body, timeout=30)
    answer.raise_for_status()
    return answer.json() if answer.content else None


def door(path: str, body: Any) -> Any:
    return ask("POST", f"{stage['url']}/_forge/{path}", body)


ask("DELETE", f"{stage['url']}/_forge/faults")
door("tokens", {"login": BOT, "role": "write"})
session.headers["Authorization"] = f"Bearer {door('tokens', {'login': 'operator', 'role': 'admin'})['token']}"
repo = f"{stage['api_url']}/repos/{REPO}"
for branch in ask("GET", f"{repo}/branches?per_page=100"):
    if branch["name"] != "main":  # its pull request goes with it
        ask("DELETE", f"{repo}/git/refs/heads/{branch['name']}")
body = "\n".join(["Write one page.", "", *(f"<!-- {order} -->" for order in case.get("orders", []))])
ask("PATCH", f"{repo}/issues/{ISSUE}", {"state": case.get("state", "open"), "body": body})
ask("POST", f"{repo}/issues/{ISSUE}/labels", {"labels": [APPROVED]})
if not case.get("approved", True):
    ask("DELETE", f"{repo}/issues/{ISSUE}/labels/{APPROVED}")
if case.get("pull"):
    door("commits", {"repo": REPO, "branch": case["pull"], "files": {"docs/earlier.md": "An earlier proof.\n"}})
    ask("POST", f"{repo}/pulls", {"title": "An earlier proof", "head": case["pull"], "base": "main", "draft": True})
if case.get("role"):
    door("tokens", {"login": BOT, "role": case["role"]})
for fault in case.get("faults", []):
    door("faults", fault)
