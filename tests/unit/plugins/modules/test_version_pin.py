# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `version_pin` and its playbook, run for real on a repository and an inventory."""

from __future__ import annotations

import base64
import json
import os
import re
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
    assert "hosts.yml as215932.engineering_loop.apply -l loop -e engineering_loop_canary_run=true" in " ".join(
        output.split()
    )
    assert f"before: {shas[0]}" in output and f"after: {shas[1]}" in output
    assert pin.read_text(encoding="utf-8") == text.replace(shas[0], shas[1])
    status, output = playbook(pin, "-e", f"to={shas[0]}")
    assert status != 0 and f"{shas[0]} is older than the pinned {shas[1]}, by 1 commit" in output
    assert "Traceback" not in output
    status, output = playbook(pin, "-e", f"to={shas[0]}", "-e", "allow_downgrade=true")
    assert status == 0 and pin.read_text(encoding="utf-8") == text


def test_the_playbook_finds_the_pin_and_says_where(engine: tuple[str, list[str]], pin: Path) -> None:
    """With vault around it, in a directory, and one in a group that is not in force."""
    text, shas = pin.read_text(encoding="utf-8"), engine[1]
    text += "other: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  3161\n"
    engine_file = pin.parent / "loop" / "20-engine.yml"
    engine_file.parent.mkdir()
    engine_file.write_text(text, encoding="utf-8")
    pin.unlink()
    (engine_file.parent / "10-secrets.yml").write_bytes(b"a: 1\n")
    general = pin.parents[1] / "group_vars" / "all.yml"
    general.parent.mkdir()
    general.write_text(f"engineering_loop_version: {shas[0]}\n", encoding="utf-8")
    status, output = playbook(pin)
    assert status == 0 and f"file: {engine_file}" in output and f"- {general}" in output
    assert engine_file.read_text(encoding="utf-8") == text.replace(shas[0], shas[2])
    assert shas[0] in general.read_text(encoding="utf-8")
    status, output = playbook(pin, "-e", f"engineering_loop_version={shas[1]}")
    assert status == 0 and f"engineering_loop_version is {shas[1]} in this play, not what {engine_file} says" in output
    engine_file.unlink()
    general.unlink()
    status, output = playbook(pin)
    assert status != 0 and "no file in host_vars or group_vars beside" in output and "Traceback" not in output


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


def test_pin_files_of_all_kinds_in_one_run(engine: tuple[str, list[str]], pin: Path) -> None:
    """One host each: what can be bumped keeps its other bytes, what cannot is one line and stays as it is."""
    old, new = engine[1][0], engine[1][2]
    line = f"engineering_loop_version: {old}"
    good = {
        "crlf": f"# mine\r\n{line} # pin\r\nother: 1\r\n",
        "quoted": f'"engineering_loop_version": "{old}"\n',
        "no-end": f"a: 1\n{line}",
        "commented": f"# engineering_loop_version: {new}\n{line}\n# {line}\n",
    }
    bad = {
        "missing": (None, "does not exist: name the file that holds engineering_loop_version"),
        "vault": ("$ANSIBLE_VAULT;1.1;AES256\n6162\n", "is encrypted by ansible-vault: the pin is no secret"),
        "value-in-vault": (
            "engineering_loop_version: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  61\n",
            "is encrypted by",
        ),
        "twice": (f"{line}\n{line}\n", "has engineering_loop_version 2 times, in lines 1 and 2: leave one"),
        "none": ("other: 1\n", "has no engineering_loop_version: write it there once"),
        "garbage": ("a: [\n", "is no YAML that Ansible could read"),
        "branch": ("engineering_loop_version: main\n", "must be the full SHA of a commit"),
    }
    folder = pin.parents[1] / "pins"
    folder.mkdir()
    for name, text in {**good, **{name: text for name, (text, _words) in bad.items()}}.items():
        if text is not None:
            (folder / name).write_bytes(text.encode())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    hosts = {name: {"engineering_loop_pin_file": str(folder / name)} for name in (*good, *bad)}
    (pin.parents[1] / "hosts.yml").write_text(json.dumps({"engineering_loop": {"hosts": hosts}}), encoding="utf-8")
    status, output = playbook(pin, "-l", "all", "-e", f"engineering_loop_repo={engine[0]}")
    assert status != 0 and "Traceback" not in output
    for name, text in good.items():
        line_of_it = text if name != "commented" else f"\n{line}\n"
        assert (folder / name).read_bytes() == text.replace(line_of_it, line_of_it.replace(old, new)).encode(), name
    for name, (_text, words) in bad.items():
        assert re.search(rf"{re.escape(str(folder / name))}\b[^\n]*{re.escape(words)}", output), (name, output)
        assert before.get(name) == ((folder / name).read_bytes() if (folder / name).exists() else None)
