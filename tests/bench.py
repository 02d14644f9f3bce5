# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the benchmarks on a booted host have in common: the host, where a result goes, and how they fail."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOP / "tests"), str(TOP / "tests" / "world")]
import demo  # noqa: E402
import loophost  # noqa: E402
import stage  # noqa: E402


@contextlib.contextmanager
def deployed() -> Iterator[tuple[demo.Host, demo.Operator]]:
    """A throwaway host on which the reference engine was applied once, and its operator."""
    with tempfile.TemporaryDirectory() as scratch:
        demo.HOME = Path(scratch)
        made = stage.up(demo.HOME)
        try:
            with demo.throwaway(keep=False, name="bench") as host:
                operator = demo.Operator(host, demo.Forge(made["url"], made["token"]), made)
                operator.play(str(demo.WORLD / "install.yml"), "-e", f"loop_world_stage={demo.HOME / 'stage.json'}")
                operator.pin(made["from"])
                operator.play("playbooks/apply.yml", "-l", "loop")
                yield host, operator
        finally:
            stage.down(demo.HOME)


def tell(name: str, result: dict[str, Any]) -> None:
    """Print the result, with the machine's load, and leave it in .cache/bench."""
    result["load"] = round(os.getloadavg()[0], 2)
    target = TOP / ".cache" / "bench" / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


def run(main: Callable[[], int]) -> None:
    """The program: ``main``, or one line where there is no host to be had."""
    try:
        sys.exit(main())
    except (loophost.HostError, stage.StageError, demo.DemoError) as problem:
        sys.exit(f"bench: {problem}")
