# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is at work: the engine's lock, and processes inside a directory."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ..base import progress, untrusted
from ..base.errors import LoopError
from ..base.files import inside, lstat_of
from . import systemd

LOCK_BYTES = 65536


@dataclass
class Process:
    """What is looked at for every process are the places; its name only where one of them matters."""

    pid: int
    places: list[str]

    @functools.cached_property
    def name(self) -> str:
        return os.fsdecode(_content(self.pid, "comm")).strip()

    @property
    def uid(self) -> int:
        status = lstat_of(f"/proc/{self.pid}")
        return status.st_uid if status else -1

    @property
    def parent(self) -> int:
        """Its parent's number; -1 where it is gone by now."""
        found = re.search(rb"^PPid:\s*(\d+)", _content(self.pid, "status"), re.MULTILINE)
        return int(found[1]) if found else -1

    @property
    def words(self) -> str:
        """Its command line and environment."""
        return os.fsdecode(b"\0".join(_content(self.pid, part) for part in ("cmdline", "environ")) + b"\0")


class Running:
    """Every other process, as far as we may see. Whether one is in a place is asked for thousands of places."""

    def __init__(self, found: Sequence[Process]) -> None:
        self.processes = found
        self.text = "\0".join(["", *itertools.chain.from_iterable(process.places for process in found)])

    def gits(self) -> Iterator[Process]:
        """Every git, but for those of our own that were not git yet when we looked: they had open what we have open."""
        ours = os.readlink("/proc/self/exe")
        for process in self.processes:
            begun = process.places[:1] != [ours] or process.parent not in (os.getpid(), -1)
            if process.name.startswith("git") and begun:
                yield process


def processes(before: Running | None = None) -> Running:
    """Look at every process but this; what has ended is none.

    Of a process that we may not look into counts what ``before`` saw: a look with more rights, which is older.
    This is what the heal of a single worktree costs most, so each look is as cheap as it gets.
    """
    found, own = [], str(os.getpid())
    known = {process.pid: process.places for process in before.processes} if before else {}
    for pid in os.listdir("/proc"):
        if pid.isdecimal() and pid != own:
            places = _places(f"/proc/{pid}")
            if places is not None:
                found.append(Process(int(pid), places or known.get(int(pid), [])))
    return Running(found)


def seen_by_root() -> Running | None:
    """A look to take before root is given up; None where we are not root."""
    return processes() if os.geteuid() == 0 else None


