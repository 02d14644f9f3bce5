# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a module and show meanwhile that it runs. meta/runtime.yml has the modules of ours that are run so."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.as215932.engineering_loop.plugins.plugin_utils.watch import watched

SPEC = {
    "module": {"type": "str", "required": True},
    "args": {"type": "dict", "default": {}},
    "look": {"type": "str", "default": ""},
}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible's plugins have no types
    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        module, args, look = self._task.action, dict(self._task.args), ""
        if module.rpartition(".")[2] == "watched":
            _valid, given = self.validate_argument_spec(SPEC)
            module, args, look = given["module"], given["args"], given["look"]
        background = bool(self._task.async_val) and not self._connection.has_native_async
        options = {"module_name": module, "module_args": args, "task_vars": task_vars, "wrap_async": background}
        if background:  # whoever sends it there follows it
            return {**result, **self._execute_module(**options)}
        with watched(self, task_vars, look):
            result.update(self._execute_module(**options))
        self._remove_tmp_path(self._connection._shell.tmpdir)
        return result
