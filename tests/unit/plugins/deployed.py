# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A deployed loop in a temporary directory, beside a real local forge, for the tests of canary and receipts.

Only systemd is played: starting the unit runs one cycle here, with real git and real
requests to the forge, that behaves or misbehaves as it is told to.
"""

from __future__ import annotations

import datetime
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from celled import POLICY
from changing import Changing
from forge import Running, running

ROOT = Path(__file__).resolve().parents[3]

__all__ = ["Host", "Running", "deployed", "published", "running"]

SHA = "58735fa051d24290f128109b4267e136316cbc86"
REPO = "AS215932/network-operations"
OTHER = "AS215932/hyrule-cloud"
ISSUE = 235
CHANGE = "ISSUE_NETWORK_OPERATIONS_235"
BRANCH = f"hyrule-feature/{CHANGE}/hyrule-infra"
BOT = "hyrule-loop[bot]"
SEED = {"repos": [{"name": "network-operations"}, {"name": "hyrule-cloud"}]}


@dataclass
class Host:
    """The files of one deployed loop, and the forge that it works on."""

    top: Path
    forge: Running
    config: Changing
    invocations: int = 0
    cell: Path = Path()  # of the running cycle
    running: str = ""  # the unit's ActiveState, where it is not inactive
    forgets: bool = False  # systemd forgets a unit's invocation soon after its end
    journal: list[str] = field(default_factory=list)
    started: list[tuple[str, ...]] = field(default_factory=list)
    cycle: Callable[[Host], dict[str, Any]] | None = None  # what a cycle does; by default what it should

    @property
    def config_file(self) -> Path:
        return self.top / "etc" / "loop.json"

    def write_config(self) -> None:
        self.config_file.write_text(json.dumps(dict(self.config), indent=1), encoding="utf-8")

    def systemd(self, *command: str) -> str:
        """What stands in for systemctl and journalctl."""
        if command[0] == "journalctl":
            told = next((int(word.partition("=")[2]) for word in command if word.startswith("--after-cursor=")), 0)
            lines = [] if "--sync" in command else self.journal[told:]
            cursor = [f"-- cursor: {len(self.journal)}"] if "--show-cursor" in command and lines else []
            return "".join(f"{line}\n" for line in [*lines, *cursor])
        if command[1] == "start":
            self.started.append(command)
            self.invocations += 1
            self._record()
            return ""
        invocation = "" if self.forgets or not self.invocations else self._invocation()
        state = self.running or "inactive"
        return f"LoadState=loaded\nActiveState={state}\nResult=success\nInvocationID={invocation}\nJob=\n"

    def _invocation(self) -> str:
        return f"{self.invocations:08x}{0:024x}"

    def _record(self) -> None:
        moment = datetime.datetime.now(datetime.UTC)
        name = f"{moment:%Y%m%dT%H%M%SZ}-{self._invocation()[:8]}"
        self.cell = Path(self.config["runs_dir"]) / name
        self.cell.mkdir()
        report = (self.cycle or published)(self)
        record = {
            "cycle": name,
            "cell": str(self.cell),
            "invocation_id": self._invocation(),
            "started": f"{moment:%Y-%m-%dT%H:%M:%SZ}",
            "ended": f"{moment:%Y-%m-%dT%H:%M:%SZ}",
            "engine": {"sha": SHA},
            "outcome": report["outcome"],
            "detail": report.get("detail", ""),
            "exit_status": 0,
            "report": report,
            "agents": 1,
            "programs": report.get("programs", ["pi"]),  # as the watch was told
            "backend": report.get("backend", "pi"),  # as the run's state file has it
            "issue": report.get("issue"),  # both as the gateway wrote them down
            "pr_url": report.get("pr_url"),
        }
        path = Path(self.config["cycles_dir"]) / f"{name}.json"
        path.write_text(json.dumps(record), encoding="utf-8")

    # --- what a cycle can do

    def push(self, files: dict[str, str], branch: str = BRANCH, repo: str = REPO) -> None:
        """Push a branch with these files over HTTP, as the engine does."""
        clone = self.top / "clones" / str(time.monotonic_ns())
        url = f"{self.forge.url}/{repo}.git".replace("http://", f"http://x-access-token:{self.forge.token}@")
        _git(self.top, "clone", "--quiet", url, str(clone))
        _git(clone, "checkout", "--quiet", "-b", branch)
        for name, content in files.items():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            (clone / name).write_text(content, encoding="utf-8")
        _git(clone, "add", "--all")
        _git(clone, "-c", "user.name=loop", "-c", "user.email=loop@as215932.net", "commit", "--quiet", "-m", "Docs")
        _git(clone, "push", "--quiet", "origin", f"HEAD:{branch}")

    def post(self, path: str, body: dict[str, Any], token: str = "", method: str = "POST") -> dict[str, Any]:
        """A request of the engine's (or a person's) to the forge."""
        answer = requests.request(
            method,
            f"{self.forge.api_url}{path}",
            json=None if method == "GET" else body,
            headers={"Authorization": f"Bearer {token or self.forge.token}"},
            timeout=10,
        )
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def side(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The forge's side door for tests."""
        answer = requests.post(f"{self.forge.url}/_forge/{path}", json=body, timeout=10)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def pull(self, branch: str = BRANCH, draft: bool = True, repo: str = REPO, token: str = "") -> dict[str, Any]:
        body = {"title": f"Docs {branch}", "head": branch, "base": "main", "draft": draft}
        return self.post(f"/repos/{repo}/pulls", body, token)

    def handoff(self, version: int = 1) -> Path:
        path = self.cell / "runs" / CHANGE.lower() / "handoff" / "noc_handoff.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"schema_version": version}), encoding="utf-8")
        return path

    def report(self, pull: dict[str, Any] | None, outcome: str = "published") -> dict[str, Any]:
        return {
            "outcome": outcome,
            "issue": {"repo": REPO, "number": ISSUE, "title": "Docs canary"},
            "change_id": CHANGE,
            "pr_url": pull["html_url"] if pull else None,
        }


