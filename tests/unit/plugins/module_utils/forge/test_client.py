# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The forge's client against the real local forge: what it reads, what it asks again, and that the token stays in."""

from __future__ import annotations

import base64
import http.server
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
import requests
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.clock import moment_of
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.forge import client
from ansible_collections.as215932.engineering_loop.plugins.module_utils.forge.api_errors import UNNAMED_LIMIT
from ansible_collections.as215932.engineering_loop.plugins.module_utils.forge.client import Forge, Refused, redact
from ansible_collections.as215932.engineering_loop.plugins.module_utils.git.command import git
from deployed import BOT, BRANCH, ISSUE, OTHER, REPO, SEED, Host, Running, deployed, published, running
from forge import over_tls


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("forge") / "root", seed=SEED) as forge:
        yield forge


@pytest.fixture
def host(tmp_path: Path, served: Running) -> Host:
    return deployed(tmp_path, served)


@pytest.fixture
def forge(host: Host) -> Forge:
    return Forge(host.forge.api_url, host.forge.token)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def asked(host: Host, method: str = "GET") -> list[str]:
    """What reached the forge, in order."""
    entries = requests.get(f"{host.forge.url}/_forge/requests", timeout=10).json()
    return [entry["path"] for entry in entries if entry["method"] == method]


def pull(forge: Forge, number: int) -> dict[str, Any]:
    return next(each for each in forge.pulls(REPO) if each["number"] == number)


def test_reading(forge: Forge, host: Host) -> None:
    published(host)
    assert forge.identity() == BOT
    assert forge.repository(REPO)["default_branch"] == "main"
    assert [issue["number"] for issue in forge.issues(REPO)] == [ISSUE]
    assert [(one["repo"], one["number"]) for one in forge.approved_issues(REPO, "loop:approved")] == [(REPO, ISSUE)]
    assert forge.approved_issues(OTHER, "loop:approved") == []
    issue = forge.issue(REPO, ISSUE)
    assert issue is not None and issue["state"] == "open"
    assert forge.issue(REPO, 999) is None
    number = ISSUE + 1
    assert [pull["number"] for pull in forge.pulls(REPO, head=BRANCH)] == [number]
    assert forge.pulls(REPO, head="other") == [] and forge.pulls(REPO, state="closed") == []
    assert pull(forge, number)["draft"] is True
    assert [file["filename"] for file in forge.pull_files(REPO, number)] == ["docs/canary.md"]
    assert forge.newest_number(REPO) == number and forge.newest_number(OTHER) == 0
    assert set(forge.branches(REPO)) == {"main", BRANCH}
    between = forge.compare(REPO, "main", BRANCH)
    assert (between["status"], between["ahead_by"]) == ("ahead", 1)


def test_writing(forge: Forge, host: Host) -> None:
    published(host)
    forge.close_pull(REPO, ISSUE + 1)
    assert pull(forge, ISSUE + 1)["state"] == "closed"
    for _unused in range(2):  # what is gone already is fine
        forge.delete_branch(REPO, BRANCH)
        forge.remove_label(REPO, ISSUE, "loop:approved")
    assert set(forge.branches(REPO)) == {"main"} and forge.approved_issues(REPO, "loop:approved") == []


@pytest.mark.parametrize("branch", ["", "../../issues/1", "a//b", "/a", "a/", "./a", "a\x1bb"])
def test_a_branch_that_cannot_be_one(forge: Forge, host: Host, branch: str) -> None:
    before = len(host.forge.store.requests())
    with pytest.raises(LoopError, match="is not the name of a branch"):
        forge.delete_branch(REPO, branch)
    assert len(host.forge.store.requests()) == before


def test_labels_are_put_on_beside_those_that_are_there(forge: Forge) -> None:
    forge.add_labels(REPO, ISSUE, ["loop:held", "loop:approved"])
    assert [label["name"] for label in (forge.issue(REPO, ISSUE) or {})["labels"]] == ["loop:approved", "loop:held"]


