# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The oldest and the newest that the collection is used with, as far as they can be had here: versions.py

Each ansible-core gets an environment of its own and applies to a booted host: one that is too old must be refused
before anything is changed, the first of the others rolls out with a canary, and all others have nothing to change.
Each Python that this machine has is a target of a module: too old, it must be told so in one line.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "world")]

import demo  # noqa: E402
import stage  # noqa: E402
from tools.sanity import real_path  # noqa: E402

HOME = ROOT / ".cache" / "versions"
BIN = Path(sys.executable).parent
PATH = real_path()  # a manager's shims hide which Pythons there are
CONTROLLERS = ("2.16", "2.18", "2.19", "2.20", "2.21")
CHANGED = re.compile(r"^loop +: ok=\d+ +changed=(\d+) .* failed=(\d+)", re.MULTILINE)
MODULE = "as215932.engineering_loop.loop_info"


def run(*command: object) -> str:
    """All that a command says."""
    ours = {"PATH": PATH, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(
        [*map(str, command)], cwd=ROOT, env={**os.environ, **ours}, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    return f"{done.stdout}{done.stderr}"


def pythons() -> list[str]:
    """Every CPython from 3.8 on that this machine has."""
    found = json.loads(run(BIN / "uv", "python", "list", "--only-installed", "--output-format=json").splitlines()[0])
    minors = {one["version_parts"]["minor"]: one["path"] for one in found if one["implementation"] == "cpython"}
    return [minors[minor] for minor in sorted(minors) if minor >= 8]


def ansible(version: str) -> Path:
    """The programs of this ansible-core, in an environment of its own."""
    home = HOME / f"ansible-core-{version}"
    if not (home / "bin/ansible-playbook").exists():
        python = "3.11" if version < "2.20" else ">=3.12"
        for words in (
            ["venv", "--clear", "--python", python, home],
            ["pip", "install", "--python", home / "bin/python", f"ansible-core~={version}.0"],
        ):
            command = [str(BIN / "uv"), "--quiet", *map(str, words)]
            subprocess.run(command, env={**os.environ, "PATH": PATH}, check=True)
    return home / "bin"


def targets() -> bool:
    """Whether each Python did what it must as the target of a module."""
    good = True
    for python in pythons():
        said = run(
            BIN / "ansible", "localhost", "-m", MODULE, "-a", "config=/none details=false", "-c", "local",
            "-e", f"ansible_python_interpreter={python}",
        )  # fmt: skip
        version = run(python, "--version").split()[1]
        supported = tuple(map(int, version.split(".")[:2])) >= (3, 11)
        holds = "SUCCESS" in said if supported else f"need Python 3.11 or later on the host, and {python} is" in said
        print(f"{'ok   ' if holds else 'FAULT'} Python {version}: {'works' if supported else 'is refused'}", flush=True)
        good = good and (holds or bool(print(said)))
    return good


def controllers() -> bool:
    """Whether each ansible-core did what it must at a host."""
    demo.HOME = HOME / "world"
    stage.clear(demo.HOME)
    made = stage.up(demo.HOME, "", "", "")
    forge = demo.Forge(made["url"], made["token"])
    good, rolled_out = True, False
    try:
        with demo.throwaway(False, "versions") as host:
            operator = demo.Operator(host, forge, made)
            operator.play(str(demo.WORLD / "install.yml"), "-e", f"loop_world_stage={demo.HOME / 'stage.json'}")
            operator.pin(made["from"])
            for version in CONTROLLERS:
                said = run(
                    ansible(version) / "ansible-playbook", "-i", operator.directory / "inventory.yml",
                    "playbooks/apply.yml", "-e", "engineering_loop_canary_run=true",
                )  # fmt: skip
                recap = CHANGED.search(said)
                changed, failed = (int(recap[1]), int(recap[2])) if recap else (-1, -1)
                if version < "2.19":
                    holds, word = "needs ansible-core 2.19" in said and failed == 1 and changed == 0, "is refused"
                else:
                    holds, word = failed == 0 and (changed > 0) != rolled_out, "applies"
                    rolled_out = True
                print(f"{'ok   ' if holds else 'FAULT'} ansible-core {version}: {word}, changed={changed}", flush=True)
                good = good and (holds or bool(print(said)))
    finally:
        stage.down(demo.HOME)
    return good


if __name__ == "__main__":
    sys.exit(0 if [targets(), controllers()] == [True, True] else 1)
