# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The status of a host, as plain data: how it fares, and what it needs of a person.

The one source of all that tells of it: table, page, notices, metrics. It asks nobody but the host: of forge and token
it knows what the last cycles found.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, TypeVar

from ..base.clock import age_of, moment_of, today, utc_now, written
from ..base.errors import LoopError, playbook
from ..base.files import read_bytes
from ..base.sizes import number_of
from ..base.untrusted import shown
from ..cell import attempts, budget, cells, memory, records
from ..cycle import handover
from ..forge.api_errors import CREDENTIALS, FORGE, kind_of
from ..host import jobs, settings, systemd
from ..host.habits import speak_plainly
from ..host.jobs import Job
from ..host.settings import Settings
from ..lifecycle import host_facts
from ..proof import pause, preconditions, rollout, rollout_ledger, timer_hold
from ..proof.timer_hold import Proof
from ..release import engine_options, store
from . import needs, signs
from .needs import Need
from .signs import Signs

Json: TypeAlias = dict[str, Any]
T = TypeVar("T")

AHEAD = 3600.0  # seconds
HISTORY = 200
NO_DISK = {"free_bytes": 0, "min_free_bytes": 0, "total_bytes": 0, "mount": "/"}
NO_OPTIONS: Json = {"without": [], "refused": []}
NO_DAY = {"runs": 0, "max_runs": 0, "cost_usd": 0.0, "max_cost_usd": 0.0}
# What of a cycle a person is told in the history.
LATELY = ("cycle", "started", "outcome", "seconds", "cost_usd", "pr_url", "issue")


def of_host(config_path: str = settings.DEFAULT_PATH, pin: str = "") -> Json:
    """How the host fares; ``pin`` is the engine that the inventory wants, where that is known.

    Never an exception for what is on the host: what cannot be read is said among the needs.
    """
    try:
        config = settings.load(config_path)
    except LoopError as error:
        return _nothing_to_read(config_path, str(error))
    look = _Look(config_path, config, pin)
    status = look.status()
    return finished(status, needs.of(status, look.signs(status)))


def on_host(given: Mapping[str, str]) -> str:
    """The same for whoever asks the code that is installed here: JSON with ``result`` and ``warnings``."""
    speak_plainly()
    status = of_host(given["config"], given.get("pin", ""))
    return json.dumps({"result": {"status": status}, "warnings": []})


class _Look:
    """A host of these settings, looked at once."""

    def __init__(self, config_path: str, config: Settings, pin: str) -> None:
        self.config, self.pin = config, pin
        self.problems: list[str] = []  # what of it cannot be read
        none: list[Json] = []
        self.history = self.part(lambda: _in_order(records.read(config.cycles_dir, HISTORY)), none)
        self.ledger = self.part(lambda: rollout_ledger.read(config.install_dir), rollout_ledger.Ledger())
        no_units: dict[str, signs.Unit] = {}
        self.units = self.part(lambda: signs.units(config), no_units)
        self.timer = self.part(lambda: systemd.timer_of(config.unit), systemd.Timer())
        self.proof = self.part(lambda: timer_hold.by_settings(config), Proof(None, "it cannot be read"))
        self.policy = signs.policy(config)
        self.strays = self.part(lambda: _strays(config), [""])
        self.drift = [""]
        if not self.proof.receipt or not self.policy["matches"]:
            self.drift = self.part(lambda: signs.edited(config_path, config, self.ledger), [""])
        self.drift += [
            f"{unit.name} on disk is not the one that systemd has read" for unit in self.units.values() if unit.reload
        ]
        self.drift = [line for line in self.drift if line]

    def part(self, read: Callable[[], T], otherwise: T) -> T:
        """What ``read`` finds; where that fails, ``otherwise``, and why is a problem of the host."""
        try:
            return read()
        except (LoopError, OSError) as error:
            self.problems.append(str(error))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a host, the rest of it is told
            self.problems.append(f"{type(error).__name__}: {error}")
        return otherwise

    def status(self) -> Json:
        """All that is told but for what is needed."""
        config, part, nothing = self.config, self.part, dict[str, Any]()
        engine = part(lambda: _engine(config, self.pin), {"pin": self.pin, "active": ""})
        held = part(lambda: _held(config), list[Json]())
        disk = dict(NO_DISK)
        return {
            "state": "deployed", "problem": "", "version": str(config.get("collection_version", "")),
            "looked_at": utc_now(), "unit": config.unit,
            "engine": {
                **engine, "drift": self.drift, "back": part(lambda: rollout.back(config), None),
                "options": part(lambda: engine_options.look(config, ask=False), NO_OPTIONS),
            },
            "policy": {key: self.policy[key] for key in ("sha256", "matches")},
            "proof": part(lambda: _proof(config, self.proof), nothing) or _no_proof(self.proof.reason),
            "timer": {"active": self.timer.active, "next": self.timer.next, "reason": ""},
            "pause": part(lambda: _pause(config), None),
            "running": _running(self.history, self.units),
            "last_cycle": _last(self.history),
            "today": part(lambda: _today(config, self.history), nothing) or dict(NO_DAY),
            "held": held,
            "jobs": part(lambda: [_job(config, job) for job in jobs.of(config)], list[Json]()),
            "waiting": _waiting(self.history, held),
            "leftovers": len(self.strays),
            "quarantine": part(lambda: _quarantine(config), nothing) or {"count": 0, "bytes": 0, "items": []},
            "history": [_lately(record) for record in self.history if record.get("outcome") != records.RUNNING],
            "disk": part(lambda: _disk(config), disk),
            "secrets": part(lambda: _secrets(config, self.history), nothing)
            or {"problem": "", "notes": [], "expires_at": ""},
        }  # fmt: skip

    def signs(self, status: Json) -> Signs:
        """What else the needs are told by."""
        config, begun = self.config, self.ledger.under_way
        record = _ended(self.history) or {}
        return Signs(
            units=self.units,
            locks=self.part(lambda: signs.locks(config), list[signs.Lock]()),
            strays=self.strays,
            damaged=signs.damaged(config, str(status["engine"]["active"])),
            policy_problem=str(self.policy["problem"]),
            no_room=self.part(lambda: signs.no_room(config), ""),
            under_way=begun.began if begun and not self.proof.receipt else "",
            timer_enabled=self.timer.enabled,
            timer_wanted=bool(config.get("timer_enabled", False)),
            published_today=_published_today(self.history),
            forge_words=_forge_words(record),
            ended_for=_ended_for(record),
            not_learned=_not_learned(config, self.history),
            env_by_role=signs.env_by_role(config),
            inventory_pins=bool(self.pin),
            gone_back=self.part(lambda: rollout_ledger.rejected(config.install_dir).get(self.pin, ""), ""),
            config=config,
            problems=self.problems,
        )


