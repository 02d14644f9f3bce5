# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose state it is. Two hosts on one directory (NFS, a shared disk) see no lock and no process of each other.

The role leaves a mark in the state directory, and it and each cycle look whose mark is there. A machine is known
by its machine ID, which no rename changes. Only a digest of it is written: the ID is nobody else's business.
"""

from __future__ import annotations

import hashlib
import os
import socket

from ..base.errors import LoopError
from ..base.files import read_bytes
from ..base.untrusted import show

FILE, MACHINE_ID = ".host", "/etc/machine-id"


def path_of(state_dir: str) -> str:
    """Where the mark is."""
    return os.path.join(state_dir, FILE)


def mark() -> str:
    """What this host writes there; empty for a machine without an ID, which cannot be told from another."""
    known = (read_bytes(MACHINE_ID) or b"").strip()
    if len(known) != 32:  # none, or "uninitialized"
        return ""
    return f"{hashlib.sha256(b'engineering-loop ' + known).hexdigest()[:32]} {socket.gethostname()}\n"


def problem(state_dir: str) -> str:
    """Why this host must not work there; empty where the directory is its own, or nobody's yet."""
    path = path_of(state_dir)
    words = (read_bytes(path) or b"").decode(errors="replace").split()
    ours = mark().split()
    if not words or not ours or words[0] == ours[0]:
        return ""
    return (
        f"{state_dir} holds the state of the loop on another host, {show(' '.join(words[1:]), 80) or 'without a name'}:"
        " two hosts cannot share it. Give this one a directory of its own (engineering_loop_state_dir), or, where that"
        f" host works there no more, rm {path}"
    )


def check(state_dir: str) -> None:
    """LoopError where the directory is another host's."""
    if told := problem(state_dir):
        raise LoopError(told)
