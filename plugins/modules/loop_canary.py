#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: loop_canary
short_description: Run one cycle of the loop and prove what it did
version_added: "0.1.0"
description:
  - Starts one cycle through systemd, waits for its end, and judges it by what the forge and the host show afterwards.
  - A passed canary writes a receipt for exactly the engine, policy and unit that are installed. The timer is enabled
    only with such a receipt, see M(as215932.engineering_loop.loop_timer).
  - Nothing is run where a matching receipt exists already. Where another canary is running on the host, as one that a
    killed run of the playbook left, its end is waited for first.
  - Nothing is started where the outcome is known beforehand to be another one than the wanted; the reason is one line.
    So is nothing on a host that is paused, see M(as215932.engineering_loop.loop_pause).
  - An issue that is held since it was tried too often is released by its canary, see
    M(as215932.engineering_loop.loop_issue).
  - Each step and each line of the cycle's journal is shown while it runs, by an action plugin of the same name. The
    module itself runs in the background on the host, so a lost connection does not end it.
author:
  - AS215932 (@AS215932)
extends_documentation_fragment:
  - as215932.engineering_loop.apply_run
  - as215932.engineering_loop.attributes
options:
  config:
    description: The host's settings, as the role wrote them.
    type: path
    default: /etc/engineering-loop/loop.json
  mode:
    description:
      - V(docs) needs an approved issue and proves that it becomes exactly one draft pull request, by the token's
        identity, on the loop's branch, with nothing but allowed paths in it, that the policy passes on its diff, that
        the handoff was written where the policy admits it, and that nothing else changed on the forge.
      - V(empty) needs an empty queue and proves that the cycle ends idle.
    type: str
    choices: [docs, empty]
    default: docs
  repo:
    description: The repository of the canary's issue, as C(OWNER/NAME). Required with O(mode=docs).
    type: str
  issue:
    description: The number of the canary's issue. Required with O(mode=docs).
    type: int
  env_file:
    description:
      - The file on the host that holds the forge token as E(GH_TOKEN) or E(ENGINEERING_LOOP_GITHUB_TOKEN). Where the
        settings or this file name a GitHub App, its installation token is used instead.
      - Proxies and CA bundles that it names, such as E(HTTPS_PROXY) and E(REQUESTS_CA_BUNDLE), are used as the gateway
        uses them.
      - Defaults to the one that O(config) names.
    type: path
  identity:
    description:
      - The login that the token acts as, which must be the author of the pull request.
      - Asked from the forge where it is not given.
    type: str
  timeout:
    description: How many seconds the cycle may take. A cycle that takes longer is not stopped, but the canary fails.
    type: int
    default: 3600
  cleanup:
    description:
      - Afterwards close the cycle's pull request, delete its branch and take the approval off the issue, which stays
        open for the next proof.
      - Where nothing is run since a receipt matches, what an earlier canary left is tidied up.
    type: bool
    default: false
  force:
    description: Run even where a matching receipt exists.
    type: bool
    default: false
  max_age:
    description: Receipts older than this do not count, as in V(30d) (C(s), C(m), C(h), C(d), C(w)). Empty for no limit.
    type: str
    default: ""
  foreseen:
    description: In check mode, V(unproven) where the tasks before would change what a proof covers.
    type: str
    choices: ["", unproven]
    default: ""
  applied_by:
    description: Who runs the canary, for the receipt.
    type: str
    default: ""
  overrides:
    description: The names of the variables that weaken a guard and are in force, for the receipt.
    type: list
    elements: str
    default: []
  progress:
    description:
      - A new file on the host that gets each step and each line of the cycle's journal as it comes, without the token.
      - Set by the action plugin, which shows it to the operator and removes it.
    type: path
seealso:
  - module: as215932.engineering_loop.loop_timer
"""

EXAMPLES = r"""
- name: Prove the loop with its canary issue
  as215932.engineering_loop.loop_canary:
    mode: docs
    repo: AS215932/network-operations
    issue: 235
    applied_by: "{{ lookup('env', 'USER') }}"

- name: Prove that the loop does nothing where nothing is approved
  as215932.engineering_loop.loop_canary:
    mode: empty
"""

RETURN = r"""
passed:
  description: Whether what is installed is proven, by this run or by an earlier receipt.
  returned: always
  type: bool
  sample: true
judged:
  description:
    - Whether the cycle tells for or against what is installed. It does not where it was refused before its engine
      started, as while the model's provider is down, or where the forge did not tell what it did.
  returned: when a cycle was run
  type: bool
expectations:
  description: Every expectation of this run.
  returned: when a cycle was run
  type: list
  elements: dict
  contains:
    name:
      description: What was looked at.
      type: str
    passed:
      description: Whether it was as expected.
      type: bool
    expected:
      description: What was expected.
      type: str
    seen:
      description: What was seen.
      type: str
evidence:
  description: The cycle's record, its journal, the new pull requests and their files.
  returned: when a cycle was run
  type: dict
receipt:
  description: The path of the new receipt, or of none.
  returned: success
  type: str
  sample: /opt/engineering-loop/receipts/20260101T120000Z-docs-58735fa0-1f0c9a2e.json
reason:
  description: Why a cycle was run or not, in words.
  returned: success
  type: str
  sample: proven by the docs canary at 2026-01-01T12:00:00Z
