# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the variables about the engine's own options and environment, and the agent's, may be beyond their shape."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..base.errors import LoopError, printable
from ..base.files import inside
from ..cell.sandbox import NOT_THE_AGENTS, QUIET
from ..host import secrets_file
from ..release import engine_options

ARGS, AGENT = "engineering_loop_daemon_args", "engineering_loop_agent_environment"
ENDING = ("-h", "--help", "--version")  # with these it says something and does nothing
SECRET_FLAG = re.compile(r"--([a-z0-9-]+-)?(api-?key|key|token|secret|password|passwd|credentials?)")
SECRET_NAME = re.compile(r"(?i)(.*_)?(api_?key|key|token|secret|pass|password|passwd|credentials?|auth)(_.*)?")
# A file of one is named, not told.
PLACE_NAME = re.compile(r"(?i).*_(file|path|dir)")
CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[\sA-Za-z0-9+/=]+-----END CERTIFICATE-----")


def daemon_args(words: Sequence[str]) -> None:
    """Words that go on the engine's command line as they are."""
    if words and not words[0].startswith("-"):
        raise LoopError(f"{ARGS} begins with {_shown(words[0])}: it must begin with a flag, such as --dry-run")
    for word in words:
        flag = word.partition("=")[0]
        if not word or word in ("-", "--"):
            raise LoopError(f"{ARGS} holds {_shown(word)}, which ends the engine's flags: leave it out")
        if flag in ENDING:
            raise LoopError(f"{ARGS} holds {flag}, with which the engine does no work: leave it out")
        if own := engine_options.own(word):
            variable = engine_options.OWN[own]
            instead = f"set engineering_loop_{variable} instead" if variable else "leave it out"
            raise LoopError(f"{ARGS} holds {_shown(flag)}, and the role passes {own} itself: {instead}")
        if SECRET_FLAG.fullmatch(flag):
            raise LoopError(
                f"{ARGS} holds {_shown(flag)}: a command line is no place for a secret, anybody on the host can read"
                " it. Put it into engineering_loop_environment"
            )


def agent_environment(environment: Mapping[str, Any], forbidden: Sequence[str]) -> None:
    """Variables for the agent alone: no secrets, and nothing that decides how it is shut in."""
    for name, value in environment.items():
        shown = _shown(name)
        if not secrets_file.NAME.fullmatch(str(name)):
            raise LoopError(f"{AGENT} has the name {shown}: names are made of letters, digits and _")
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise LoopError(f"{AGENT}.{name} is no text: put it in quotes, and leave it out where it is not wanted")
        if secrets_file.CONTROL.search(str(value)):
            raise LoopError(f"{AGENT}.{name} holds a control character")
        if SECRET_NAME.fullmatch(name) and not PLACE_NAME.fullmatch(name):
            raise LoopError(
                f"{AGENT} has {shown}, which is a secret by its name, and these are none: put it into"
                " engineering_loop_environment, and have the engine hand it on"
            )
        ours = name in QUIET or secrets_file.OURS.fullmatch(name) or secrets_file.network({name: ""})
        if ours or NOT_THE_AGENTS.fullmatch(name):
            raise LoopError(f"{AGENT} has {shown}, which the loop sets itself or keeps from the agent: leave it out")
    secrets_file.check(map(str, environment), forbidden, AGENT)


def places(trace_wanted: Any, trace: str, learning: str, state_dir: str, *loops: str) -> None:
    """What is collected lies where no cycle, and nobody but root, writes."""
    trace = trace if str(trace_wanted).lower() in ("true", "yes", "on", "1") else ""
    for name, path in (("agent_core_trace_path", trace), ("knowledge_learning_dir", learning)):
        path = os.path.normpath(path) if path else ""
        taken = [*loops, *(f"{state_dir}/{own}" for own in ("cycles", "gate", "pristine", "jobs", "restored"))]
        for other in taken if path else ():
            if inside(path, other) or inside(other, path):
                raise LoopError(f"engineering_loop_{name} is {path}, which is another's or holds it ({other})")


def minutes(longest: Any, timeout: Any) -> None:
    """The engine is to end a run before systemd does."""
    if int(longest) * 60 >= int(timeout) > 0 and int(longest):
        raise LoopError(
            f"engineering_loop_max_wall_clock_minutes_per_run is {longest}, but systemd ends a cycle after"
            f" engineering_loop_service_timeout, {timeout} seconds: it must be less than that"
        )


def certificate(text: str) -> None:
    """One authority's certificate, or more, and no key."""
    if text and (not CERTIFICATE.search(text) or "PRIVATE KEY" in text):
        raise LoopError(
            "engineering_loop_icinga_ca_src must name a file with a certificate (-----BEGIN CERTIFICATE-----) and"
            " without a private key"
        )


def _shown(text: object) -> str:
    return f'"{printable(str(text))[:100]}"'


# As in variables.TOGETHER.
TOGETHER: list[tuple[tuple[str, ...], Callable[..., None]]] = [
    (("daemon_args",), daemon_args),
    (("agent_environment", "forbidden_environment"), agent_environment),
    (
        ("agent_core_trace_enabled", "agent_core_trace_path", "knowledge_learning_dir", "state_dir", "runs_dir",
         "memory_dir", "workspace_dir", "daemon_state_dir", "install_dir", "governor_state_dir"),
        places,
    ),
    (("max_wall_clock_minutes_per_run", "service_timeout"), minutes),
    (("_icinga_ca",), certificate),
]  # fmt: skip
