# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run checks by name, every one of them even where one fails, and end with how many passed.

    check.py lint sanity unit molecule                       what make test runs: LONG=1 has all of it at full length
    T=tests/unit/plugins/module_utils/proof check.py unit    these tests alone
    S="default cells" check.py molecule                      these scenarios alone
    check.py --scenarios                                     their names, for a workflow that runs each in a job
    check.py quick                                           what most changes need, in a minute

A check is one command. Where it leaves a JUnit report, every test in it counts; else the command is one test.
What takes minutes, such as sanity and molecule's scenarios, runs three at a time, each scenario with a directory and
hosts of its own: what one says is shown when it ends, and until then in its log below .cache.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"
BIN = Path(sys.executable).parent
COLLECTION = "ansible_collections.as215932.engineering_loop"
SANITY_REPORTS = "sanity/ansible_collections/as215932/engineering_loop/tests/output/junit/*.xml"

# The short form: what a crash, a wrong line, an unproven version and an agent that means ill can do to a host. The
# longest first; those that wait more than they work beside those that do not.
SHORT = ("cells", "rollout", "agent", "canary", "faults", "cycle", "takeover", "soak", "default")
SCENARIOS = (
    "soak", "agent", "migration", "faults", "operator", "canary", "rollout", "cells", "fleet", "cycle", "jobs", "held",
    "secrets", "habits", "default", "takeover", "agents", "example", "egress", "worktrees",
)  # fmt: skip
# Test hosts have this machine's network. What has one address there is one at a time, in other checkouts as well: the
# proxy of a cycle with named hosts, and the receiver of notices.
ADDRESSES = {"molecule agent": "proxy", "molecule egress": "proxy", "molecule operator": "receiver"}
AT_ONCE = 3
COVERED = 95  # percent of the lines and branches of plugins/module_utils
INTERRUPTS: list[int] = []


class Check(NamedTuple):
    """One command, and where it leaves its JUnit reports (a pattern below .cache)."""

    name: str
    command: list[str]
    reports: str = ""
    aside: str = ""  # it runs beside others, and this directory below .cache is its own


def files_in(folder: str, pattern: str) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in sorted((ROOT / folder).glob(pattern))]


def python_files(*folders: str) -> list[str]:
    """The test programs that mypy reads as such: plugins are read by the collection's name."""
    return [name for folder in folders for name in files_in(folder, "*.py")]


