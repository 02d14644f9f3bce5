# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""One look at a host: what it is, what was deployed on it, and what of an apply has anything to do there."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..base.errors import LoopError
from ..base.untrusted import shown
from ..host import apply_run, owner, privileges, systemd, targets
from ..host.habits import speak_plainly
from ..host.settings import Settings
from ..lifecycle import host_facts, older_layout
from ..lifecycle.layout import layout_from
from . import settled
from .order import STAGES
from .outcome import Done, How, Json, answer, filled

PLACE = {"src": {"type": "path", "required": True}, "dest": {"type": "str", "required": True}}

OPTIONS: dict[str, Any] = {
    "config": {"type": "path", "default": "/etc/engineering-loop/loop.json"},
    "packages": {"type": "list", "elements": "str", "default": []},
    "uv": {"type": "path"},
    "user": {"type": "str"},
    "accounts": {"type": "dict", "default": {}},
    "takeover": {"type": "dict"},
    "secrets": {"type": "dict", "no_log": False},
    "environment": {"type": "dict"},
    "home_files": {"type": "list", "elements": "dict", "default": [], "options": PLACE},
    "caches": {"type": "list", "elements": "dict", "default": [], "options": PLACE},
    "units": {"type": "dict", "default": {}},
    "directories": {"type": "list", "elements": "path", "default": []},
    "agent": {"type": "dict", "default": {}},
    "agent_programs": {"type": "list", "elements": "str", "default": []},
    "agent_lockfile": {"type": "str", "default": ""},
    "notify": {"type": "list", "elements": "str", "default": [], "no_log": True},
    "notify_file": {"type": "path", "default": ""},
    "state_dir": {"type": "path", "default": ""},
    "begins": {"type": "dict", "options": apply_run.OPTIONS},
    "stages": {"type": "dict", "default": {}},
    "secret_files": {"type": "dict", "default": {}, "no_log": True},
    "uv_wanted": {"type": "str"},
    "details": {"type": "bool", "default": True},
    "cycles": {"type": "int", "default": 5},
}


def bring(wanted: Json, _how: How) -> Done:
    """What there is to be seen; as the module ``loop_info`` has its options."""
    with apply_run.beginning(wanted["begins"]) as begin:
        done = _seen(wanted)
        if done.result.get("todo") and not _refused(done.result):
            begin()
    return done


def _seen(wanted: Json) -> Done:
    found = _facts(wanted)
    asked = _asked(wanted, found["job_units"])
    if not asked:
        return Done({"changed": False, **found})
    known = settled.busy(found, wanted["uv_wanted"] or "")
    done = settled.look(asked, wanted["config"], known)
    found["todo"] = [*known, *(name for name in asked if name not in done and name not in known)]
    found["settled"] = {name: one.result for name, one in done.items()}
    return Done({"changed": False, **found}, [line for one in done.values() for line in one.warnings])


def _refused(found: Json) -> bool:
    """Whether an apply ends here, by what was seen: then it ends no other one."""
    problems = [found[name] for name in ("full", "units_refused", "agent_problem", "notify_problem", "state_problem")]
    problems += [found["accounts"]["refused"], found["secrets"]["problem"]]
    return any(problems) or any(found["system"].get(name) for name in ("problem", "namespaces_problem"))


def on_host(given: Json) -> str:
    """The same for whoever asks the code that is installed here: JSON with ``result`` and ``warnings``.

    ``given`` is a task's, as it stands there. Values that no log may have are in no text of the answer.
    """
    speak_plainly()
    wanted = filled(OPTIONS, given)
    done = bring(wanted, How())
    return answer(done.result, done.warnings, OPTIONS, wanted)


def _facts(wanted: Json) -> Json:
    """What the host is, and what was deployed on it."""
    layout = layout_from(wanted["takeover"]) if wanted["takeover"] else None
    return {
        "system": host_facts.system(),
        "full": host_facts.full(wanted["directories"]),
        "packages_missing": host_facts.missing_packages(wanted["packages"]),
        "packages_interrupted": host_facts.packages_interrupted(),
        "python_apt_half": host_facts.python_apt_half(),
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
        "state_problem": owner.problem(wanted["state_dir"]) if wanted["state_dir"] else "",
        "loop": host_facts.loop(wanted["config"], wanted["cycles"]) if wanted["details"] else None,
    }


def _asked(wanted: Json, job_units: list[str]) -> dict[str, Json]:
    """The options of each stage that is asked for, with what the look has options of its own for."""
    given = {**wanted["stages"]}
    if "identity" in given:
        given["identity"] = {**given["identity"], "secrets": wanted["secret_files"]}
    if "service" in given:
        given["service"] = {**given["service"], "units": {**dict.fromkeys(job_units, ""), **wanted["units"]}}
    unknown = [name for name in given if name not in STAGES]
    if unknown:
        raise LoopError(f"stages: found {unknown[0]!r}, allowed: {', '.join(STAGES)}")
    return given
