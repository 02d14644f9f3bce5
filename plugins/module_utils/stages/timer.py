# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The timers of the loop: they run what was proven."""

from __future__ import annotations

import os
from typing import Any

from ..host import jobs, settings, systemd, telling
from ..host.jobs import Brought
from ..host.settings import Settings
from ..host.systemd import Timer
from ..proof import pause, receipts, rollout, timer_hold
from ..release import engine_options, store
from .outcome import Done, How, Json

OPTIONS: dict[str, Any] = {
    "config": {"type": "path", "default": settings.DEFAULT_PATH},
    "enabled": {"type": "bool", "required": True},
    "required": {"type": "bool", "default": True},
    "canary_max_age": {"type": "str", "default": ""},
    "canary_mode": {"type": "str", "choices": ["docs", "empty"], "default": "docs"},
    "foreseen": {"type": "str", "choices": ["", "proven", "unproven"], "default": ""},
    "applied_by": {"type": "str", "default": ""},
    "overrides": {"type": "list", "elements": "str", "default": []},
}


def bring(given: Json, how: How) -> Done:
    """Bring the timer where it belongs and say where it is; as the module ``loop_timer`` has its options."""
    max_age = timer_hold.max_age(given["canary_max_age"])
    deployed = os.path.lexists(given["config"])
    if not deployed and not given["enabled"]:
        return Done(_result(Timer(), False, False, "this host is not deployed yet", ""))
    if how.check and (given["foreseen"] or not deployed):
        return Done(_foreseen(given, how, given["foreseen"] == "proven"))
    config = settings.load(given["config"], keys=settings.LASTING)  # check mode meets those of an earlier version
    proof = timer_hold.matching(config, max_age, given["canary_mode"])
    proven = proof.receipt is not None
    paused = pause.read(config)
    run = given["enabled"] and (proven or not given["required"]) and not paused
    held = (paused.sentence if paused else proof.reason) if given["enabled"] and not run else ""
    told = []
    if run and not proven:
        unit = f"{config.unit}.timer"
        told = [f"engineering_loop_canary_required is false: {unit} runs what is not proven ({proof.reason})"]

    before = systemd.timer_of(config.unit)
    changed, after = systemd.timer_differs(before, run), systemd.set_timer(config.unit, run, before, check=how.check)
    if run and not proven:
        noted = receipts.note_unproven(
            config, applied_by=given["applied_by"], overrides=given["overrides"], check=how.check
        )
        changed = noted or changed
    good = proven or not given["required"]
    brought = jobs.bring_timers(config, proven=good, paused=paused is not None, check=how.check)
    changed = any(one.changed for one in brought) or changed
    changed = telling.bring(config.unit, check=how.check) or changed
    if proven or run:
        changed = rollout.end(given["config"], proof.receipt, check=how.check) or changed
    engine = store.active(config.install_dir)
    result = _result(after, changed, proven, proof.reason, held, before if how.diff else None)
    options = engine_options.look(config, keep=not how.check)
    result |= {
        "options": options,
        "engine": engine["sha"] if engine else "",
        "jobs": [_told(config, one) for one in brought],
    }
    return Done(result, [*told, *engine_options.sentences(options)])


def _told(config: Settings, one: Brought) -> Json:
    """What the module returns of a job."""
    held = jobs.unknown(one.job, os.path.realpath(f"{config.install_dir}/current"))
    return {
        "name": one.job.name, "unit": one.job.unit, "active": one.timer.active, "next": one.timer.next, "held": held,
    }  # fmt: skip


def _foreseen(given: Json, how: How, proven: bool) -> Json:
    """Where the timer will be once what check mode only foretells is done."""
    before, why, paused = Timer(), "this host is not deployed yet", None
    if os.path.lexists(given["config"]):
        config = settings.load(given["config"], keys=settings.LASTING)
        before, why, paused = systemd.timer_of(config.unit), timer_hold.UNSEEN, pause.read(config)
    run = given["enabled"] and (proven or not given["required"]) and not paused
    reason = "once the canary has passed" if proven else f"{why}; {timer_hold.PROVE_AGAIN}"
    after = before._replace(enabled=run, active=run, next="")
    held = (paused.sentence if paused else reason) if given["enabled"] and not run else ""
    changed = proven or systemd.timer_differs(before, run)
    return _result(after, changed, proven, reason, held, before if how.diff else None)


def _result(after: Timer, changed: bool, proven: bool, reason: str, held: str, before: Timer | None = None) -> Json:
    """What the module returns."""
    told: Json = {
        "changed": changed,
        "enabled": after.enabled,
        "active": after.active,
        "next": after.next,
        "proven": proven,
        "reason": reason,
        "held": held,
        "engine": "",
        "options": {"without": [], "refused": []},
        "jobs": [],
    }
    if before is not None:
        told["diff"] = {"before": _words(before), "after": _words(after)}
    return told


def _words(state: Timer) -> str:
    """The timer's state, for a diff."""
    return f"enabled: {state.enabled}\nactive: {state.active}\n"
