#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: loop_notify
short_description: Send a test notice to each notification target of a loop host
version_added: "0.2.0"
description:
  - Sends one test notice to each target that the host has, and says which took it, as the notices of the loop are sent.
  - No URL of a target is returned, since whoever knows it can write there. What is returned of it names its kind, and
    its host where that is no part of the secret.
  - In check mode the targets are looked at and nothing is sent.
author:
  - AS215932 (@AS215932)
extends_documentation_fragment:
  - as215932.engineering_loop.attributes
options:
  config:
    description: The host's settings, as the role wrote them.
    type: path
    default: /etc/engineering-loop/loop.json
seealso:
  - module: as215932.engineering_loop.loop_info
"""

EXAMPLES = r"""
- name: See whether those who are to be told can be
  as215932.engineering_loop.loop_notify:
  register: sent

- name: Show who did not take it
  ansible.builtin.debug:
    msg: "{{ sent.targets | rejectattr('taken') }}"
"""

RETURN = r"""
targets:
  description: The targets in their order.
  returned: success
  type: list
  elements: dict
  contains:
    target:
      description: What it is, without what lets somebody write to it.
      type: str
      returned: always
      sample: "ntfys://ntfy.example.org/***"
    where:
      description: Where it is written down.
      type: str
      returned: always
      sample: /etc/engineering-loop/notify, line 2
    taken:
      description: Whether it took the notice; in check mode, whether one could be sent at all.
      type: bool
      returned: always
    why:
      description: Why it did not.
      type: str
      returned: always
      sample: it did not answer within 45 s
sent:
  description: Whether test notices were sent; never in check mode.
  returned: success
  type: bool
  sample: true
"""

from typing import Any

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import settings, targets
from ansible_collections.as215932.engineering_loop.plugins.module_utils.report import tell


def looked_at(found: list[targets.Target]) -> list[dict[str, Any]]:
    """The targets as they can be told of without sending anything."""
    refused = {one: "".join(targets.refused([one])) for one in found}
    return [
        {"target": one.shown, "where": one.where, "taken": not refused[one], "why": refused[one]} for one in found
    ]  # fmt: skip


def main() -> None:
    module = AnsibleModule(
        argument_spec={"config": {"type": "path", "default": settings.DEFAULT_PATH}}, supports_check_mode=True
    )
    try:
        put_habits_aside(module.ansible_version)
        config = settings.load(module.params["config"], keys=settings.LASTING)
        found = targets.read(config)
        told = looked_at(found) if module.check_mode else tell.try_out(config, tell.name_of(config), found)
        module.exit_json(changed=False, targets=told, sent=bool(found) and not module.check_mode)
    except LoopError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
