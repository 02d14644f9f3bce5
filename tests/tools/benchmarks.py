# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run tests/benchmarks one after the other, and show what they found as one table.

benchmarks.py [NAME...]   all of them, or some; ends with 1 where something could not be measured
benchmarks.py --table     what was measured last
benchmarks.py --docs      the same as Markdown, with the machine, into docs/performance.md

A target that is missed is said, and is no failure: what a machine with other work on it needs is no test.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(os.environ.get("BENCH_ROOT") or Path(__file__).resolve().parents[2])
FOUND = ROOT / ".cache" / "bench"
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- figures: written by benchmarks.py --docs -->\n", "<!-- end of the figures -->\n"
# In the order of the table.
PROGRAMS = ("apply", "first", "workspace", "fleet", "cycle", "memory", "cells", "gateway", "policy", "worktrees")
HEAD = ("what", "measured", "at most", "", "that is")
# The tasks of a play that are told one by one take at least this part of it.
PART = 0.05
PLAYS = {
    "ours": "apply with nothing to do",
    "bump": "apply of one new commit",
    "baseline": "the baseline with nothing to do",
}
Result = dict[str, Any]
Row = tuple[str, str, str, str, str]


def results() -> dict[str, Result]:
    """What was measured, by program."""
    files = {name: FOUND / f"{name}.json" for name in PROGRAMS}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.exists()}


def figure(value: float, unit: str) -> str:
    """A figure as people read it; a ratio has no unit."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f}" + ("" if unit == "x" else f" {unit}")


def lines(found: Mapping[str, Result], names: Iterable[str] = PROGRAMS) -> list[Row]:
    """The rows of the table; a program that measured nothing has one that says so."""
    told: list[Row] = []
    for name in names:
        if name not in found:
            told.append((f"all of {name}", "not measured", "", "", ""))
        for row in found.get(name, {}).get("rows", []):
            met = "met" if row["measured"] <= row["most"] else "missed"
            unit = row["unit"]
            told.append((row["what"], figure(row["measured"], unit), figure(row["most"], unit), met, row["of"]))
    return told


def text(rows: Sequence[Row]) -> str:
    """The table for a terminal."""
    table = [HEAD, *rows]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in table
    )


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def tasks(found: Mapping[str, Result]) -> str:
    """Where the time of a play goes: its larger tasks, the others together."""
    told = []
    for name, what in PLAYS.items():
        steps: list[tuple[str, float]] = found.get("apply", {}).get("tasks", {}).get(name, [])
        whole = sum(seconds for _task, seconds in steps)
        large = [(task, seconds) for task, seconds in steps if seconds >= PART * whole]
        rest = whole - sum(seconds for _task, seconds in large)
        if steps:
            cells = [(task, figure(seconds, "s")) for task, seconds in large]
            others = f"{len(steps) - len(large)} others together"
            told.append(markdown((what, figure(whole, "s")), [*cells, (others, figure(rest, "s"))]))
    return "\n\n".join(told)


def page(found: Mapping[str, Result]) -> str:
    """What docs/performance.md says of the figures."""
    machines = sorted({one["machine"] for one in found.values()})
    dates = sorted({one["date"] for one in found.values()})
    loads = [one["load"] for one in found.values()]
    runs = sorted({str(one["runs"]) for one in found.values()})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    taken = (
        f"Taken on {when}, on {'; '.join(machines)}. Medians of {' or '.join(runs)};"
        f" at the end of each program the machine's load was {min(loads):.1f} to {max(loads):.1f}."
    )
    where = "Where the time of an apply goes, task by task:"
    return f"{taken}\n\n{markdown(HEAD, lines(found))}\n\n{where}\n\n{tasks(found)}\n"


def write(found: Mapping[str, Result]) -> None:
    """Put the figures into their place in the documentation."""
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not (begin and end and found):
        sys.exit(f"benchmarks: {'nothing was measured' if not found else f'{PAGE} has no place for the figures'}")
    PAGE.write_text(f"{before}{begin}\n{page(found)}\n{end}{after}", encoding="utf-8")


def run(names: Sequence[str]) -> int:
    """Run programs. What an earlier run found does not stand for what this one could not measure."""
    for name in names:
        (FOUND / f"{name}.json").unlink(missing_ok=True)
    failed = []
    for name in names:
        print(f"== {name}", flush=True)
        began = time.monotonic()
        program = ROOT / "tests" / "benchmarks" / f"{name}.py"
        if subprocess.run([sys.executable, str(program)], cwd=ROOT, check=False).returncode:
            failed.append(name)
        print(f"   {time.monotonic() - began:.0f} s", flush=True)
    print(f"\n{text(lines(results(), names))}")
    if failed:
        print(f"\nnot measured: {', '.join(failed)}")
    return int(bool(failed))


def main(words: Sequence[str]) -> int:
    if words == ["--table"]:
        print(text(lines(results())))
    elif words == ["--docs"]:
        write(results())
    elif unknown := [word for word in words if not re.fullmatch("|".join(PROGRAMS), word)]:
        sys.exit(f"benchmarks: {unknown[0]!r} is none of {', '.join(PROGRAMS)}")
    else:
        return run([name for name in PROGRAMS if name in words or not words])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
