# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks again and again while other programs work, to find what fails only now and then: again.py TIMES LOAD CHECK...

The checks are those of check.py, T and S name some of them there as well; ``LOAD`` is how many processes count beside
them. What each turn said is in .cache/again. Ends with 1 where anything failed in any turn.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LOGS = ROOT / ".cache/again"


class Turn(NamedTuple):
    """How one turn ended; ``failed`` has a line for each check that did."""

    seconds: float
    counts: str
    failed: list[str]


@contextlib.contextmanager
def load(processes: int) -> Iterator[None]:
    """So many processes that do nothing but count."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _number in range(processes)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def read(said: str, code: int) -> tuple[str, list[str]]:
    """The counts at the end of what check.py said, and the checks that failed; it may have ended without a word."""
    counts = re.findall(r"^\d+ passed, \d+ failed$", said, re.MULTILINE)
    failed = re.findall(r"^failed: (.+)$", said, re.MULTILINE)
    names = failed[-1].split(", ") if failed else []
    if (code and not names) or not counts:
        names.append(f"check.py ended with {code}, and says of nothing that it failed")
    return counts[-1] if counts else "no counts", names


def turn(number: int, checks: list[str]) -> Turn:
    began, log = time.monotonic(), LOGS / f"{number}.log"
    with log.open("wb") as output:
        command = [sys.executable, "tests/tools/check.py", *checks]
        streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        code = subprocess.run(command, cwd=ROOT, check=False, **streams).returncode  # type: ignore[call-overload]
    return Turn(time.monotonic() - began, *read(log.read_text(encoding="utf-8", errors="replace"), code))


def main(times: int, busy: int, checks: list[str]) -> int:
    LOGS.mkdir(parents=True, exist_ok=True)
    failures: Counter[str] = Counter()
    interrupts: list[int] = []  # check.py gets a ctrl-C as well, and takes its time to clean up
    signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number))
    with load(busy):
        for number in range(1, times + 1):
            done = turn(number, checks)
            if interrupts:
                return 130
            failures.update(done.failed)
            ended = "; ".join(done.failed) or "nothing failed"
            print(f"{number} of {times}: {done.seconds:.0f} s, {done.counts}: {ended}", flush=True)
    for name, often in failures.most_common():
        print(f"failed in {often} of {times}: {name}; see {LOGS.relative_to(ROOT)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