def finished(status: Json, found: list[Need]) -> Json:
    """The status with what it needs, and the timer's reason: all of it can be printed."""
    told = [need._asdict() for need in found]
    first = next((need.what for need in found if need.code in ("paused", "unproven", "under_way", "timer_off")), "")
    status["timer"]["reason"] = "" if status["timer"]["active"] else first or "engineering_loop_timer_enabled is false"
    result: Json = shown({**status, "well": not told, "needs": told})
    return result


# --- where nothing can be read


def _nothing_to_read(config_path: str, problem: str) -> Json:
    """The status where the settings are missing, or are none that this version knows."""
    absent = not os.path.lexists(config_path) and not _remains()
    if absent:
        need = Need("absent", "Nothing is deployed here.", playbook("apply"))
        problem = need.what
    else:
        need = Need("broken", f"What is deployed here is not whole: {problem.partition('; ')[0]}.", playbook("apply"))
    return _without("absent" if absent else "broken", problem, [need], _version(config_path))


def unreachable(why: str) -> Json:
    """The status of a host that the controller does not reach."""
    what = f"It cannot be reached: {why}."
    return _without("unreachable", what, [Need("unreachable", what, "see that it is up, and that ssh lets you in")])


def silent(why: str) -> Json:
    """The status of a host that cannot say how it fares."""
    what = f"It cannot say how it fares: {why}."
    return _without("failed", what, [Need("failed", what, "mend what it says: it needs Python 3 and root")])


def _without(state: str, problem: str, found: list[Need], version: str = "") -> Json:
    """A status of which nothing else is known."""
    return finished(
        {
            "state": state, "problem": problem, "version": version, "looked_at": utc_now(), "unit": "",
            "engine": {"pin": "", "active": "", "drift": [], "back": None, "options": NO_OPTIONS},
            "policy": {"sha256": "", "matches": False}, "proof": _no_proof(""),
            "timer": {"active": False, "next": "", "reason": ""}, "pause": None, "running": None, "last_cycle": None,
            "today": dict(NO_DAY), "held": [], "jobs": [], "waiting": [],
            "leftovers": 0, "quarantine": {"count": 0, "bytes": 0, "items": []}, "history": [],
            "disk": dict(NO_DISK),
            "secrets": {"problem": "", "notes": [], "expires_at": ""},
        },
        found,
    )  # fmt: skip


def _remains() -> bool:
    """Whether units of ours are there: a deployment that was begun or that somebody took apart."""
    with contextlib.suppress(OSError):
        return any(systemd.ours(f"{systemd.UNIT_DIR}/{name}") for name in os.listdir(systemd.UNIT_DIR))
    return False


