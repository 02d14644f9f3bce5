# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent's program: an npm package that root installs, or one that is on the host already.

What is asked for (``engineering_loop_agent``, and ``agent`` in the settings) is one of

    {"package", "version", "integrity", "program", "lock"}   installed below INSTALL_DIR/agents, each in its own place
    {"path", "program"}                                      somebody else's, at that path
    {}                                                       whatever the cycle's PATH finds

``program`` is the name that the engine starts it by; ``lock`` the SHA-256 of the lockfile that an operator gave.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from ..base import progress
from ..base.errors import LoopError, playbook
from ..base.files import flocked, read_bytes, remove_tree, sha256, sync_directory, write_atomic
from ..host import programs, secrets_file
from ..host.settings import Settings
from .frozen import flush, freeze

Agent: TypeAlias = Mapping[str, str]

# Where a cycle looks for programs that nobody has named a path for, node among them.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LOCKFILE = "package-lock.json"
# What npm may see of the caller's environment: registry, certificates and proxies, no secrets of the loop.
PASSED_ON = re.compile(rf"{secrets_file.NETWORK.pattern}|(?i:npm_config_\w+)")


SHAPES = {
    "package": r"(@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*",
    "version": r"[0-9]+\.[0-9]+\.[0-9]+[0-9A-Za-z.+-]*",
    "integrity": r"sha512-[A-Za-z0-9+/]{86}==",
    "program": r"[A-Za-z0-9][A-Za-z0-9._-]*",
    "lock": r"([0-9a-f]{64})?",
    "path": r"/.+",
}
KINDS = (set[str](), {"package", "version", "integrity", "program", "lock"}, {"path", "program"})


# --- where it is ------------------------------------------------------------------------------


def check_named(agent: Agent) -> None:
    """Refuse an agent that is not named in full, or in two ways."""
    wrong = [key for key, value in agent.items() if not re.fullmatch(SHAPES.get(key, "(?!)"), str(value))]
    if wrong or set(agent) not in KINDS:
        raise LoopError(
            "engineering_loop_agent must have either package, version (exact, as in 0.73.1), integrity (sha512-..., as"
            " `npm view PACKAGE@VERSION dist.integrity` shows it) and program, or the path of a program that is on the"
            f" host{'; not so: ' + ', '.join(wrong) if wrong else ''}"
        )


def place(install_dir: str, agent: Agent) -> str:
    """Where a package stands: a place for each version, and for each lockfile of it."""
    told = sha256(json.dumps([agent[key] for key in ("package", "version", "integrity", "lock")]).encode())[:12]
    return f"{install_dir}/agents/{agent['package'].lstrip('@').replace('/', '-')}-{agent['version']}-{told}"


def program(config: Settings, name: str, path: str = "") -> str | None:
    """The file that is started where the engine asks for ``name``; None where there is none."""
    agent = config.agent
    if name != agent.get("program"):
        return shutil.which(name, path=path or PATH)
    own = agent.get("path") or f"{place(config.install_dir, agent)}/node_modules/.bin/{name}"
    return own if os.access(own, os.X_OK) and os.path.isfile(own) else None


def missing(agent: Agent, name: str) -> str:
    """What to do where there is no program for ``name``."""
    if agent.get("program", name) != name:
        return f"the engine starts {name} as its agent: set engineering_loop_agent to that, it has {agent['program']}"
    if agent.get("package"):
        return f"{_named(agent)} is not installed: run {playbook('apply')}"
    if agent.get("path"):
        return f"engineering_loop_agent.path is {agent['path']}, where no program is: install it there, or name another"
    return (
        f"no agent is on this host: no {name} in {PATH}. Set engineering_loop_agent to a package (package, version,"
        " integrity, program), which is installed then, or to the path of a program that is there"
    )


def lacking(config: Settings) -> str:
    """Why an agent that nobody installs is not there; empty where it is, or will be installed."""
    agent = config.agent
    check_named(agent)
    names = [agent["program"]] if agent else list(config.agent_programs)
    there = agent.get("package") or any(program(config, name) for name in names)
    return "" if there else missing(agent, " or ".join(names))


