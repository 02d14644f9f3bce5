# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What our programs on the host say: to stdout, which systemd takes to the journal."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """At once, as it is; a line of ours ends with a line's end."""
    sys.stdout.write(text)
    sys.stdout.flush()
