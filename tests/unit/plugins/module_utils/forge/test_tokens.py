# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The forge token, minted at the local forge, which checks the signature as GitHub does."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.forge import tokens
from ansible_collections.as215932.engineering_loop.plugins.module_utils.forge.client import Forge, Refused
from deployed import BOT, ISSUE, REPO, Host

ROOT = os.geteuid() == 0
NOT_ROOTS = "must belong to root"  # whoever else runs these tests can only make such a key
BEGIN = "-----BEGIN RSA PRIVATE " + "KEY-----"  # in two, so that no scanner takes it for a leak
NEVER = "http://127.0.0.1:9/api/v3"


@pytest.fixture
def host(host: Host, tmp_path: Path) -> Host:
    """A host that an App was installed for."""
    made = host.side("apps", {"app_id": 12, "installation_id": 345})
    key = tmp_path / "etc" / "key.pem"
    key.write_text(made["private_key"], encoding="utf-8")
    key.chmod(0o600)
    host.config["github_app"] = {"id": "12", "installation_id": "345", "private_key_file": str(key)}
    return host


def only_for_root(host: Host) -> bool:
    """Whether this is not root, after a look at what anybody else is told."""
    if not ROOT:
        with pytest.raises(LoopError, match=NOT_ROOTS):
            token(host)
    return not ROOT


def token(host: Host, environment: dict[str, str] | None = None, **app: Any) -> tokens.Token:
    settings = {**host.config["github_app"], **app}
    return tokens.forge_token(settings, environment or {}, host.forge.api_url, "/etc/env")


def test_a_minted_token_works_and_is_the_apps(host: Host) -> None:
    if only_for_root(host):
        return
    minted = token(host, {"GH_TOKEN": "spare"})
    assert (minted.kind, minted.note) == ("app", "")
    assert minted.expires_at.endswith("Z")
    assert minted.token not in repr(minted)
    assert Forge(host.forge.api_url, minted.token).repository(REPO)["full_name"] == REPO
    assert token(host).token != minted.token  # one for each cycle


def test_the_file_with_the_secrets_can_name_the_app(host: Host) -> None:
    if only_for_root(host):
        return
    names = ("ID", "INSTALLATION_ID", "PRIVATE_KEY_FILE", "API_URL")
    values = (*host.config["github_app"].values(), host.forge.api_url)
    environment = {f"ENGINEERING_LOOP_GITHUB_APP_{name}": value for name, value in zip(names, values, strict=True)}
    minted = tokens.forge_token({"private_key_file": "/default.pem"}, environment, NEVER, "/etc/env")
    assert minted.kind == "app"


def test_root_gets_a_token_and_the_name_it_acts_as(host: Host) -> None:
    if only_for_root(host):
        return
    found, login = tokens.acting(host.config, host.config["env_file"])
    assert (found != host.forge.token, login) == (True, BOT)
    host.config["github_app"]["installation_id"] = "999"
    assert tokens.acting(host.config, host.config["env_file"]) == (host.forge.token, "")


def test_an_apps_token_is_for_its_own_forge_only(host: Host) -> None:
    if only_for_root(host):
        return
    path = Path(host.config["env_file"])
    path.write_text(f"{path.read_text()}ENGINEERING_LOOP_GITHUB_API_URL={host.forge.api_url}\n")
    assert tokens.acting(host.config, str(path))[1] == BOT
    host.config["api_url"] = "https://github.example/api/v3"
    with pytest.raises(
        LoopError, match=r"and engineering_loop_github_api_url that the forge is https://github\.example"
    ):
        tokens.acting(host.config, str(path))