def too_old_a_node(install_dir: str, agent: Agent, lockfile: str = "") -> str:
    """Why the host's node would not run a package that is still to be installed; empty where nothing says so yet."""
    there = all(shutil.which(name, path=PATH) for name in ("node", "npm"))
    if not agent.get("package") or installed(install_dir, agent) or not there:
        return ""
    with tempfile.TemporaryDirectory() as place, contextlib.suppress(LoopError, ValueError):
        if lockfile:
            return _unfit(place, agent, check_lock(lockfile, agent))
        asked = ("view", f"{agent['package']}@{agent['version']}", "engines", "--json", "--fetch-retries=0")
        return _unfit(place, agent, json.loads(_npm(place, agent, 30, *asked) or "{}"))
    return ""  # a lockfile that does not hold, or a registry that does not answer: the installation says so


def _unfit(place: str, agent: Agent, engines: Any) -> str:
    """What npm says of a project in ``place`` with such ``engines``: it knows how ranges of versions are read."""
    wanted = engines.get("node") if isinstance(engines, dict) else None
    if not wanted:
        return ""
    write_atomic(f"{place}/package.json", json.dumps({"private": True, "engines": {"node": wanted}}).encode())
    done = _run(
        place, agent, 60, ["npm", "install", "--dry-run", "--package-lock-only", "--offline", "--engine-strict"]
    )
    if "EBADENGINE" not in done.stderr:
        return ""
    version = _run(place, agent, 60, ["node", "--version"]).stdout.strip()
    return (
        f"{_named(agent)} needs node {wanted}, and {shutil.which('node', path=PATH)} is {version}: install a newer node"
        " and npm, such as NodeSource's nodejs, or name an older version in engineering_loop_agent"
    )


def installed(install_dir: str, agent: Agent) -> bool:
    """Whether the package stands at its place. It comes there by one rename, so it is whole."""
    return os.path.isfile(f"{place(install_dir, agent)}/{LOCKFILE}")


def digest(config: Settings) -> str:
    """What a proof knows of the agent: what was asked for, and every package by its hash, or the program as it is.

    LoopError where it is not there. Empty for settings of before there was one.
    """
    if "agent" not in config:
        return ""
    agent = config.agent
    parts = [json.dumps(agent, sort_keys=True).encode()]
    if agent.get("package"):
        parts.append(_required(f"{place(config.install_dir, agent)}/{LOCKFILE}"))
    else:
        found = (program(config, name) for name in sorted({agent.get("program"), *config.agent_programs} - {None}))
        for path in (os.path.realpath(one) for one in found if one):
            parts += [path.encode(), _required(path), _package_of(path)]
    return sha256(b"\0".join(sha256(part).encode() for part in parts))


def _required(path: str) -> bytes:
    content = read_bytes(path, 1 << 30)
    if content is None:
        raise LoopError(f"the agent is not there: {path} is missing; run {playbook('apply')}")
    return content


def _package_of(path: str) -> bytes:
    """The description of the npm package that a program is part of, which has its version; empty where it has none."""
    while path != "/":
        path = os.path.dirname(path)
        content = read_bytes(f"{path}/package.json")
        if content is not None:
            return content
    return b""


# --- to install it ----------------------------------------------------------------------------


def install(install_dir: str, agent: Agent, lockfile: str = "", timeout: float = 1800) -> bool:
    """Install the package at its place, unless it is there: no network is asked then. Whether anything was done.

    What npm may fetch is in a lockfile, which is given or made first: there the package must have the hash that was
    asked for, and everything else has its own. No script of any package is run. It takes part by one rename.
    """
    check_named(agent)
    target = place(install_dir, agent)
    with _alone(install_dir):
        if installed(install_dir, agent):
            return False
        making = f"{target}.new"
        remove_tree(making)
        try:
            _make(making, agent, lockfile, timeout)
            freeze(making)
            flush(making)
            remove_tree(target)
            os.rename(making, target)
            sync_directory(os.path.dirname(target))
        except OSError as error:
            raise LoopError(f"{_named(agent)} cannot be installed: {error.filename}: {error.strerror}") from error
        finally:
            remove_tree(making)
    return True


@contextlib.contextmanager
def _alone(install_dir: str) -> Iterator[None]:
    top = f"{install_dir}/agents"
    os.makedirs(top, exist_ok=True)
    os.chmod(top, 0o755)  # whatever umask root has
    with flocked(f"{top}/.lock"):
        yield


