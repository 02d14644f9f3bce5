# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept of a cycle beside its record: its log, and what its engine wrote for people. Root's, and for root alone.

``<cycle>.log`` is what the journal had of it, which rotates away; ``<cycle>.tar.gz`` is request, tasks, state, handoff,
trace and transcript of its runs, which go with the cell. Both are input: bounded, free of what a terminal obeys, and
with the secrets that root knows replaced. No cycle fails because they could not be kept.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import os
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..base import untrusted
from ..base.clock import moment_of
from ..base.errors import LoopError, printable
from ..base.files import read_bytes, write_atomic
from ..base.journal import say
from ..base.redact import Redactor
from ..base.untrusted import show
from ..host import programs
from ..host.settings import Settings
from . import cells, records
from .cells import Cell

LOG_HEAD, LOG_TAIL = 256 * 1024, 768 * 1024  # bytes of a log: how a cycle ended says more than how it began
LOG_SECONDS = 20.0
LAST_LINES = 2000  # of a journal that cannot be read in that time
MAX_FILE, MAX_ALL, MAX_FILES = 1024 * 1024, 8 * 1024 * 1024, 200
# What an engine writes for people, below the directory of one run; empty is that directory itself.
PLACES = {"": re.compile(r"request\.md"), **dict.fromkeys(("tasks", "state", "handoff"), re.compile(r"[^.].*"))}
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,120}\.(md|json|jsonl|txt|log|ya?ml)")
LEFT_OUT = "LEFT-OUT.txt"
# What the units of a cycle are called, beside its own.
BESIDE = ("-watch", "-gate", "-egress", "-egress-proxy")


# --- keeping --------------------------------------------------------------------------------------


def keep_files(config: Settings, record: Mapping[str, Any], redact: Redactor) -> None:
    """Keep what the engine wrote for people in the cell of a cycle that is over, while there is one."""
    cell = Cell(f"{config.runs_dir}/{record['cycle']}")
    with _best_effort("what its engine wrote"):
        if os.path.isdir(cell.path) and (files := _written(cell, redact)):
            path = f"{config.cycles_dir}/{record['cycle']}{records.FILES}"
            write_atomic(path, packed(files, moment_of(record["started"]).timestamp()), mode=0o600)


def keep_log(config: Settings, record: Mapping[str, Any], redact: Redactor) -> None:
    """Keep what the journal has of a cycle that is over."""
    with _best_effort("its log"):
        text = _log(config, record, redact)
        path = f"{config.cycles_dir}/{record['cycle']}{records.LOG}"
        write_atomic(path, text.encode("utf-8", "backslashreplace"), mode=0o600)


