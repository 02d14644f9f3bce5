# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the module ``workspace`` costs where no branch has moved, beside a loop of ``ansible.builtin.git``.

The tasks alone are compared, not the start of Ansible. 64 repositories are of the same forge.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import bench
import demo

TASK = "Have the checkouts at their tips"
PLACE = "/srv/bench"


def ours(forge: str, repos: list[str]) -> dict[str, Any]:
    wanted = {"root": f"{PLACE}/ours-{len(repos)}", "git_url": forge, "repositories": [{"repo": one} for one in repos]}
    return {"as215932.engineering_loop.workspace": wanted}


def usual(forge: str, repos: list[str]) -> dict[str, Any]:
    wanted = {"repo": f"{forge}/{{{{ item }}}}.git", "version": "main"}
    wanted["dest"] = f"{PLACE}/usual/{{{{ item | basename }}}}"
    return {"ansible.builtin.git": wanted, "loop": repos, "become": True, "become_user": "loop"}


def playbook(name: str, task: dict[str, Any]) -> Path:
    path = demo.HOME / f"{name}.yml"
    play = {"hosts": "engineering_loop", "gather_facts": False, "become": True, "tasks": [{"name": TASK, **task}]}
    path.write_text(json.dumps([play]), encoding="utf-8")
    return path


def main() -> None:
    with bench.deployed() as (world, host, operator):
        host.sh(f"install -d -o loop -g loop {PLACE} {PLACE}/usual")
        many = [f"AS215932/bench-{number}" for number in range(64)]
        for repo in many:
            world.door("repos", {"repo": repo, "files": {"README.md": f"{repo}\n"}})
        ways = {
            "ours": playbook("ours", ours(world.forge.url, bench.REPOS)),
            "usual": playbook("usual", usual(world.forge.url, bench.REPOS)),
            "many": playbook("many", ours(world.forge.url, many)),
        }
        turns: bench.Turns = {name: [] for name in ways}
        for _run in range(bench.RUNS + 1):  # the first clones them
            for name, path in ways.items():
                turns[name].append(dict(bench.tasks(operator, str(path)))[TASK])
        for path in ways.values():
            bench.play(operator, str(path))()
        turns = {name: times[1:] for name, times in turns.items()}
    rows = [
        bench.ratio("workspace of 8 repositories, nothing new, against git in a loop", turns, "ours", "usual", 0.15),
        bench.ratio("workspace of 64 repositories, against 8", turns, "many", "ours", 5.0),
    ]
    bench.tell("workspace", rows, seconds=turns)


if __name__ == "__main__":
    bench.run(main)
