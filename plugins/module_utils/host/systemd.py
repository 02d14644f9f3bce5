# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The units of a loop and its timer, as systemd and the disk know them, and how they are brought to rest."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ..base import progress, sizes
from ..base.clock import written
from ..base.errors import APPLY, LoopError

RUNNING_SYSTEMD = "/run/systemd/system"
UNIT_DIR = "/etc/systemd/system"
CONTROL_DIR = "/etc/systemd/system.control"  # where systemctl set-property writes the drop-ins that stay
LOCAL_DIR = "/usr/local/lib/systemd/system"  # what an administrator installed by hand
# The least that a cycle needs, measured: its engine alone takes 67 MB, with the runner beside it more than eight
# processes and threads, and about a second of a processor before it begins. A time of 0 is no end for systemd.
LEAST = {"MemoryMax": "128M", "TasksMax": "16", "CPUQuota": "5%", "TimeoutStartSec": "60"}
# Seconds for one systemctl, which may have to wait for a cycle to end in order: that takes five minutes at most.
PATIENCE = 360
# Every unit file that the role writes names its author.
MARK = b"as215932.engineering_loop"


def running() -> bool:
    """Whether systemd runs this host."""
    return os.path.isdir(RUNNING_SYSTEMD)


def systemctl(*arguments: str) -> str:
    """What systemctl prints; nothing where systemd does not run. LoopError with its reason where it fails."""
    if not running():
        return ""
    # systemd 257 writes this time in words whatever --timestamp says, but in the zone of its environment.
    environment = {**os.environ, "TZ": "UTC"}
    command = ["systemctl", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LoopError(f"systemctl cannot be run on this host ({error})") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise LoopError(f"systemctl {' '.join(arguments[:3])}: {last}")
    return done.stdout


def journal(*arguments: str) -> str:
    """What the journal holds of what the arguments name. LoopError where it cannot be read."""
    return _journalctl("--quiet", "--no-pager", *arguments)


def sync_journal() -> None:
    """Return when all that was said until now is in the journal. LoopError where that cannot be had."""
    _journalctl("--sync")


def _journalctl(*arguments: str) -> str:
    command = ["journalctl", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LoopError(f"journalctl cannot be run on this host ({error})") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise LoopError(f"{' '.join(command[:3])} ended with {done.returncode}: {last}")
    return done.stdout


def state(unit: str) -> dict[str, str]:
    """``ActiveState`` and ``UnitFileState`` of a unit; empty where systemd does not run."""
    return properties(unit, "ActiveState,UnitFileState")


def properties(unit: str, names: str) -> dict[str, str]:
    """What systemd says of a unit, of these properties (separated by commas); empty where it does not run."""
    text = systemctl("show", f"--property={names}", unit)
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


def job_units(unit: str) -> list[str]:
    """The unit files of jobs beside the cycle of this loop, whatever they are called: each says whose it is."""
    mark = f"\n# A job of {unit}.\n".encode()
    with contextlib.suppress(OSError):
        names = sorted(name for name in os.listdir(UNIT_DIR) if name.endswith((".service", ".timer")))
        texts = {name: content(f"{UNIT_DIR}/{name}") for name in names}
        return [name for name, text in texts.items() if MARK in text and mark in text]
    return []


def retire(paths: Sequence[str]) -> None:
    """Stop and disable what starts others, of unit files that are about to go; what runs may end."""
    names = [os.path.basename(path) for path in paths if path.endswith((".timer", ".socket", ".path"))]
    names = [name for name in names if "@." not in name and os.path.lexists(f"{UNIT_DIR}/{name}")]
    if names:
        systemctl("disable", "--now", *names)


def refused(wanted: Mapping[str, str]) -> list[str]:
    """What systemd does not take of these units (file name -> content, empty for one that is not wanted), a line each.

    It would say so in its journal and go on without: with no limit, or no timer. So it is asked before, about copies.
    The same of what it takes and no cycle could work with. The comment above such a line names the variable, and what
    that may be.
    """
    texts = {name: text for name, text in wanted.items() if text}
    if not texts:
        return []
    with tempfile.TemporaryDirectory() as place:
        for name, text in texts.items():
            with open(f"{place}/{name}", "w", encoding="utf-8") as handle:
                handle.write(text)
        said = _verify(place, [name.replace("@.", "@1.") for name in texts])  # an instance may be a port
    wrong: dict[tuple[str, int], tuple[str, str]] = {}
    for line in said:
        match = re.match(rf"{re.escape(place)}/([^/:]+):(\d+): (.*)", line)
        if match and match[1] in texts:
            wrong.setdefault((match[1], int(match[2]) - 1), ("systemd does not take", match[3].rstrip(".")))
    for name, text in texts.items():
        for number, line in enumerate(text.splitlines()):
            why = _hopeless(line)
            if why:
                wrong.setdefault((name, number), ("no loop can live with", why))
    found = []
    for (name, number), (what, why) in wrong.items():
        lines = texts[name].splitlines()
        told = f"{what} {lines[number].strip()} in {name} ({why})"
        variable, colon, allowed = lines[number - 1].removeprefix("# ").partition(": ")
        found.append(f"{variable}: {told}; it may be {allowed}" if colon else told)
    # What follows from such a line is no news, and our programs may still be to come.
    others = [line for line in said if not line.startswith("/") and "is not executable" not in line]
    return found or others


def _hopeless(line: str) -> str:
    """Why no cycle would ever work with a line that systemd takes; empty where one could."""
    key, _equals, value = line.partition("=")
    if key == "OnCalendar":
        return "that time never comes" if "Next elapse: never" in _analyze("calendar", value).stdout else ""
    return f"the least is {LEAST[key]}" if key in LEAST and _amount(key, value) < _amount(key, LEAST[key]) else ""


def _amount(key: str, value: str) -> float:
    """What a limit comes to on this host; infinite where it is none, or one that systemd does not take."""
    found = re.match(r"\s*(\d+(?:\.\d*)?)([BKMGT%]?)(?!\S)", value)
    if not found:
        return math.inf
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if key == "MemoryMax" else 1
    return float(found[1]) * {**sizes.UNITS, "B": 1, "%": whole / 100}[found[2]]


def _verify(place: str, names: Sequence[str]) -> list[str]:
    """What systemd says of the units in this directory, beside all that the host has."""
    # With --recursive-errors=no it says nothing of a unit that is named wrongly. What it says of others is left out.
    done = _analyze("verify", "--man=no", *(f"{place}/{name}" for name in names), SYSTEMD_UNIT_PATH=f"{place}:")
    ours = tuple(f"{name}:" for name in names) + tuple(f"Unit {name} " for name in names) + ("Failed to ", "/")
    return [line for line in done.stderr.splitlines() if line.startswith(ours)]


def _analyze(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    told = {"LEVEL": "warning", "TARGET": "console", "COLOR": "0", "LOCATION": "0", "TIME": "0", "TID": "0"}
    env = {**os.environ, **environment, **{f"SYSTEMD_LOG_{key}": value for key, value in told.items()}}
    command = ["systemd-analyze", *arguments]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=60, check=False, env=env
        )
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 0, "", "")  # a host without systemd, which reads no units either
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LoopError(f"systemd-analyze cannot be run on this host ({error})") from error


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
            progress.step(f"stopping {', '.join(running)}")
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
        progress.step(f"waiting for a run to end ({who}), {wait:g} s at most")
        time.sleep(0.5)


class Timer(NamedTuple):
    """One timer; ``next`` is ISO time in UTC, empty where it does not fire."""

    present: bool = False
    enabled: bool = False
    active: bool = False
    next: str = ""

    @property
    def runs(self) -> bool:
        """Whether it would ever start a cycle, now or after a reboot."""
        return self.enabled or self.active


def timer_of(unit: str) -> Timer:
    """The state of ``UNIT.timer``; one process, and a second one for a timer that counts from an event."""
    if not running():
        return Timer()
    name = f"{unit}.timer"
    state = properties(name, "LoadState,UnitFileState,ActiveState,NextElapseUSecRealtime")
    if state.get("LoadState") == "masked":
        raise LoopError(f"{name} is masked: look with 'systemctl status {name}' and repair it")
    active = state.get("ActiveState") == "active"
    return Timer(
        # One that systemd cannot read is there as well: it fires no more, and what is applied now may mend it.
        present=state.get("LoadState") in ("loaded", "bad-setting", "error"),
        enabled=state.get("UnitFileState") == "enabled",
        active=active,
        next=_iso(state.get("NextElapseUSecRealtime", "")) or (_listed(name) if active else ""),
    )


def timer_differs(timer: Timer, run: bool) -> bool:
    """Whether something has to be done for it to run, or not to."""
    return (timer.enabled, timer.active) != (run, run) and (run or timer.present)


def set_timer(unit: str, run: bool, before: Timer | None = None, *, check: bool = False) -> Timer:
    """Have ``UNIT.timer`` enabled and running, or neither, from now on; its state then. ``check`` only foretells it."""
    before = before or timer_of(unit)
    if check:
        return before._replace(enabled=run, active=run, next="") if timer_differs(before, run) else before
    if run and not before.present:
        raise LoopError(f"{unit}.timer is not known to systemd on this host: {APPLY} first")
    if not timer_differs(before, run):
        return before
    systemctl("enable" if run else "disable", "--now", f"{unit}.timer")
    return timer_of(unit)


def _iso(words: str) -> str:
    """``Thu 2026-01-01 12:00:00 UTC`` of systemd as ISO time; empty where there is none."""
    parts = words.split()
    return f"{parts[1]}T{parts[2]}Z" if len(parts) == 4 and parts[3] == "UTC" else ""


def _listed(name: str) -> str:
    """When the timer fires next as systemd's list of timers has it; empty where it does not."""
    entries = json.loads(systemctl("list-timers", "--output=json", name) or "[]")
    if not entries or not entries[0]["next"]:
        return ""
    return written(datetime.datetime.fromtimestamp(entries[0]["next"] / 1e6, datetime.UTC))
