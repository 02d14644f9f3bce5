#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pypi_tool
short_description: Install one pinned command-line tool from PyPI
version_added: "0.1.0"
description:
  - Installs the tool into a virtual environment of its own and points the link O(dest) at it.
  - A version that does not install leaves the one in use untouched.
author:
  - AS215932 (@AS215932)
extends_documentation_fragment:
  - as215932.engineering_loop.attributes
options:
  name:
    description: Name of the package.
    type: str
    required: true
  version:
    description: Exact version.
    type: str
    required: true
  dest:
    description: The link that points to the version in use; its programs are in C(bin) below it. Its parent must exist.
    type: path
    required: true
  python:
    description: The interpreter to build the environment with.
    type: path
    default: /usr/bin/python3
  wheels:
    description: A directory of wheels on the host to install from, for hosts that reach no package index.
    type: path
"""

EXAMPLES = r"""
- name: Install uv
  as215932.engineering_loop.pypi_tool:
    name: uv
    version: 0.13.9
    dest: /opt/engineering-loop/uv
"""

RETURN = r"""
before:
  description: The version that was in use, empty if none was.
  returned: success
  type: str
  sample: 0.13.8
after:
  description: The version in use, or that would be.
  returned: success
  type: str
  sample: 0.13.9
"""

import re

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.habits import put_habits_aside
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import pypi_tools


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "version": {"type": "str", "required": True},
            "dest": {"type": "path", "required": True},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "wheels": {"type": "path"},
        },
        supports_check_mode=True,
    )
    name, version, dest = (module.params[key] for key in ("name", "version", "dest"))
    for value, allowed in ((name, r"[A-Za-z0-9][A-Za-z0-9._-]*"), (version, r"[0-9][0-9A-Za-z.+!]*")):
        if not re.fullmatch(allowed, value):
            module.fail_json(msg=f"{value!r} is not a package name or an exact version such as 0.13.9")
    try:
        put_habits_aside(module.ansible_version)
        before = pypi_tools.installed(dest)
        if before != version and not module.check_mode:
            pypi_tools.install(name, version, dest, module.params["python"], module.params["wheels"] or "")
    except LoopError as error:
        module.fail_json(msg=str(error))
    result = {"changed": before != version, "before": before, "after": version}
    if module._diff:
        result["diff"] = {"before": f"{name} {before or 'absent'}\n", "after": f"{name} {version}\n"}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
