# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an engine is passed beyond what every engine knows: only what the installed one names in its own help.

``engine_options`` of the settings is a list of options, each a flag and its value, or a flag alone. One inventory so
serves an engine from before a flag and one that has it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Sequence
from typing import Any, TypeAlias

from ..base.errors import LoopError
from ..base.files import read_bytes, write_atomic
from ..host import jobs
from ..host.settings import Settings
from . import engine_help
from .wanted_version import PROGRAM

Json: TypeAlias = dict[str, Any]

FILE = "engine-options.json"

# Flag -> the role's variable that asks for it, without its prefix.
VARIABLES = {
    "--knowledge-context": "knowledge_context_enabled",
    "--knowledge-mcp-url": "knowledge_mcp_url",
    "--knowledge-mcp-transport": "knowledge_mcp_transport",
    "--knowledge-context-budget": "knowledge_context_budget",
    "--knowledge-context-timeout": "knowledge_context_timeout",
    "--knowledge-learning-dir": "knowledge_learning_dir",
    "--max-iterations-per-run": "max_iterations_per_run",
    "--max-wall-clock-minutes-per-run": "max_wall_clock_minutes_per_run",
    "--require-reliability-decision": "require_reliability_decision",
}
TOGETHER = tuple(VARIABLES)[:5]
# What the role says itself, by the variable that says what; empty where none does.
OWN = {
    "--once": "",
    "--repo": "repos",
    "--workspace-root": "",
    "--output-root": "runs_dir",
    "--state-dir-path": "",
    "--memory-dir": "memory_dir",
    "--max-runs-per-day": "max_runs_per_day",
    "--max-cost-usd-per-day": "max_cost_usd_per_day",
    "--allow": "allowed_paths",
    **VARIABLES,
}
LEARNING = "--knowledge-learning-dir"


def fitting(options: Iterable[Sequence[str]], known: Collection[str]) -> tuple[list[str], list[str]]:
    """The words of those ``options`` that the engine knows, and the flags of those that it does not."""
    words: list[str] = []
    unknown: list[str] = []
    for option in options:
        if option[0] in known:
            words += option
        else:
            unknown.append(option[0])
    return words, unknown


def flags_of(words: Iterable[str]) -> list[str]:
    """The flags among the words of a command line, each once."""
    return list(dict.fromkeys(word.partition("=")[0] for word in words if word.startswith("--")))


def asked_by(flags: Iterable[str]) -> list[str]:
    """The role's variables that ask for these flags; of those that come together the one that asks for all."""
    names = ["knowledge_context_enabled" if flag in TOGETHER else VARIABLES.get(flag, "jobs") for flag in flags]
    return list(dict.fromkeys(f"engineering_loop_{name}" for name in names))


def without(flags: Sequence[str]) -> str:
    """What is to be said of wanted flags that the installed engine does not know."""
    variables = ", ".join(asked_by(flags))
    return f"the installed engine does not know {', '.join(flags)} ({variables}), so it is run without"


def sentences(seen: Json) -> list[str]:
    """What a person is told of what ``look`` has found."""
    found = [without(seen["without"])] if seen["without"] else []
    if seen["refused"]:
        found.append(
            f"the installed engine does not know {', '.join(seen['refused'])}, so every cycle is refused: take it out"
            " of engineering_loop_daemon_args, or bump engineering_loop_version"
        )
    return found


def own(word: str) -> str:
    """The flag of the role's own that ``word`` says, also in part: the engine's parser completes what is cut short."""
    flag = word.partition("=")[0]
    flag = f"--{flag.removeprefix('--no-')}" if flag.startswith("--no-") else flag  # which takes it back
    return next((each for each in OWN if flag.startswith("--") and len(flag) > 2 and each.startswith(flag)), "")


# --- what the installed one says ------------------------------------------------------------------


def look(config: Settings, *, ask: bool = True, keep: bool = True) -> Json:
    """What of all that is wanted the active release does not know: ``without``, which it is run without, and
    ``refused``, with which every cycle is refused. Both are empty as long as it was not asked.

    Each release is asked once, unless it may not be asked, and what it said is kept, unless it may not be.
    """
    release = os.path.realpath(f"{config.install_dir}/current")
    told = _told(config) if os.path.isdir(release) else {}
    engine = f"{config.get('program') or PROGRAM} daemon"  # settings of an earlier version name none
    wanted = {engine: [list(map(str, one)) for one in config.get("engine_options") or []]}
    for job in jobs.of(config):
        wanted.setdefault(" ".join(job.command), []).extend([[*one] for one in job.options])
    refused = flags_of(map(str, config.get("daemon_args") or []))
    sha, without = os.path.basename(release), list[str]()
    of_release = told.get(sha) or {}
    missing = [] if not ask else [one for one, options in wanted.items() if (options or one == engine)]
    missing = [one for one in missing if one not in of_release and os.path.isdir(release)]
    for command in missing:
        if (said := _asked(release, command, config.user)) is not None:
            of_release[command] = said
    if missing and keep:
        _keep(config, {**told, sha: of_release})
    for command, options in wanted.items():
        if command in of_release:  # a job that it does not know is held, whatever its flags
            without += fitting(options, of_release[command])[1]
    of_engine = of_release.get(engine)
    return {
        "without": list(dict.fromkeys(without)),
        "refused": [] if of_engine is None else [flag for flag in refused if flag not in of_engine],
    }


def _asked(release: str, command: str, user: str) -> list[str] | None:
    """What the release says to that command's help; None where it does not know it, or cannot be asked."""
    try:
        said = engine_help.help_of(release, command.split(" "), user)
    except LoopError:
        return None  # each cycle asks anew, and is refused where that fails
    return None if said is None else sorted(engine_help.options_of(said))


def path_of(install_dir: str) -> str:
    """The file that has what each release said."""
    return f"{install_dir}/{FILE}"


def known(config: Settings, sha: str, command: str) -> frozenset[str] | None:
    """The options that this release's help named when it was asked; None where it was not."""
    said = _told(config).get(sha, {}).get(command)
    return frozenset(map(str, said)) if isinstance(said, list) else None


def _told(config: Settings) -> Json:
    """What releases said that are still there."""
    try:
        found = json.loads(read_bytes(path_of(config.install_dir)) or b"{}")
        there = os.listdir(f"{config.install_dir}/releases")
    except (ValueError, OSError, LoopError):
        return {}
    entries = found.items() if isinstance(found, dict) else ()
    return {sha: said for sha, said in entries if sha in there and isinstance(said, dict)}


def _keep(config: Settings, told: Json) -> None:
    text = json.dumps(told, sort_keys=True) + "\n"
    write_atomic(path_of(config.install_dir), text.encode(), mode=0o644)
