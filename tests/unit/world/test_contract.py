# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Client and local forge speak GitHub's language: the forge holds every exchange of every test to its description.

Here each of its calls is made once, and what is wrong on purpose must not go through.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openapi
import pytest
import requests
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.forge import client as ours
from ansible_collections.as215932.engineering_loop.plugins.module_utils.forge.client import Forge
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from forge import Running, running
from forge_shapes import Shapes
from forge_store import ForgeError

REPO = "AS215932/network-operations"
BRANCH = "hyrule-feature/WALK/hyrule-infra"


def walk(forge: Running) -> int:
    """Every call that the local forge answers, as a bot, a stranger and an impostor make it; how many."""
    calls, made = requests.Session(), 0
    calls.headers["Authorization"] = f"Bearer {forge.token}"
    repo = f"{forge.api_url}/repos/{REPO}"
    door = {"repo": REPO, "branch": BRANCH, "files": {"docs/walk.md": "walked\n"}}
    sha = requests.post(f"{forge.url}/_forge/commits", json=door, timeout=30).json()["sha"]

    def call(method: str, url: str, body: Any = None, **more: Any) -> requests.Response:
        nonlocal made
        made += 1
        return calls.request(method, url, json=body, timeout=30, **more)

    pull = call("POST", f"{repo}/pulls", {"title": "Walk", "head": BRANCH, "base": "main", "body": "b", "draft": True})
    number = pull.json()["number"]
    call("POST", f"{repo}/pulls", {"title": "Walk", "head": BRANCH, "base": "main"})
    call("POST", f"{repo}/pulls", {"title": "Walk", "head": "nowhere", "base": "main"})
    call("POST", f"{repo}/pulls/{number}/requested_reviewers", {"reviewers": ["AS215932"]})
    call("PATCH", f"{repo}/pulls/{number}", {"title": "Walked", "state": "closed"})
    call("POST", f"{repo}/issues", {"title": "A new one", "body": "text", "labels": ["loop:candidate"]})
    call("POST", f"{repo}/issues", {"body": "no title"})
    call("PATCH", f"{repo}/issues/235", {"state": "closed", "state_reason": "completed"})
    call("PATCH", f"{repo}/issues/235", {"state": "open"})
    call("POST", f"{repo}/issues/235/labels", {"labels": ["docs"]})
    call("DELETE", f"{repo}/issues/235/labels/docs")
    call("DELETE", f"{repo}/issues/235/labels/docs")
    call("POST", f"{repo}/issues/235/comments", {"body": "seen"})
    call("POST", f"{repo}/labels", {"name": "walk", "color": "ffffff", "description": "d"})
    call("PATCH", f"{repo}/labels/walk", {"color": "000000"})
    call("POST", f"{repo}/statuses/{sha}", {"state": "success", "context": "ci"})
    call("POST", f"{repo}/check-runs", {"name": "ci", "head_sha": sha, "conclusion": "success"})
    for path in (
        "", "/labels", "/issues?state=all&per_page=1", "/issues/235", "/issues/999", "/issues/235/labels",
        "/issues/235/comments", "/pulls?state=all", f"/pulls/{number}", f"/pulls/{number}/files",
        f"/pulls/{number}/commits", "/branches", f"/branches/{BRANCH}", "/branches/nowhere",
        f"/git/ref/heads/{BRANCH}", "/git/ref/heads/nowhere", "/git/matching-refs/heads", "/commits",
        "/commits/main", f"/commits/{sha}", f"/compare/main...{sha}", f"/compare/{sha}...main",
        f"/commits/{sha}/check-runs", f"/commits/{sha}/status", "/commits/main/status",
    ):  # fmt: skip
        call("GET", repo + path)
    for url in ("/user", "/users/AS215932", "/rate_limit", "/repos/AS215932/nowhere"):
        call("GET", forge.api_url + url)
    call("GET", f"{forge.api_url}/user", headers={"Authorization": "Bearer wrong"})
    call("DELETE", f"{repo}/git/refs/heads/{BRANCH}")
    call("DELETE", f"{repo}/git/refs/heads/{BRANCH}")
    call("POST", f"{forge.api_url}/app/installations/7/access_tokens", {})
    signed = {"Authorization": f"Bearer {_app_token(forge.url)}"}
    call("POST", f"{forge.api_url}/app/installations/7/access_tokens", {}, headers=signed)
    call("GET", f"{forge.api_url}/app", headers=signed)
    return made


def _app_token(url: str) -> str:
    """A web token signed with the key of an app that is made for it."""
    app = {"app_id": 5, "installation_id": 7}
    made = requests.post(f"{url}/_forge/apps", json=app, timeout=30).json()
    key = load_pem_private_key(made["private_key"].encode(), None)
    assert isinstance(key, RSAPrivateKey)
    claims = {"iss": "5", "iat": int(time.time()) - 60, "exp": int(time.time()) + 300}

    def part(content: bytes) -> str:
        return base64.urlsafe_b64encode(content).decode().rstrip("=")

    signed = f"{part(json.dumps({'alg': 'RS256', 'typ': 'JWT'}).encode())}.{part(json.dumps(claims).encode())}"
    return f"{signed}.{part(key.sign(signed.encode(), PKCS1v15(), SHA256()))}"


def test_every_answer_of_the_local_forge_is_one_of_githubs(tmp_path: Path) -> None:
    with running(tmp_path / "forge") as forge:
        assert walk(forge) > 50
        assert requests.get(f"{forge.url}/_forge/violations", timeout=30).json() == []


