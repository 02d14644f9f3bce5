# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is judged, a changed file, and what comes out of it, a violation of the policy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

LINK, MODULE, PROGRAM, DIRECTORY = "120000", "160000", "100755", "040000"  # git's modes
MODES = ("", "000000", "100644", PROGRAM, LINK, MODULE)
# str.splitlines, and so the engine, sees a line's end in more characters than git does.
ODD_ENDS = re.compile("[\r\v\f\x1c-\x1e\x85\u2028\u2029]")


class Violation(NamedTuple):
    """One reason why something is not allowed: the rule's key, what broke it, and how."""

    rule: str
    subject: str
    reason: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason} [{self.rule}]"


class Change(NamedTuple):
    """One changed file. Names and text carry bytes that are not UTF-8 as surrogates."""

    path: str
    origin: str = ""  # the other name of a rename or a copy
    old_mode: str = ""
    mode: str = ""
    deleted: bool = False
    binary: bool = False
    added: tuple[str, ...] = ()
    strays: tuple[str, ...] = ()  # what only the engine takes for added lines, see ODD_ENDS
    size: int = 0  # of the file after the change; at least what was added where nothing more is known
    blob: str = ""
    commit: str = ""
    since: str = ""  # of what is changed on the whole: the common ancestor with the base that it is told from


def encoded(text: str) -> bytes:
    """The bytes that git has for ``text``."""
    return text.encode("utf-8", "surrogateescape")


def bytes_in(lines: Sequence[str]) -> int:
    """How many bytes these lines have in a file."""
    text = "\n".join(lines)
    return (len(text) if text.isascii() else len(encoded(text))) + bool(lines)
