# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host was told to be: ``loop.json``, written by the role and read by everything that runs there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, get_origin, get_type_hints

from ..base.errors import APPLY, LoopError, playbook
from ..base.files import read_bytes

DEFAULT_PATH = "/etc/engineering-loop/loop.json"

WRITE_AGAIN = f"{playbook('apply')} writes it again"


class Settings(Mapping[str, Any]):
    """What the role renders, by attribute; all that stands in the file, a proof's affair too, as a mapping."""

    user: str
    group: str
    install_dir: str
    config_dir: str
    policy_file: str
    policy_sha256: str
    env_file: str
    forbidden_environment: list[Any]
    github_app: dict[str, Any]
    lib_dir: str
    state_dir: str
    gate_user: str
    gate_dir: str
    pristine_dir: str
    runs_dir: str
    memory_dir: str
    cycles_dir: str
    receipts_dir: str
    unit: str
    program: str
    label: str
    repos: list[Any]
    workspace_repositories: list[Any]
    checkout_names: dict[str, Any]
    branch_prefixes: list[Any]
    allowed_paths: dict[str, Any]
    daemon_args: list[Any]
    engine_options: list[Any]
    engine_environment: dict[str, Any]
    agent_environment: dict[str, Any]
    learning_dir: str
    trace_file: str
    max_runs_per_day: int
    max_attempts_per_issue: int
    canary_required: bool
    agent_programs: list[Any]
    agent: dict[str, Any]
    agent_probe: bool
    home_files: list[Any]
    caches: list[Any]
    egress: list[Any]
    egress_local: list[Any]
    cell_max_size: str
    cell_max_files: int
    quarantine_keep: dict[str, Any]
    cycles_keep: dict[str, Any]
    min_free: str
    git_url: str
    api_url: str
    git_user_name: str
    git_user_email: str
    # Of a cycle that runs in its cell alone.
    cell: str
    workspace_dir: str
    daemon_state_dir: str

    def __init__(self, document: Mapping[str, Any], **other: Any) -> None:
        self.__dict__.update(document, **other)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"settings are read, not written: {name}")

    if not TYPE_CHECKING:  # else every name would be one of ours

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(name)
            raise LoopError(f"the settings do not say {name}; {WRITE_AGAIN}")

    def __getitem__(self, key: str) -> Any:
        return self.__dict__[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)

    def __len__(self) -> int:
        return len(self.__dict__)


CELL_ONLY = ("cell", "workspace_dir", "daemon_state_dir")
# Key -> type. The role renders every one of them.
KEYS: dict[str, type] = {
    key: get_origin(kind) or kind for key, kind in get_type_hints(Settings).items() if key not in CELL_ONLY
}


# What it takes to know, and to bring back, what an earlier version of the collection deployed.
LASTING = ("user", "install_dir", "policy_file", "lib_dir", "receipts_dir", "unit")


def load(path: str = DEFAULT_PATH, *, keys: Iterable[str] = tuple(KEYS)) -> Settings:
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
    return Settings(settings)


def celled(settings: Mapping[str, Any]) -> bool:
    """Whether these are the settings of a host where each cycle has a cell of its own."""
    return bool(settings.get("gate_user"))


def change_id(repo: str, number: int) -> str:
    """The engine's name for the work on one issue, e.g. ``ISSUE_NETWORK_OPERATIONS_235``."""
    return f"ISSUE_{repo.rsplit('/', 1)[-1].upper().replace('-', '_')}_{number}"
