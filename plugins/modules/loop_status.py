#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: loop_status
short_description: Tell how a loop host fares and what it needs of a person
version_added: "0.2.0"
description:
  - Gathers everything that an operator wants to know of a host in one look, and for each thing that is wrong one
    sentence and what to type.
  - Reads only, and asks nobody but the host. Of the forge and the token it knows what the last cycles found.
  - A host that cannot be reached is an answer and no failure, by an action plugin of the same name, which also writes
    the commands as they are typed for this inventory and host.
author:
  - AS215932 (@AS215932)
extends_documentation_fragment:
  - as215932.engineering_loop.attributes
options:
  config:
    description: The settings that the role writes on the host.
    type: path
    default: /etc/engineering-loop/loop.json
  pin:
    description: The commit of the engine that the inventory wants. Empty where only the host is to be believed.
    type: str
    default: ""
  lib_dir:
    description:
      - Where the role has put the collection's code on the host. Where all of that is this collection's, and root's, it
        is asked, which is faster than to send it once more. Empty means that it is sent.
    type: path
    default: ""
seealso:
  - module: as215932.engineering_loop.loop_report
"""

EXAMPLES = r"""
- name: Look at the host
  as215932.engineering_loop.loop_status:
  register: host

- name: Show what it needs
  ansible.builtin.debug:
    var: host.status.needs
"""

RETURN = r"""
status:
  description: How the host fares.
  returned: success
  type: dict
  contains:
    state:
      description:
        - V(deployed), V(absent) where nothing is there, or V(broken) where its settings cannot be read or are of
          another version. By the action plugin also V(unreachable), and V(failed) where the host cannot run a module.
      type: str
      returned: always
    problem:
      description: Why it is not V(deployed).
      type: str
      returned: always
    version:
      description: The version of the collection that deployed it.
      type: str
      returned: always
    looked_at:
      description: When it was looked at, UTC, as all times here.
      type: str
      returned: always
    well:
      description: Whether it needs nothing.
      type: bool
      returned: always
    needs:
      description:
        - What it needs, the most urgent first. C(code) is a word for programs, C(what) says what is wrong, C(do) what
          to type or to do.
      type: list
      elements: dict
      returned: always
    unit:
      description: The name of its unit, without C(.service).
      type: str
      returned: always
    engine:
      description:
        - C(pin), the commit that is wanted, C(active), the one that runs, C(drift), what of the files on the host is
          not as it was proven, a line each, and C(back), what the playbook C(rollback) would go back to.
        - C(options) are flags that are wanted and that the active one does not know, those that it is run C(without),
          and those for which every cycle is C(refused).
      type: dict
      returned: always
    policy:
      description: Its C(sha256), and whether it is the one that was deployed (C(matches)).
      type: dict
      returned: always
    proof:
      description:
        - Whether a receipt covers what is installed (C(matches)), the C(reason), C(proved_at), C(age_seconds), and
          C(expires_at), which is empty for a proof without an end.
      type: dict
      returned: always
    timer:
      description: Whether it is C(active), when it fires C(next), and the C(reason) where it is not active.
      type: dict
      returned: always
    pause:
      description: C(why), C(since) and C(by) of a pause, null where there is none.
      type: dict
      returned: always
    running:
      description: The C(cycle) that runs, when it C(started), and its C(issue) as far as it is known; null for none.
      type: dict
      returned: always
    last_cycle:
      description: The last cycle that ended, as one of C(history) with its C(detail); null where there was none.
      type: dict
      returned: always
    today:
      description: C(runs), C(max_runs), C(cost_usd) and C(max_cost_usd) of this UTC day.
      type: dict
      returned: always
    held:
      description: Issues that failed too often and are not offered any more.
      type: list
      elements: dict
      returned: always
    waiting:
      description: Approved issues that are not offered for another reason (C(why)), by C(repo) and C(number).
      type: list
      elements: dict
      returned: always
    leftovers:
      description: How many things lie among the cells that are none.
      type: int
      returned: always
    quarantine:
      description:
        - What is kept, as C(count), C(bytes), and the C(items), of which one is C(seen) once somebody has opened it.
      type: dict
      returned: always
    jobs:
      description:
        - The engine's other jobs, each with its C(name), C(unit), whether its timer is C(wanted), when that fires
          C(next), and C(started), C(outcome) and C(detail) of its last run.
      type: list
      elements: dict
      returned: always
    history:
      description: Up to 200 cycles that ended, the newest last.
      type: list
      elements: dict
      returned: always
    disk:
      description:
        - C(free_bytes) of C(total_bytes) where the cells are, on what is mounted at C(mount), and C(min_free_bytes)
          that a cycle wants.
      type: dict
      returned: always
    secrets:
      description: C(problem) with which every cycle is refused, C(notes), and C(expires_at) where that is known.
      type: dict
      returned: always
  sample:
    state: deployed
    well: false
    needs:
      - code: unproven
        what: "No timer may start what is installed: nothing was proven on this host yet."
        do: ansible-playbook -i inventory.yml as215932.engineering_loop.canary -l loop
"""

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.report import status


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "path", "default": "/etc/engineering-loop/loop.json"},
            "pin": {"type": "str", "default": ""},
            "lib_dir": {"type": "path", "default": ""},
        },
        supports_check_mode=True,
    )
    try:
        put_habits_aside(module.ansible_version)
        module.exit_json(changed=False, status=status.of_host(module.params["config"], module.params["pin"]))
    except LoopError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
