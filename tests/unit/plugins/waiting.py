# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for what comes in a moment."""

from __future__ import annotations

import time
from collections.abc import Callable


def soon(condition: Callable[[], object]) -> bool:
    """Whether it comes to hold: a signal arrives a moment after it was sent."""
    for _unused in range(250):
        if condition():
            return True
        time.sleep(0.02)
    return False
