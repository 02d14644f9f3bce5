# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show the status of all hosts of a play, on the controller: the display alone prints lines as they are."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from typing import Any

from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.files import write_atomic
from ansible_collections.as215932.engineering_loop.plugins.module_utils.report import page, status, table

display = Display()


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible's plugins have no types
    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _result, given = self.validate_argument_spec(
            {
                "register": {"type": "str", "required": True},
                "format": {"type": "str", "choices": ["table", "json"], "default": "table"},
                "out": {"type": "path"},
                "page": {"type": "path"},
            }
        )
        fleet = _fleet(task_vars or {}, given["register"])
        text = json.dumps({"hosts": fleet}, indent=1) if given["format"] == "json" else table.draw(fleet)
        if given["page"]:
            _write(given["page"], page.draw(fleet))
        if given["out"]:
            _write(given["out"], text + "\n")
        elif given["format"] == "json":
            display.display(text)
        else:
            display.display(table.draw(fleet, colour=constants.ANSIBLE_FORCE_COLOR or display_has_colour()))
        first = {host: one["needs"][0]["code"] if one["needs"] else "" for host, one in fleet.items()}
        bad = [f"{host} ({code})" for host, code in first.items() if code]
        result: dict[str, Any] = {"changed": False, "well": not bad}
        if bad:
            more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
            result.update(failed=True, msg=f"{len(bad)} of {len(fleet)} need a person: {', '.join(bad[:10])}{more}.")
        return result


def display_has_colour() -> bool:
    """Whether Ansible itself colours what it prints."""
    from ansible.utils import color

    return bool(color.ANSIBLE_COLOR)


def _fleet(given: Mapping[str, Any], register: str) -> dict[str, Any]:
    """The status of every host of the play, in the inventory's order."""
    fleet = {}
    for host in given.get("ansible_play_hosts_all", []):
        found = given["hostvars"].raw_get(host).get(register)
        told = found.get("status") if isinstance(found, Mapping) else None
        fleet[str(host)] = told if isinstance(told, dict) else status.silent("it was not asked: see the error above")
    return fleet


def _write(path: str, text: str) -> None:
    """Write a file whole; a pipe or a terminal as it comes."""
    try:
        if os.path.lexists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            with open(path, "w", encoding="utf-8") as handle:
                handle.write(text)
        else:
            write_atomic(os.path.abspath(path), text.encode(), mode=0o644)
    except (OSError, LoopError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise AnsibleActionFail(f"{path} cannot be written: {why}. Name a file in a directory that is there.") from None
