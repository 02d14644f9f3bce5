# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Other agents, on one booted host with the local forge: story.py STAGE INVENTORY [CHAPTER...]."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "operator"))
from at_work import TOP, asked, cycle, forge, must, pins, play, stage
from chapters import tell

STATE, REPO = "/var/lib/engineering-loop", "AS215932/network-operations"
PROGRAMS = {"claude-code": "claude", "codex": "codex", "opencode": "opencode", "aider": "aider"}
KEYS = {"ANTHROPIC_API_KEY": "a-played-key", "OPENAI_API_KEY": "o-played-key", "OPENROUTER_API_KEY": "r-played-key"}


def example(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((TOP / f"examples/agents/{name}.yml").read_text(encoding="utf-8"))
    return found


def deploy(name: str, **more: Any) -> None:
    """As the example has it, with the played program in the place of the real one, and the host's network."""
    wanted = {key: value for key, value in example(name).items() if key != "engineering_loop_egress"}
    files = [{**one, "src": one["src"].replace("/etc/engineering-loop/", "/etc/agents/")}
             for one in wanted.get("engineering_loop_home_files", [])]  # fmt: skip
    environment = {
        "GH_TOKEN": stage["token"], "HYRULE_MODEL_POLICY_FILE": f"/etc/model-policies/{name}.yml",
        "ENGINEERING_LOOP_NOC_LHP_SECRET": "a-shared-secret", **KEYS,
    }  # fmt: skip
    given = {
        **wanted, "engineering_loop_agent": {"path": f"/usr/local/bin/{PROGRAMS[name]}"},
        "engineering_loop_home_files": files, "engineering_loop_environment": environment,
        "engineering_loop_timer_enabled": False, **more,
    }  # fmt: skip
    pins.write_text(yaml.safe_dump({**yaml.safe_load(pins.read_text(encoding="utf-8")), **given}), encoding="utf-8")
    status, said = play("apply")
    assert status == 0, said[-3000:]


def work(title: str) -> dict[str, Any]:
    """One issue, one cycle; its record."""
    forge("POST", "issues", {"repo": REPO, "title": title, "body": "Explain it.", "labels": ["loop:approved"]})
    cycle()
    found: dict[str, Any] = json.loads(must(f"cat $(ls {STATE}/cycles/*.json | tail -1)"))
    return found


def published(name: str) -> None:
    """It works as it is used to, in a home of its own, and nothing of it stays."""
    deploy(name)
    seen = work(f"A page by {name}")
    program = PROGRAMS[name]
    assert (seen["outcome"], seen["programs"]) == ("published", [program]), seen
    saw = json.loads(must(f"cat {seen['cell']}/home/saw.json"))
    own = example(name).get("engineering_loop_agent_environment", {})
    assert {*own} <= {*saw["environment"]} and "PATH" in saw["environment"], saw
    assert not [one for one in saw["environment"] if re.match("ENGINEERING_LOOP|HYRULE|GH_", one)], saw
    homed = [one["dest"] for one in example(name).get("engineering_loop_home_files", [])]
    assert sorted(saw["home"]) == sorted(homed), "its home is fresh, but for what the inventory names"
    assert must("pgrep -u loop -c . ; true") == "0"
    assert must(f"ls -A /home /tmp {STATE} | grep -c -e '[.]{program}' -e aider ; true") == "0"


def claude() -> None:
    """Claude Code works as it is used to."""
    published("claude-code")


def codex() -> None:
    """Codex works as it is used to."""
    published("codex")


def opencode() -> None:
    """Its settings are where it looks for them: opencode works as it is used to."""
    published("opencode")


def aider() -> None:
    """What it writes into the worktree is refused, and with its environment there is none of that."""
    deploy("aider", engineering_loop_agent_environment={})
    seen = work("A page by an aider without its environment")
    assert seen["outcome"] == "needs_triage" and seen["detail"].endswith("is outside the allowed paths"), seen
    number = seen["issue"]["number"]
    close(number)
    published("aider")


def close(number: int) -> None:
    """A person at the forge takes the approval back."""
    asked("PATCH", f"/repos/{REPO}/issues/{number}", {"state": "closed"})


def no_secret_and_nothing_of_ours() -> None:
    """Each is refused by name, before anything is changed."""
    for name, value in (("MISTRAL_API_KEY", "x"), ("HTTPS_PROXY", "http://x"), ("LD_PRELOAD", "/x.so"), ("A B", "x")):
        given = json.dumps({"engineering_loop_agent_environment": {name: value}})
        status, said = play("apply", "--check", "-e", given)
        assert status != 0 and "engineering_loop_agent_environment" in said and name in said and "changed=0" in said, (
            said
        )


tell((claude, codex, opencode, aider, no_secret_and_nothing_of_ours))
