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
    O(key) into a file of the inventory.
  - The file is O(path), or the one in C(host_vars) or C(group_vars) that gives O(host) its value.
  - Changes nothing else in the file; comments, quotes, line endings and order stay, as do owner and mode.
  - Runs where the inventory is, so on the controller, with C(delegate_to=localhost). Needs git there.
author:
  - AS215932 (@AS215932)
extends_documentation_fragment:
  - as215932.engineering_loop.attributes
options:
  path:
    description: The file that holds O(key), once and as a plain full SHA.
    type: path
  key:
    description: The variable that is the pin.
    type: str
    default: engineering_loop_version
  inventories:
    description:
      - Without O(path), inventories (files or directories), and last the playbook's directory. The pin is looked for in
        C(host_vars) and C(group_vars) beside each of them, in files and directories of all names that Ansible reads.
      - Where several files have it the one is taken that wins for Ansible, and the others are told.
    type: list
    elements: str
    default: []
  groups:
    description: The groups that O(host) is in, as C(group_names) has them.
    type: list
    elements: str
    default: []
  in_force:
    description: The value that the play sees. It decides between files of several groups.
    type: str
    default: ""
  repo:
    description:
      - The engine's repository, a URL without password, or a path (also of a bundle) on the controller.
      - Without it nobody is asked, and O(to) is written as it is, a full SHA.
    type: str
    default: ""
  to:
    description: A SHA (seven digits or more), a tag or a branch. Empty for the tip of the default branch.
    type: str
    default: ""
  token:
    description:
      - A token of the forge at O(forge_url). Reads O(repo) where it is a private one there, and the checks.
      - For O(pull_request) it must be allowed to push to the inventory's repository and to open pull requests.
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
  checks:
    description:
      - Names of checks that must have passed on the new commit, as the forge's statuses and check runs have them.
      - V(all) means every one that ran, and at least one. By default none is asked for.
    type: list
    elements: str
    default: []
  pull_request:
    description:
      - Leave O(path) as it is. Push a branch with the bump to the repository that O(path) is in, and open a draft pull
        request, both unless they are there already.
      - The bump starts from the pin on the remote's default branch. Work tree, index and branches are not touched. git
        runs with the configuration of whoever runs the playbook, who signs the commit where C(commit.gpgSign) is set.
    type: bool
    default: false
  remote:
    description: The remote of the repository that O(path) is in, for O(pull_request).
    type: str
    default: origin
  forge_url:
    description: The forge that O(token) is for. Checks and pull requests are asked for there and nowhere else.
    type: str
    default: https://github.com
  api_url:
    description: Its REST API. By default the one that GitHub and GitHub Enterprise have.
    type: str
    default: ""
  host:
    description: The inventory's name for the host.
    type: str
    default: loop
seealso:
  - module: as215932.engineering_loop.engine_release
"""

EXAMPLES = r"""
- name: Pin the newest engine
  as215932.engineering_loop.version_pin:
    path: "{{ inventory_dir }}/host_vars/loop.yml"
    repo: https://github.com/AS215932/engineering-loop.git
  delegate_to: localhost

- name: Propose the newest engine, if it is green
  as215932.engineering_loop.version_pin:
    path: "{{ inventory_dir }}/host_vars/loop.yml"
    repo: https://github.com/AS215932/engineering-loop.git
    checks: [all]
    pull_request: true
    token: "{{ lookup('ansible.builtin.env', 'GH_TOKEN') }}"
  delegate_to: localhost

- name: Pin another program that stands in the same files
  as215932.engineering_loop.version_pin:
    inventories: "{{ ansible_inventory_sources | list }}"
    groups: "{{ group_names }}"
    host: "{{ inventory_hostname }}"
    key: knowledge_mcp_version
    repo: https://github.com/example/knowledge-mcp.git
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
path:
  description: The file that holds the pin.
  returned: success
  type: str
  sample: /srv/ansible/inventory/host_vars/loop/engine.yml
overridden:
  description: Files that have it as well and are not in force.
  returned: success
  type: list
  elements: str
  sample: [/srv/ansible/inventory/group_vars/all.yml]
pull_request:
  description: The address of the draft pull request, empty without O(pull_request) or where there is nothing to bump.
  returned: success
  type: str
  sample: https://github.com/example/inventory/pull/7
checks:
  description: The checks that passed on the new commit, of those that were asked for.
  returned: success
  type: list
  elements: str
  sample: [lint, unit]
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
from typing import Any, TypeAlias

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base import untrusted
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.forge.client import Forge
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import pin_pull_request, version_pin

Result: TypeAlias = tuple[version_pin.Bump, dict[str, Any]]


