# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The errors that the core raises on purpose."""

from __future__ import annotations


class LoopError(Exception):
    """Something a person must decide about.

    The text is one line in the operator's words: what is wrong, where, and what
    to do or what is allowed instead. Modules hand it to ``fail_json`` unchanged;
    commands on the host print it and exit with 1.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class TimedOut(LoopError):
    """A program on this host did not end in its time. Of a repository it means: damaged, put it aside."""
