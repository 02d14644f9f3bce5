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
  - A cycle that is running is never stopped by this.
author:
  - AS215932 (@AS215932)
extends_documentation_fragment:
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
      - Each run with V(false) warns.
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
seealso:
  - module: as215932.engineering_loop.loop_canary
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
held:
  description: Why the timer is wanted and does not run, and what to do next. Empty where it is not held.
  returned: success
  type: str
  sample: ""
"""

import datetime
import json
import os
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils import receipts, settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.errors import LoopError

RUNNING_SYSTEMD = "/run/systemd/system"


class Timer(NamedTuple):
    """The timer as systemd knows it."""

    present: bool
    enabled: bool
    active: bool
    next: str


def systemctl(module: AnsibleModule, *arguments: str) -> str:
    """The one door to systemd."""
    # systemd 257 writes this time in words whatever --timestamp says, but in the zone of its environment.
    status, out, err = module.run_command(["systemctl", *arguments], environ_update={"TZ": "UTC", "LC_ALL": "C"})
    if status != 0:
        last = (err.strip().splitlines() or [f"exit status {status}"])[-1]
        raise LoopError(f"systemctl {' '.join(arguments[:3])}: {last}")
    return str(out)


def look(module: AnsibleModule, unit: str) -> Timer:
    """The timer's state; one process, and a second one for a timer that counts from an event."""
    wanted = "LoadState,UnitFileState,ActiveState,NextElapseUSecRealtime"
    text = systemctl(module, "show", f"--property={wanted}", unit)
    state = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if state.get("LoadState") in ("masked", "bad-setting", "error"):
        raise LoopError(f"{unit} is {state['LoadState']}: look with 'systemctl status {unit}' and repair it")
    active = state.get("ActiveState") == "active"
    return Timer(
        present=state.get("LoadState") == "loaded",
        enabled=state.get("UnitFileState") == "enabled",
        active=active,
        next=iso(state.get("NextElapseUSecRealtime", "")) or (listed(module, unit) if active else ""),
    )


def iso(words: str) -> str:
    """``Thu 2026-01-01 12:00:00 UTC`` of systemd as ISO time; empty where there is none."""
    parts = words.split()
    return f"{parts[1]}T{parts[2]}Z" if len(parts) == 4 and parts[3] == "UTC" else ""


def listed(module: AnsibleModule, unit: str) -> str:
    """When the timer fires next as systemd's list of timers has it; empty where it does not."""
    entries = json.loads(systemctl(module, "list-timers", "--output=json", unit) or "[]")
    if not entries or not entries[0]["next"]:
        return ""
    moment = datetime.datetime.fromtimestamp(entries[0]["next"] / 1e6, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def settle(module: AnsibleModule) -> dict[str, Any]:
    """Bring the timer where it belongs and say where it is."""
    params = module.params
    max_age = receipts.duration(params["canary_max_age"])
    if not os.path.lexists(params["config"]) and (module.check_mode or not params["enabled"]):
        reason = "this host is not deployed yet"
        held = f"{reason}; once it is, {receipts.PROVE_AGAIN}" if params["enabled"] else ""
        return result(Timer(False, False, False, ""), False, False, reason, held)
    config = settings.load(params["config"])
    unit = f"{config['unit']}.timer"
    proof = receipts.matching(config, max_age, params["canary_mode"])
    proven = proof.receipt is not None
    run = params["enabled"] and (proven or not params["required"])
    held = proof.reason if params["enabled"] and not run else ""
    if params["enabled"] and not params["required"] and not proven:
        module.warn(f"engineering_loop_canary_required is false: {unit} runs what is not proven ({proof.reason})")

    before = look(module, unit) if os.path.isdir(RUNNING_SYSTEMD) else Timer(False, False, False, "")
    if run and not before.present and not module.check_mode:
        raise LoopError(f"{unit} is not known to systemd on this host: apply the role first")
    changed = (before.enabled, before.active) != (run, run) and (run or before.present)
    after = before
    if changed and module.check_mode:
        after = before._replace(enabled=run, active=run, next="")
    elif changed:
        systemctl(module, "enable" if run else "disable", "--now", unit)
        after = look(module, unit)
    return result(after, changed, proven, proof.reason, held, before if module._diff else None)


def result(
    timer: Timer, changed: bool, proven: bool, reason: str, held: str, before: Timer | None = None
) -> dict[str, Any]:
    """What the module returns."""
    told: dict[str, Any] = {
        "changed": changed,
        "enabled": timer.enabled,
        "active": timer.active,
        "next": timer.next,
        "proven": proven,
        "reason": reason,
        "held": held,
    }
    if before is not None:
        told["diff"] = {"before": words(before), "after": words(timer)}
    return told


def words(timer: Timer) -> str:
    """The timer's state, for a diff."""
    return f"enabled: {timer.enabled}\nactive: {timer.active}\n"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "path", "default": settings.DEFAULT_PATH},
            "enabled": {"type": "bool", "required": True},
            "required": {"type": "bool", "default": True},
            "canary_max_age": {"type": "str", "default": ""},
            "canary_mode": {"type": "str", "choices": ["docs", "empty"], "default": "docs"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**settle(module))
    except LoopError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
