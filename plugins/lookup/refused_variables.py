# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: refused_variables
short_description: What is wrong with the role's variables
version_added: "0.1.0"
description:
  - Judges the variables of this host by the role's argument specification, and by what else a host could not bear,
    before the host is looked at.
  - A type is that of the value itself. Nothing is converted, since the role hands values on as they are.
author:
  - AS215932 (@AS215932)
options:
  _terms:
    description: The file with the role's argument specification.
    type: list
    elements: path
    required: true
  idle:
    description: Expressions for the names of variables that are known although the specification does not have them.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Refuse variables that no host could bear
  ansible.builtin.assert:
    that: refused | length == 0
    fail_msg: "{{ refused | join('\n') }}"
  vars:
    refused: "{{ query('as215932.engineering_loop.refused_variables', role_path ~ '/meta/argument_specs.yml') }}"
"""

RETURN = r"""
_raw:
  description: A line for each variable that is refused, with its name, its value and what is allowed.
  type: list
  elements: str
"""

import re
from typing import Any

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import check_controller
from ansible.errors import AnsibleError
from ansible.errors import AnsibleUndefinedVariable as UNDEFINED
from ansible.plugins.lookup import LookupBase
from ansible.release import __version__ as ansible
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError, printable
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import variables as core

# What the role reads on the controller, and of which variable.
READ = {
    "engineering_loop__lockfile": "engineering_loop_agent.lockfile",
    "engineering_loop__icinga_ca": "engineering_loop_icinga_ca_src",
}


class LookupModule(LookupBase):  # type: ignore[misc]  # Ansible's plugins have no types
    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        try:  # before anything of the role is made out that only a newer one can
            check_controller(ansible)
        except LoopError as error:
            raise AnsibleError(str(error)) from error
        raw = variables or {}
        said = self._loader.load_from_file(terms[0], unsafe=True)  # no copy: it is only read
        (entry,) = said["argument_specs"].values()
        options = entry["options"]
        idle = re.compile(f"({'|'.join(kwargs.get('idle') or ())})\\Z")
        ours = [name for name in raw if re.match(rf"{core.PREFIX}[^_]", name)]
        given: dict[str, Any] = {}
        broken: dict[str, tuple[str, AnsibleError]] = {}
        for name in [*sorted(ours, key=lambda name: ([*options, name].index(name), name)), *READ]:
            if name in options or idle.match(name) or (name in READ and name in raw):
                try:
                    given[name] = self._templar.template(raw[name])
                except AnsibleError as error:
                    why = printable(" ".join(str(error).split()))[: core.MAX_TEXT]
                    broken.setdefault(why, (name, error))  # of two that fail alike, one uses the other
        unknown = [name for name in ours if name not in options and not idle.match(name)]
        # What follows from another variable comes to nothing where that is wrong, and is looked at where none is.
        known = {
            name: option for name, option in options.items() if name not in {one for one, _error in broken.values()}
        }
        first = {name: option for name, option in known.items() if core.PREFIX not in str(raw.get(name, ""))}
        lines = core.refused(first, given, sorted(unknown)) or core.refused(known, given)
        told = {why: name for why, (name, error) in broken.items() if not lines or isinstance(error, UNDEFINED)}
        return lines + [f"{READ.get(name, name)} cannot be made out: {why}" for why, name in told.items()]
