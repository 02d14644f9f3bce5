# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A gateway that really answers, for the tests of it and of what asks it.

It runs as the gate's user over a socket that it was handed, as systemd hands it over. Who asks is a process of the
loop's user in a control group with the name of the unit, since that is what the kernel tells the gateway.
"""

from __future__ import annotations

import errno
import importlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.as215932.engineering_loop.plugins.module_utils.base import wire
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import attempts, pristine
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cycle import engine_run as cycle
from ansible_collections.as215932.engineering_loop.plugins.module_utils.gateway import access, audit, sessions
from ansible_collections.as215932.engineering_loop.plugins.module_utils.gateway import server as gateway
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user, end_with_parent
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import core_files
from celled import GATE, LOOP, TODAY, Box, box, gid, give, uid
from forge import Running, running
from forge_store import branches, commit_files

__all__ = ["Cycle", "Door", "Running", "commit_files", "door", "gateway_of", "in_unit", "running"]

REPO, OTHER = "AS215932/app", "AS215932/other"
SEED = {"repos": [{"name": "app"}, {"name": "other"}, {"name": "elsewhere"}], "issues": []}
APPROVED = "loop:approved"
BACKLOG = 256  # as the socket's unit says
NAMES = itertools.count()
# What datetime imports late, when a child that gave root up may not be able to read it any more.
importlib.import_module("_strptime")


# --- units


def _hierarchy() -> tuple[Path, str]:
    """Where units have their control groups, and which one this process is in."""
    named = Path("/sys/fs/cgroup/systemd")
    home, mark = (named, ":name=systemd:") if named.is_dir() else (Path("/sys/fs/cgroup"), "0::")
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return home, next(line.split(":", 2)[2] for line in lines if mark in line)


@contextmanager
def in_unit(unit: str) -> Iterator[None]:
    """For as long as the block lasts this process, and what it starts, belongs to that unit."""
    home, before = _hierarchy()
    place = home / unit
    try:
        while True:
            place.mkdir(exist_ok=True)
            try:
                (place / "cgroup.procs").write_text(str(os.getpid()))
                break
            except OSError as error:  # a test beside this one, in the same unit, has just taken it away
                if error.errno not in (errno.ENOENT, errno.ENODEV):
                    raise
        yield
    finally:
        Path(f"{home}{before}/cgroup.procs").write_text(str(os.getpid()))
        for _unused in range(100):  # what was started there may end a moment later
            with suppress(OSError):
                place.rmdir()
                break
            time.sleep(0.02)


# --- the gateway


def install(host: Box) -> None:
    """What of our programs a cycle and the gateway start."""
    wanted = {"bin/gh", "gateway-client"}
    for entry in core_files.entries(host.config["lib_dir"]):
        if entry.path.removeprefix(f"{host.config['lib_dir']}/") in wanted:
            Path(entry.path).parent.mkdir(exist_ok=True)
            Path(entry.path).write_bytes(entry.content)
            os.chmod(entry.path, entry.mode)


def access_of(host: Box) -> Path:
    """The gateway's runtime directory."""
    return host.top / "run/access"


def bring_access(host: Box) -> None:
    """As root, before the gateway starts."""
    place = access_of(host)
    if not place.exists():
        place.mkdir(mode=0o700)
        give(place, GATE)
    before = os.environ.get("RUNTIME_DIRECTORY")
    os.environ["RUNTIME_DIRECTORY"] = str(place)
    try:
        assert access.bring(host.config_file) == 0
    finally:
        os.environ.pop("RUNTIME_DIRECTORY")
        if before is not None:
            os.environ["RUNTIME_DIRECTORY"] = before


@contextmanager
def gateway_of(host: Box) -> Iterator[int]:
    """The gateway of this host, as its socket and service units run it; its pid."""
    host.write_config()
    install(host)
    bring_access(host)
    place = Path(sessions.socket_of(host.config))
    place.parent.mkdir(mode=0o755)
    pid = 0
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(place))
            os.chown(place, 0, gid(LOOP))
            place.chmod(0o660)
            server.listen(BACKLOG)
            sessions.open_session(host.config, "somebody.service", "none")  # else it would end after a while
            pid = start(host, server)
        yield pid
    finally:
        with suppress(ProcessLookupError, ChildProcessError):  # a test may have ended it
            if pid:
                os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)
        subprocess.run(["rm", "-rf", str(place.parent)], check=True)


