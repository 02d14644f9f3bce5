# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from forge import running
from forge_client import Client
from forge_store import ForgeError, import_source

REPO = "AS215932/network-operations"
BRANCH = "hyrule-feature/T/hyrule-infra"


def commit(client: Client, files: dict[str, str], branch: str = BRANCH) -> str:
    return str(client.door("commits", {"repo": REPO, "branch": branch, "files": files})["sha"])


def open_pull(client: Client, **more: Any) -> requests.Response:
    body = {"title": "T", "head": BRANCH, "base": "main", "body": "B", "draft": True}
    return client.rest("POST", f"/repos/{REPO}/pulls", {**body, **more})


def test_the_seeded_canary_is_the_only_approved_issue(client: Client) -> None:
    issues = client.rest("GET", f"/repos/{REPO}/issues?labels=loop:approved").json()
    assert [(issue["number"], issue["state"]) for issue in issues] == [(235, "open")]
    assert client.rest("GET", "/repos/AS215932/hyrule-web/issues").json() == []


def test_a_pull_request_takes_its_facts_from_git(client: Client) -> None:
    sha = commit(client, {"docs/a.md": "one\ntwo\n", "docs/index.md": "changed\n"})
    commit(client, {"docs/elsewhere.md": "main went on\n"}, branch="main")
    pull = open_pull(client).json()
    assert (pull["number"], pull["draft"], pull["state"]) == (236, True, "open")
    assert (pull["head"]["sha"], pull["changed_files"], pull["commits"]) == (sha, 2, 1)
    files = client.rest("GET", f"/repos/{REPO}/pulls/236/files").json()
    assert {file["filename"]: file["status"] for file in files} == {"docs/a.md": "added", "docs/index.md": "modified"}
    assert files[0]["patch"] == "@@ -0,0 +1,2 @@\n+one\n+two"
    assert pull["user"]["login"] == "hyrule-loop[bot]"
    listed = client.rest("GET", f"/repos/{REPO}/pulls?head=AS215932:{BRANCH}").json()
    assert [entry["number"] for entry in listed] == [236]
    assert client.rest("GET", f"/repos/{REPO}/pulls?head=AS215932:other").json() == []


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"title": ""}, {"resource": "PullRequest", "code": "missing_field", "field": "title"}),
        ({"head": "nowhere"}, {"resource": "PullRequest", "code": "invalid", "field": "head"}),
        ({"base": "nowhere"}, {"resource": "PullRequest", "code": "invalid", "field": "base"}),
        (
            {"head": "main"},
            {"resource": "PullRequest", "code": "custom", "message": "No commits between main and main"},
        ),
    ],
)
def test_a_pull_request_that_cannot_be(client: Client, change: dict[str, str], error: dict[str, str]) -> None:
    commit(client, {"docs/a.md": "a\n"})
    answer = open_pull(client, **change)
    assert (answer.status_code, answer.json()["errors"]) == (422, [error])


def test_a_body_is_json_whatever_it_is_called(client: Client) -> None:
    url = f"{client.forge.api_url}/repos/{REPO}/issues/235"
    form = {"Authorization": f"token {client.forge.token}", "Content-Type": "application/x-www-form-urlencoded"}
    assert requests.patch(url, data='{"state": "closed"}', headers=form, timeout=30).json()["state"] == "closed"
    assert requests.patch(url, data="{nonsense", headers=form, timeout=30).status_code == 400


def test_one_open_pull_request_per_branch(client: Client) -> None:
    commit(client, {"docs/a.md": "a\n"})
    assert open_pull(client).status_code == 201
    assert open_pull(client).json()["errors"][0]["message"] == f"A pull request already exists for AS215932:{BRANCH}."
    client.rest("PATCH", f"/repos/{REPO}/pulls/236", {"state": "closed"})
    assert open_pull(client).json()["number"] == 237


