# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start one cycle through systemd as the timer would, say what its journal says meanwhile, and wait for its end."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..base import untrusted
from ..base.errors import APPLY, LoopError
from ..cell import records
from ..host import systemd

Json: TypeAlias = dict[str, Any]
Say: TypeAlias = Callable[[str], object]

JOURNAL_LINES, LINE = 200, 500


@dataclass(frozen=True)
class Cycle:
    """A cycle that was started: whether it ended, systemd's word, root's record (may be empty), and the journal."""

    ended: bool
    result: str
    invocation_id: str
    record: Json
    journal: list[str]
    began: float
    seconds: float


def run(unit: str, cycles_dir: str, timeout: float, say: Say) -> Cycle:
    """Start ``unit`` and wait ``timeout`` seconds for its end; one that takes longer goes on."""
    state = unit_state(unit)
    loaded = state.get("LoadState", "it does not run this host")
    if loaded != "loaded":
        raise LoopError(f"systemd does not know {unit}.service ({loaded}): {APPLY} first")
    if _busy(state):
        raise LoopError(f"a cycle is running already ({unit}.service is {state['ActiveState']}): wait for its end")
    known, earlier = set(records.names(cycles_dir)), state["InvocationID"]
    began, clock = time.time(), time.monotonic()
    tail = _Tail(unit, began, say)
    systemd.systemctl("start", "--no-block", f"{unit}.service")
    invocation, result = "", ""
    while True:
        state = unit_state(unit)
        if state["InvocationID"] not in ("", earlier):
            invocation, result = state["InvocationID"], state["Result"]
        ended, elapsed = not _busy(state), time.monotonic() - clock
        if ended or elapsed > timeout:
            break
        tail.tell()
        # Often at first: systemd forgets the invocation of a unit soon after its end.
        time.sleep(0.1 if elapsed < 5 else 1.0)
    tail.tell(last=True)
    record = _record(cycles_dir, known, invocation)
    invocation = invocation or record.get("invocation_id", "")
    seconds = round(time.monotonic() - clock, 1)
    return Cycle(ended, result, invocation, record, journal(invocation), began, seconds)


def end(unit: str, cycles_dir: str, seconds: float) -> Json | None:
    """End the running cycle in order: its engine is told to stop, its cell is kept, its record written.

    The record, empty where there is none; None where no cycle was running. LoopError where that is not over in
    ``seconds``: it goes on ending.
    """
    state = unit_state(unit)
    if not _busy(state):
        return None
    systemd.systemctl("stop", "--no-block", f"{unit}.service")
    give_up = time.monotonic() + seconds
    while _busy(unit_state(unit)):
        if time.monotonic() > give_up:
            raise LoopError(f"the cycle is still being ended after {seconds:g} s: see systemctl status {unit}.service")
        time.sleep(0.5)
    ours = records.of_invocation(cycles_dir, state["InvocationID"])
    return ours[-1] if ours else {}


def runs(unit: str) -> bool:
    """Whether a cycle is running now."""
    return _busy(unit_state(unit))


def unit_state(unit: str) -> dict[str, str]:
    """What systemd says of the service."""
    return systemd.properties(f"{unit}.service", "LoadState,ActiveState,Result,InvocationID,Job")


class _Tail:
    """The unit's journal from a moment on, said as it comes."""

    PAUSE = 1.0

    def __init__(self, unit: str, since: float, say: Say) -> None:
        self._unit, self._say = unit, say
        self._from = f"--since=@{since:.6f}"
        self._due = 0.0

    def tell(self, last: bool = False) -> None:
        """Say what is new, now and then; a journal that cannot be read does not end the cycle."""
        if not last and time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self.PAUSE
        try:
            if last:
                systemd.sync_journal()  # the service's last words may still be on their way
            unit = f"--unit={self._unit}.service"
            text = systemd.journal("--output=short-iso", "--show-cursor", self._from, unit)
        except LoopError as error:
            self._say(str(error))
            return
        for line in text.splitlines():
            if line.startswith("-- cursor: "):
                self._from = f"--after-cursor={line.removeprefix('-- cursor: ')}"
            else:
                # Whoever looks on knows the day and the host.
                self._say(untrusted.show(re.sub(r"^\S+T(\d\d:\d\d:\d\d)\S* \S+ ", r"\1 ", line), LINE))


def journal(invocation: str) -> list[str]:
    """The last lines that the service and systemd itself wrote about one invocation."""
    if not invocation:
        return []
    both = (f"_SYSTEMD_INVOCATION_ID={invocation}", "+", f"INVOCATION_ID={invocation}")
    try:
        text = systemd.journal("--output=short-iso", f"--lines={JOURNAL_LINES}", *both)
    except LoopError as error:
        return [str(error)]
    return [untrusted.show(line, LINE) for line in text.splitlines()]


def _busy(state: Mapping[str, str]) -> bool:
    return state["ActiveState"] not in ("inactive", "failed") or state.get("Job", "0") not in ("", "0")


def _record(cycles_dir: str, known: set[str], invocation: str) -> Json:
    """The record that root wrote of the cycle: by its invocation, else the newest new one; else empty."""
    recent: list[Json] = records.read(cycles_dir, 5)
    for record in reversed(recent):
        if f"{record['cycle']}.json" not in known and invocation in ("", record.get("invocation_id")):
            return record
    return {}
