#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: loop_user
short_description: Take from the users of a loop what they must not have
version_added: "0.2.0"
author: AS215932 (@AS215932)
description:
  - A user that runs generated code has no home, no shell, no password, no services that start with the host and no
    session. Where it has one of these, it is taken away, and its processes outside of a service are ended.
  - A user that is in a group beside its own, has rights by sudo or shares its number with another one is refused, in
    one line with the command that mends it.
  - Users that do not exist are passed over; M(ansible.builtin.user) makes them.
  - What M(as215932.engineering_loop.loop_info) returns as C(accounts.faults) is what this module would mend.
extends_documentation_fragment:
  - as215932.engineering_loop.attributes
options:
  users:
    description: Each user, and the group that is its own.
    type: dict
    required: true
  unit:
    description: Name of the loop's service without suffix. A cycle in progress is waited for.
    type: str
    default: hyrule-engineering-loop
  wait:
    description: How many seconds to wait for a cycle in progress. After that the module fails and nothing is changed.
    type: float
    default: 0
"""

EXAMPLES = r"""
- name: Take from the users what they must not have
  as215932.engineering_loop.loop_user:
    users:
      loop: loop
      loop-gate: loop-gate
    wait: 900
"""

RETURN = r"""
lines:
  description: What was found and was, or would be, taken away, a line each.
  returned: success
  type: list
  elements: str
  sample: ["the user loop had the shell /bin/bash: nobody logs in as it any more"]
"""

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import privileges, processes


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "users": {"type": "dict", "required": True},
            "unit": {"type": "str", "default": "hyrule-engineering-loop"},
            "wait": {"type": "float", "default": 0},
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        put_habits_aside(module.ansible_version)
        lines = privileges.repair(given["users"], check=True)
        if lines and not module.check_mode:
            processes.wait_until_idle("", given["unit"], given["wait"], "the users were not changed")
            privileges.repair(given["users"])
    except LoopError as error:
        module.fail_json(msg=str(error))
    result = {"changed": bool(lines), "lines": lines}
    if module._diff:
        result["diff"] = {"before": "".join(f"{line}\n" for line in lines), "after": ""}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
