#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: loop_leave
short_description: Give a loop host back
version_added: "0.1.0"
author: AS215932 (@AS215932)
description:
  - Stops the timer once no cycle is in progress, and removes the units, the collection's own code and the releases.
  - Work, configuration, secrets, receipts, what an older layout had and the user stay, unless O(remove) names them.
  - Units and files that the role did not write are left alone.
  - On a host where nothing is deployed nothing is done.
extends_documentation_fragment:
  - as215932.engineering_loop.attributes
options:
  config:
    description: The host's settings, as the role wrote them. They win over O(settings).
    type: path
    default: /etc/engineering-loop/loop.json
  settings:
    description: What the role would write there.
    type: dict
    required: true
  key_file:
    description: The private key of a GitHub App, one of the secrets.
    type: path
    default: ""
  remove:
    description:
      - What else goes, for good.
      - V(work) is the cells of cycles, kept ones as well, pristine clones, what the gateway keeps and its records,
        memory and records of cycles.
      - V(config) is policy and settings; V(secrets) the env file, the key, and what a service such as Vault Agent
        renders beside the releases or the settings, which is named; V(taken_over) what an older layout had.
      - V(user) is the users and their groups, which needs V(work).
    type: list
    elements: str
    choices: [work, config, secrets, receipts, taken_over, user]
    default: []
  wait:
    description: How many seconds to wait for a cycle in progress. After that the module fails and nothing is removed.
    type: float
    default: 0
"""

EXAMPLES = r"""
- name: Give the host back and keep what came of the loop
  as215932.engineering_loop.loop_leave:
    settings: "{{ engineering_loop__settings }}"
    wait: 900
"""

RETURN = r"""
removed:
  description: What was removed, or would be, a line each.
  returned: success
  type: list
  elements: str
  sample: ["2 releases in /opt/engineering-loop/releases"]
kept:
  description: What stays, and what it is called in O(remove), a line each.
  returned: success
  type: list
  elements: str
  sample: [/var/lib/engineering-loop (work)]
"""

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.untrusted import shown
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import leave


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "path", "default": settings.DEFAULT_PATH},
            "settings": {"type": "dict", "required": True},
            "key_file": {"type": "path", "default": "", "no_log": False},
            "remove": {"type": "list", "elements": "str", "choices": list(leave.REMOVABLE), "default": []},
            "wait": {"type": "float", "default": 0},
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        put_habits_aside(module.ansible_version)
        config = leave.deployed(given["config"], given["settings"])
        key = given["key_file"] or ""
        result = shown(leave.leave(config, given["remove"], given["wait"], key_file=key, check=module.check_mode))
    except LoopError as error:
        module.fail_json(msg=str(error))
    if module._diff:
        result["diff"] = {"before": "".join(f"{line}\n" for line in result["removed"]), "after": ""}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
