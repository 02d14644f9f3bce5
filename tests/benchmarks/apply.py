# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an apply with nothing to do costs, beside a play of facts and one module on the same host.

Boots a host, applies the reference engine once, then runs both plays in turn, five times each.
Writes .cache/bench/apply.json: seconds (medians), their ratio, tasks that ran.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests"))
import bench  # noqa: E402

RUNS = 5
FLOOR = """
- hosts: engineering_loop
  gather_facts: true
  tasks:
    - ansible.builtin.file: {path: /etc/hostname, state: file}
"""


def timed(inventory: Path, playbook: str) -> tuple[float, str]:
    began = time.monotonic()
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(inventory), playbook, "-l", "loop"],
        cwd=TOP, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return time.monotonic() - began, done.stdout


def main() -> int:
    applies, floors, output = [], [], ""
    with bench.deployed() as (_host, operator):
        inventory, floor = operator.directory / "inventory.yml", operator.directory.parent / "floor.yml"
        floor.write_text(FLOOR, encoding="utf-8")
        for _run in range(RUNS + 1):
            seconds, output = timed(inventory, "playbooks/apply.yml")
            applies.append(seconds)
            floors.append(timed(inventory, str(floor))[0])
    recap = re.search(r"ok=(\d+)\s+changed=(\d+)", output)
    apply_seconds, floor_seconds = statistics.median(applies[1:]), statistics.median(floors[1:])
    result = {
        "apply_seconds": round(apply_seconds, 2),
        "floor_seconds": round(floor_seconds, 2),
        "ratio": round(apply_seconds / floor_seconds, 2),
        "tasks": int(recap[1]) if recap else None,
        "changed": int(recap[2]) if recap else None,
        "runs": RUNS,
    }
    bench.tell("apply", result)
    return 0


if __name__ == "__main__":
    bench.run(main)
