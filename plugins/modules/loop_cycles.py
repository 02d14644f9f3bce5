#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: loop_cycles
short_description: Show what happened in the cycles of a loop host
version_added: "0.2.0"
author: AS215932 (@AS215932)
description:
  - Lists the cycles of a host, newest first, or tells of one all that is kept, which is its record, its log, and what
    the engine wrote for people.
  - Reads the host only. With O(fetch) files are written on the controller.
  - What it says is shown in lines, as it comes.
extends_documentation_fragment:
  - as215932.engineering_loop.attributes
options:
  config:
    description: The host's settings, written by the role.
    type: path
    default: /etc/engineering-loop/loop.json
  last:
    description: How many cycles to list of those that fit; V(0) means all.
    type: int
    default: 20
  outcome:
    description: Only cycles that ended so, as in V(published) or V(needs_triage,error).
    type: str
    default: ""
  issue:
    description: Only cycles that took this issue, as in V(7), V(network-operations#7) or V(OWNER/REPO#7).
    type: str
    default: ""
  cycle:
    description: One cycle to tell of, by its id or a part of it that fits no other; V(last) is the newest.
    type: str
    default: ""
  content:
    description: Return the log and the files of O(cycle) as well. Set by O(fetch).
    type: bool
    default: false
  fetch:
    description:
      - A directory on the controller that O(cycle) is brought to, as V(HOST/CYCLE) below it, with C(record.json),
        C(log.txt) and the engine's files in C(files). It is made where it is not there.
    type: path
  format:
    description: How it is shown. V(json) is one JSON document for each host; V(none) shows nothing.
    type: str
    choices: [text, json, none]
    default: text
"""

EXAMPLES = r"""
- name: Show the last cycles that did not publish
  as215932.engineering_loop.loop_cycles:
    outcome: error,needs_triage,interrupted

- name: Bring all of one to the controller
  as215932.engineering_loop.loop_cycles:
    cycle: 20260131T120000Z-1a2b3c4d
    fetch: ./cycles
"""

RETURN = r"""
cycles:
  description:
    - The cycles that fit, newest first. C(cost_usd) is what the engine says; C(repo), C(issue), C(title) and C(pr_url)
      are from the gateway's record.
  returned: without O(cycle)
  type: list
  elements: dict
  sample:
    - cycle: 20260131T120000Z-1a2b3c4d
      started: "2026-01-31T12:00:00Z"
      outcome: published
      seconds: 61.5
      cost_usd: 0.42
      agents: 1
      engine: 58735fa051d24290f128109b4267e136316cbc86
      repo: AS215932/network-operations
      issue: 7
      title: Explain the uplinks
      pr_url: https://github.com/AS215932/network-operations/pull/8
      why: ""
cycle:
  description:
    - The one cycle, with C(record), C(cell) (its place where it is still there), C(enter) and C(journal) (commands for
      the host), C(problems), C(files) (C(name) and C(size) of each) and C(log) (whether it is C(kept), how many
      C(lines) it has and its C(end)).
  returned: with O(cycle)
  type: dict
content:
  description: Path below the cycle's directory, and content in base64.
  returned: with O(content), and not with O(fetch)
  type: dict
costs:
  description: One line of CSV for each of RV(cycles), or for RV(cycle), oldest first, in the columns of RV(columns).
  returned: success
  type: list
  elements: str
columns:
  description: The line of CSV that names the columns.
  returned: success
  type: str
  sample: host,cycle,date,engine,repo,issue,outcome,seconds,cost_usd,agents,pr_url
fetched:
  description: What was brought to the controller, or would be.
  returned: with O(fetch)
  type: list
  elements: str
"""

import base64
import json
from typing import Any

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.untrusted import shown
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.report import history


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "path", "default": settings.DEFAULT_PATH},
            "last": {"type": "int", "default": 20},
            "outcome": {"type": "str", "default": ""},
            "issue": {"type": "str", "default": ""},
            "cycle": {"type": "str", "default": ""},
            "content": {"type": "bool", "default": False},
            "fetch": {"type": "path"},
            "format": {"type": "str", "choices": ["text", "json", "none"], "default": "text"},
        },
        supports_check_mode=True,
    )
    try:
        put_habits_aside(module.ansible_version)
        found = look(module.params)
    except LoopError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **found)


def look(given: dict[str, Any]) -> dict[str, Any]:
    """The list, or one cycle."""
    config = settings.load(given["config"], keys=history.KEYS)
    rows = shown(history.select(config, given["last"], given["outcome"], given["issue"]))  # refuses what is no filter
    if not given["cycle"]:
        return {"cycles": rows}
    one = history.whole(config, history.find(config, given["cycle"]))
    answer: dict[str, Any] = {"cycle": shown(history.outline(one))}
    if given["content"]:
        record = json.dumps(one["record"], indent=2, sort_keys=True) + "\n"
        content = {"record.json": record.encode(), **{f"files/{name}": text for name, text in one["files"].items()}}
        if one["log"] is not None:
            content["log.txt"] = one["log"].encode()
        answer["content"] = {name: base64.b64encode(text).decode() for name, text in sorted(content.items())}
    return answer


if __name__ == "__main__":
    main()