def _version(config_path: str) -> str:
    """Which version of the collection wrote settings that may lack anything else."""
    with contextlib.suppress(LoopError, ValueError, RecursionError):
        document = json.loads(read_bytes(config_path, 1 << 20) or b"{}")
        return str(document.get("collection_version", "")) if isinstance(document, dict) else ""
    return ""


# --- the parts


def _engine(config: Settings, pin: str) -> Json:
    active = store.active(config.install_dir)
    history = store.ledger(config.install_dir)["history"]
    last = next((str(one["sha"]) for one in reversed(history) if one.get("by") == "version"), "")
    return {"pin": pin or last, "active": str(active["sha"]) if active else ""}


def _proof(config: Settings, proof: Proof) -> Json:
    if proof.receipt is None:
        return _no_proof(proof.reason)
    proved = moment_of(proof.receipt.proved_at)
    most = timer_hold.max_age(str(config.get("canary_max_age") or ""))
    return {
        "matches": True, "reason": proof.reason, "proved_at": proof.receipt.proved_at,
        "age_seconds": max(0, int((datetime.now(UTC) - proved).total_seconds())),
        "expires_at": written(proved + timedelta(seconds=most)) if most is not None else "",
    }  # fmt: skip


def _no_proof(reason: str) -> Json:
    return {"matches": False, "reason": reason, "proved_at": "", "age_seconds": None, "expires_at": ""}


def _pause(config: Settings) -> Json | None:
    """Why no cycle may start, since when and by whom; None where the loop is not paused."""
    found = pause.read(config)
    return {"why": found.why, "since": found.since, "by": found.by} if found else None


def _held(config: Settings) -> list[Json]:
    """The issues that are not offered any more, since they failed too often."""
    return attempts.held(config)


def _job(config: Settings, job: Job) -> Json:
    """A job beside the cycle: how its last run ended, and when its timer fires next."""
    ended = [one for one in records.read(jobs.records_dir(config, job)) if one.get("outcome") != records.RUNNING]
    last, timer = ended[-1] if ended else {}, systemd.timer_of(job.unit)
    told = {key: str(last.get(key) or "") for key in ("started", "outcome", "detail")}
    return {"name": job.name, "unit": job.unit, "wanted": job.enabled, "next": timer.next, **told}


def _issue(record: Mapping[str, Any]) -> str:
    issue = record.get("issue")
    return f"{issue.get('repo')}#{issue.get('number')}" if isinstance(issue, dict) and issue else ""


def _number(record: Mapping[str, Any], name: str) -> float:
    numbers = record.get("numbers")
    value = numbers.get(name, 0) if isinstance(numbers, dict) else 0
    return float(value) if isinstance(value, (int, float)) and 0 <= value < 1e15 else 0.0


def _lately(record: Mapping[str, Any]) -> Json:
    """One cycle of the history."""
    url = str(record.get("pr_url") or "")
    told = {
        **{key: str(record.get(key, "")) for key in ("cycle", "started", "outcome")},
        "seconds": _number(record, "seconds"), "cost_usd": _number(record, "cost_usd"),
        "pr_url": url if url.startswith(("https://", "http://")) else "", "issue": _issue(record),
    }  # fmt: skip
    return {key: told[key] for key in LATELY}


def _running(history: list[Json], units: Mapping[str, signs.Unit]) -> Json | None:
    service = units.get(".service")
    if service is None or not service.at_work:
        return None
    record = next((one for one in reversed(history) if one.get("outcome") == records.RUNNING), {})
    return {"cycle": record.get("cycle", ""), "started": record.get("started", ""), "issue": _issue(record)}


def _in_order(history: list[Json]) -> list[Json]:
    """Oldest first. What a clock that ran far ahead has dated is not what happened last while that is to come."""
    return sorted(history, key=lambda record: age_of(str(record["cycle"])) >= -AHEAD)


def _ended(history: list[Json]) -> Json | None:
    return next((one for one in reversed(history) if one.get("outcome") != records.RUNNING), None)


def _last(history: list[Json]) -> Json | None:
    record = _ended(history)
    if record is None:
        return None
    return {key: value for key, value in _lately(record).items() if key != "cost_usd"} | {
        "detail": str(record.get("detail", ""))
    }


def _forge_words(record: Mapping[str, Any]) -> str:
    """What a cycle heard of a forge that did not let it in, or was not there; empty where it heard no such thing."""
    told = [str(record.get("detail", ""))]
    told += [str(one.get("why", "")) for one in record.get("refusals") or [] if isinstance(one, dict)]
    told += [str(one.get("detail", "")) for one in record.get("clones") or [] if isinstance(one, dict)]
    kinds = {kind: text for text in reversed(told) if (kind := kind_of(text))}
    # Who is not let in finds out nothing else.
    return kinds.get(CREDENTIALS) or kinds.get(FORGE, "")


