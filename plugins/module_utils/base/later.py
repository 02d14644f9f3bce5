# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Libraries that are loaded when they are first used: most of what imports them never gets there."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any


def later(name: str) -> Any:
    """The module of that name, not loaded before something of it is asked for; None where it is not installed."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
