# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The most memory that any module has on the host, and any process of our own in a cycle.

One host from bare to proven and bumped, with a cycle that publishes, while host/memory.py looks. No time is measured.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import bench
import demo

OUT = "/run/bench-memory.json"


def main() -> None:
    # A module that comes through a pipe has no name in its arguments.
    os.environ["ANSIBLE_PIPELINING"] = "false"
    with bench.world() as world, world.host() as (host, operator):
        place = bench.bring(host, "memory.py")
        host.sh(f"systemd-run --quiet --unit=bench-memory python3 {place} {OUT}")
        operator.play(*bench.OURS, "-e", "engineering_loop_canary_run=true")
        operator.play(*bench.OURS)
        operator.pin(world.made["to"])
        operator.play(*bench.OURS)
        operator.play("playbooks/status.yml", fails="1 of 1 need a person")  # the new version is not proven
        for playbook in ("cycles", "restore", "sbom", "rollback"):
            operator.play(
                f"playbooks/{playbook}.yml", "-l", "loop", "-e", f"to={demo.HOME}" if playbook == "sbom" else ""
            )
        time.sleep(2)  # for the last of it to be written
        known = json.loads(host.sh(f"cat {OUT}"))
    if "prepare" not in " ".join(known["core"]):
        raise demo.DemoError(f"no cycle was seen among {sorted(known['core'])}")
    rows = []
    for kind, what, most in (("modules", "memory of a module", 80), ("core", "memory of a process in a cycle", 60)):
        name, size = max(known[kind].items(), key=lambda one: one[1])
        rows.append(bench.row(f"{what}, the most", size / 1024, most, "MiB", name))
    bench.tell("memory", rows, kib=known)


if __name__ == "__main__":
    bench.run(main)
