# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show the module while it runs, and then as a warning what it foretells of another version."""

from __future__ import annotations

from typing import Any

from ansible.utils.display import Display
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.untrusted import show
from ansible_collections.as215932.engineering_loop.plugins.plugin_utils import staged

MAX_WARNING = 4000


class ActionModule(staged.ActionModule):
    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        if told := result.get("foretell"):
            host = str((task_vars or {}).get("inventory_hostname", ""))
            Display().warning(show(f"{host}: {'. '.join(map(str, told))}", MAX_WARNING))
        return result
