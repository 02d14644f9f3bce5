#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: engine_release
short_description: Install a version of the engine beside the others and switch to it in one step
version_added: "0.1.0"
author: AS215932 (@AS215932)
description:
  - Builds O(version) into C(releases/<sha>) under O(install_dir), starts it once to prove that it runs,
    makes it read-only and points the link C(current) to it by one rename.
  - A build that fails or is killed leaves what was active as it was; what it left behind is cleared by the next run.
  - Never switches under a cycle in progress.
  - A release whose files were changed by hand is put aside and built again.
requirements:
  - git and bubblewrap
extends_documentation_fragment:
  - as215932.engineering_loop.attributes
  - as215932.engineering_loop.apply_run
  - as215932.engineering_loop.git_access
options:
  state:
    description:
      - V(present) has O(version) built and active.
      - V(previous) goes back to the release that was proven last; never to one that failed or was not judged.
        Once back, running it again changes nothing.
      - V(absent) removes all releases, the mirror, the cache and the history. Other files in O(install_dir) stay.
    type: str
    choices: [present, previous, absent]
    default: present
  repo:
    description:
      - URL or path of the engine's git repository, or of a git bundle on the host.
      - Required with O(state=present). With V(previous), a release that must be built again then takes its
        sources from the mirror on the host.
    type: str
  version:
    description: The commit to install, as 40 lower-case hexadecimal digits. Anything else is refused.
    type: str
  branches:
    description:
      - Branches of O(repo) of which one must contain O(version), by name or pattern (V(release/*)).
      - By default the repository's own default branch. V(*) allows any.
    type: list
    elements: str
    default: []
  install_dir:
    description: Where releases, mirror, cache and history are kept. Becomes owned by whoever runs this.
    type: path
    default: /opt/engineering-loop
  keep:
    description:
      - How many releases stay on the host.
      - The active one, the one before it and those that were proven last are never removed, even if these are more.
    type: int
    default: 3
  python:
    description: The Python interpreter for the release.
    type: path
    default: /usr/bin/python3
  uv:
    description: The program uv. Only needed where the engine has a C(uv.lock).
    type: str
    default: uv
  sync:
    description:
      - The command that installs the engine and its dependencies into C(.venv), run in the release's directory.
      - By default C(uv lock --check) and C(uv sync --frozen --no-dev), or a virtual environment and C(pip)
        where the engine has no C(uv.lock).
    type: list
    elements: str
    default: []
  wheels:
    description:
      - A directory of wheels on the host to install from, for hosts that reach no package index.
      - A git dependency of the engine is then taken from C(NAME.bundle) in it, a git bundle.
    type: path
  git_sources:
    description:
      - What the addresses of the engine's git dependencies may begin with, by whole names, as
        V(https://github.com/AS215932). They are built from the commits that C(uv.lock) pins.
      - By default those of the owner of O(repo), where that is on the web.
    type: list
    elements: str
    default: []
  build_tools:
    description:
      - What the engine's git dependencies are built with, as lines of a file of requirements, each with one version and
        its hashes. Anything else is refused.
      - By default hatchling, hatch-vcs, setuptools, setuptools-scm, wheel, flit-core and poetry-core, in versions that
        this collection pins.
    type: list
    elements: str
    default: []
  smoke:
    description:
      - The command that must succeed in the finished release before it is activated.
      - It is shut in by bubblewrap. It sees the programs of the host and the release, reaches no network, and finds
        none of the host's other files and nothing of the caller's environment.
    type: list
    elements: str
    default: [.venv/bin/hyrule-engineering-loop, daemon, --help]
  user:
    description: Whom the smoke command runs as. By default whoever runs this module.
    type: str
  policy:
    description:
      - What M(as215932.engineering_loop.gate_policy) will be asked for once the release is active.
      - Composed before the switch. A policy that is refused leaves the release built and not active.
    type: dict
    suboptions:
      base:
        description: The release's own policy, relative to its directory.
        type: str
        default: engineering-loop-policy.yml
      overlay:
        description: As of M(as215932.engineering_loop.gate_policy).
        type: dict
        default: {}
      handoff_dirs:
        description: As of M(as215932.engineering_loop.gate_policy).
        type: list
        elements: str
        default: []
      widen:
        description: As of M(as215932.engineering_loop.gate_policy).
        type: list
        elements: str
        default: []
  asks:
    description:
      - Commands of the engine whose options are compared before another version is switched to.
      - What came and what went is returned as RV(foretell), and shown as a warning.
    type: list
    elements: dict
    default: []
    suboptions:
      command:
        description: A program of the engine, and the words that choose what it does.
        type: list
        elements: str
        required: true
      given:
        description: What this host gives it. An option among these that went is told apart.
        type: list
        elements: str
        default: []
  lock_sha256:
    description: The SHA-256 that C(uv.lock) must have.
    type: str
  allowed_signers:
    description:
      - A file on the host, as C(ssh-keygen) reads it. One of these must have signed O(version).
      - What it holds counts, so that a release is judged again where a key was added or taken away.
    type: path
  keyring:
    description: A file of OpenPGP keys on the host, likewise. Needs the program C(gpg).
    type: path
  run_lock:
    description: The engine's lock file; a living process named in it is a cycle in progress.
    type: path
  unit:
    description: The systemd unit that runs cycles; while it is active a cycle is in progress. Empty to not ask.
    type: str
    default: hyrule-engineering-loop
  wait:
    description: How many seconds to wait for a cycle in progress, or for another run of this module, to end.
    type: float
    default: 0
  timeout:
    description: How many seconds each command of a build may take.
    type: float
    default: 1800
  env_file:
    description: A file on the host that holds the token for O(repo) as E(GH_TOKEN). Ignored where it is missing.
    type: path
  hold:
    description:
      - The host's settings, C(loop.json). Given them, the timer is held before another release is switched to, until
        M(as215932.engineering_loop.loop_timer) finds a proof or M(as215932.engineering_loop.loop_rollout) goes back.
    type: path
  git_url:
    description:
      - The forge that the token of O(env_file) or O(github_app) is for. Where O(repo) is elsewhere, it is not sent.
        Empty where the token is one for O(repo), wherever that is.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Have this commit active
  as215932.engineering_loop.engine_release:
    repo: https://github.com/AS215932/engineering-loop
    version: 58735fa051d24290f128109b4267e136316cbc86
    branches: [main, release/*]
    user: loop
    policy:
      handoff_dirs: [/var/lib/engineering-loop/runs]
    wait: 3600

- name: Go back to the release that worked
  as215932.engineering_loop.engine_release:
    state: previous
    wait: 3600

- name: Install from a bundle and wheels on a host without a network
  as215932.engineering_loop.engine_release:
    repo: /srv/engine.bundle
    wheels: /srv/wheels
    version: 58735fa051d24290f128109b4267e136316cbc86
"""

RETURN = r"""
release:
  description:
    - The active release as it was recorded. Null after O(state=absent).
    - In check mode, a release that is not built yet has C(sha) and C(path) only.
  returned: success
  type: dict
  contains:
    sha: {description: Its commit., type: str}
    path: {description: Its directory., type: str}
    source: {description: Where it was fetched from., type: str}
    branch: {description: The branch that it was found on., type: str}
    lock_digest: {description: The SHA-256 of its C(uv.lock); empty where there is none., type: str}
    files_digest: {description: The SHA-256 of the list of its files and their digests., type: str}
    python: {description: The version of its Python., type: str}
    uv: {description: The version of uv that built it., type: str}
    git_dependencies:
      description: What was built from commits of repositories, each with its commit and the digest of its wheel.
      type: list
      elements: dict
    smoke: {description: The command that proved it and how long it took., type: dict}
    built_at: {description: When it was built (UTC)., type: str}
    built_by: {description: Who built it., type: str}
    seconds: {description: How long the build took., type: dict}
previous:
  description: C(sha) and C(path) of the release that was active when the module started; null where none was.
  returned: success
  type: dict
activated:
  description: Whether C(current) was pointed to another release.
  returned: success
  type: bool
built:
  description: Whether the release had to be built.
  returned: success
  type: bool
damaged:
  description: The files of the release that had been changed by hand. It was put aside and built again.
  returned: success
  type: list
  elements: str
foretell:
  description:
    - What options the version that was switched to has, or has lost, against the one before it, a line for each
      command of O(asks).
    - In check mode, that this is known once it is built, where it is not.
  returned: success
  type: list
  elements: str
pruned:
  description: The commits of the releases that were removed.
  returned: success
  type: list
  elements: str
"""

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.stages import engine, outcome


def main() -> None:
    module = AnsibleModule(
        argument_spec={**engine.OPTIONS, **outcome.STEP},
        required_if=[("state", "present", ("repo", "version"))],
        mutually_exclusive=[("allowed_signers", "keyring")],
        supports_check_mode=True,
    )
    outcome.run(module, engine.bring, put_habits_aside)


if __name__ == "__main__":
    main()
