# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's other jobs beside its cycle, as the host's settings name them: each a unit and a timer of its own."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..base.errors import APPLY, LoopError
from . import systemd
from .settings import Settings

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
# What the gateway can let a job do. To approve is to set engineering_loop_label in a person's place.
RIGHTS = ("read", "comment", "label", "approve")
# The one that the role of old knows.
GOVERNOR, GOVERNOR_UNIT = "reliability-governor", "hyrule-reliability-governor"


@dataclass(frozen=True)
class Job:
    """One job: what of the release is started, how, and what it may ask of the forge."""

    name: str
    unit: str  # without .service
    command: tuple[str, ...]  # a program of the release, and the words that choose what it does
    args: tuple[str, ...]
    options: tuple[tuple[str, str], ...]  # flags that are given where the installed engine knows them
    state: str  # the one directory that it can write and that stays
    may: tuple[str, ...]
    proof: bool  # whether its timer may start only what a canary has proven
    enabled: bool

    def filled(self, text: str, release: str) -> str:
        """An argument with the places that it names: ``{release}`` and ``{state}``."""
        return text.replace("{release}", release).replace("{state}", self.state)

    def program(self, release: str) -> str:
        """The program's path in a release."""
        return f"{release}/.venv/bin/{self.command[0]}"


class Brought(NamedTuple):
    """A job whose timer was brought where it belongs: whether that was a change, and how the timer is then."""

    job: Job
    changed: bool
    timer: systemd.Timer


def of(config: Settings) -> list[Job]:
    """All jobs of this host; none where its settings are of a version that knew none."""
    return [_job(one) for one in config.get("jobs") or []]


def find(config: Settings, name: str) -> Job:
    """The job of that name."""
    found = next((one for one in of(config) if one.name == name), None)
    if found is None:
        raise LoopError(f"this host has no job {name}: it is not in engineering_loop_jobs, or {APPLY}")
    return found


def labels_begin(config: Settings) -> str:
    """What the labels begin with that a job may move: as the one that approves does, up to its last colon."""
    return f"{config.label.rpartition(':')[0] or config.label}:"


def records_dir(config: Settings, job: Job) -> str:
    """Where the records of a job's runs are: root's, as those of cycles."""
    return f"{config.state_dir}/jobs/{job.name}"


def unknown(job: Job, release: str) -> str:
    """Why a release cannot do this job, as far as its files tell; empty where it may."""
    if os.path.exists(job.program(release)):
        return ""
    return f"the engine {os.path.basename(release)[:12]} has no program {job.command[0]}"


def bring_timers(config: Settings, *, proven: bool, paused: bool, check: bool = False) -> list[Brought]:
    """Have those timers run that may, and no other; ``check`` only foretells it."""
    brought = []
    for job in of(config):
        before = systemd.timer_of(job.unit)
        run = job.enabled and not paused and (proven or not job.proof)
        after = systemd.set_timer(job.unit, run, before, check=check)
        brought.append(Brought(job, systemd.timer_differs(before, run), after))
    return brought


def _job(told: Any) -> Job:
    try:
        return Job(
            name=str(told["name"]), unit=str(told["unit"]), command=tuple(map(str, told["command"])),
            args=tuple(map(str, told["args"])),
            options=tuple((str(flag), str(value)) for flag, value in told["options"].items()),
            state=str(told["state"]), may=tuple(map(str, told["may"])), proof=bool(told["proof"]),
            enabled=bool(told["enabled"]),
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise LoopError(f"the settings of a job cannot be read ({type(error).__name__} {error}); {APPLY}") from error
