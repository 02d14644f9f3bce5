# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an apply with nothing to do costs, beside a play of facts and one module on the same host.

Boots a host, applies the reference engine once, then runs both plays in turn, five times each; then once more with four
jobs beside the cycle. Writes .cache/bench/apply.json: seconds (medians), their ratio, what a job adds, tasks that ran.
"""

from __future__ import annotations

import json
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
LOOK = {"command": ["hyrule-engineering-loop"], "args": ["--version"]}
JOBS = [{"name": f"look-{number}", **LOOK} for number in range(4)]
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
    with bench.deployed() as (_host, operator):
        inventory, floor = operator.directory / "inventory.yml", operator.directory.parent / "floor.yml"
        floor.write_text(FLOOR, encoding="utf-8")

        def medians() -> tuple[float, float, str]:
            """Of applies with nothing to do, and of the floor beside them; and what the last one said."""
            applies, floors, output = [], [], ""
            for _run in range(RUNS + 1):
                seconds, output = timed(inventory, "playbooks/apply.yml")
                applies.append(seconds)
                floors.append(timed(inventory, str(floor))[0])
            return statistics.median(applies[1:]), statistics.median(floors[1:]), output

        plain, floor_seconds, output = medians()
        jobs = operator.pins.with_name("30-jobs.yml")
        jobs.write_text(json.dumps({"engineering_loop_jobs": JOBS}), encoding="utf-8")
        operator.play("playbooks/apply.yml", "-l", "loop")
        with_jobs, floor_then, _said = medians()
    recap = re.search(r"ok=(\d+)\s+changed=(\d+)", output)
    result = {
        "apply_seconds": round(plain, 2),
        "floor_seconds": round(floor_seconds, 2),
        "ratio": round(plain / floor_seconds, 2),
        # In the floor's own measure, which the machine's load is in as well.
        "per_job_ratio": round((with_jobs / floor_then - plain / floor_seconds) / len(JOBS), 3),
        "with_jobs_seconds": round(with_jobs, 2),
        "jobs": len(JOBS),
        "tasks": int(recap[1]) if recap else None,
        "changed": int(recap[2]) if recap else None,
        "runs": RUNS,
    }
    bench.tell("apply", result)
    return 0


if __name__ == "__main__":
    bench.run(main)
