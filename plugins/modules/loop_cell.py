#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: loop_cell
short_description: Open a kept cell of the loop, or bring kept work out
version_added: "0.2.0"
author: AS215932 (@AS215932)
description:
  - A cycle that did not end well leaves its cell, closed, with all that it had written. This runs a command in it, in
    the sandbox of a cycle, or brings its work to a person as a branch.
  - Nothing in the cell is ever run or believed outside of that sandbox.
extends_documentation_fragment:
  - as215932.engineering_loop.attributes
options:
  what:
    description:
      - The cell's id, or a part of it that fits one cell only.
      - V(memory) stands for the memory that goes from cycle to cycle. It is swapped with the one before the last
        change.
      - The id of what the gateway keeps, a refused push or a branch that made room, tells of that; with O(to) it is
        brought as well. It must be given in full.
      - The id of something that an older layout had in its quarantine puts that back, in the cell that took it in.
    type: str
    required: true
  run:
    description:
      - A command to run in the cell, as words. Without it, and without O(to), the state of each worktree is shown.
      - Refused for what the gateway keeps, where nothing can be run.
    type: list
    elements: str
    default: []
  as_engine:
    description:
      - Hand the command what the engine gets, the provider's keys and the way to the gateway included. For the engine's
        own commands on the run's state file, such as C(hyrule-engineering-loop pr). What they push is judged as ever.
    type: bool
    default: false
  to:
    description:
      - A branch to bring the work of the cell to, in a fresh clone below C(restored) in the loop's state directory.
      - What was not committed becomes one more commit. Files that git ignores stay in the cell.
    type: str
  timeout:
    description: Seconds that O(run) may take.
    type: int
    default: 600
  config:
    description: The host's settings, written by the role.
    type: path
    default: /etc/engineering-loop/loop.json
attributes:
  check_mode:
    details: With O(run) nothing is run. With O(to) it is said what would be brought where.
"""

EXAMPLES = r"""
- name: See what a crashed run left
  as215932.engineering_loop.loop_cell:
    what: 20260131T120000Z-1a2b3c4d

- name: Bring it to a branch
  as215932.engineering_loop.loop_cell:
    what: 20260131T120000Z-1a2b3c4d
    to: rescue/issue-7

- name: Bring back the memory before the last cycle
  as215932.engineering_loop.loop_cell:
    what: memory
"""

RETURN = r"""
id:
  description: The cell, or what the gateway keeps.
  returned: success
  type: str
enters:
  description: Whether something can be run in it; not in what the gateway keeps.
  returned: where it is false
  type: bool
exit_status:
  description: Exit status of the command.
  returned: when something was run
  type: int
lines:
  description:
    - What it said, or of what the gateway keeps repository, branch, commit, cycle and the reason; made harmless for a
      terminal.
  returned: success
  type: list
  elements: str
brought:
  description: One entry for each worktree that was brought, or the one of what the gateway kept.
  returned: with O(to)
  type: list
  elements: dict
  contains:
    checkout: {description: Of which repository., type: str}
    path: {description: The clone., type: str}
    branch: {description: The branch in it., type: str}
    left_out: {description: What git cannot have and stays in the cell., type: list, elements: str}
"""

import contextlib
from typing import Any

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base import untrusted
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError, playbook
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.untrusted import shown
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import cells, memory
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cycle import enter
from ansible_collections.as215932.engineering_loop.plugins.module_utils.gateway import kept_pushes
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import processes, settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings

# In the sandbox: what a person asks first.
LOOK = """
for place in */worktrees/*/; do
  [ -e "$place/.git" ] || continue
  echo "$PWD/${place%/}:"
  git -C "$place" log --oneline -5 2>&1
  git -C "$place" status --short 2>&1 | head -50
done
ls -1 */state/*.json 2>/dev/null | sed "s,^,state file: $PWD/,"
"""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "what": {"type": "str", "required": True},
            "run": {"type": "list", "elements": "str", "default": []},
            "as_engine": {"type": "bool", "default": False},
            "to": {"type": "str"},
            "timeout": {"type": "int", "default": 600},
            "config": {"type": "path", "default": settings.DEFAULT_PATH},
        },
        supports_check_mode=True,
    )
    if module.params["run"] and module.params["to"]:
        module.fail_json(
            msg="-e run= and -e to= cannot be had at once: one runs a command in the cell, one brings work out"
        )
    try:
        put_habits_aside(module.ansible_version)
        result = shown(act(settings.load(module.params["config"]), module.params, module.check_mode))
    except LoopError as error:
        module.fail_json(msg=str(error))
    if module._diff and result.get("brought"):
        after = "".join(f"{one['path']}: {one['branch']}\n" for one in result["brought"])
        result["diff"] = {"before": "", "after": after}
    module.exit_json(**result)


def act(config: Settings, given: dict[str, Any], check: bool) -> dict[str, Any]:
    """Look, run, or bring."""
    if given["what"] == "memory":
        with contextlib.nullcontext() if check else cells.alone(config):  # as the end of a cycle exchanges it
            if who := processes.cycle_in_progress("", config.unit):
                raise LoopError(
                    f"a cycle is in progress ({who}) and exchanges the memory at its end: wait for that, or end it"
                    f" with {playbook('pause')} -e now=true"
                )
            return {"changed": True, "id": "memory", "lines": [memory.swap(config, check=check)]}
    if cells.EARLIER.fullmatch(given["what"]):
        if check:
            return {"changed": True, "id": given["what"], "lines": [f"{given['what']} would be put back in its cell"]}
        done = enter.restore_earlier(config, given["what"])
        if done is None:
            raise LoopError(f"no cell has {given['what']}; {playbook('restore')} lists what is kept")
        return {"changed": done["exit_status"] == 0, **done}
    push = next((one for one in kept_pushes.listing(config) if one["id"] == given["what"]), None)
    if push is not None:
        if given["run"]:
            raise LoopError(
                f"{push['id']} is a push that the gateway keeps: nothing runs in it; bring it to a branch: -e to="
            )
        if given["to"]:
            return {
                "id": push["id"],
                "lines": [],
                **kept_pushes.restore(config, push["id"], given["to"], check=check),
            }
        told = {key: untrusted.show(str(push[key]), 1000) for key in ("repo", "branch", "commit", "cycle", "why")}
        return {
            "changed": False,
            "id": push["id"],
            "enters": False,
            "lines": [f"{key}: {value}" for key, value in told.items()],
        }
    cell = cells.find(config, given["what"])
    if given["to"]:
        return {"id": cell.id, "lines": [], **enter.bring(config, cell, given["to"], check=check)}
    if given["run"]:
        if check:
            return {"changed": True, "id": cell.id, "lines": [f"would run in {cell.id}: {' '.join(given['run'])}"]}
        done = enter.run(config, cell, given["run"], as_engine=given["as_engine"], seconds=given["timeout"])
        return {"changed": True, "id": cell.id, **done}
    return {"changed": False, "id": cell.id, **enter.run(config, cell, ["/bin/sh", "-c", LOOK])}


if __name__ == "__main__":
    main()
