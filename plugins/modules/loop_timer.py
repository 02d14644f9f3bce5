#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: loop_timer
short_description: Let the loop's timer run, but only what was proven
version_added: "0.1.0"
description:
  - The timer of the loop is enabled and active if O(enabled) is wanted and a receipt of
    M(as215932.engineering_loop.loop_canary) covers the engine, policy and unit that are installed. Otherwise it is
    stopped and disabled.
  - A timer that is held for want of a proof is no failure. RV(held) says why, and what to do.
  - While the loop is paused, see M(as215932.engineering_loop.loop_pause), the timer stays off whatever is wanted.
  - A cycle that is running is never stopped by this.
  - The units that write metrics and tell whoever is to be told run in any case, and are asked to look once more.
  - What a receipt covers is kept whole at the same time, so that M(as215932.engineering_loop.loop_rollout) can go back
    to it, and a rollout that was under way is over.
author:
  - AS215932 (@AS215932)
extends_documentation_fragment:
  - as215932.engineering_loop.apply_run
  - as215932.engineering_loop.attributes
options:
  config:
    description: The host's settings, as the role wrote them.
    type: path
    default: /etc/engineering-loop/loop.json
  enabled:
    description: Whether the timer is wanted at all.
    type: bool
    required: true
  required:
    description:
      - Whether a proof is required. With V(false) the timer runs what nobody has seen working.
      - Each run with V(false) warns. That the timer runs something unproven is recorded beside the receipts.
    type: bool
    default: true
  canary_max_age:
    description: Proofs older than this do not count, as in V(30d) (C(s), C(m), C(h), C(d), C(w)). Empty for no limit.
    type: str
    default: ""
  canary_mode:
    description: The least canary that lets the timer run. A passed V(docs) counts as V(empty), too.
    type: str
    choices: [docs, empty]
    default: docs
  foreseen:
    description:
      - In check mode, what the tasks before would have come to, V(unproven) where they change what a proof covers,
        V(proven) where a canary would have passed since. Empty where what is installed now stays.
    type: str
    choices: ["", proven, unproven]
    default: ""
  applied_by:
    description: Who runs this, for the record of an unproven timer.
    type: str
    default: ""
  overrides:
    description: The names of the variables that weaken a guard and are in force, for the same record.
    type: list
    elements: str
    default: []
seealso:
  - module: as215932.engineering_loop.loop_canary
  - module: as215932.engineering_loop.loop_rollout
  - module: as215932.engineering_loop.loop_pause
"""

EXAMPLES = r"""
- name: Run the loop every hour, if it was proven
  as215932.engineering_loop.loop_timer:
    enabled: true
    canary_max_age: 90d

- name: Stop the loop
  as215932.engineering_loop.loop_timer:
    enabled: false
"""

RETURN = r"""
enabled:
  description: Whether the timer starts with the host.
  returned: success
  type: bool
  sample: true
active:
  description: Whether the timer is running.
  returned: success
  type: bool
  sample: true
next:
  description: When it fires next (UTC), empty where it does not.
  returned: success
  type: str
  sample: "2026-01-01T12:00:00Z"
proven:
  description: Whether a receipt covers what is installed.
  returned: success
  type: bool
  sample: true
reason:
  description: Which receipt that is, or why there is none.
  returned: success
  type: str
  sample: proven by the docs canary at 2026-01-01T12:00:00Z
engine:
  description: The commit of the engine that is active; empty where there is none, or check mode only foretells it.
  returned: success
  type: str
  sample: 58735fa051d24290f128109b4267e136316cbc86
held:
  description: Why the timer is wanted and does not run, and what to do next. Empty where it is not held.
  returned: success
  type: str
  sample: ""
options:
  description:
    - Flags of the engine's that are wanted and that the installed one does not name in its help. C(without), which it
      is run without, and C(refused), with which every cycle is refused.
  returned: success
  type: dict
  sample: {without: [--knowledge-context], refused: []}
jobs:
  description:
    - The engine's other jobs and their timers. C(held) says why the installed engine cannot do one; its runs end well
      and do nothing until one can.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: Name of the job.
      type: str
      returned: success
    unit:
      description: Its unit, without the ending.
      type: str
      returned: success
    active:
      description: Whether its timer runs.
      type: bool
      returned: success
    next:
      description: When it fires next, in UTC; empty where it does not.
      type: str
      returned: success
    held:
      description: Why the installed engine cannot do it, or empty.
      type: str
      returned: success