cleanup:
  description: What was tidied up on the forge, in words.
  returned: success
  type: list
  elements: str
left:
  description: What is left on the forge for a person to tidy up, in words.
  returned: success
  type: list
  elements: str
  sample: [close https://github.com/AS215932/network-operations/pull/236]
"""

import os
from collections.abc import Callable
from typing import Any

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base import progress
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.files import flocked
from ansible_collections.as215932.engineering_loop.plugins.module_utils.forge import tokens
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import apply_run, secrets_file, settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import canary, cleanup, pause, timer_hold


def prove(module: AnsibleModule) -> None:
    """Do as told and leave the module."""
    wanted = module.params
    deployed = os.path.lexists(wanted["config"])
    if module.check_mode and (wanted["foreseen"] or not deployed):
        if deployed:
            refuse_pause(settings.load(wanted["config"], keys=settings.LASTING))
        why = timer_hold.UNSEEN if deployed else "this host is not deployed yet"
        module.exit_json(changed=True, passed=False, reason=f"the {wanted['mode']} canary would run: {why}")
    if wanted["timeout"] < 1:
        raise LoopError("timeout must be at least one second")
    config = settings.load(wanted["config"])
    if module.check_mode:
        judge(module, config, lambda line: None)
    say = progress.writer(wanted["progress"]) if wanted["progress"] else progress.step
    # One that an earlier run of the playbook started goes on without it: its verdict is waited for.
    lock = os.path.join(config.install_dir, ".canary.lock")
    with flocked(lock, wait=False) as alone:
        if alone:
            judge(module, config, say)
    say("another canary is running on this host: waiting for its end")
    with flocked(lock):  # and in an hour much may have come
        apply_run.still_wanted(wanted["run"])
        judge(module, settings.load(wanted["config"]), say)


def judge(module: AnsibleModule, config: Settings, say: Callable[[str], object]) -> None:
    """Run a cycle, unless what is installed is proven, and leave the module."""
    wanted = module.params
    receipt, reason = timer_hold.matching(config, timer_hold.max_age(wanted["max_age"]), wanted["mode"])
    if receipt is not None and not wanted["force"]:
        told: dict[str, list[str]] = {"cleanup": [], "left": []}
        if wanted["cleanup"] and wanted["mode"] == "docs":
            token, _identity = acting(wanted, config)
            told = cleanup.after_proof(config, wanted["repo"], wanted["issue"], token=token, do=not module.check_mode)
        changed = bool(told["cleanup"] or (module.check_mode and told["left"]))
        module.exit_json(changed=changed, passed=True, reason=reason, receipt=None, **told)
    refuse_pause(config)
    if module.check_mode:
        why = reason.partition("; ")[0]
        module.exit_json(changed=True, passed=False, reason=f"the {wanted['mode']} canary would run: {why}")
    token, identity = acting(wanted, config)
    asked = canary.Request(
        mode=wanted["mode"],
        repo=wanted["repo"] or "",
        issue=wanted["issue"] or 0,
        identity=wanted["identity"] or identity,
        timeout=wanted["timeout"],
        cleanup=wanted["cleanup"],
        applied_by=wanted["applied_by"],
        overrides=wanted["overrides"],
    )
    result = canary.run(config, asked, token, say)
    failed = result.pop("failed")
    if not result["passed"]:
        module.fail_json(msg=f"the {wanted['mode']} canary failed at {failed}", changed=True, **result)
    if module._diff:
        result["diff"] = {"before": f"not proven: {reason}\n", "after": f"proven: {result['receipt']}\n"}
    module.exit_json(changed=True, reason=reason, **result)


def refuse_pause(config: Settings) -> None:
    """A pause holds for a canary as well: LoopError where there is one."""
    if paused := pause.read(config):
        raise LoopError(f"no canary is run on a host that is {paused.sentence}")


def acting(wanted: dict[str, Any], config: Settings) -> tuple[str, str]:
    """Token and login by which the forge is reached, as the gateway reaches it."""
    file = wanted["env_file"] or config.env_file
    os.environ.update(secrets_file.network(secrets_file.load(file, config.forbidden_environment)))
    return tokens.acting(config, file)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "path", "default": settings.DEFAULT_PATH},
            "run": {"type": "dict", "options": apply_run.OPTIONS},
            "mode": {"type": "str", "choices": ["docs", "empty"], "default": "docs"},
            "repo": {"type": "str"},
            "issue": {"type": "int"},
            "env_file": {"type": "path"},
            "identity": {"type": "str"},
            "timeout": {"type": "int", "default": 3600},
            "cleanup": {"type": "bool", "default": False},
            "force": {"type": "bool", "default": False},
            "max_age": {"type": "str", "default": ""},
            "foreseen": {"type": "str", "choices": ["", "unproven"], "default": ""},
            "applied_by": {"type": "str", "default": ""},
            "overrides": {"type": "list", "elements": "str", "default": []},
            "progress": {"type": "path"},
        },
        required_if=[("mode", "docs", ("repo", "issue"))],
        supports_check_mode=True,
    )
    try:
        put_habits_aside(module.ansible_version)
        apply_run.still_wanted(module.params["run"], check=module.check_mode)
        prove(module)
    except LoopError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
