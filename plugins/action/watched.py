# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a module and show meanwhile that it runs. meta/runtime.yml has the modules of ours that are run so."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.as215932.engineering_loop.plugins.plugin_utils.watch import watched


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible's plugins have no types
    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        module, args, look = self._task.action, dict(self._task.args), ""
        if module.rpartition(".")[2] == "watched":
            if not isinstance(args.get("module"), str) or not isinstance(args.get("args", {}), dict):
                raise AnsibleActionFail("watched needs `module`, the name of one, and may have `args`, a dictionary")
            if unknown := sorted(set(args) - {"module", "args", "look"}):
                raise AnsibleActionFail(f"watched knows no {', '.join(unknown)}: it has module, args and look")
            module, args, look = args["module"], args.get("args") or {}, args.get("look") or ""
        background = bool(self._task.async_val) and not self._connection.has_native_async
        options = {"module_name": module, "module_args": args, "task_vars": task_vars, "wrap_async": background}
        if background:  # whoever sends it there follows it
            return {**result, **self._execute_module(**options)}
        with watched(self, task_vars, look):
            result.update(self._execute_module(**options))
        self._remove_tmp_path(self._connection._shell.tmpdir)
        return result
