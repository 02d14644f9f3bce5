# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was put on a host for its engine beside the loop's own directories, where the host is given back."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from functools import partial

from ..base.files import unlink
from ..host import apply_run, owner, telling, trust
from ..host.settings import Settings
from ..release import engine_options

LOGROTATE = "/etc/logrotate.d"
ROTATED = ("", ".[0-9]*")
# What memory has beside it while it is exchanged, and so has what was learned.
BESIDE = (".previous", ".new", ".swap")


def always(config: Settings) -> list[tuple[str, Callable[[], object]]]:
    """What goes in any case: what each is in words, and how."""
    paths = [*telling.files(config), engine_options.path_of(config.install_dir), f"{LOGROTATE}/{config.unit}-trace"]
    paths += apply_run.files(config.unit)
    if not owner.problem(config.state_dir):  # else it says that another host works there
        paths.append(owner.path_of(config.state_dir))
    found: list[tuple[str, Callable[[], object]]] = []
    found += [(path, partial(unlink, path)) for path in paths if os.path.lexists(path)]
    return found + [
        (f"{path}, and the trust in it", partial(trust.remove, path)) for path in trust.ours(trust.DIRECTORY)
    ]


def work(config: Settings) -> set[str]:
    """What came of cycles and was collected: the trace, also rotated, and what was learned."""
    found = {*_learned(config)}
    if trace := config.get("trace_file"):
        found |= {path for kind in ROTATED for path in glob.glob(glob.escape(trace) + kind)}
    return {path for path in found if os.path.lexists(path)}


def made(path: str, config: Settings) -> bool:
    """Whether a directory is what was learned, or was before."""
    return path in _learned(config)


def _learned(config: Settings) -> list[str]:
    """Settings of an earlier version say nothing of it."""
    place = config.get("learning_dir")
    return [place + beside for beside in ("", *BESIDE)] if place else []
