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

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.stages import clones, outcome


def main() -> None:
    module = AnsibleModule(argument_spec=clones.OPTIONS, supports_check_mode=True)
    outcome.run(module, clones.bring, put_habits_aside)


if __name__ == "__main__":
    main()