def test_deleting_its_branch_closes_a_pull_request(client: Client) -> None:
    commit(client, {"docs/a.md": "a\n"})
    open_pull(client)
    assert client.rest("DELETE", f"/repos/{REPO}/git/refs/heads/{BRANCH}").status_code == 204
    pull = client.rest("GET", f"/repos/{REPO}/pulls/236").json()
    assert (pull["state"], pull["changed_files"]) == ("closed", 1)


def test_lists_come_in_pages(client: Client) -> None:
    for number in range(4):
        client.door("issues", {"repo": REPO, "title": f"Issue {number}"})
    path, seen = f"{client.forge.api_url}/repos/{REPO}/issues?per_page=2", []
    while path:
        answer = requests.get(path, timeout=30)
        seen += [issue["number"] for issue in answer.json()]
        path = answer.links.get("next", {}).get("url", "")
    assert seen == [239, 238, 237, 236, 235]


def test_who_may_do_what(client: Client) -> None:
    reader = client.door("tokens", {"login": "reader", "role": "read"})["token"]
    label = (f"/repos/{REPO}/issues/235/labels", {"labels": ["docs"]})
    assert client.rest("GET", "/user").json()["login"] == "hyrule-loop[bot]"
    assert client.rest("GET", "/user", token="wrong").json()["message"] == "Bad credentials"
    assert client.rest("GET", "/user", token="").status_code == 401
    assert client.rest("POST", *label, token="").status_code == 401
    assert client.rest("POST", *label, token=reader).status_code == 403
    assert client.rest("POST", *label).status_code == 200
    client.door("repos", {"repo": "AS215932/hidden", "private": True})
    assert client.rest("GET", "/repos/AS215932/hidden", token="").status_code == 404
    assert client.rest("GET", "/repos/AS215932/hidden").json()["private"] is True


def test_an_unchanged_answer_is_not_sent_twice(client: Client) -> None:
    url = f"{client.forge.api_url}/repos/{REPO}/issues/235"
    first = requests.get(url, timeout=30)
    again = requests.get(url, headers={"If-None-Match": first.headers["ETag"]}, timeout=30)
    assert (again.status_code, again.content) == (304, b"")
    client.rest("PATCH", f"/repos/{REPO}/issues/235", {"title": "Other"})
    assert requests.get(url, headers={"If-None-Match": first.headers["ETag"]}, timeout=30).status_code == 200


def test_pushing(client: Client, tmp_path: Path) -> None:
    checkout = client.clone(REPO, tmp_path / "checkout")
    (checkout / "docs" / "new.md").write_text("new\n", encoding="utf-8")
    client.git(checkout, "add", ".")
    client.git(checkout, "commit", "--quiet", "-m", "New")
    refused = client.run("git", "push", "origin", "HEAD:main", cwd=checkout)
    assert refused.returncode == 1
    assert "GH006: Protected branch update failed for refs/heads/main." in refused.stderr
    client.git(checkout, "push", "--quiet", "origin", f"HEAD:{BRANCH}")
    assert client.git(checkout, "ls-remote", "origin", BRANCH).startswith(client.git(checkout, "rev-parse", "HEAD"))
    pushes = [push for entry in client.requests() for push in entry.get("push", [])]
    assert [(push["ref"], push["accepted"]) for push in pushes] == [
        ("refs/heads/main", False),
        (f"refs/heads/{BRANCH}", True),
    ]


def test_a_stranger_may_clone_but_not_push(client: Client, tmp_path: Path) -> None:
    stranger = {"GIT_CONFIG_COUNT": "0"}
    url = f"{client.forge.url}/{REPO}.git"
    assert client.run("git", "clone", "--quiet", url, "c", cwd=tmp_path, **stranger).returncode == 0
    pushed = client.run("git", "push", "origin", "HEAD:x", cwd=tmp_path / "c", **stranger)
    assert "could not read Username" in pushed.stderr