def yaml_places() -> list[str]:
    """Everything that is tracked at the top: what test hosts leave in .cache may be deeper than yamllint can walk."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tops = {name.split("/")[0] for name in listed.splitlines()}
    return sorted(top for top in tops if top.endswith((".yml", ".yaml")) or (ROOT / top).is_dir())


def scenario(name: str) -> Check:
    return Check(f"molecule {name}", ["molecule", "test", "--scenario-name", name], aside=f"molecule/{name}")


def scenarios() -> list[Check]:
    """All of them, or those of the short form, or those that S names."""
    wanted = os.environ.get("S", "").split() or (SCENARIOS if os.environ.get("LONG") else SHORT)
    unknown = sorted({*wanted} - {*SCENARIOS})
    if unknown:
        sys.exit(f"S names {', '.join(unknown)}, which is no scenario; it can name {', '.join(sorted(SCENARIOS))}")
    return [scenario(name) for name in wanted]


def pytest(where: Sequence[str], *more: str) -> Check:
    return Check("pytest", ["pytest", "--quiet", "--numprocesses=2", *more, *where], "unit.xml")


def unit() -> list[Check]:
    """All tests with coverage, which must not fall, or those that T names without it."""
    report = f"--junitxml={CACHE}/unit.xml"
    if wanted := os.environ.get("T", "").split():
        return [pytest(wanted, report)]
    core = ["--include=plugins/module_utils/*", f"--fail-under={COVERED}", "--format=total"]
    return [
        pytest(["tests/unit"], "--cov", "--cov-report=term-missing", report),
        Check(f"{COVERED} % of the core's lines and branches are covered", ["coverage", "report", *core]),
    ]


def changed() -> list[str]:
    """Files that differ from the last commit, new ones as well; where none does, what that commit changed."""
    asks = (["status", "--porcelain", "--untracked-files=all"], ["show", "--name-only", "--format=", "HEAD"])
    for ask in asks:
        lines = subprocess.run(["git", *ask], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
        if lines:
            return [line[3:].rpartition(" -> ")[2] if ask[0] == "status" else line for line in lines]
    return []


def nearest() -> list[str]:
    """The tests of what was changed: those themselves, and of a file of the plugins those that are called like it."""
    found = set()
    for name in map(Path, changed()):
        is_test = name.name.startswith("test_") and name.is_relative_to("tests/unit")
        found.add(name if is_test else Path("tests/unit") / name.parent / f"test_{name.name}")
    there = sorted(str(path) for path in found if (ROOT / path).is_file())
    return there or ["tests/unit/plugins/module_utils/base"]


def quick() -> list[Check]:
    return [
        *(check for check in CHECKS["lint"] if check.name in QUICK),
        pytest(nearest(), f"--junitxml={CACHE}/unit.xml"),
    ]


# Of the linters those that take seconds.
QUICK = ("ruff", "mypy of the collection", "arrows between the rooms", "hygiene of tracked files")
CHECKS = {
    "lint": [
        Check("ruff", ["ruff", "check", "--quiet", "--output-format=concise", "."]),
        Check("mypy of the collection", ["mypy", "-p", f"{COLLECTION}.plugins"]),
        Check(
            "mypy of the test tools",
            [
                "mypy",
                *python_files(
                    *("tests", "tests/world", "tests/tools", "tests/importer", "tests/mutants", "tests/benchmarks"),
                    "tests/endurance",
                ),
            ],
        ),
        Check("arrows between the rooms", ["env", "PYTHONPATH=.collections", "lint-imports", "--no-cache"]),
        Check("yamllint", ["yamllint", "--strict", *yaml_places()]),
        Check("ansible-lint", ["ansible-lint", "--nocolor", "-q"], aside="ansible-lint"),
        Check("shellcheck", ["shellcheck", ".ci/run", "tests/tools/setup"]),
        Check("workflows", ["zizmor", "--offline", "--quiet", "--no-progress", ".github"]),
        Check(
            "workflows, by schema",
            ["check-jsonschema", "--builtin-schema=vendor.github-workflows", *files_in(".github/workflows", "*.yml")],
        ),
        Check("README of the role", ["python", "tests/tools/reference.py", "--check"]),
        Check(
            "documentation of the plugins",
            ["antsibull-docs", "lint-collection-docs", "--plugin-docs", "--skip-rstcheck", "."],
            aside="documentation",
        ),
        Check("every error says what to do", ["python", "tests/tools/messages.py", "--check"]),
        Check("alert rules", ["python", "tests/tools/promtool.py"], aside="promtool"),
        Check("changelog fragments", ["antsibull-changelog", "lint"], aside="changelog"),
        Check("hygiene of tracked files", ["python", "tests/tools/hygiene.py"]),
    ],
    "sanity": [Check("ansible-test sanity", ["python", "tests/tools/sanity.py"], SANITY_REPORTS, "sanity")],
    "hosts": [scenario("hosts")],
}


def environment() -> dict[str, str]:
    """What every check sees: our tools first on PATH, and this checkout as the collection."""
    return {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "VIRTUAL_ENV": str(BIN.parent),
        "MYPYPATH": ".collections:tests:tests/world:extensions/molecule/cells",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(CACHE / "hypothesis"),
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
    }


def counted(reports: list[Path]) -> tuple[int, int]:
    """How many tests passed and failed in JUnit reports. What did not run is neither."""
    passed = failed = 0
    for report in reports:
        for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - written by our own run, just now
            bad = case.find("failure") is not None or case.find("error") is not None
            failed += bad
            passed += not bad and case.find("skipped") is None
    return passed, failed


def run(check: Check) -> tuple[int, int]:
    """Run one check with its output where ours goes; its counts."""
    print(f"\n== {check.name}", flush=True)
    return timed(check, lambda: subprocess.run(check.command, cwd=ROOT, env=environment(), check=False).returncode)


def timed(check: Check, work: Callable[[], int], said: Callable[[], str] = str) -> tuple[int, int]:
    """The counts of a check, whose exit status ``work`` gives, and a line that says so after what it ``said``."""
    for stale in CACHE.glob(check.reports) if check.reports else ():
        stale.unlink()
    started = time.monotonic()
    code = work()
    passed, failed = counted(list(CACHE.glob(check.reports))) if check.reports else (int(code == 0), 0)
    if code and not failed:
        failed = 1  # it ended badly without saying which test did
    verdict = "failed" if failed else "passed"
    print(f"{said()}== {check.name}: {verdict} after {time.monotonic() - started:.1f} s", flush=True)
    return passed, failed


def log_of(check: Check) -> Path:
    """Where a check that runs aside writes what it says."""
    return (CACHE / check.aside).with_suffix(".log")


def why_each(check: Check) -> list[str]:
    """The first failed tests of a check's reports: a line with the name, then all that was said."""
    return [
        f"{case.get('classname')}::{case.get('name')}\n{problem.text}"
        for report in (CACHE.glob(check.reports) if check.reports else ())
        for case in ElementTree.parse(report).iter("testcase")  # noqa: S314 - written by our own run, just now
        for problem in (*case.iter("failure"), *case.iter("error"))
    ][:5]


