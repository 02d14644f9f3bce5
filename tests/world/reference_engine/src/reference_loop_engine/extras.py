# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a later version brings beside its cycle: a knowledge server to ask, a trace, what it learned, whom it tells."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

TRACE = "HYRULE_ENGINEERING_AGENT_CORE_TRACE"
TOLD_BY_ENVIRONMENT = (
    TRACE, f"{TRACE}_PATH", f"{TRACE}_COLLECTOR_URL", "HYRULE_ENGINEERING_INSIGHT_RECORDS",
    "ENGINEERING_LOOP_NOC_LHP_BASE_URL", "ENGINEERING_LOOP_LHP_CALLBACK_ENABLED", "SSL_CERT_FILE",
)  # fmt: skip
SECRET = "ENGINEERING_LOOP_NOC_LHP_SECRET"


def knowledge(command: argparse.ArgumentParser) -> None:
    command.add_argument("--knowledge-context", action="store_true")
    command.add_argument("--knowledge-mcp-url", metavar="URL")
    command.add_argument("--knowledge-mcp-transport", metavar="NAME")
    command.add_argument("--knowledge-context-budget", type=int)
    command.add_argument("--knowledge-context-timeout", type=float)


def limits(command: argparse.ArgumentParser) -> None:
    command.add_argument("--knowledge-learning-dir", type=Path)
    command.add_argument("--max-iterations-per-run", type=int)
    command.add_argument("--max-wall-clock-minutes-per-run", type=int)
    command.add_argument("--require-reliability-decision", action="store_true")
    command.add_argument("--dry-run", action="store_true")


def note(asked: argparse.Namespace) -> None:
    """Say what it was told, and leave a trace and a lesson where it was told to."""
    names = [
        name for name in vars(asked) if name.startswith(("knowledge_", "max_iter", "max_wall", "require_", "dry_"))
    ]
    said = {name: str(getattr(asked, name)) for name in names if getattr(asked, name)}
    found = {name: os.environ[name] for name in TOLD_BY_ENVIRONMENT if name in os.environ}
    told = {"command": asked.command, "options": said, "environment": found, "secret": SECRET in os.environ}
    print(f"[told] {json.dumps(told, sort_keys=True)}", flush=True)
    if os.environ.get(TRACE) == "1":
        with Path(os.environ[f"{TRACE}_PATH"]).open("a", encoding="utf-8") as trace:
            trace.write(json.dumps({"event_type": "loop_node", "command": asked.command}) + "\n")
    learning = getattr(asked, "knowledge_learning_dir", None)
    if learning:
        learning.mkdir(parents=True, exist_ok=True)
        (learning / f"candidate-{len(list(learning.iterdir()))}.json").write_text("{}\n", encoding="utf-8")
