# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine: settings and secrets, users and processes, systemd's units, files that root keeps as they must be.

It imports base.
"""
