# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A set of files and directories, with our own code among them, brought to what they should be."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from ..base.errors import LoopError
from ..host import managed_files, owner, systemd, trust
from ..host.managed_files import Entry
from ..lifecycle import bytecode, core_files
from ..policy import schema
from ..proof import rollout
from .outcome import Done, How, Json

if TYPE_CHECKING:
    # The host has the core whole. What no other room imports stands here, which makes Ansible ship it with every module
    # that compares our code with the host's.
    from ..lifecycle import engine_variables, fleet, leave, leave_collected, put_back, takeover, variables  # noqa: F401
    from ..policy import uncommitted  # noqa: F401
    from ..release import pin_pull_request, sbom, version_pin  # noqa: F401
    from ..report import command, history, page, send, tell  # noqa: F401
    from ..worktrees import checkouts, heal, sweep  # noqa: F401
    from . import look, step  # noqa: F401

OPTIONS: dict[str, Any] = {
    "entries": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["file", "directory", "absent", "kept"], "default": "file"},
            "content": {"type": "str"},
            "owner": {"type": "str", "default": "root"},
            "group": {"type": "str", "default": "root"},
            "mode": {"type": "str", "default": "0644"},
        },
        "required_if": [("state", "file", ["content"])],
    },
    "secrets": {"type": "dict", "default": {}, "no_log": True},
    "authorities": {"type": "dict"},
    "units": {"type": "dict", "default": {}},
    "settings": {"type": "dict"},
    "policy_sha256": {"type": "str"},
    "hold": {"type": "path"},
    "wait": {"type": "float", "default": 900},
    "state_dir": {"type": "path"},
    "lib_dir": {"type": "path"},
    "programs": {"type": "list", "elements": "str", "default": []},
}


def bring(given: Json, how: How) -> Done:
    """Bring all of ``given`` to hold, as the module ``host_files`` has its options."""
    config, wanted = given["hold"], _entries(given)
    core = (
        core_files.entries(given["lib_dir"], given["programs"], *([config] if config else []))
        if given["lib_dir"]
        else []
    )
    in_systemd = {entry.path: entry for entry in wanted if os.path.dirname(entry.path) == systemd.UNIT_DIR}
    changes = managed_files.converge([*wanted, *core], check=True)
    if any(change.path in in_systemd for change in changes):
        units = {os.path.basename(path): one.content.decode() for path, one in in_systemd.items()}
        if refused := systemd.refused(units):
            raise LoopError("; ".join(refused))

    def before(paths: list[str]) -> None:
        if config:
            rollout.change(config, changes, given["wait"])
        systemd.retire([path for path in paths if path in in_systemd and in_systemd[path].state == "absent"])

    if not how.check:
        changes = managed_files.converge([*wanted, *core], before=before)
    reload = any(change.path in in_systemd for change in changes) or systemd.stale([*in_systemd])
    if reload and not how.check:
        systemd.systemctl("daemon-reload")
    slow = bool(core) and bytecode.bring(f"{given['lib_dir']}/{core_files.PACKAGE}", check=how.check)
    trusted = any(os.path.dirname(one.path) == trust.DIRECTORY for one in changes)
    trusted = trusted or (given["authorities"] is not None and trust.stale(given["authorities"]))
    if trusted and not how.check:
        trust.refresh()
    result: Json = {
        "changed": bool(changes) or reload or trusted or slow,
        "changed_paths": [change.path for change in changes],
        "collection_version": core_files.VERSION,
    }
    if config:
        result["voids"] = rollout.voids(config, changes)
    if how.diff:
        brief = {*given["secrets"], *(entry.path for entry in core)}
        result["diff"] = [_shown(change, change.path in brief) for change in changes]
    return Done(result)


def _entries(given: Json) -> list[Entry]:
    """What the options ask for, but for our own code."""
    found = []
    if given["settings"] is not None:
        found.append(_settings(given["hold"], given["settings"], given["policy_sha256"]))
    found += [managed_files.entry_from(entry) for entry in given["entries"]]
    found += [_wanted(f"{systemd.UNIT_DIR}/{name}", text, 0o644) for name, text in given["units"].items()]
    found += [_wanted(path, text, 0o600) for path, text in given["secrets"].items()]
    if given["state_dir"] and owner.mark():
        found.append(Entry(owner.path_of(given["state_dir"]), content=owner.mark().encode()))
    return found + (trust.entries(given["authorities"]) if given["authorities"] is not None else [])


def _settings(path: str, given: Json, policy: str | None) -> Entry:
    """The host's settings: those of the inventory, and by what policy and by whose code a cycle runs."""
    whole = {
        **given,
        "policy_sha256": policy or schema.digest(schema.load_file(given["policy_file"])),
        "collection_version": core_files.VERSION,
    }
    text = json.dumps(whole, indent=2, sort_keys=True) + "\n"
    return Entry(path, content=text.encode(), group=given["group"], mode=0o640)


def _wanted(path: str, content: object, mode: int) -> Entry:
    """A file with this content; none where that is empty."""
    return Entry(path, "file" if content else "absent", str(content).encode(), mode=mode)


def _shown(change: managed_files.Change, brief: bool) -> dict[str, str]:
    """One change as Ansible's diff; of a secret and of our own code only that it changes."""
    contents = change.what in ("content", "file created", "removed")
    if brief or not contents:
        return {"prepared": f"{change.path}: {change.what}{' (not shown)' if brief and contents else ''}\n"}
    return {
        "before_header": change.path,
        "after_header": change.path,
        "before": (change.before or b"").decode(errors="replace"),
        "after": (change.after or b"").decode(errors="replace"),
    }
