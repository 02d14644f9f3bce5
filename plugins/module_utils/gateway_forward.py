# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was judged goes on to the forge: exactly that, and only if the forge has there what we think.

git's own helper for https speaks to the forge (gitremote-helpers(7)). It is started before the judge has decided, so
that both take their time together, and pushes nothing until it is told what: without our word nothing can leave.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Mapping
from typing import IO, cast

from .errors import LoopError
from .gitcmd import begun, credentials, origin_of, whole_environment
from .pristine import LENDERS_ARE_MUTE, Clone
from .untrusted import show

SECONDS = 300.0
SETTINGS = {"http.lowSpeedLimit": "1000", "http.lowSpeedTime": "60", **LENDERS_ARE_MUTE}


class Forwarding(contextlib.AbstractContextManager["Forwarding"]):
    """A connection to the forge that asks what it has; ``push`` sends one commit, once."""

    def __init__(self, clone: Clone, token: str, inside: Mapping[str, str]) -> None:
        """``inside`` are git's variables that lead to what was received. LoopError where there is no such way."""
        scheme = origin_of(clone.url).partition(":")[0]
        if not scheme:
            raise LoopError(f"{show(clone.url)} is no https address, and the gateway publishes to no other")
        access, settings = credentials(clone.url, token, forge=clone.forge)
        self.process = subprocess.Popen(
            [*begun(), "git", f"remote-{scheme}", "forge", clone.url], cwd=inside["GIT_DIR"],
            env=whole_environment({**access, **inside}, {**settings, **SETTINGS}),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self.stdin = cast(IO[bytes], self.process.stdin)
        self._say("option progress false\noption object-format true\nlist for-push\n")

    def _say(self, words: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has ended, and says why where it is listened to
            os.write(self.stdin.fileno(), words.encode())

    def push(self, new: str, ref: str, old: str) -> str:
        """Send ``new`` as ``ref``, which has ``old`` (empty: is not there). Empty, or why the forge has refused it."""
        self._say(f"option cas {ref}:{old or '0' * len(new)}\npush {new}:{ref}\n")
        try:
            out, err = self.process.communicate(b"\n\n", timeout=SECONDS)  # one ends what is pushed, one all
        except subprocess.TimeoutExpired:
            return f"it did not answer within {SECONDS:.0f} s"
        told, said = (stream.decode("utf-8", "replace").splitlines() for stream in (out, err))
        if self.process.returncode == 0 and any(re.match(rf"ok {re.escape(ref)}(?= |\Z)", line) for line in told):
            return ""
        mine = [line.removeprefix(f"error {ref} ") for line in told if line.startswith(f"error {ref} ")]
        return _forge_words(mine, said)

    def __exit__(self, *_exception: object) -> None:
        """Whatever was begun ends here."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()


def _forge_words(rejected: list[str], said: list[str]) -> str:
    """What the forge said, for a person: its own lines first, then git's."""
    remote = [line.removeprefix("remote: ").strip() for line in said if line.startswith("remote: ")]
    fatal = [line for line in said if line.startswith(("fatal:", "error:"))]
    lines = [line for line in [*rejected, *remote, *fatal[:1]] if line] or ["no message"]
    return show(re.sub(r"://[^/\s@]+@", "://***@", "; ".join(lines[:6])), 1000)
