# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate policy: what the run may have changed, and where it may put and send what it made."""

from __future__ import annotations

import os
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from reference_loop_engine.failures import NeedsTriage


def load(checkout: str) -> dict[str, Any]:
    """The policy's defaults under the repository's own keys; a missing file allows everything."""
    file = Path(os.environ.get("HYRULE_POLICY_FILE", "engineering-loop-policy.yml"))
    if not file.exists():
        return {}
    policy = yaml.safe_load(file.read_text(encoding="utf-8"))
    return {**policy.get("defaults", {}), **(policy.get("repos", {}).get(checkout) or {})}


def judge_changes(policy: dict[str, Any], worktree: Path, changes: dict[str, str], allowed: list[str]) -> None:
    if not changes:
        raise NeedsTriage("policy: the agent left no changes")
    if len(changes) > policy.get("max_changed_files", len(changes)):
        raise NeedsTriage(f"policy: {len(changes)} files changed")
    for path, added in changes.items():
        if not any(path == prefix or path.startswith(prefix.rstrip("/") + "/") for prefix in allowed):
            raise NeedsTriage(f"policy: {path} is outside the allowed paths")
        _judge_file(policy, worktree / path, path, added)


def _judge_file(policy: dict[str, Any], file: Path, path: str, added: str) -> None:
    for glob in policy.get("denied_path_globs", []):
        if fnmatch(path, glob):
            raise NeedsTriage(f"policy: {path} matches {glob}")
    for pattern in policy.get("denied_content_patterns", []):
        if re.search(pattern, added):
            raise NeedsTriage(f"policy: {path} has denied content")
    if file.is_file() and file.stat().st_size > policy.get("max_file_bytes", file.stat().st_size):
        raise NeedsTriage(f"policy: {path} is too big")


def judge_gate(policy: dict[str, Any], command: list[str]) -> None:
    if command[0] not in policy.get("allowed_gate_commands", [command[0]]):
        raise NeedsTriage(f"policy: {command[0]} is not an allowed gate command")


def judge_handoff(policy: dict[str, Any], directory: Path) -> None:
    places = policy.get("allowed_handoff_dirs")
    if places is not None and not any(directory.is_relative_to(Path(place).resolve()) for place in places):
        raise NeedsTriage(f"policy: handoff directory {directory} is not allowed")


def judge_publication(policy: dict[str, Any], remote: str, branch: str) -> None:
    if remote not in policy.get("allowed_pr_remotes", [remote]):
        raise NeedsTriage(f"policy: {remote} is not an allowed remote")
    if branch.split("/", 1)[0] in policy.get("protected_branch_prefixes", []):
        raise NeedsTriage(f"policy: {branch} is a protected branch")
