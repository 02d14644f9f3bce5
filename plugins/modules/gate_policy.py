#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gate_policy
short_description: Compose and install the gate policy of an engineering loop
version_added: "0.1.0"
author: AS215932 (@AS215932)
description:
  - Composes the policy that judges generated changes from the release's own policy, the inventory's overlay and the
    directories that this deployment writes to, and installs it where the engine reads it.
  - A value that would let more pass than the base does is refused by name, unless O(widen) names it.
  - Everything is validated before anything is written. A refused policy never replaces the one in force.
  - Runs on the loop host, as root.
options:
  dest:
    description: The policy file in force. Its directory must exist, except in check mode.
    type: path
    required: true
  base:
    description:
      - A policy file on the host, the one of the release that is being activated.
      - Where it does not exist yet, check mode says so and succeeds.
    type: path
  base_content:
    description: The base itself, as a mapping or as YAML text.
    type: raw
  overlay:
    description:
      - What differs from the base, in the form of a policy. A value stands in the place of the base's.
      - A list may also be a mapping with C(add) and C(remove), which changes the base's list.
    type: dict
    default: {}
  handoff_dirs:
    description:
      - Absolute directories that this deployment's handoffs are written to, and that the policy must admit.
      - Where given, they and what O(overlay) adds are all that is admitted. The base's directories are dropped.
    type: list
    elements: str
    default: []
  widen:
    description:
      - Keys that may let more pass than the base does, by key path (V(defaults.max_changed_files)) or by the last part
        of it (V(max_changed_files)).
    type: list
    elements: str
    default: []
  owner:
    description: Owner of O(dest), by name or number. Left as it is, or root's where the file is new, by default.
    type: str
  group:
    description: Group of O(dest), by name or number. Left as it is, or root's where the file is new, by default.
    type: str
  mode:
    description: Permissions of O(dest), octal.
    type: raw
    default: "0640"
  backup:
    description: Keep a copy of the policy that is replaced, beside it.
    type: bool
    default: false
  run_lock:
    description:
      - The engine's lock file; a living process named in it is a cycle in progress.
      - The engine reads its policy late. A cycle in progress is judged by the policy that it began with, so a changed
        one is not written before the cycle has ended.
    type: path
  unit:
    description: The systemd unit that runs cycles; while it is active a cycle is in progress.
    type: str
    default: ""
  wait:
    description: How many seconds to wait for a cycle in progress.
    type: float
    default: 0
  hold:
    description:
      - The host's settings, C(loop.json). Given them, the timer is held before the policy is changed, until
        M(as215932.engineering_loop.loop_timer) finds a proof or M(as215932.engineering_loop.loop_rollout) goes back.
    type: path
extends_documentation_fragment:
  - as215932.engineering_loop.apply_run
  - as215932.engineering_loop.attributes
seealso:
  - module: as215932.engineering_loop.gate_policy_check
"""

EXAMPLES = r"""
- name: Install the release's policy, admitting where this host writes
  as215932.engineering_loop.gate_policy:
    dest: /etc/engineering-loop/policy.yml
    base: /opt/engineering-loop/current/engineering-loop-policy.yml
    handoff_dirs: [/var/lib/engineering-loop/runs]
    group: loop

- name: Deny more paths, and allow bigger changes than the release does
  as215932.engineering_loop.gate_policy:
    dest: /etc/engineering-loop/policy.yml
    base: /opt/engineering-loop/current/engineering-loop-policy.yml
    handoff_dirs: [/var/lib/engineering-loop/runs]
    overlay:
      defaults:
        max_changed_files: 40
        denied_path_globs:
          add: ["*.sqlite"]
      guards:
        repos:
          hyrule-infra:
            dependency_manifests: ["docs/requirements.txt"]
    widen: [max_changed_files, guards.repos.hyrule-infra.dependency_manifests]
    group: loop
"""

RETURN = r"""
policy:
  description: The composed policy. Empty where check mode could not compose it yet.
  returned: success
  type: dict
sha256:
  description:
    - Digest of what the policy means. Layout, order and comments do not count.
    - In words, where check mode could not compose it yet.
  returned: success
  type: str
widened:
  description: Key paths that let more pass than the base does, each allowed by O(widen).
  returned: success
  type: list
  elements: str
tightened:
  description: Key paths that let less pass than the base does.
  returned: success
  type: list
  elements: str
admitted:
  description: The O(handoff_dirs) that the base does not admit.
  returned: success
  type: list
  elements: str
msg:
  description: What check mode could not know yet, and why.
  returned: in check mode, where the base or a library is not there yet
  type: str
backup_file:
  description: The copy of the policy that was replaced.
  returned: when O(backup) is set and a policy was replaced
  type: str
