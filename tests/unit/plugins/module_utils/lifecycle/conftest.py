# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host of an older layout, and the systemd that it asks."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import systemd as units
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.layout import Layout
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.older_layout import WRAPPERS
from older_host import GROUP, ME, OTHER, ROOT, SECRET, put


@pytest.fixture
def open_path() -> Iterator[Path]:
    """Where the owner of the checkout may look as well; pytest's own is for one user only."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a hundred kills wait for no disk
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        os.chmod(directory, 0o755)
        yield Path(directory, "host")


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """No systemd but this one; what it was asked."""
    asked: list[tuple[str, ...]] = []

    def systemctl(*arguments: str) -> str:
        asked.append(arguments)
        if arguments[0] != "show":
            return ""
        return f"ActiveState={'active' if arguments[-1] == 'loop.timer' else 'inactive'}\nUnitFileState=enabled\n"

    monkeypatch.setattr(units, "systemctl", systemctl)
    monkeypatch.setattr(units, "active", lambda unit: ("stop", unit) not in asked and unit == "loop.timer")
    return asked


@pytest.fixture
def layout(open_path: Path, systemd: list[tuple[str, ...]]) -> Layout:
    """A host with everything that the older role and a few years bring about."""
    home, units_dir = open_path / "opt/loop", open_path / "systemd"
    for name in ("README.md", "src/engine.py", ".venv/bin/engine", "scripts/run"):
        put(home / name, f"{name}\n")
    (home / "docs").symlink_to("/nowhere")
    put(home / ".env", SECRET, 0o640)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@localhost", "-C", str(home)]
    for command in (["init", "-q"], ["add", "README.md", "src"], ["commit", "-qm", "engine"]):
        subprocess.run([*git, *command], check=True)
    put(home / "src/engine.py", "a hotfix\n")
    for name in WRAPPERS:
        put(open_path / "lib" / name, f"#!/bin/sh\n# {name}\n", 0o750)
    put(open_path / "etc/key.pem", "key\n", 0o640)
    put(units_dir / "loop.service", f"[Service]\nExecStart={open_path}/lib/run-daemon\n")
    put(units_dir / "loop.timer", "[Timer]\nOnCalendar=hourly\n")
    put(units_dir / "loop.service.d/memory.conf", "[Service]\nMemoryMax=4G\n")
    put(units_dir / "governor.service", f"[Service]\nExecStart={home}/.venv/bin/engine govern\n")
    put(units_dir / "often.timer", "[Timer]\nUnit=governor.service\n")
    put(units_dir / "ssh.service", "[Service]\nExecStart=/usr/sbin/sshd\n")
    put(open_path / "var/workspace/infra/memory/lessons.md", "learned\n", 0o600)
    put(open_path / "var/workspace/infra/memory/2026/one.md", "one\n")
    put(open_path / "var/state/ledger.json", "{}\n")
    put(open_path / "var/runs/issue_1/request.md", "please\n")
    put(open_path / "var/runs/.quarantine/one/tree/file", "kept\n")
    put(open_path / "var/.pi/agent/settings.json", "{}\n")
    if ROOT:
        subprocess.run(["chown", "-Rh", f"{OTHER}", str(home), str(open_path / "var")], check=True)
    return Layout(
        install_dir=str(home),
        config_dir=str(open_path / "etc"),
        lib_dir=str(open_path / "lib"),
        memory_dir=str(open_path / "var/memory"),
        legacy_memory_dir=str(open_path / "var/workspace/infra/memory"),
        env_file=str(open_path / "etc/env"),
        run_lock=str(open_path / "var/state/daemon.lock"),
        state_dir=str(open_path / "var"),
        workspace_dir=str(open_path / "var/workspace"),
        runs_dir=str(open_path / "var/runs"),
        daemon_state_dir=str(open_path / "var/state"),
        cycles_dir=str(open_path / "var/cycles"),
        unit="loop",
        user=ME,
        group=GROUP,
        key_file=str(open_path / "etc/key.pem"),
        unit_dir=str(units_dir),
    )
