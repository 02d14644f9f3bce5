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
  - The hosts that a rollout begins with come first, which are those of C(engineering_loop_fleet_first), else of the
    inventory's group C(engineering_loop_canary). The variables of hosts are known from the second play on.
author:
  - AS215932 (@AS215932)
options:
  doing:
    description:
      - What C(--tags) and C(--skip-tags) leave to be done. Not given for a playbook that has no tags, where C(--tags)
        would leave out everything.
    type: list
    elements: str
  batches:
    description:
      - Give the hosts themselves, in the order in which they are taken, a list for each batch. How large one is says
        C(engineering_loop_serial).
    type: bool
    default: false
    version_added: "0.2.0"
"""

EXAMPLES = r"""
- name: Look at the loop hosts
  hosts: "{{ query('as215932.engineering_loop.loop_hosts') }}"
  tasks:
    - name: Look at the host
      as215932.engineering_loop.loop_info:

- name: Say which hosts come after which
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Say it
      ansible.builtin.debug:
        msg: "{{ query('as215932.engineering_loop.loop_hosts', batches=true) }}"
"""

RETURN = r"""
_raw:
  description: The pattern, after the names of the hosts that come first; or the batches.
  type: list
  elements: raw
"""

from typing import Any

from ansible import context
from ansible.errors import AnsibleError
from ansible.inventory.manager import InventoryManager
from ansible.plugins.lookup import LookupBase
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError, printable
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import fleet

UNTAGGED = "This playbook has no tags."
TAGS = (
    "The tags of this playbook are apply, validate, packages, canary, timer, and takeover, identity, release, policy,"
    " workspace, service, of which each brings the others."
)
GROUP = "engineering_loop"
HOST = "loop"
FIRST = "engineering_loop_canary"


class LookupModule(LookupBase):  # type: ignore[misc]  # Ansible's plugins have no types
    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[Any]:
        given = variables or {}
        batches, doing, tags = kwargs.get("batches"), kwargs.get("doing"), given.get("ansible_run_tags", ["all"])
        groups: dict[str, list[str]] = given.get("groups", {})
        pattern = given.get("engineering_loop_hosts") or (GROUP if GROUP in groups else HOST)
        limit = given.get("ansible_limit")
        if context.CLIARGS.get("syntax"):  # as an editor or a linter asks for it, without the inventory
            return [[pattern]] if batches else [pattern]
        if not (batches or "all" in tags if doing is None else doing or "validate" in tags):
            asked = " ".join(
                f"{option} {','.join(names)}"
                for option, names in (("--tags", tags), ("--skip-tags", given.get("ansible_skip_tags")))
                if names
            )
            raise AnsibleError(f"Nothing to do: {asked} leaves nothing. {UNTAGGED if doing is None else TAGS}")
        manager = self._manager(groups)
        manager.subset(limit)
        hosts = list(map(str, manager.list_hosts(pattern)))
        if not hosts:
            known = ", ".join(sorted(groups.get("all", []))) or "none"
            limited = f" and --limit {limit}" if limit else ""
            raise AnsibleError(
                f"Nothing to do: no host matches '{pattern}'{limited}. Name the loop host or its group with"
                " -e engineering_loop_hosts=NAME, or put it into the group engineering_loop. The inventory's hosts:"
                f" {known}."
            )
        if doing is None and not batches:
            return [pattern]
        first = self._first(given, groups, hosts)
        if not batches:
            return [*(host for host in hosts if host in first), pattern]
        try:
            return fleet.batches(hosts, first, self._one(given, hosts, "engineering_loop_serial", 1))
        except LoopError as error:
            raise AnsibleError(str(error)) from error

    def _manager(self, groups: dict[str, list[str]]) -> InventoryManager:
        """What Ansible itself makes of a pattern and a limit."""
        manager = InventoryManager(self._loader, parse=False)
        for group, hosts in groups.items():
            manager.add_group(group)
            for host in hosts:
                manager.add_host(host, group=group)
        return manager

    def _first(self, given: dict[str, Any], groups: dict[str, list[str]], hosts: list[str]) -> set[str]:
        """The hosts that come before the others."""
        asked = self._one(given, hosts, "engineering_loop_fleet_first", FIRST if FIRST in groups else [])
        manager = self._manager(groups)
        found: set[str] = set()
        for name in asked if isinstance(asked, (list, tuple)) else [asked]:
            named = set(map(str, manager.list_hosts(str(name)))) if str(name).strip() else set()
            if not named and name != FIRST:
                raise AnsibleError(
                    f"engineering_loop_fleet_first names {printable(str(name))[:100] or 'nobody'}, which is no host or"
                    f" group of the inventory. Its hosts: {', '.join(sorted(groups.get('all', [])))}."
                )
            found |= named
        return found

    def _one(self, given: dict[str, Any], hosts: list[str], name: str, otherwise: Any) -> Any:
        """What all hosts have as this variable: a run has one order."""
        inventory = given.get("hostvars")
        if name in given or inventory is None:
            return self._templar.template(given.get(name, otherwise))
        values = {host: inventory[host][name] for host in hosts if name in inventory[host]}
        different = [host for host in hosts if values.get(host) != values.get(hosts[0])]
        if different:
            raise AnsibleError(
                f"{name} is {printable(str(values.get(hosts[0], 'not set')))[:100]} for {hosts[0]} and"
                f" {printable(str(values.get(different[0], 'not set')))[:100]} for {different[0]}, but a run has one"
                " order: set it for all, as in group_vars/engineering_loop.yml, or with -e"
            )
        return values.get(hosts[0], otherwise)
