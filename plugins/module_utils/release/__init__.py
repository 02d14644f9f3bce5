# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Versions: of the engine and of the agent, built side by side; the pin that names one.

It imports worktrees, policy, forge, git, host and base.
"""
