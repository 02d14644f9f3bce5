# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signs that something is wrong which no record tells of: stuck units, held locks, files that are not as deployed."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..base.errors import LoopError
from ..base.files import read_bytes
from ..cycle import prepare
from ..host import processes, settings, systemd
from ..host.settings import Settings
from ..lifecycle import host_facts
from ..policy import schema
from ..proof import installed, receipts, rollback_sets
from ..proof.rollout_ledger import Ledger
from ..release import store

PROPERTIES = (
    "Id,LoadState,ActiveState,SubState,InvocationID,NeedDaemonReload,InactiveExitTimestampMonotonic,"
    "TimeoutStartUSec,TimeoutStopUSec"
)
# The locks that guard a cycle, below the install directory, and how long no cycle or apply ever holds one.
LOCKS = (".cells.lock", ".budget.lock", ".rollout.lock", ".ledger.lock")
LOCK_SECONDS = 1800.0
# Somebody waits, and who holds it is no part of the loop's own services.
FOREIGN_SECONDS = 60.0
SHOWN = 8  # files that are named


@dataclass(frozen=True)
class Unit:
    """A unit as systemd has it; ``seconds`` since it left inactive, ``limit`` how long that may take at most."""

    name: str
    load: str = ""
    active: str = ""
    sub: str = ""
    invocation: str = ""
    reload: bool = False
    seconds: float = 0.0
    limit: float = 0.0

    @property
    def at_work(self) -> bool:
        """Whether it is starting, running or stopping."""
        return self.active in ("activating", "active", "reloading", "deactivating")

    @property
    def stuck(self) -> bool:
        """Whether it is at work for longer than systemd would let it."""
        return self.active in ("activating", "deactivating") and 0 < self.limit < self.seconds


@dataclass(frozen=True)
class Lock:
    """One of our locks that somebody holds for too long."""

    path: str
    pid: int
    command: str
    seconds: float


@dataclass(frozen=True)
class Signs:
    """All of them, and what else of a host the needs are told by."""

    config: Settings
    problems: Sequence[str] = ()  # why a part of the status cannot be read
    units: Mapping[str, Unit] = field(default_factory=dict)
    locks: Sequence[Lock] = ()
    strays: Sequence[str] = ()
    damaged: Sequence[str] = ()  # files of the active release
    policy_problem: str = ""
    no_room: str = ""  # why a disk has no room for a cycle
    under_way: str = ""  # since when a rollout that brought what is not proven
    timer_enabled: bool = False
    timer_wanted: bool = False
    published_today: bool = False
    forge_words: str = ""  # what the last cycle heard of a forge that did not let it in, or was not there
    inventory_pins: bool = False
    env_by_role: bool = False  # the role writes the file with the secrets, from engineering_loop_environment
    gone_back: str = ""  # when and why the pinned engine was gone back from, or failed
    ended_for: str = ""  # why root ended the last cycle
    not_learned: str = ""  # what of the lessons of the last cycle that worked was not taken, or why


def units(config: Settings) -> dict[str, Unit]:
    """The units of the loop by their ending, in one question to systemd; empty where it does not run."""
    endings = [".service", ".timer", "-watch.service", "-gate.service", "-gate.socket"]
    if config.get("egress"):
        endings += ["-egress.socket", "-egress-proxy.service"]
    names = {f"{config.unit}{ending}": ending for ending in endings}
    text = systemd.systemctl("show", f"--property={PROPERTIES}", *names)
    found = {}
    for block in text.strip().split("\n\n"):
        told = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if told.get("Id") in names:
            found[names[told["Id"]]] = _unit(told)
    return found


def _unit(told: Mapping[str, str]) -> Unit:
    began = int(told.get("InactiveExitTimestampMonotonic") or 0) / 1e6
    start, stop = _span(told.get("TimeoutStartUSec", "")), _span(told.get("TimeoutStopUSec", ""))
    return Unit(
        name=told["Id"],
        load=told.get("LoadState", ""),
        active=told.get("ActiveState", ""),
        sub=told.get("SubState", ""),
        invocation=told.get("InvocationID", ""),
        reload=told.get("NeedDaemonReload") == "yes",
        seconds=max(0.0, time.clock_gettime(time.CLOCK_MONOTONIC) - began) if began else 0.0,
        # First it is told to stop, then what comes after a cycle has its time; a minute is ours.
        limit=start + 2 * stop + 60 if start else 0.0,
    )


def _span(text: str) -> float:
    """Seconds of a time as systemd shows it, such as ``1h 30min``; 0 where there is none or no end to it."""
    factors = {"us": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800, "month": 2629800,
               "y": 31557600}  # fmt: skip
    return sum(float(number) * factors.get(unit, 0) for number, unit in re.findall(r"([\d.]+)([a-z]+)", text))


# --- locks


def locks(config: Settings) -> list[Lock]:
    """Our locks that are held for longer than anything of ours does, or by a stranger while somebody waits."""
    first = _held(config)
    if not first:
        return []
    time.sleep(0.2)  # most are held for milliseconds: what we saw may be such a moment
    again = {(lock.path, lock.pid) for lock in _held(config)}
    return [lock for lock in first if (lock.path, lock.pid) in again]