def start(host: Box, server: socket.socket) -> int:
    """A process that becomes the gateway, in a child of ours; its pid."""
    log = os.open(host.top / "run/gateway.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    pid = os.fork()
    if pid:
        os.close(log)
        return pid
    status = 9
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout = sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 - not pytest's
        os.dup2(server.fileno(), gateway.FIRST_SOCKET)
        os.closerange(gateway.FIRST_SOCKET + 1, 256)
        os.setgroups([gid(GATE), gid(LOOP)])
        os.setresgid(gid(GATE), gid(GATE), gid(GATE))
        os.setresuid(uid(GATE), uid(GATE), uid(GATE))
        end_with_parent(os.getppid())
        os.chdir("/")
        os.environ.update(LISTEN_PID=str(os.getpid()), RUNTIME_DIRECTORY=str(access_of(host)))
        status = gateway.main(host.config_file)
    finally:
        os._exit(status)


def journal(host: Box) -> str:
    """What the gateway said."""
    return (host.top / "run/gateway.log").read_text()


# --- a host with a forge, and its cycles


@dataclass
class Door:
    """A host whose gateway is up, and the forge behind it."""

    host: Box
    forge: Running
    pid: int = 0
    taken: list[int] = field(default_factory=list)

    @property
    def config(self) -> Settings:
        return self.host.config

    def issue(self, title: str = "A page is missing", labels: Sequence[str] = (APPROVED,), repo: str = REPO) -> int:
        """An issue that a person approved."""
        store = self.forge.store
        with store.lock:
            made = store.add_issue(repo, "AS215932", title=title, body="Write it.", labels=labels)
            store.save()
        self.taken.append(int(made["number"]))
        return int(made["number"])

    def close_all(self) -> None:
        """No issue is open any more, and no fault is left."""
        store = self.forge.store
        with store.lock:
            store.state["faults"] = []
            for login in store.state["users"]:
                store.limit_tokens(login, None)
            for repo in store.state["repos"].values():
                for issue in repo["issues"].values():
                    issue["state"] = "closed"
            store.save()

    def fault(self, kind: str, path: str, **more: Any) -> None:
        store = self.forge.store
        with store.lock:
            store.state["faults"].append({"kind": kind, "path": path, **more})
            store.save()

    def directory(self, repo: str = REPO) -> Path:
        return self.forge.store.directory(repo)

    def branches(self, repo: str = REPO) -> dict[str, str]:
        """What the forge has."""
        return branches(self.directory(repo))

    def pulls(self, branch: str, repo: str = REPO) -> list[dict[str, Any]]:
        issues = self.forge.store.state["repos"][repo]["issues"].values()
        return [one for one in issues if one["pull"] and one["pull"]["head"] == branch]

    def requests(self, since: int = 0) -> list[dict[str, Any]]:
        return self.forge.store.requests()[since:]

    def refresh(self, name: str) -> dict[str, Any]:
        return wire.ask(sessions.socket_of(self.config), {"what": "refresh", "cycle": name}, "the gateway", 60)

    @contextmanager
    def cycle(self, number: int = 0, *, bound: bool = True, sub: str = "") -> Iterator[Cycle]:
        """A cycle that runs, with its checkouts; where a number is given, one that took this issue.

        Root tells the gateway which issues were tried before, as it does before each cycle.
        """
        name = f"{TODAY}T{next(NAMES):06}Z-{os.urandom(4).hex()}"
        unit = f"{self.config['unit']}{sub}.service"
        self.refresh(name)
        workspace = self.host.top / "cells" / name
        workspace.mkdir(parents=True)
        give(workspace, LOOP)
        made = as_user(LOOP, lambda: pristine.check_out(self.config, str(workspace)))
        assert all(one["status"] == "made" for one in made), made
        sessions.open_session(self.config, unit, name, bound=bound, counts=attempts.for_gateway(self.config))
        try:
            ours = Cycle(self, name, unit, workspace, number)
            if number:
                ours.take(number)
            yield ours
        finally:
            sessions.close_session(self.config, unit)


@dataclass
class Cycle:
    """What an engine does in a cycle, as the user and in the unit in which it does it."""

    door: Door
    name: str
    unit: str
    workspace: Path
    number: int = 0

    @property
    def checkout(self) -> Path:
        return self.workspace / "app"

    @property
    def branch(self) -> str:
        return f"hyrule-feature/ISSUE_APP_{self.number}/app"

    @property
    def environment(self) -> dict[str, str]:
        names = {
            f"GIT_{who}_{what}": "pi@example.invalid" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        }
        path = f"{self.door.config['lib_dir']}/bin:/usr/bin:/bin"
        return {"PATH": path, "HOME": str(self.workspace), **names, **cycle.way_out(self.door.config)}

    def run(
        self, *words: str, stdin: str | bytes = "", user: str = LOOP, unit: str = "", where: str = "", **more: str
    ) -> subprocess.CompletedProcess[str]:
        given = stdin.encode() if isinstance(stdin, str) else stdin
        with in_unit(unit or self.unit):
            # env, because Python would look for the program on our own PATH.
            done = subprocess.run(
                ["env", *words], cwd=where or self.checkout, env={**self.environment, **more}, input=given,
                capture_output=True, check=False, timeout=60, user=user, group=gid(user), extra_groups=[],
            )  # fmt: skip
        out, err = (stream.decode("utf-8", "replace") for stream in (done.stdout, done.stderr))
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def gh(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return self.run("gh", *words, **more)

    def git(self, *words: str, check: bool = True, stdin: str | bytes = "") -> str:
        done = self.run("git", *words, stdin=stdin)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout.strip()

    def listed(self, repo: str = REPO) -> list[int]:
        done = self.gh("issue", "list", "--repo", repo, "--label", APPROVED, "--state", "open", "--json", "number")
        assert done.returncode == 0, done.stderr
        return [one["number"] for one in json.loads(done.stdout)]

    def take(self, number: int, repo: str = REPO) -> None:
        """As the engine takes one: it looks what there is, and reads it."""
        assert number in self.listed(repo)
        done = self.gh("issue", "view", str(number), "--repo", repo, "--json", "body")
        assert done.returncode == 0, done.stderr

    def commit(self, path: str = "docs/b.md", text: str = "text\n", message: str = "Page", **more: str) -> str:
        file = self.checkout / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        give(file.parent, LOOP)
        script = 'git add -A && git commit -q --allow-empty -m "$1" && git rev-parse HEAD'
        done = self.run("sh", "-c", script, "sh", message, **more)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def push(self, *refs: str, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        return self.run("git", "push", *options, "origin", *(refs or (f"HEAD:refs/heads/{self.branch}",)))

    def refused(self, *refs: str, options: Sequence[str] = ("--force",)) -> str:
        """Push and be refused: the reason, after looking that nothing moved on the forge."""
        before = self.door.branches()
        done = self.push(*refs, options=options)
        assert done.returncode != 0 and self.door.branches() == before
        last = self.entries("push")[-1]
        assert not last["allowed"] and last["reason"].startswith("push refused: ")
        told = "".join(
            line.removeprefix("remote: ") for line in done.stderr.splitlines() if line.startswith("remote: ")
        )
        assert "nothing was published" in told, done.stderr
        return str(last["reason"])

    def open(
        self, *words: str, title: str = "Docs", body: str = "Why.", **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Ask for the pull request."""
        asked = [
            "pr",
            "create",
            "--repo",
            REPO,
            "--title",
            title,
            "--body",
            body,
            "--head",
            self.branch,
            "--base",
            "main",
        ]
        return self.gh(*asked, *(words or ("--draft",)), **more)

    def entries(self, what: str = "") -> list[dict[str, Any]]:
        """What the gateway wrote down."""
        return [one for one in audit.read(self.door.config, self.name) if what in ("", one["what"])]


def emptied(ours: Cycle) -> bool:
    """Whether nothing of a push stays in the inbox. It is told before that is cleared."""
    for _unused in range(200):
        if not os.listdir(f"{ours.door.config['gate_dir']}/inbox"):
            return True
        time.sleep(0.05)
    return False


@contextmanager
def door(forge: Running, secrets: str = "", policies: str = "{}", **config: Any) -> Iterator[Door]:
    """A host as the role leaves it, whose gateway leads to this forge.

    ``secrets`` are more lines for its env file, ``policies`` what its policy says of single repositories.
    """
    with box() as host:
        host.deploy(policies)
        (host.top / "etc/env").write_text(f"GH_TOKEN={forge.token}\n{secrets}")
        host.config.update(
            unit=f"{host.config['unit']}-{next(NAMES)}", repos=[REPO, OTHER],
            workspace_repositories=[{"repo": REPO, "dest": "app"}, {"repo": OTHER, "dest": "other"}],
            branch_prefixes=["hyrule-feature", "hyrule-loop"],
            **{"git_url": forge.url, "api_url": forge.api_url, **config},
        )  # fmt: skip
        with gateway_of(host) as pid:
            yield Door(host, forge, pid)
