# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What forked processes run counts as run by the tests, where coverage is measured.

coverage's own way (``patch = ["_exit", "fork"]``) makes a measurement and a database of its own for every child: the
tests, which fork thousands of times, take nearly twice as long with it. Here a child lays aside what was run before it
and, as it ends, appends what it ran to a file in memory that all of them have open: it may have become another user,
or be in a mount namespace where no path of ours leads anywhere.

A program in Python that a test starts does the same where it calls ``program`` before all else. Not counted: what is
killed, a child that ends by another way than ``os._exit`` and ``os.exec*``, and programs that do not call it.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import marshal
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import coverage

MARK = b"\0what a child ran\0"  # begins an entry, so that one which was cut off spoils no other
ABOVE = 256  # a daemon closes up to here what it inherited
ENDS = ("_exit", "execv", "execve")
RAN = "TESTS_RAN"  # in the environment: the file in memory, as programs find it
HERE = Path(__file__).resolve().parent
SOURCE = str(HERE.parents[2] / "plugins")
# How a script of a test begins.
PROGRAM = f"import sys; sys.path.insert(0, {str(HERE)!r}); import forks; forks.program()\n"


class Counter:
    """Takes down in children what they run, and in their parent adds it to what the tests ran."""

    def __init__(self, collector: Any, file: int, parent: int = 0) -> None:
        self.collector = collector  # coverage's: per file a set of arcs, each packed into one number
        assert collector.core.packed_arcs, "what children run can be counted with coverage's C tracer only"
        self.file = file
        self.read = 0  # bytes of it
        self.parent = parent
        self.measures = True
        os.register_at_fork(after_in_child=self.begin)
        self.real = {name: getattr(os, name) for name in ENDS}
        for name, work in self.real.items():
            setattr(os, name, first(self.end, work))

    def begin(self) -> None:
        """In a child, at once: what it runs is kept apart from what was run before.

        But for the files that are on the stack, of which the tracer has the sets at hand: those it writes down whole.
        """
        tracer: Any = sys.gettrace()
        if not self.measures or tracer is None:
            return
        before, ours = self.collector.data, {}
        frame = sys._getframe()
        while frame := frame.f_back:  # type: ignore[assignment]
            known = self.collector.should_trace_cache.get(frame.f_code.co_filename)
            if known and (name := known.source_filename) in before:
                ours[name] = before[name]
        self.before = before  # to take it down would cost more than all the rest
        tracer.data = self.collector.data = ours
        self.collector.data_lock = threading.Lock()  # a thread that is no more may have held it

    def end(self) -> None:
        """In a child, last: what it ran goes to its parent."""
        if self.measures and os.getpid() != self.parent:
            ran = {name: set(arcs) for name, arcs in list(self.collector.data.items())}
            os.write(self.file, MARK + marshal.dumps(ran))

    def add(self) -> None:
        """In the parent: what children ran that have ended counts as run."""
        entries = os.pread(self.file, os.fstat(self.file).st_size - self.read, self.read)
        self.read += len(entries)
        for entry in entries.split(MARK):
            with suppress(EOFError, ValueError, TypeError):  # a child was killed as it wrote
                for name, arcs in marshal.loads(entry).items():  # noqa: S302 - it is ours
                    self.collector.data.setdefault(name, set()).update(arcs)


def first(before: Callable[[], None], work: Callable[..., Any]) -> Callable[..., Any]:
    """``work`` with something before it, which never keeps it from being done."""

    @functools.wraps(work)
    def call(*arguments: Any) -> Any:
        with suppress(OSError):
            before()
        return work(*arguments)

    return call


def memory() -> int:
    """The file in memory, out of the way of those who close what they inherited."""
    low = os.memfd_create("ran")
    file = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, ABOVE)
    os.close(low)
    fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND)
    return file


@contextmanager
def counted() -> Iterator[None]:
    """For as long as the block lasts, what children run counts. Nothing happens where no coverage is measured."""
    tests: Any = coverage.Coverage.current()
    if tests is None:
        yield
        return
    counter = Counter(tests._collector, memory(), os.getpid())
    os.environ[RAN] = f"/proc/{os.getpid()}/fd/{counter.file}"
    try:
        yield
    finally:
        del os.environ[RAN]
        counter.measures = False
        for name, work in counter.real.items():
            setattr(os, name, work)
        counter.add()
        os.close(counter.file)


def program() -> None:
    """In a program that a test starts: what it runs counts, where coverage is measured."""
    if not (place := os.environ.get(RAN)):
        return
    ours: Any = coverage.Coverage(data_file=None, config_file=False, branch=True, source=[SOURCE])
    ours.set_option("run:disable_warnings", ["module-not-measured", "no-data-collected", "module-not-imported"])
    ours.start()
    atexit.register(Counter(ours._collector, os.open(place, os.O_WRONLY | os.O_APPEND)).end)
