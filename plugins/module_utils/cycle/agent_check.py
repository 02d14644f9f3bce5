# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Would the agent work? Which program the model policy names, whether it starts, has its key, and its model answers.

Asked at an apply and, from inside, before each cycle's engine is started: what is missing here would cost a run.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from ..base.errors import LoopError
from ..base.files import read_bytes
from ..base.untrusted import show
from ..cell import egress, sandbox
from ..cell.cells import Cell, home_file
from ..host import bubblewrap, programs
from ..host.settings import Settings
from ..release import agents
from . import handover

TIERS = ("cheap", "mid", "strong", "frontier")
# What the engine starts for a backend whose command the policy does not give.
COMMANDS = {"pi": ("pi", "--print", "{prompt}"), "claude-code": ("claude", "-p", "{prompt}")}
# By program: the provider's keys that it can use, and where in the home it looks for its configuration and login.
KEYS = {
    "pi": ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "OPENROUTER_API_KEY"),
    "claude": ("ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN"),
}
LOGINS = {"pi": ".pi/agent/auth.json", "claude": ".claude/.credentials.json"}
PROMPT = "Answer with the word ok and nothing else."
START_SECONDS, ANSWER_SECONDS = 60.0, 180.0


def commands(path: str) -> list[list[str]]:
    """What the engine may start for the model policy at ``path``, each as its words. LoopError where it is no agent."""
    import yaml  # here: a fresh host lacks it, and has no policy either

    try:
        policy = yaml.safe_load(read_bytes(path) or b"")
        backends = dict(policy["backends"])
        tiers, definitions = backends.get("tiers") or {}, backends.get("definitions") or {}
        names = dict.fromkeys(str(tiers.get(tier) or backends["default"]) for tier in TIERS)
        found = {name: list((definitions.get(name) or {}).get("command") or COMMANDS.get(name) or ()) for name in names}
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise LoopError(
            f"the model policy {path} names no agent (backends.default): the engine would play its mock"
        ) from error
    for name, words in found.items():
        if not words or not all(isinstance(word, str) for word in words):
            raise LoopError(
                f"the model policy {path} names the backend {show(name)}, which starts no program: the engine would"
                " play its mock. Let backends name pi or claude-code"
            )
    return list(found.values())


def check(config: Settings, environment: Mapping[str, str], *, expected: bool = False) -> list[str]:
    """As root, for the next cycle: the programs that it would start. LoopError where one could not do its work.

    A host without an engine has no model policy yet: there only what is set is looked at. ``expected`` is an agent
    that is about to be installed.
    """
    names = [config.agent["program"]] if config.agent else list(config.agent_programs)[:1]
    if os.path.isdir(f"{config.install_dir}/current"):
        names = list(dict.fromkeys(words[0] for words in commands(handover.model_policy(config, environment))))
    for name in names:
        fit(config, name, environment, expected=expected)
    return names


def fit(
    config: Settings, name: str, environment: Mapping[str, str], path: str = agents.PATH, *, expected: bool = False
) -> None:
    """Refuse a program that is not there, would not be shut in, or has no key of its model's provider."""
    if "/" in name or name not in config.agent_programs:
        raise LoopError(
            f"the model policy starts {show(name)} as the agent, which would not be shut in: let it start a plain"
            " name, and engineering_loop_agent_programs have it"
        )
    awaited = expected and config.agent.get("program") == name
    if not awaited and agents.program(config, name, path) is None:
        raise LoopError(agents.missing(config.agent, name))
    check_key(config, name, environment)


def check_key(config: Settings, name: str, environment: Mapping[str, str]) -> None:
    """Refuse an agent that could not log in to its model's provider, by the name of what is missing."""
    keys, files = KEYS.get(name, ()), {wanted["dest"]: wanted for wanted in config.home_files}
    if name == "pi":
        provider = str(_json(files, ".pi/agent/settings.json").get("defaultProvider") or "")
        own = (_json(files, ".pi/agent/models.json").get("providers") or {}).get(provider) or {}
        key = str(own.get("apiKey") or "")
        if key and not re.fullmatch(r"[A-Z][A-Z0-9_]*", key):
            return  # the key itself, or a program that says it
        usual = f"{provider.upper().replace('-', '_')}_API_KEY"
        keys = (key,) if key else (usual,) if usual in keys else keys
    if not keys or any(environment.get(key) for key in keys) or LOGINS.get(name) in files:
        return
    raise LoopError(
        f"the agent {name} has no key of its model's provider: put {' or '.join(keys)} into"
        f" {config.env_file} (or engineering_loop_environment)"
    )


def _json(files: Mapping[str, Mapping[str, str]], dest: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(home_file(files[dest])) if dest in files else {}
        return found if isinstance(found, dict) else {}
    return {}


def starts(config: Settings, name: str, path: str = agents.PATH) -> str:
    """What the program says to --version, alone. LoopError where it does not start."""
    program = agents.program(config, name, path) or name
    home = "/tmp"  # noqa: S108 - the sandbox's own
    words = [bubblewrap.BWRAP, *bubblewrap.ALONE, "--chdir", home, "--setenv", "HOME", home, "--", program, "--version"]
    return _answer(words, {"PATH": path, "LANG": "C.UTF-8"}, START_SECONDS, f"the agent {program} does not start")


def answers(config: Settings, cell: Cell, words: Sequence[str], environment: Mapping[str, str]) -> str:
    """What the model says through the agent, as the engine starts it; nothing of it stays in the cell."""
    own = sandbox.agent_environment(environment, config)
    own.update(egress.environment(config))
    path = own["PATH"] = sandbox.plain_path(config, own.get("PATH", agents.PATH))
    asked = [word.replace("{prompt}", PROMPT).replace("{max_iterations}", "1") for word in words]
    program = agents.program(config, words[0], path) or words[0]
    command = sandbox.command(config, cell, "/tmp", [program, *asked[1:]], keep_home=False)  # noqa: S108
    try:
        return _answer(command, own, ANSWER_SECONDS, f"the agent {words[0]} gets no answer from its model")
    except LoopError as error:
        text = str(error)
        for key in {value for name, value in own.items() if re.search("KEY|TOKEN|SECRET|PASS", name) and value}:
            text = text.replace(key, "***")
        raise LoopError(text) from None


def _answer(command: Sequence[str], environment: Mapping[str, str], seconds: float, otherwise: str) -> str:
    """The last line of what a program says. LoopError where it fails, is silent or takes too long."""
    try:
        done = programs.run(command, seconds, environment=environment)
    except subprocess.TimeoutExpired:
        raise LoopError(f"{otherwise}: nothing was said for {seconds:g} s") from None
    except OSError as error:
        raise LoopError(f"{otherwise}: {error}") from error
    said = (done.stdout.strip() or done.stderr.strip()).splitlines()
    if done.returncode or not said:
        words = done.stderr.strip().splitlines() or said or [f"status {done.returncode}"]
        raise LoopError(f"{otherwise}: {show(words[-1])}")
    return show(said[-1])
