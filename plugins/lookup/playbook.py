# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: playbook
short_description: The command that runs a playbook of this collection for this host
version_added: "0.1.0"
description:
  - By its full name, with this run's inventory and host, so that it can be typed wherever the collection is installed.
author:
  - AS215932 (@AS215932)
options:
  _terms:
    description: Names of playbooks.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Say what to type next
  ansible.builtin.debug:
    msg: "{{ lookup('as215932.engineering_loop.playbook', 'apply') }} --check --diff"
"""

RETURN = r"""
_raw:
  description: A command each.
  type: list
  elements: str
"""

import shlex
from typing import Any

from ansible.plugins.lookup import LookupBase


class LookupModule(LookupBase):  # type: ignore[misc]  # Ansible's plugins have no types
    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        given = variables or {}
        before = [word for source in given.get("ansible_inventory_sources") or () for word in ("-i", str(source))]
        after = ["-l", given.get("inventory_hostname", "HOST")]
        if given.get("engineering_loop_hosts"):
            after += ["-e", f"engineering_loop_hosts={given['engineering_loop_hosts']}"]
        name = "as215932.engineering_loop"
        return [shlex.join(["ansible-playbook", *before, f"{name}.{term}", *after]) for term in terms]