@pytest.mark.parametrize(
    ("app", "reason"),
    [
        ({"id": "13"}, "HTTP 404 (Integration not found); no App has the id"),
        ({"installation_id": "346"}, "HTTP 404"),
        ({"installation_id": "x"}, "engineering_loop_github_app_installation_id must be a number"),
        ({"installation_id": ""}, "lacks its installation_id: set engineering_loop_github_app_installation_id"),
        ({"id": ""}, "lacks its id: set engineering_loop_github_app_id"),
        ({"private_key_file": "key.pem"}, "must be the absolute path"),
        ({"private_key_file": "/nowhere/key.pem"}, "/nowhere/key.pem, is missing"),
    ],
)
def test_without_a_token_of_the_app_the_spare_one_is_used_and_said(
    host: Host, app: dict[str, str], reason: str
) -> None:
    with pytest.raises(LoopError) as caught:
        token(host, **app)
    if ROOT or "HTTP" not in reason:
        assert reason in str(caught.value)
    spare = token(host, {"ENGINEERING_LOOP_GITHUB_TOKEN": "spare"}, **app)
    assert (spare.token, spare.kind) == ("spare", "break-glass")
    assert spare.note.startswith("BREAK-GLASS TOKEN USED, the GitHub App gave none: ")


def test_without_an_app_the_token_is_nothing_special(host: Host) -> None:
    none = {"id": "", "installation_id": ""}
    assert token(host, {"GH_TOKEN": "a", "ENGINEERING_LOOP_GITHUB_TOKEN": "b"}, **none) == tokens.Token(
        "a", "break-glass"
    )
    with pytest.raises(
        LoopError, match="no forge token: put GH_TOKEN into /etc/env, or set engineering_loop_github_app_id"
    ):
        token(host, {"GH_TOKEN": ""}, **none)


def change(host: Host, **what: Any) -> None:
    """The App as its owner changes it on the forge."""
    requests.patch(f"{host.forge.url}/_forge/apps/12", json=what, timeout=10).raise_for_status()


@pytest.mark.parametrize(
    ("seconds", "said", "way"),
    [
        (-300, "'Expiration time' claim ('exp') is too far in the future", "ahead of"),
        (-90, "'Expiration time' claim ('exp') is too far in the future", "ahead of"),
        (700, "('exp') must be a numeric value representing the future time", "behind"),
        (7200, "('exp') must be a numeric value", "behind"),
    ],
)
def test_a_clock_that_is_wrong_is_said_with_by_how_much(host: Host, seconds: int, said: str, way: str) -> None:
    if only_for_root(host):
        return
    host.side("clock", {"seconds": seconds})
    with pytest.raises(LoopError) as caught:
        token(host)
    assert "HTTP 401" in str(caught.value) and said in str(caught.value)
    means = rf"; the clock of this host is (\d+) s {way} the forge's: set it right with timedatectl"
    off = re.search(means, str(caught.value))
    assert off and abs(int(off[1]) - abs(seconds)) < 20
    host.side("clock", {"seconds": 0})
    assert token(host).kind == "app"


@pytest.mark.parametrize("seconds", [-55, 500])
def test_a_clock_that_is_a_little_off_is_no_matter(host: Host, seconds: int) -> None:
    if only_for_root(host):
        return
    host.side("clock", {"seconds": seconds})
    assert token(host).kind == "app"


