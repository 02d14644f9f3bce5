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
  - as215932.engineering_loop.attributes
  - as215932.engineering_loop.apply_run
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

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.stages import outcome, timer


def main() -> None:
    module = AnsibleModule(argument_spec={**timer.OPTIONS, **outcome.STEP}, supports_check_mode=True)
    outcome.run(module, timer.bring, put_habits_aside)


if __name__ == "__main__":
    main()
