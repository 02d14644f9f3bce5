# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where things are on a host, in the role's words: of an older layout of the loop, and of ours."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ..base.errors import LoopError
from ..host import systemd


@dataclass(frozen=True)
class Layout:
    """Where things are on this host, in the role's words."""

    install_dir: str
    config_dir: str
    lib_dir: str
    memory_dir: str
    env_file: str
    unit: str
    user: str
    group: str
    run_lock: str = ""
    state_dir: str = ""  # with the next four: where its work is; without them it is left alone
    workspace_dir: str = ""
    runs_dir: str = ""
    daemon_state_dir: str = ""
    cycles_dir: str = ""
    key_file: str = ""
    legacy_memory_dir: str = ""
    wrappers: Sequence[str] = ()
    daemon_args: Sequence[str] = ()  # what ours gives the engine
    author: str = ""  # NAME <EMAIL> of ours
    homed: Sequence[str] = ()  # what cycles find in their homes, by its path there
    job_states: Mapping[str, str] = field(default_factory=dict)  # where jobs have their state, by unit
    stays: Sequence[str] = ()  # what of the state directory is no part of a home: it is used as it is
    env_rendered: bool = False  # the role writes the secrets itself
    forbidden_environment: Sequence[str] = ()  # what must not stand in them, as shell patterns
    unit_dir: str = systemd.UNIT_DIR

    @property
    def dotenv(self) -> str:
        return f"{self.install_dir}/.env"

    @property
    def tells_of_work(self) -> bool:
        """Whether we were told where its work is."""
        return all((self.state_dir, self.workspace_dir, self.runs_dir, self.daemon_state_dir, self.cycles_dir))


def layout_from(given: Mapping[str, Any]) -> Layout:
    """A Layout from a module's option, where what is not set may be None."""
    values = {key: value for key, value in given.items() if value is not None}
    known = {one.name for one in fields(Layout)}
    missing = {"install_dir", "config_dir", "lib_dir", "memory_dir", "env_file", "unit", "user", "group"}
    if set(values) - known or missing - set(values):
        raise LoopError(f"a layout has the keys {', '.join(sorted(known))}; {', '.join(sorted(missing))} must be set")
    for key, value in values.items():
        if key.endswith(("_dir", "_file", "run_lock")) and value and os.path.normpath(value) != value:
            raise LoopError(f"engineering_loop_{key} {value!r} is not a plain path: write {os.path.normpath(value)}")
    return Layout(**values)
