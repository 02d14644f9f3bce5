# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Another program, run to its end within a time, and what its last words say."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
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


def last_words(text: str) -> str:
    """The end of a program's output that says why it failed, on one line and without credentials."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if not line.lower().startswith("hint:")][-4:]
    return certificate(text) or without_passwords(" / ".join(told) or "no message")[-600:]
