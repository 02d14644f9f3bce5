#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: loop_issue
short_description: Release an issue that the loop holds
version_added: "0.2.0"
description:
  - An issue that was tried C(engineering_loop_max_attempts_per_issue) times without a pull request is held, which means
    that it is not offered to the engine any more. This forgets the attempts, so that the next cycle may take it again.
  - Nothing is changed on the forge. The comment that says that the issue is held stays there.
author:
  - AS215932 (@AS215932)
extends_documentation_fragment:
  - as215932.engineering_loop.attributes
options:
  config:
    description: The host's settings, as the role wrote them.
    type: path
    default: /etc/engineering-loop/loop.json
  issue:
    description: The issue, as C(OWNER/NAME#7) or by its address.
    type: str
    required: true
  state:
    description: What becomes of it. V(released) forgets what was counted of it, also where it is not held yet.
    type: str
    choices: [released]
    default: released
seealso:
  - module: as215932.engineering_loop.loop_canary
"""

EXAMPLES = r"""
- name: Try this issue again
  as215932.engineering_loop.loop_issue:
    issue: AS215932/network-operations#235
"""

RETURN = r"""
issue:
  description: The issue, as a person writes it.
  returned: success
  type: str
  sample: AS215932/network-operations#235
counted:
  description: What was counted of it and is forgotten now, null where nothing was.
  returned: success
  type: dict
  contains:
    title:
      description: Its title.
      type: str
    attempts:
      description: How often it was tried without a pull request.
      type: int
    cost_usd:
      description: What that cost, as the engine claims.
      type: float
    since:
      description: When the first attempt was counted (UTC).
      type: str
    last:
      description: When the last one was counted (UTC).
      type: str
    outcome:
      description: How that one ended.
      type: str
    held:
      description: Whether it was held.
      type: bool
held:
  description: The issues that are held then, as a person writes them.
  returned: success
  type: list
  elements: str
"""

import re
from typing import Any

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.untrusted import show
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import attempts
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import settings

ISSUE = re.compile(r"(?:https?://[^\s/]+/)?([A-Za-z0-9][\w-]*/[\w.-]+)(?:#|/issues/)([1-9]\d{0,8})", re.ASCII)
TOLD = ("title", "attempts", "cost_usd", "since", "last", "outcome")


def release(params: dict[str, Any], check: bool) -> dict[str, Any]:
    """Forget what was counted of the issue."""
    named = ISSUE.fullmatch(params["issue"].strip())
    if not named:
        raise LoopError(f"issue {show(params['issue'])} is none: write OWNER/NAME#7, or the address of the issue")
    config = settings.load(params["config"])
    name = attempts.name_of(named[1], int(named[2]))
    known = attempts.counts(config).get(name)
    if known is None and named[1] not in config.repos:
        raise LoopError(f"{named[1]} is not one that the loop works on, allowed: {', '.join(config.repos)}")
    if known and not check:
        attempts.clear(config, {name: ""})
    counted = {key: getattr(known, key) for key in TOLD} | {"held": attempts.is_held(config, known)} if known else None
    others = [attempts.name_of(one["repo"], one["number"]) for one in attempts.held(config)]
    return {
        "changed": known is not None,
        "issue": name,
        "counted": counted,
        "held": [other for other in others if other != name],
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "path", "default": settings.DEFAULT_PATH},
            "issue": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["released"], "default": "released"},
        },
        supports_check_mode=True,
    )
    try:
        put_habits_aside(module.ansible_version)
        result = release(module.params, module.check_mode)
    except LoopError as error:
        module.fail_json(msg=str(error))
    if module._diff:
        counted = result["counted"] or {"attempts": 0, "held": False}
        before = f"attempts: {counted['attempts']}\nheld: {counted['held']}\n"
        result["diff"] = {"before": before, "after": "attempts: 0\nheld: False\n"}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
