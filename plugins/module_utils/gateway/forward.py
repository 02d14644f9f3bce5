# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was judged goes on to the forge: exactly that, and only if the forge has there what we think.

git's own helper for https speaks to the forge (gitremote-helpers(7)). It is started while the push is still received,
so that both take their time together. What to push, and where that is, it is told at the end: without our word nothing
leaves.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from typing import IO, cast

from ..base.errors import LoopError, without_passwords
from ..base.untrusted import show
from ..cell.pristine import LENDERS_ARE_MUTE, Clone
from ..git.command import begun, credentials, end, ended_after, helpers, origin_of, whole_environment

SECONDS = 300.0
SETTINGS = {"http.lowSpeedLimit": "1000", "http.lowSpeedTime": "60", **LENDERS_ARE_MUTE}


class Forwarding(contextlib.AbstractContextManager["Forwarding"]):
    """A connection to the forge that asks what it has; ``push`` sends one commit, once."""

    def __init__(self, clone: Clone, token: str, home: str) -> None:
        """``home`` is the repository that receives. LoopError where there is no such way to the forge."""
        scheme = origin_of(clone.url).partition(":")[0]
        if not scheme:
            raise LoopError(f"{show(clone.url)} is no https address, and the gateway publishes to no other")
        self.home = home
        access, settings = credentials(clone.url, token, forge=clone.forge)
        self.objects = f"{home}/forwarded"  # empty, and leads to what was received once that is to be sent
        os.makedirs(f"{self.objects}/info", mode=0o700)
        places = {"GIT_DIR": home, "GIT_OBJECT_DIRECTORY": self.objects}
        self.process = subprocess.Popen(
            [*begun(), f"{helpers()}/git-remote-{scheme}", "forge", clone.url], cwd=home,
            env=whole_environment({**access, **places}, {**settings, **SETTINGS}),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self.stdin = cast(IO[bytes], self.process.stdin)
        self._say("option progress false\noption object-format true\nlist for-push\n")

    def _say(self, words: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has ended, and says why where it is listened to
            os.write(self.stdin.fileno(), words.encode())

    def push(self, new: str, ref: str, old: str) -> str:
        """Send ``new`` as ``ref``, which has ``old`` (empty: is not there). Empty, or why the forge has refused it."""
        with open(f"{self.objects}/info/alternates", "w", encoding="utf-8") as handle:
            handle.write(f"{self.home}/objects\n")
        self._say(f"option cas {ref}:{old or '0' * len(new)}\npush {new}:{ref}\n")
        with ended_after(self.process, SECONDS) as late:
            out, err = self.process.communicate(b"\n\n")  # one ends what is pushed, one all
        if late.is_set():
            return f"it did not answer within {SECONDS:.0f} s"
        told, said = (stream.decode("utf-8", "replace").splitlines() for stream in (out, err))
        if self.process.returncode == 0 and any(re.match(rf"ok {re.escape(ref)}(?= |\Z)", line) for line in told):
            return ""
        mine = [line.removeprefix(f"error {ref} ") for line in told if line.startswith(f"error {ref} ")]
        return _forge_words(mine, said)

    def __exit__(self, *_exception: object) -> None:
        """Whatever was begun ends here."""
        end(self.process)


def _forge_words(rejected: list[str], said: list[str]) -> str:
    """What the forge said, for a person: its own lines first, then git's."""
    remote = [line.removeprefix("remote: ").strip() for line in said if line.startswith("remote: ")]
    fatal = [line for line in said if line.startswith(("fatal:", "error:"))]
    lines = [line for line in [*rejected, *remote, *fatal[:1]] if line] or ["no message"]
    return show(without_passwords("; ".join(lines[:6])), 1000)
