#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: version_pin
short_description: Bump the pinned engine in a host_vars file
version_added: "0.1.0"
description:
  - Finds the commit that a SHA, tag or branch of the engine's repository names, and writes its full SHA as the value of
    C(engineering_loop_version) into a file of the inventory.
  - Changes nothing else in the file; comments, quotes, line endings and order stay, as do owner and mode.
  - Runs where the inventory is, so on the controller, with C(delegate_to=localhost). Needs git and GitPython there.
author:
  - AS215932 (@AS215932)
extends_documentation_fragment:
  - as215932.engineering_loop.attributes
options:
  path:
    description: The file that holds C(engineering_loop_version), once and as a plain full SHA.
    type: path
    required: true
  repo:
    description: The engine's repository, a URL without password, or a path (also of a bundle) on the controller.
    type: str
    required: true
  to:
    description: A SHA (seven digits or more), a tag or a branch. Empty for the tip of the default branch.
    type: str
    default: ""
  token:
    description: A forge token that may read O(repo), where it is a private one. Goes to the host of that URL only.
    type: str
    default: ""
  allow_downgrade:
    description: Also take a commit that does not descend from the pinned one.
    type: bool
    default: false
  any_branch:
    description: Also take a commit that is not on the default branch, but on another branch or a tag.
    type: bool
    default: false
seealso:
  - module: as215932.engineering_loop.engine_release
"""

EXAMPLES = r"""
- name: Pin the newest engine
  as215932.engineering_loop.version_pin:
    path: "{{ inventory_dir }}/host_vars/loop.yml"
    repo: https://github.com/AS215932/engineering-loop.git
  delegate_to: localhost

- name: Go back to an older one on purpose
  as215932.engineering_loop.version_pin:
    path: "{{ inventory_dir }}/host_vars/loop.yml"
    repo: https://github.com/AS215932/engineering-loop.git
    to: 58735fa051d24290f128109b4267e136316cbc86
    allow_downgrade: true
  delegate_to: localhost
"""

RETURN = r"""
before:
  description: The SHA that was pinned.
  returned: success
  type: str
  sample: 58735fa051d24290f128109b4267e136316cbc86
after:
  description: The SHA that is pinned now.
  returned: success
  type: str
  sample: 0123456789abcdef0123456789abcdef01234567
commits:
  description: How many commits are new. None where the old one is not in the repository any more.
  returned: success
  type: int
  sample: 3
dropped:
  description: How many commits of the old one are not in the new one; 0 unless O(allow_downgrade=true).
  returned: success
  type: int
  sample: 0
branch:
  description: The default branch of O(repo).
  returned: success
  type: str
  sample: main
compare:
  description: A link that shows the difference, for an https URL like GitHub's; otherwise empty.
  returned: success
  type: str
  sample: https://github.com/AS215932/engineering-loop/compare/58735fa0...01234567
"""

import dataclasses

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils import version_pin
from ansible_collections.as215932.engineering_loop.plugins.module_utils.errors import LoopError


def bump(module: AnsibleModule) -> None:
    """Do as told and leave the module."""
    wanted = module.params
    pin = version_pin.load(wanted["path"])
    found = version_pin.resolve(
        wanted["repo"],
        pin.value,
        wanted["to"],
        token=wanted["token"],
        allow_downgrade=wanted["allow_downgrade"],
        any_branch=wanted["any_branch"],
    )
    if found.changed and not module.check_mode:
        version_pin.write(wanted["path"], pin, found.after)
    result = {**dataclasses.asdict(found), "changed": found.changed}
    if module._diff:
        # Only the value: the rest of the file may hold what is nobody's business in a log.
        old, new = (f"{version_pin.KEY}: {sha}\n" for sha in (found.before, found.after))
        names = {f"{side}_header": wanted["path"] for side in ("before", "after")}
        result["diff"] = {"before": old, "after": new, **names}
    module.exit_json(**result)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "repo": {"type": "str", "required": True},
            "to": {"type": "str", "default": ""},
            "token": {"type": "str", "default": "", "no_log": True},
            "allow_downgrade": {"type": "bool", "default": False},
            "any_branch": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        bump(module)
    except LoopError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
