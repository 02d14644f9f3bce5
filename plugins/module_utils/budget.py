# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many runs a day: every one that was started counts, also one that ended in an error or was killed.

The engine's own ledger misses those, and the loop user, so the agent, could delete it. This count is
root's, beside the releases: root writes it before the cycle and after it. A cycle that found nothing
to do is given back, else an hourly timer would use the day up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

from .errors import LoopError
from .files import flocked, read_bytes, write_atomic

Config: TypeAlias = Mapping[str, Any]
Day: TypeAlias = dict[str, Any]

KEEP_DAYS = 31
REMEDY = "the next may start after midnight UTC, or raise engineering_loop_max_runs_per_day"


def path_of(config: Config) -> str:
    """Where the count lives: root's, and not below what the loop user owns."""
    return f"{config['install_dir']}/budget.json"


def today(config: Config) -> Day:
    """``{"day", "started", "runs", "max"}`` of this UTC day; ``started`` counts the idle cycles as well."""
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    return {"day": day, **_read(config).get(day, _new()), "max": int(config["max_runs_per_day"])}


def exhausted(config: Config) -> str:
    """Why no run may start today, in one line; empty where one may."""
    now = today(config)
    if len(now["runs"]) < now["max"]:
        return ""
    told = ", ".join(f"{run['at'][11:16]} {run['trigger']}" for run in now["runs"][-10:])
    return f"{len(now['runs'])} of {now['max']} runs were started today (UTC{': ' if told else ''}{told}); {REMEDY}"


def take(config: Config, invocation: str, trigger: str) -> Day:
    """Count a run that is about to start, and say how many that makes today."""
    with flocked(f"{config['install_dir']}/.budget.lock"):
        days = _read(config)
        moment = datetime.now(UTC)
        day = days.setdefault(f"{moment:%Y-%m-%d}", _new())
        day["started"] += 1
        day["runs"].append({"invocation": invocation, "trigger": trigger, "at": f"{moment:%Y-%m-%dT%H:%M:%SZ}"})
        _write(config, days)
    return today(config)


def give_back(config: Config, invocation: str) -> None:
    """A cycle that started no run does not count."""
    with flocked(f"{config['install_dir']}/.budget.lock"):
        days = _read(config)
        for day in days.values():
            day["runs"] = [run for run in day["runs"] if run["invocation"] != invocation]
        _write(config, days)


def _new() -> Day:
    return {"started": 0, "runs": []}


def _read(config: Config) -> dict[str, Day]:
    path = path_of(config)
    try:
        days = json.loads(read_bytes(path) or b"{}")
        return {
            str(name): {
                "started": int(day["started"]),
                "runs": [{key: str(run[key]) for key in ("invocation", "trigger", "at")} for run in day["runs"]],
            }
            for name, day in days.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LoopError(f"{path} cannot be read as the count of the day's runs: move it aside") from error


def _write(config: Config, days: dict[str, Day]) -> None:
    kept = {name: days[name] for name in sorted(days)[-KEEP_DAYS:]}
    write_atomic(path_of(config), (json.dumps(kept, indent=1) + "\n").encode(), mode=0o644)
