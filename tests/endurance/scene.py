# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host, the forge and the operator of an endurance run, and everything that was seen of them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import requests
import yaml

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "tests"), str(TOP / "tests" / "world")]
import demo  # noqa: E402
import loophost  # noqa: E402

from endurance.checks import Limit, Pull, Seen  # noqa: E402

PROGRAM = "/usr/local/lib/loop-world/host.py"
SETTINGS_FILE, BUDGET = "/etc/engineering-loop/loop.json", "/opt/engineering-loop/budget.json"
BOT = "hyrule-loop[bot]"
PARTS = (TOP / "tests/endurance/host.py", TOP / "extensions/molecule/cells/leftovers.py")
MIB = 1024.0
# Published cells go by age in the run. All work that is kept has room: what retention lets go is not found again.
KEPT_MIB, RECORDS_MIB, AGENTS_A_DAY = 400, 3, 1000
SETTINGS = {
    "engineering_loop_repos": [demo.CANARY_REPO],
    "engineering_loop_max_runs_per_day": AGENTS_A_DAY,
    "engineering_loop_quarantine_min_age": "60s",
    "engineering_loop_quarantine_max_size": f"{KEPT_MIB}M",
    "engineering_loop_cycles_max_size": f"{RECORDS_MIB}M",
    "engineering_loop_min_free": "100M",
    # The time of the year is changed by months: what is kept must not be too old then.
    "engineering_loop_quarantine_max_age": "3650d",
    "engineering_loop_cycles_max_age": "3650d",
    "engineering_loop_timer_on_calendar": "yearly",
}
LIMITS = {
    "runs KiB": Limit((KEPT_MIB + 24) * MIB, "quarantine_max_size, and what is younger than quarantine_min_age"),
    "cycles KiB": Limit((RECORDS_MIB * 4 + 1) * MIB, "cycles_max_size, counted in blocks of 4 KiB"),
    "files in cycles": Limit(3 * 500, "a record, a log and files each, as many as cycles_max_size has room for"),
    "memory KiB": Limit(64 * MIB, "the bounds of memory"),
    "pristine KiB": Limit(64 * MIB, "one clone, and damaged ones as long as a cell borrows from them"),
    "gate KiB": Limit(64 * MIB, "kept pushes, by the retention of cells"),
    "install KiB": Limit(600 * MIB, "two releases and what is fetched for them"),
    **{f"{name} KiB": Limit(256 * MIB, "that of an idle Debian") for name in ("systemd", "systemd-journal")},
    **{name: Limit(0, "") for name in ("systemd files", "systemd-journal files", "dbus-daemon files")},
    **{name: Limit(0, "") for name in ("units known", "mounts")},
    **{
        f"{demo.UNIT}{name} peak KiB": Limit(size * MIB, "what one cycle takes")
        for name, size in ((".service", 700), ("-watch.service", 120), ("-gate.service", 250))
    },
}
# What an issue has its agent and engine do, and how often one of it comes.
MARK = (
    "pi: run T=$(cat /proc/sys/kernel/random/uuid); mkdir -p docs;"
    " echo sentinel-$T >docs/note-$$.md; echo $T >>$HOME/started"
)
KINDS = {
    "good": (80, ()),
    "for a person": (7, ("engine: needs-triage",)),
    "agent dies": (7, ("pi: kill",)),
    "engine dies": (6, ("engine: crash-at commit",)),
}


