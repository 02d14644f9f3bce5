#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: loop_info
short_description: Gather facts about a loop host
version_added: "0.1.0"
description:
  - What the host is (system, missing packages, uv) and what was deployed on it
    (engine, proof, timer, last cycles, kept work).
  - Reads only. Works on a host where nothing was deployed yet.
author:
  - AS215932 (@AS215932)
extends_documentation_fragment:
  - as215932.engineering_loop.attributes
options:
  config:
    description: The settings that the role writes on the host.
    type: path
    default: /etc/engineering-loop/loop.json
  packages:
    description: Debian packages to look for; the missing ones are returned.
    type: list
    elements: str
    default: []
  uv:
    description: Path of the uv program whose version is wanted.
    type: path
  user:
    description: A user to look for.
    type: str
  accounts:
    description:
      - The users of the loop, each with the group that is its own, to be looked at as
        M(as215932.engineering_loop.loop_user) does.
    type: dict
    default: {}
  takeover:
    description:
      - Where an older layout of the loop may stand, as in O(as215932.engineering_loop.loop_takeover#module:layout).
        What there is to take over is returned.
    type: dict
  secrets:
    description:
      - Where the secrets are and who uses them, with the keys C(env_file), C(forbidden_environment), C(github_app),
        C(api_url), C(user), C(gate_user), C(install_dir) and C(config_dir) of the settings. They are looked at as a
        cycle will.
    type: dict
    version_added: "0.2.0"
  environment:
    description:
      - The secrets that the role will write itself, so that no file is looked at. Names, and values only of what is
        no secret, such as a path; any other value can be given as C(x).
    type: dict
    version_added: "0.2.0"
  home_files:
    description: Files of root's that each cell is to find in its home, to be looked at as a cycle will.
    type: list
    elements: dict
    default: []
    suboptions:
      src:
        description: On the host.
        type: path
        required: true
      dest:
        description: In the home.
        type: str
        required: true
  caches:
    description: Directories that each cell is to find in its home, to be looked at as a cycle will.
    type: list
    elements: dict
    default: []
    suboptions:
      src:
        description: On the host.
        type: path
        required: true
      dest:
        description: In the home.
        type: str
        required: true
  units:
    description:
      - Units of systemd that are to be written, by file name, to be looked at as systemd will. An empty one is not
        wanted.
    type: dict
    default: {}
  directories:
    description: Directories that are to be written to. They need not be there.
    type: list
    elements: path
    default: []
  agent:
    description: What does the work, as C(agent) in the settings of the role.
    type: dict
    default: {}
  agent_programs:
    description: The programs that the engine may start as its agent, by name.
    type: list
    elements: str
    default: []
  agent_lockfile:
    description: The content of the C(package-lock.json) that O(agent) is to be installed by, if there is one.
    type: str
    default: ""
    version_added: "0.2.0"
  notify:
    description: Notification targets that are to be written, to be looked at as what sends will.
    type: list
    elements: str
    default: []
    version_added: "0.2.0"
  notify_file:
    description: A file with further ones, which another program renders.
    type: path
    default: ""
    version_added: "0.2.0"
  state_dir:
    description: Where the loop keeps its state. Whether that is another host's is looked at where it is given.
    type: path
    default: ""
    version_added: "0.3.0"
  begins:
    description:
      - The apply that looks. It waits for what another one is at; and where RV(todo) names something and nothing is
        refused, it has begun, and the other one ends at its next step.
    type: dict
    version_added: "0.3.0"
    suboptions:
      id:
        description: What no other apply has.
        type: str
        required: true
      by:
        description: Who applies.
        type: str
        default: ""
      file:
        description: Where on the host applies are noted, in memory.
        type: path
        required: true
  stages:
    description:
      - The stages of an apply, each with the options that its module is to be called with. RV(todo) says which of them
        have anything to do.
      - The stages are C(identity) and C(service), with the options of M(as215932.engineering_loop.host_files),
        C(release) (M(as215932.engineering_loop.engine_release)), C(policy) (M(as215932.engineering_loop.gate_policy)),
        C(agent) (M(as215932.engineering_loop.loop_agent)), C(workspace) (M(as215932.engineering_loop.pristine_clones))
        and C(timer) (M(as215932.engineering_loop.loop_timer)), in this order.
      - C(service) takes O(units), and C(identity) O(secret_files).
    type: dict
    default: {}
    version_added: "0.3.0"
  secret_files:
    description: The option C(secrets) of the stage C(identity).
    type: dict
    default: {}
    version_added: "0.3.0"
  uv_wanted:
    description: The version of O(uv) that is to be there.
    type: str
    version_added: "0.3.0"
  details:
    description: Also read what is deployed. Without it only the system is looked at, which is quick.
    type: bool
    default: true
  cycles:
    description: How many of the last cycles to return.
    type: int
    default: 5
"""

EXAMPLES = r"""
- name: Look at the host
  as215932.engineering_loop.loop_info:
  register: host

- name: Show whether what is installed was proven
  ansible.builtin.debug:
    var: host.loop.proof
"""

RETURN = r"""
system:
  description:
    - Operating system, Python and clock of the host. C(namespaces_problem) says why the agent could not be shut in on
      its kernel, and how to allow it; it is empty where it can. C(problem) says why this system cannot carry the loop
      at all, C(runs Debian GNU/Linux 12 ...) and what that lacks, and is empty where it can.
  returned: success
  type: dict
  sample: {id: debian, version_id: "13", name: Debian GNU/Linux 13 (trixie), python: 3.13.5, systemd: true, root: true}
full:
  description: Those of O(directories), or what of them is there, on whose disk there is no room.
  returned: success
  type: list
  elements: str
packages_missing:
  description:
    - Those of O(packages) that are not installed. C(nodejs) and C(npm) are not among them where programs of these names
      are there, whoever brought them.
  returned: success
  type: list
  elements: str
  sample: [git]
packages_interrupted:
  description: Whether dpkg was killed in the middle of something, which must be ended before it does anything else.
  returned: success
  type: bool
  sample: false
python_apt_half:
  description:
    - Whether python3-apt is there by half, as dpkg leaves it that is killed. M(ansible.builtin.apt) needs it whole.
  returned: success
  type: bool
  sample: false
  version_added: "0.3.0"
uv_version:
  description: Version of the program at O(uv), empty if there is none.
  returned: success
  type: str
  sample: 0.9.0
user_exists:
  description: Whether O(user) exists.
  returned: success
  type: bool
  sample: true
job_units:
  description: Unit files of jobs beside the cycle that are on the host, of the loop that O(takeover) names.
  returned: success
  type: list
  elements: str
  sample: [hyrule-reliability-governor.service, hyrule-reliability-governor.timer]
accounts:
  description: What was found about O(accounts).
  returned: success
  type: dict
  contains:
    missing_users:
      description: Those that do not exist.
      type: list
      returned: always
    missing_groups:
      description: Groups that do not exist.
      type: list
      returned: always
    refused:
      description: Rights that only a person takes away, a line each with the command.
      type: list
      returned: always
    faults:
      description: What M(as215932.engineering_loop.loop_user) mends, a line each.
      type: list
      returned: always
    notes:
      description: What is worth a look and is left alone, a line each.
      type: list
      returned: always
takeover:
  description: What M(as215932.engineering_loop.loop_takeover) would take over, empty without O(takeover).
  returned: success
  type: list
  elements: str
  sample: [/opt/engineering-loop/.git]
rollout:
  description: What a rollout has to know first.
  returned: success
  type: dict
  contains:
    under_way:
      description: The rollout that was begun and did not end, null where there is none.
      type: dict
      returned: always
    doubts:
      description: The engines that failed or were gone back from, by commit, and why.
      type: dict
      returned: always
paused:
  description: Since when, by whom and why the loop is paused, and how to resume it; empty where it is not.
  returned: success
  type: str
  sample: ""
cell_problem:
  description: Which of O(home_files) and O(caches) a cycle would refuse, and why; empty where all are fit.
  returned: success
  type: str
agent_problem:
  description:
    - Why there is no agent on this host, or the host's node is too old for the one to be installed, and what to do.
      Empty where there is one or it will be installed.
  returned: success
  type: str
notify_problem:
  description: Why nobody could be told at O(notify) and in O(notify_file), empty where all of them can.
  returned: success
  type: str
  sample: ""
units_refused:
  description: What systemd would not take of O(units), a line each.
  returned: success
  type: list
  elements: str
  sample: ["loop.timer: systemd does not take OnCalendar=5 minutes (Failed to parse calendar specification)"]
deployed:
  description: Whether one of O(units) stands on the host, written by the role.
  returned: success
  type: bool
  sample: true
secrets:
  description: What was found about O(secrets). No value of a secret is told.
  returned: success
  type: dict
  contains:
    problem:
      description: Why every cycle would refuse them, and what to do; empty where none would.
      type: str
      returned: always
    notes:
      description: What is to be known or mended, a line each.
      type: list
      elements: str
      returned: always
    loose:
      description: Files that others than root can read, and that no Vault Agent of the host renders again.
      type: list
      elements: str
      returned: always
  sample:
    problem: ""
    loose: []
    notes: ["of /etc/engineering-loop/env these have no effect, since the loop sets them itself: GIT_ASKPASS"]
state_problem:
  description: Why this host must not work in O(state_dir), as another one does; empty where it may.
  returned: success
  type: str
  sample: ""
todo:
  description: The stages of an apply that have something to do, C(packages) and C(takeover) among them.
  returned: with O(stages)
  type: list
  elements: str
  sample: [release, policy, agent, service, timer]
settled:
  description: What the module of each of O(stages) that has nothing to do would return.
  returned: with O(stages)
  type: dict
loop:
  description: What was deployed, null where nothing was or with O(details=false).
  returned: success
  type: dict
  contains:
    settings:
      description: The settings in force.
      type: dict
      returned: always
    engine:
      description: SHA of the active release.
      type: str
      returned: always
    installed:
      description: The digests of what is installed.
      type: dict
      returned: always
    proof:
      description: Whether a receipt matches, and the reason if not.
      type: dict
      returned: always
    secrets:
      description: What was found about the secrets, as RV(secrets) has it.
      type: dict
      returned: always
    back:
      description: The engine that the playbook C(rollback) would go back to, null where there is none.
      type: dict
      returned: always
    timer:
      description: State of the timer.
      type: dict
      returned: always
    cycles:
      description:
        - The last cycles, oldest first. C(issue), C(pr_url), C(pushes), C(held) and C(refusals) of each are from the
          gateway's record, C(report) is what the engine says of itself.
      type: list
      returned: always
    kept:
      description:
        - Cells of cycles that did not end well, and what an older layout left, oldest first; after them, with
          C(kind=push), pushes that the gateway refused and branches that made room for others.
        - Each has C(id), C(what), C(title), C(outcome), C(detail), C(made), C(size), C(files), C(path) and C(kind).
      type: list
      elements: dict
      returned: always
"""

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.stages import look, outcome


def main() -> None:
    module = AnsibleModule(argument_spec=look.OPTIONS, supports_check_mode=True)
    outcome.run(module, look.bring, put_habits_aside)


if __name__ == "__main__":
    main()
