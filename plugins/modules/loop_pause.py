#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: loop_pause
short_description: Pause the loop, or let it go on
version_added: "0.2.0"
description:
  - A paused loop starts no cycle, whoever asks for one, the timer, a canary or a person with C(systemctl start). Its
    timer and those of its jobs are off, and stay off through every apply and rollback, until the pause is lifted.
  - What is deployed is not touched.
author:
  - AS215932 (@AS215932)
extends_documentation_fragment:
  - as215932.engineering_loop.attributes
options:
  config:
    description: The host's settings, as the role wrote them.
    type: path
    default: /etc/engineering-loop/loop.json
  state:
    description:
      - V(present) pauses. A loop that is paused already stays so since when it was, with its reason where O(why) is
        empty.
      - V(absent) lifts the pause and lets the timer run again, if O(timer_enabled) and what is installed was proven.
    type: str
    choices: [present, absent]
    default: present
  why:
    description: The reason, which is told wherever the pause is.
    type: str
    default: ""
  now:
    description:
      - End a cycle that is running, in order. Its cell is kept, and it does not count among the attempts at its issue.
      - Without it a running cycle goes on to its end.
    type: bool
    default: false
  wait:
    description: How many seconds the end of that cycle may take.
    type: float
    default: 600
  timer_enabled:
    description: With O(state=absent), whether the timer is wanted at all.
    type: bool
    default: false
  applied_by:
    description: Who pauses, which is told wherever the pause is.
    type: str
    default: ""
seealso:
  - module: as215932.engineering_loop.loop_timer
"""

EXAMPLES = r"""
- name: Pause the loop, and end the cycle that is running
  as215932.engineering_loop.loop_pause:
    why: the forge moves
    now: true

- name: Let it go on
  as215932.engineering_loop.loop_pause:
    state: absent
    timer_enabled: true
"""

RETURN = r"""
paused:
  description: The pause that is in force, or with O(state=absent) the one that was lifted; null where there was none.
  returned: success
  type: dict
  contains:
    why:
      description: The reason.
      type: str
    since:
      description: Since when (UTC). Empty where the file that says so cannot be read.
      type: str
    by:
      description: Who paused.
      type: str
    sentence:
      description: All of it in one line, with how to resume.
      type: str
running:
  description: Whether a cycle is running, and goes on to its end.
  returned: success
  type: bool
ended:
  description: The record of the cycle that was ended, null where none was. In check mode it is empty.
  returned: success
  type: dict
timer:
  description: The state of the timer.
  returned: success
  type: dict
  contains:
    enabled:
      description: Whether it starts with the host.
      type: bool
    active:
      description: Whether it is running.
      type: bool
    next:
      description: When it fires next (UTC), empty where it does not.
      type: str
held:
  description: With O(state=absent), why the timer is wanted and does not run. Empty where it is not held.
  returned: success
  type: str
"""

import os
from dataclasses import asdict
from typing import Any

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import APPLY, LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import jobs, settings, systemd
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import cycle_run, pause, rollout
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof.pause import Pause

# What of our code on the host looks for a pause: an earlier version of the collection did not bring it.
LOOKS = "engineering_loop_core/proof/pause.py"


def put(module: AnsibleModule, config: Settings) -> dict[str, Any]:
    """Pause: the file first, which alone keeps cycles from starting; then the timer, then the cycle that runs."""
    params, check = module.params, module.check_mode
    before = systemd.timer_of(config.unit)
    paused, changed = pause.put(config, params["why"], params["applied_by"], dry_run=check)
    timer = systemd.set_timer(config.unit, False, before, check=check)
    held = jobs.bring_timers(config, proven=False, paused=True, check=check)
    running, ended = cycle_run.runs(config.unit), None
    if running and params["now"]:
        ended = {} if check else cycle_run.end(config.unit, str(config.get("cycles_dir", "")), params["wait"])
        running = False
    if not os.path.exists(f"{config.lib_dir}/{LOOKS}"):
        module.warn(
            "the code on this host is of an earlier version, which does not look for a pause: the timer is off, but a"
            f" cycle that somebody starts runs; {APPLY} first"
        )
    changed = changed or timer[:3] != before[:3] or ended is not None or any(job.changed for job in held)
    return {**told(paused, timer, changed), "running": running, "ended": ended, "timer_before": before}


def lift(module: AnsibleModule, config: Settings) -> dict[str, Any]:
    """Let it go on: the file goes, and the timer runs if it is wanted and may."""
    params, check = module.params, module.check_mode
    before = systemd.timer_of(config.unit)
    paused = pause.lift(config, dry_run=check)
    proof = rollout.in_force(params["config"])
    may = proof.receipt is not None or not config.get("canary_required", True)
    timer = systemd.set_timer(config.unit, params["timer_enabled"] and may, before, check=check)
    brought = jobs.bring_timers(config, proven=may, paused=False, check=check)
    changed = paused is not None or timer[:3] != before[:3] or any(job.changed for job in brought)
    held = proof.reason if params["timer_enabled"] and not may else ""
    running = cycle_run.runs(config.unit)
    return {**told(paused, timer, changed, held), "running": running, "ended": None, "timer_before": before}


def told(paused: Pause | None, timer: systemd.Timer, changed: bool, held: str = "") -> dict[str, Any]:
    """What both return."""
    shown = {**asdict(paused), "sentence": paused.sentence} if paused else None
    return {"changed": changed, "paused": shown, "timer": timer._asdict(), "held": held}


def words(paused: bool, timer: systemd.Timer) -> str:
    """For a diff."""
    return f"paused: {paused}\ntimer enabled: {timer.enabled}\ntimer active: {timer.active}\n"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "path", "default": settings.DEFAULT_PATH},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "why": {"type": "str", "default": ""},
            "now": {"type": "bool", "default": False},
            "wait": {"type": "float", "default": 600},
            "timer_enabled": {"type": "bool", "default": False},
            "applied_by": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    try:
        put_habits_aside(module.ansible_version)
        config = settings.load(module.params["config"], keys=settings.LASTING)
        was = pause.read(config) is not None
        result = (put if module.params["state"] == "present" else lift)(module, config)
    except LoopError as error:
        module.fail_json(msg=str(error))
    before = result.pop("timer_before")
    if module._diff:
        after = systemd.Timer(**result["timer"])
        paused = module.params["state"] == "present"
        result["diff"] = {"before": words(was, before), "after": words(paused, after)}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
