# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent: a program named by the model policy, which works in the worktree and is told the issue."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from reference_loop_engine.failures import NeedsTriage

# An allowlist: whatever is not named here, the forge token above all, never reaches the agent.
PASSED_ON = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TERM", "TMPDIR", "TZ", "COLUMNS", "LINES",
    "PYTHONUNBUFFERED", "ANTHROPIC_API_KEY", "OPENAI_API_KEY", "OPENROUTER_API_KEY",
)  # fmt: skip
MINUTES = 45
PROMPT = """\
You work for the engineering loop on {change_id}.

## Request

{title}

{body}

## Boundaries

- Work in this directory only. Do not commit, push or open pull requests.
- Touch nothing outside: {allowed}
"""


def backends() -> dict[str, Any]:
    """What the model policy says of agents; nothing where none is named."""
    file = os.environ.get("HYRULE_MODEL_POLICY_FILE")
    found: dict[str, Any] = yaml.safe_load(Path(file).read_text(encoding="utf-8"))["backends"] if file else {}
    return found


def backend() -> str:
    """The name of the agent that does the work."""
    return str(backends().get("default", "mock"))


def command(prompt: str) -> list[str] | None:
    """The agent's argument list, or None where no model policy names an agent."""
    named = backends()
    if backend() == "mock":
        return None
    parts = named["definitions"][backend()]["command"]
    return [part.replace("{prompt}", prompt) for part in parts]


def work(worktree: Path, issue: dict[str, Any], change_id: str, allowed: list[str], transcript: Path) -> None:
    prompt = PROMPT.format(change_id=change_id, title=issue["title"], body=issue["body"], allowed=", ".join(allowed))
    arguments = command(prompt)
    if arguments is None:
        return
    environment = {key: os.environ[key] for key in os.environ if key in PASSED_ON or key.startswith("LC_")}
    try:
        done = subprocess.run(
            arguments,
            cwd=worktree,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=MINUTES * 60,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise NeedsTriage(f"agent: {error}") from None
    transcript.write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode:
        raise NeedsTriage(f"agent: ended with {done.returncode}")