def _places(base: str) -> list[str] | None:
    """Where a process stands and what it has open; None for a kernel thread, a zombie, what is on its way out."""
    readlink = os.readlink
    try:
        found = [readlink(f"{base}/exe")]
        # Relative to one descriptor: it names the same process to the end, and every look is shorter.
        handles = os.open(f"{base}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # another user's
        return []
    except OSError:
        return _places_of_threads(base)
    try:
        found.append(readlink("../cwd", dir_fd=handles))
        for number in os.listdir(handles):
            # Not contextlib.suppress: it costs as much as the look itself.
            try:
                found.append(readlink(number, dir_fd=handles))
            except OSError:
                continue
    except PermissionError:
        return []
    except OSError:
        return None
    finally:
        os.close(handles)
    return found


def _places_of_threads(base: str) -> list[str] | None:
    """As ``_places``, of a process whose first thread has ended: it lives on in the others."""
    try:
        os.readlink(f"{base}/cwd")
    except OSError:
        try:
            threads = [f"{base}/task/{number}" for number in os.listdir(f"{base}/task")]
        except OSError:
            return None
        return next((found for thread in threads if (found := _places(thread)) is not None), None)
    return None  # a kernel thread


def _content(pid: int, part: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{part}").read_bytes()
    except OSError:
        return b""


def of_user(uid: int) -> list[int]:
    """Living processes that act for this user, or could."""
    found = []
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        lines = os.fsdecode(_content(pid, "status")).split("\n")
        known = dict(line.split(":", 1) for line in lines if ":" in line)
        with contextlib.suppress(KeyError):  # it has ended
            dead = known["State"].split()[0] in "ZX" and int(known["Threads"]) <= 1
            if str(uid) in known["Uid"].split() and not dead:
                found.append(pid)
    return found


def service_of(pid: int) -> str:
    """The system's service that a process is of; empty where it is of none, or of a user's own manager."""
    lines = os.fsdecode(_content(pid, "cgroup")).split("\n")
    # Of systemd's own hierarchy: the only one, or the one with this name beside those of the controllers.
    ours = (line for line in lines if line.startswith("0::") or ":name=systemd:" in line)
    paths = [line.split(":", 2)[-1].split("/") for line in ours]
    if any("user.slice" in parts for parts in paths):
        return ""
    return next((part for parts in paths for part in parts if part.endswith(".service")), "")


def command_of(pid: int) -> str:
    """Its command line, words separated by NUL; empty where there is none."""
    return os.fsdecode(_content(pid, "cmdline")[:65536]).rstrip("\0")


def at_work(place: str, uid: int, programs: str) -> str:
    """A process that runs something below ``programs``, or stands below ``place`` as this user; empty for none."""
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        with contextlib.suppress(OSError):  # it has ended, or is the kernel's
            words = command_of(pid)
            stands = inside(os.readlink(f"/proc/{pid}/cwd"), place) and os.stat(f"/proc/{pid}").st_uid == uid
            if stands or f"\0{programs}/" in f"\0{words}":
                return f"process {pid}: {untrusted.show(' '.join(words.replace(chr(0), ' ').split()[:3]))}"
    return ""


def user_of(path: str, running: Running) -> str | None:
    """Who stands in ``path`` or has something below it open, in words; None where nobody does."""
    if f"\0{path}" not in running.text:
        return None
    return next((words for process in running.processes if (words := _use(path, process))), None)


def git_user_of(path: str, running: Running) -> str | None:
    """As ``user_of``, but git alone counts."""
    return next((words for process in running.gits() if (words := _use(path, process))), None)


def _use(path: str, process: Process) -> str:
    for place in process.places:
        if inside(place.removesuffix(" (deleted)"), path):
            return f"process {process.pid} ({process.name}) uses {place}"
    return ""


def check_run_lock(path: str | None) -> None:
    """LoopError while the engine's lock names a living process; a dead one's lock is nobody's."""
    holder = run_holder(path) if path else None
    if holder:
        raise LoopError(f"a run is in progress: {holder}; nothing was touched")


def run_holder(path: str) -> str | None:
    """Who holds the engine's lock, in words; None where nobody alive does.

    The lock is input: it counts for a living process of its owner's, or for the engine, and for nobody else.
    """
    parent, name = os.path.split(os.path.abspath(path))
    path = os.path.join(os.path.realpath(parent), name)
    status = lstat_of(path)
    if status is None or not stat.S_ISREG(status.st_mode):
        return None
    try:
        content = untrusted.read(path, os.path.dirname(path), LOCK_BYTES) or b""
    except LoopError:
        if not os.access(path, os.R_OK) and status.st_uid != os.geteuid():
            raise  # an engine's of another user, perhaps
        content = b""
    pid, started = named_in(content)
    if pid is None:
        own = (each for each in processes().processes if _counts(each.pid, status.st_uid))
        return next((words for each in own if (words := _use(path, each))), None)
    if pid in (1, os.getpid()) or not _alive(pid, started) or not _counts(pid, status.st_uid):
        return None
    return f"{path} is held by the living process {pid}"


def named_in(content: bytes) -> tuple[int | None, float | None]:
    """The process that the engine's lock names, and when it says that it began; None for what it does not say."""
    try:
        found = untrusted.parse(content, "the lock")
    except LoopError:
        return None, None
    pid = found.get("pid")
    if isinstance(pid, str) and re.fullmatch(r"[0-9]{1,10}", pid):
        pid = int(pid)
    known = isinstance(pid, int) and not isinstance(pid, bool) and 0 < pid < 2**31
    return (pid if known else None), _epoch(found.get("started_at"))


def _counts(pid: int, owner: int) -> bool:
    """Does the process run as the lock's owner, or is it the engine? One that nobody may look at could be."""
    uids = re.search(rb"^Uid:\s+(\d+)\s+(\d+)", _content(pid, "status"), re.MULTILINE)
    return uids is None or owner in (int(uids[1]), int(uids[2])) or _is_engine(pid)


def cycle_in_progress(run_lock: str, unit: str) -> str:
    """Who runs a cycle right now, in a few words; empty where nobody does."""
    with contextlib.suppress(LoopError):  # then systemd knows
        if run_lock and (holder := run_holder(run_lock)):
            return holder
    if not unit:
        return ""
    name = unit if "." in unit else f"{unit}.service"
    try:
        state = systemd.state(name).get("ActiveState")
    except LoopError:
        return f"systemctl does not answer about {name}"
    return f"{name} is {state}" if state in ("active", "activating", "deactivating", "reloading") else ""


def wait_until_idle(
    run_lock: str, unit: str, wait: float, otherwise: str, hold: Callable[[], object] | None = None
) -> None:
    """Return when no cycle is in progress; LoopError after ``wait`` seconds, which says what was left undone.

    ``hold`` is called then, and keeps the timer from beginning one. One that it began just before is waited for.
    """
    deadline = time.monotonic() + wait
    while who := cycle_in_progress(run_lock, unit):
        if time.monotonic() >= deadline:
            raise LoopError(
                f"a cycle is in progress ({who}) and was not over within {wait:g} s: {otherwise};"
                " run it again when the cycle has ended, or wait longer (engineering_loop_wait_for_cycle)"
            )
        progress.step(f"waiting for a cycle to end ({who}), {wait:g} s at most")
        time.sleep(0.2)
    if hold:
        hold()
        wait_until_idle(run_lock, unit, wait, otherwise)


def _alive(pid: int, claimed: float | None) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass
    except (ProcessLookupError, OverflowError):
        return False
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        lines = Path("/proc/stat").read_text(encoding="utf-8").splitlines()
        boot = next(int(line.split()[1]) for line in lines if line.startswith("btime"))
    except (OSError, StopIteration):
        return True
    if fields[0] in "ZX":
        return False
    begun = boot + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    # A process that began after the lock was written is another one that got the same number,
    # or the host's clock was set since then, and it is the engine after all.
    return claimed is None or begun <= claimed + 10 or _is_engine(pid)


def _is_engine(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return True
    return {b"daemon", b"--once"} <= {*words}  # whatever its program is called


def _epoch(value: object) -> float | None:
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        moment = datetime.fromisoformat(str(value)[:64])
        return moment.timestamp() if moment.tzinfo else moment.timestamp() - time.timezone
    except (ValueError, OverflowError):
        return None
