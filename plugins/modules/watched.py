#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: watched
short_description: Run another module, and show meanwhile that it runs
version_added: "0.2.0"
author: AS215932 (@AS215932)
description:
  - Runs O(module) with O(args), and returns what it returns. As long as it runs, every few seconds a line names the
    host, the task, how long it has run, and what happens on the host.
  - The modules of this collection are shown like that by themselves, with what they say that they do.
  - A task that is over within three seconds shows nothing of this and costs nothing more.
  - The line is fetched by a connection of its own, as the task's user. Where the host does not answer for ten seconds,
    that is shown; where the connection of the module is lost, the error says what was under way.
  - With C(no_log) nothing is shown. With C(async) the module is sent to the background as usual.
attributes:
  check_mode:
    support: full
    description: As far as O(module) has it.
  diff_mode:
    support: full
    description: As far as O(module) has it.
options:
  module:
    description: The full name of the module. It must not be one that is an action plugin itself.
    type: str
    required: true
  args:
    description: Its options.
    type: dict
    default: {}
  look:
    description: A shell command on the host. The last line that it prints says what happens there.
    type: str
    default: ""
notes:
  - An action plugin does all of it; nothing of this module runs on the host.
"""

EXAMPLES = r"""
- name: Install the missing packages
  as215932.engineering_loop.watched:
    module: ansible.builtin.apt
    args:
      name: [git, nodejs]
      install_recommends: false
    look: tail -n 1 /var/log/dpkg.log
"""

RETURN = r""" # what O(module) returns
"""
