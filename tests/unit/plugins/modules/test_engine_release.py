# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `engine_release`: what a task shows of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import store
from ansible_collections.as215932.engineering_loop.plugins.modules import engine_release

PYTHON = os.path.realpath(sys.executable)
COMMIT = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-q", "--allow-empty", "-m", "0"]


@pytest.fixture
def shas(tmp_path: Path) -> list[str]:
    """Two commits of an engine that is a file and needs nothing but a virtual environment."""
    source = tmp_path / "engine"
    subprocess.run(["git", "init", "-q", "-b", "main", str(source)], check=True)
    (source / "engine.py").write_text("print('runs')\n")
    subprocess.run(["git", "add", "-A"], cwd=source, check=True)
    found = []
    for _unused in range(2):
        subprocess.run([*COMMIT, "--date=now"], cwd=source, check=True)
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=source, check=True, capture_output=True, text=True)
        found.append(done.stdout.strip())
    return found


@pytest.fixture
def run(tmp_path: Path, shas: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    def run(**options: Any) -> dict[str, Any]:
        given = {
            "repo": str(tmp_path / "engine"), "install_dir": str(tmp_path / "opt"), "python": PYTHON,
            "uv": str(Path(sys.executable).parent / "uv"), "sync": ["uv", "venv", "-q", ".venv"],
            "smoke": [".venv/bin/python", "engine.py"], "unit": "", "run_lock": str(tmp_path / "daemon.lock"),
            "_ansible_diff": True, **options,
        }  # fmt: skip
        with (
            patch_module_args({key: value for key, value in given.items() if value is not None}),
            pytest.raises(SystemExit),
        ):
            engine_release.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return run


def test_a_fresh_host_then_a_bump_then_back(run: Any, shas: list[str], tmp_path: Path) -> None:
    foretold = run(version=shas[0], _ansible_check_mode=True)
    assert foretold["changed"] and foretold["built"] and foretold["activated"] and not (tmp_path / "opt").exists()
    assert foretold["diff"] == {"before": "active: none\n", "after": f"active: {shas[0]}\n"}
    first = run(version=shas[0])
    assert first["diff"] == foretold["diff"] and first["release"]["sha"] == shas[0] and first["previous"] is None
    assert not run(version=shas[0])["changed"]
    store.record_verdict(str(tmp_path / "opt"), shas[0], "proven")
    assert run(version=shas[1])["previous"]["sha"] == shas[0]
    back = run(state="previous", repo=None)
    assert back["changed"] and back["diff"]["after"] == f"active: {shas[0]}\n"
    assert not run(state="previous", repo=None)["changed"]
    gone = run(state="absent", repo=None)
    assert gone["changed"] and sorted(gone["pruned"]) == sorted(shas) and not (tmp_path / "opt").exists()


def test_check_mode_needs_no_git(run: Any, shas: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert run(version=shas[0], uv="uv", _ansible_check_mode=True)["built"]


def test_check_mode_asks_no_forge(run: Any, shas: list[str], tmp_path: Path) -> None:
    """A host that is to be taken over has a GitHub App, and not yet what its token is minted with."""
    app = {"id": "1", "installation_id": "2", "private_key_file": str(tmp_path / "key.pem"), "api_url": "http://[::]:1"}
    assert run(version=shas[0], github_app=app, _ansible_check_mode=True)["built"]
    assert "key.pem" in run(version=shas[0], github_app=app)["msg"]


@pytest.mark.parametrize("version", ["main", "v1.0", "abc1234", "A" * 40, "a" * 40 + "\n", "a" * 41])
def test_a_version_that_is_no_commit_is_refused(run: Any, version: str) -> None:
    answer = run(version=version)
    assert answer["failed"] and "is not a full commit id" in answer["msg"] and "\n" not in answer["msg"]


def test_version_is_required(run: Any) -> None:
    assert "version" in run()["msg"]


def test_a_change_by_hand_is_a_warning(run: Any, shas: list[str], tmp_path: Path) -> None:
    run(version=shas[0])
    script = tmp_path / f"opt/releases/{shas[0]}/engine.py"
    script.chmod(0o644)
    script.write_text("print('hot fix')\n")
    answer = run(version=shas[0])
    assert answer["changed"] and answer["damaged"] == ["engine.py"] and "changed by hand" in str(answer["warnings"])


def test_a_token_in_a_file_is_not_told(run: Any, shas: list[str], tmp_path: Path) -> None:
    (tmp_path / "env").write_text("GH_TOKEN=from-file\n")
    (tmp_path / "env").chmod(0o600)
    assert "from-" not in json.dumps(run(version=shas[0], env_file=str(tmp_path / "env")))
