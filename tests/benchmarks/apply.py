# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an apply with nothing to do costs, beside a play of facts and one module on the same host.

Boots a host, applies the reference engine once, then runs both plays in turn, five times each.
Writes .cache/bench/apply.json: seconds (medians), their ratio, tasks that ran.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "tests"), str(TOP / "tests" / "world")]
import demo  # noqa: E402
import loophost  # noqa: E402
import stage  # noqa: E402

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


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        demo.HOME = Path(scratch)
        made = stage.up(demo.HOME)
        try:
            with demo.throwaway(keep=False, name="bench") as host:
                operator = demo.Operator(host, demo.Forge(made["url"], made["token"]))
                operator.pin(made["from"])
                operator.play("playbooks/apply.yml", "-l", "loop")
                inventory = operator.directory / "inventory.yml"
                floor = Path(scratch) / "floor.yml"
                floor.write_text(FLOOR, encoding="utf-8")
                applies, floors, output = [], [], ""
                for _run in range(RUNS + 1):
                    seconds, output = timed(inventory, "playbooks/apply.yml")
                    applies.append(seconds)
                    floors.append(timed(inventory, str(floor))[0])
        finally:
            stage.down(demo.HOME)
    recap = re.search(r"ok=(\d+)\s+changed=(\d+)", output)
    apply_seconds, floor_seconds = statistics.median(applies[1:]), statistics.median(floors[1:])
    result = {
        "apply_seconds": round(apply_seconds, 2),
        "floor_seconds": round(floor_seconds, 2),
        "ratio": round(apply_seconds / floor_seconds, 2),
        "tasks": int(recap[1]) if recap else None,
        "changed": int(recap[2]) if recap else None,
        "runs": RUNS,
        "load": round(os.getloadavg()[0], 2),
    }
    target = TOP / ".cache" / "bench" / "apply.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    try:
        main()
    except (loophost.HostError, stage.StageError, demo.DemoError) as problem:
        sys.exit(f"bench: {problem}")