def test_reviewers_are_asked_for(forge: Forge, host: Host) -> None:
    published(host)
    number = ISSUE + 1
    forge.request_reviewers(REPO, number, ["AS215932"])
    assert [user["login"] for user in pull(forge, number)["requested_reviewers"]] == ["AS215932"]
    with pytest.raises(Refused, match=r"HTTP 422 .Reviews may only be requested from collaborators") as error:
        forge.request_reviewers(REPO, number, ["nobody"])
    assert error.value.status == 422


def test_every_page_is_read_and_the_newest_without_the_rest(forge: Forge, host: Host) -> None:
    with host.forge.store.lock:
        for _unused in range(250):
            host.forge.store.add_issue(OTHER, "AS215932", title="x")
        host.forge.store.save()
    assert [issue["number"] for issue in forge.issues(OTHER)] == list(range(250, 0, -1))
    before = len(asked(host))
    assert [issue["number"] for issue in forge.issues(OTHER, after=240)] == list(range(250, 240, -1))
    assert len(asked(host)) == before + 1


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "down", "times": 2, "status": 502},
        {"kind": "down", "times": 2, "status": 503},
        {"kind": "down", "times": 2, "status": 504},
        {"kind": "drop", "times": 2},
        {"kind": "rate_limit", "which": "secondary", "retry_after": 3, "times": 2},
        {"kind": "rate_limit", "which": "primary", "retry_after": 3, "times": 2},
    ],
)
def test_what_passes_is_asked_again(forge: Forge, host: Host, pauses: list[float], fault: dict[str, Any]) -> None:
    host.side("faults", fault)
    assert forge.identity() == BOT
    assert len(pauses) == 2
    least = 1.5 if fault["kind"] == "rate_limit" else 0.4  # told in whole seconds, of which one has begun
    assert all(least <= pause <= 5 for pause in pauses)


def test_a_forge_that_stays_down_is_one_line(forge: Forge, host: Host, pauses: list[float]) -> None:
    host.side("faults", {"kind": "down", "times": 99})
    with pytest.raises(LoopError) as error:
        forge.identity()
    assert len(pauses) == client.TRIES - 1
    assert str(error.value).startswith(f"GET {host.forge.api_url}/user: HTTP 503 (No server is currently")
    assert str(error.value).endswith("the forge has a problem of its own: try again later")


@pytest.mark.parametrize("which", ["primary", "secondary"])
def test_a_long_rate_limit_is_told_not_waited_for(forge: Forge, host: Host, pauses: list[float], which: str) -> None:
    host.side("faults", {"kind": "rate_limit", "which": which, "retry_after": 3000, "times": 1})
    with pytest.raises(LoopError, match=r"the rate limit is used up: try again after 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ"):
        forge.identity()
    assert pauses == []


@pytest.mark.parametrize("fault", [{"kind": "down"}, {"kind": "drop"}])
def test_a_write_is_never_sent_twice(forge: Forge, host: Host, pauses: list[float], fault: dict[str, Any]) -> None:
    published(host)
    host.side("faults", {**fault, "methods": ["PATCH"], "times": 99})
    with pytest.raises(LoopError, match="PATCH "):
        forge.close_pull(REPO, ISSUE + 1)
    assert pauses == [] and len(asked(host, "PATCH")) == 1


@pytest.mark.parametrize(
    ("spoil", "call", "words"),
    [
        (
            lambda host: host.side("faults", {"kind": "expire_token"}),
            lambda forge: forge.identity(),
            "HTTP 401 (Bad credentials); the token is wrong or has expired",
        ),
        (lambda host: None, lambda forge: forge.repository("AS215932/none"), "HTTP 404 (Not Found); it does not exist"),
        (
            lambda host: host.side("tokens", {"login": BOT, "role": "read"}),
            lambda forge: forge.remove_label(REPO, ISSUE, "loop:approved"),
            "HTTP 403 (Resource not accessible by integration); the token may not do this",
        ),
        (lambda host: None, lambda forge: forge._get(f"/repos/{OTHER}/issues"), "gave list where an object was"),
    ],
)
def test_refusals_say_what_to_do_and_are_not_repeated(
    forge: Forge,
    host: Host,
    pauses: list[float],
    spoil: Callable[[Host], None],
    call: Callable[[Forge], Any],
    words: str,
) -> None:
    spoil(host)
    with pytest.raises(LoopError) as error:
        call(forge)
    assert words in str(error.value) and host.forge.token not in str(error.value)
    assert pauses == []