def test_no_token_is_ever_written_down_but_the_bots_own(client: Client, tmp_path: Path) -> None:
    token = client.door("tokens", {"login": "someone"})["token"]
    client.rest("GET", "/user", token=token)
    client.clone(REPO, tmp_path / "checkout")
    kept = [file.read_text(encoding="utf-8") for file in (tmp_path / "forge").glob("*.json*")]
    assert len(kept) == 2
    assert not any(secret in text for text in kept for secret in (token, client.forge.token))
    assert (tmp_path / "forge" / "token").stat().st_mode & 0o777 == 0o600


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as first:
        requests.post(f"{first.url}/_forge/issues", json={"repo": REPO, "title": "Kept"}, timeout=30)
    with running(tmp_path) as second:
        issue = requests.get(f"{second.api_url}/repos/{REPO}/issues/236", timeout=30).json()
        assert (issue["title"], second.token) == ("Kept", first.token)


def test_faults_come_and_go(client: Client) -> None:
    client.door("faults", {"kind": "down", "times": 1})
    assert [client.rest("GET", "/user").status_code for _unused in range(2)] == [503, 200]
    client.door("faults", {"kind": "rate_limit", "which": "secondary", "retry_after": 7, "path": "/issues"})
    limited = client.rest("GET", f"/repos/{REPO}/issues")
    assert (limited.status_code, limited.headers["Retry-After"]) == (403, "7")
    assert client.rest("GET", "/user").status_code == 200
    requests.delete(f"{client.forge.url}/_forge/faults", timeout=30)
    client.door("faults", {"kind": "rate_limit", "times": 1})
    spent = client.rest("GET", "/user")
    assert (spent.status_code, spent.headers["X-RateLimit-Remaining"]) == (403, "0")
    client.door("faults", {"kind": "slow", "seconds": 0.3, "times": 1})
    started = time.monotonic()
    client.rest("GET", "/user")
    assert time.monotonic() - started > 0.3
    client.door("faults", {"kind": "drop", "times": 1})
    with pytest.raises(requests.ConnectionError):
        client.rest("GET", "/user")
    client.door("faults", {"kind": "half", "times": 1})
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError), match="IncompleteRead"):
        client.rest("GET", "/user")
    client.door("faults", {"kind": "expire_token", "after": 1})
    assert [client.rest("GET", "/user").status_code for _unused in range(2)] == [200, 401]


def commit_in(client: Client, directory: Path) -> Path:
    checkout = client.clone(REPO, directory)
    (checkout / "docs" / "new.md").write_text("new\n", encoding="utf-8")
    client.git(checkout, "add", ".")
    client.git(checkout, "commit", "--quiet", "-m", "New")
    return checkout


def test_a_push_is_refused_with_words(client: Client, tmp_path: Path) -> None:
    checkout = commit_in(client, tmp_path / "checkout")
    words = f"error: GH013: Repository rule violations found for refs/heads/{BRANCH}.\n- Push cannot contain secrets"
    client.door("faults", {"kind": "refuse_push", "words": words, "times": 1})
    client.git(checkout, "fetch", "--quiet", "origin")  # is no push, and wears nothing out
    refused = client.run("git", "push", "origin", f"HEAD:{BRANCH}", cwd=checkout)
    assert refused.returncode == 1
    assert "remote: - Push cannot contain secrets" in refused.stderr
    assert f"! [remote rejected] HEAD -> {BRANCH} (pre-receive hook declined)" in refused.stderr
    assert client.requests()[-1]["push"][0]["accepted"] is False
    client.git(checkout, "push", "--quiet", "origin", f"HEAD:{BRANCH}")


def test_a_token_is_revoked_in_the_middle_of_a_push(client: Client, tmp_path: Path) -> None:
    checkout = commit_in(client, tmp_path / "checkout")
    client.door("faults", {"kind": "expire_token", "path": "/git-receive-pack$", "times": 1})
    refused = client.run("git", "push", "origin", f"HEAD:{BRANCH}", cwd=checkout)
    assert refused.returncode
    last = client.requests()[-1]
    assert (last["method"], last["status"], last["path"].rpartition("/")[2]) == ("POST", 401, "git-receive-pack")
    assert client.rest("GET", "/user").status_code == 401


