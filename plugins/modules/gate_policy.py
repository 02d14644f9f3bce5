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
  - as215932.engineering_loop.attributes
  - as215932.engineering_loop.apply_run
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

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.stages import gate_policy, outcome


def main() -> None:
    module = AnsibleModule(
        argument_spec={**gate_policy.OPTIONS, **outcome.STEP},
        mutually_exclusive=[("base", "base_content")],
        required_one_of=[("base", "base_content")],
        supports_check_mode=True,
    )
    outcome.run(module, gate_policy.bring, put_habits_aside)


if __name__ == "__main__":
    main()
