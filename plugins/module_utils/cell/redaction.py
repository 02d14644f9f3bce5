# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets out of what a run wrote down in its cell, before anybody is shown it and before it is kept.

An agent that prints its environment has the provider's key in the engine's transcript. All that the loop's user wrote
is looked through, text or not, but for the work: the checkouts, and every working tree of git below ``runs``. Secrets
are overwritten where they stand, byte for byte, so a file keeps its length, its owner and its place, nothing is copied,
and a full disk is no hindrance.

What is there is input: no link is followed, no pipe or device opened, no other file system entered, and a file that has
a second name, which may be in the work, is read and not written. It ends after a time; what was left out is said.
"""

from __future__ import annotations

import itertools
import os
import stat
import time
from collections.abc import Iterator

from ..base import untrusted
from ..base.errors import LoopError
from ..base.journal import say
from ..base.redact import Redactor
from ..base.untrusted import show
from ..host.settings import Settings
from ..host.users import account
from . import cells
from .cells import Cell

# ``workspace`` is the work. What a run wrote down comes first, should the time not do.
PARTS = ("runs", "state", "memory", "home")
SECONDS = 60.0
MAX_DEPTH, MAX_ENTRIES, MAX_FILE = 40, 200_000, 512 * 1024 * 1024
WINDOW = 1024 * 1024
TOLD = 20  # files that are named
MARK = b"*"


def clear(config: Settings, cell: Cell, redact: Redactor) -> None:
    """As root, when nothing runs in the cell any more. A failure is told and changes no outcome."""
    found = _Pass(redact, account(config.user).pw_uid, cell)
    try:
        found.report()
        for part in PARTS:
            found.below(part)
    except _TooMuchError as error:
        found.left_out.append(f"all from {error} on, since there is too much to look through")
    except (LoopError, OSError) as error:
        found.left_out.append(f"the rest: {error}")
    for name, count in list(found.cleared.items())[:TOLD]:
        say(f"{name} in its cell had a secret in it {count} times, which was overwritten\n")
    if len(found.cleared) > TOLD:
        say(f"{len(found.cleared) - TOLD} files more in its cell had secrets in them, which were overwritten\n")
    for line in found.left_out[:TOLD]:
        say(f"secrets may stand in its cell: {line}\n")


class _TooMuchError(Exception):
    """The time or the number of entries is used up; it names where."""


class _Pass:
    """One way through a cell."""

    def __init__(self, redact: Redactor, uid: int, cell: Cell) -> None:
        self.redact, self.uid, self.cell = redact, uid, cell
        self.cleared: dict[str, int] = {}  # file -> how many secrets stood there
        self.left_out: list[str] = []
        self.deadline = time.monotonic() + SECONDS
        self.entries = 0
        self.device = os.stat(cell.path).st_dev

    def report(self) -> None:
        """What the cycle said of itself, which root wrote down as it came."""
        if told := cells.report_of(self.cell):
            cells.write_report(self.cell, self.redact.everywhere(told))

    def below(self, part: str) -> None:
        """All of one part of the cell."""
        with untrusted.opened(self.cell.part(part), self.cell.path) as directory:
            self._directory(directory, part, 0)

    def _directory(self, directory: int, name: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            self.left_out.append(f"{show(name)} is deeper than {MAX_DEPTH} directories")
            return
        with os.scandir(directory) as found:
            entries = list(itertools.islice(found, MAX_ENTRIES - self.entries + 1))
        self.entries += len(entries)
        if any(entry.name == ".git" for entry in entries) and depth and name.startswith("runs/"):
            return  # the work, which is nobody's to change
        for entry in sorted(entries, key=lambda one: one.name):
            if self.entries > MAX_ENTRIES or time.monotonic() > self.deadline:
                raise _TooMuchError(show(f"{name}/{entry.name}"))
            try:
                self._entry(directory, entry, f"{name}/{entry.name}", depth)
            except OSError as error:
                self.left_out.append(f"{show(f'{name}/{entry.name}')}: {error.strerror}")

    def _entry(self, directory: int, entry: os.DirEntry[str], name: str, depth: int) -> None:
        status = entry.stat(follow_symlinks=False)
        if status.st_dev != self.device:
            return
        flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        if stat.S_ISDIR(status.st_mode) and entry.name != ".git":
            deeper = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | flags, dir_fd=directory)
            try:
                self._directory(deeper, name, depth + 1)
            finally:
                os.close(deeper)
        elif stat.S_ISREG(status.st_mode) and status.st_uid == self.uid:  # root's own are copies of home files
            descriptor = os.open(entry.name, os.O_RDWR | flags, dir_fd=directory)
            try:
                self._file(descriptor, name)
            finally:
                os.close(descriptor)

    def _file(self, descriptor: int, name: str) -> None:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != self.uid:
            return
        if status.st_size > MAX_FILE:
            self.left_out.append(f"{show(name)} has {status.st_size} bytes, the first {MAX_FILE} were looked through")
        count = 0
        for begin, end in self._spans(descriptor, min(status.st_size, MAX_FILE), name):
            count += 1
            if status.st_nlink == 1:
                _overwrite(descriptor, begin, end)
        if count and status.st_nlink == 1:
            self.cleared[show(name)] = count
        elif count:
            self.left_out.append(f"{show(name)} has another name, and is as it was")

    def _spans(self, descriptor: int, size: int, name: str) -> Iterator[tuple[int, int]]:
        """Where secrets stand in a file. Windows overlap, so that each stands in one of them whole."""
        for place in range(0, size, WINDOW):
            if time.monotonic() > self.deadline:
                raise _TooMuchError(show(name))
            content = os.pread(descriptor, WINDOW + self.redact.reach, place)
            for begin, end in self.redact.spans(content):
                if begin < WINDOW:
                    yield place + begin, place + end


def _overwrite(descriptor: int, begin: int, end: int) -> None:
    while begin < end:
        begin += os.pwrite(descriptor, MARK * (end - begin), begin)
