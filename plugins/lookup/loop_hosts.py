# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: loop_hosts
short_description: The hosts that a playbook of this collection is for
version_added: "0.1.0"
description:
  - The pattern for the C(hosts) of a play. That is E(engineering_loop_hosts) as given by C(-e), else the inventory's
    group C(engineering_loop), else its host or group C(loop).
  - Where that pattern, with C(--limit) and C(--tags), leaves nothing to do, a play would be skipped and end well. Here
    it is an error that says what to type.
author:
  - AS215932 (@AS215932)
options:
  doing:
    description:
      - What C(--tags) and C(--skip-tags) leave to be done. Not given for a playbook that has no tags, where C(--tags)
        would leave out everything.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Look at the loop hosts
  hosts: "{{ query('as215932.engineering_loop.loop_hosts') }}"
  tasks:
    - name: Look at the host
      as215932.engineering_loop.loop_info:
"""

RETURN = r"""
_raw:
  description: The pattern.
  type: list
  elements: str
"""

from typing import Any

from ansible import context
from ansible.errors import AnsibleError
from ansible.inventory.manager import InventoryManager
from ansible.plugins.lookup import LookupBase

UNTAGGED = "This playbook has no tags."
TAGS = (
    "The tags of this playbook are apply, validate, packages, canary, timer, and takeover, identity, release, policy,"
    " workspace, service, of which each brings the others."
)
GROUP = "engineering_loop"
HOST = "loop"


class LookupModule(LookupBase):  # type: ignore[misc]  # Ansible's plugins have no types
    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        given = variables or {}
        doing, tags = kwargs.get("doing"), given.get("ansible_run_tags", ["all"])
        groups: dict[str, list[str]] = given.get("groups", {})
        pattern = given.get("engineering_loop_hosts") or (GROUP if GROUP in groups else HOST)
        limit = given.get("ansible_limit")
        if context.CLIARGS.get("syntax"):  # as an editor or a linter asks for it, without the inventory
            return [pattern]
        if not ("all" in tags if doing is None else doing or "validate" in tags):
            asked = " ".join(
                f"{option} {','.join(names)}"
                for option, names in (("--tags", tags), ("--skip-tags", given.get("ansible_skip_tags")))
                if names
            )
            raise AnsibleError(f"Nothing to do: {asked} leaves nothing. {UNTAGGED if doing is None else TAGS}")
        if not self._hosts(groups, pattern, limit):
            known = ", ".join(sorted(groups.get("all", []))) or "none"
            limited = f" and --limit {limit}" if limit else ""
            raise AnsibleError(
                f"Nothing to do: no host matches '{pattern}'{limited}. Name the loop host or its group with"
                " -e engineering_loop_hosts=NAME, or put it into the group engineering_loop. The inventory's hosts:"
                f" {known}."
            )
        return [pattern]

    def _hosts(self, groups: dict[str, list[str]], pattern: str, limit: str | None) -> list[str]:
        """What Ansible itself makes of pattern and limit."""
        manager = InventoryManager(self._loader, parse=False)
        for group, hosts in groups.items():
            manager.add_group(group)
            for host in hosts:
                manager.add_host(host, group=group)
        manager.subset(limit)
        found: list[str] = manager.list_hosts(pattern)
        return found
