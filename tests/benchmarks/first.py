# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the first apply on a bare host costs, beside the baseline's: a new host each time.

Debian's packages lie downloaded on every host; the engine's dependencies are fetched from the package index by both.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import bench


def main() -> None:
    with bench.world() as world:
        turns: bench.Turns = {"ours": [], "baseline": []}
        for _run in range(bench.RUNS + 1):  # the first leaves the packages for all others
            for name, words in (("ours", bench.OURS), ("baseline", world.baseline(world.made["from"]))):
                with world.host() as (_host, operator):
                    turns[name].append(bench.took(bench.play(operator, *words, changes=True)))
    turns = {name: times[1:] for name, times in turns.items()}
    what = "first apply on a bare host, against the baseline's"
    bench.tell("first", [bench.ratio(what, turns, "ours", "baseline", 0.60)], seconds=turns)


if __name__ == "__main__":
    bench.run(main)
