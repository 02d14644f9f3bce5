# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the benchmarks have in common: hosts, the baseline beside us on them, how a play is timed, where a result goes.

Times are compared within one run alone: what is compared takes turns, so that the machine's load is in both. A figure
is the median of ``RUNS`` turns; one turn before them warms up and does not count.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import platform
import re
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOP / "tests"), str(TOP / "tests" / "world")]
import demo  # noqa: E402
import loophost  # noqa: E402
import requests  # noqa: E402
import stage  # noqa: E402

RUNS = int(os.environ.get("BENCH_RUNS") or 5)
HERE = TOP / "tests" / "benchmarks"
BASELINE = HERE / "baseline" / "apply.yml"
NOTHING = "changed=0"
Turns = dict[str, list[float]]


# --- the world and its hosts ------------------------------------------------------------------


class Bench:
    """A world with one forge, and the hosts of one benchmark on it."""

    def __init__(self, made: dict[str, Any]) -> None:
        self.made, self.forge = made, demo.Forge(made["url"], made["token"])

    @contextlib.contextmanager
    def host(self) -> Iterator[tuple[demo.Host, demo.Operator]]:
        """A bare host in this world, and its operator, whose inventory names the engine's first version."""
        with demo.throwaway(keep=False, name="bench") as host:
            operator = demo.Operator(host, self.forge, self.made)
            operator.play(*self.install)
            operator.pin(self.made["from"])
            yield host, operator

    @property
    def install(self) -> tuple[str, ...]:
        """The played agent, which both have, and a gh for the baseline; ours asks the gateway."""
        more = {"loop_world_stage": str(demo.HOME / "stage.json"), "loop_world_programs": ["pi", "gh"]}
        return (str(demo.WORLD / "install.yml"), "-e", json.dumps(more))

    def baseline(self, version: str) -> tuple[str, ...]:
        """The words that apply the baseline with what the operator's inventory says: same forge, engine, secrets."""
        given = {
            "loop_baseline_repo": self.made["engine"],
            "loop_baseline_version": version,
            "loop_baseline_git_url": self.made["url"],
            "loop_baseline_repos": REPOS,
            "loop_baseline_environment": {"GH_TOKEN": self.made["token"], "OPENAI_API_KEY": "played"},
            "loop_baseline_timer_on_calendar": "yearly",
        }
        return (str(BASELINE), "-l", "loop", "-e", json.dumps(given))

    def commit(self, number: int) -> str:
        """The engine's next commit: a page of its documentation, no dependency."""
        page = f"Page {number}\n"
        return str(self.door("commits", {"repo": stage.ENGINE_REPO, "files": {"docs/bench.md": page}})["sha"])

    def door(self, path: str, body: dict[str, Any]) -> Any:
        answer = requests.post(f"{self.forge.url}/_forge/{path}", json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()


REPOS = [
    f"AS215932/{name}"
    for name in ("engineering-loop", "network-operations", "hyrule-cloud", "hyrule-web", "hyrule-mcp", "noc-agent")
] + ["AS215932/hyrule-network-proxy", "AS215932/as215932.net"]
OURS = ("playbooks/apply.yml", "-l", "loop")


@contextlib.contextmanager
def world() -> Iterator[Bench]:
    """A forge with the reference engine, or with that of ENGINE, FROM and TO."""
    with tempfile.TemporaryDirectory() as scratch:
        demo.HOME = Path(scratch)
        made = stage.up(demo.HOME, *(os.environ.get(name, "") for name in ("ENGINE", "FROM", "TO")))
        try:
            yield Bench(made)
        finally:
            stage.down(demo.HOME)


@contextlib.contextmanager
def deployed() -> Iterator[tuple[Bench, demo.Host, demo.Operator]]:
    """A host on which the engine was applied once."""
    with world() as bench, bench.host() as (host, operator):
        operator.play(*OURS)
        yield bench, host, operator


def on_host(host: demo.Host, program: str, *words: str) -> Any:
    """Run a program of host/ there, as root; the JSON of its last line."""
    place = bring(host, program)
    return json.loads(host.sh(shlex.join(["python3", place, *words]), what=program).splitlines()[-1])


def bring(host: demo.Host, program: str) -> str:
    """Where a program of host/ is on the host, when it is there."""
    content, place = base64.b64encode((HERE / "host" / program).read_bytes()).decode(), f"/opt/bench-{program}"
    host.sh(f"echo {content} | base64 -d > {place} && chmod 755 {place}")
    return place


# --- timing -----------------------------------------------------------------------------------


def took(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def play(operator: demo.Operator, *words: str, changes: bool = False) -> Callable[[], None]:
    """A play to be timed. Where there should be nothing to do, one that did something is no measurement."""

    def work() -> None:
        recap = operator.play(*words)
        if not changes and NOTHING not in recap:
            raise demo.DemoError(f"{words[0]} should have nothing to do, and says {recap}")

    return work


def tasks(operator: demo.Operator, *words: str) -> list[tuple[str, float]]:
    """What a play's time goes to: its tasks in order, each with its seconds."""
    clock = demo.HOME / "clock.json"
    told = {"ANSIBLE_CALLBACK_PLUGINS": str(HERE / "callbacks"), "ANSIBLE_CALLBACKS_ENABLED": "clock"}
    told["BENCH_CLOCK"] = str(clock)
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        operator.play(*words)
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    return list(map(tuple, json.loads(clock.read_text(encoding="utf-8"))))


def in_turn(works: Mapping[str, Callable[[], object]], runs: int = 0) -> Turns:
    """The seconds of each work, one after the other, ``RUNS`` times; the first time does not count."""
    turns: Turns = {name: [] for name in works}
    for _run in range((runs or RUNS) + 1):
        for name, work in works.items():
            turns[name].append(took(work))
    return {name: times[1:] for name, times in turns.items()}


def middle(times: Sequence[float]) -> float:
    return statistics.median(times)


# --- results ----------------------------------------------------------------------------------


def row(what: str, measured: float, most: float, unit: str = "x", of: str = "") -> dict[str, Any]:
    """One line of the table: a figure, the most that it may be, and what it was made of."""
    return {"what": what, "measured": round(measured, 3), "most": most, "unit": unit, "of": of}


def ratio(what: str, turns: Turns, ours: str, other: str, most: float) -> dict[str, Any]:
    """The row that compares the medians of two that took turns."""
    one, two = middle(turns[ours]), middle(turns[other])
    return row(what, one / two, most, of=f"{one:.2f} s against {two:.2f} s")


def tell(name: str, rows: list[dict[str, Any]], **more: Any) -> None:
    """Leave a result in .cache/bench, with the load of the machine and when that was."""
    result = {
        "rows": rows,
        **more,
        "runs": RUNS,
        "load": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine(),
    }
    target = TOP / ".cache" / "bench" / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def machine() -> str:
    """What the figures depend on."""
    models = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    linux, ansible = ".".join(platform.release().split(".")[:2]), metadata.version("ansible-core")
    processors = f"{os.cpu_count()} processors ({models[0] if models else platform.machine()}), {memory:.0f} GiB"
    return f"{processors}, Linux {linux}, Python {platform.python_version()}, ansible-core {ansible}"


def run(main: Callable[[], None]) -> None:
    """The program: ``main``, or one line where something could not be measured."""
    try:
        main()
    except (loophost.HostError, stage.StageError, demo.DemoError, requests.RequestException) as problem:
        sys.exit(f"bench: {problem}")
