# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show the module while it runs; where the host has the code, that is asked."""

from __future__ import annotations

from ansible_collections.as215932.engineering_loop.plugins.plugin_utils.staged import ActionModule

__all__ = ["ActionModule"]
