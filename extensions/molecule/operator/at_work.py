# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator does: runs playbooks, types a command on the host, asks it how it fares.

Each script of this scenario is called as SCRIPT STAGE INVENTORY [CHAPTER...], with what tests/world/stage.py wrote.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import requests
import yaml

TOP = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(TOP / "tests/world"))  # for chapters.py
STAGE, INVENTORY = Path(sys.argv[1]), sys.argv[2]
UNIT = "hyrule-engineering-loop"
LOOP = "/usr/local/lib/engineering-loop/loop"
# As from an operator's shell: what molecule sets for its own playbooks is not for these.
SHELL = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "MOLECULE_"))}
SHELL.update(
    ANSIBLE_NOCOLOR="1", PYTHONUNBUFFERED="1", ANSIBLE_COLLECTIONS_PATH=str(TOP / ".collections"),
    ANSIBLE_PIPELINING="1",  # as our ansible.cfg has it
)  # fmt: skip
stage = json.loads(STAGE.read_text(encoding="utf-8"))


def scratch(prefix: str) -> Path:
    """A directory that goes when the script ends: what an operator has in files has tokens in it."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


pins = scratch("operator-") / "pins.yml"
# What stands in the host_vars of a real inventory.
pins.write_text(
    yaml.safe_dump(
        {
            "engineering_loop_version": stage["from"],
            "engineering_loop_repo": stage["engine"],
            "engineering_loop_git_url": stage["url"],
            "engineering_loop_github_api_url": stage["api_url"],
            "engineering_loop_environment": {"GH_TOKEN": stage["token"], "OPENAI_API_KEY": "played"},
            **stage["agent"],
            "engineering_loop_timer_enabled": True,
            "engineering_loop_timer_on_calendar": "yearly",
            "engineering_loop_max_runs_per_day": 50,
        }
    ),
    encoding="utf-8",
)


@functools.cache
def inventory() -> tuple[str, dict[str, Any]]:
    """The one host of the inventory, and what is known of it."""
    program = str(Path(sys.executable).with_name("ansible-inventory"))
    done = subprocess.run([program, "-i", INVENTORY, "--list"], env=SHELL, capture_output=True, text=True, check=True)
    ((name, known),) = json.loads(done.stdout)["_meta"]["hostvars"].items()
    return str(name), dict(known)


def host() -> str:
    """The one host's name."""
    return inventory()[0]


@functools.cache
def login() -> list[str]:
    """How to log in there as root."""
    known = inventory()[1]
    words = ["ssh", *shlex.split(known.get("ansible_ssh_common_args", "")), "-oBatchMode=yes", "-oLogLevel=ERROR"]
    key = known.get("ansible_ssh_private_key_file") or known["ansible_private_key_file"]
    words += ["-p", str(known["ansible_port"]), "-i", str(key)]
    become = [] if known["ansible_user"] == "root" else ["sudo", "-n"]
    return [*words, f"{known['ansible_user']}@{known['ansible_host']}", *become]


def play(playbook: str, *arguments: str) -> tuple[int, str]:
    """Run a playbook by its full name, as it is typed; its exit status, and what it said."""
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    name = f"as215932.engineering_loop.{playbook}"
    given = [] if "engineering_loop_version" in inventory()[1] else ["-e", f"@{pins}"]
    done = subprocess.run(
        [program, "-i", INVENTORY, *given, name, *arguments], cwd="/", env=SHELL,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr and stage["token"] not in done.stdout + done.stderr
    return done.returncode, done.stdout + done.stderr


def apply(*words: str, fails: bool = False) -> str:
    """The playbook apply, which must end well, or fail; what it said, in one line."""
    status, said = play("apply", *words)
    assert (status != 0) == fails, said[-3000:]
    return re.sub(r"\s+", " ", said)


def on_host(script: str) -> tuple[int, str]:
    """A command on the host as root, by the connection that the inventory names; its exit status and what it said."""
    done = subprocess.run([*login(), "bash -s"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode != 255, done.stderr
    return done.returncode, (done.stdout + done.stderr).strip()


def must(script: str) -> str:
    """A command on the host that works; what it said."""
    status, said = on_host(script)
    assert status == 0, f"{script}: {said}"
    return said


def typed(command: str) -> tuple[int, str]:
    """What a status says is to be typed, typed as it stands there, a playbook with the inventory's variables."""
    if "as root: " in command:
        return on_host(command.partition("as root: ")[2])
    words = shlex.split(command)
    assert words[0] == "ansible-playbook" and words[1] == "-i", command
    return play(words[3].removeprefix("as215932.engineering_loop."), *words[4:])


def forge(method: str, path: str, body: Any = None) -> Any:
    """The side door of the local forge."""
    answer = requests.request(method, f"{stage['url']}/_forge/{path}", json=body, timeout=30)
    answer.raise_for_status()
    return answer.json() if answer.content else None


def asked(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """A person at the forge."""
    token = forge("POST", "tokens", {"login": "operator", "role": "admin"})["token"]
    head = {"Authorization": f"Bearer {token}"}
    answer = requests.request(method, f"{stage['api_url']}{path}", json=body, headers=head, timeout=30)
    answer.raise_for_status()
    return answer.json()


def cycle() -> str:
    """Start a cycle, as a person does, and wait for its end."""
    return on_host(f"systemctl start {UNIT}.service")[1]


def widest(text: str) -> int:
    """The length of the longest line, without colours."""
    return max((len(re.sub(r"\x1b\[[\d;]*m", "", line)) for line in text.splitlines()), default=0)
