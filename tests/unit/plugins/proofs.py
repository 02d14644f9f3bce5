# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking for a canary, for the tests of proofs."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.forge.client import Forge
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import (
    canary,
    installed,
    receipts,
    timer_hold,
)
from deployed import ISSUE, REPO, Host

HOSTILE = "x\x1b[2J\x1b]0;owned\x07\x9b31m\u202egnp\u2066" + "\x1b" * 65536


def docs(host: Host, say: Callable[[str], object] = str, **options: Any) -> dict[str, Any]:
    asked = canary.Request(**{"mode": "docs", "repo": REPO, "issue": ISSUE, **options})
    return canary.run(host.config, asked, host.forge.token, say)


def empty(host: Host) -> dict[str, Any]:
    return canary.run(host.config, canary.Request("empty"), host.forge.token)


def failed(result: dict[str, Any]) -> list[str]:
    assert not result["passed"] and result["receipt"] is None
    return [item["name"] for item in result["expectations"] if not item["passed"]]


def ready(host: Host) -> dict[str, Any]:
    host.push({"docs/canary.md": "# Canary\n"})
    host.handoff()
    return host.report(host.pull(draft=False))


def unlabelled(host: Host) -> None:
    Forge(host.config["api_url"], host.forge.token).remove_label(REPO, ISSUE, "loop:approved")


def prove(host: Host, mode: str = "docs") -> Path:
    how = {"cycle": "20260101T000000Z-00000000"}
    return Path(receipts.write(host.config, mode, installed.now(host.config), how, applied_by="ops", overrides=[]))


def reason(host: Host, **options: Any) -> str:
    receipt, why = timer_hold.matching(host.config, **options)
    assert receipt is None
    assert (
        "prove it with: ansible-playbook -i INVENTORY as215932.engineering_loop.canary -l H" in why and "\n" not in why
    )
    return why


def age(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
    monkeypatch.setattr(receipts, "utc_now", lambda: now)
