# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask the code of this very collection where a host has it, in place of sending all of it once more.

To look at a host takes less than to send it our code and to have that compiled there. Whatever is not as it is after an
apply, the module itself is sent, as ever.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from ansible.module_utils.common.text.converters import to_bytes
from ansible.utils.display import Display
from ansible_collections.as215932.engineering_loop.plugins.module_utils.stages.order import BEGUN
from ansible_collections.as215932.engineering_loop.plugins.plugin_utils import on_host

CORE = Path(__file__).resolve().parents[1] / "module_utils"
PYTHON = "/usr/bin/python3"
NO_ANSWER = "No start of json char found"  # as Ansible has it; the role looks for these words


@functools.cache
def digests() -> dict[str, str]:
    """Of every file of the core, as it is installed on a host."""
    found = {str(path.relative_to(CORE)): path.read_bytes() for path in CORE.rglob("*.py")}
    return {name: hashlib.sha256(text).hexdigest() for name, text in {**found, "__init__.py": b""}.items()}


def ask(action: Any, task_vars: dict[str, Any], lib_dir: str, module: str, asked: dict[str, Any]) -> dict[str, Any]:
    """What ``on_host`` of that module of the core, in ``lib_dir`` on the task's host, says to what is asked.

    Empty where the code there is not ours, where another Python is asked for, or where it says nothing that could be
    read. What says that it has begun, and then no more, has failed as a module does that is killed.
    """
    if not lib_dir or action._templar.template(task_vars.get("ansible_python_interpreter")) != PYTHON:
        return {}
    package = f"{lib_dir}/engineering_loop_core"
    given = {"package": package, "digests": digests(), "module": module, "asked": asked}
    program = f"{Path(on_host.__file__).read_text(encoding='utf-8')}\nmain({json.dumps(given)!r})\n"
    command = f"{action._compute_environment_string()} {PYTHON} -I -"
    done = action._low_level_execute_command(command.strip(), in_data=to_bytes(program))
    _before, begun, said = done["stdout"].rpartition(f"{BEGUN}\n")
    try:
        told = json.loads(said)
    except ValueError:
        return _killed(done) if begun else {}
    for line in told["warnings"]:
        Display().warning(line)
    found: dict[str, Any] = told["result"]
    return found


def _killed(done: dict[str, Any]) -> dict[str, Any]:
    """As Ansible tells it of a module, in words that hold for every version of it."""
    said = {"module_stdout": done["stdout"], "module_stderr": done["stderr"], "rc": done["rc"]}
    return {"failed": True, "changed": False, "msg": f"Module failed: {NO_ANSWER} in its output", **said}
