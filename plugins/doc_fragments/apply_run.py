# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The apply that a module is a step of."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  run:
    description:
      - The apply that this is a step of. Where another one began after it, the module fails and changes nothing.
    type: dict
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
"""