class Scene:
    """One loop host of the tests with its world, from the first apply to the table at the end."""

    def __init__(self, name: str, world: Path, seed: int) -> None:
        made = loophost.create(name)
        self.name, self.world, self.chance = name, world, random.Random(seed)
        self.stage = json.loads((world / "stage.json").read_text(encoding="utf-8"))
        self.host = demo.Host(made["ssh"], demo.variables_of(made), sudo=False)
        self.forge = demo.Forge(self.stage["url"], self.stage["token"])
        demo.HOME = world
        self.operator = demo.Operator(self.host, self.forge, self.stage)
        self.mine = self.operator.directory / "host_vars" / "loop" / "30-soak.yml"
        self.seen = Seen(unrecorded=set(), limits=LIMITS)
        self.kinds: dict[int, str] = {}
        self.closed: set[int] = set()
        self.at_work: list[subprocess.Popen[bytes]] = []
        self.outcomes: list[str] = []
        self.notes: list[str] = []
        self.says = ""  # which fault is on
        self.detail = ""
        self.notes_of_oom: list[str] = []
        self.before: set[str] = set()
        self.counted_before: set[str] = set()
        self.token: str = self.stage["token"]

    # --- to begin with

    def set_up(self) -> None:
        """Both engines are installed and proven, so that going from one to the other spends no cycle."""
        self.operator.play(str(demo.WORLD / "install.yml"), "-e", f"loop_world_stage={self.world / 'stage.json'}")
        self.settings(self.stage["from"])
        self.host.sh("apt-get install -qq --no-install-recommends libfaketime tzdata git procps >/dev/null")
        self.host.sh(f"mkdir -p {Path(PROGRAM).parent}")
        for part in PARTS:
            self.write(str(Path(PROGRAM).with_name(part.name)), part.read_text(encoding="utf-8"))
        self.operator.play(*demo.ROLLOUT)
        demo.reset_canary(self.forge)
        self.settings(self.stage["to"])
        self.operator.play(*demo.ROLLOUT)
        demo.label(self.forge, demo.CANARY_ISSUE, on=False)
        self.ask("prepare")
        before = self.ask("look")  # the two canaries are no part of it
        self.before = {one["invocation"] for one in before["records"].values()} | set(before["starts"])
        self.counted_before = {one for runs in before["ledger"].values() for one in runs}

    def settings(self, version: str = "", **more: Any) -> None:
        known: dict[str, Any] = (
            yaml.safe_load(self.mine.read_text(encoding="utf-8")) if self.mine.exists() else SETTINGS
        )
        version = version or known["engineering_loop_version"]
        told: dict[str, str] = {"GH_TOKEN": self.token, "OPENAI_API_KEY": "played"}
        known = {**known, "engineering_loop_version": version, "engineering_loop_environment": told, **more}
        self.mine.touch(mode=0o600)
        self.mine.write_text(yaml.safe_dump(known), encoding="utf-8")

    # --- the host

    def write(self, path: str, text: str) -> None:
        """What is in a file there; its owner and mode stay."""
        subprocess.run([*self.host.command, f"cat >{path}"], input=text, text=True, check=True)

    def ask(self, *words: object) -> Any:
        """The program on the host; what it answers."""
        told = self.host.sh(shlex.join(["/usr/bin/python3", PROGRAM, *map(str, words)]), what=f"host.py {words[0]}")
        return json.loads(told)

    def cycle(self, harm: str = "none", seconds: float = 0.0, meanwhile: Callable[[], object] | None = None) -> bool:
        """One cycle, with harm on the host so long after it began, or ``meanwhile`` here. Whether the harm met it."""
        if meanwhile is None:
            told = self.ask("cycle", self.says or "none", harm, f"{seconds:.2f}")
        else:
            timer = threading.Timer(seconds, self.told_of(meanwhile))
            timer.start()
            told = self.ask("cycle", self.says or "none", harm, f"{seconds:.2f}")
            timer.join()
        self.take(told)
        return bool(told["met"])

    def told_of(self, work: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except (demo.DemoError, requests.RequestException, OSError) as error:
                self.notes.append(f"{self.says}: {error}"[:2000])

        return run

    def take(self, told: dict[str, Any]) -> None:
        """Add what was seen after a cycle."""
        seen = self.seen
        for invocation in [*told["starts"], told.get("invocation", "")]:
            if invocation and invocation not in self.before:
                seen.starts.setdefault(invocation, self.says)
        for name, record in told["records"].items():
            if record["invocation"] not in self.before:
                seen.records[name] = record
                seen.starts.setdefault(record["invocation"], self.says)
        for name, cell in told["cells"].items():
            if cell["invocation"] not in self.before:
                seen.agents[cell["invocation"]] = cell["agents"]
                seen.planted.update(dict.fromkeys(cell["tokens"], name))
        for day, runs in told["ledger"].items():
            seen.ledger[day] = [one for one in runs if one not in self.counted_before]
            seen.most_runs.setdefault(day, AGENTS_A_DAY)
        seen.attempts = {int(number): count for number, count in told["attempts"].items()}
        seen.samples.append(told["sample"])
        if told.get("stuck"):
            seen.stuck.append(told["stuck"])
        if told["alive"]:
            seen.stuck.append(f"{self.says}: still runs: {told['alive']}"[:300])
        ours = [one for one in told["records"].values() if one["invocation"] == told.get("invocation")]
        self.outcomes.append(ours[0]["outcome"] if ours else "no record")
        self.detail = ours[0]["detail"] if ours else ""

    # --- the forge

    def arrange(self, **fault: Any) -> None:
        requests.post(f"{self.forge.url}/_forge/faults", json=fault, timeout=30).raise_for_status()

    def peace_at_the_forge(self) -> None:
        for _turn in range(100):
            with contextlib.suppress(requests.RequestException):
                requests.delete(f"{self.forge.url}/_forge/faults", timeout=30).raise_for_status()
                return
            time.sleep(0.2)

    def approve(self) -> None:
        kind = self.chance.choices(list(KINDS), [weight for weight, _orders in KINDS.values()])[0]
        orders = [MARK, f"pi: sleep {self.chance.uniform(0, 0.6):.2f}", *KINDS[kind][1]]
        body = "\n".join(["Explain.", "", *(f"<!-- {order} -->" for order in orders)])
        number = self.forge.approve(f"Page {len(self.kinds)}", body)
        self.kinds[number] = kind
        self.seen.issues.add(number)

    def offered(self) -> list[int]:
        """The issues that the loop still has to bring to an end."""
        done = {pull.issue for pull in self.pulls()}
        held = {number for number, count in self.seen.attempts.items() if count >= self.seen.most_attempts}
        return sorted(self.seen.issues - done - held - self.closed)

    def pulls(self) -> list[Pull]:
        """By the loop, each of an issue that its branch names."""
        found: list[Pull] = []
        for page in range(1, 100):
            part = self.forge.ask("GET", f"/repos/{demo.CANARY_REPO}/pulls?state=all&per_page=100&page={page}")
            for one in part:
                named = re.search(r"ISSUE_[A-Z_]*_(\d+)/", one["head"]["ref"])
                if named and int(named[1]) in self.seen.issues:
                    found.append(Pull(one["number"], int(named[1]), one["draft"]))
            if len(part) < 100:
                break
        return found

    def tidy(self) -> None:
        """A person closes what is done, so that the list of open issues is not the longest in the world."""
        done = sorted({pull.issue for pull in self.pulls()} - self.closed)
        for number in done[:-10]:
            self.forge.ask("PATCH", f"/repos/{demo.CANARY_REPO}/issues/{number}", state="closed")
            self.closed.add(number)

    # --- the operator

    def background(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A playbook that runs while cycles go on."""
        command = [
            str(Path(sys.executable).with_name("ansible-playbook")),
            "-i", str(self.operator.directory / "inventory.yml"), *arguments,
        ]  # fmt: skip
        log = (self.world / f"background-{len(self.outcomes):03}.log").open("wb")
        with log:
            process = subprocess.Popen(
                command, cwd=TOP, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.at_work.append(process)
        return process

    def until_done(self, process: subprocess.Popen[bytes], what: str, most: int = 40) -> None:
        """Cycles go on until it has ended, which it must do well."""
        for _cycle in range(most):
            if process.poll() is not None:
                break
            self.approve_enough()
            self.cycle()
        if process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(120)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            self.notes.append(f"{what} ended with {process.returncode}, see background logs")

    def approve_enough(self) -> None:
        while len(self.offered()) < 2:
            self.approve()

    # --- at the end

    @contextlib.contextmanager
    def fault(self, name: str) -> Iterator[None]:
        self.says = name
        try:
            yield
        finally:
            self.says = ""

    def gather(self) -> None:
        """What the end is judged by."""
        self.seen.pulls = self.pulls()
        published = self.world / "forge/git" / f"{demo.CANARY_REPO}.git"
        refs = run_git(published, "for-each-ref", "--format=%(refname)", "refs/heads/hyrule-feature").split()
        for at in range(0, len(refs), 50):
            said = run_git(published, "grep", "-hoE", "sentinel-[0-9a-f-]{36}", *refs[at : at + 50], "--", "docs")
            self.seen.found.update(said.split())
        self.seen.found.update(self.ask("tokens"))


def run_git(where: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(where), *words], capture_output=True, text=True, check=False).stdout
