# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate policy: the release's own, and what the inventory says of it."""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass
from typing import Any

from ..base.clock import stamp
from ..base.errors import LoopError
from ..base.files import read_bytes, write_atomic
from ..host import processes
from ..policy import compose, schema, strict_yaml
from ..proof import rollout
from .outcome import Done, How, Json

OPTIONS: dict[str, Any] = {
    "dest": {"type": "path", "required": True},
    "base": {"type": "path"},
    "base_content": {"type": "raw"},
    "overlay": {"type": "dict", "default": {}},
    "handoff_dirs": {"type": "list", "elements": "str", "default": []},
    "widen": {"type": "list", "elements": "str", "default": []},
    "owner": {"type": "str"},
    "group": {"type": "str"},
    "mode": {"type": "raw", "default": "0640"},
    "backup": {"type": "bool", "default": False},
    "run_lock": {"type": "path"},
    "unit": {"type": "str", "default": ""},
    "wait": {"type": "float", "default": 0},
    "hold": {"type": "path"},
}
# The digest ends up in settings that check mode shows.
NOTHING_YET: dict[str, Any] = {
    "policy": {},
    "sha256": "known once the release is built",
    "widened": [],
    "tightened": [],
    "admitted": [],
}


def _read_base(given: Json, how: How) -> schema.Policy | None:
    """The base, or None where check mode meets a host that does not have it yet."""
    path, content = given["base"], given["base_content"]
    if path is None:
        if not isinstance(content, dict):
            content = str(content).encode("utf-8", "surrogateescape")
        return schema.load(content, "base_content", complete=False)
    found = read_bytes(path, schema.MAX_BYTES)
    if found is not None:
        return schema.load(found, path, complete=False)
    if how.check:
        return None
    raise LoopError(f"there is no policy at {path} (base); it comes with the engine's release")


def _number(name: str | None, database: Any, what: str) -> int | None:
    """A user or group as a number; None where nobody asked or it does not exist."""
    if name is None:
        return None
    if name.isdigit():
        return int(name)
    try:
        entry = database(name)
    except KeyError as error:
        raise LoopError(f"there is no {what} {name} on this host") from error
    return int(entry[2])


def _permissions(value: Any) -> int:
    """A mode from octal text, or from the number that YAML made of it."""
    try:
        mode = value if isinstance(value, int) else int(str(value), 8)
    except ValueError as error:
        raise LoopError(f"mode: found {value!r}, allowed: octal, like 0640") from error
    if mode & ~0o777 or mode & 0o022:
        raise LoopError(f"mode: found {mode:04o}, allowed: one that only the owner may write with, like 0640")
    return int(mode)


def _wanted_ids(given: Json, how: How) -> tuple[int | None, int | None]:
    """Owner and group as numbers. In check mode they may be made by an earlier task, so they may be missing."""
    try:
        return (
            _number(given["owner"], pwd.getpwnam, "user"),
            _number(given["group"], grp.getgrnam, "group"),
        )
    except LoopError:
        if how.check:
            return -1, -1
        raise


@dataclass(frozen=True)
class PolicyFile:
    """The policy file as it stands, or as it is to stand."""

    content: bytes
    uid: int
    gid: int
    mode: int

    def shown(self) -> str:
        """The content, with owner, group and mode in a line of their own: one side of the diff."""
        return f"{self.content.decode('utf-8', 'replace')}# uid {self.uid} gid {self.gid} mode {self.mode:04o}\n"


def _standing(dest: str) -> PolicyFile | None:
    """The policy in force; None where there is none."""
    content = read_bytes(dest)
    if content is None:
        return None
    status = os.lstat(dest)
    return PolicyFile(content, status.st_uid, status.st_gid, status.st_mode & 0o7777)


def _install(given: Json, now: PolicyFile | None, then: PolicyFile) -> dict[str, str]:
    """Replace ``now`` by ``then`` when no cycle needs it any more; the name of its copy, where one is wanted."""
    dest, result = given["dest"], {}

    def hold() -> None:
        if given["hold"]:
            rollout.begin(given["hold"], [dest])

    if now and now.content != then.content:
        who = (given["run_lock"] or "", given["unit"], given["wait"])
        processes.wait_until_idle(*who, otherwise=f"{dest} is as it was", hold=hold)
    else:
        hold()
    if now and given["backup"]:
        result["backup_file"] = f"{dest}.{stamp()}~"
        write_atomic(result["backup_file"], now.content, now.mode, now.uid, now.gid)
    write_atomic(dest, then.content, then.mode, then.uid, then.gid)
    return result


def bring(given: Json, how: How) -> Done:
    """Compose, compare with what is there, write if it differs; as the module ``gate_policy`` has its options."""
    if not strict_yaml.HAS_YAML and how.check:
        message = f"would compose {given['dest']} once PyYAML (python3-yaml) is installed"
        return Done({**NOTHING_YET, "changed": True, "msg": message})
    mode, base = _permissions(given["mode"]), _read_base(given, how)
    if base is None:
        message = f"would compose {given['dest']} from {given['base']}, which comes with the release"
        return Done({**NOTHING_YET, "changed": True, "msg": message})
    composed = compose.compose(base, given["overlay"], given["handoff_dirs"], given["widen"])
    result: Json = {**composed._asdict(), "sha256": schema.digest(composed.policy)}
    dest, directory = given["dest"], os.path.dirname(given["dest"])
    if not os.path.isdir(directory) and not how.check:
        raise LoopError(f"{directory} (the directory of dest) does not exist")
    now, (uid, gid) = _standing(dest), _wanted_ids(given, how)
    uid = uid if uid is not None else now.uid if now else 0
    gid = gid if gid is not None else now.gid if now else 0
    then = PolicyFile(result.pop("text").encode(), uid, gid, mode)
    result["changed"] = now != then
    if how.diff:
        sides = {"before": now.shown() if now else "", "after": then.shown()}
        result["diff"] = {**sides, "before_header": dest, "after_header": dest}
    if result["changed"] and not how.check:
        result.update(_install(given, now, then))
        if schema.digest(schema.load_file(dest)) != result["sha256"]:
            raise LoopError(f"{dest} does not read back as it was written")
    return Done(result)
