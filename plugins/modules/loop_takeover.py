#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: loop_takeover
short_description: Take over a host of an older layout of the loop
version_added: "0.1.0"
author: AS215932 (@AS215932)
description:
  - An older layout has the engine as a checkout in the install directory that belongs to the loop's user, with
    C(.venv) and C(.env) in it, wrapper scripts, and units that start them.
  - What the role would write over and what could no longer run is moved to C(taken-over/<time>) below the install
    directory, beside a manifest that says where each thing stood. Nothing is deleted.
  - Workspace, runs (what is quarantined included), state, records and home of that layout, and of a loop of ours whose
    cycles had no cells yet, are renamed into one kept cell, C(<runs_dir>/<id>), which only root enters. C(cell.json) in
    it says under which paths its parts were known.
  - Lessons stay in the memory directory, which is root's from then on. Those kept inside a workspace move there.
  - A run in progress, and whatever else works as the loop's user in a service, is waited for; sessions of that user are
    ended. The timer is stopped and disabled.
  - On a host where nothing of that is found, nothing is done.
extends_documentation_fragment:
  - as215932.engineering_loop.attributes
options:
  state:
    description:
      - V(taken) takes the host over.
      - V(prepared) only lets root own the install directory, so that a release can be built there while the old engine
        still stands.
      - V(put_back) is the way back, once M(as215932.engineering_loop.loop_leave) has run. Everything stands again where
        it stood, with its owner and mode, and the timers that were on are on. Nothing is written over.
    type: str
    choices: [prepared, taken, put_back]
    default: taken
  wait:
    description: How many seconds to wait for a run in progress. After that the module fails and the old loop runs on.
    type: float
    default: 0
  layout:
    description: Where things are.
    type: dict
    required: true
    suboptions:
      install_dir:
        description: Where the checkout stands and releases will.
        type: path
        required: true
      config_dir:
        description: Where policy and settings live.
        type: path
        required: true
      lib_dir:
        description: Where the wrapper scripts stand and the collection's code will.
        type: path
        required: true
      memory_dir:
        description: Where the engine keeps its lessons from now on.
        type: path
        required: true
      legacy_memory_dir:
        description: Where it kept them before, inside a workspace.
        type: path
      env_file:
        description:
          - The file with the secrets from now on. Where it is missing, the checkout's C(.env) becomes it.
        type: path
        required: true
      env_rendered:
        description: Whether the role writes that file itself. Then what was in it is kept aside.
        type: bool
        default: false
      forbidden_environment:
        description: Variables that must not stand in the secrets, as shell patterns.
        type: list
        elements: str
        default: []
      key_file:
        description: A private key that only root should read.
        type: path
      daemon_args:
        description: What the engine is given on its command line from now on. Where it was given more, that is told.
        type: list
        elements: str
        default: []
      author:
        description: Whose commits the loop makes from now on, as C(NAME <EMAIL>). Where others made them, that is told.
        type: str
      homed:
        description:
          - What cycles find in their homes from now on, by its path there. Agent configuration in the old home is told
            where none of these stands in its place.
        type: list
        elements: str
        default: []
      stays:
        description: What stands in O(layout.state_dir) and is used as it is, no part of the home that it was.
        type: list
        elements: path
        default: []
      wrappers:
        description: Wrapper scripts elsewhere than in O(layout.lib_dir).
        type: list
        elements: path
        default: []
      job_states:
        description:
          - Where jobs beside the cycle have their state, by unit. It is no work of an older layout, and what a unit of
            this name had there is copied to it.
        type: dict
        default: {}
      state_dir:
        description:
          - Where its work is; home of the loop's user there. Work is moved where this and the next four are given.
        type: path
      workspace_dir:
        description: Where the checkouts are there.
        type: path
      runs_dir:
        description: Where runs are there, and cells from now on.
        type: path
      daemon_state_dir:
        description: Where the engine's lock and ledgers are there.
        type: path
      cycles_dir:
        description: Where the records of cycles are.
        type: path
      run_lock:
        description: The engine's lock file, to be asked as well whether a run is in progress.
        type: path
      unit:
        description: Name of the service and the timer, without suffix.
        type: str
        required: true
      unit_dir:
        description: Where unit files stand.
        type: path
        default: /etc/systemd/system
      user:
        description: The loop's user.
        type: str
        required: true
      group:
        description: Its group.
        type: str
        required: true
