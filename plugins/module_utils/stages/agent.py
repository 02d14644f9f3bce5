# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent that does the work, installed where it is a package, and fit to be started."""

from __future__ import annotations

import os
from typing import Any

from ..base import progress
from ..cycle import agent_check
from ..host import bubblewrap, processes, secrets_file, users
from ..host.settings import Settings
from ..lifecycle import host_facts
from ..proof import rollback_sets
from ..release import agents
from .outcome import Done, How, Json

OPTIONS: dict[str, Any] = {
    "settings": {"type": "dict", "required": True},
    "lockfile": {"type": "str", "default": ""},
    "environment": {"type": "dict", "default": {}, "no_log": True},
    "keep": {"type": "int", "default": 3},
}


def bring(given: Json, how: How) -> Done:
    """Install it where it is not there, and see that it would work; as the module ``loop_agent`` has its options."""
    settings = Settings(given["settings"])
    agent, install_dir = settings.agent, settings.install_dir
    agents.check_named(agent)
    installing = bool(agent.get("package")) and not agents.installed(install_dir, agent)
    result: Json = {"changed": installing, "program": "", "said": "", "pruned": []}
    if installing and not how.check:
        agents.install(install_dir, agent, given["lockfile"])
        if not processes.cycle_in_progress("", settings.unit):  # it may have been started from any of them
            used = [agents.place(install_dir, agent), *rollback_sets.agents_in_use(install_dir)]
            result["pruned"] = agents.prune(install_dir, given["keep"], used)
    environment = given["environment"] or (
        secrets_file.read(settings.env_file) if os.path.exists(settings.env_file) else {}
    )
    names = agent_check.check(settings, environment, expected=installing and how.check)
    if names and not (installing and how.check):
        result["program"] = agents.program(settings, names[0])
        # One that root installed and has started once is still the same. Before a first apply nobody can start it.
        startable = os.path.exists(bubblewrap.BWRAP) and host_facts.user_exists(settings.user)
        if startable and (installing or not agent.get("package")):
            progress.step(f"starting {names[0]} once, shut in")
            result["said"] = users.as_user(settings.user, lambda: agent_check.starts(settings, names[0]))
    if how.diff:
        wanted = f"{agent['package']} {agent['version']}\n" if agent.get("package") else ""
        result["diff"] = {"before": "" if installing else wanted, "after": wanted}
    return Done(result)
