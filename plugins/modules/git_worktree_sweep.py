#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: git_worktree_sweep
short_description: Every leftover of a workspace put out of the way in one pass
version_added: "0.1.0"
author: AS215932 (@AS215932)
description:
  - Takes what a coming run would trip over out of the way, all repositories of a workspace in one call. That is
    worktrees below
    O(worktree_root), branches below O(branch_prefixes), and locks and broken files of dead processes.
  - The directories of the runs themselves stay; only what stands in their C(worktrees/) goes.
  - Everything goes to a quarantine by rename, commits get a ref below C(refs/loop-salvage/).
  - Only O(quarantine_keep) ever deletes.
extends_documentation_fragment:
  - as215932.engineering_loop.attributes
options:
  workspace:
    description: A directory with main checkouts; each of them is swept.
    type: path
  repos:
    description: Main checkouts or bare repositories to sweep.
    type: list
    elements: path
    default: []
  branch_prefixes:
    description: A branch that is called so, or that lies below one, belongs to the loop.
    type: list
    elements: str
    required: true
  worktree_root:
    description: The directory of the runs. Worktrees stand in C(RUN/worktrees/) below it.
    type: path
    required: true
  keep:
    description: Paths, branches or change ids that stay.
    type: list
    elements: str
    default: []
  older_than:
    description: How long a leftover must have been left alone, as in V(90s), V(30m), V(12h), V(2d).
    type: str
    default: 0s
  quarantine:
    description:
      - Where leftovers go, on the file system of O(worktree_root).
      - The default is C(.quarantine) in O(worktree_root).
    type: path
  quarantine_keep:
    description: How much of the quarantine to keep. Without it nothing is ever deleted.
    type: dict
    suboptions:
      age:
        description: What is older goes, as in V(30d).
        type: str
      size:
        description: While the whole is larger, the oldest goes, as in V(500M) or V(10G).
        type: str
      min_age:
        description: What is younger never goes.
        type: str
        default: 1d
  run_lock:
    description: The engine's lock file. While the process that it names lives, nothing is touched.
    type: path
"""

EXAMPLES = r"""
- name: Put out of the way what the last runs left
  as215932.engineering_loop.git_worktree_sweep:
    workspace: /var/lib/engineering-loop/workspace
    branch_prefixes: [hyrule-feature, hyrule-loop, hyrule-canary]
    worktree_root: /var/lib/engineering-loop/runs
    keep: [ISSUE_APP_7]
    quarantine_keep:
      age: 30d
      size: 10G
    run_lock: /var/lib/engineering-loop/state/daemon.lock
"""

RETURN = r"""
removed:
  description: Paths and branches that are gone from their places.
  type: list
  elements: str
  returned: success
kept:
  description: Leftovers that stay, each with its C(path) and C(why).
  type: list
  elements: dict
  returned: success
healed:
  description: What was put out of the way or repaired, in words.
  type: list
  elements: str
  returned: success
quarantined:
  description: What went into the quarantine, as M(as215932.engineering_loop.git_worktree) returns it.
  type: list
  elements: dict
  returned: success
purged:
  description: What was deleted from the quarantine, each with its C(id), C(from), C(size), C(age) and C(why).
  type: list
  elements: dict
  returned: success
"""

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.sizes import limits_of, number_of
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.retention import Retention
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.sweep import Scope, sweep


def main() -> None:
    kept = {"age": {"type": "str"}, "size": {"type": "str"}, "min_age": {"type": "str", "default": "1d"}}
    module = AnsibleModule(
        argument_spec={
            "workspace": {"type": "path"},
            "repos": {"type": "list", "elements": "path", "default": []},
            "branch_prefixes": {"type": "list", "elements": "str", "required": True},
            "worktree_root": {"type": "path", "required": True},
            "keep": {"type": "list", "elements": "str", "default": []},
            "older_than": {"type": "str", "default": "0s"},
            "quarantine": {"type": "path"},
            "quarantine_keep": {"type": "dict", "options": kept},
            "run_lock": {"type": "path"},
        },
        required_one_of=[("workspace", "repos")],
        supports_check_mode=True,
    )
    given = module.params
    plain = ("workspace", "repos", "branch_prefixes", "worktree_root", "keep", "quarantine", "run_lock")
    try:
        put_habits_aside(module.ansible_version)
        older_than = number_of(given["older_than"], "older_than")
        retention = Retention(**limits_of(given["quarantine_keep"])) if given["quarantine_keep"] else None
        scope = Scope(older_than=older_than, **{key: given[key] for key in plain})
        result = sweep(scope, retention, check=module.check_mode)
    except LoopError as error:
        module.fail_json(msg=str(error))
    plan = result.pop("plan") + [f"keep {one['path']}: {one['why']}" for one in result["kept"]]
    plan += [f"purge {gone['id']} ({gone['from']}): {gone['why']}" for gone in result["purged"]]
    if module._diff:
        result["diff"] = {"prepared": "".join(f"{line}\n" for line in plan)}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