def _ended_for(record: Mapping[str, Any]) -> str:
    """Why a cycle was ended, where it was for itself and not because somebody stopped it."""
    detail = str(record.get("detail", ""))
    ended = record.get("outcome") == "interrupted" and ("was ended:" in detail or "longer than" in detail)
    return detail if ended else ""


def _not_learned(config: Settings, history: list[Json]) -> str:
    """What is told of lessons that the last cycle that worked could not hand on; nothing where all were taken."""
    worked = next((one for one in reversed(history) if one.get("agents") and isinstance(one.get("memory"), dict)), {})
    collected = worked.get("collected")
    learning = collected.get("learning") if isinstance(collected, dict) else None
    for place, found in ((config.memory_dir, worked.get("memory")), (config.learning_dir, learning)):
        if isinstance(found, dict) and found.get("error"):
            return str(found["error"])
        left = found.get("left_out") if isinstance(found, dict) else None
        if rest := [one for one in left or [] if str(one).startswith(memory.THE_REST)]:
            return f"{place} is full, so {rest[0]} was left out"
    return ""


def _published_today(history: list[Json]) -> bool:
    return any(one.get("outcome") == "published" and str(one.get("started", "")).startswith(today()) for one in history)


def _today(config: Settings, history: list[Json]) -> Json:
    day = budget.today(config)
    return {
        "runs": len(day["runs"]), "max_runs": day["max"],
        "cost_usd": budget.ledger(config, history)["cost_usd"], "max_cost_usd": preconditions.max_cost(config),
    }  # fmt: skip


def _waiting(history: list[Json], held: list[Json]) -> list[Json]:
    """Approved issues that the last cycle that asked was not offered, but for those that are held."""
    known = {(one["repo"], one["number"]) for one in held}
    for record in reversed(history):
        if record.get("outcome") != records.RUNNING and (record.get("asked") or record.get("held")):
            found = [one for one in record.get("held") or [] if isinstance(one, dict)]
            told = [{key: one.get(key, "") for key in ("repo", "number", "why")} for one in found]
            return [one for one in told if (one["repo"], one["number"]) not in known]
    return []


def _quarantine(config: Settings) -> Json:
    """What is kept of cycles that did not end well, and of pushes that were refused; ``seen``: somebody opened it."""
    items = []
    for one in host_facts.kept(config.runs_dir) + host_facts.kept_pushes(config):
        told = {key: one[key] for key in ("id", "what", "title", "outcome", "detail", "made", "size", "kind")}
        told["seen"] = os.path.exists(f"{one['path']}/{cells.SEEN}")
        items.append(told)
    return {"count": len(items), "bytes": sum(max(0, one["size"]) for one in items), "items": items,
            "restore": playbook("restore")}  # fmt: skip


def _strays(config: Settings) -> list[str]:
    """What lies in the directory of the cells and is none; what a cycle makes and removes there is the next one's."""
    with contextlib.suppress(FileNotFoundError):
        names = sorted(os.listdir(config.runs_dir))
        return [name for name in names if not cells.ID.fullmatch(name) and not name.startswith(".")]
    return []


def _disk(config: Settings) -> Json:
    disk = os.statvfs(config.runs_dir)
    mount = os.path.realpath(config.runs_dir)
    while not os.path.ismount(mount):
        mount = os.path.dirname(mount)
    return {
        "free_bytes": disk.f_bavail * disk.f_frsize,
        "min_free_bytes": int(number_of(config.min_free, "size")),
        "total_bytes": disk.f_blocks * disk.f_frsize,
        "mount": mount,
    }


def _secrets(config: Settings, history: Sequence[Json]) -> Json:
    """What speaks against the secrets, and when the forge token ends: the App's is made anew in time and does not."""
    found = handover.look(config)
    return {"problem": found["problem"], "notes": list(found["notes"]), "expires_at": _token_ends(config, history)}


def _token_ends(config: Settings, history: Sequence[Json]) -> str:
    """As the forge said in the last cycle; of a file with the secrets that is newer nothing is known yet."""
    record = next((one for one in reversed(history) if one.get("token")), None)
    if record is None or record["token"].get("kind") != "break-glass":
        return ""
    with contextlib.suppress(OSError):  # that it is missing is told by what looks at the secrets
        if int(os.stat(config.env_file).st_mtime) <= moment_of(record["started"]).timestamp():
            return str(record["token"].get("expires") or "")
    return ""
