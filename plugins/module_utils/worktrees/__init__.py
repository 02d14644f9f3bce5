# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Worktrees and checkouts outside of cells: healed, swept, put into quarantine, restored.

It imports git, host and base.
"""
