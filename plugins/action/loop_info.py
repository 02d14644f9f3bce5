# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show the module while it runs; and where the host has the code of this very collection, ask that.

An apply with nothing to do is one look.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.as215932.engineering_loop.plugins.plugin_utils import installed, watched


class ActionModule(watched.ActionModule):
    def execute(self, **options: Any) -> dict[str, Any]:
        args = dict(self._task.args)
        place = (args.get("takeover") or {}).get("lib_dir", "") if args.get("stages") else ""
        return installed.ask(self, options["task_vars"] or {}, place, "stages.look", args) or super().execute(**options)
