# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show cycles in lines that are lines, and write what was fetched here, on the controller.

The module reads the host, once. What it returns can be large, so content goes into files and not into the result.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader
from ansible.utils.display import Display
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.files import read_bytes, write_atomic
from ansible_collections.as215932.engineering_loop.plugins.module_utils.report import history

display = Display()

# What a host may call a file, whoever has that host by now: no part begins with a dot, or is longer than a name may be.
NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]{0,150}/){0,4}[A-Za-z0-9_][A-Za-z0-9_.-]{0,150}")
CYCLE = re.compile(r"[0-9A-Za-z-]{1,60}")


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible's plugins have no types
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        given, variables = self._task.args, task_vars or {}
        host = str(variables.get("inventory_hostname", ""))
        directory = self._directory(given)
        asked = {**given, "content": True} if directory else given
        found: dict[str, Any] = self._execute_module(module_args=asked, task_vars=task_vars)
        if found.get("failed"):
            return found
        rows = found["cycles"] if "cycles" in found else [history.row(found["cycle"]["record"])]
        found |= {"costs": history.costs(rows, host), "columns": history.comma_separated(history.COSTS)}
        if directory:
            files = found.pop("content", {})
            try:
                found |= self._write(f"{directory}/{_as_name(host)}/{_cycle(found)}", files)
            except (LoopError, OSError, ValueError) as error:
                raise AnsibleActionFail(f"fetch={directory}: {error}") from error
        if given.get("format", "text") != "none" and not self._task.no_log:
            self._show(host, found, variables)
        return found

    def _directory(self, given: Mapping[str, Any]) -> str:
        """Where to bring the cycle to; empty where that was not asked for. Refused before the host is asked."""
        if not given.get("fetch"):
            return ""
        directory = os.path.abspath(os.path.expanduser(str(given["fetch"])))
        if not given.get("cycle"):
            raise AnsibleActionFail("fetch= brings one cycle: say which by cycle=ID, or cycle=last for the newest")
        if os.path.lexists(directory) and not os.path.isdir(directory):
            raise AnsibleActionFail(f"fetch={directory} is a file, but must be a directory, or a name for a new one")
        return directory

    def _write(self, top: str, files: Mapping[str, str]) -> dict[str, Any]:
        """The files below ``top``, for us alone; what changed, as a module tells it."""
        changed = []
        for name, content in files.items():
            if not NAME.fullmatch(name):
                raise LoopError(f"the host calls a file {name!r}, which is none of a cycle's")
            path, wanted = f"{top}/{name}", base64.b64decode(content)
            if read_bytes(path, 1 << 30) == wanted:
                continue
            changed.append(path)
            if not self._task.check_mode:
                os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
                write_atomic(path, wanted, mode=0o600)
        told = {"changed": bool(changed), "fetched": [f"{top}/{name}" for name in files]}
        if self._task.diff:
            told["diff"] = {"before": "", "after": "".join(f"{path}\n" for path in changed)}
        return told

    def _show(self, host: str, found: Mapping[str, Any], variables: dict[str, Any]) -> None:
        if self._task.args.get("format") == "json":
            told = {key: found[key] for key in ("cycles", "cycle", "fetched") if key in found}
            display.display(json.dumps({"host": host, **told}, indent=2, sort_keys=True))
            return
        if "cycles" in found:
            title = f"{host}: {len(found['cycles'])} cycles, newest first"
            lines = [title, "", *history.table(found["cycles"])]
            if found["cycles"]:
                lines += ["", f"One in full: {self._command('cycles', variables)} -e cycle=CYCLE"]
        else:
            commands = {name: self._command(name, variables) for name in ("restore", "cycles")}
            lines = [f"{host}:", *history.words(found["cycle"], **commands)]
        if "fetched" in found:
            would = "would be brought" if self._task.check_mode else "are here"
            lines += ["", f"{len(found['fetched'])} files {would}: {os.path.commonpath(found['fetched'])}"]
        display.display("\n".join(lines))

    def _command(self, name: str, variables: dict[str, Any]) -> str:
        lookup = lookup_loader.get("as215932.engineering_loop.playbook", loader=self._loader, templar=self._templar)
        return str(lookup.run([name], variables=variables)[0])


def _as_name(host: str) -> str:
    """A host's name as the name of a directory."""
    return re.sub(r"[^A-Za-z0-9_.-]|^\.", "_", host) or "_"


def _cycle(found: Mapping[str, Any]) -> str:
    name = str(found["cycle"]["record"]["cycle"])
    if not CYCLE.fullmatch(name):
        raise LoopError(f"the host calls a cycle {name!r}, which is no cycle's name")
    return name
