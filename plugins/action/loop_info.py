# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show the module while it runs; and where the host has the code of this very collection, ask that.

An apply with nothing to do is one look.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.as215932.engineering_loop.plugins.plugin_utils import installed, watched
from ansible_collections.as215932.engineering_loop.plugins.plugin_utils.watch import watched as watching


class ActionModule(watched.ActionModule):
    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        return self._installed(task_vars or {}) or super().run(tmp, task_vars)

    def _installed(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        lib_dir = (self._task.args.get("takeover") or {}).get("lib_dir")
        if not self._task.args.get("stages") or not lib_dir or self._task.async_val:
            return {}
        with watching(self, task_vars):
            return installed.ask(self, task_vars, lib_dir, "stages.look")
