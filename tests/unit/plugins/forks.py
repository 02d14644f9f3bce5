# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What forked processes run counts as run by the tests, where coverage is measured.

coverage's own way (``patch = ["_exit", "fork"]``) makes a measurement and a database of its own for every child: the
tests, which fork thousands of times, take nearly twice as long with it. Here a child lays aside what was run before it
and, as it ends, appends what it ran to a file in memory that all of them have open: it may have become another user,
or be in a mount namespace where no path of ours leads anywhere.

Not counted: a child that is killed, or that ends by another way than ``os._exit`` and ``os.exec*``, and programs that
are started as such.
"""

from __future__ import annotations

import fcntl
import functools
import marshal
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import coverage

MARK = b"\0what a child ran\0"  # begins an entry, so that one which was cut off spoils no other
ABOVE = 256  # a daemon closes up to here what it inherited
ENDS = ("_exit", "execv", "execve")


class Counter:
    """Takes down in children what they run, and in their parent adds it to what the tests ran."""

    def __init__(self, collector: Any) -> None:
        self.collector = collector  # coverage's: per file a set of arcs, each packed into one number
        memory = os.memfd_create("ran")
        self.file = fcntl.fcntl(memory, fcntl.F_DUPFD_CLOEXEC, ABOVE)
        os.close(memory)
        fcntl.fcntl(self.file, fcntl.F_SETFL, os.O_APPEND)
        self.read = 0  # bytes of it
        self.parent = os.getpid()
        self.measures = True

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
            if (name := frame.f_code.co_filename) in before:
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


@contextmanager
def counted() -> Iterator[None]:
    """For as long as the block lasts, what children run counts. Nothing happens where no coverage is measured."""
    tests: Any = coverage.Coverage.current()
    if tests is None:
        yield
        return
    assert tests._collector.core.packed_arcs, "what children run can be counted with coverage's C tracer only"
    counter = Counter(tests._collector)
    os.register_at_fork(after_in_child=counter.begin)
    real = {name: getattr(os, name) for name in ENDS}
    for name, work in real.items():
        setattr(os, name, first(counter.end, work))
    try:
        yield
    finally:
        counter.measures = False
        for name, work in real.items():
            setattr(os, name, work)
        counter.add()
        os.close(counter.file)
