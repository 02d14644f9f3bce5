# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who holds git's lock files."""

from __future__ import annotations

import os

from ..base.files import inside
from ..host.processes import Running
from .repository import Repo


def lock_holder(lock: str, repo: Repo, running: Running) -> str | None:
    """The living process that may hold git's lock file: it has it open, or is a git at work on the repository."""
    owner = os.lstat(lock).st_uid
    for process in running.processes:
        if lock in process.places:
            return f"process {process.pid} ({process.name})"
    for process in running.gits():
        seen = any(
            inside(place, repo.common) or (not repo.bare and inside(place, repo.path))
            for place in process.places
            if place != "/"
        )
        # A user may not look at its own processes in a sandbox, which may work here. What root may not look at is
        # root of a container with rights of its own, which has files of its own.
        hidden = not process.places and process.uid == owner != 0
        if seen or hidden or repo.common in process.words or f"{repo.path}\0" in process.words:
            return f"process {process.pid} ({process.name})"
    return None
