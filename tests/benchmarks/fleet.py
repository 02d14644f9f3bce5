# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What four hosts cost beside one: an apply with nothing to do, and the status.

Four booted hosts of one inventory, which are taken all at once (engineering_loop_serial). They share this machine's
processors with Ansible, which hosts elsewhere do not.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import bench
import demo

HOSTS = [f"loop{number}" for number in range(1, 5)]
# As a play is where nobody says more: it logs in and gathers facts.
EMPTY = {"hosts": "engineering_loop", "tasks": []}
MODULE = {"hosts": "engineering_loop", "gather_facts": False, "tasks": [{"ansible.builtin.ping": {}}]}
# Nothing is proven on them, so each of them needs a person: then a status ends so.
NEEDS = 2


class Fleet:
    """Four hosts as demo.Operator has one: what they share is what that one's inventory says."""

    def __init__(self, hosts: list[demo.Host], operator: demo.Operator) -> None:
        self.directory = demo.HOME / "fleet"
        booted = {name: {**host.variables} for name, host in zip(HOSTS, hosts, strict=True)}
        shared: dict[str, Any] = {"ansible_python_interpreter": "/usr/bin/python3", "engineering_loop_serial": "100%"}
        for file in sorted(operator.pins.parent.iterdir()):
            shared.update(yaml.safe_load(file.read_text(encoding="utf-8")))
        self.write("hosts.yml", {"engineering_loop": {"hosts": booted}})
        self.write("group_vars/engineering_loop.yml", shared)
        for number, name in enumerate(HOSTS):
            repos = bench.REPOS[number * 2 : number * 2 + 2]
            canary = {"mode": "docs", "repo": repos[0], "issue": demo.CANARY_ISSUE}
            self.write(f"host_vars/{name}.yml", {"engineering_loop_repos": repos, "engineering_loop_canary": canary})

    def write(self, name: str, content: object) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(content), encoding="utf-8")

    def play(self, playbook: str, *words: str, status: int = 0) -> str:
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(self.directory), playbook, *words]
        done = subprocess.run(
            command, cwd=bench.TOP, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        if done.returncode not in {0, status} or "Traceback" in done.stderr:
            raise demo.DemoError(f"{playbook} ended with {done.returncode}: {(done.stdout + done.stderr)[-1500:]}")
        return done.stdout

    def idle(self, *words: str) -> Callable[[], None]:
        """An apply with nothing to do, on all of them or on some."""

        def work() -> None:
            recap = self.play("playbooks/apply.yml", *words).partition("PLAY RECAP")[2]
            of = 1 if words else len(HOSTS)
            if recap.count(bench.NOTHING) != of:
                raise demo.DemoError(f"there should be nothing to do on {of}:{recap}")

        return work

    def status(self) -> None:
        said = self.play("playbooks/status.yml", status=NEEDS)
        if not all(f"\n {name} " in said.partition("HOST ")[2] for name in HOSTS):
            raise demo.DemoError(f"this is not the status of four hosts: {said[-1500:]}")


def main() -> None:
    with bench.world() as world, contextlib.ExitStack() as stack:
        hosts = [stack.enter_context(demo.throwaway(keep=False, name=f"bench-{name}")) for name in HOSTS]
        operator = demo.Operator(hosts[0], world.forge, world.made)
        operator.pin(world.made["from"])
        fleet = Fleet(hosts, operator)
        fleet.play(*world.install)
        fleet.play("playbooks/apply.yml")
        fleet.write("empty.yml", [EMPTY])
        fleet.write("module.yml", [MODULE])
        turns = bench.in_turn(
            {
                "four": fleet.idle(),
                "one": fleet.idle("-l", HOSTS[1]),
                "status": fleet.status,
                "empty": lambda: fleet.play(str(fleet.directory / "empty.yml")),
                "module": lambda: fleet.play(str(fleet.directory / "module.yml")),
            }
        )
    status = bench.ratio("status of four hosts, against an empty play", turns, "status", "empty", 1.5)
    status["of"] += f"; one module takes {bench.middle(turns['module']):.2f} s"
    rows = [
        bench.ratio("apply with nothing to do on four hosts, against one", turns, "four", "one", 1.5),
        status,
    ]
    bench.tell("fleet", rows, seconds=turns)


if __name__ == "__main__":
    bench.run(main)
