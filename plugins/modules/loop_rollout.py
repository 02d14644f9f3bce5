#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: loop_rollout
short_description: Go back to what was proven
version_added: "0.1.0"
description:
  - Brings an engine back into force together with the policy, the settings, the units and our code that it was proven
    with. They were kept when M(as215932.engineering_loop.loop_timer) found the proof.
  - With O(state=undone) it ends a rollout that did not succeed. What ran before it is in force again, with the timer in
    the state that it had. Where nothing was changed, or nothing was ever proven, it says so, and the timer is held if
    what is installed is not proven.
  - With O(state=previous) it goes back from a proven engine that turned out bad to the one before it.
  - Only what a genuine receipt covers counts, never an engine that failed or was gone back from.
author:
  - AS215932 (@AS215932)
extends_documentation_fragment:
  - as215932.engineering_loop.apply_run
  - as215932.engineering_loop.attributes
options:
  state:
    description: What to go back from, a rollout that did not succeed or an engine that did.
    type: str
    choices: [undone, previous]
    required: true
  config:
    description: The host's settings, as the role wrote them.
    type: path
    default: /etc/engineering-loop/loop.json
  timer_enabled:
    description: Whether the timer is wanted. It runs only where what is in force is proven as well.
    type: bool
    required: true
  to:
    description: With O(state=previous), the proven engine to go back to, by its commit (the first digits are enough).
    type: str
    default: ""
  failed:
    description:
      - With O(state=undone), whether a cycle of the new engine was judged and found wanting. The engine is marked as
        failed then, unless it was proven before, with another policy or unit.
    type: bool
    default: false
  reason:
    description: Why, in a few words. It is remembered and told when that engine comes again.
    type: str
    default: ""
  wait:
    description: With O(state=previous), how many seconds to wait for a cycle in progress.
    type: float
    default: 0
  keep:
    description: How many releases stay on the host, as of M(as215932.engineering_loop.engine_release).
    type: int
    default: 3
  python:
    description: Interpreter to build the release again with, where its files had been changed by hand.
    type: path
    default: /usr/bin/python3
  uv:
    description: The program uv, for the same.
    type: str
    default: uv
  wheels:
    description: As of M(as215932.engineering_loop.engine_release), for the same.
    type: path
    default: ""
  git_sources:
    description: As of M(as215932.engineering_loop.engine_release), for the same.
    type: list
    elements: str
    default: []
  build_tools:
    description: As of M(as215932.engineering_loop.engine_release), for the same.
    type: list
    elements: str
    default: []
seealso:
  - module: as215932.engineering_loop.engine_release
  - module: as215932.engineering_loop.loop_canary
  - module: as215932.engineering_loop.loop_timer
"""

EXAMPLES = r"""
- name: Go back to the engine before this one
  as215932.engineering_loop.loop_rollout:
    state: previous
    timer_enabled: true
    reason: its pages are empty
    wait: 900

- name: End a rollout whose canary failed
  as215932.engineering_loop.loop_rollout:
    state: undone
    timer_enabled: true
    failed: true
    reason: the canary opened two pull requests
"""

RETURN = r"""
returned:
  description: Whether something else is in force now.
  returned: success
  type: bool
  sample: true
from:
  description: The engine that was active before; empty where nothing was gone back from.
  returned: success
  type: str
  sample: 0123456789abcdef0123456789abcdef01234567
to:
  description: What is in force again, null where nothing was gone back to.
  returned: success
  type: dict
  contains:
    sha: {description: The engine's commit., type: str}
    proved_at: {description: When it was proven (UTC)., type: str}
    kept_at: {description: Where its policy and unit were kept., type: str}
restored:
  description: The files that were brought back or removed.
  returned: success
  type: list
  elements: str
reason:
  description: Why it counts as proven, or why nothing was gone back to.
  returned: success
  type: str
  sample: proven by the docs canary at 2026-01-01T12:00:00Z
held:
  description: Why the timer is wanted and does not run all the same; empty where it is not held.
  returned: success
  type: str
  sample: ""
timer:
  description: The timer's state, with C(enabled), C(active) and C(next) (UTC).
  returned: success
  type: dict
"""

from typing import Any

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import apply_run, settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import rollout

PASSED = ("reason", "keep", "python", "uv", "wait", "wheels", "git_sources", "build_tools")


def go_back(module: AnsibleModule) -> dict[str, Any]:
    """Do as told; what came of it."""
    wanted = module.params
    order = rollout.Order(
        timer=wanted["timer_enabled"],
        check=module.check_mode,
        **{key: wanted[key] for key in PASSED},
    )
    if wanted["state"] == "previous":
        return rollout.previous(wanted["config"], order, to=wanted["to"])
    return rollout.undo(wanted["config"], order, failed=wanted["failed"])


def words(sha: str, timer: dict[str, Any]) -> str:
    """Engine and timer, for a diff."""
    return f"engine: {sha or 'as it is'}\ntimer enabled: {timer['enabled']}\ntimer active: {timer['active']}\n"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["undone", "previous"], "required": True},
            "config": {"type": "path", "default": settings.DEFAULT_PATH},
            "run": {"type": "dict", "options": apply_run.OPTIONS},
            "timer_enabled": {"type": "bool", "required": True},
            "to": {"type": "str", "default": ""},
            "failed": {"type": "bool", "default": False},
            "reason": {"type": "str", "default": ""},
            "wait": {"type": "float", "default": 0},
            "keep": {"type": "int", "default": 3},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "uv": {"type": "str", "default": "uv"},
            "wheels": {"type": "path", "default": ""},
            "git_sources": {"type": "list", "elements": "str", "default": []},
            "build_tools": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        put_habits_aside(module.ansible_version)
        with apply_run.step(module.params["run"], check=module.check_mode):
            result = go_back(module)
    except LoopError as error:
        module.fail_json(msg=str(error))
    before = result.pop("before")
    if module._diff:
        after = words((result["to"] or {}).get("sha", ""), result["timer"])
        result["diff"] = {"before": words(result["from"], before), "after": after}
        result["diff"]["prepared"] = "".join(f"{path}: as it was proven\n" for path in result["restored"])
    module.exit_json(**result)


if __name__ == "__main__":
    main()