@pytest.mark.parametrize("which", ["primary", "secondary"])
def test_a_write_that_was_refused_for_want_of_quota_is_sent_again(
    forge: Forge, host: Host, pauses: list[float], which: str
) -> None:
    published(host)
    host.side("faults", {"kind": "rate_limit", "which": which, "retry_after": 2, "methods": ["PATCH"], "times": 2})
    forge.close_pull(REPO, ISSUE + 1)
    assert len(pauses) == 2 and len(asked(host, "PATCH")) == 3
    assert pull(forge, ISSUE + 1)["state"] == "closed"


def test_a_secondary_limit_without_a_time_is_waited_for(
    forge: Forge, host: Host, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    host.side("faults", {"kind": "rate_limit", "which": "secondary", "retry_after": 9, "times": 1})
    get = requests.Session.request

    def without_header(session: requests.Session, *arguments: Any, **more: Any) -> requests.Response:
        answer = get(session, *arguments, **more)
        answer.headers.pop("Retry-After", None)
        return answer

    monkeypatch.setattr(requests.Session, "request", without_header)
    assert forge.identity() == BOT
    assert len(pauses) == 1 and UNNAMED_LIMIT <= pauses[0] <= UNNAMED_LIMIT + 1


def statuses(host: Host) -> list[int]:
    return [entry["status"] for entry in host.forge.store.requests()]


def test_what_is_unchanged_is_not_sent_again(forge: Forge, host: Host) -> None:
    with host.forge.store.lock:
        for _unused in range(150):
            host.forge.store.add_issue(OTHER, "AS215932", title="x")
        host.forge.store.save()
    first, before = forge.issues(OTHER), len(statuses(host))
    assert forge.issues(OTHER) == first and len(first) == 150
    assert statuses(host)[before:] == [304, 304]
    assert forge.issues(OTHER, state="closed") == []  # another question has another answer
    host.post(f"/repos/{OTHER}/issues/1", {"title": "y"}, method="PATCH")
    before = len(statuses(host))
    assert forge.issues(OTHER)[-1]["title"] == "y"
    assert statuses(host)[before:] == [304, 200]  # only the page that changed


def test_a_token_that_expires_in_the_middle_is_said(forge: Forge, host: Host) -> None:
    host.side("faults", {"kind": "expire_token", "after": 2})
    assert forge.identity() == BOT and forge.newest_number(OTHER) == 0
    with pytest.raises(LoopError, match=r"HTTP 401 \(Bad credentials\); the token is wrong or has expired"):
        forge.repository(REPO)


def test_when_a_token_ends_is_asked(host: Host) -> None:
    assert Forge(host.forge.api_url, host.forge.token).token_ends() == ""
    token = host.side("tokens", {"login": BOT, "seconds": 86400})["token"]
    left = (moment_of(Forge(host.forge.api_url, token).token_ends()) - datetime.now(UTC)).total_seconds()
    assert 86300 < left <= 86400


@pytest.mark.parametrize(
    ("told", "ends"),
    [
        ("2027-03-31 00:00:00 UTC", "2027-03-31T00:00:00Z"),
        ("2027-03-31 00:00:00 +0900", "2027-03-30T15:00:00Z"),
        ("soon", ""),
    ],
)
def test_the_ways_in_which_it_is_written(forge: Forge, monkeypatch: pytest.MonkeyPatch, told: str, ends: str) -> None:
    answer = requests.Response()
    answer.headers["GitHub-Authentication-Token-Expiration"] = told
    monkeypatch.setattr(forge, "_request", lambda *_asked, **_more: answer)
    assert forge.token_ends() == ends


def test_an_apps_token_does_what_a_bots_does(host: Host) -> None:
    token = host.side("tokens", {"login": BOT, "kind": "installation", "seconds": 60})["token"]
    forge = Forge(host.forge.api_url, token)
    assert forge.may_push(REPO, host.forge.url) and forge.may_open_pulls(REPO, "main")
    with pytest.raises(LoopError, match=r"HTTP 403 .Resource not accessible by integration."):
        forge.identity()  # an app is no user


def test_what_the_token_may_do_is_tried_and_leaves_nothing(forge: Forge, host: Host) -> None:
    newest = forge.newest_number(REPO)
    assert forge.may_push(REPO, host.forge.url) and forge.may_open_pulls(REPO, "main")
    host.side("tokens", {"login": BOT, "role": "read"})
    assert not forge.may_push(REPO, host.forge.url) and not forge.may_open_pulls(REPO, "main")
    assert forge.newest_number(REPO) == newest


def test_git_has_the_last_word_on_pushing(forge: Forge, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    said = forge.repository(REPO)
    monkeypatch.setattr(forge, "repository", lambda repo: {**said, "permissions": {"push": False}})
    assert forge.may_push(REPO, host.forge.url)
    with pytest.raises(LoopError, match=r"engineering_loop_git_url .* would send the token in the clear"):
        forge.may_push(REPO, "http://forge.example")


# --- the way there


@pytest.fixture
def secure(served: Running, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The forge over TLS; the address of its API and the CA bundle that trusts it."""
    with over_tls(served, tmp_path) as (url, bundle):
        yield f"{url}/api/v3", bundle


def test_a_ca_bundle_comes_from_the_environment(
    host: Host, secure: tuple[str, Path], pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, bundle = secure
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    where = f"is not accepted on {os.uname().nodename}: if it is of a CA of your own, .* run update-ca-certificates"
    with pytest.raises(LoopError, match=f"{where}.*REQUESTS_CA_BUNDLE"):
        Forge(url, host.forge.token).identity()
    server = url.split("/")[2]
    with pytest.raises(LoopError, match=f"ls-remote .* the certificate of {server} {where}"):
        git(".", ["ls-remote", f"https://me:s3cret@{server}/o/a.git"], config={"http.sslCAInfo": "/dev/null"})
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    assert Forge(url, host.forge.token).identity() == BOT


class Proxy(http.server.BaseHTTPRequestHandler):
    """Hands a request on and remembers it."""

    seen: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("Proxy-Authorization", "")))
        session = requests.Session()
        session.trust_env = False
        answer = session.get(self.path, headers={"Authorization": self.headers["Authorization"]}, timeout=10)
        self.send_response(answer.status_code)
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


def test_a_proxy_comes_from_the_environment(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HTTP_PROXY", f"http://me:hunter2@127.0.0.1:{server.server_port}")
        monkeypatch.setenv("http_proxy", f"http://me:hunter2@127.0.0.1:{server.server_port}")
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("no_proxy", "")
        assert Forge(host.forge.api_url, host.forge.token).identity() == BOT
        basic = base64.b64encode(b"me:hunter2").decode()
        assert Proxy.seen == [(f"{host.forge.api_url}/user", f"Basic {basic}")]
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert Forge(host.forge.api_url, host.forge.token).identity() == BOT
        assert len(Proxy.seen) == 1
        server.shutdown()


def test_a_slow_forge_is_given_up(host: Host) -> None:
    host.side("faults", {"kind": "slow", "seconds": 0.5, "times": 1, "methods": ["DELETE"]})
    forge = Forge(host.forge.api_url, host.forge.token, timeout=(1.0, 0.2))
    with pytest.raises(LoopError, match="no answer in time"):
        forge.delete_branch(REPO, "x")


def test_nobody_there(pauses: list[float]) -> None:
    with pytest.raises(LoopError, match=r"no connection: is engineering_loop_github_api_url right"):
        Forge("http://127.0.0.1:9", "secret").identity()


def test_a_page_that_is_not_the_rest_api(host: Host) -> None:
    with pytest.raises(LoopError, match=r"HTTP 404 \(Not Found\)"):
        Forge(host.forge.url, host.forge.token).identity()


def test_a_proxys_password_is_not_told(host: Host, pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://me:hunter2@127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(LoopError) as error:
        Forge(host.forge.api_url, host.forge.token).identity()
    assert "the proxy (HTTPS_PROXY) does not answer" in str(error.value) and "hunter2" not in str(error.value)
    assert error.value.__cause__ is None


class Leading(http.server.BaseHTTPRequestHandler):
    """Answers every request by leading on to the address that it is told, and remembers who came with what."""

    to: ClassVar[str] = ""
    seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("Authorization", ""))
        self.send_response(302 if self.command == "GET" else 307)
        self.send_header("Location", self.to)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def leading(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Leading, "seen", [])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Leading) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_nothing_goes_where_a_redirect_leads_to_another_host(
    host: Host, leading: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Leading, "to", f"{host.forge.api_url}/user\x1b[2J")
    forge = Forge(leading, host.forge.token)
    for call in (forge.identity, lambda: forge.add_labels(REPO, ISSUE, ["x"]), lambda: forge.issues(REPO)):
        with pytest.raises(LoopError, match=r"HTTP 30[27]; it has moved to http://127.0.0.1:\d+/api/v3/user") as error:
            call()
        assert "\x1b" not in str(error.value)
    monkeypatch.setattr(forge, "repository", lambda repo: {})
    with pytest.raises(LoopError, match="it has moved to http"):
        forge.may_push(REPO, leading)
    # What an earlier test gave up waiting for may be answered only now.
    assert not [one for one in host.forge.store.requests() if "/user" in one["path"]]
    assert len(Leading.seen) == 4


def test_a_redirect_within_the_forge_is_followed_and_not_for_ever(
    host: Host, leading: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge = Forge(leading, host.forge.token)
    monkeypatch.setattr(Leading, "to", "/repositories/1")  # as GitHub leads on from a repository's old name
    with pytest.raises(LoopError, match="it has moved to /repositories/1"):
        forge.repository(REPO)
    assert Leading.seen == [f"Bearer {host.forge.token}"] * client.REDIRECTS


@pytest.mark.parametrize("git_url", ["https://github.example", "http://127.0.0.1:9", "http://localhost:9"])
def test_git_is_asked_at_the_forge_of_the_token_only(
    forge: Forge, git_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forge, "repository", lambda repo: {})
    with pytest.raises(
        LoopError,
        match=r"engineering_loop_git_url .* is not the forge of engineering_loop_github_api_url .*, whose",
    ):
        forge.may_push(REPO, git_url)


def test_a_netrc_does_not_replace_the_token(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login x password wrong\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert Forge(host.forge.api_url, host.forge.token).identity() == BOT


def test_a_next_page_elsewhere_is_not_followed(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    links = {"next": {"url": "http://127.0.0.1:9/steal?page=2"}}
    monkeypatch.setattr(requests.Response, "links", property(lambda answer: links))
    with pytest.raises(LoopError, match="names a next page on another address"):
        forge.issues(REPO)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://forge.example/api/v3", "would send the token in the clear"),
        ("ftp://forge.example", "api_url must be like"),
        ("https://user:pw@forge.example", "without credentials"),
        ("api.github.com", "api_url must be like"),
        ("", "api_url must be like"),
    ],
)
def test_an_address_that_cannot_be_one(url: str, words: str) -> None:
    with pytest.raises(LoopError, match=words) as error:
        Forge(url, "secret")
    assert "pw" not in str(error.value)


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "é"])
def test_a_token_that_cannot_be_one(token: str) -> None:
    with pytest.raises(LoopError, match="the forge token is empty or has characters that no token has"):
        Forge("https://api.github.com", token)


@pytest.mark.parametrize("repo", ["one", "a/b/c", "../x", "a/..", "a/b?x=1", "-a/b", "a/b#c", "a b/c"])
def test_a_repository_that_cannot_be_one(forge: Forge, repo: str) -> None:
    with pytest.raises(LoopError, match="is not a repository: write OWNER/NAME"):
        forge.repository(repo)


def test_the_token_is_in_no_repr(forge: Forge, host: Host) -> None:
    assert host.forge.token not in repr(forge)
    assert redact(f"a {host.forge.token} b", [host.forge.token, ""]) == "a *** b"


def test_an_enterprise_address_may_end_in_a_slash() -> None:
    assert Forge("https://github.example/api/v3/", "t").api_url == "https://github.example/api/v3"
