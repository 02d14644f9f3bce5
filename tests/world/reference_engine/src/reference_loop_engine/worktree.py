# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The run's worktree. It heals nothing: what an earlier run left there is the deployment's affair."""

from __future__ import annotations

import subprocess
from pathlib import Path

from reference_loop_engine.failures import NeedsTriage, RunError


def git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(done.stderr.strip() or f"git {arguments[0]} failed")
    return done.stdout


def add(checkout: Path, path: Path, branch: str) -> None:
    if not (checkout / ".git").exists():
        raise NeedsTriage(f"no checkout at {checkout}")
    try:
        git(checkout, "worktree", "add", "--quiet", "-b", branch, str(path), "HEAD")
    except RunError as error:
        raise NeedsTriage(f"worktree: {error}") from None


def changes(path: Path) -> dict[str, str]:
    """What is not committed: path to added lines."""
    git(path, "add", "--intent-to-add", "--all", "--", ".")
    names = git(path, "diff", "--name-only", "-z", "--", ".").split("\0")[:-1]
    return {name: _added(git(path, "diff", "--", name)) for name in names}


def _added(diff: str) -> str:
    lines = (line[1:] for line in diff.splitlines() if line.startswith("+") and not line.startswith("+++"))
    return "\n".join(lines)
