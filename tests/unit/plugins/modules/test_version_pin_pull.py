# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bump as a draft pull request: an inventory in git, a forge, checks, and an operator whose work tree is theirs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import pin_pull_request
from ansible_collections.as215932.engineering_loop.plugins.modules import version_pin
from forge import Running, running

ROOT = Path(__file__).resolve().parents[4]
Task = Callable[..., dict[str, Any]]
SEED = {"repos": [{"name": "engineering-loop"}, {"name": "inventory"}], "issues": []}
ENGINE, INVENTORY = "AS215932/engineering-loop", "AS215932/inventory"
PIN_FILE = "host_vars/loop.yml"
TEXT = "# mine\r\nengineering_loop_version: '{}' # pin\r\nsecret: s3cret"


@dataclass
class World:
    """The forge, the operator's clone of the inventory, and the engine's commits."""

    forge: Running
    clone: Path
    shas: list[str]
    operator: str

    def door(self, path: str, body: dict[str, Any]) -> Any:
        answer = requests.post(f"{self.forge.url}/_forge/{path}", json=body, timeout=10)
        answer.raise_for_status()
        return answer.json()

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"Authorization": f"Bearer {self.operator}"}
        answer = requests.request(method, f"{self.forge.api_url}/repos/{path}", json=body, headers=headers, timeout=10)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=self.clone, check=True, capture_output=True, text=True)
        return done.stdout

    def everything(self) -> dict[str, bytes]:
        """Work tree, index and refs of the clone; objects may join."""
        files = (path for path in self.clone.rglob("*") if path.is_file() and "objects" not in path.parts)
        return {str(path): path.read_bytes() for path in files}