@contextlib.contextmanager
def _best_effort(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the cycle is over, and its record stands
        say(f"{what} is not kept beside the record: {show(error)}\n")


# --- the log ----------------------------------------------------------------------------------------


def _log(config: Settings, record: Mapping[str, Any], redact: Redactor) -> str:
    """What the journal has of all units of the cycle, as text."""
    ours = _matches(config, record)
    if not ours:
        return "(the record names no invocation of systemd's: the journal cannot be asked for this cycle)\n"
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # the last words may still be on their way
        subprocess.run(["journalctl", "--sync"], capture_output=True, check=False, timeout=LOG_SECONDS / 4)
    try:
        said = _journal(ours, LOG_SECONDS)
        note = ""
        if said.status is None:
            note = (
                f"[... the journal was not read in {LOG_SECONDS:.0f} s: from here on its last {LAST_LINES} lines ...]"
            )
            last = _journal([f"--lines={LAST_LINES}", *ours], LOG_SECONDS / 2)
            said.tail, said.left_out = last.head + last.tail, max(1, said.left_out)
    except OSError as error:
        return f"(journalctl cannot be run on this host: {error.strerror})\n"
    if not said.head:
        return "(the journal has nothing of this cycle: it was rotated away, or journald does not keep any)\n"
    return readable(said.head, said.tail, said.left_out, redact, note)


def _matches(config: Settings, record: Mapping[str, Any]) -> list[str]:
    """The arguments that name what the cycle's units have said."""
    invocation = str(record.get("invocation_id", ""))
    if not re.fullmatch(r"[0-9a-f]{32}", invocation):
        return []
    since = moment_of(record["started"]).timestamp() - 5
    either = [f"_SYSTEMD_INVOCATION_ID={invocation}", f"INVOCATION_ID={invocation}"]
    either += [f"_SYSTEMD_UNIT={config.unit}{name}.service" for name in BESIDE]
    return [f"--since=@{since:.0f}", *" + ".join(either).split()]


def _journal(arguments: Sequence[str], seconds: float) -> programs.Ends:
    """What journalctl prints within ``seconds``. Local times would not be the record's."""
    command = ["journalctl", "--quiet", "--no-pager", "--all", "--utc", "--no-hostname", "--output=short-iso"]
    return programs.ends([*command, *arguments], seconds, LOG_HEAD, LOG_TAIL, err=subprocess.DEVNULL)


# --- text -------------------------------------------------------------------------------------------


def readable(head: bytes, tail: bytes, left_out: int, redact: Redactor, note: str = "") -> str:
    """Beginning and end of what somebody wrote as a text that can be shown, with a line where something is missing.

    Beside a cut as much goes as may be a part of a secret.
    """
    if not left_out:
        return clean(redact(_text(head + tail)))
    note = note or f"[... {left_out} bytes were left out here ...]"
    first, last = redact(_text(head)), redact(_text(tail))
    first = first[: max(0, len(first) - redact.longest)]
    return f"{clean(first)}\n{note}\n{clean(last[redact.longest :])}"


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def clean(text: str) -> str:
    """As it is in lines and tabs; all else that a terminal obeys or does not show is escaped."""
    lines = (line.removesuffix("\r").split("\t") for line in text.split("\n"))
    return "\n".join("\t".join(part if part.isprintable() else printable(part) for part in line) for line in lines)


# --- what the engine wrote ----------------------------------------------------------------------------


def _written(cell: Cell, redact: Redactor) -> dict[str, str]:
    """File name -> text of what the runs in a cell have for people; what was left out is named in one more file."""
    found: dict[str, str] = {}
    left_out: list[str] = []
    room = MAX_ALL
    for path, name in _candidates(cell, left_out.append):
        if room <= 0 or len(found) >= MAX_FILES:
            left_out.append(f"{name}: no room, {MAX_ALL >> 20} MiB and {MAX_FILES} files are kept of a cycle")
            continue
        try:
            read = untrusted.ends(path, cell.path, min(room, MAX_FILE))
        except LoopError as error:
            left_out.append(f"{name}: {error}")
            continue
        if read is not None:
            found[name] = readable(*read, redact)
            room -= len(read[0]) + len(read[1])
    if left_out:
        told = [show(line) for line in left_out[:MAX_FILES]] + ["and more"] * (len(left_out) > MAX_FILES)
        found[LEFT_OUT] = redact("\n".join(told) + "\n")
    return found


def _candidates(cell: Cell, left_out: Callable[[str], None]) -> Iterator[tuple[str, str]]:
    """Path and name of what may be read; nothing of it was looked at yet."""
    for run in cells.runs_in(cell):
        for place, wanted in PLACES.items():
            directory = f"{cell.part('runs')}/{run}/{place}".rstrip("/")
            for name in _names(directory, cell, left_out):
                if wanted.fullmatch(name):
                    if FILE.fullmatch(name):
                        yield f"{directory}/{name}", f"{run}/{place}/{name}".replace("//", "/")
                    else:
                        left_out(f"{run}/{place}/{show(name)}: no name of a text")
        entry = f"{run.upper()}.md"
        yield f"{cell.part('memory')}/journal/{entry}", f"{run}/journal/{entry}"
    yield f"{cell.part('state')}/agent-core-trace.jsonl", "agent-core-trace.jsonl"


def _names(directory: str, cell: Cell, left_out: Callable[[str], None]) -> list[str]:
    """The first names in a directory, sorted; none where it is none."""
    try:
        with untrusted.opened(directory, cell.path) as place:
            return sorted(entry.name for entry in itertools.islice(os.scandir(place), 1000))
    except LoopError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            left_out(str(error))
    except OSError as error:
        left_out(f"{show(directory)}: {error.strerror}")
    return []


def packed(files: Mapping[str, str], moment: float) -> bytes:
    """The files as a tar.gz, root's, as of that moment."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, text in files.items():
            content = text.encode("utf-8", "backslashreplace")
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(moment)
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(made.getvalue(), mtime=0)


# --- reading it again ---------------------------------------------------------------------------------


def has_log(config: Settings, cycle: str) -> bool:
    """Whether a log was kept: the last that is."""
    return os.path.lexists(f"{config.cycles_dir}/{cycle}{records.LOG}")


def log_of(config: Settings, cycle: str) -> str | None:
    """The log that was kept; None where there is none."""
    content = read_bytes(f"{config.cycles_dir}/{cycle}{records.LOG}", 4 * (LOG_HEAD + LOG_TAIL))
    return None if content is None else content.decode("utf-8", "replace")


def files_of(config: Settings, cycle: str) -> dict[str, bytes]:
    """What was kept of what the engine wrote, by name; LoopError where the archive cannot be read."""
    path = f"{config.cycles_dir}/{cycle}{records.FILES}"
    content = read_bytes(path, 4 * MAX_ALL)
    if content is None:
        return {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            whole = {entry.name: archive.extractfile(entry) for entry in archive.getmembers() if entry.isreg()}
            return {name: handle.read() for name, handle in whole.items() if handle}
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise LoopError(f"{path} cannot be read: {error}") from error
