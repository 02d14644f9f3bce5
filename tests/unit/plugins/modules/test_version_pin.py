# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `version_pin` and its playbook, run for real on a repository and an inventory."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.modules import version_pin

ROOT = Path(__file__).resolve().parents[4]


def git(directory: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.net", *arguments]
    return subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def engine(tmp_path: Path) -> tuple[str, list[str]]:
    """A repository and its three commits."""
    repo = tmp_path / "engine"
    git(tmp_path, "init", "--quiet", "-b", "main", "engine")
    shas = []
    for number in range(3):
        git(repo, "commit", "--quiet", "--allow-empty", "-m", str(number))
        shas.append(git(repo, "rev-parse", "HEAD"))
    return str(repo), shas


@pytest.fixture
def pin(tmp_path: Path, engine: tuple[str, list[str]]) -> Path:
    """An inventory with the first commit pinned."""
    (tmp_path / "inventory/host_vars").mkdir(parents=True)
    (tmp_path / "inventory/hosts.yml").write_text(
        "engineering_loop: {hosts: {loop: {ansible_host: 192.0.2.1, ansible_become: true}}}\n", encoding="utf-8"
    )
    path = tmp_path / "inventory/host_vars/loop.yml"
    path.write_text(
        f"# mine\nengineering_loop_repo: {engine[0]}\n"
        f"engineering_loop_version: '{engine[1][0]}' # pin\nsecret: s3cret\n",
        encoding="utf-8",
    )
    return path


def test_it_bumps_once(task: Callable[..., dict[str, Any]], engine: tuple[str, list[str]], pin: Path) -> None:
    repo, shas = engine
    text = pin.read_text(encoding="utf-8")
    told = task(version_pin, path=str(pin), repo=repo, _ansible_check_mode=True)
    assert told["changed"] and pin.read_text(encoding="utf-8") == text
    done = task(version_pin, path=str(pin), repo=repo)
    assert done["diff"] == told["diff"]
    assert done["diff"]["before"] == f"engineering_loop_version: {shas[0]}\n"
    assert done["diff"]["after"] == f"engineering_loop_version: {shas[2]}\n"
    assert (done["before"], done["after"], done["commits"], done["dropped"]) == (shas[0], shas[2], 2, 0)
    assert (done["branch"], done["compare"]) == ("main", "")
    assert pin.read_text(encoding="utf-8") == text.replace(shas[0], shas[2])
    again = task(version_pin, path=str(pin), repo=repo)
    assert not again["changed"] and again["before"] == again["after"] == shas[2]


def test_what_is_refused_changes_nothing(
    task: Callable[..., dict[str, Any]], engine: tuple[str, list[str]], pin: Path
) -> None:
    repo, shas = engine
    task(version_pin, path=str(pin), repo=repo)
    text = pin.read_text(encoding="utf-8")
    refused = task(version_pin, path=str(pin), repo=repo, to=shas[1])
    assert refused["failed"] and "is older than the pinned" in refused["msg"]
    assert pin.read_text(encoding="utf-8") == text
    back = task(version_pin, path=str(pin), repo=repo, to=shas[1], allow_downgrade=True)
    assert back["changed"] and (back["commits"], back["dropped"]) == (0, 1)
    missing = task(version_pin, path=f"{pin}.not", repo=repo)
    assert missing["failed"] and "does not exist" in missing["msg"]


def playbook(pin: Path, *arguments: str) -> tuple[int, str]:
    inventory = str(pin.parents[1] / "hosts.yml")
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", inventory, "playbooks/bump.yml"]
    done = subprocess.run(
        [*command, "-l", "loop", *arguments], cwd=ROOT, check=False, capture_output=True, text=True,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "GH_TOKEN": "t0ken"},
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert "t0ken" not in output and "s3cret" not in output
    return done.returncode, output


def test_the_playbook(engine: tuple[str, list[str]], pin: Path) -> None:
    text = pin.read_text(encoding="utf-8")
    _url, shas = engine
    status, output = playbook(pin, "--check", "--diff")
    assert status == 0 and f"+engineering_loop_version: {shas[2]}" in output and "without --check" in output
    assert pin.read_text(encoding="utf-8") == text
    status, output = playbook(pin, "-e", f"to={shas[1][:8]}")
    assert status == 0 and "1 new, 0 dropped" in output
    assert "playbooks/apply.yml -l loop -e engineering_loop_canary_run=true" in output
    assert f"before: {shas[0]}" in output and f"after: {shas[1]}" in output
    assert pin.read_text(encoding="utf-8") == text.replace(shas[0], shas[1])
    status, output = playbook(pin, "-e", f"to={shas[0]}")
    assert status != 0 and f"{shas[0]} is older than the pinned {shas[1]}, by 1 commit" in output
    assert "Traceback" not in output
    status, output = playbook(pin, "-e", f"to={shas[0]}", "-e", "allow_downgrade=true")
    assert status == 0 and pin.read_text(encoding="utf-8") == text


def test_the_token_goes_to_the_forge_only(pin: Path) -> None:
    seen: list[str] = []

    class Recorder(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization", ""))
            self.send_error(404)

        def log_message(self, format: str, *args: Any) -> None:
            """Not to stderr."""

    with HTTPServer(("127.0.0.1", 0), Recorder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        for forge in (url, f"{url}/", "https://github.com", f"{url}0"):
            status, output = playbook(
                pin, "-e", f"engineering_loop_repo={url}/o/r.git", "-e", f"engineering_loop_git_url={forge}"
            )
            assert status != 0 and f"{url}/o/r.git cannot be read" in output
        server.shutdown()
    token = f"Basic {base64.b64encode(b'x-access-token:t0ken').decode()}"
    assert seen == [token, token, "", ""]