def why(check: Check) -> str:
    """What a failed check said first of its failure: it stands far above, and a reader may have the end alone."""
    if not check.aside:
        return "\n".join(text[-3000:] for text in why_each(check))
    lines = log_of(check).read_text(encoding="utf-8", errors="replace").splitlines()
    first = next((n for n, line in enumerate(lines) if re.search(r"fatal: |FAILED|ERROR|Traceback", line)), len(lines))
    return "\n".join(line[:600] for line in lines[max(0, first - 20) : first + 60])


def in_short(check: Check) -> str:
    """Which test it was and the last words of it, a few lines: for who has no more than the end of what we printed."""
    if not check.aside:
        return "\n".join(f"  {text.splitlines()[0]}: {words_of(text)}" for text in why_each(check)) or "  no report"
    text = log_of(check).read_text(encoding="utf-8", errors="replace")
    plain = re.sub(r"\x1b\[[0-9;]*m|\\u001b\[[0-9;]*m", "", text)
    plain = re.sub(r"\s*\u2502\s*\n\s*\u2502\s*", " ", plain)  # molecule draws a box around what Ansible says
    before, _fatal, after = plain.partition("fatal: ")
    task = (re.findall(r"TASK \[(.*?)\]", before) or ["?"])[-1]
    return f"  task {task}: {words_of(after or plain[-3000:])}"


def words_of(text: str) -> str:
    """The message of the last exception in a text, else its beginning."""
    raised = re.findall(r"(?:\w+\.)*(?:Wrong|Failed|\w*Error|\w*Exception): .{0,1500}", text)
    return " ".join((raised or [text[:500]])[-1].split())


@contextlib.contextmanager
def alone(check: Check) -> Iterator[None]:
    """Wait until no other check on this machine has the address that this one needs."""
    if check.name not in ADDRESSES:
        yield
        return
    with (Path(tempfile.gettempdir()) / f"engineering-loop-tests.{ADDRESSES[check.name]}").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run_aside(check: Check) -> tuple[int, int]:
    """Run a check while others may run; show all that it said when it ends."""
    if INTERRUPTS:
        return 0, 0
    # Molecule's own choice is the same directory for every checkout on this machine.
    home = CACHE / check.aside
    log = log_of(check)
    home.mkdir(parents=True, exist_ok=True)
    molecule = check.command[0] == "molecule"
    told = environment() | {"MOLECULE_EPHEMERAL_DIRECTORY": str(home)}
    where: Any = {"cwd": ROOT / "extensions" if molecule else ROOT, "env": told, "stdin": subprocess.DEVNULL}
    print(f"\n== {check.name}: started, see {log.relative_to(ROOT)}", flush=True)

    def work() -> int:
        with alone(check), log.open("wb") as output:
            streams: Any = {"stdout": output, "stderr": subprocess.STDOUT, **where}
            code = subprocess.run(check.command, check=False, **streams).returncode
            if INTERRUPTS and molecule:  # it leaves its hosts up then
                destroy = ["molecule", "destroy", "--scenario-name", home.name]
                subprocess.run(destroy, check=False, start_new_session=True, **streams)
        return code

    return timed(check, work, lambda: f"\n== {check.name}\n{log.read_text(encoding='utf-8', errors='replace')}\n")


def main(names: list[str]) -> int:
    if names == ["--scenarios"]:
        print(f"names={json.dumps(sorted(SCENARIOS))}")
        return 0
    # On ctrl-C the running checks get the signal as well and must be left the time to clean up; then no other starts.
    signal.signal(signal.SIGINT, lambda number, frame: INTERRUPTS.append(number))
    results: dict[str, tuple[int, int]] = {}
    chosen = {"unit": unit, "molecule": scenarios, "quick": quick}
    wanted = [check for name in names for check in (chosen[name]() if name in chosen else CHECKS[name])]
    for check in [check for check in wanted if not check.aside]:
        results[check.name] = run(check)
        if INTERRUPTS:
            return 130
    aside = [check for check in wanted if check.aside]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results |= zip([check.name for check in aside], pool.map(run_aside, aside), strict=True)
    if INTERRUPTS:
        return 130
    broken = [name for name, result in results.items() if result[1]]
    for check in wanted:
        if check.name in broken:
            print(f"\n== {check.name} failed:\n{why(check)}")
    print(f"\nfailed: {', '.join(broken)}" if broken else "")
    for check in wanted:
        if check.name in broken:
            print(f"{check.name}:\n{in_short(check)}")
    passed, failed = map(sum, zip(*results.values(), strict=True))
    print(f"{passed} passed, {failed} failed")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
