#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gate_policy_check
short_description: Ask a gate policy whether something is allowed
version_added: "0.1.0"
author: AS215932 (@AS215932)
description:
  - Answers for a handoff directory, changed paths, a unified diff, a worktree, gate commands, a branch and a remote.
  - Denies whatever the engine's own evaluation denies, and also where that can be fooled. The collection's
    documentation lists each difference.
  - Nothing is changed, and the task succeeds whatever the answer is. Assert RV(allowed) where it has to be.
  - Git runs as the owner of O(worktree), never as root in a directory that somebody else can write.
options:
  policy:
    description: The policy file on the host.
    type: path
  policy_content:
    description: The policy itself, as a mapping or as YAML text.
    type: raw
  repo:
    description: The checkout that the changes belong to, by the name that the policy uses. Its own entries then hold.
    type: str
    default: ''
  handoff_dir:
    description: A directory that handoffs are to be written to.
    type: str
  paths:
    description: Changed paths, relative to the repository. Only their names are judged.
    type: list
    elements: str
  diff:
    description: A unified diff as git writes it.
    type: str
  diff_file:
    description: The same from a file on the host, for a diff that is not UTF-8 or too big for an argument.
    type: path
  worktree:
    description:
      - A worktree on the host. Each commit since O(base) is judged, with its message, and the uncommitted.
      - Where one is a merge, so is what all of them together would change in O(base).
    type: path
  base:
    description: The commit that the work in O(worktree) began with.
    type: str
  allowed_paths:
    description:
      - The only path prefixes that O(paths), O(diff), O(diff_file) and O(worktree) may touch.
      - V(.) is the whole repository.
      - Not asked about by default. An empty list allows none.
    type: list
    elements: str
  gate_commands:
    description: Commands that a gate is to run, each as a list of words or as a line.
    type: list
    elements: raw
  branch_prefix:
    description: A branch to publish to, or the prefix of such. Its name may hold no text that is denied in O(repo).
    type: str
  remote:
    description: The remote to publish to, by its name.
    type: str
  remote_url:
    description: The address that O(remote) has.
    type: str
  expected_url:
    description: The address that O(remote) must have.
    type: str
  repo_root:
    description: The directory that the checkout O(repo) stands in.
    type: str
extends_documentation_fragment:
  - as215932.engineering_loop.attributes
seealso:
  - module: as215932.engineering_loop.gate_policy
"""

EXAMPLES = r"""
- name: Ask whether the loop may write where it will
  as215932.engineering_loop.gate_policy_check:
    policy: /etc/engineering-loop/policy.yml
    handoff_dir: /var/lib/engineering-loop/runs/issue_app_7/handoff
  register: answer
  failed_when: not answer.allowed

- name: Judge what an agent left behind
  as215932.engineering_loop.gate_policy_check:
    policy: /etc/engineering-loop/policy.yml
    repo: hyrule-infra
    worktree: /var/lib/engineering-loop/runs/issue_hyrule_infra_7/worktrees/hyrule-infra-ISSUE_HYRULE_INFRA_7
    base: origin/main
    allowed_paths: [docs]
    branch_prefix: hyrule-feature
    remote: origin
"""

RETURN = r"""
allowed:
  description: Whether everything that was asked about is allowed.
  returned: success
  type: bool
violations:
  description: Every reason why something is not, one line each, with the policy's key at its end.
  returned: success
  type: list
  elements: str
"""

import os
import pwd
from typing import Any

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.files import read_bytes
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy import rules, schema
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.change import Change, Violation
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.commits import work_between
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.diff import changes_in_diff
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.strict_yaml import HAS_YAML
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.uncommitted import changes_in_worktree

MAX_DIFF = 256 * 1024 * 1024
QUESTIONS = (
    "handoff_dir",
    "paths",
    "diff",
    "diff_file",
    "worktree",
    "gate_commands",
    "branch_prefix",
    "remote",
    "repo_root",
)


def read_policy(params: dict[str, Any]) -> schema.Policy:
    """The policy that is asked: a file's, or the one that is given."""
    if params["policy"] is not None:
        return schema.load_file(params["policy"])
    content = params["policy_content"]
    return schema.load(content if isinstance(content, dict) else str(content).encode(), "policy_content")