"""

import os
from typing import Any

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import (
    apply_run,
    jobs,
    settings,
    systemd,
    telling,
)
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.jobs import Job
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.systemd import Timer
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import (
    pause,
    receipts,
    rollout,
    timer_hold,
)
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import engine_options, store


def bring(module: AnsibleModule) -> dict[str, Any]:
    """Bring the timer where it belongs and say where it is."""
    params = module.params
    max_age = timer_hold.max_age(params["canary_max_age"])
    deployed = os.path.lexists(params["config"])
    if not deployed and not params["enabled"]:
        return result(Timer(), False, False, "this host is not deployed yet", "")
    if module.check_mode and (params["foreseen"] or not deployed):
        return foreseen(module, params["foreseen"] == "proven")
    config = settings.load(params["config"], keys=settings.LASTING)  # check mode meets those of an earlier version
    proof = timer_hold.matching(config, max_age, params["canary_mode"])
    proven = proof.receipt is not None
    paused = pause.read(config)
    run = params["enabled"] and (proven or not params["required"]) and not paused
    held = (paused.sentence if paused else proof.reason) if params["enabled"] and not run else ""
    if run and not proven:
        unit = f"{config.unit}.timer"
        module.warn(f"engineering_loop_canary_required is false: {unit} runs what is not proven ({proof.reason})")

    before, changed, after = set_timer(module, config.unit, run)
    if run and not proven:
        noted = receipts.note_unproven(
            config, applied_by=params["applied_by"], overrides=params["overrides"], check=module.check_mode
        )
        changed = noted or changed
    good = not paused and (proven or not params["required"])
    brought = [bring_job(module, config, job, good if job.proof else not paused) for job in jobs.of(config)]
    changed = any(differed for differed, _job in brought) or changed
    changed = telling.bring(config.unit, check=module.check_mode) or changed
    if proven or run:
        changed = rollout.end(params["config"], proof.receipt, check=module.check_mode) or changed
    engine = store.active(config.install_dir)
    told = result(after, changed, proven, proof.reason, held, before if module._diff else None)
    options = engine_options.look(config, keep=not module.check_mode)
    for line in engine_options.sentences(options):
        module.warn(line)
    return {
        **told,
        "options": options,
        "engine": engine["sha"] if engine else "",
        "jobs": [job for _differed, job in brought],
    }


def set_timer(module: AnsibleModule, unit: str, run: bool) -> tuple[Timer, bool, Timer]:
    """A timer as it was, whether that is not as it should be, and as it is then, or would be in check mode."""
    before = systemd.timer_of(unit)
    differs = systemd.timer_differs(before, run)
    if module.check_mode:
        return before, differs, before._replace(enabled=run, active=run, next="") if differs else before
    return before, differs, systemd.set_timer(unit, run, before)


def bring_job(module: AnsibleModule, config: Settings, job: Job, good: bool) -> tuple[bool, dict[str, Any]]:
    """The timer of a job as it should be, which ``good`` says may run; whether that is a change, and how it is then."""
    _before, differs, after = set_timer(module, job.unit, job.enabled and good)
    release = f"{config.install_dir}/current"
    return differs, {
        "name": job.name, "unit": job.unit, "active": after.active, "next": after.next,
        "held": jobs.unknown(job, os.path.realpath(release)),
    }  # fmt: skip


def foreseen(module: AnsibleModule, proven: bool) -> dict[str, Any]:
    """Where the timer will be once what check mode only foretells is done."""
    params = module.params
    before, why, paused = Timer(), "this host is not deployed yet", None
    if os.path.lexists(params["config"]):
        config = settings.load(params["config"], keys=settings.LASTING)
        before, why, paused = systemd.timer_of(config.unit), timer_hold.UNSEEN, pause.read(config)
    run = params["enabled"] and (proven or not params["required"]) and not paused
    reason = "once the canary has passed" if proven else f"{why}; {timer_hold.PROVE_AGAIN}"
    after = before._replace(enabled=run, active=run, next="")
    held = (paused.sentence if paused else reason) if params["enabled"] and not run else ""
    changed = proven or systemd.timer_differs(before, run)
    return result(after, changed, proven, reason, held, before if module._diff else None)


def result(
    after: Timer, changed: bool, proven: bool, reason: str, held: str, before: Timer | None = None
) -> dict[str, Any]:
    """What the module returns."""
    told: dict[str, Any] = {
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
        told["diff"] = {"before": words(before), "after": words(after)}
    return told


def words(state: Timer) -> str:
    """The timer's state, for a diff."""
    return f"enabled: {state.enabled}\nactive: {state.active}\n"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "path", "default": settings.DEFAULT_PATH},
            "run": {"type": "dict", "options": apply_run.OPTIONS},
            "enabled": {"type": "bool", "required": True},
            "required": {"type": "bool", "default": True},
            "canary_max_age": {"type": "str", "default": ""},
            "canary_mode": {"type": "str", "choices": ["docs", "empty"], "default": "docs"},
            "foreseen": {"type": "str", "choices": ["", "proven", "unproven"], "default": ""},
            "applied_by": {"type": "str", "default": ""},
            "overrides": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        put_habits_aside(module.ansible_version)
        apply_run.step(module.params["run"], check=module.check_mode)
        module.exit_json(**bring(module))
    except LoopError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