def test_a_forge_that_is_closed_refuses_connections_and_comes_back(client: Client) -> None:
    before = client.requests()
    client.door("faults", {"kind": "closed", "seconds": 3})
    with pytest.raises(requests.ConnectionError, match="refused"):
        client.rest("GET", "/user")
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            assert client.rest("GET", "/user").status_code == 200
            break
        except requests.ConnectionError:
            time.sleep(0.05)
    assert len(client.requests()) == len(before) + 1


def test_a_forge_that_ends_while_it_is_closed_stays_closed(tmp_path: Path) -> None:
    with running(tmp_path / "forge") as served:
        requests.post(f"{served.url}/_forge/faults", json={"kind": "closed", "seconds": 0.2}, timeout=30)
    time.sleep(0.5)
    with pytest.raises(requests.ConnectionError):
        requests.get(served.url, timeout=30)


def test_the_forges_clock_may_be_another(client: Client) -> None:
    client.door("clock", {"seconds": 3600})
    date = parsedate_to_datetime(client.rest("GET", "/rate_limit").headers["Date"])
    assert 3590 < date.timestamp() - time.time() < 3610


def test_importing_replaces_a_repository(client: Client, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    client.git(source, "init", "--quiet", "-b", "seed")
    client.git(source, "commit", "--quiet", "--allow-empty", "-m", "Engine")
    client.git(source, "bundle", "create", "--quiet", "../engine.bundle", "seed")
    sha = client.git(source, "rev-parse", "HEAD")
    for given in (tmp_path / "engine.bundle", source):
        found = import_source(tmp_path / "forge", "AS215932/engineering-loop", str(given))
        assert found == {"main": sha, "seed": sha}
        copy = client.clone("AS215932/engineering-loop", tmp_path / f"copy-of-{given.name}")
        assert client.git(copy, "rev-parse", "HEAD") == sha
    with pytest.raises(ForgeError, match="no repository AS215932/nope"):
        import_source(tmp_path / "forge", "AS215932/nope", str(source))


def test_requests_are_recorded_by_who_and_what(client: Client) -> None:
    client.rest("POST", f"/repos/{REPO}/issues/235/comments", {"body": "private words"})
    entry = client.requests()[-1]
    assert (entry["method"], entry["status"], entry["login"]) == ("POST", 201, "hyrule-loop[bot]")
    assert entry["keys"] == ["body"]
    assert "private words" not in json.dumps(entry)


def test_its_links_lead_a_person_to_a_page_that_runs_nothing(client: Client) -> None:
    evil = "<script>alert(1)</script>\u202e"
    commit(client, {"docs/a.md": f"{evil}\n", "docs/<img src=x>.md": "two\n"})
    made = open_pull(client, title=f"T {evil}", body='"><iframe>').json()
    client.rest("POST", f"/repos/{REPO}/issues/{made['number']}/comments", {"body": "<b>well</b>"})
    issue = client.rest("GET", f"/repos/{REPO}/issues/235").json()
    for url, told in (
        (made["html_url"], ("T &lt;script&gt;", "&#34;&gt;&lt;iframe&gt;", "+&lt;script&gt;", "&lt;img src=x&gt;.md",
                            "&lt;b&gt;well&lt;/b&gt;", BRANCH)),
        (issue["html_url"], (issue["title"],)),
        (made["html_url"].partition("/pull/")[0], (f'href="/{REPO}/pull/{made["number"]}"', "T &lt;script&gt;")),
        (made["html_url"].partition(f"/{REPO}")[0] + "/", (f'href="/{REPO}"',)),
    ):  # fmt: skip
        page = requests.get(url, timeout=30)
        assert page.status_code == 200 and page.headers["Content-Type"] == "text/html; charset=utf-8", page.text
        assert page.headers["Content-Security-Policy"].startswith("default-src 'none';")
        assert all(words in page.text for words in told), page.text
        assert not any(tag in page.text for tag in ("<script", "<iframe", "<img", "<b>")), page.text
    assert requests.get(f"{made['html_url']}0", timeout=30).status_code == 404
