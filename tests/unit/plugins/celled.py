# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host with cells, for the tests of what makes, fills, watches and closes them.

Real files and real users: two that every Debian has stand in for the loop's user and for the gate's. Its directory is
its own, because pytest's are closed to both, and is removed by rm, which copes with whatever a test leaves there.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.files import write_atomic
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import cells
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell.cells import Cell
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy import schema
from changing import Changing
from waiting import soon

ROOT = os.geteuid() == 0
NEEDS_ROOT = pytest.mark.skipif(not ROOT, reason="cells are root's: only root can make, give away and close one")
LOOP, GATE = "nobody", "daemon"
UNIT = f"loop-test-{os.getpid()}"
# What tests left behind that were killed when they had the number of this process.
subprocess.run(["sh", "-c", f"rm -rf /run/{UNIT}-* /run/{UNIT}"], check=ROOT)
TODAY = time.strftime("%Y%m%d", time.gmtime())
NAME = f"{TODAY}T000000Z-1a2b3c4d"
IDENTITY = {
    "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.invalid", "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.invalid", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null",
}  # fmt: skip

SHA = "58735fa051d24290f128109b4267e136316cbc86"
POLICY = """\
version: 1
defaults:
  max_changed_files: 20
  max_file_bytes: 1048576
  denied_path_globs: [.env, .env.*, "*.key", "*.pem", id_*, secrets/**, "**/secrets/**"]
  denied_content_patterns: ["-----BEGIN [A-Z ]*PRIVATE KEY-----"]
  allowed_gate_commands: [python3, git]
  protected_branch_prefixes: [main, master]
  allowed_pr_remotes: [origin]
  allowed_handoff_dirs: [RUNS]
repos: {}
"""


def git(directory: Path | str, *words: str, check: bool = True) -> str:
    """git as a test uses it: any repository, whoever it belongs to."""
    command = ["git", "-c", "safe.directory=*", "-c", "protocol.file.allow=always", *words]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **IDENTITY}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=check)
    return done.stdout.strip()


