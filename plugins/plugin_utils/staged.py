# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action plugin of every module that is one stage of the role: where the host has the code, that does it."""

from __future__ import annotations

from typing import Any

from ansible_collections.as215932.engineering_loop.plugins.plugin_utils import installed, watched

# The role's variable for where it puts the code.
PLACE = "engineering_loop_lib_dir"


class ActionModule(watched.ActionModule):
    def execute(self, **options: Any) -> dict[str, Any]:
        task_vars = options["task_vars"] or {}
        asked = {
            "module": self._task.action.rpartition(".")[2],
            "options": dict(self._task.args),
            "check": bool(self._task.check_mode),
            "diff": bool(self._task.diff),
        }
        place = str(self._templar.template(task_vars.get(PLACE, "")))
        return installed.ask(self, task_vars, place, "stages.step", asked) or super().execute(**options)