def _held(config: Settings) -> list[Lock]:
    places = {}
    for name in LOCKS:
        with contextlib.suppress(OSError):
            path = os.path.realpath(os.path.join(config.install_dir, name))
            places[os.stat(path).st_ino] = path
    holders, awaited = _kernel_locks(places)
    found = []
    for path, pid in holders.items():
        seconds = _age(pid)
        ours = processes.service_of(pid).startswith(config.unit)
        if seconds > LOCK_SECONDS or (path in awaited and not ours and seconds > FOREIGN_SECONDS):
            found.append(Lock(path, pid, processes.command_of(pid), seconds))
    return found


def _kernel_locks(places: Mapping[int, str]) -> tuple[dict[str, int], set[str]]:
    """Who holds which of these files, and which of them somebody waits for, as the kernel has it."""
    holders, awaited = {}, set()
    with contextlib.suppress(OSError), open("/proc/locks", encoding="ascii") as handle:
        for line in handle:
            words = line.split()
            waits = len(words) > 1 and words[1] == "->"
            words = words[2:] if waits else words[1:]
            if len(words) < 5 or words[0] != "FLOCK":
                continue
            path = places.get(int(words[4].rpartition(":")[2]))
            if path and waits:
                awaited.add(path)
            elif path and int(words[3]) > 0:
                holders[path] = int(words[3])
    known = {path: _who_has(path, pid) for path, pid in holders.items()}
    return {path: pid for path, pid in known.items() if pid}, awaited


def _who_has(path: str, pid: int) -> int:
    """Who holds a lock: who took it, or, where that one is gone, who has the file open from it still; 0 for nobody.

    The kernel names a file by its number, which one of another file system may have as well.
    """
    for entry in (str(pid), *filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if any(os.path.realpath(f"/proc/{entry}/fd/{one}") == path for one in os.listdir(f"/proc/{entry}/fd")):
                return int(entry)
    return 0


def _age(pid: int) -> float:
    """Seconds since a process began; 0 where it is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/stat", encoding="utf-8") as handle:
        ticks = int(handle.read().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return 0.0


# --- files


def env_by_role(config: Settings) -> bool:
    """Whether the file with the secrets is the role's, so that the next apply writes it again."""
    with contextlib.suppress(LoopError):
        return b"Written by the role from engineering_loop_environment" in (read_bytes(config.env_file) or b"")[:1000]
    return False


def policy(config: Settings) -> dict[str, object]:
    """The digest of the policy that stands there, and whether it is the one that was deployed."""
    try:
        digest = schema.digest(schema.load_file(config.policy_file))
    except LoopError as error:
        return {"sha256": "", "matches": False, "problem": str(error)}
    return {"sha256": digest, "matches": digest == config.policy_sha256, "problem": ""}


def edited(config_file: str, config: Settings, ledger: Ledger) -> list[str]:
    """The files that are not as they were proven, where nobody has deployed anything since; a line each."""
    if ledger.under_way is not None or ledger.newest is None:
        return []  # an apply has changed them, or nothing was proven yet
    root = f"{rollback_sets.place_of(config.install_dir, ledger.newest.set)}/files"
    if not os.path.isdir(root):
        return _changed_parts(config)
    found = []
    with contextlib.suppress(LoopError, OSError):
        known = installed.files(config_file, config, root)
        then = settings.load(root + config_file, keys=())
        if installed.bound_settings(config) == installed.bound_settings(then):
            known = [path for path in known if path != config_file]  # the rest of it is no part of a proof
        found = [_difference(path, root) for path in known]
        found += [f"{path} was added" for path in installed.unit_files(config) if path not in known]
    return [line for line in found if line]


def _difference(path: str, root: str) -> str:
    """How a file differs from its copy below ``root``; empty where it does not."""
    try:
        here = read_bytes(os.path.realpath(path))
    except LoopError as error:
        return str(error)
    if here is None:
        return f"{path} is gone"
    return f"{path} was edited" if here != read_bytes(root + path) else ""


def _changed_parts(config: Settings) -> list[str]:
    """Where no copy of what was proven is kept: the parts that changed since the newest receipt."""
    with contextlib.suppress(LoopError):
        for name in receipts.names(config.receipts_dir)[:1]:
            then = receipts.read(config.receipts_dir, name).proven
            return [f"the {installed.BOUND[part]} changed" for part in installed.now(config).changed(then)]
    return []


def damaged(config: Settings, sha: str) -> list[str]:
    """The files of the active release that are not as they were built; every one of them is read."""
    try:
        return store.damage(config.install_dir, sha) if sha else []
    except (LoopError, OSError) as error:
        return [str(error)]


def no_room(config: Settings) -> str:
    """Why a disk of the loop has no room for a cycle; empty where all have."""
    why: str = prepare.missing_room(config)
    others = host_facts.full([config.install_dir, config.state_dir, os.path.dirname(config.env_file), "/var/log"])
    return why or (f"the disk of {', '.join(others)} is full: make room there" if others else "")


def few(lines: Sequence[str]) -> str:
    """Some of them in one line, and how many more there are."""
    more = len(lines) - SHOWN
    return ", ".join([*lines[:SHOWN], *([f"and {more} more"] if more > 0 else [])])
