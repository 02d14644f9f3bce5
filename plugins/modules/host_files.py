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
  - as215932.engineering_loop.attributes
  - as215932.engineering_loop.apply_run
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
  state_dir:
    description: Where the loop keeps its state, for this host to leave its mark in.
    type: path
    version_added: "0.3.0"
  units:
    description: Units of systemd by file name, to be written where it finds them. An empty one is not wanted.
    type: dict
    default: {}
    version_added: "0.3.0"
  settings:
    description:
      - The settings of the host, to be written to O(hold), for C(group) of them to read. What they say of policy and
        code is added.
    type: dict
    version_added: "0.3.0"
  policy_sha256:
    description: The digest of the policy that the settings name, where that is not the one that stands there yet.
    type: str
    version_added: "0.3.0"
  hold:
    description:
      - The host's settings, C(loop.json). Given them, the timer is held before a file that a proof covers is changed,
        until M(as215932.engineering_loop.loop_timer) finds a proof or M(as215932.engineering_loop.loop_rollout) goes
        back.
    type: path
  wait:
    description: How many seconds to wait for a cycle in progress before a change that voids a proof.
    type: float
    default: 900
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

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.stages import files, outcome


def main() -> None:
    module = AnsibleModule(
        argument_spec={**files.OPTIONS, **outcome.STEP}, required_by={"settings": "hold"}, supports_check_mode=True
    )
    outcome.run(module, files.bring, put_habits_aside)


if __name__ == "__main__":
    main()
