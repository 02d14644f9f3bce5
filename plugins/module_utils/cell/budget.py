# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many runs a day: every cycle in which an agent was started counts, however it ended.

The count is root's, beside the releases. It is written when the watch hears that an agent starts, before the agent
does; nothing takes it back. The engine's own ledger, made anew for each cell, says the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ..base.clock import today as this_day
from ..base.clock import utc_now
from ..base.errors import LoopError
from ..base.files import flocked, read_bytes, write_atomic
from ..host.settings import Settings

Day: TypeAlias = dict[str, Any]

KEEP_DAYS = 31
REMEDY = "the next may start after midnight UTC, or raise engineering_loop_max_runs_per_day"


def path_of(config: Settings) -> str:
    """Where the count lives: root's, and not below what the loop user owns."""
    return f"{config.install_dir}/budget.json"


def today(config: Settings) -> Day:
    """``{"day", "started", "runs", "max"}`` of this UTC day; ``started`` counts the idle cycles as well."""
    return {"day": this_day(), **_read(config).get(this_day(), _new()), "max": int(config.max_runs_per_day)}


def figures(config: Settings) -> dict[str, int]:
    """The same in numbers."""
    day = today(config)
    return {"runs_today": len(day["runs"]), "started_today": day["started"], "max_runs": day["max"]}


def exhausted(config: Settings) -> str:
    """Why no run may start today, in one line; empty where one may."""
    now = today(config)
    if len(now["runs"]) < now["max"]:
        return ""
    told = ", ".join(f"{run['at'][11:16]} {run['trigger']}" for run in now["runs"][-10:])
    return f"{len(now['runs'])} of {now['max']} runs were started today (UTC{': ' if told else ''}{told}); {REMEDY}"


def start(config: Settings) -> None:
    """A cycle begins, which is no run yet."""
    with flocked(f"{config.install_dir}/.budget.lock"):
        days = _read(config)
        days.setdefault(this_day(), _new())["started"] += 1
        _write(config, days)


def take(config: Settings, invocation: str, trigger: str) -> None:
    """Count the run of this cycle, once."""
    with flocked(f"{config.install_dir}/.budget.lock"):
        days = _read(config)
        if any(run["invocation"] == invocation for day in days.values() for run in day["runs"]):
            return
        run = {"invocation": invocation, "trigger": trigger, "at": utc_now()}
        days.setdefault(this_day(), _new())["runs"].append(run)
        _write(config, days)


def ledger(config: Settings, records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The day as the engine's own ledger has it, from the count and the records."""
    ours = [record for record in records if str(record.get("started", "")).startswith(this_day())]
    return {
        "runs": len(today(config)["runs"]),
        "cost_usd": round(sum(_number(record, "cost_usd") for record in ours), 6),
        "wall_clock_seconds": round(sum(_number(record, "seconds") for record in ours if record.get("agents")), 1),
    }


def _number(record: Mapping[str, Any], name: str) -> float:
    value = (record.get("numbers") or {}).get(name, 0)
    return float(value) if isinstance(value, (int, float)) and 0 <= value < 1e9 else 0.0


def _new() -> Day:
    return {"started": 0, "runs": []}


def _read(config: Settings) -> dict[str, Day]:
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
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise LoopError(f"{path} cannot be read as the count of the day's runs: move it aside") from error


def _write(config: Settings, days: dict[str, Day]) -> None:
    kept = {name: days[name] for name in sorted(days)[-KEEP_DAYS:]}
    write_atomic(path_of(config), (json.dumps(kept, indent=1) + "\n").encode(), mode=0o644)
