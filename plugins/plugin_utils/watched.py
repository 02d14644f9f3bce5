# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action plugin of every module of ours that may take long: the module as usual, and meanwhile that it runs.

A redirection in meta/runtime.yml would do it as well, but to ansible-lint each task were one of the plugin's then.
"""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.as215932.engineering_loop.plugins.plugin_utils.watch import watched


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible's plugins have no types
    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        module, args, look = self.what()
        background = bool(self._task.async_val) and not self._connection.has_native_async
        options = {"module_name": module, "module_args": args, "task_vars": task_vars, "wrap_async": background}
        if background:  # whoever sends it there follows it
            return {**result, **self._execute_module(**options)}
        with watched(self, task_vars, look):
            result.update(self.execute(**options))
        self._remove_tmp_path(self._connection._shell.tmpdir)
        return result

    def execute(self, **options: Any) -> dict[str, Any]:
        found: dict[str, Any] = self._execute_module(**options)
        return found

    def what(self) -> tuple[str, dict[str, Any], str]:
        """The module, its options, and what to ask the host where the module does not say what it does."""
        return self._task.action, dict(self._task.args), ""
