# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an apply costs on a host that has all of it: with nothing to do, for a new commit, and what a job adds.

One host, with the collection and the baseline side by side. Which tasks the time goes to is in the result as well.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import bench
import demo

LOOK = {"command": ["hyrule-engineering-loop"], "args": ["--version"]}
JOBS = [{"name": f"look-{number}", **LOOK} for number in range(4)]
FLOOR = """
- hosts: engineering_loop
  gather_facts: true
  tasks:
    - ansible.builtin.file: {path: /etc/hostname, state: file}
"""


def bumps(world: bench.Bench, operator: demo.Operator) -> bench.Turns:
    """Applies of a commit that the host has not seen; that the pin is moved does not count."""
    turns: bench.Turns = {"ours": [], "baseline": []}
    for number in range(bench.RUNS + 1):
        sha = world.commit(number)
        operator.pin(sha)
        for name, words in (("ours", bench.OURS), ("baseline", world.baseline(sha))):
            turns[name].append(bench.took(bench.play(operator, *words, changes=True)))
    return {name: times[1:] for name, times in turns.items()}


def main() -> None:
    with bench.deployed() as (world, _host, operator):
        floor = operator.directory.parent / "floor.yml"
        floor.write_text(FLOOR, encoding="utf-8")
        baseline = world.baseline(world.made["from"])
        operator.play(*baseline)
        alone = {"ours": bench.play(operator, *bench.OURS), "floor": bench.play(operator, str(floor), "-l", "loop")}
        idle = bench.in_turn({**alone, "baseline": bench.play(operator, *baseline)})
        where = {"ours": bench.tasks(operator, *bench.OURS), "baseline": bench.tasks(operator, *baseline)}
        bumped = bumps(world, operator)
        operator.pin(world.commit(-1))
        where["bump"] = bench.tasks(operator, *bench.OURS)
        jobs = operator.pins.with_name("30-jobs.yml")
        jobs.write_text(json.dumps({"engineering_loop_jobs": JOBS}), encoding="utf-8")
        operator.play(*bench.OURS)
        with_jobs = bench.in_turn(alone)
    parts = [bench.middle(turns["ours"]) / bench.middle(turns["floor"]) for turns in (idle, with_jobs)]
    rows = [
        bench.ratio("apply with nothing to do, against the baseline's", idle, "ours", "baseline", 0.15),
        bench.ratio("apply with nothing to do, against facts and one module", idle, "ours", "floor", 2.0),
        bench.ratio("apply of one new commit, against the baseline's", bumped, "ours", "baseline", 0.40),
        bench.row("what a job adds to an apply with nothing to do, in floors", (parts[1] - parts[0]) / len(JOBS), 0.2),
    ]
    bench.tell("apply", rows, seconds={"idle": idle, "bump": bumped, "jobs": with_jobs}, tasks=where)


if __name__ == "__main__":
    bench.run(main)
