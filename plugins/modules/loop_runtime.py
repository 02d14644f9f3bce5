#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: loop_runtime
short_description: Install the collection's own code on the loop host
version_added: "0.1.0"
description:
  - The systemd unit runs the same code as the modules. This module writes the code it was shipped with
    below O(lib_dir), owned by root, so that host and collection cannot differ.
author:
  - AS215932 (@AS215932)
extends_documentation_fragment:
  - as215932.engineering_loop.attributes
options:
  lib_dir:
    description: Where the code goes. Its parent must exist.
    type: path
    default: /usr/local/lib/engineering-loop
"""

EXAMPLES = r"""
- name: Install the code that runs before every cycle
  as215932.engineering_loop.loop_runtime:
    lib_dir: /usr/local/lib/engineering-loop
"""

RETURN = r"""
version:
  description: Version of the collection that the code belongs to.
  returned: success
  type: str
  sample: 0.1.0
changed_paths:
  description: The paths that were changed, or would be.
  returned: success
  type: list
  elements: str
  sample: [/usr/local/lib/engineering-loop/engineering_loop_core/cycle.py]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.as215932.engineering_loop.plugins.module_utils import runtime
from ansible_collections.as215932.engineering_loop.plugins.module_utils.errors import LoopError


def main() -> None:
    module = AnsibleModule(
        argument_spec={"lib_dir": {"type": "path", "default": "/usr/local/lib/engineering-loop"}},
        supports_check_mode=True,
    )
    try:
        changes = runtime.install(module.params["lib_dir"], check=module.check_mode)
    except LoopError as error:
        module.fail_json(msg=str(error))
    result = {
        "changed": bool(changes),
        "changed_paths": [change.path for change in changes],
        "version": runtime.VERSION,
    }
    if module._diff:
        result["diff"] = (
            [{"prepared": "".join(f"{change.path}: {change.what}\n" for change in changes)}] if changes else []
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
