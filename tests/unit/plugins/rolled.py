# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host with releases and a proof, for the tests of rollouts, and a systemctl that is played."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base import files
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import (
    processes,
)
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import (
    systemd as units,
)
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import (
    installed,
    receipts,
    rollout,
    timer_hold,
)
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import build, shut_in, store
from deployed import SHA, Host

BAD = "b" * 40
THIRD = "c" * 40
BUILD: dict[str, Any] = {"keep": 3, "python": "/usr/bin/python3", "uv": "uv", "wait": 0}


class Systemd:
    """Plays systemctl for the timer, and never lets it run what no receipt covers."""

    def __init__(self, host: Host) -> None:
        self.host, self.on, self.commands = host, False, list[str]()

    def __call__(self, *arguments: str) -> str:
        self.commands.append(arguments[0])
        if arguments[0] in ("enable", "disable"):
            self.on = arguments[0] == "enable"
            assert not self.on or timer_hold.matching(as_written(self.host)).receipt
        if arguments[0] == "show":
            state = ("enabled", "active") if self.on else ("disabled", "inactive")
            return f"LoadState=loaded\nUnitFileState={state[0]}\nActiveState={state[1]}\nNextElapseUSecRealtime=\n"
        return "[]"


@pytest.fixture
def host(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(units, "RUNNING_SYSTEMD", str(tmp_path))
    for module in (processes, store):
        monkeypatch.setattr(module, "cycle_in_progress", lambda run_lock, unit: "")
    (host.top / "opt" / "current").unlink()
    for sha in (SHA, BAD, THIRD):
        release(host, sha)
    activate(host, SHA)
    return host


@pytest.fixture
def systemd(host: Host, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    systemd = Systemd(host)
    monkeypatch.setattr(units, "systemctl", systemd)
    return systemd


def release(host: Host, sha: str) -> None:
    """A complete release, as the builder leaves it."""
    path = host.top / "opt" / "releases" / sha
    path.mkdir(exist_ok=True)
    (path / "engine.py").write_text(f"# {sha}\n")
    path.chmod(0o555)
    manifest = build.manifest(str(path))
    (path / build.MANIFEST).write_bytes(manifest)
    known = {"sha": sha, "lock_digest": "1" * 64, "files_digest": files.sha256(manifest)}
    known["interpreter"] = shut_in.interpreter(str(path))
    (path / build.RECORD).write_text(json.dumps(known))


def activate(host: Host, sha: str) -> None:
    now = store.active(host.config["install_dir"])
    store.switch(host.config["install_dir"], sha)
    store.remember(host.config["install_dir"], sha, "version", now["sha"] if now else None)


def prove(host: Host, systemd: Systemd, *, on: bool = True) -> None:
    """What loop_canary and loop_timer do when a cycle was as it should be."""
    receipts.write(host.config, "docs", installed.now(host.config), {}, applied_by="ops", overrides=[])
    store.record_verdict(host.config["install_dir"], installed.now(host.config).engine_sha, "proven")
    assert rollout.end(str(host.config_file), timer_hold.matching(host.config).receipt)
    systemd.on = on


def as_written(host: Host) -> Settings:
    """The host's settings as they stand in their file."""
    return Settings(json.loads(host.config_file.read_text()))


def new_policy(host: Host, number: int = 19) -> None:
    rollout.begin(str(host.config_file), [host.config["policy_file"]])
    path = Path(host.config["policy_file"])
    path.write_text(path.read_text().replace("max_changed_files: 20", f"max_changed_files: {number}"))


def new_everything(host: Host, sha: str = BAD) -> None:
    """Another engine, policy, settings, service, drop-in and code: all that an apply can change."""
    rollout.begin(str(host.config_file))
    activate(host, sha)
    new_policy(host)
    unit = host.top / "systemd" / "hyrule-engineering-loop.service"
    unit.write_text("[Service]\nType=simple\n")
    drop_ins = host.top / "systemd" / "hyrule-engineering-loop.service.d"
    drop_ins.mkdir(exist_ok=True)
    (drop_ins / "more.conf").write_text("[Service]\nUser=root\n")
    (host.top / "systemd" / "hyrule-engineering-loop-egress.socket").write_text("[Socket]\nListenStream=1\n")
    core = host.top / "lib" / "engineering_loop_core"
    (core / "cycle").mkdir(exist_ok=True)  # of a version that is cut otherwise: a package hides a module of its name
    (core / "cycle" / "__init__.py").write_text("# another runner\n")
    (core / "cycle.py").unlink(missing_ok=True)
    (host.top / "lib" / "hooks").mkdir(exist_ok=True)
    (host.top / "lib" / "hooks" / "pre-push").write_text("exit 0\n")
    host.config["daemon_args"] = [*host.config["daemon_args"], "--workers", sha[:1]]
    host.write_config()


def everything(host: Host) -> dict[str, tuple[bytes, int]]:
    """Every file that a proof covers, and where current leads."""
    found = {"current": (os.readlink(host.top / "opt" / "current").encode(), 0)}
    for top in ("etc", "lib", "systemd"):
        for path in sorted((host.top / top).rglob("*")):
            if path.is_file():
                found[str(path)] = (path.read_bytes(), path.stat().st_mode)
    return found


def undo(host: Host, **options: Any) -> dict[str, Any]:
    order = {"timer": options.pop("wanted", True), "reason": options.pop("reason", "two")}
    failed = options.pop("failed", True)
    return rollout.undo(str(host.config_file), rollout.Order(**order, **BUILD, **options), failed=failed)


def previous(host: Host, **options: Any) -> dict[str, Any]:
    to, wanted = options.pop("to", ""), options.pop("wanted", True)
    return rollout.previous(str(host.config_file), rollout.Order(wanted, **BUILD, **options), to=to)


def ledger(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((host.top / "opt" / "rollout.json").read_text())
    return found


# --- forward