def _make(path: str, agent: Agent, lockfile: str, timeout: float) -> None:
    os.makedirs(f"{path}/.home", 0o755)
    about = {"name": "agent", "private": True, "dependencies": {agent["package"]: agent["version"]}}
    write_atomic(f"{path}/package.json", (json.dumps(about) + "\n").encode())
    if lockfile:
        write_atomic(f"{path}/{LOCKFILE}", lockfile.encode())
    else:
        _npm(path, agent, timeout, "install", "--package-lock-only", "--omit-lockfile-registry-resolved")
    engines = check_lock((read_bytes(f"{path}/{LOCKFILE}") or b"").decode(errors="replace"), agent)
    with tempfile.TemporaryDirectory() as place:
        problem = _unfit(place, agent, engines)
    if problem:
        raise LoopError(problem)
    _npm(path, agent, timeout, "ci")
    remove_tree(f"{path}/.home")
    programs = f"{path}/node_modules/.bin"
    if not os.path.isfile(f"{programs}/{agent['program']}"):
        there = ", ".join(sorted(os.listdir(programs))) if os.path.isdir(programs) else "none"
        raise LoopError(
            f"{_named(agent)} has no program {agent['program']}, as engineering_loop_agent.program says; it has {there}"
        )


def check_lock(text: str, agent: Agent) -> Any:
    """Refuse a lockfile that does not have the package as it was asked for, or anything without a hash.

    Returns what the package says of the engines that it runs on.
    """
    try:
        packages = dict(json.loads(text)["packages"])
        own = packages.get(f"node_modules/{agent['package']}", {})
        version, integrity = str(own.get("version")), str(own.get("integrity"))
        loose = [
            name
            for name, one in packages.items()
            if name and not one.get("inBundle") and (one.get("link") or not str(one.get("integrity", "")))
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LoopError("engineering_loop_agent.lockfile is no package-lock.json of npm 7 or later") from error
    if version != agent["version"] or agent["integrity"] not in integrity.split():
        raise LoopError(
            f"{_named(agent)} is not what engineering_loop_agent asks for: it is {version} with {integrity}, not with"
            f" {agent['integrity']}. Nothing was installed"
        )
    if loose:
        raise LoopError(
            f"{_named(agent)} needs {', '.join(loose[:5])}, which come without a hash. Nothing was installed"
        )
    return own.get("engines")


def _npm(path: str, agent: Agent, timeout: float, *command: str) -> str:
    """One step of npm; what it prints. LoopError where it fails."""
    words = ["npm", *command, "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
    progress.step(f"{_named(agent)}: npm {command[0]}")
    done = _run(path, agent, timeout, words)
    if done.returncode:
        told = re.sub(r"(?m)^npm (ERR!|error) ?", "", done.stderr)
        # Why no registry was reached stands above a trace and good advice; its log goes with the directory.
        reason = re.search(r"request to .* failed, reason: .*", told)
        told = reason[0] if reason else told.split("A complete log of this run")[0]
        raise LoopError(
            f"{_named(agent)} cannot be installed: {programs.last_words(told)}. Check the version in"
            " engineering_loop_agent, and that this host reaches its npm registry (/etc/npmrc)"
        )
    return done.stdout


def _run(path: str, agent: Agent, timeout: float, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """npm or node, in a home of its own: what the host tells npm is in /etc/npmrc and in the usual variables."""
    passed = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
    environment = {**passed, "PATH": PATH, "HOME": f"{path}/.home", "LANG": "C.UTF-8"}
    try:
        return programs.run(words, timeout, cwd=path, environment=environment)
    except FileNotFoundError:
        raise LoopError(
            f"{_named(agent)} cannot be installed: npm is missing, which Debian's package npm has"
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LoopError(f"{_named(agent)} cannot be installed: {error}") from error


def _named(agent: Agent) -> str:
    return f"the agent {agent['package']} {agent['version']}"


def prune(install_dir: str, keep: int, used: Iterable[str]) -> list[str]:
    """Remove the oldest installed agents beyond ``keep``, never one of the places in ``used``; those that went."""
    with _alone(install_dir):
        top = f"{install_dir}/agents"
        found = [f"{top}/{name}" for name in os.listdir(top) if not name.startswith(".")]
        found.sort(key=lambda path: os.lstat(path).st_mtime, reverse=True)
        spared = set(used)
        gone = [path for path in found if path not in spared][max(keep - len(spared), 0) :]
        for path in gone:
            remove_tree(path)
    return gone