def published(host: Host) -> dict[str, Any]:
    """A cycle as it should be."""
    host.push({"docs/canary.md": "# Canary\n\nA harmless page.\n"})
    host.handoff()
    return host.report(host.pull())


def _git(directory: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=directory, check=True, capture_output=True)


def deployed(top: Path, forge: Running) -> Host:
    """A host where everything is installed and nothing is proven; its forge starts anew with one approved issue."""
    seeded = forge.store.root.with_name("seeded")
    with forge.store.lock:
        if not seeded.exists():
            shutil.copytree(forge.store.root, seeded)
        shutil.rmtree(forge.store.root)
        shutil.copytree(seeded, forge.store.root)
        forge.store.open(SEED, forge.token)
    names = ("runs", "cycles", "pristine", "memory", "gate")
    paths = {name: top / "var" / name for name in names}
    for path in [*paths.values(), top / "etc", top / "lib" / "engineering_loop_core", top / "systemd"]:
        path.mkdir(parents=True)
    release = top / "opt" / "releases" / SHA
    release.mkdir(parents=True)
    (release / ".release.json").write_text(json.dumps({"sha": SHA, "lock_digest": "1" * 64}), encoding="utf-8")
    (top / "opt" / "current").symlink_to(release)
    (top / "lib" / "engineering_loop_core" / "cycle.py").write_text("# the runner\n", encoding="utf-8")
    for name in (".service", "-watch.service", "-gate.service", "-gate.socket"):
        (top / "systemd" / f"hyrule-engineering-loop{name}").write_text(f"# {name}\n", encoding="utf-8")
    (top / "etc" / "policy.yml").write_text(POLICY.replace("RUNS", str(paths["runs"])), encoding="utf-8")
    (top / "etc" / "env").write_text(f'# secrets\nOTHER=1\nGH_TOKEN="{forge.token}"\n', encoding="utf-8")
    (top / "etc" / "env").chmod(0o600)
    config = Changing(
        {
            "user": "root",
            "group": "root",
            "gate_user": "root",
            "install_dir": str(top / "opt"),
            "config_dir": str(top / "etc"),
            "policy_file": str(top / "etc" / "policy.yml"),
            "policy_sha256": "",
            "env_file": str(top / "etc" / "env"),
            "forbidden_environment": ["VAULT_TOKEN", "*_FLEET_KEY"],
            "github_app": {"id": "", "installation_id": "", "private_key_file": ""},
            "lib_dir": str(top / "lib"),
            "state_dir": str(top / "var"),
            "pristine_dir": str(paths["pristine"]),
            "gate_dir": str(paths["gate"]),
            "runs_dir": str(paths["runs"]),
            "memory_dir": str(paths["memory"]),
            "cycles_dir": str(paths["cycles"]),
            "receipts_dir": str(top / "opt" / "receipts"),
            "unit": "hyrule-engineering-loop",
            "program": "hyrule-engineering-loop",
            "label": "loop:approved",
            "checkout_names": {"network-operations": "hyrule-infra"},
            "repos": [REPO, OTHER],
            "workspace_repositories": [
                {"repo": REPO, "dest": "hyrule-infra", "version": "main"},
                {"repo": OTHER, "dest": "hyrule-cloud", "version": "main"},
            ],
            "branch_prefixes": ["hyrule-feature", "hyrule-loop", "hyrule-canary"],
            "allowed_paths": {},
            "daemon_args": ["--max-runs-per-day", "2", "--max-cost-usd-per-day=10"],
            "engine_options": [],
            "engine_environment": {},
            "agent_environment": {},
            "learning_dir": "",
            "trace_file": "",
            "max_runs_per_day": 2,
            "max_attempts_per_issue": 3,
            "canary_required": True,
            "agent_programs": ["pi"],
            "agent": {"path": "/usr/bin/git", "program": "pi"},
            "agent_probe": False,
            "home_files": [],
            "caches": [],
            "egress": [],
            "egress_local": [],
            "cell_max_size": "20G",
            "cell_max_files": 1_000_000,
            "quarantine_keep": {"age": "90d", "size": "10G", "min_age": "7d"},
            "cycles_keep": {"age": "90d", "size": "500M"},
            "min_free": "1M",
            "git_url": forge.url,
            "api_url": forge.api_url,
            "git_user_name": "Hyrule Engineering Loop",
            "git_user_email": "loop@as215932.net",
        }
    )
    host = Host(top, forge, config, cell=paths["runs"] / "20260131T120000Z-00000000")
    host.write_config()
    return host
