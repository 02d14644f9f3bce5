# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host was told to be: ``loop.json``, written by the role and read by everything that runs there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ..base.errors import APPLY, LoopError, playbook
from ..base.files import read_bytes

DEFAULT_PATH = "/etc/engineering-loop/loop.json"

WRITE_AGAIN = f"{playbook('apply')} writes it again"

# Key -> type. The role renders every one of them.
KEYS: dict[str, type] = {
    "user": str,
    "group": str,
    "install_dir": str,
    "config_dir": str,
    "policy_file": str,
    "policy_sha256": str,
    "env_file": str,
    "forbidden_environment": list,
    "github_app": dict,
    "lib_dir": str,
    "state_dir": str,
    "gate_user": str,
    "gate_dir": str,
    "pristine_dir": str,
    "runs_dir": str,
    "memory_dir": str,
    "cycles_dir": str,
    "receipts_dir": str,
    "unit": str,
    "repos": list,
    "workspace_repositories": list,
    "branch_prefixes": list,
    "allowed_paths": dict,
    "daemon_args": list,
    "max_runs_per_day": int,
    "canary_required": bool,
    "agent_programs": list,
    "agent": dict,
    "agent_probe": bool,
    "home_files": list,
    "caches": list,
    "egress": list,
    "egress_local": list,
    "cell_max_size": str,
    "cell_max_files": int,
    "quarantine_keep": dict,
    "min_free": str,
    "git_url": str,
    "api_url": str,
    "git_user_name": str,
    "git_user_email": str,
}


# What it takes to know, and to bring back, what an earlier version of the collection deployed.
LASTING = ("user", "install_dir", "policy_file", "lib_dir", "receipts_dir", "unit")


def load(path: str = DEFAULT_PATH, *, keys: Iterable[str] = tuple(KEYS)) -> dict[str, Any]:
    """The host's settings; LoopError where the file is missing, is no JSON object or lacks one of ``keys``."""
    content = read_bytes(path)
    if content is None:
        raise LoopError(f"{path} is missing: this host was not deployed yet; {APPLY}")
    try:
        settings = json.loads(content)
    except ValueError as error:
        raise LoopError(f"{path} is not JSON ({error}); {WRITE_AGAIN}") from error
    if not isinstance(settings, dict):
        raise LoopError(f"{path} must hold one JSON object; {WRITE_AGAIN}")
    for key in keys:
        kind = KEYS[key]
        if not isinstance(settings.get(key), kind):
            raise LoopError(f"{path}: {key} is missing or not a {kind.__name__}; {WRITE_AGAIN}")
    return settings


def celled(settings: Mapping[str, Any]) -> bool:
    """Whether these are the settings of a host where each cycle has a cell of its own."""
    return bool(settings.get("gate_user"))


def change_id(repo: str, number: int) -> str:
    """The engine's name for the work on one issue, e.g. ``ISSUE_NETWORK_OPERATIONS_235``."""
    return f"ISSUE_{repo.rsplit('/', 1)[-1].upper().replace('-', '_')}_{number}"
