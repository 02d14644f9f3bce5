# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""One look at a host: what it is, what was deployed on it, and what of an apply has anything to do there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ..base.errors import LoopError
from ..base.untrusted import shown
from ..host import privileges, systemd, targets
from ..host.settings import Settings
from ..lifecycle import host_facts, older_layout
from ..lifecycle.layout import layout_from
from . import settled
from .outcome import Json


def look(wanted: Json, judged: Callable[[Mapping[str, Any], Any], Json]) -> tuple[Json, list[str]]:
    """What the module ``loop_info`` returns, and its warnings. ``judged`` takes the options of a stage by its spec."""
    found = _facts(wanted)
    asked = _asked(wanted, found["job_units"], judged)
    if not asked:
        return found, []
    known = settled.busy(found, wanted["uv_wanted"] or "")
    done = settled.look(asked, wanted["config"], known)
    found["todo"] = [*known, *(name for name in asked if name not in done and name not in known)]
    found["settled"] = {name: one.result for name, one in done.items()}
    return found, [line for one in done.values() for line in one.warnings]


def _facts(wanted: Json) -> Json:
    """What the host is, and what was deployed on it."""
    layout = layout_from(wanted["takeover"]) if wanted["takeover"] else None
    return {
        "system": host_facts.system(),
        "full": host_facts.full(wanted["directories"]),
        "packages_missing": host_facts.missing_packages(wanted["packages"]),
        "packages_interrupted": host_facts.packages_interrupted(),
        "uv_version": host_facts.uv_version(wanted["uv"]) if wanted["uv"] else "",
        "user_exists": host_facts.user_exists(wanted["user"]) if wanted["user"] else False,
        "accounts": dataclasses.asdict(privileges.look(wanted["accounts"])),
        "takeover": shown([item.path for item in older_layout.plan(layout)]) if layout else [],
        "rollout": host_facts.rollouts(wanted["config"]),
        "paused": host_facts.paused(wanted["config"]),
        "units_refused": systemd.refused(wanted["units"]),
        "job_units": systemd.job_units(layout.unit) if layout else [],
        "deployed": any(systemd.ours(f"{systemd.UNIT_DIR}/{name}") for name in wanted["units"]),
        "secrets": shown(
            host_facts.secrets(
                Settings(wanted["secrets"]) if wanted["secrets"] else None, wanted["environment"], layout
            )
        ),
        "cell_problem": host_facts.cell_problem(wanted["home_files"], wanted["caches"]),
        "agent_problem": host_facts.agent_problem(wanted, wanted["agent_lockfile"], layout),
        "notify_problem": targets.problem(wanted["notify"], wanted["notify_file"]),
        "loop": host_facts.loop(wanted["config"], wanted["cycles"]) if wanted["details"] else None,
    }


def _asked(wanted: Json, job_units: list[str], judged: Callable[[Mapping[str, Any], Any], Json]) -> dict[str, Json]:
    """The options of each stage that is asked for, whole."""
    given = {**wanted["stages"]}
    if "identity" in given:
        given["identity"] = {**given["identity"], "secrets": wanted["secret_files"]}
    if "service" in given:
        given["service"] = {**given["service"], "units": {**dict.fromkeys(job_units, ""), **wanted["units"]}}
    found = {}
    for name in given:
        if name not in settled.STAGES:
            raise LoopError(f"stages: found {name!r}, allowed: {', '.join(settled.STAGES)}")
        try:
            found[name] = judged(settled.STAGES[name].options, given[name])
        except LoopError as error:
            raise LoopError(f"stages: {name}: {error}") from error
    return found