def uid(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def gid(name: str) -> int:
    return pwd.getpwnam(name).pw_gid


def give(path: Path | str, user: str) -> None:
    """Everything there belongs to ``user`` from now on."""
    if ROOT:
        subprocess.run(["chown", "-hR", f"{user}:{gid(user)}", str(path)], check=True)


@dataclass
class Box:
    """The directories of one host, and its settings."""

    top: Path
    config: Changing = field(default_factory=lambda: Changing({}))

    @property
    def runs(self) -> Path:
        return Path(self.config["runs_dir"])

    @property
    def memory(self) -> Path:
        return Path(self.config["memory_dir"])

    @property
    def config_file(self) -> str:
        return f"{self.top}/etc/loop.json"

    def write_config(self) -> None:
        write_atomic(
            self.config_file, json.dumps(dict(self.config)).encode()
        )  # a gateway that starts reads it meanwhile

    @property
    def release(self) -> Path:
        return self.top / "opt/releases" / SHA

    def deploy(self, repos: str = "{}") -> None:
        """What a cycle needs beside cells: a policy, with what it says of single ``repos``, secrets, an engine."""
        policy = Path(self.config["policy_file"])
        policy.write_text(POLICY.replace("RUNS", str(self.runs)).replace("repos: {}", f"repos: {repos}"))
        policy.chmod(0o640)
        os.chown(policy, 0, gid(LOOP))
        self.config["policy_sha256"] = schema.digest(schema.load_file(str(policy)))
        write(self.top / "etc", {"env": "GH_TOKEN=t\nOPENAI_API_KEY=k\n"})
        (self.top / "etc/env").chmod(0o600)
        release = {".release.json": json.dumps({"sha": SHA, "lock_digest": "1" * 64})}
        backends = {"configs/loop/model-policy.production.yml": "backends: {default: pi}\n"}
        program = {f".venv/bin/{self.config['program']}": ""}
        write(self.release, {**release, **program, **backends})
        (self.top / "opt/current").symlink_to(self.release)
        self.write_config()

    def unit(self) -> dict[str, str]:
        """The environment that systemd gives to what a unit starts."""
        (self.top / "run/unit").mkdir(exist_ok=True)
        return {"INVOCATION_ID": "0123456789abcdef" * 2, "RUNTIME_DIRECTORY": f"{self.top}/run/unit"}

    def enter_unit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on this process is what such a unit starts, by a person's hand and on no CI runner."""
        for name in ("GITHUB_ACTIONS", "TRIGGER_UNIT"):
            monkeypatch.delenv(name, raising=False)
        for name, value in self.unit().items():
            monkeypatch.setenv(name, value)

    def cell(self, name: str = NAME, **manifest: Any) -> Cell:
        """A fresh one, by the way that every cycle gets one."""
        told = {"invocation": "i" * 32, "trigger": "manual", "engine": "e" * 40, "agents": 0, **manifest}
        return cells.make(self.config, name, told)

    def kept(self, name: str, outcome: str = "error", size: int = 1000) -> Cell:
        """A closed one, whose manifest says that it has ``size`` bytes."""
        cell = self.cell(name, outcome=outcome)
        cells.close(cell)
        cells.update(cell, size=size)
        return cell

    def remember(self, files: dict[str, str]) -> None:
        """What memory has."""
        write(self.memory, files)
        give(self.memory, LOOP)
        os.chown(self.memory, 0, gid(LOOP))

    def repository(self, name: str = "app", branch: str = "main", *, commits: int = 2, sha: str = "sha1") -> Path:
        """A remote that the gate's user can clone, and which the settings name."""
        bare, work = self.top / "remotes" / f"{name}.git", self.top / "work" / name
        git(self.top, "init", "-q", "--bare", "-b", branch, f"--object-format={sha}", str(bare))
        git(self.top, "init", "-q", "-b", branch, f"--object-format={sha}", str(work))
        git(work, "remote", "add", "origin", str(bare))
        for number in range(commits):
            self.commit(name, {f"docs/{number}.md": f"{number}\n"}, branch)
        self.config["workspace_repositories"].append({"repo": str(bare), "dest": name, "version": branch})
        give(bare, GATE)
        return bare

    def commit(self, name: str, files: dict[str, str], branch: str = "main") -> str:
        """Somebody pushes to the remote."""
        work, bare = self.top / "work" / name, self.top / "remotes" / f"{name}.git"
        give(bare, "root")  # git pushes to nobody else's repository
        write(work, files)
        git(work, "add", "-A")
        git(work, "commit", "-q", "-m", "Change")
        git(work, "push", "-q", "origin", f"HEAD:{branch}")
        give(bare, GATE)
        return git(work, "rev-parse", "HEAD")


def write(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


def shape(directory: Path | str) -> dict[str, str]:
    """Every file below, with its content; what else is there, with what it is."""
    found = {}
    for base, folders, names in os.walk(directory):
        for name in [*folders, *names]:
            path = Path(base, name)
            inner = str(path.relative_to(directory))
            if path.is_symlink():
                found[inner] = f"-> {os.readlink(path)}"
            elif path.is_file():
                found[inner] = path.read_text(errors="replace")
            elif not path.is_dir():
                found[inner] = "special"
    return found


# Directories that change places all the time, so that whoever is in one of them does not find the way back.
EXCHANGES = """if True:
    import ctypes, os, sys
    rename = ctypes.CDLL(None).renameat2
    os.chdir(sys.argv[1])
    for number in range(12):
        for side in "ab":
            os.makedirs(f"{side}{number}/m/" + "d/" * 30)
            for one in range(40):
                os.makedirs(f"{side}{number}/m/d/x{one}")
    print("ready", flush=True)
    pairs = [(b"a%d/m" % number, b"b%d/m" % number) for number in range(12)]
    while True:
        for one, other in pairs:
            rename(-100, one, -100, other, 2)  # AT_FDCWD, RENAME_EXCHANGE
"""


@contextmanager
def exchanging(place: Path | str) -> Iterator[None]:
    """As long as this lasts, directories below ``place`` change places."""
    command = [sys.executable, "-c", EXCHANGES, str(place)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as hostile:
        try:
            assert hostile.stdout and hostile.stdout.readline() == "ready\n"
            yield
        finally:
            hostile.kill()


@contextmanager
def box(place: Path | str = "/tmp") -> Iterator[Box]:
    """A host as the role leaves it, as far as cells go, in a directory below ``place``."""
    top = Path(tempfile.mkdtemp(prefix="loop-cells-", dir=place))
    before = os.umask(0o022)
    try:
        top.chmod(0o755)
        state = top / "var"
        for name in ("etc", "opt", "lib", "run", "remotes", "work", "var", "var/runs", "var/cycles", "var/memory",
                     "var/pristine", "var/gate"):  # fmt: skip
            (top / name).mkdir()
        (state / "runs").chmod(0o711)
        (state / "memory").chmod(0o750)
        os.chown(state / "memory", 0, gid(LOOP))
        os.chown(state / "pristine", uid(GATE), gid(LOOP))
        (state / "pristine").chmod(0o2750)
        give(state / "gate", GATE)
        (state / "gate").chmod(0o700)
        config = Changing(
            {
                "user": LOOP,
                "group": LOOP,
                "gate_user": GATE,
                "install_dir": str(top / "opt"),
                "config_dir": str(top / "etc"),
                "policy_file": str(top / "etc/policy.yml"),
                "policy_sha256": "",
                "env_file": str(top / "etc/env"),
                "forbidden_environment": ["VAULT_TOKEN"],
                "github_app": {"id": "", "installation_id": "", "private_key_file": ""},
                "lib_dir": str(top / "lib"),
                "state_dir": str(state),
                "pristine_dir": str(state / "pristine"),
                "gate_dir": str(state / "gate"),
                "runs_dir": str(state / "runs"),
                "memory_dir": str(state / "memory"),
                "cycles_dir": str(state / "cycles"),
                "receipts_dir": str(top / "opt/receipts"),
                "unit": UNIT,
                "program": "hyrule-engineering-loop",
                "label": "loop:approved",
                "repos": [],
                "workspace_repositories": [],
                "checkout_names": {},
                "branch_prefixes": ["hyrule-feature"],
                "allowed_paths": {},
                "daemon_args": [],
                "engine_options": [],
                "engine_environment": {},
                "agent_environment": {},
                "learning_dir": "",
                "trace_file": "",
                "max_runs_per_day": 2,
                "max_attempts_per_issue": 3,
                "canary_required": False,
                "agent_programs": ["pi"],
                "agent": {"path": "/usr/bin/git", "program": "pi"},
                "agent_probe": False,
                "home_files": [],
                "caches": [],
                "egress": [],
                "egress_local": [],
                "cell_max_size": "20G",
                "cell_max_files": 1_000_000,
                "quarantine_keep": {"age": "36500d", "size": "10G", "min_age": "7d"},
                "cycles_keep": {"age": "90d", "size": "500M"},
                "min_free": "1M",
                "git_url": "https://forge.example",
                "api_url": "https://forge.example/api",
                "git_user_name": 'The "Loop" \\ of Hyrule',
                "git_user_email": "loop@example.invalid",
            }
        )
        found = Box(top, config)
        found.write_config()
        yield found
    finally:
        os.umask(before)
        subprocess.run(["chmod", "-R", "u+rwx", str(top)], capture_output=True, check=False)
        subprocess.run(["rm", "-rf", str(top)], check=False)


# --- what may stay behind of a cell


def sleepers(seconds: str) -> list[str]:
    """The processes that sleep for so long, whatever they call themselves in a namespace of their own."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if command == b"sleep\0" + seconds.encode() + b"\0":
                found.append(pid)
    return found


def none_left(seconds: str) -> bool:
    """Whether they end."""
    return soon(lambda: not sleepers(seconds))


def a_while() -> str:
    """A time to sleep that nobody else sleeps."""
    return f"300.{time.time_ns() % 10**9}"