"""

EXAMPLES = r"""
- name: Take the host over
  as215932.engineering_loop.loop_takeover:
    wait: 900
    layout:
      install_dir: /opt/engineering-loop
      config_dir: /etc/engineering-loop
      lib_dir: /usr/local/lib/engineering-loop
      memory_dir: /var/lib/engineering-loop/memory
      state_dir: /var/lib/engineering-loop
      workspace_dir: /var/lib/engineering-loop/workspace
      runs_dir: /var/lib/engineering-loop/runs
      daemon_state_dir: /var/lib/engineering-loop/state
      cycles_dir: /var/lib/engineering-loop/cycles
      env_file: /opt/engineering-loop/.env
      unit: hyrule-engineering-loop
      user: loop
      group: loop
"""

RETURN = r"""
lines:
  description: What was found and where it went, or would go, a line each.
  returned: success
  type: list
  elements: str
  sample: ["/usr/local/lib/engineering-loop/run-daemon -> /opt/engineering-loop/taken-over/x/lib/run-daemon"]
aside:
  description: The directory that holds what was moved, and the manifest. Empty where nothing was.
  returned: success
  type: str
  sample: /opt/engineering-loop/taken-over/20260101T120000.000000Z
items:
  description: Each thing with its kind, and where it stood and stands.
  returned: success
  type: list
  elements: dict
  sample: [{kind: unit, path: /etc/systemd/system/x.timer, to: /opt/engineering-loop/taken-over/x/units/x.timer}]
beside:
  description:
    - With O(state=prepared), whether a release can be built while the old engine still stands. Not where a checkout has
      something of a name that releases need.
  returned: with O(state=taken) and O(state=prepared)
  type: bool
"""

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.untrusted import shown
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import put_back, takeover
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.layout import layout_from

LAYOUT = {
    "install_dir": {"type": "path", "required": True},
    "config_dir": {"type": "path", "required": True},
    "lib_dir": {"type": "path", "required": True},
    "memory_dir": {"type": "path", "required": True},
    "legacy_memory_dir": {"type": "path"},
    "env_file": {"type": "path", "required": True},
    "env_rendered": {"type": "bool", "default": False},
    "forbidden_environment": {"type": "list", "elements": "str", "default": []},
    "key_file": {"type": "path", "no_log": False},
    "daemon_args": {"type": "list", "elements": "str", "default": []},
    "author": {"type": "str"},
    "homed": {"type": "list", "elements": "str", "default": []},
    "stays": {"type": "list", "elements": "path", "default": []},
    "wrappers": {"type": "list", "elements": "path", "default": []},
    "job_states": {"type": "dict", "default": {}},
    "run_lock": {"type": "path"},
    "state_dir": {"type": "path"},
    "workspace_dir": {"type": "path"},
    "runs_dir": {"type": "path"},
    "daemon_state_dir": {"type": "path"},
    "cycles_dir": {"type": "path"},
    "unit": {"type": "str", "required": True},
    "unit_dir": {"type": "path", "default": "/etc/systemd/system"},
    "user": {"type": "str", "required": True},
    "group": {"type": "str", "required": True},
}

SIDES = (("before", "path"), ("after", "to"))
BACK = (("before", "to"), ("after", "path"))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["prepared", "taken", "put_back"], "default": "taken"},
            "wait": {"type": "float", "default": 0},
            "layout": {"type": "dict", "required": True, "options": LAYOUT},
        },
        supports_check_mode=True,
    )
    wait = module.params["wait"]
    try:
        put_habits_aside(module.ansible_version)
        layout = layout_from(module.params["layout"])
        if module.params["state"] == "taken":
            result = {
                "beside": True,
                "env_file": layout.env_file,
                **takeover.take(layout, wait, check=module.check_mode),
            }
        elif module.params["state"] == "put_back":
            result = put_back.put_back(layout, wait, check=module.check_mode)
        else:
            made = takeover.prepare(layout, wait, check=module.check_mode)
            result = {"lines": [], "aside": "", "items": [], **made}
    except LoopError as error:
        module.fail_json(msg=str(error))
    result = shown(result)
    if module._diff:
        sides = BACK if module.params["state"] == "put_back" else SIDES
        result["diff"] = {side: "".join(f"{item[key]}\n" for item in result["items"]) for side, key in sides}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
