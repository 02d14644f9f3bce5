#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: loop_report
short_description: Show the status of all loop hosts as a table, as JSON or as a page
version_added: "0.2.0"
description:
  - Shows what M(as215932.engineering_loop.loop_status) found on each host of the play. It runs on the controller, as an
    action plugin, once for all hosts.
  - Fails where a host needs a person, so that the play ends with another exit status than 0.
author:
  - AS215932 (@AS215932)
extends_documentation_fragment:
  - as215932.engineering_loop.attributes
options:
  register:
    description: The name that the results of M(as215932.engineering_loop.loop_status) were registered by.
    type: str
    required: true
  format:
    description: What is shown; V(json) is one object with the status of each host by its name.
    type: str
    choices: [table, json]
    default: table
  out:
    description:
      - A file on the controller for what would be shown. Anything else that can be written to, such as C(/dev/fd/3),
        does as well.
    type: path
  page:
    description: A file on the controller for one page of HTML that needs nothing else.
    type: path
seealso:
  - module: as215932.engineering_loop.loop_status
"""

EXAMPLES = r"""
- name: Look at the host
  as215932.engineering_loop.loop_status:
  register: host

- name: Show all of them
  as215932.engineering_loop.loop_report:
    register: host
    page: fleet.html
  run_once: true
"""

RETURN = r"""
well:
  description: Whether no host needs a person.
  returned: always
  type: bool
"""