def resolve(module: AnsibleModule, before: str) -> tuple[version_pin.Bump, list[str]]:
    """The bump that is asked for, and the checks that passed on its commit."""
    wanted = module.params
    repo, forge_url = wanted["repo"], wanted["forge_url"].rstrip("/")
    options = {name: wanted[name] for name in ("repo", "to", "token", "allow_downgrade", "any_branch")}
    found = version_pin.resolve(version_pin.Target(**options, forge=forge_url), before)
    if not (wanted["checks"] and found.changed):
        return found, []
    home = pin_pull_request.home_of(repo, forge_url, wanted["api_url"])
    return found, pin_pull_request.check_green(
        Forge(home.api_url, token(module)), home.repo, found.after, wanted["checks"]
    )


def token(module: AnsibleModule) -> str:
    """The token that checks and pull requests cannot do without."""
    if not module.params["token"]:
        raise LoopError(f"{module.params['forge_url']} must be asked with a token: set GH_TOKEN in your environment")
    return str(module.params["token"])


def found_in(module: AnsibleModule) -> version_pin.Found:
    """The file that holds the pin."""
    wanted = module.params
    if wanted["path"]:
        return version_pin.Found(wanted["path"], [])
    return version_pin.find(wanted["inventories"], wanted["host"], wanted["groups"], wanted["key"], wanted["in_force"])


def bump(module: AnsibleModule, path: str) -> Result:
    """Write the bump into the file."""
    pin = version_pin.load(path, module.params["key"])
    found, checks = resolve(module, pin.value)
    if found.changed and not module.check_mode:
        version_pin.write(path, pin, found.after)
    return found, {"changed": found.changed, "checks": checks, "pull_request": ""}


def propose(module: AnsibleModule, path: str) -> Result:
    """Propose the bump as a pull request."""
    wanted = module.params
    secret, forge_url = token(module), wanted["forge_url"]
    base = pin_pull_request.base_of(path, secret, forge_url, wanted["remote"], wanted["key"])
    home = pin_pull_request.home_of(base.url, forge_url, wanted["api_url"])
    found, checks = resolve(module, base.pin.value)
    address, changed = "", found.changed
    if found.changed and not module.check_mode:
        title = f"Bump the engineering loop of {wanted['host']} to {found.after[:12]}"
        body = pin_pull_request.body_of(found, wanted["repo"], wanted["host"], checks)
        pushed = pin_pull_request.push(base, found.after, f"{title}\n\nBefore: {found.before}\n")
        forge = Forge(home.api_url, secret)
        address, opened = pin_pull_request.open_pull(forge, home.repo, base, found.after, title, body)
        changed = pushed or opened
    return found, {"changed": changed, "checks": checks, "pull_request": address}


def leave(module: AnsibleModule, place: version_pin.Found, found: version_pin.Bump, more: dict[str, Any]) -> None:
    """Exit with what was found; in diff mode with the value before and after."""
    key, in_force = module.params["key"], module.params["in_force"]
    result = untrusted.shown({**dataclasses.asdict(found), **more, **place._asdict()})
    if in_force and in_force not in (found.before, found.after):
        module.warn(f"{key} is {in_force} in this play, not what {place.path} says: something else sets it as well")
    if module._diff:
        # Only the value: the rest of the file may hold what is nobody's business in a log.
        old, new = (f"{key}: {sha}\n" for sha in (found.before, found.after))
        names = {f"{side}_header": place.path for side in ("before", "after")}
        result["diff"] = {"before": old, "after": new, **names}
    module.exit_json(**result)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path"},
            "key": {"type": "str", "default": version_pin.KEY, "no_log": False},
            "inventories": {"type": "list", "elements": "str", "default": []},
            "groups": {"type": "list", "elements": "str", "default": []},
            "in_force": {"type": "str", "default": ""},
            "repo": {"type": "str", "default": ""},
            "to": {"type": "str", "default": ""},
            "token": {"type": "str", "default": "", "no_log": True},
            "allow_downgrade": {"type": "bool", "default": False},
            "any_branch": {"type": "bool", "default": False},
            "checks": {"type": "list", "elements": "str", "default": []},
            "pull_request": {"type": "bool", "default": False},
            "remote": {"type": "str", "default": "origin"},
            "forge_url": {"type": "str", "default": "https://github.com"},
            "api_url": {"type": "str", "default": ""},
            "host": {"type": "str", "default": "loop"},
        },
        required_one_of=[("path", "inventories")],
        supports_check_mode=True,
    )
    try:
        put_habits_aside(module.ansible_version)
        place = found_in(module)
        leave(module, place, *(propose if module.params["pull_request"] else bump)(module, place.path))
    except LoopError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
