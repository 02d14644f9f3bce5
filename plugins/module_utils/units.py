# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The units of a loop as systemd and the disk know them, and how they are brought to rest."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from . import timer
from .errors import LoopError

UNIT_DIR = "/etc/systemd/system"
# Every unit file that the role writes names its author.
MARK = b"as215932.engineering_loop"


def running() -> bool:
    """Whether systemd runs this host."""
    return os.path.isdir(timer.RUNNING_SYSTEMD)


def systemctl(*arguments: str) -> str:
    """What systemctl prints; nothing where systemd does not run. LoopError with its reason where it fails."""
    return timer.systemctl(*arguments) if running() else ""


def state(unit: str) -> dict[str, str]:
    """``ActiveState`` and ``UnitFileState`` of a unit; empty where systemd does not run."""
    text = systemctl("show", "--property=ActiveState,UnitFileState", unit)
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def active(unit: str) -> bool:
    return state(unit).get("ActiveState") in ("active", "activating", "reloading")


def content(path: str) -> bytes:
    """A unit file, through a link as systemd reads it; empty where it cannot be read."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as handle:
            return handle.read(1 << 20)
    except OSError:
        return b""


def ours(path: str) -> bool:
    """Whether the role wrote this unit file."""
    return MARK in content(path)


def rest(
    cycle: Callable[[], str],
    stoppable: Sequence[str],
    wait: float,
    otherwise: str,
    others: Callable[[], str] = lambda: "",
) -> list[str]:
    """Once no cycle runs, stop what would start or disturb one, and see that none began meanwhile.

    ``cycle`` and ``others`` name who is at work. Where that is not over within ``wait`` seconds,
    everything runs as before and LoopError says who it is, and ``otherwise``. Returns what was stopped.
    """
    deadline = time.monotonic() + wait
    stopped: list[str] = []
    while True:
        who = cycle()
        running = [] if who else [unit for unit in stoppable if unit not in stopped and active(unit)]
        if running:
            systemctl("stop", *running)
            stopped += running
            continue
        who = who or others()
        if not who:
            return stopped
        if time.monotonic() >= deadline:
            if stopped:
                systemctl("start", *stopped)
            raise LoopError(
                f"a run is in progress ({who}) and was not over within {wait:g} s: {otherwise}; run this again"
                " when it has ended, or wait longer (engineering_loop_wait_for_cycle: seconds)"
            )
        time.sleep(0.5)
