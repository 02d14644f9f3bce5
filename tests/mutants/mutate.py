# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Change the core in one place, see whether a test of its room fails, put it back, and so on: docs/mutants.md.

Cosmic Ray makes the changes. Its own way to run tests starts a pytest for each, most of whose time is imports; here one
that has imported what is not ours forks for each. What was changed, and how it ended, is in .cache/mutants.json.
"""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]
CORE = TOP / "plugins/module_utils"
TESTS = TOP / "tests/unit/plugins/module_utils"
PYTHON = TOP / ".cache/venv/bin/python"
ROOMS = {"policy": "policy/*", "gateway": "gateway/*", "receipts": "proof/receipts.py", "worktrees": "worktrees/*"}
# One change of each kind: what else Cosmic Ray knows, such as // in the place of |, fails wherever it is run at all.
KINDS = [
    *("AddNot", "ReplaceUnaryOperator_Delete_Not", "ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceTrueWithFalse"),
    *("ReplaceFalseWithTrue", "ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ZeroIterationForLoop"),
    *("ExceptionReplacer", "NumberReplacer", "ReplaceUnaryOperator_Delete_USub"),
    *(f"ReplaceBinaryOperator_{one}" for one in ("Add_Sub", "Sub_Add", "Mul_Add", "BitAnd_BitOr", "BitOr_BitAnd")),
    *(f"ReplaceComparisonOperator_{one}" for one in ("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is")),
    *(f"ReplaceComparisonOperator_{one}" for one in ("Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt")),
]
SECONDS = 300  # for tests of code as it is; of changed code thrice what they took then, and ten more
FILES = 4  # of tests, for one file of the core: its own, and the first that speak of it
SLOW = ("test_killed", "test_disks", "test_composed", "test_deep_trees", "test_hostile_packs")
ELSEWHERE = {"asking": "test_requests"}  # tests that do not name what they test
NO_MATTER = re.compile(r"\| None|\| \w+[\[\],)]|^\s*@|maxsize=")  # the | of a type, decorators, how much a cache keeps


def changes(file: Path) -> list[tuple[str, int]]:
    """All changes that can be made in a file, each a kind and its how manieth place."""
    tree, text = get_ast(file.read_text()), file.read_text().splitlines()
    found = []
    for kind in KINDS:
        operator = get_operator(f"core/{kind}")()
        places = [place for node in ast_nodes(tree) for place in operator.mutation_positions(node)]
        found += [(kind, n) for n, place in enumerate(places) if not NO_MATTER.search(text[place[0][0] - 1])]
    return found


def tests(file: Path) -> list[str]:
    """The tests of its room that speak of it, its own first."""
    room = TESTS / file.parent.name
    own = room / f"{ELSEWHERE.get(file.stem, 'test_' + file.stem)}.py"
    others = [path for path in sorted(room.glob("test_*.py")) if re.search(rf"\b{file.stem}\b", path.read_text())]
    found = [own] * own.exists() + [path for path in others if path != own and path.stem not in SLOW]
    return [str(path) for path in found[:FILES]]


def run(server: Any, files: list[str], seconds: float = SECONDS) -> str:
    """Killed, survived or timeout."""
    server.stdin.write(json.dumps([seconds, *files]) + "\n")
    server.stdin.flush()
    return str(json.loads(server.stdout.readline()))


def seconds(server: Any, file: Path) -> float:
    """How long its tests may take. They pass without a change, or nothing can be said."""
    begun = time.monotonic()
    if run(server, tests(file)) != "survived":
        sys.exit(f"the tests of {file} fail without any change: {' '.join(tests(file))}")
    return 3 * (time.monotonic() - begun) + 10


def judged(server: Any, limit: float, file: Path, kind: str, place: int) -> dict[str, Any]:
    before = file.read_text()
    after = mutate_code(before, get_operator(f"core/{kind}")(), place)
    try:
        file.write_text(after)
        result = run(server, tests(file), limit)
    finally:
        file.write_text(before)
    lines = zip(before.splitlines(), after.splitlines(), strict=False)
    line, old, new = next((n, *pair) for n, pair in enumerate(lines, 1) if pair[0] != pair[1])
    return {"file": str(file.relative_to(CORE)), "line": line, "kind": kind, "result": result, "old": old, "new": new}


def main(number: int, seed: int, only: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what is changed is put back
    server = subprocess.Popen([PYTHON, HERE / "forked.py"], cwd=TOP, stdin=-1, stdout=-1, text=True)
    told: list[dict[str, Any]] = []
    print("room       possible  made  killed  timeout  survived", flush=True)
    for room, glob in ROOMS.items():
        files = [path for path in sorted(CORE.glob(glob)) if path.suffix == ".py" and tests(path)]
        files = [path for path in files if not only or any(path.match(one) for one in only)]
        possible = [(path, *change) for path in files for change in changes(path)]
        made = random.Random(f"{seed} {room}").sample(possible, min(number, len(possible)))
        if not made:
            continue
        limits = {path: seconds(server, path) for path in dict.fromkeys(path for path, _kind, _place in made)}
        for path, kind, place in made:
            told.append({"room": room, **judged(server, limits[path], path, kind, place)})
            (TOP / ".cache/mutants.json").write_text(json.dumps(told, indent=1))
        ends = [one["result"] for one in told if one["room"] == room]
        count = [ends.count(name) for name in ("killed", "timeout", "survived")]
        print(f"{room:10}{len(possible):9}{len(made):6}{count[0]:8}{count[1]:9}{count[2]:10}", flush=True)
    for one in (one for one in told if one["result"] == "survived"):
        print(f"{one['file']}:{one['line']} {one['kind']}\n  -{one['old'].strip()}\n  +{one['new'].strip()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
