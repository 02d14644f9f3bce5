# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show the module while it runs."""

from __future__ import annotations

from ansible_collections.as215932.engineering_loop.plugins.plugin_utils.watched import ActionModule

__all__ = ["ActionModule"]
