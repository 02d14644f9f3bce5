#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: workspace
short_description: Keep many checkouts at the tips of their branches
version_added: "0.1.0"
author: AS215932 (@AS215932)
description:
  - Clones the repositories that are missing under O(root) and brings the others to the tips of their branches,
    all at once.
  - Local changes, commits that were not pushed, a detached HEAD or something that is no checkout never stop
    the others and are never lost.
  - A checkout's own configuration is reduced to what cannot choose what git does.
    Its C(origin) is the repository it is for.
extends_documentation_fragment:
  - as215932.engineering_loop.attributes
  - as215932.engineering_loop.git_access
options:
  root:
    description: The directory of the checkouts.
    type: path
    required: true
  repositories:
    description: What to check out.
    type: list
    elements: dict
    required: true
    suboptions:
      repo:
        description: C(OWNER/NAME) below O(git_url), or a URL or path of its own.
        type: str
        required: true
      dest:
        description: The directory's name below O(root). By default the repository's name.
        type: str
      version:
        description: The branch to follow.
        type: str
        default: main
  user:
    description: Whose checkouts these are. All git work is done as this user.
    type: str
    default: loop
  git_url:
    description: Where C(OWNER/NAME.git) is found. The token of O(env_file) goes there and nowhere else.
    type: str
    default: https://github.com
  jobs:
    description: How many checkouts are worked on at once.
    type: int
    default: 8
  conflicts:
    description:
      - What happens to a checkout that is in the way of its tip.
      - With V(quarantine), its files go to C(.quarantine) below O(root), its commits below C(refs/salvage), and it is
        brought to the tip.
      - With V(report), it is left as it is.
    type: str
    choices: [quarantine, report]
    default: quarantine
  required:
    description: Whether a checkout that failed fails the task, after the others are done.
    type: bool
    default: true
  run_lock:
    description: The engine's lock file. While a living process is named in it, existing checkouts are left alone.
    type: path
  env_file:
    description:
      - A file on the host that holds the token for the repositories as E(GH_TOKEN). Ignored where it is missing.
    type: path
  git_user_name:
    description: The name for commits in the checkouts.
    type: str
  git_user_email:
    description: The mail address for commits in the checkouts.
    type: str
"""

EXAMPLES = r"""
- name: Have the checkouts at their tips
  as215932.engineering_loop.workspace:
    root: /var/lib/engineering-loop/workspace
    env_file: /etc/engineering-loop/env
    repositories:
      - repo: AS215932/network-operations
        dest: hyrule-infra
        version: main
      - repo: AS215932/engineering-loop
"""

RETURN = r"""
repositories:
  description: What was found and done, one per repository, in the order given.
  returned: always
  type: list
  elements: dict
  contains:
    repo: {description: As given., type: str}
    dest: {description: The directory's name., type: str}
    path: {description: The checkout., type: str}
    status:
      description:
        - One of V(cloned), V(updated), V(current), V(restored) (something was put aside), V(left) (see O(conflicts)),
          V(busy) (somebody works in it) and V(failed).
      type: str
    before: {description: The commit that was checked out., type: str}
    after: {description: The commit that is checked out now., type: str}
    detail: {description: What was wrong., type: str}
    removed_config: {description: The settings in its configuration that were removed or set right., type: list}
    quarantined: {description: Where its files were put; the manifest in there says how to restore them., type: str}
failed_checkouts:
  description: The names of the checkouts that failed.
  returned: always
  type: list
  elements: str
"""

from typing import Any

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.forge import tokens
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees import checkouts

REPOSITORY = {
    "repo": {"type": "str", "required": True},
    "dest": {"type": "str"},
    "version": {"type": "str", "default": "main"},
}
OPTIONS = {
    "root": {"type": "path", "required": True},
    "repositories": {"type": "list", "elements": "dict", "required": True, "options": REPOSITORY},
    "user": {"type": "str", "default": "loop"},
    "git_url": {"type": "str", "default": "https://github.com"},
    "jobs": {"type": "int", "default": 8},
    "conflicts": {"type": "str", "choices": ["quarantine", "report"], "default": "quarantine"},
    "required": {"type": "bool", "default": True},
    "run_lock": {"type": "path"},
    "env_file": {"type": "path"},
    "github_app": tokens.OPTION,
    "git_user_name": {"type": "str"},
    "git_user_email": {"type": "str"},
}


def main() -> None:
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    wanted = dict(module.params)
    required, env_file, app = (wanted.pop(key) for key in ("required", "env_file", "github_app"))
    try:
        put_habits_aside(module.ansible_version)
        token = tokens.token_for(env_file, app)
        given = {key: value for key, value in wanted.items() if value is not None}
        result = checkouts.update(checkouts.Workspace(token=token, **given), check=module.check_mode)
    except LoopError as error:
        module.fail_json(msg=str(error))
    for one in result["repositories"]:
        if one["status"] in ("restored", "left", "busy") or (one["status"] == "failed" and not required):
            module.warn(f"{one['dest']}: {one['detail']}" + (f": {one['quarantined']}" if one["quarantined"] else ""))
    if module._diff:
        result["diff"] = {"before": lines(result, "before"), "after": lines(result, "after")}
    failed = result.pop("failed")
    if failed and required:
        found = result["repositories"]
        details = "; ".join(f"{one['dest']}: {one['detail']}" for one in found if one["status"] == "failed")
        message = f"{len(failed)} of {len(found)} checkouts failed: {details}"
        module.fail_json(msg=message, failed_checkouts=failed, **result)
    module.exit_json(failed_checkouts=failed, **result)


def lines(result: dict[str, Any], when: str) -> str:
    return "".join(f"{one['dest']}: {one[when] or '-'}\n" for one in result["repositories"])


if __name__ == "__main__":
    main()