def read_diff(params: dict[str, Any]) -> list[Change]:
    """The changes of the diffs and paths that were given."""
    changes = [Change(path) for path in params["paths"] or ()]
    if params["diff"] is not None:
        changes += changes_in_diff(params["diff"].encode("utf-8", "surrogateescape"))
    if params["diff_file"] is not None:
        content = read_bytes(params["diff_file"], MAX_DIFF)
        if content is None:
            raise LoopError(f"there is no file {params['diff_file']} (diff_file)")
        changes += changes_in_diff(content)
    return changes


def judge_worktree(policy: schema.Policy, params: dict[str, Any]) -> list[str]:
    """Everything in the worktree, judged by a process of its owner's."""
    directory = params["worktree"]
    if not os.path.isdir(directory):
        raise LoopError(f"{directory} (worktree) is not a directory")

    def judge() -> list[str]:
        work = work_between(directory, params["base"])
        changes = work.changes + changes_in_worktree(directory)
        found = rules.judge_changes(policy, params["repo"], changes, params["allowed_paths"])
        found += rules.judge_text(policy, params["repo"], "a commit", work.commits)
        return list(map(str, found))

    owner = os.stat(directory).st_uid
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError as error:
        raise LoopError(f"{directory} (worktree) belongs to uid {owner}, and there is no such user") from error
    found: list[str] = as_user(name, judge)
    return found


def ask(params: dict[str, Any]) -> list[str]:
    """The reasons against everything that was asked about."""
    policy = read_policy(params)
    found: list[Violation] = []
    changes = read_diff(params)
    if changes:
        found += rules.judge_changes(policy, params["repo"], changes, params["allowed_paths"])
    if params["handoff_dir"] is not None:
        found += rules.judge_handoff(policy, params["handoff_dir"])
    for command in params["gate_commands"] or ():
        found += rules.judge_gate_command(policy, command)
    if params["branch_prefix"] is not None:
        found += rules.judge_branch(policy, params["branch_prefix"], params["repo"])
    if params["remote"] is not None:
        found += rules.judge_remote(policy, params["remote"], params["remote_url"], params["expected_url"])
    if params["repo_root"] is not None:
        found += rules.judge_repo_root(policy, params["repo"], params["repo_root"])
    lines = list(map(str, found))
    if params["worktree"] is not None:
        lines += judge_worktree(policy, params)
    return lines


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "policy": {"type": "path"},
            "policy_content": {"type": "raw"},
            "repo": {"type": "str", "default": ""},
            "handoff_dir": {"type": "str"},
            "paths": {"type": "list", "elements": "str"},
            "diff": {"type": "str"},
            "diff_file": {"type": "path"},
            "worktree": {"type": "path"},
            "base": {"type": "str"},
            "allowed_paths": {"type": "list", "elements": "str"},
            "gate_commands": {"type": "list", "elements": "raw"},
            "branch_prefix": {"type": "str"},
            "remote": {"type": "str"},
            "remote_url": {"type": "str"},
            "expected_url": {"type": "str"},
            "repo_root": {"type": "str"},
        },
        mutually_exclusive=[("policy", "policy_content")],
        required_one_of=[("policy", "policy_content"), QUESTIONS],
        required_together=[("worktree", "base")],
        required_by={"remote_url": "remote", "expected_url": "remote"},
        supports_check_mode=True,
    )
    if not HAS_YAML:
        module.fail_json(msg=missing_required_lib("PyYAML"))
    try:
        put_habits_aside(module.ansible_version)
        violations = ask(module.params)
    except LoopError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, allowed=not violations, violations=violations)


if __name__ == "__main__":
    main()
