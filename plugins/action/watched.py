# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run any module and show meanwhile that it runs."""

from __future__ import annotations

from typing import Any

from ansible_collections.as215932.engineering_loop.plugins.plugin_utils import watched

SPEC = {
    "module": {"type": "str", "required": True},
    "args": {"type": "dict", "default": {}},
    "look": {"type": "str", "default": ""},
}


class ActionModule(watched.ActionModule):
    def what(self) -> tuple[str, dict[str, Any], str]:
        _valid, given = self.validate_argument_spec(SPEC)
        return given["module"], given["args"], given["look"]
