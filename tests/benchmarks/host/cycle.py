# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""On a host with both deployed, as root: idle cycles of ours and of the engine alone, in turn. Prints one JSON object.

Called by ../cycle.py with the number of turns.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

OURS, BASELINE = "hyrule-engineering-loop", "baseline-loop"
ENGINE = Path("/opt/baseline-loop/.venv/bin/hyrule-engineering-loop")
RECORDS = Path("/var/lib/engineering-loop/cycles")
# What systemd knows of the parts of our cycle: before the engine, with it, after it.
TIMES = {
    "before": ("InactiveExitTimestampMonotonic", "ExecMainStartTimestampMonotonic"),
    "within": ("ExecMainStartTimestampMonotonic", "ExecMainExitTimestampMonotonic"),
    "after": ("ExecMainExitTimestampMonotonic", "InactiveEnterTimestampMonotonic"),
}


def quiet() -> None:
    """Until nothing of an earlier cycle runs any more, what it tells others included."""
    while subprocess.run(["systemctl", "is-active", "--quiet", f"{OURS}-tell.service"], check=False).returncode == 0:
        time.sleep(0.1)
    time.sleep(0.5)


def seconds(*command: str) -> float:
    quiet()
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    took = time.monotonic() - began
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {(done.stderr or done.stdout)[-400:]}")
    return took


def cycle(unit: str) -> float:
    return seconds("systemctl", "start", "--wait", f"{unit}.service")


def outcome() -> str:
    newest = max(RECORDS.glob("*.json"), key=lambda path: path.name)
    return str(json.loads(newest.read_text(encoding="utf-8"))["outcome"])


def phases() -> dict[str, float]:
    said = subprocess.run(
        ["systemctl", "show", f"{OURS}.service"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    known = dict(line.split("=", 1) for line in said if "=" in line)
    return {name: (int(known[end]) - int(known[begin])) / 1e6 for name, (begin, end) in TIMES.items()}


def main() -> None:
    # systemd forgets the times of a unit that has ended, unless another one names it.
    hold = ["systemd-run", "--quiet", "--unit=bench-hold", f"--property=After={OURS}.service", "sleep", "infinity"]
    subprocess.run(hold, check=True)
    turns: dict[str, list[float]] = {"ours": [], "engine": [], "start": []}
    parts: dict[str, list[float]] = {name: [] for name in TIMES}
    for _run in range(int(sys.argv[1]) + 1):
        turns["ours"].append(cycle(OURS))
        if (found := outcome()) != "idle":
            sys.exit(f"a cycle of ours should be idle, and is {found}")
        for name, took in phases().items():
            parts[name].append(took)
        turns["engine"].append(cycle(BASELINE))
        turns["start"].append(seconds("runuser", "-u", BASELINE, "--", str(ENGINE), "daemon", "--help"))
    middles = {name: round(statistics.median(took[1:]), 3) for name, took in parts.items()}
    print(json.dumps({"seconds": {name: took[1:] for name, took in turns.items()}, "phases": middles}))


if __name__ == "__main__":
    main()
