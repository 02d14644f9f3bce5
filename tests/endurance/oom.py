# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Little memory for what an agent starts: by a control group of this machine, whose kernel kills what takes more.

A host of the tests has no memory controller of its own, so that MemoryMax= of its units is not kept there. Where this
machine has none to give either, the largest process of the cycle is killed as the kernel would.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

GROUPS = Path("/sys/fs/cgroup")
LITTLE, WANTED = 64 << 20, 256 << 20
UNIT = "hyrule-engineering-loop.service"


def processes(host: str) -> dict[int, str]:
    """The processes of the cycle on that host, by this machine's numbers, with their command lines."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            group = (place / "cgroup").read_text(encoding="utf-8")
            if f"-{host}/" in group and f"/{UNIT}" in group:
                command = (place / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(place.name)] = command.decode(errors="replace")
    return found


@contextlib.contextmanager
def little(loophost: ModuleType, host: str) -> Iterator[list[str]]:
    """As soon as the agent of a cycle on the host runs, it and its children have little memory; how that was done."""
    note: list[str] = []
    group = GROUPS / "memory" / f"{loophost._group(host)}-little"
    able = (GROUPS / "memory/memory.limit_in_bytes").exists()
    over = threading.Event()
    if able:
        group.mkdir(exist_ok=True)
        (group / "memory.limit_in_bytes").write_text(str(LITTLE), encoding="utf-8")
    hunter = threading.Thread(target=_hunt, args=(host, group if able else None, over, note))
    hunter.start()
    try:
        yield note
    finally:
        over.set()
        hunter.join()
        if able:
            told = (group / "memory.oom_control").read_text(encoding="utf-8")
            note[:] = [f"{note[0] if note else 'not met'}, {' '.join(told.split()[-2:])}"]
            with contextlib.suppress(OSError):
                group.rmdir()


def _hunt(host: str, group: Path | None, over: threading.Event, note: list[str]) -> None:
    while not over.is_set():
        agents = [pid for pid, command in processes(host).items() if "bwrap" in command or "/pi " in command]
        for pid in agents:
            with contextlib.suppress(OSError):
                if group:
                    (group / "cgroup.procs").write_text(str(pid), encoding="utf-8")
                    note[:] = ["by the kernel"]
                elif not note:
                    time.sleep(0.5)
                    os.kill(pid, signal.SIGKILL)
                    note[:] = ["by hand: this machine has no memory controller"]
        time.sleep(0.02)
