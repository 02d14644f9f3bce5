# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sandbox that a release is started in where nobody has proven it: the host's programs and itself, no more."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from ..base.files import read_bytes
from ..host.bubblewrap import BWRAP

MAX_TMP = 1 << 30  # bytes in the sandbox's own memory

# Nothing of the caller's, and nothing that would want to write beside the release.
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp", "TMPDIR": "/tmp",  # noqa: S108
    "PYTHONDONTWRITEBYTECODE": "1",
}  # fmt: skip


def interpreter(path: str) -> str:
    """The program of the host that a release's Python leads to; empty where there is none."""
    program = os.path.realpath(os.path.join(path, ".venv/bin/python"))
    return program if os.path.exists(program) else ""


def _home(path: str) -> str:
    """Where the Python is that a release was made with, as it says itself; empty where none of that name is there.

    A package may have written over what says so: it must lead to the interpreter that the release has.
    """
    said = re.search(r"(?m)^home = (/.+)$", (read_bytes(f"{path}/.venv/pyvenv.cfg") or b"").decode(errors="replace"))
    names = ("python", "python3", os.path.basename(interpreter(path)))
    right = said and any(os.path.realpath(f"{said[1]}/{name}") == interpreter(path) for name in names)
    return said[1] if said and right else ""


def words(path: str, more: Sequence[str] = ()) -> list[str]:
    """What starts a command in the release at ``path``, shut in: no network, and nothing that it writes stays.

    ``more`` are options of bubblewrap for what else it sees.
    """
    begin = [BWRAP, "--unshare-all", "--die-with-parent", "--new-session", "--proc", "/proc", "--dev", "/dev"]
    begin += ["--size", str(MAX_TMP), "--tmpfs", "/tmp", "--ro-bind", "/usr", "/usr"]  # noqa: S108 - the sandbox's own
    pythons = [_home(path), os.path.dirname(interpreter(path))]
    for prefix in dict.fromkeys(["", *(os.path.dirname(place) for place in pythons)]):
        for name in ("bin", "lib", "lib64") if not f"{prefix}/".startswith("/usr/") else ():
            begin += ["--ro-bind-try", f"{prefix.rstrip('/')}/{name}", f"{prefix.rstrip('/')}/{name}"]
    for name in ("alternatives", "group", "ld.so.cache", "localtime", "passwd", "ssl/certs"):
        begin += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    return [*begin, "--ro-bind", path, path, *more, "--remount-ro", "/", "--chdir", path, "--"]
