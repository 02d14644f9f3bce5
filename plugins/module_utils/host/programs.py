# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Another program, run to its end within a time, and what its last words say."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any

from ..base.errors import certificate, without_passwords
from .users import account, end_with_parent


def run(
    command: Sequence[str],
    seconds: float,
    *,
    cwd: str = "/",
    environment: Mapping[str, str] | None = None,
    user: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run ``command`` in ``cwd`` and return its status and all that it said; what is no UTF-8 of it is replaced.

    It reads nothing, makes files under umask 022, and where ``user`` is named and this is root it is that user's. It
    is a process group of its own that ends with it, and with us: an orphan would go on writing into a directory that
    the next run has removed. Where we are killed, it is killed too, and what it had started comes to its own end.
    Raises what ``subprocess.run`` does: OSError where it cannot be started, TimeoutExpired after so many seconds.
    """
    identity: dict[str, Any] = {}
    if user and os.geteuid() == 0:
        entry = account(user)
        identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": os.getgrouplist(user, entry.pw_gid)}
    parent = os.getpid()
    # Files, no pipes: a pipe would be waited for until the last of its children has closed it. In memory: a cycle may
    # have no directory for them.
    with open(os.memfd_create("out"), "w+b") as out, open(os.memfd_create("err"), "w+b") as err:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err, umask=0o022,
            start_new_session=True, preexec_fn=lambda: end_with_parent(parent), **identity,
        )  # fmt: skip
        try:
            status = process.wait(seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return subprocess.CompletedProcess(command, status, _text(out), _text(err))


def _text(output: IO[bytes]) -> str:
    output.seek(0)
    return output.read().decode("utf-8", "replace")


class Ends:
    """The beginning and the end of what a program says, at most so many bytes each, and how much lay between."""

    def __init__(self, head: int, tail: int) -> None:
        self.head, self.tail = b"", b""
        self.left_out = 0
        self.status: int | None = None  # None where its time was up before it ended
        self._most_head, self._most_tail = head, tail

    def take(self, chunk: bytes) -> None:
        room = self._most_head - len(self.head)
        self.head += chunk[:room]
        self.tail += chunk[room:]
        if len(self.tail) > 2 * self._most_tail:
            self.end()

    def end(self) -> None:
        over = max(0, len(self.tail) - self._most_tail)
        self.left_out += over
        self.tail = self.tail[over:]

    def lines(self) -> list[str]:
        """As text with surrogates; where something was left out, the lines beside that are not whole."""
        parts = (self.head, self.tail) if self.left_out else (self.head + self.tail,)
        return [line for part in parts for line in part.decode("utf-8", "surrogateescape").splitlines()]


def ends(
    command: Sequence[str],
    seconds: float,
    head: int,
    tail: int,
    *,
    out: IO[bytes] | None = None,
    err: int | None = None,
) -> Ends:
    """Run ``command`` and return the ends of what it says: for one that may say without end what others chose.

    stdout and stderr together, or where stdout goes to the file ``out`` stderr alone; ``err`` may be
    ``subprocess.DEVNULL``. After so many seconds it is killed, and the ``status`` is None. OSError where it cannot be
    started.
    """
    said, deadline = Ends(head, tail), time.monotonic() + seconds
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=out or subprocess.PIPE,
        stderr=err or (subprocess.PIPE if out else subprocess.STDOUT),
    ) as program:  # fmt: skip
        try:
            pipe = program.stderr if out else program.stdout
            while pipe and (left := deadline - time.monotonic()) > 0:
                if select.select([pipe], [], [], left)[0]:
                    chunk = os.read(pipe.fileno(), 1 << 16)
                    if not chunk:
                        break
                    said.take(chunk)
            with contextlib.suppress(subprocess.TimeoutExpired):
                said.status = program.wait(max(0.0, deadline - time.monotonic()))
        finally:
            program.kill()
    said.end()
    return said


def last_words(text: str) -> str:
    """The end of a program's output that says why it failed, on one line and without credentials."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if not line.lower().startswith("hint:")][-4:]
    return certificate(text) or without_passwords(" / ".join(told) or "no message")[-600:]
