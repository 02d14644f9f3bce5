#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: git_worktree
short_description: One git worktree, healed, and nothing in its way lost
version_added: "0.1.0"
author: AS215932 (@AS215932)
description:
  - Makes sure that a usable worktree stands at O(path) on O(branch), whatever a crash or a hand left there.
  - What is in the way is renamed into a quarantine, and every commit that would become unreachable gets a ref below
    C(refs/loop-salvage/). Nothing is deleted.
  - The work is done as the owner of O(repo). Root itself runs no git; it only moves what the owner may not move.
extends_documentation_fragment:
  - as215932.engineering_loop.attributes
options:
  repo:
    description: The main checkout, or a bare repository.
    type: path
    required: true
  path:
    description:
      - Where the worktree stands; outside of O(repo) and of every other worktree.
    type: path
    required: true
  branch:
    description:
      - The branch that the worktree is on. Main and production branches are refused.
    type: str
    required: true
  base_ref:
    description: What a new branch starts from. A healthy worktree that stands already is not compared with it.
    type: str
    default: HEAD
  state:
    description:
      - Whether worktree and branch are there or not. V(absent) puts both into the quarantine,
        from where M(as215932.engineering_loop.git_worktree_restore) brings them back.
    type: str
    choices: [present, absent]
    default: present
  fresh:
    description: Never use again what stands there, even if it is healthy.
    type: bool
    default: false
  quarantine:
    description:
      - Where leftovers go, on the file system of O(path).
      - The default is C(.quarantine) beside the worktree.
    type: path
  run_lock:
    description: The engine's lock file. While the process that it names lives, nothing is touched.
    type: path
"""

EXAMPLES = r"""
- name: Start from a clean worktree, whatever the last run left
  as215932.engineering_loop.git_worktree:
    repo: /var/lib/engineering-loop/workspace/app
    path: /var/lib/engineering-loop/runs/issue_app_7/worktrees/app-ISSUE_APP_7
    branch: hyrule-feature/ISSUE_APP_7/app
    base_ref: main
    fresh: true
    run_lock: /var/lib/engineering-loop/state/daemon.lock
"""

RETURN = r"""
path:
  description: Where the worktree stands, its parents resolved.
  type: str
  returned: success
branch:
  description: The branch.
  type: str
  returned: success
head:
  description: The commit that the branch points to; empty where absent.
  type: str
  returned: success
base_sha:
  description: The commit that O(base_ref) names.
  type: str
  returned: success
healed:
  description: What was put out of the way or repaired, in words.
  type: list
  elements: str
  returned: success
quarantined:
  description: What went into the quarantine; nothing else left its place.
  type: list
  elements: dict
  returned: success
  contains:
    id:
      description: The name under which it can be restored.
      type: str
    what:
      description: Worktree, branch, directory, debris, ...
      type: str
    from:
      description: Where it stood, or which branch it was.
      type: str
    to:
      description: Where it is now.
      type: str
    branch:
      description: The branch that it was on, if any.
      type: str
    tip:
      description: The commit of that branch.
      type: str
    why:
      description: Why it had to go.
      type: str
    salvage_ref:
      description: The ref that keeps its commits; null where it had none.
      type: str
    manifest:
      description: The file that describes it and says how to restore it.
      type: str
"""

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.heal import Worktree, absent, ensure


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "repo": {"type": "path", "required": True},
            "path": {"type": "path", "required": True},
            "branch": {"type": "str", "required": True},
            "base_ref": {"type": "str", "default": "HEAD"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "fresh": {"type": "bool", "default": False},
            "quarantine": {"type": "path"},
            "run_lock": {"type": "path"},
        },
        supports_check_mode=True,
    )
    given = module.params
    fields = ("repo", "path", "branch", "base_ref", "quarantine", "run_lock")
    wanted = Worktree(**{key: given[key] for key in fields})
    try:
        put_habits_aside(module.ansible_version)
        if given["state"] == "present":
            result = ensure(wanted, fresh=given["fresh"], check=module.check_mode)
        else:
            result = absent(wanted, check=module.check_mode)
    except LoopError as error:
        module.fail_json(msg=str(error))
    plan = result.pop("plan")
    if module._diff:
        result["diff"] = {"prepared": "".join(f"{line}\n" for line in plan)}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
