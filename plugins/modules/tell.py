#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tell
short_description: Tell an operator some lines, as they are
version_added: "0.2.0"
author: AS215932 (@AS215932)
description:
  - Shows each line behind the name of the host, whole, so that a command in it can be copied. M(ansible.builtin.debug)
    breaks lines where its output format wants it.
  - What a terminal would obey is shown and not sent to it.
attributes:
  check_mode:
    support: full
    description: It changes nothing.
  diff_mode:
    support: none
    description: There is nothing to differ.
options:
  lines:
    description: What is told. Empty lines are left out.
    type: list
    elements: str
    required: true
  failure:
    description: With a text the task fails with it, once the lines are told.
    type: str
    default: ""
notes:
  - An action plugin does all of it; nothing of this module runs on the host.
"""

EXAMPLES = r"""
- name: Say what to do next
  as215932.engineering_loop.tell:
    lines:
      - "Next: {{ lookup('as215932.engineering_loop.playbook', 'status') }}"
"""

RETURN = r"""
lines:
  description: The lines that were told.
  returned: success
  type: list
  elements: str
"""
