# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: stages
short_description: What the role is about to ask of each stage of an apply
version_added: "0.3.0"
description:
  - Reads it from the tasks of the role, each of which is the only place where the options of its stage stand, so that
    M(as215932.engineering_loop.loop_info) can say what of them has anything to do.
  - What a module keeps out of logs is left out, and what M(as215932.engineering_loop.loop_info) has options of its own
    for.
author:
  - AS215932 (@AS215932)
options:
  _terms:
    description: The directory with the tasks of the role.
    type: list
    elements: path
    required: true
"""

EXAMPLES = r"""
- name: Look whether there is anything to do
  as215932.engineering_loop.loop_info:
    stages: "{{ query('as215932.engineering_loop.stages', role_path ~ '/tasks') | first }}"
"""

RETURN = r"""
_raw:
  description: One dictionary, from each stage to the options of its module.
  type: list
  elements: dict
"""

from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase
from ansible_collections.as215932.engineering_loop.plugins.module_utils.stages.order import APART, STAGES

COLLECTION = "as215932.engineering_loop"


class LookupModule(LookupBase):  # type: ignore[misc]  # Ansible's plugins have no types
    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[dict[str, Any]]:
        return [{name: self._asked(terms[0], name) for name in STAGES}]

    def _asked(self, directory: str, name: str) -> dict[str, Any]:
        """What the task of this stage says, made out as Ansible will when it comes to the task."""
        path, action = f"{directory}/{name}.yml", f"{COLLECTION}.{STAGES[name].module}"
        tasks = self._loader.load_from_file(path, trusted_as_template=True, unsafe=True)  # no copy: it is only read
        given = [task[action] for task in tasks if action in task]
        if not given:
            raise AnsibleError(f"{path} has no task for {action}")
        found: dict[str, Any] = self._templar.template({key: given[0][key] for key in given[0] if key not in APART})
        return found
