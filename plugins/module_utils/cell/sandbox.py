# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Generated code alone: what shuts in the agent and the gate commands, each time one is started.

``lib_dir/bin`` has a program of ours under each of their names, first on the engine's PATH. It tells the watch that an
agent starts, then runs the real one in a PID and mount namespace of its own (bubblewrap): it sees no process but its
own, writes its worktree, its home and a private /tmp, and nothing of it survives. What it does to the repository
itself (commits, configuration, hooks) goes to an overlay that ends with it: the engine finds changed files and
nothing else.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence

from ..base import untrusted, wire
from ..base.errors import LoopError
from ..base.sizes import number_of
from ..host import secrets_file, settings
from ..host.bubblewrap import ALONE, BWRAP
from ..host.settings import Settings
from ..release import agents
from . import egress
from .cells import GIVEN, ID, Cell

# What was proven looks for no other version of itself.
QUIET = {"PI_OFFLINE": "1", "DISABLE_AUTOUPDATER": "1"}
SETTINGS = "ENGINEERING_LOOP_SETTINGS"
NOT_FOUND, CANNOT = 127, 126
# The engine's own interpreter, which it knows as its sys.executable and starts gate commands with.
ENGINE_PYTHON = "engine-python"
# What a program needs of /run, which is hidden otherwise: how names are resolved.
RESOLVERS = ("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager", "/run/nscd")
# What CI would give a gate command, beside how the network is reached.
CI_NAMES = frozenset(
    {"PATH", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TERM", "TZ", "TMPDIR", "COLUMNS", "LINES"}
)
NOT_THE_AGENTS = re.compile(r"(GH|GITHUB|GIT|HYRULE|ENGINEERING_LOOP)_.*", re.DOTALL)
ALLOW = (
    "let the kernel allow it: sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000"
    " (Debian's own values), kept in /etc/sysctl.d"
)


# --- the command line -------------------------------------------------------------------------


def command(
    config: Settings, cell: Cell, directory: str, program: Sequence[str], *, keep_home: bool = True
) -> list[str]:
    """The bubblewrap command that runs ``program`` in ``directory`` of ``cell``, alone.

    Without ``keep_home`` it has root's files in its home, and nothing that it leaves there stays. LoopError where what
    ran before it would have root's files put elsewhere.
    """
    home = cell.part("home")
    words = [BWRAP, *ALONE]
    for path in RESOLVERS:
        words += ["--ro-bind-try", path, path]
    words += ["--bind", home, home] if keep_home else ["--tmpfs", home]
    for wanted in config.home_files:
        given = f"{cell.part(GIVEN)}/{wanted['dest']}"
        if os.path.lexists(given):  # not in a cell of an older version
            words += ["--ro-bind", given, _in_home(home, wanted["dest"])]
    for seed in config.caches:
        words += ["--overlay-src", seed["src"], "--tmp-overlay", _in_home(home, seed["dest"])]
    worktree = worktree_of(cell, directory)
    if worktree:
        words += ["--bind", worktree, worktree]
        repository = repository_of(cell, worktree)
        if repository:
            words += ["--overlay-src", repository, "--tmp-overlay", repository]
        if os.path.isfile(f"{worktree}/.git"):
            words += ["--ro-bind", f"{worktree}/.git", f"{worktree}/.git"]
    return [*words, "--chdir", directory, "--setenv", "HOME", home, "--", *program]


def _in_home(home: str, dest: str) -> str:
    """Where something of root's is mounted. bubblewrap would follow a link there, wherever it leads."""
    place = home
    for part in dest.split("/"):
        place = f"{place}/{part}"
        if os.path.islink(place):
            raise LoopError(f"{place} was made a link by what ran before: what root gives at {dest} has no place")
    return place


def cell_of(config: Settings, home: str) -> Cell:
    """The cell that an engine with this HOME works in. LoopError where it is none."""
    relative = os.path.relpath(home or "/", config.runs_dir).split("/")
    if not ID.fullmatch(relative[0]) or len(relative) < 2:
        raise LoopError(f"HOME {untrusted.show(home)} lies in no cell below {config.runs_dir}")
    return Cell(f"{config.runs_dir}/{relative[0]}")


def worktree_of(cell: Cell, directory: str) -> str:
    """The nearest directory at or above ``directory`` that is a working tree of git in the cell; empty if none is."""
    place = os.path.realpath(directory)
    while place.startswith(f"{cell.path}/"):
        if os.path.lexists(f"{place}/.git"):
            return place
        place = os.path.dirname(place)
    return ""


def repository_of(cell: Cell, worktree: str) -> str:
    """The checkout's .git that a worktree belongs to; empty where that is not in the cell's workspace."""
    git_dir = os.path.realpath(f"{worktree}/.git")
    if not os.path.isdir(git_dir):
        try:
            text = os.fsdecode(untrusted.read(f"{worktree}/.git", worktree, 4096) or b"")
        except LoopError:
            return ""
        named = text.removeprefix("gitdir: ").partition("\0")[0].rstrip("\n")
        git_dir = os.path.realpath(os.path.join(worktree, named))
    found = re.match(rf"{re.escape(cell.part('workspace'))}/[^/]+/\.git(?=/|\Z)", git_dir)
    return found[0] if found else ""


def gate_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What a gate command gets: what CI would give it, nothing of the engine's and no key."""
    kept = {name: value for name, value in environment.items() if name in CI_NAMES or name.startswith("LC_")}
    return {**kept, **secrets_file.network(environment), "CI": "true"}


def agent_environment(environment: Mapping[str, str], config: Settings) -> dict[str, str]:
    """What the engine hands to its agent, and what the operator has for that.

    Without what no agent has a use for, should an engine hand on all it has.
    """
    kept = {name: value for name, value in environment.items() if not NOT_THE_AGENTS.fullmatch(name)}
    return {**kept, **config.agent_environment, **QUIET}


def engine_python(config: Settings) -> str:
    """What the engine takes for its interpreter: named like one, since its policy looks at the last part of a path."""
    return f"{config.lib_dir}/engine/python"


def plain_path(config: Settings, path: str) -> str:
    """PATH without our own programs."""
    return ":".join(part for part in path.split(":") if part and part != f"{config.lib_dir}/bin")


# --- the programs of ours ---------------------------------------------------------------------


def alone(name: str, *arguments: str) -> int:
    """Run the program ``name`` alone; this process becomes it. Called by what stands under its name in lib_dir/bin."""
    try:
        config = settings.load(os.environ.get(SETTINGS) or settings.DEFAULT_PATH)
        cell = cell_of(config, os.environ.get("HOME", ""))
        environment = dict(os.environ)
        path = environment["PATH"] = plain_path(config, environment.get("PATH", os.defpath))
        own = f"{os.path.realpath(config.install_dir + '/current')}/.venv/bin/python"
        program = own if name == ENGINE_PYTHON else agents.program(config, name, path)
        if program is None:
            sys.stderr.write(f"{name}: not found on {path}\n")
            return NOT_FOUND
        if name in config.agent_programs:
            wire.tell(config.unit, {"what": "agent", "program": name})
            environment = agent_environment(environment, config)
        else:
            environment = gate_environment(environment)
        environment.update(egress.environment(config))
        words = command(config, cell, os.getcwd(), [program, *arguments])
    except (LoopError, OSError) as error:
        sys.stderr.write(f"{name} was not started: {error}\n")
        return CANNOT
    os.execve(BWRAP, words, environment)  # noqa: S606 - a shell has no part in this
    return CANNOT  # never: this process is the program now


def check(config: Settings, cell: Cell) -> None:
    """Refuse to start an engine whose agent could not be shut in. LoopError says why and how to allow it."""
    words = command(config, cell, cell.part("home"), ["/bin/true"])
    try:
        done = subprocess.run(words, capture_output=True, timeout=30, check=False)
    except FileNotFoundError:
        raise LoopError(f"{BWRAP} is missing, which shuts the agent in: install Debian's bubblewrap") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LoopError(f"the agent cannot be shut in: {error}") from error
    if done.returncode:
        said = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"])[-1]
        raise LoopError(f"the agent cannot be shut in ({untrusted.show(said)}): {ALLOW}")


def bound_files(config: Settings) -> None:
    """No file larger than a cell may be, from here on: one of holes costs no room, and whoever reads it never ends."""
    most = int(number_of(config.cell_max_size, "size"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


# --- a person in a kept cell ------------------------------------------------------------------

# What of the unit's settings is about its start and end, or about where a cycle writes: a person's cell is mounted.
NOT_THE_SANDBOX = re.compile(
    r"Exec\w*|Type|SuccessExitStatus|RuntimeDirectory\w*|Timeout\w+|KillMode|SyslogIdentifier|WorkingDirectory"
    r"|Environment\w*|LogRateLimit\w+|Standard\w+|Restart\w*|User|Group|ReadWritePaths|UMask"
)
# What is a property of another name where a unit is not read from a file: the old one knows yes and no alone.
ON_THE_BUS = {"PrivateTmp=disconnected": "PrivateTmpEx=disconnected"}


def properties(unit_text: str) -> list[str]:
    """What shuts the unit in, as options of systemd-run; ``unit_text`` is what ``systemctl cat`` shows."""
    options, section = [], ""
    for line in unit_text.splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and not line.startswith(("#", ";")):
            key, _equals, value = line.partition("=")
            if not NOT_THE_SANDBOX.fullmatch(key):
                options += ["-p", ON_THE_BUS.get(line, f"{key}={value}")]
    return options
