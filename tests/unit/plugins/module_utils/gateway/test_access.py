# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What lets the gateway in: root brings it, the gateway mints with it, and no word of it is told to anybody."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.clock import moment_of
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.gateway import access
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user
from celled import GATE, LOOP, NEEDS_ROOT, Box, box, give, uid
from gated import SEED, Running, door, journal, running

pytestmark = NEEDS_ROOT
APP, INSTALLATION = 77, 4711


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("forge") / "root", seed=SEED) as found:
        yield found


@pytest.fixture
def host(forge: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    with box() as found:
        found.deploy()
        (found.top / "run/access").mkdir(mode=0o700)
        give(found.top / "run/access", GATE)
        monkeypatch.setenv("RUNTIME_DIRECTORY", str(found.top / "run/access"))
        found.config.update(git_url=forge.url, api_url=forge.api_url)
        found.write_config()
        yield found


def app(host: Box, forge: Running, seconds: int = 3600) -> str:
    """The forge knows an App, and the host has its key."""
    asked = {"app_id": APP, "installation_id": INSTALLATION, "token_seconds": seconds}
    made = requests.post(f"{forge.url}/_forge/apps", json=asked, timeout=10).json()
    path = host.top / "etc/key.pem"
    path.write_text(made["private_key"])
    path.chmod(0o600)
    host.config["github_app"] = {"id": str(APP), "installation_id": str(INSTALLATION), "private_key_file": str(path)}
    host.write_config()
    return str(made["private_key"])


def secrets(host: Box, text: str) -> None:
    (host.top / "etc/env").write_text(text)
    (host.top / "etc/env").chmod(0o600)


def bring(host: Box) -> Path:
    assert access.bring(host.config_file) == 0
    return host.top / "run/access" / access.HANDED


def token(host: Box) -> dict[str, Any]:
    """As the gateway."""

    def ask() -> dict[str, Any]:
        found = access.token(host.config)
        return {"token": found.token, "kind": found.kind, "note": found.note, "expires": found.expires_at}

    found: dict[str, Any] = as_user(GATE, ask)
    return found


def minted(forge: Running) -> int:
    return sum(one["path"].endswith("/access_tokens") for one in forge.store.requests())


def test_root_brings_what_is_the_forges_and_nothing_of_a_provider(host: Box) -> None:
    secrets(host, "GH_TOKEN=t\nOPENAI_API_KEY=provider\nHTTPS_PROXY=http://proxy:3128\nHYRULE_DISCORD_WEBHOOK=hook\n")
    file = bring(host)
    assert (file.stat().st_uid, file.stat().st_mode & 0o777) == (uid(GATE), 0o400)
    assert json.loads(file.read_text()) == {
        "problem": "", "environment": {"HTTPS_PROXY": "http://proxy:3128"}, "app": None, "token": "t",
    }  # fmt: skip
    assert token(host) == {"token": "t", "kind": "break-glass", "note": "", "expires": ""}
    with pytest.raises(LoopError, match="Permission denied"):
        as_user(LOOP, lambda: access.token(host.config).token)


def test_the_networks_variables_are_for_all_that_it_starts(host: Box) -> None:
    secrets(host, "GH_TOKEN=t\nHTTPS_PROXY=http://proxy:3128\nREQUESTS_CA_BUNDLE=/ca.pem\nOPENAI_API_KEY=k\n")
    bring(host)

    def seen() -> list[str | None]:
        access.take(host.config)
        return [os.environ.get(name) for name in ("HTTPS_PROXY", "REQUESTS_CA_BUNDLE", "OPENAI_API_KEY", "GH_TOKEN")]

    assert as_user(GATE, seen) == ["http://proxy:3128", "/ca.pem", None, None]


def test_the_apps_token_is_minted_once(host: Box, forge: Running) -> None:
    app(host, forge)
    secrets(host, "OTHER=1\n")
    bring(host)
    before = minted(forge)
    first = token(host)
    assert first["kind"] == "app" and first["token"].startswith("ghs_") and first["expires"] and first["note"] == ""
    for _unused in range(3):
        assert token(host) == first
    assert minted(forge) == before + 1
    file = host.top / "run/access" / access.MINTED
    assert (file.stat().st_uid, file.stat().st_mode & 0o777) == (uid(GATE), 0o400)


def test_one_that_ends_soon_is_minted_anew(host: Box, forge: Running) -> None:
    app(host, forge, seconds=int(access.SPARE_SECONDS) - 10)
    secrets(host, "OTHER=1\n")
    bring(host)
    assert token(host)["token"] != token(host)["token"]
    app(host, forge)
    bring(host)
    longer = token(host)
    assert token(host) == longer


@pytest.mark.parametrize(
    "odd",
    ["", "[", "{}", "null", '{"token": "x"}', '{"token": 5, "kind": "app", "expires_at": "soon"}',
     '{"token": "x", "kind": "app", "note": "", "expires_at": null}'],
)  # fmt: skip
def test_a_minted_token_that_cannot_be_read_is_minted_anew(host: Box, forge: Running, odd: str) -> None:
    app(host, forge)
    secrets(host, "OTHER=1\n")
    bring(host)
    file = host.top / "run/access" / access.MINTED
    file.write_text(odd)
    give(file, GATE)
    assert token(host)["token"].startswith("ghs_")


def test_the_break_glass_token_where_the_app_fails(
    host: Box, forge: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    key = app(host, forge)
    secrets(host, "GH_TOKEN=spare\n")
    host.config["github_app"]["installation_id"] = "1"
    host.write_config()
    bring(host)
    found = token(host)
    assert (found["token"], found["kind"]) == ("spare", "break-glass")
    assert found["note"].startswith("BREAK-GLASS TOKEN USED, the GitHub App gave none: POST ")
    told = capfd.readouterr().out
    assert "BREAK-GLASS TOKEN USED" in told and "spare" not in told and key[40:80] not in told
    assert not (host.top / "run/access" / access.MINTED).exists()


def test_where_there_is_no_token_at_all(host: Box) -> None:
    secrets(host, "OTHER=1\n")
    bring(host)
    with pytest.raises(LoopError, match=r"no forge token: put GH_TOKEN into .*etc/env, or set"):
        token(host)


@pytest.mark.parametrize("fault", ["missing", "writable", "no key", "file", "half", "gone"])
def test_a_problem_is_brought_and_told_to_who_asks_without_a_word_of_the_key(
    host: Box, forge: Running, fault: str, capfd: pytest.CaptureFixture[str]
) -> None:
    app(host, forge)
    path = host.top / "etc/key.pem"
    secrets(host, "OTHER=1\n")
    if fault == "missing":
        path.unlink()
    elif fault == "writable":
        path.chmod(0o642)
    elif fault == "no key":
        path.write_text("-----BEGIN RSA PRIVATE " + "KEY-----\nhunter2hunter2\n")
    elif fault == "file":
        secrets(host, "hunter2\n")
    elif fault == "half":
        host.config["github_app"]["installation_id"] = ""
        host.write_config()
    else:
        (host.top / "etc/env").unlink()
    file = bring(host)  # the gateway starts all the same, to tell it
    with pytest.raises(LoopError) as caught:
        token(host)
    reason = {
        "missing": "the private key of the GitHub App, .* is missing", "writable": "can be written by others than root",
        "no key": "is not an RSA private key in PEM", "file": "no KEY=value", "half": "lacks its installation_id",
        "gone": "is missing: it must hold the secrets",
    }[fault]  # fmt: skip
    assert caught.match(reason)
    assert "hunter2" not in str(caught.value) + "".join(capfd.readouterr())
    assert "hunter2" not in json.loads(file.read_text())["problem"]


def test_a_gateway_that_was_given_nothing(host: Box) -> None:
    for act in (access.token, access.take):
        with pytest.raises(
            LoopError, match=f"was not given access to the forge: systemctl restart {host.config['unit']}-gate"
        ):
            act(host.config)


def test_where_it_is_without_a_runtime_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    assert access.directory(Settings({"unit": "u"})) == "/run/u-gate-secrets"


def test_a_cycle_whose_gateway_has_an_app(forge: Running) -> None:
    """The whole: what is pushed and opened is the App's, and minted once for all of it."""
    with box() as other:
        other.config.update(api_url=forge.api_url)
        key = app(other, forge)
        given = {**other.config["github_app"]}
        os.makedirs("/run/loop-test-keys", exist_ok=True)
        copy = Path(f"/run/loop-test-keys/{os.getpid()}.pem")
        copy.write_text(key)
        copy.chmod(0o600)
    before = minted(forge)
    try:
        with door(forge, github_app={**given, "private_key_file": str(copy)}) as gate:
            with gate.cycle(gate.issue()) as ours:
                ours.commit()
                assert ours.push().returncode == 0 and ours.open().returncode == 0
                answer = gate.refresh(ours.name)
            assert answer["token"]["kind"] == "app" and minted(forge) == before + 1
            assert key[40:80] not in journal(gate.host) + json.dumps(ours.entries())
            assert moment_of(answer["token"]["expires"]).timestamp() > time.time()
    finally:
        copy.unlink()
        copy.parent.rmdir()
