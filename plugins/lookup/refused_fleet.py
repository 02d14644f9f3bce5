# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: refused_fleet
short_description: Which loops of the inventory would come in each other's way
version_added: "0.2.0"
description:
  - Two loops that work on one repository would take the same issues, and two on one machine need a place each.
  - Looks at the inventory alone, at all loops of it whatever C(--limit) says. What a play has in C(vars) holds for the
    hosts of the play.
  - The loops are the hosts of the group C(engineering_loop) and those of the play. Where there is no such group, they
    are those of the play and whichever hosts have C(engineering_loop_repos) or C(engineering_loop_version), if not
    every host has.
  - A host whose C(engineering_loop_state) is V(absent) is no loop.
author:
  - AS215932 (@AS215932)
options:
  _terms:
    description: The file with the role's defaults.
    type: list
    elements: path
    required: true
"""

EXAMPLES = r"""
- name: Refuse loops that would take the same issues
  ansible.builtin.assert:
    that: refused | length == 0
    fail_msg: "{{ refused | join('\n') }}"
  vars:
    refused: "{{ query('as215932.engineering_loop.refused_fleet', role_path ~ '/defaults/main.yml') }}"
"""

RETURN = r"""
_raw:
  description: A line for whatever is refused, with the names of the hosts and what to change.
  type: list
  elements: str
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import printable, without_passwords
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import fleet
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.variables import MAX_TEXT, PREFIX

GROUP = "engineering_loop"
OWN = {f"{PREFIX}repos", f"{PREFIX}version"}
# By what else than its address one machine may be told from another: the way that leads there.
WAYS = ("ansible_port", "ansible_connection", "ansible_ssh_common_args", "ansible_ssh_extra_args", "ansible_ssh_args")
USUAL = ("22", "ssh", "smart")


class LookupModule(LookupBase):  # type: ignore[misc]  # Ansible's plugins have no types
    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        self._variables = variables or {}
        self._defaults = self._loader.load_from_file(terms[0], trusted_as_template=True, unsafe=True)
        self._me = self._variables["inventory_hostname"]
        self._inventory = self._variables["hostvars"]
        self._play = self._variables.get("ansible_play_hosts_all") or [self._me]
        self._mine = self._inventory.raw_get(self._me)
        names = self._loops()
        if len(names) < 2:
            return []
        loops = [self._loop(name) for name in names]
        crowded = {machine for machine, number in Counter(one.machine for one in loops if one).items() if number > 1}
        found = [self._placed(one) if one.machine in crowded else one for one in loops if one]
        return fleet.refused(found, self._play)

    def _loops(self) -> list[str]:
        groups = self._variables.get("groups", {})
        play = [host for host in self._play if host == self._me or self._owns(host)]
        if GROUP in groups:
            return list(dict.fromkeys([*groups[GROUP], *play]))
        every = groups.get("all", [])
        owning = [host for host in every if self._owns(host)]
        return list(dict.fromkeys([*(owning if len(owning) < len(every) else []), *play]))

    def _owns(self, host: str) -> bool:
        return not OWN.isdisjoint(self._inventory.raw_get(host))

    def _seen_by(self, host: str) -> dict[str, Any]:
        """The variables of another host of the inventory, as the role would see them there."""
        # What this host has of its own is not the other's; what the play has for all its hosts is.
        play = {
            name: value
            for name, value in self._variables.items()
            if (name not in self._mine or self._mine[name] != value)
            and not name.startswith("ansible_")
            and (host in self._play or name.startswith(f"{PREFIX}_") or name in ("groups", "hostvars"))
            and not (name in self._defaults and self._defaults[name] == value)
        }
        return {**self._defaults, **self._inventory.raw_get(host), **play, "inventory_hostname": host}

    def _loop(self, host: str) -> fleet.Loop | None:
        """What one host works on, and where; None where it is no loop."""
        seen = self._variables if host == self._me else self._seen_by(host)

        def ask(name: str, otherwise: Any = "") -> Any:
            return self._ask(seen, name, otherwise)

        try:
            shared = [str(one) for one in ask(f"{PREFIX}repos_shared_unsafely", [])]
        except (AnsibleError, TypeError):
            shared = []
        name = ""
        try:
            name = f"{PREFIX}state"
            if ask(name) == "absent":
                return None
            name = f"{PREFIX}repos"
            repos = ask(name, [])
            if not isinstance(repos, (list, tuple)):
                raise AnsibleError("it is no list")
            name = f"{PREFIX}github_api_url"
            forge = str(ask(name))
        except AnsibleError as error:
            why = printable(without_passwords(" ".join(str(error).split())))[:MAX_TEXT]
            return fleet.Loop(host, self._machine(host), unknown=f"{name} of {host} cannot be made out: {why}",
                              shared=shared)  # fmt: skip
        mine = [str(one) for one in repos if isinstance(one, str)]
        by_default = f"{PREFIX}repos" in self._defaults and repos == self._defaults[f"{PREFIX}repos"]
        return fleet.Loop(host, self._machine(host), forge, mine, shared, by_default=by_default)

    def _machine(self, host: str) -> tuple[str, ...]:
        """Where a host is, and the way there; its address where that is all."""
        told = self._inventory[host]
        try:
            if told.get("ansible_connection") == "local":
                return ("the controller",)
            address = str(told.get("ansible_host") or host).lower()
            ways = [str(told.get(name) or "") for name in WAYS]
        except AnsibleError:
            return ()  # it is found when somebody goes there
        return (address, *("" if way in USUAL else way for way in ways))

    def _placed(self, loop: fleet.Loop) -> fleet.Loop:
        return loop._replace(places=dict(self._places(loop.host)))

    def _places(self, host: str) -> Iterator[tuple[str, str]]:
        seen = self._variables if host == self._me else self._seen_by(host)
        for name in fleet.PLACES:
            try:
                yield name, str(self._ask(seen, f"{PREFIX}{name}"))
            except AnsibleError:
                continue  # its own apply refuses it

    def _ask(self, seen: dict[str, Any], name: str, otherwise: Any = "") -> Any:
        if name not in seen:
            return otherwise
        return self._templar.copy_with_new_env(available_variables=seen).template(seen[name])
