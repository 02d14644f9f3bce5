#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: git_worktree_restore
short_description: Put back what a heal took out of the way
version_added: "0.1.0"
author: AS215932 (@AS215932)
description:
  - Brings one quarantined thing back, byte for byte. That is its files, ignored and untracked ones too, and where it
    was a worktree also its index, its reflog, its branch and a rebase in progress.
  - It returns to where it stood if that place is free, so that the commands which were meant for it work again.
  - What was restored already, and still stands where it was put, is left as it is.
  - The work is done as the owner of the repository. Root itself runs no git; it only moves what the owner may not move.
extends_documentation_fragment:
  - as215932.engineering_loop.attributes
options:
  quarantine:
    description: The directory that the leftovers were moved to.
    type: path
    required: true
  what:
    description:
      - What to restore, the C(id) of a quarantined thing or one of its refs below C(refs/loop-salvage/).
      - M(as215932.engineering_loop.loop_info) lists what there is.
    type: str
    required: true
  repo:
    description: The main checkout or bare repository. Needed only where the manifest is gone.
    type: path
  path:
    description:
      - Where it goes. The default is where it stood, or beside that if the place is taken.
      - Needed where it did not stand beside O(quarantine), in the same directory, or in one of O(within).
    type: path
  within:
    description:
      - Directories in which the places may lie that a manifest names, and the repository that it names must lie.
      - A manifest can be written by whoever owns the quarantine, so it alone does not choose what is acted on.
    type: list
    elements: path
    default: []
  branch:
    description: The branch it is on. The default is the name it had, or one below C(loop-restored/) if that is taken.
    type: str
  run_lock:
    description: The engine's lock file. While the process that it names lives, nothing is touched.
    type: path
"""

EXAMPLES = r"""
- name: Put a run back where its state file looks for it
  as215932.engineering_loop.git_worktree_restore:
    quarantine: /var/lib/engineering-loop/runs/.quarantine
    what: 20260102T030405Z-1a2b3c4d-0
    run_lock: /var/lib/engineering-loop/state/daemon.lock

- name: Look at a salvaged branch in a worktree of its own
  as215932.engineering_loop.git_worktree_restore:
    quarantine: /var/lib/engineering-loop/runs/.quarantine
    what: refs/loop-salvage/20260102T030405Z-1a2b3c4d-1/heads/hyrule-feature/ISSUE_APP_7/app
    path: /srv/looked-at/app
    branch: looked-at
"""

RETURN = r"""
id:
  description: The name of the restored thing.
  type: str
  returned: success
  sample: 20260102T030405Z-1a2b3c4d-0
path:
  description: Where it is now.
  type: str
  returned: success
  sample: /var/lib/engineering-loop/runs/issue_app_7/worktrees/app-ISSUE_APP_7
branch:
  description: The branch it is on; empty where it has none.
  type: str
  returned: success
  sample: hyrule-feature/ISSUE_APP_7/app
head:
  description: The commit it is at; empty where no repository knew it.
  type: str
  returned: success
  sample: 58735fa051d24290f128109b4267e136316cbc86
registered:
  description: Whether git knows it as a worktree. What no repository knew before is only moved back.
  type: bool
  returned: success
  sample: true
"""

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.restore import Chosen, restore


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "quarantine": {"type": "path", "required": True},
            "what": {"type": "str", "required": True},
            "repo": {"type": "path"},
            "path": {"type": "path"},
            "branch": {"type": "str"},
            "within": {"type": "list", "elements": "path", "default": []},
            "run_lock": {"type": "path"},
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        put_habits_aside(module.ansible_version)
        result = restore(
            given["quarantine"], given["what"], Chosen(given["repo"], given["path"], given["branch"]),
            within=given["within"], run_lock=given["run_lock"], check=module.check_mode,
        )  # fmt: skip
    except LoopError as error:
        module.fail_json(msg=str(error))
    plan = result.pop("plan")
    if module._diff:
        result["diff"] = {"prepared": "".join(f"{line}\n" for line in plan)}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
