# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Have a host tell how it fares. One that cannot be reached or cannot answer has a status as well."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.as215932.engineering_loop.plugins.lookup import playbook
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.untrusted import show
from ansible_collections.as215932.engineering_loop.plugins.module_utils.report import status, table
from ansible_collections.as215932.engineering_loop.plugins.plugin_utils import installed

MAX_PROBLEM = 500


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible's plugins have no types
    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        given = task_vars or {}
        host = str(given.get("inventory_hostname", ""))
        try:
            found = self._looked(given)
        except AnsibleConnectionFailure as error:
            found = {"status": status.unreachable(_line(error.message))}
        except AnsibleError as error:  # such as a become method that does not work
            found = {"status": status.silent(_line(error.message))}
        if found.get("unreachable"):
            found = {"status": status.unreachable(_line(found.get("msg")))}
        elif "status" not in found:
            found = {"status": status.silent(_line(found.get("msg") or found.get("module_stderr")))}
        begin = playbook.LookupModule(self._loader, self._templar).run(["apply"], given)[0].partition(" as215932.")[0]
        return {"changed": False, "status": table.for_host(found["status"], host, begin)}

    def _looked(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        args = dict(self._task.args)
        found: dict[str, Any] = installed.ask(self, task_vars, args.get("lib_dir", ""), "report.status", args)
        return found or self._execute_module(task_vars=task_vars)


def _line(text: object) -> str:
    return show(" ".join(str(text or "").split()), MAX_PROBLEM).rstrip(".")
