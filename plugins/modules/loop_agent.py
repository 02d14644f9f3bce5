#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: loop_agent
short_description: Install the program that does the loop's work, and see that it would
version_added: "0.2.0"
author: AS215932 (@AS215932)
description:
  - Installs an npm package with all that it needs into a place of root's, each version beside the others. No script of
    any package is run, everything is checked by its hash, and the package takes part once it is whole.
  - An installed one is looked at without asking the network. The oldest beyond O(keep) go, but never one that is in
    use or belongs to a set that is kept as proven.
  - Fails where the agent could not do its work, as a cycle would refuse it before it costs a run. That is so where the
    model policy in force names another program or none, where it would not be shut in or does not start, or where the
    key of its model's provider is missing. No value of a key is ever shown.
extends_documentation_fragment:
  - as215932.engineering_loop.attributes
  - as215932.engineering_loop.apply_run
options:
  settings:
    description: What the role writes into C(loop.json). Its C(agent) says what is wanted.
    type: dict
    required: true
  lockfile:
    description: The content of the C(package-lock.json) to install by. Without one npm makes it, once.
    type: str
    default: ""
  environment:
    description: The variables that a cycle gets, in the place of those in the file that O(settings) names.
    type: dict
    default: {}
  keep:
    description: How many installed agents stay.
    type: int
    default: 3
"""

EXAMPLES = r"""
- name: Install the agent that the settings name
  as215932.engineering_loop.loop_agent:
    settings: "{{ engineering_loop__settings }}"
"""

RETURN = r"""
program:
  description: The file that is started, empty where it is still to be installed.
  returned: success
  type: str
  sample: /opt/engineering-loop/agents/mariozechner-pi-coding-agent-0.73.1-4bd1c0a2e5f6/node_modules/.bin/pi
said:
  description: What it said to C(--version), empty where it was not started.
  returned: success
  type: str
  sample: 0.73.1
pruned:
  description: Installed agents that were removed.
  returned: success
  type: list
  elements: str
"""

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.stages import agent, outcome


def main() -> None:
    module = AnsibleModule(argument_spec={**agent.OPTIONS, **outcome.STEP}, supports_check_mode=True)
    outcome.run(module, agent.bring, put_habits_aside)


if __name__ == "__main__":
    main()