def operator_s_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment as an operator may have it. Our own git takes it away from the process that it runs in."""
    for variable in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(variable, os.devnull)
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "An Operator")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "operator@example.net")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    operator_s_git(monkeypatch)
    with running(tmp_path / "forge", seed=SEED) as forge:
        world = World(forge, tmp_path / "clone", [], "")
        world.operator = world.door("tokens", {"login": "operator", "role": "admin"})["token"]
        for number in range(3):
            files = {"engine.py": f"{number}\n"}
            world.shas.append(world.door("commits", {"repo": ENGINE, "branch": "main", "files": files})["sha"])
        world.door("commits", {"repo": INVENTORY, "branch": "main", "files": {PIN_FILE: TEXT.format(world.shas[0])}})
        url = f"{forge.url}/{INVENTORY}.git"
        settings = pin_pull_request.credentials(url, world.operator)[1].items()
        access = [word for key, value in settings for word in ("-c", f"{key}={value}")]
        command = ["git", *access, "clone", "--quiet", url, str(world.clone)]
        subprocess.run(command, check=True, capture_output=True)
        yield world


@pytest.fixture
def propose(task: Task, world: World, monkeypatch: pytest.MonkeyPatch) -> Task:
    def call(**options: Any) -> dict[str, Any]:
        operator_s_git(monkeypatch)
        wanted = {
            "path": str(world.clone / PIN_FILE),
            "repo": f"{world.forge.url}/{ENGINE}.git",
            "forge_url": world.forge.url,
            "api_url": world.forge.api_url,
            "token": world.operator,
            "pull_request": True,
        }
        return task(version_pin, **{**wanted, **options})

    return call


def test_a_draft_pull_request_once(world: World, propose: Task) -> None:
    (world.clone / PIN_FILE).write_text("half an edit\n")  # the operator is in the middle of something
    (world.clone / "staged").write_text("staged\n")
    world.git("add", "staged")
    before = world.everything()
    told = propose(_ansible_check_mode=True)
    assert told["changed"] and told["pull_request"] == "" and len(world.ask("GET", f"{INVENTORY}/branches")) == 1
    done = propose()
    assert done["changed"] and (done["before"], done["after"]) == (world.shas[0], world.shas[2])
    assert done["diff"] == told["diff"] and done["commits"] == 2
    assert world.everything() == before
    pulls = world.ask("GET", f"{INVENTORY}/pulls?state=all")
    assert [(pull["html_url"], pull["draft"], pull["base"]["ref"]) for pull in pulls] == [
        (done["pull_request"], True, "main")
    ]
    for words in (
        world.shas[0],
        world.shas[2],
        "2 new",
        "-e engineering_loop_canary_run=true",
        "goes back to what was",
    ):
        assert words in pulls[0]["body"]
    files = world.ask("GET", f"{INVENTORY}/pulls/{pulls[0]['number']}/files")
    assert [(file["filename"], file["additions"], file["deletions"]) for file in files] == [(PIN_FILE, 1, 1)]
    branch = pulls[0]["head"]["ref"]
    store = world.forge.store.directory(INVENTORY)
    content = subprocess.run(
        ["git", "show", f"{branch}:{PIN_FILE}"], cwd=store, check=True, capture_output=True
    ).stdout.decode()
    assert content == TEXT.format(world.shas[2])
    author = subprocess.run(
        ["git", "log", "-1", "--format=%an <%ae>", branch], cwd=store, check=True, capture_output=True, text=True
    ).stdout
    assert author == "An Operator <operator@example.net>\n"
    again = propose()
    assert not again["changed"] and again["pull_request"] == done["pull_request"]
    assert len(world.ask("GET", f"{INVENTORY}/pulls?state=all")) == 1


def test_killed_between_push_and_pull_request(world: World, propose: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_arguments: Any) -> None:
        raise LoopError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(pin_pull_request, "open_pull", killed)
        assert propose()["msg"] == "killed"
    done = propose()
    assert done["changed"] and done["pull_request"].endswith("/pull/1")


def test_a_branch_whose_name_only_ends_so_is_another(world: World, propose: Task) -> None:
    branch = f"engineering-loop/bump-host_vars-loop-{world.shas[2][:12]}"
    store = world.forge.store.directory(INVENTORY)
    for name in (f"refs/a/refs/heads/{branch}", f"refs/heads/backup/refs/heads/{branch}"):
        subprocess.run(["git", "update-ref", name, "main"], cwd=store, check=True)
    done = propose()
    assert done["changed"] and done["pull_request"].endswith("/pull/1")
    assert world.ask("GET", f"{INVENTORY}/pulls/1")["head"]["ref"] == branch


def test_what_was_refused_or_taken_by_hand_is_left_alone(world: World, propose: Task) -> None:
    done = propose()
    number = done["pull_request"].rpartition("/")[2]
    branch = world.ask("GET", f"{INVENTORY}/pulls/{number}")["head"]["ref"]
    world.ask("PATCH", f"{INVENTORY}/pulls/{number}", {"state": "closed"})
    assert f"{done['pull_request']} proposed the same and is closed" in propose()["msg"]
    world.door("commits", {"repo": INVENTORY, "branch": branch, "files": {PIN_FILE: TEXT.format(world.shas[1])}})
    assert f"the branch {branch} is there already and pins something else" in propose()["msg"]
    world.door("commits", {"repo": INVENTORY, "branch": "main", "files": {PIN_FILE: TEXT.format(world.shas[2])}})
    merged = propose()
    assert not merged["changed"] and merged["pull_request"] == ""


def test_checks(world: World, propose: Task) -> None:
    sha = world.shas[2]
    assert f"no check has run on {sha}" in propose(checks=["all"])["msg"]
    world.ask("POST", f"{ENGINE}/check-runs", {"name": "unit", "head_sha": sha, "conclusion": "success"})
    world.ask("POST", f"{ENGINE}/statuses/{sha}", {"context": "lint", "state": "pending"})
    assert f"{sha} of {ENGINE} is not green: lint (pending)" in propose(checks=["all"])["msg"]
    assert "deploy (has not run)" in propose(checks=["unit", "deploy"])["msg"]
    assert len(world.ask("GET", f"{INVENTORY}/branches")) == 1  # nothing was pushed
    world.ask("POST", f"{ENGINE}/statuses/{sha}", {"context": "lint", "state": "failure"})
    assert "lint (failure)" in propose(checks=["all"])["msg"]
    done = propose(checks=["unit"])
    assert done["checks"] == ["unit"]
    pull = world.ask("GET", f"{INVENTORY}/pulls/{done['pull_request'].rpartition('/')[2]}")
    assert "| checks | unit passed |" in pull["body"]
    for conclusion in ("failure", "success"):  # of two workflows with a job of the same name
        world.ask("POST", f"{ENGINE}/check-runs", {"name": "twice", "head_sha": sha, "conclusion": conclusion})
    assert "twice (failure)" in propose(checks=["unit", "twice"])["msg"]
    odd = "\x1b[2J\u202e"
    world.ask("POST", f"{ENGINE}/statuses/{sha}", {"context": odd, "state": "failure"})
    assert "\\x1b[2J\\u202e (failure)" in propose(checks=["all"])["msg"]
    plain = propose(pull_request=False, checks=["unit"])
    assert plain["changed"] and (world.clone / PIN_FILE).read_bytes() == TEXT.format(sha).encode()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"token": ""}, "must be asked with a token: set GH_TOKEN in your environment"),
        ({"path": "/nowhere/host_vars/loop.yml"}, "does not exist: name the file that holds"),
        ({"path": "{top}/loop.yml"}, "is not in a git repository with a remote origin"),
        ({"path": "{top}/clone/other.yml"}, "other.yml is not on main of http://127.0.0.1"),
        ({"remote": "upstream"}, "is not in a git repository with a remote upstream"),
        ({"forge_url": "https://github.com"}, "is not OWNER/NAME on the forge https://github.com"),
        ({"to": "v9"}, "has no branch, tag or commit"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_pushed(
    world: World, propose: Task, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    answer = propose(**{key: value.format(top=tmp_path) for key, value in options.items()})
    assert answer["failed"] and words in answer["msg"] and "\n" not in answer["msg"], answer["msg"]
    assert world.operator not in str(answer).replace(str(answer.get("invocation")), "")
    assert len(world.ask("GET", f"{INVENTORY}/branches")) == 1


@pytest.mark.parametrize(
    ("url", "forge", "found"),
    [
        ("git@github.com:o/r.git", "https://github.com", ("https://api.github.com", "o/r")),
        ("ssh://git@ghe.example.net:2222/o/r", "https://ghe.example.net", ("https://ghe.example.net/api/v3", "o/r")),
        ("https://github.com/o/r", "https://github.com/", ("https://api.github.com", "o/r")),
        ("https://github.com/o/r/x", "https://github.com", None),
        ("https://evil.example.net/o/r", "https://github.com", None),
        ("https://github.com.evil.example.net/o/r", "https://github.com", None),
        ("https://github.com:8443/o/r", "https://github.com", None),
        ("/srv/inventory.git", "https://github.com", None),
    ],
)
def test_where_a_repository_lives(url: str, forge: str, found: tuple[str, str] | None) -> None:
    if found is None:
        with pytest.raises(LoopError, match="is not OWNER/NAME on the forge"):
            pin_pull_request.home_of(url, forge, "")
    else:
        assert pin_pull_request.home_of(url, forge, "") == found


def test_the_playbook(world: World) -> None:
    (world.clone / "hosts.yml").write_text("engineering_loop: {hosts: {loop: {ansible_host: 192.0.2.1}}}\n")
    variables = {
        "engineering_loop_repo": f"{world.forge.url}/{ENGINE}.git",
        "engineering_loop_git_url": world.forge.url,
        "engineering_loop_github_api_url": world.forge.api_url,
        "engineering_loop_bump_pr": "true",
    }
    extra = [word for key, value in variables.items() for word in ("-e", f"{key}={value}")]
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(world.clone / "hosts.yml"), *extra]
    done = subprocess.run(
        [*command, "playbooks/bump.yml", "-l", "loop"], cwd=ROOT, check=False, capture_output=True, text=True,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "GH_TOKEN": world.operator},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Merge {world.forge.url}/{INVENTORY}/pull/1" in done.stdout
    assert world.operator not in done.stdout + done.stderr and "s3cret" not in done.stdout
