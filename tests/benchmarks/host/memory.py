# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""On a host, as root: the most memory that each module and each process of our core had. Called by ../memory.py.

    memory.py OUT     writes {"modules": {name: KiB}, "core": {name: KiB}} to OUT once a second, until it is killed

The kernel keeps the high-water mark of each process (VmHWM); it is read every few milliseconds, for as long as the
process lives. A module is a Python with AnsiballZ_<name>.py in its arguments, ours is what starts in our directory.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path

LIB = "/usr/local/lib/engineering-loop/"
MODULE = re.compile(r"/AnsiballZ_(\w+)\.py")
PAUSE = 0.004


def name_of(words: list[str]) -> tuple[str, str] | None:
    """What a process is, and under which name it counts; None where it is none of these."""
    if not os.path.basename(words[0]).startswith("python"):
        return None
    for number, word in enumerate(words[1:], 1):
        if found := MODULE.search(word):
            return "modules", found[1]
        if word.startswith(LIB) and not word.startswith(f"{LIB}engine/"):  # which is the engine itself
            return "core", " ".join([word.removeprefix(LIB), *words[number + 1 : number + 2]])
    return None


def look(known: dict[str, dict[str, int]]) -> None:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path("/proc", pid, "cmdline").read_bytes().decode(errors="replace").split("\0")
            if what := name_of(words):
                status = Path("/proc", pid, "status").read_text(encoding="ascii", errors="replace")
                kind, name = what
                most = int(status.split("VmHWM:")[1].split()[0])
                known[kind][name] = max(most, known[kind].get(name, 0))
        except (OSError, IndexError):
            continue  # it has ended


def main() -> None:
    out, known = Path(sys.argv[1]), {"modules": {}, "core": {}}  # type: ignore[var-annotated]
    written = time.monotonic()
    while True:
        look(known)
        if time.monotonic() - written > 1:
            out.with_suffix(".new").write_text(json.dumps(known), encoding="utf-8")
            out.with_suffix(".new").rename(out)
            written = time.monotonic()
        time.sleep(PAUSE)


if __name__ == "__main__":
    main()
