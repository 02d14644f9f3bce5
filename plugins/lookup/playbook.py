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
  - Without a name it is this run itself, with the playbook and the tags that it was started with. Of what was given by
    C(-e) only what can hold no secret is shown, which are the role's variables with a plain value.
author:
  - AS215932 (@AS215932)
options:
  _terms:
    description: Names of playbooks; none for the one that runs.
    type: list
    elements: str
  hosts:
    description: Run it for these hosts instead of the one that asks.
    type: list
    elements: str
    version_added: "0.2.0"
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

import re
import shlex
from typing import Any

from ansible import context
from ansible.plugins.lookup import LookupBase


class LookupModule(LookupBase):  # type: ignore[misc]  # Ansible's plugins have no types
    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        given = variables or {}
        before = [word for source in given.get("ansible_inventory_sources") or () for word in ("-i", str(source))]
        after = ["-l", ",".join(kwargs.get("hosts") or [given.get("inventory_hostname", "HOST")])]
        if given.get("engineering_loop_hosts"):
            after += ["-e", f"engineering_loop_hosts={given['engineering_loop_hosts']}"]
        name = "as215932.engineering_loop"
        if terms:
            return [shlex.join(["ansible-playbook", *before, f"{name}.{term}", *after]) for term in terms]
        tags = [
            word
            for option, every in (("--tags", "ansible_run_tags"), ("--skip-tags", "ansible_skip_tags"))
            if (names := [one for one in given.get(every, ()) if one != "all"])
            for word in (option, ",".join(names))
        ]
        extra = [str(one) for one in context.CLIARGS.get("extra_vars", ())]
        plain = [one for one in extra if re.fullmatch(r"@.+|engineering_loop_\w+=[\w./:,%-]*", one)]
        after += [word for one in plain if not one.startswith("engineering_loop_hosts=") for word in ("-e", one)]
        again = shlex.join(["ansible-playbook", *before, *context.CLIARGS.get("args", ()), *tags, *after])
        return [again + (" and what else was given by -e" if len(plain) < len(extra) else "")]
