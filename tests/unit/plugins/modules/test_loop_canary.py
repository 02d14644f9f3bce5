# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The canary's module: what an operator sees of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ansible_collections.as215932.engineering_loop.plugins.module_utils import canary, receipts
from ansible_collections.as215932.engineering_loop.plugins.modules import loop_canary
from deployed import ISSUE, REPO, SEED, Host, Running, deployed, published, running


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("forge") / "root", seed=SEED) as forge:
        yield forge


@pytest.fixture
def host(tmp_path: Path, forge: Running, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = deployed(tmp_path, forge)
    monkeypatch.setattr(receipts, "UNIT_DIR", str(tmp_path / "systemd"))
    monkeypatch.setattr(canary, "systemd", host.systemd)
    return host


@pytest.fixture
def run(host: Host, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(**options: Any) -> dict[str, Any]:
        given = {"config": str(host.config_file), "repo": REPO, "issue": ISSUE, **options}
        args = {key: value for key, value in given.items() if value is not None}
        with patch_module_args(args), pytest.raises(SystemExit):
            loop_canary.main()
        out = capsys.readouterr().out
        assert host.forge.token not in out
        answer: dict[str, Any] = json.loads(out)
        return answer

    return run


def test_it_proves_once(run: Any, host: Host) -> None:
    first = run(applied_by="ops", overrides=["x"], _ansible_diff=True)
    assert first["changed"] and first["passed"] and Path(first["receipt"]).exists()
    assert first["diff"]["before"].startswith("not proven: nothing was proven")
    second = run()
    assert not second["changed"] and second["passed"] and second["reason"].startswith("proven by the docs canary")
    assert len(host.started) == 1


def test_force_proves_again(run: Any, host: Host) -> None:
    assert run(cleanup=True)["passed"]
    host.side("issues", {"repo": REPO, "title": "Second canary", "labels": ["loop:approved"], "number": 300})
    refused = run(force=True)
    assert refused["failed"] and "does not have the label loop:approved" in refused["msg"]


def test_a_failed_canary_is_one_line_with_its_evidence(run: Any, host: Host) -> None:
    def cycle(host: Host) -> dict[str, Any]:
        host.push({"docs/canary.md": "# Canary\n"})
        host.handoff()
        return host.report(host.pull(draft=False))

    host.cycle = cycle
    result = run()
    assert result["failed"] and result["changed"]
    assert result["msg"] == "the docs canary failed at draft: expected open draft; seen: open and ready for review"
    assert result["evidence"]["pulls"][0]["draft"] is False
    assert result["receipt"] is None


def test_check_mode_starts_nothing(run: Any, host: Host) -> None:
    told = run(_ansible_check_mode=True)
    assert told["changed"] and told["reason"].startswith("the docs canary would run: nothing was proven")
    assert host.started == []
    host.config_file.unlink()
    told = run(_ansible_check_mode=True)
    assert told["changed"] and told["reason"] == "the canary would run once this host is deployed"
    assert "was not deployed yet" in run()["msg"]


def test_docs_needs_its_issue(run: Any) -> None:
    assert "mode is docs but all of the following are missing: issue" in run(issue=None)["msg"]


def test_without_a_token_it_says_where_to_put_it(run: Any, host: Host) -> None:
    Path(host.config["env_file"]).write_text("OTHER=1\n", encoding="utf-8")
    assert f"{host.config['env_file']} has none of GH_TOKEN" in run()["msg"]


def test_an_app_token_needs_its_name(run: Any, host: Host) -> None:
    token = host.side("tokens", {"login": "hyrule-loop[bot]", "kind": "installation"})["token"]
    Path(host.config["env_file"]).write_text(f"GH_TOKEN={token}\n", encoding="utf-8")
    assert "HTTP 403" in run()["msg"]
    host.cycle = published
    assert run(identity="hyrule-loop[bot]")["passed"]
