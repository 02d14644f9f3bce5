# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's status as metrics of Prometheus, in a file that node_exporter reads (its textfile collector).

Every label has few values that are known here, or is the collection's own: what the loop's user or somebody on the
forge writes becomes no label.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ..base.clock import moment_of
from ..base.errors import MissingLibrary
from ..base.files import write_atomic
from ..cell import records
from ..host import telling
from . import needs

Json: TypeAlias = Mapping[str, Any]

PREFIX = "engineering_loop_"
OUTCOMES = (*records.EXIT_STATUS, "running", "other")
STATES = ("deployed", "absent", "broken")
CODES = (*needs.ORDER, "other")

# Name (without the prefix) -> what it is. Base units: seconds, bytes, ratios; money is in US dollars.
HELP = {
    "info": "Always 1; the labels name the collection's version and the engine's commits.",
    "state": "1 for the state that the host is in.",
    "well": "1 while nothing on the host needs a person.",
    "need": "1 for each kind of thing that needs a person now.",
    "look_timestamp_seconds": "When the host was looked at for these figures.",
    "proof_valid": "1 while a receipt covers what is installed.",
    "proof_timestamp_seconds": "When what is installed was proven.",
    "proof_expiry_timestamp_seconds": "When the proof ends to count; absent where it does not end.",
    "policy_valid": "1 while the gate policy is the one that was deployed.",
    "timer_active": "1 while the timer starts cycles.",
    "timer_next_timestamp_seconds": "When the timer starts the next cycle.",
    "paused": "1 while an operator has paused the loop.",
    "paused_timestamp_seconds": "Since when it is paused.",
    "running": "1 while a cycle runs.",
    "running_start_timestamp_seconds": "When the running cycle began.",
    "last_cycle_outcome": "1 for the outcome of the last cycle.",
    "last_cycle_start_timestamp_seconds": "When the last cycle began.",
    "last_cycle_duration_seconds": "How long the last cycle took.",
    "last_cycle_cost_usd": "What the last cycle cost, as the engine reports it.",
    "last_published_timestamp_seconds": "When the last cycle began that opened a pull request.",
    "failed_cycles_in_a_row": "How many of the latest cycles did not end well.",
    "recorded_cycles": "Cycles among the records that are kept, by outcome.",
    "today_runs": "Cycles of this UTC day in which an agent was started.",
    "today_runs_limit": "How many such cycles a day may have.",
    "today_cost_usd": "What the cycles of this UTC day cost.",
    "today_cost_usd_limit": "What the cycles of a day may cost.",
    "held_issues": "Issues that are not offered any more after too many attempts.",
    "held_attempts": "Attempts that were made at the held issues.",
    "held_cost_usd": "What these attempts cost.",
    "waiting_issues": "Approved issues that are not offered for another reason.",
    "leftovers": "Worktrees and the like that stand outside of cells.",
    "quarantine_items": "Kept cells and pushes.",
    "quarantine_bytes": "Size of what is kept.",
    "disk_free_bytes": "Free space where cells are made.",
    "disk_min_free_bytes": "Free space that a cycle must find.",
    "secrets_valid": "1 while the secrets are as a cycle needs them.",
    "secrets_expiry_timestamp_seconds": "When the first of the credentials expires; absent where that is not known.",
    "notify_targets": "Notification targets.",
    "notify_targets_failing": "Those that did not take the last notice.",
    "notify_waiting": "Notices that wait to be sent.",
}
LABELS = {
    "info": ("version", "engine_pin", "engine_active"),
    "state": ("state",), "need": ("code",), "last_cycle_outcome": ("outcome",), "recorded_cycles": ("outcome",),
}  # fmt: skip

# A value, or one for each tuple of labels.
Figures: TypeAlias = dict[str, float | dict[tuple[str, ...], float]]


def write(directory: str, status: Json, notify: Json, now: float) -> None:
    """Write the textfile whole, readable by all. LoopError where it cannot be, or prometheus_client is missing."""
    write_atomic(f"{directory}/{telling.METRICS}", render(figures(status, notify, now)), mode=0o644)


def render(found: Figures) -> bytes:
    """The figures in Prometheus' text format."""
    try:
        from prometheus_client import CollectorRegistry, Gauge, generate_latest
    except ImportError as error:
        raise MissingLibrary("prometheus_client", "python3-prometheus-client") from error
    registry = CollectorRegistry()
    for name, value in found.items():
        labels = LABELS.get(name, ())
        gauge = Gauge(f"{PREFIX}{name}", HELP[name], labels, registry=registry)
        for values, each in value.items() if isinstance(value, dict) else [((), value)]:
            (gauge.labels(*values) if labels else gauge).set(each)
    return generate_latest(registry)


