# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Change the core in one place, see whether a test of its room fails, put it back, and so on: docs/mutants.md.

Cosmic Ray makes the changes. Its own way to run tests starts a pytest for each, most of whose time is imports; here one
that has imported what is not ours forks for each. What was changed, and how it ended, is in .cache/mutants.json.
"""

from __future__ import annotations

import ast
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from bisect import bisect
from dataclasses import dataclass
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
FILES = 5  # of tests, for one place: those of its own file, and the quickest that come there
SLOW = ("test_killed", "test_disks", "test_composed", "test_deep_trees")
NO_MATTER = re.compile(r"\| None|\| \w+[\[\],)]|^\s*@|maxsize=")  # the | of a type, decorators, how much a cache keeps


@dataclass
class Tests:
    """A file of tests: how long it takes as the code is, and which lines of the core it runs."""

    path: Path
    seconds: float
    lines: dict[str, set[int]]


def measured(path: Path) -> Tests:
    """Run a file of tests with coverage, which also knows what forked processes ran: tests/unit/plugins/forks.py."""
    environment = {**os.environ, "COVERAGE_FILE": str(TOP / f".cache/mutants-{path.stem}")}
    began = time.monotonic()
    command = [str(PYTHON), "-m", "pytest", "--quiet", "--cov", "--cov-report=", str(path)]
    done = subprocess.run(command, cwd=TOP, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{path} fails without any change:\n{done.stdout[-2000:]}")
    seconds = time.monotonic() - began
    report = [str(PYTHON), "-m", "coverage", "json", "--quiet", "-o", "-", f"--include={CORE}/*"]
    told = subprocess.run(report, cwd=TOP, env=environment, capture_output=True, text=True, check=True).stdout
    Path(environment["COVERAGE_FILE"]).unlink()
    lines = {name: set(found["executed_lines"]) for name, found in json.loads(told)["files"].items()}
    return Tests(path, seconds, lines)


def changes(file: Path) -> list[tuple[str, int, int]]:
    """All changes that can be made in a file, each a kind, its how manieth place, and where its statement begins."""
    source = file.read_text()
    tree, text = get_ast(source), source.splitlines()
    begins = sorted({node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)})
    found = []
    for kind in KINDS:
        operator = get_operator(f"core/{kind}")()
        places = [place for node in ast_nodes(tree) for place in operator.mutation_positions(node)]
        for number, ((line, _column), _end) in enumerate(places):
            if not NO_MATTER.search(text[line - 1]):
                found.append((kind, number, begins[bisect(begins, line) - 1]))
    return found


def chosen(all_of_them: list[Tests], file: Path, line: int) -> list[Tests]:
    """The tests that come to a line: its own file's first, then the quickest."""
    name = str(file.relative_to(TOP))
    come = [tests for tests in all_of_them if line in tests.lines.get(name, ())]
    return sorted(come, key=lambda tests: (tests.path.stem != f"test_{file.stem}", tests.seconds))[:FILES]


def run(server: Any, tests: list[Tests]) -> str:
    """Killed, survived or timeout; unreached where no test comes to it."""
    if not tests:
        return "unreached"
    limit = 3 * sum(one.seconds for one in tests) + 10
    server.stdin.write(json.dumps([limit, *(str(one.path) for one in tests)]) + "\n")
    server.stdin.flush()
    return str(json.loads(server.stdout.readline()))


def judged(server: Any, tests: list[Tests], file: Path, kind: str, place: int) -> dict[str, Any]:
    before = file.read_text()
    after = mutate_code(before, get_operator(f"core/{kind}")(), place)
    try:
        file.write_text(after)
        result = run(server, tests)
    finally:
        file.write_text(before)
    lines = zip(before.splitlines(), after.splitlines(), strict=False)
    line, old, new = next((n, *pair) for n, pair in enumerate(lines, 1) if pair[0] != pair[1])
    return {"file": str(file.relative_to(CORE)), "line": line, "kind": kind, "result": result, "old": old, "new": new}


def main(number: int, seed: int, only: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what is changed is put back
    server = subprocess.Popen([PYTHON, HERE / "forked.py"], cwd=TOP, stdin=-1, stdout=-1, text=True)
    told: list[dict[str, Any]] = []
    print("room       possible  made  killed  timeout  survived  unreached", flush=True)
    for room, glob in ROOMS.items():
        files = [path for path in sorted(CORE.glob(glob)) if path.suffix == ".py"]
        files = [path for path in files if not only or any(path.match(one) for one in only)]
        possible = [(path, *change) for path in files for change in changes(path)]
        made = random.Random(f"{seed} {room}").sample(possible, min(number, len(possible)))
        if not made:
            continue
        beside = sorted((TESTS / glob).parent.glob("test_*.py"))
        known = [measured(path) for path in beside if path.stem not in SLOW]
        for path, kind, place, line in made:
            told.append({"room": room, **judged(server, chosen(known, path, line), path, kind, place)})
            (TOP / ".cache/mutants.json").write_text(json.dumps(told, indent=1))
        ends = [one["result"] for one in told if one["room"] == room]
        count = [ends.count(name) for name in ("killed", "timeout", "survived", "unreached")]
        row = f"{room:10}{len(possible):9}{len(made):6}{count[0]:8}{count[1]:9}{count[2]:10}{count[3]:11}"
        print(row, flush=True)
    for one in (one for one in told if one["result"] in ("survived", "unreached")):
        print(f"{one['file']}:{one['line']} {one['kind']}\n  -{one['old'].strip()}\n  +{one['new'].strip()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
