#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_files
short_description: Bring a set of files and directories to the stated content, owner and mode
version_added: "0.1.0"
description:
  - One step for what would be a dozen tasks, so that a play with nothing to do stays fast.
  - Everything is compared before the first file is written. A path in the way stops the whole set with one line.
  - Files are written beside their place and renamed into it. No symlink is followed in the last component of a path,
    except to a directory where the link belongs to root.
  - Units of systemd, which are files in C(/etc/systemd/system), are shown to systemd before the first file is written.
    A line that it would pass over stops the whole set. Written, they are read by systemd at once.
author:
  - AS215932 (@AS215932)
extends_documentation_fragment:
  - as215932.engineering_loop.apply_run
  - as215932.engineering_loop.attributes
options:
  entries:
    description: What must stand where, in the order in which it is made.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: The absolute path. Its parent must exist or be made by an earlier entry.
        type: path
        required: true
      state:
        description:
          - A regular file, a directory, or nothing (a file that stands there is removed).
          - V(kept) sets owner and mode of a file that stands there, and leaves alone what it holds. Where none stands
            nothing is done.
        type: str
        choices: [file, directory, absent, kept]
        default: file
      content:
        description: What the file holds. Required with O(entries[].state=file); an empty file is an empty string.
        type: str
      owner:
        description: Name of the owner.
        type: str
        default: root
      group:
        description: Name of the group.
        type: str
        default: root
      mode:
        description: The permission bits, octal with a leading 0, as a quoted string. Directories need V('0755') or so.
        type: str
        default: "0644"
  secrets:
    description:
      - Path to content of further files whose content must not be shown, owned by root with mode 0600.
      - The diff says only that such a file changed.
      - A file whose content is empty is removed.
    type: dict
    default: {}
  authorities:
    description:
      - Path to content of certificates in C(/usr/local/share/ca-certificates) that the host is to trust. Others that
        this module has put there are removed, and the host's trust is renewed (C(update-ca-certificates)).
      - A file of somebody else's that holds the same is left as it is. Without this option all of them are.
    type: dict
  hold:
    description:
      - The host's settings, C(loop.json). Given them, the timer is held before a file that a proof covers is changed,
        until M(as215932.engineering_loop.loop_timer) finds a proof or M(as215932.engineering_loop.loop_rollout) goes
        back.
    type: path
  lib_dir:
    description:
      - Also install the collection's own code here, owned by root, as the last of the set.
      - The systemd units run that code before, in, beside and after every cycle, the gateway to the forge included, so
        it is the code that this module was shipped with.
    type: path
  programs:
    description:
      - Further programs, by name, that the engine starts and that run generated code, such as its agent and gate
        commands. They are shut in.
      - Those that are named in a usual policy are known already.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Write the settings of the loop
  as215932.engineering_loop.host_files:
    entries:
      - path: /etc/engineering-loop
        state: directory
        group: loop
        mode: "0750"
      - path: /etc/engineering-loop/loop.json
        content: "{}"
        group: loop
        mode: "0640"
    secrets:
      /etc/engineering-loop/env: "GH_TOKEN={{ vault_loop_token }}\n"

- name: Install the code that runs before every cycle
  as215932.engineering_loop.host_files:
    entries: []
    lib_dir: /usr/local/lib/engineering-loop
"""

RETURN = r"""
changed_paths:
  description: The paths that were changed, or would be, in order.
  returned: success
  type: list
  elements: str
  sample: [/etc/engineering-loop/loop.json]
voids:
  description: Whether a proof of what is installed holds no longer with these changes.
  returned: with O(hold)
  type: bool
  sample: false
collection_version:
  description: Version of the collection that the code belongs to.
  returned: success
  type: str
  sample: 0.2.0
"""

import os
from typing import TYPE_CHECKING

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import (
    apply_run,
    managed_files,
    systemd,
    trust,
)
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import core_files
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import rollout

if TYPE_CHECKING:
    # What the `loop` command shows on the host, above the room that lists the rest: that it stands here is what makes
    # Ansible ship it.
    from ansible_collections.as215932.engineering_loop.plugins.module_utils.report import (  # noqa: F401
        command,
        history,
        tell,
    )


def shown(change: managed_files.Change, brief: bool) -> dict[str, str]:
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


OPTIONS = {
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
    "hold": {"type": "path"},
    "run": {"type": "dict", "options": apply_run.OPTIONS},
    "lib_dir": {"type": "path"},
    "programs": {"type": "list", "elements": "str", "default": []},
}


def main() -> None:
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    config, lib_dir = module.params["hold"], module.params["lib_dir"]
    try:
        put_habits_aside(module.ansible_version)
        apply_run.step(module.params["run"], check=module.check_mode)
        entries = [managed_files.entry_from(entry) for entry in module.params["entries"]]
        for path, content in module.params["secrets"].items():
            state = "file" if content else "absent"
            entries.append(managed_files.Entry(path=path, state=state, content=str(content).encode(), mode=0o600))
        wanted = module.params["authorities"]
        entries += trust.entries(wanted) if wanted is not None else []
        own = [config] if config else []
        core = core_files.entries(lib_dir, module.params["programs"], *own) if lib_dir else []
        in_systemd = {entry.path: entry for entry in entries if os.path.dirname(entry.path) == systemd.UNIT_DIR}
        refused = systemd.refused({os.path.basename(path): one.content.decode() for path, one in in_systemd.items()})
        if refused:
            raise LoopError("; ".join(refused))

        def before(paths: list[str]) -> None:
            if config:
                rollout.begin(config, paths)
            systemd.retire([path for path in paths if path in in_systemd and in_systemd[path].state == "absent"])

        changes = managed_files.converge([*entries, *core], check=module.check_mode, before=before)
        reload = any(change.path in in_systemd for change in changes) or systemd.stale([*in_systemd])
        if reload and not module.check_mode:
            systemd.systemctl("daemon-reload")
        trusted = any(os.path.dirname(one.path) == trust.DIRECTORY for one in changes) or trust.stale(wanted or {})
        if trusted and not module.check_mode:
            trust.refresh()
    except LoopError as error:
        module.fail_json(msg=str(error))
    result = {
        "changed": bool(changes) or reload or trusted,
        "changed_paths": [change.path for change in changes],
        "collection_version": core_files.VERSION,
    }
    if config:
        result["voids"] = rollout.voids(config, changes)
    if module._diff:
        brief = {*module.params["secrets"], *(entry.path for entry in core)}
        result["diff"] = [shown(change, change.path in brief) for change in changes]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