def everything(forge: Forge, url: str) -> None:
    """Every method of the client."""
    assert forge.create_draft_pull(REPO, title="Walk", body="b", head=BRANCH, base="main")["draft"]
    number = forge.newest_number(REPO)
    assert forge.token_ends() == "" and forge.identity()
    assert forge.may_push(REPO, url) and forge.may_open_pulls(REPO, "main")
    assert forge.repository(REPO) and forge.issue(REPO, number) and forge.issue(REPO, 999) is None
    assert forge.issues(REPO, state="all", labels="loop:approved") and forge.approved_issues(REPO, "loop:approved")
    tips = forge.branches(REPO)
    assert forge.compare(REPO, "main", BRANCH)["status"] == "ahead" and forge.checks(REPO, tips[BRANCH]) == {}
    (pull,) = forge.pulls(REPO, state="open", head=BRANCH)
    assert pull["draft"] and forge.pull_files(REPO, pull["number"])
    forge.request_reviewers(REPO, number, ["AS215932"])
    forge.add_labels(REPO, number, ["docs"])
    assert forge.comment(REPO, number, "seen")["body"] == "seen"
    assert [one["body"] for one in forge.comments(REPO, number, "2020-01-01T00:00:00Z")] == ["seen"]
    forge.close_pull(REPO, pull["number"])
    forge.delete_branch(REPO, BRANCH)
    forge.delete_branch(REPO, BRANCH)
    forge.remove_label(REPO, 235, "loop:approved")
    forge.remove_label(REPO, 235, "loop:approved")
    app = Forge(forge.api_url, _app_token(url))
    assert app.app()["slug"] and app.installation_token(7)["token"]


def with_a_branch(forge: Running) -> Forge:
    door = {"repo": REPO, "branch": BRANCH, "files": {"docs/walk.md": "walked\n"}}
    requests.post(f"{forge.url}/_forge/commits", json=door, timeout=30).raise_for_status()
    return Forge(forge.api_url, forge.token)


def test_every_request_of_the_client_is_one_of_githubs(tmp_path: Path) -> None:
    public = {name for name, what in vars(Forge).items() if callable(what) and not name.startswith("_")}
    called = set()

    def note(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename == ours.__file__:
            called.add(frame.f_code.co_name)

    with running(tmp_path / "forge") as served:
        forge = with_a_branch(served)
        sys.setprofile(note)
        try:
            everything(forge, served.url)
        finally:
            sys.setprofile(None)
    assert public <= called, "a method of the client is not held to the contract: call it in everything()"


# --- wrong on purpose


def wrong_type(monkeypatch: pytest.MonkeyPatch) -> None:
    pull = Shapes.pull

    def shaped(*arguments: Any, **more: Any) -> dict[str, Any]:
        return {**pull(*arguments, **more), "draft": "yes"}

    monkeypatch.setattr(Shapes, "pull", shaped)


def missing_field(monkeypatch: pytest.MonkeyPatch) -> None:
    repo = Shapes.repo

    def shaped(*arguments: Any, **more: Any) -> dict[str, Any]:
        return {key: value for key, value in repo(*arguments, **more).items() if key != "default_branch"}

    monkeypatch.setattr(Shapes, "repo", shaped)


def no_such_state(monkeypatch: pytest.MonkeyPatch) -> None:
    def close(self: Forge, repo: str, number: int) -> None:
        with pytest.raises(LoopError, match="HTTP 422"):
            self._request("PATCH", f"/repos/{repo}/pulls/{number}", body={"state": "shut"})

    monkeypatch.setattr(Forge, "close_pull", close)


def no_such_query(monkeypatch: pytest.MonkeyPatch) -> None:
    def newest(self: Forge, repo: str) -> int:
        found = self._json(self._request("GET", f"/repos/{repo}/issues", params={"order": "newest"}))
        return int(found[0]["number"])

    monkeypatch.setattr(Forge, "newest_number", newest)


def no_such_value(monkeypatch: pytest.MonkeyPatch) -> None:
    def newest(self: Forge, repo: str) -> int:
        found = self._json(self._request("GET", f"/repos/{repo}/issues", params={"sort": "newest"}))
        return int(found[0]["number"])

    monkeypatch.setattr(Forge, "newest_number", newest)


def no_such_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def delete(self: Forge, repo: str, branch: str) -> None:
        self._request("DELETE", f"/repos/{repo}/branches/{branch}", absent=(404, 405))

    monkeypatch.setattr(Forge, "delete_branch", delete)


@pytest.mark.parametrize(
    ("seed", "words"),
    [
        (wrong_type, r"POST .*/pulls -> 201: answer: \$\.draft: 'yes' is not of type 'boolean'"),
        (missing_field, "GET .*/network-operations -> 200: answer: .*'default_branch' is a required property"),
        (no_such_state, r"PATCH .*/pulls/236 -> 422: request: \$\.state: 'shut' is not one of \['open', 'closed'\]"),
        (no_such_query, "GET .*/issues -> 200: query: GitHub knows no order; it knows .*sort"),
        (no_such_value, "GET .*/issues -> 200: query: sort: 'newest' is not one of"),
        (no_such_call, "DELETE .*/branches/hyrule-feature/WALK/hyrule-infra -> 40[45]: GitHub has no such call"),
    ],
)
def test_a_wrong_field_does_not_go_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: Callable[[pytest.MonkeyPatch], None], words: str
) -> None:
    with pytest.raises(ForgeError, match=words), running(tmp_path / "forge") as served:
        forge = with_a_branch(served)
        seed(monkeypatch)
        everything(forge, served.url)


def test_a_forge_without_the_description_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openapi, "published", openapi.published.__wrapped__)
    monkeypatch.setattr(openapi, "FILE", tmp_path / "none.json")
    missing = pytest.raises(ForgeError, match=r"GitHub's description of its API is missing at .*: run make setup")
    with missing, running(tmp_path / "forge"):
        pass
