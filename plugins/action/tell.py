# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell an operator some lines, as they are."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import printable
from ansible_collections.as215932.engineering_loop.plugins.plugin_utils.watch import host_of

display = Display()


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible's plugins have no types
    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _valid, given = self.validate_argument_spec(
            {"lines": {"type": "list", "elements": "str", "required": True}, "failure": {"type": "str", "default": ""}}
        )
        lines = [printable(line.strip()) for told in given["lines"] for line in told.splitlines() if line.strip()]
        for line in lines:
            display.display(f"{host_of(task_vars)} | {line}")
        if given["failure"]:  # what a failed task returns is shown as well, so not the lines again
            return {"changed": False, "failed": True, "msg": given["failure"]}
        return {"changed": False, "lines": lines}