def test_an_app_without_a_date_in_the_answer_blames_no_clock_by_number(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    if only_for_root(host):
        return
    host.side("clock", {"seconds": -900})
    ask = requests.Session.request

    def undated(session: requests.Session, *arguments: Any, **more: Any) -> requests.Response:
        answer = ask(session, *arguments, **more)
        answer.headers.pop("Date")
        return answer

    monkeypatch.setattr(requests.Session, "request", undated)
    with pytest.raises(LoopError, match=r"the clock of this host is wrong, or the forge's: see timedatectl$"):
        token(host)


def another_key(host: Host) -> None:
    made = host.side("apps", {"app_id": 99, "installation_id": 1})
    Path(host.config["github_app"]["private_key_file"]).write_text(made["private_key"], encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "status", "said", "means"),
    [
        (
            another_key,
            401,
            "A JSON web token could not be decoded",
            "the private key is not one of the App with the id",
        ),
        (
            lambda host: host.config["github_app"].update(id="12x"),
            401,
            "'Issuer' claim ('iss') must be an Integer",
            "engineering_loop_github_app_id is not the id of an App: copy it from the App's own page",
        ),
        (
            lambda host: host.config["github_app"].update(id="13"),
            404,
            "Integration not found",
            "no App has the id engineering_loop_github_app_id: copy it from the App's own page",
        ),
        (
            lambda host: change(host, installation_id=346),
            404,
            "Not Found",
            "the App has no installation of this number: engineering_loop_github_app_installation_id is the number at",
        ),
        (
            lambda host: change(host, suspended=True),
            403,
            "This installation has been suspended",
            "the App's installation is suspended: its owner can lift that on its page",
        ),
        (
            lambda host: host.side("faults", {"kind": "rate_limit", "retry_after": 3000}),
            403,
            "API rate limit exceeded for user ID 1.",
            "the rate limit is used up: try again after 20",
        ),
    ],
)
def test_each_cause_of_a_refusal_is_told_apart(
    host: Host, spoil: Callable[[Host], object], status: int, said: str, means: str
) -> None:
    if only_for_root(host):
        return
    spoil(host)
    with pytest.raises(Refused) as caught:
        token(host)
    assert caught.value.status == status
    assert f": HTTP {status} ({said}); {means}" in str(caught.value)


def test_a_minted_token_that_ends_or_may_too_little_says_so(host: Host) -> None:
    if only_for_root(host):
        return
    change(host, permissions={"contents": "read", "issues": "write", "metadata": "read"}, token_seconds=3600)
    minted = Forge(host.forge.api_url, token(host).token)
    minted.add_labels(REPO, ISSUE, ["docs"])
    needed = r"HTTP 403 \(Resource not accessible by integration\); .*the permission pull_requests=write \(to an"
    with pytest.raises(LoopError, match=needed):
        minted.request_reviewers(REPO, ISSUE, [BOT])
    assert not minted.may_open_pulls(REPO, "main")
    change(host, suspended=True)
    with pytest.raises(LoopError, match="the App's installation is suspended"):
        minted.branches(REPO)
    change(host, suspended=False, token_seconds=1)
    short = Forge(host.forge.api_url, token(host).token)
    time.sleep(1.2)
    with pytest.raises(LoopError, match=r"HTTP 401 \(Bad credentials\); the token is wrong or has expired"):
        short.branches(REPO)
    assert minted.branches(REPO)  # the older one lives for an hour


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602])
def test_a_key_that_others_could_have_written_is_not_used(host: Host, mode: int) -> None:
    if only_for_root(host):
        return
    key = Path(host.config["github_app"]["private_key_file"])
    key.chmod(mode)
    if mode & 0o022:
        with pytest.raises(LoopError, match=r"can be written by others than root .*chmod 0600"):
            token(host)
    else:  # whoever renders it
        assert token(host).kind == "app"
    assert stat.S_IMODE(key.stat().st_mode) == mode


@pytest.mark.parametrize("content", ["", "secret", f"{BEGIN}\nsecret\n{BEGIN.replace('BEGIN', 'END')}\n"])
def test_a_key_that_is_none_is_not_shown(host: Host, content: str) -> None:
    if only_for_root(host):
        return
    Path(host.config["github_app"]["private_key_file"]).write_text(content)
    with pytest.raises(LoopError, match="is not an RSA private key in PEM") as caught:
        token(host)
    assert "secret" not in str(caught.value)


def test_a_module_gets_what_its_options_say(host: Host, tmp_path: Path) -> None:
    if only_for_root(host):
        return
    path = host.config["env_file"]
    app = {**host.config["github_app"], "api_url": host.forge.api_url}
    assert tokens.token_for(path, None) == host.forge.token
    assert tokens.token_for(path, app) != host.forge.token
    assert tokens.token_for(f"{tmp_path}/missing", {**app, "id": None, "installation_id": ""}) == ""
    assert tokens.token_for(None, None) == ""
