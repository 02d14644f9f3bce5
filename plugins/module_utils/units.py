# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The units of a loop as systemd and the disk know them, and how they are brought to rest."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence

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


def refused(wanted: Mapping[str, str]) -> list[str]:
    """What systemd does not take of these units (file name -> content, empty for one that is not wanted), a line each.

    It would say so in its journal and go on without: with no limit, or no timer. So it is asked before, about copies.
    The comment above such a line names the variable, and what that may be.
    """
    texts = {name: text for name, text in wanted.items() if text}
    if not texts:
        return []
    with tempfile.TemporaryDirectory() as place:
        for name, text in texts.items():
            with open(f"{place}/{name}", "w", encoding="utf-8") as handle:
                handle.write(text)
        said = _verify(place, [name.replace("@.", "@1.") for name in texts])  # an instance may be a port
    found: dict[str, str] = {}
    for line in said:
        match = re.match(rf"({re.escape(place)}/([^/:]+):(\d+)): (.*)", line)
        if match and match[2] in texts and match[1] not in found:
            lines = texts[match[2]].splitlines()
            number = int(match[3]) - 1
            told = f"systemd does not take {lines[number].strip()} in {match[2]} ({match[4].rstrip('.')})"
            variable, colon, allowed = lines[number - 1].removeprefix("# ").partition(": ")
            found[match[1]] = f"{variable}: {told}; it may be {allowed}" if colon else told
    # What follows from such a line is no news, and our programs may still be to come.
    others = [line for line in said if not line.startswith("/") and "is not executable" not in line]
    return [*found.values()] or others


def _verify(place: str, names: Sequence[str]) -> list[str]:
    """What systemd says of the units in this directory, beside all that the host has."""
    # With --recursive-errors=no it says nothing of a unit that is named wrongly. What it says of others is left out.
    command = ["systemd-analyze", "verify", "--man=no", *(f"{place}/{name}" for name in names)]
    told = {"LEVEL": "warning", "TARGET": "console", "COLOR": "0", "LOCATION": "0", "TIME": "0", "TID": "0"}
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{place}:", **{f"SYSTEMD_LOG_{k}": v for k, v in told.items()}}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=60, check=False, env=environment
        )
    except FileNotFoundError:
        return []  # a host without systemd, which reads no units either
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LoopError(f"systemd-analyze cannot be run on this host ({error})") from error
    ours = tuple(f"{name}:" for name in names) + tuple(f"Unit {name} " for name in names) + ("Failed to ", "/")
    return [line for line in done.stderr.splitlines() if line.startswith(ours)]


def stale(paths: Sequence[str]) -> bool:
    """Whether systemd has one of these unit files in another state than the disk, such as after a killed apply."""
    names = [os.path.basename(path) for path in paths if "@." not in path]
    return bool(names) and "NeedDaemonReload=yes" in systemctl("show", "--property=NeedDaemonReload", *names)


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
