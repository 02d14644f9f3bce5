# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a loop host has of the forge: its REST API, gh and pi on PATH, and git with the bot's token."""

from __future__ import annotations

import base64
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from forge import Running

WORLD = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Client:
    forge: Running
    environment: dict[str, str]

    def rest(self, method: str, path: str, body: Any = None, token: str | None = None) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.forge.token if token is None else token}"} if token != "" else {}
        return requests.request(method, self.forge.api_url + path, json=body, headers=headers, timeout=30)

    def door(self, path: str, body: Any) -> Any:
        answer = requests.post(f"{self.forge.url}/_forge/{path}", json=body, timeout=30)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def run(self, *arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            arguments, cwd=cwd, env={**self.environment, **environment}, capture_output=True, text=True, check=False
        )

    def git(self, directory: Path, *arguments: str) -> str:
        done = self.run("git", *arguments, cwd=directory)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def clone(self, repo: str, directory: Path) -> Path:
        directory.parent.mkdir(parents=True, exist_ok=True)
        self.git(directory.parent, "clone", "--quiet", f"{self.forge.url}/{repo}.git", str(directory))
        return directory

    def requests(self) -> list[dict[str, Any]]:
        return list(requests.get(f"{self.forge.url}/_forge/requests", timeout=30).json())


def environment_of(forge: Running, directory: Path) -> dict[str, str]:
    """Variables for programs that have ``directory`` as their home and no configuration but this."""
    programs = directory / "bin"
    programs.mkdir()
    for name in ("gh", "pi"):
        (programs / name).symlink_to(WORLD / name)
    config = directory / "loop-world.json"
    config.write_text(f'{{"api_url": "{forge.api_url}"}}', encoding="utf-8")
    basic = base64.b64encode(f"x-access-token:{forge.token}".encode()).decode()
    settings = {
        "http.extraHeader": f"Authorization: Basic {basic}",
        "user.name": "loop",
        "user.email": "loop@example.invalid",
    }
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(directory),
        "LC_ALL": "C.UTF-8",
        "LOOP_WORLD_CONFIG": str(config),
        "GH_TOKEN": forge.token,
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_COUNT": str(len(settings)),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    for number, (key, value) in enumerate(settings.items()):
        environment |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return environment
