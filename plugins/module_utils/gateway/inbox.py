# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bare repository of the gateway's own for one push, which borrows from a pristine clone: what git has checked, ours.

What the client sends is received into it and judged in it; what is to be kept is one as well.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..base.clock import stamp
from ..base.errors import LoopError
from ..cell import pristine
from ..cell.pristine import HEADS, Clone
from ..git.command import git
from ..host.settings import Settings


@dataclass(frozen=True)
class Inbox:
    """One of them, at ``home``."""

    home: str
    clone: Clone

    def git(self, words: Sequence[str], **options: Any) -> tuple[int, str, str]:
        """git in this repository and no other, as ``git.command.git``."""
        return git(self.home, words, environment={"GIT_DIR": self.home}, **options)

    def refs(self) -> list[list[str]]:
        """What the client was shown: (commit, name)."""
        with open(f"{self.home}/packed-refs", encoding="utf-8") as handle:
            return [line.rstrip("\n").split(" ", 1) for line in handle if not line.startswith("#")]

    def base(self) -> str:
        """The base branch's commit when this was made, which is what the client was shown."""
        return next(commit for commit, name in self.refs() if name == f"{HEADS}{self.clone.version}")

    def packs(self) -> list[str]:
        """The files in which git keeps what it has received."""
        place = f"{self.home}/objects/pack"
        return [f"{place}/{name}" for name in os.listdir(place)] if os.path.isdir(place) else []


def make(config: Settings, clone: Clone, start: str = "") -> Inbox:
    """One that shows the client the base branch and ``start``, the base's commit when the cycle began, if any.

    The client has that one, whatever the forge has by now. LoopError where the clone has no base branch.
    """
    home = f"{config.gate_dir}/inbox/{stamp()}-{os.urandom(4).hex()}.git"
    tip = pristine.read_tip(clone.path, clone.version)
    if not tip:
        raise LoopError(f"the gateway has no {clone.version} of {clone.repo} to compare with")
    refs = {f"{HEADS}{clone.version}": tip}
    if start and start != tip:
        refs["refs/start"] = start
    pristine.lay_out(home, clone, refs, ["\tbare = true"])
    return Inbox(home, clone)
