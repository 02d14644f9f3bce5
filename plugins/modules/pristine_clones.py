#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pristine_clones
short_description: Keep the bare clones that every cycle's checkouts are made from
version_added: "0.2.0"
author: AS215932 (@AS215932)
description:
  - Clones the repositories that are missing under O(root), bare, and fetches all branches of the others, all at once.
  - Each cycle borrows the objects of these clones, so none of them is removed while one may, also not when a clone is
    damaged and made anew.
  - A clone counts as damaged where it is cut off or partial, where git does not read it, where a ref names nothing or
    what the branch has is missing, and where it cannot be fetched into although the remote answers.
  - The gateway does the same before each cycle, and compares there what a cycle pushes. Here it is found early which
    repository cannot be reached.
extends_documentation_fragment:
  - as215932.engineering_loop.attributes
  - as215932.engineering_loop.git_access
options:
  root:
    description: The directory of the clones. It belongs to O(user).
    type: path
    required: true
  repositories:
    description: What to clone.
    type: list
    elements: dict
    required: true
    suboptions:
      repo:
        description: C(OWNER/NAME) below O(git_url), or a URL or path of its own.
        type: str
        required: true
      dest:
        description: The name of the checkouts that are made from it. By default the repository's name.
        type: str
      version:
        description: The branch that work starts from.
        type: str
        default: main
  user:
    description: Whose clones these are, who runs the gateway and nothing else. All git work is done as this user.
    type: str
    default: loop-gate
  git_url:
    description: Where C(OWNER/NAME.git) is found.
    type: str
    default: https://github.com
  env_file:
    description: The host's file with the secrets, for its C(GH_TOKEN).
    type: path
attributes:
  check_mode:
    details: Says which clones are missing or damaged. Whether the others have anything to fetch is not asked.
"""

EXAMPLES = r"""
- name: Clone what the loop works on
  as215932.engineering_loop.pristine_clones:
    root: /var/lib/engineering-loop/pristine
    repositories:
      - {repo: AS215932/network-operations, dest: hyrule-infra}
      - {repo: AS215932/hyrule-web}
    env_file: /etc/engineering-loop/env
"""

RETURN = r"""
repositories:
  description: One entry for each repository, in the order asked for.
  returned: always
  type: list
  elements: dict
  contains:
    repo: {description: As it was asked for., type: str}
    dest: {description: Name of its checkouts., type: str}
    path: {description: Where the clone stands., type: str}
    status: {description: "cloned, updated, current, replaced (it was damaged) or failed.", type: str}
    before: {description: The branch's commit before., type: str}
    after: {description: And after., type: str}
    detail: {description: "What was wrong, if anything.", type: str}
failed_clones:
  description: The names of those that failed.
  returned: always
  type: list
  elements: str
"""

from typing import Any

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import pristine
from ansible_collections.as215932.engineering_loop.plugins.module_utils.forge import tokens
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings

OPTIONS = {
    "root": {"type": "path", "required": True},
    "repositories": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "repo": {"type": "str", "required": True},
            "dest": {"type": "str"},
            "version": {"type": "str", "default": "main"},
        },
    },
    "user": {"type": "str", "default": "loop-gate"},
    "git_url": {"type": "str", "default": "https://github.com"},
    "env_file": {"type": "path"},
    "github_app": tokens.OPTION,
}


def main() -> None:
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    given = module.params
    config = Settings(
        {},
        pristine_dir=given["root"],
        workspace_repositories=given["repositories"],
        gate_user=given["user"],
        git_url=given["git_url"],
    )
    try:
        put_habits_aside(module.ansible_version)
        token = tokens.token_for(given["env_file"], given["github_app"])
        found = pristine.refresh(config, token, check=module.check_mode)
    except LoopError as error:
        module.fail_json(msg=str(error))
    failed = [one["dest"] for one in found if one["status"] == "failed"]
    result: dict[str, Any] = {
        "changed": any(one["status"] in ("cloned", "updated", "replaced") for one in found),
        "repositories": found,
        "failed_clones": failed,
    }
    for one in found:
        if one["status"] == "replaced":
            done = "is damaged and would be" if module.check_mode else "was damaged and is"
            module.warn(f"{one['dest']} {done} cloned anew: {one['detail']}")
    if module._diff:
        result["diff"] = {"before": lines(found, "before"), "after": lines(found, "after")}
    if failed:
        details = "; ".join(f"{one['dest']}: {one['detail']}" for one in found if one["status"] == "failed")
        module.fail_json(msg=f"{len(failed)} of {len(found)} clones failed: {details}", **result)
    module.exit_json(**result)


def lines(found: list[dict[str, Any]], when: str) -> str:
    """Each clone and its commit, for the diff."""
    return "".join(f"{one['dest']}: {one[when] or '-'}\n" for one in found)


if __name__ == "__main__":
    main()