"""

import grp
import os
import pwd
from dataclasses import dataclass
from typing import Any

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.files import read_bytes, write_atomic
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import apply_run, processes
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy import compose, schema, strict_yaml
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import rollout

# The digest ends up in settings that check mode shows.
NOTHING_YET: dict[str, Any] = {
    "policy": {},
    "sha256": "known once the release is built",
    "widened": [],
    "tightened": [],
    "admitted": [],
}


def read_base(module: AnsibleModule) -> schema.Policy | None:
    """The base, or None where check mode meets a host that does not have it yet."""
    path, content = module.params["base"], module.params["base_content"]
    if path is None:
        if not isinstance(content, dict):
            content = str(content).encode("utf-8", "surrogateescape")
        return schema.load(content, "base_content", complete=False)
    found = read_bytes(path, schema.MAX_BYTES)
    if found is not None:
        return schema.load(found, path, complete=False)
    if module.check_mode:
        return None
    raise LoopError(f"there is no policy at {path} (base); it comes with the engine's release")


def number(name: str | None, database: Any, what: str) -> int | None:
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


def permissions(value: Any) -> int:
    """A mode from octal text, or from the number that YAML made of it."""
    try:
        mode = value if isinstance(value, int) else int(str(value), 8)
    except ValueError as error:
        raise LoopError(f"mode: found {value!r}, allowed: octal, like 0640") from error
    if mode & ~0o777 or mode & 0o022:
        raise LoopError(f"mode: found {mode:04o}, allowed: one that only the owner may write with, like 0640")
    return int(mode)


def wanted_ids(module: AnsibleModule) -> tuple[int | None, int | None]:
    """Owner and group as numbers. In check mode they may be made by an earlier task, so they may be missing."""
    try:
        return (
            number(module.params["owner"], pwd.getpwnam, "user"),
            number(module.params["group"], grp.getgrnam, "group"),
        )
    except LoopError:
        if module.check_mode:
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


def standing(dest: str) -> PolicyFile | None:
    """The policy in force; None where there is none."""
    content = read_bytes(dest)
    if content is None:
        return None
    status = os.lstat(dest)
    return PolicyFile(content, status.st_uid, status.st_gid, status.st_mode & 0o7777)


def install(module: AnsibleModule, now: PolicyFile | None, then: PolicyFile) -> dict[str, str]:
    """Replace ``now`` by ``then`` when no cycle needs it any more; the name of its copy, where one is wanted."""
    wanted, result = module.params, {}
    dest = wanted["dest"]
    if now and now.content != then.content:
        who = (wanted["run_lock"] or "", wanted["unit"], wanted["wait"])
        processes.wait_until_idle(*who, otherwise=f"{dest} is as it was")
    if wanted["hold"]:
        rollout.begin(wanted["hold"], [dest])
    if now and wanted["backup"]:
        result["backup_file"] = module.backup_local(dest)
    write_atomic(dest, then.content, then.mode, then.uid, then.gid)
    return result


def apply(module: AnsibleModule) -> dict[str, Any]:
    """Compose, compare with what is there, write if it differs."""
    wanted, mode = module.params, permissions(module.params["mode"])
    dest, base = wanted["dest"], read_base(module)
    if base is None:
        message = f"would compose {dest} from {wanted['base']}, which comes with the release"
        return {**NOTHING_YET, "changed": True, "msg": message}
    composed = compose.compose(base, wanted["overlay"], wanted["handoff_dirs"], wanted["widen"])
    result: dict[str, Any] = {**composed._asdict(), "sha256": schema.digest(composed.policy)}
    directory = os.path.dirname(dest)
    if not os.path.isdir(directory) and not module.check_mode:
        raise LoopError(f"{directory} (the directory of dest) does not exist")
    now, (uid, gid) = standing(dest), wanted_ids(module)
    uid = uid if uid is not None else now.uid if now else 0
    gid = gid if gid is not None else now.gid if now else 0
    then = PolicyFile(result.pop("text").encode(), uid, gid, mode)
    result["changed"] = now != then
    if module._diff:
        sides = {"before": now.shown() if now else "", "after": then.shown()}
        result["diff"] = {**sides, "before_header": dest, "after_header": dest}
    if result["changed"] and not module.check_mode:
        result.update(install(module, now, then))
        if schema.digest(schema.load_file(dest)) != result["sha256"]:
            raise LoopError(f"{dest} does not read back as it was written")
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
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
            "run": {"type": "dict", "options": apply_run.OPTIONS},
        },
        mutually_exclusive=[("base", "base_content")],
        required_one_of=[("base", "base_content")],
        supports_check_mode=True,
    )
    if not strict_yaml.HAS_YAML:
        if module.check_mode:
            message = f"would compose {module.params['dest']} once PyYAML (python3-yaml) is installed"
            module.exit_json(**NOTHING_YET, changed=True, msg=message)
        module.fail_json(msg=missing_required_lib("PyYAML"))
    try:
        put_habits_aside(module.ansible_version)
        apply_run.step(module.params["run"], check=module.check_mode)
        module.exit_json(**apply(module))
    except LoopError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
