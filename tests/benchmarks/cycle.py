# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a cycle adds to the engine: eight repositories, no issue, nothing to heal.

Two units of one host take turns, ours and the baseline's, which starts the engine and nothing else: host/cycle.py.
Ours is as the timer starts it, without the word that a cycle started by hand asks the agent for.
The engine's own start is ``daemon --help``.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import bench
import demo


def main() -> None:
    with bench.world() as world, world.host() as (host, operator):
        operator.pins.with_name("30-probe.yml").write_text("engineering_loop_agent_probe: false\n", encoding="utf-8")
        operator.play(*bench.OURS)
        operator.play(*world.baseline(world.made["from"]))
        demo.label(world.forge, demo.CANARY_ISSUE, on=False)
        told = bench.on_host(host, "cycle.py", str(bench.RUNS))
    turns: bench.Turns = told["seconds"]
    ours, engine, start = (bench.middle(turns[name]) for name in ("ours", "engine", "start"))
    rows = [
        bench.row("what a cycle adds to the engine", ours - engine, 0.8, "s", f"{ours:.2f} s against {engine:.2f} s"),
        bench.row("... in starts of the engine", (ours - engine) / start, 0.5, of=f"one takes {start:.2f} s"),
    ]
    bench.tell("cycle", rows, seconds=turns, phases=told["phases"])


if __name__ == "__main__":
    bench.run(main)
