# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A loop that an operator paused: one file of root's, which each cycle looks for before it does anything.

So a pause holds whoever starts a cycle, and whatever is applied meanwhile; only lifting it ends it.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass

from ..base import documents
from ..base.clock import utc_now
from ..base.errors import LoopError, playbook
from ..base.files import read_bytes, sync_directory, write_atomic
from ..base.untrusted import show
from ..host.settings import Settings

RESUME = f"resume with: {playbook('resume')}"
MAX_WHY, MAX_BY = 500, 100


class Paused(LoopError):
    """No cycle may start: the text says why, since when, by whom, and how to resume."""


@dataclass(frozen=True)
class Pause:
    """Why no cycle may start, since when (UTC; empty where nobody knows), and by whom."""

    why: str
    since: str = ""
    by: str = ""

    @property
    def sentence(self) -> str:
        """In one line, with how to resume."""
        since = f" since {self.since}" if self.since else ""
        by = f" by {self.by}" if self.by else ""
        return f"paused{since}{by}: {self.why or 'nobody said why'}; {RESUME}"


def path_of(config: Settings) -> str:
    """The file that pauses the loop: root's, and not below what the loop's user owns."""
    return f"{config.install_dir}/paused.json"


def read(config: Settings) -> Pause | None:
    """The pause in force, None where there is none. A file that cannot be read pauses as well, and says so."""
    path = path_of(config)
    try:
        content = read_bytes(path, 65_536)
        if content is None:
            return None
        found = documents.load(Pause, content)
        return Pause(show(found.why, MAX_WHY), show(found.since, 40), show(found.by, MAX_BY))
    except LoopError as error:
        return Pause(f"{path} cannot be read as a pause ({error}), so nobody knows why")


def check(config: Settings) -> None:
    """Paused where the loop is paused."""
    found = read(config)
    if found:
        raise Paused(found.sentence)


def put(config: Settings, why: str, by: str, *, dry_run: bool = False) -> tuple[Pause, bool]:
    """Pause the loop; the pause then, and whether it is another one than before.

    One that is in force already keeps its moment, and its reason where none is given.
    """
    before = read(config)
    why, by = show(" ".join(why.split()), MAX_WHY), show(by, MAX_BY)
    if before and before.since and why in ("", before.why):
        return before, False
    after = Pause(why, (before.since if before else "") or utc_now(), by)
    if not dry_run:
        content = json.dumps(asdict(after), indent=1, sort_keys=True) + "\n"
        write_atomic(path_of(config), content.encode(), mode=0o644)
    return after, True


def lift(config: Settings, *, dry_run: bool = False) -> Pause | None:
    """The pause is over; what it was, None where there was none."""
    before, path = read(config), path_of(config)
    if before and not dry_run:
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        except OSError as error:
            raise LoopError(f"the pause {path} cannot be removed: {error.strerror}; remove it by hand") from error
        sync_directory(config.install_dir)
    return before
