#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: loop_sbom
short_description: Tell what software is installed for the loop, as a CycloneDX bill of materials
version_added: "0.2.0"
author: AS215932 (@AS215932)
description:
  - Reads the active release with its Python packages, uv, the agent's npm packages with their hashes, and Debian's
    packages with all that they depend on, as they are installed on this host.
  - The bill is CycloneDX 1.6. The same host gives the same text.
  - Changes nothing and asks no network.
extends_documentation_fragment:
  - as215932.engineering_loop.attributes
options:
  config:
    description: Where the role put the loop's settings.
    type: path
    default: /etc/engineering-loop/loop.json
  packages:
    description: Debian's packages that the role installs.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Read what is installed for the loop
  as215932.engineering_loop.loop_sbom:
    packages: [git, bubblewrap]
  register: installed

- name: Keep it on the controller
  ansible.builtin.copy:
    content: "{{ installed.text }}"
    dest: "sbom/{{ inventory_hostname }}.cdx.json"
    mode: "0644"
  delegate_to: localhost
"""

RETURN = r"""
text:
  description: The bill as the text of a file.
  returned: success
  type: str
components:
  description: How many components it names, beside the engine.
  returned: success
  type: int
  sample: 412
"""

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.core_files import VERSION
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import sbom


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "path", "default": settings.DEFAULT_PATH},
            "packages": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        put_habits_aside(module.ansible_version)
        config = settings.load(module.params["config"], keys=("install_dir", "agent"))
        bill = sbom.of_host(config, module.params["packages"], VERSION)
    except LoopError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, text=sbom.text(bill), components=len(bill["components"]))


if __name__ == "__main__":
    main()