def figures(status: Json, notify: Json, now: float) -> Figures:
    """What the status says in numbers; what it does not know has no figure."""
    engine = _part(status, "engine")
    codes = {one.get("code") for one in _list(status, "needs") if isinstance(one, Mapping)}
    unknown = bool(codes - {*CODES})
    found: Figures = {
        "info": {(_word(status.get("version")), _word(engine.get("pin")), _word(engine.get("active"))): 1},
        "state": {(state,): float(status.get("state") == state) for state in STATES},
        "well": float(status.get("well") is True),
        "need": {(code,): float(code in codes or (code == "other" and unknown)) for code in CODES},
        "look_timestamp_seconds": float(int(now)),
        "notify_targets": _number(notify.get("targets")),
        "notify_targets_failing": float(len(_list(notify, "failing"))),
        "notify_waiting": _number(notify.get("waiting")),
    }
    if status.get("state") == "deployed":
        found |= {**_proof(status), **_cycles(status), **_budget(status), **_work(status)}
    return found


def _proof(status: Json) -> Figures:
    proof, timer, pause, running = (_part(status, name) for name in ("proof", "timer", "pause", "running"))
    found: Figures = {
        "proof_valid": float(proof.get("matches") is True),
        "policy_valid": float(_part(status, "policy").get("matches") is True),
        "timer_active": float(timer.get("active") is True),
        "paused": float(bool(pause)),
        "running": float(bool(running)),
        "secrets_valid": float(not _part(status, "secrets").get("problem")),
    }
    times = {
        "proof_timestamp_seconds": proof.get("proved_at"),
        "proof_expiry_timestamp_seconds": proof.get("expires_at"),
        "timer_next_timestamp_seconds": timer.get("next"),
        "paused_timestamp_seconds": pause.get("since"),
        "running_start_timestamp_seconds": running.get("started"),
        "secrets_expiry_timestamp_seconds": _part(status, "secrets").get("expires_at"),
    }
    return found | _times(times)


def _cycles(status: Json) -> Figures:
    last = _part(status, "last_cycle")
    history = [one for one in _list(status, "history") if isinstance(one, Mapping)]
    outcomes = [_outcome(one) for one in history]
    found: Figures = {
        "recorded_cycles": {(name,): float(outcomes.count(name)) for name in OUTCOMES},
        "failed_cycles_in_a_row": float(_failed(outcomes)),
    }
    published = [one.get("started") for one in history if one.get("outcome") == "published"]
    if last:
        found["last_cycle_outcome"] = {(name,): float(_outcome(last) == name) for name in OUTCOMES}
        found["last_cycle_duration_seconds"] = _number(last.get("seconds"))
        same = [one for one in history if one.get("cycle") == last.get("cycle")]
        found["last_cycle_cost_usd"] = _number((same[-1] if same else last).get("cost_usd"))
    return found | _times(
        {
            "last_cycle_start_timestamp_seconds": last.get("started"),
            "last_published_timestamp_seconds": published[-1] if published else "",
        }
    )


def _outcome(cycle: Json) -> str:
    outcome = cycle.get("outcome")
    return outcome if isinstance(outcome, str) and outcome in OUTCOMES else "other"


def _failed(outcomes: Sequence[str]) -> int:
    """How many of the latest failed; those with nothing to do, or running, do not count."""
    count = 0
    for outcome in reversed(outcomes):
        if outcome == "published":
            break
        count += outcome in ("needs_triage", "error", "refused", "refused_ci", "interrupted", "other")
    return count


def _budget(status: Json) -> Figures:
    today = _part(status, "today")
    names = {
        "today_runs": "runs", "today_runs_limit": "max_runs", "today_cost_usd": "cost_usd",
        "today_cost_usd_limit": "max_cost_usd",
    }  # fmt: skip
    return {name: _number(today.get(key)) for name, key in names.items()}


def _work(status: Json) -> Figures:
    held = [one for one in _list(status, "held") if isinstance(one, Mapping)]
    quarantine, disk = _part(status, "quarantine"), _part(status, "disk")
    return {
        "held_issues": float(len(held)),
        "held_attempts": sum(_number(one.get("attempts")) for one in held),
        "held_cost_usd": sum(_number(one.get("cost_usd")) for one in held),
        "waiting_issues": float(len(_list(status, "waiting"))),
        "leftovers": _number(status.get("leftovers")),
        "quarantine_items": _number(quarantine.get("count")),
        "quarantine_bytes": _number(quarantine.get("bytes")),
        "disk_free_bytes": _number(disk.get("free_bytes")),
        "disk_min_free_bytes": _number(disk.get("min_free_bytes")),
    }


def _part(status: Json, name: str) -> Json:
    value = status.get(name)
    return value if isinstance(value, Mapping) else {}


def _list(status: Json, name: str) -> list[Any]:
    value = status.get(name)
    return value if isinstance(value, list) else []


def _word(value: object) -> str:
    """A version or a commit as a label; nothing else is one."""
    return str(value) if re.fullmatch(r"[\w.+-]{1,64}", str(value or ""), re.ASCII) else ""


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) and value >= 0 else 0.0


def _times(texts: Mapping[str, object]) -> Figures:
    """Moments in seconds since 1970; those that are none are left out."""
    found: Figures = {}
    for name, text in texts.items():
        try:
            found[name] = moment_of(str(text or "")).timestamp()
        except ValueError:
            continue
    return found
