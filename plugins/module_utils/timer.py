# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The loop's timer as systemd knows it: look, start, hold."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
from typing import NamedTuple

from .clock import written
from .errors import LoopError

RUNNING_SYSTEMD = "/run/systemd/system"


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


def systemctl(*arguments: str) -> str:
    """The one door to systemd."""
    # systemd 257 writes this time in words whatever --timestamp says, but in the zone of its environment.
    environment = {**os.environ, "TZ": "UTC"}
    command = ["systemctl", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LoopError(f"systemctl cannot be run on this host ({error})") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise LoopError(f"systemctl {' '.join(arguments[:3])}: {last}")
    return done.stdout


def look(unit: str) -> Timer:
    """The state of ``UNIT.timer``; one process, and a second one for a timer that counts from an event."""
    if not os.path.isdir(RUNNING_SYSTEMD):
        return Timer()
    name = f"{unit}.timer"
    wanted = "LoadState,UnitFileState,ActiveState,NextElapseUSecRealtime"
    text = systemctl("show", f"--property={wanted}", name)
    state = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
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


def differs(timer: Timer, run: bool) -> bool:
    """Whether something has to be done for it to run, or not to."""
    return (timer.enabled, timer.active) != (run, run) and (run or timer.present)


def put(unit: str, run: bool, before: Timer | None = None) -> Timer:
    """Have ``UNIT.timer`` enabled and running, or neither, from now on; its state then."""
    before = before or look(unit)
    if run and not before.present:
        raise LoopError(f"{unit}.timer is not known to systemd on this host: apply the role first")
    if not differs(before, run):
        return before
    systemctl("enable" if run else "disable", "--now", f"{unit}.timer")
    return look(unit)


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
