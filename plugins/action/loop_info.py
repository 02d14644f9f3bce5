# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show the module while it runs; and where the host has the code of this very collection, ask that.

An apply with nothing to do is one look. To send the host all of our code for it, and to have it compiled there, would
take longer than to look. Whatever is not as it is after an apply, the module itself is sent, as ever.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from ansible.module_utils.common.text.converters import to_bytes
from ansible.utils.display import Display
from ansible_collections.as215932.engineering_loop.plugins.plugin_utils import on_host, watched
from ansible_collections.as215932.engineering_loop.plugins.plugin_utils.watch import watched as watching

CORE = Path(__file__).resolve().parents[1] / "module_utils"
PYTHON = "/usr/bin/python3"


@functools.cache
def digests() -> dict[str, str]:
    """Of every file of the core, as it is installed on a host."""
    found = {str(path.relative_to(CORE)): path.read_bytes() for path in CORE.rglob("*.py")}
    return {name: hashlib.sha256(text).hexdigest() for name, text in {**found, "__init__.py": b""}.items()}


class ActionModule(watched.ActionModule):
    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        return self._installed(task_vars or {}) or super().run(tmp, task_vars)

    def _installed(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """What the code on the host says; empty where that is not ours, or says nothing that could be read."""
        lib_dir = (self._task.args.get("takeover") or {}).get("lib_dir")
        asked = self._task.args.get("stages") and lib_dir and not self._task.async_val
        if not asked or self._templar.template(task_vars.get("ansible_python_interpreter")) != PYTHON:
            return {}
        package = f"{lib_dir}/engineering_loop_core"
        given = {"package": package, "digests": digests(), "asked": dict(self._task.args)}
        program = f"{Path(on_host.__file__).read_text(encoding='utf-8')}\nmain({json.dumps(given)!r})\n"
        with watching(self, task_vars):
            command = f"{self._compute_environment_string()} {PYTHON} -I -"
            done = self._low_level_execute_command(command.strip(), in_data=to_bytes(program))
        try:
            told = json.loads(done["stdout"])
        except ValueError:
            return {}
        for line in told["warnings"]:
            Display().warning(line)
        found: dict[str, Any] = told["result"]
        return found
