# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `workspace`: what a task shows of it."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.as215932.engineering_loop.plugins.modules import workspace

COMMIT = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-q", "--allow-empty", "-m", "0"]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    for name in ("one", "two"):
        repository = tmp_path / f"forge/acme/{name}.git"
        subprocess.run(["git", "init", "-q", "-b", "main", str(repository)], check=True)
        subprocess.run(COMMIT, cwd=repository, check=True)

    def run(**options: Any) -> dict[str, Any]:
        given = {
            "root": str(tmp_path / "workspace"), "git_url": str(tmp_path / "forge"),
            "repositories": [{"repo": "acme/one"}, {"repo": "acme/two"}],
            "user": pwd.getpwuid(os.geteuid()).pw_name, "_ansible_diff": True, **options,
        }  # fmt: skip
        with patch_module_args(given), pytest.raises(SystemExit):
            workspace.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return run


def test_it_clones_once(run: Any, tmp_path: Path) -> None:
    assert run(_ansible_check_mode=True)["changed"] and not (tmp_path / "workspace").exists()
    first = run()
    assert first["changed"] and first["diff"]["before"] == "one: -\ntwo: -\n" and "one: -" not in first["diff"]["after"]
    assert first["failed_checkouts"] == [] and not run()["changed"]


def test_a_failed_one_is_named_after_the_others(run: Any, tmp_path: Path) -> None:
    repositories = [{"repo": "acme/none"}, {"repo": "acme/two"}]
    answer = run(repositories=repositories)
    assert answer["failed"] and answer["msg"].startswith("1 of 2 checkouts failed: none: ") and answer["changed"]
    assert (tmp_path / "workspace/two/.git").is_dir()
    lenient = run(repositories=repositories, required=False)
    assert not lenient.get("failed") and lenient["failed_checkouts"] == ["none"]
    assert "none: " in str(lenient["warnings"])


def test_what_was_put_aside_is_said(run: Any, tmp_path: Path) -> None:
    run()
    (tmp_path / "workspace/one/mine").write_text("mine")
    answer = run()
    assert answer["changed"] and "one: it has local changes" in str(answer["warnings"])
    assert Path(answer["repositories"][0]["quarantined"], "tree/mine").read_text() == "mine"


def test_a_wrong_name_is_one_line(run: Any) -> None:
    answer = run(repositories=[{"repo": "acme"}])
    assert answer["failed"] and "OWNER/NAME" in answer["msg"] and "\n" not in answer["msg"]


def test_a_token_file_that_is_missing_or_has_one(run: Any, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("GH_TOKEN=s3cret\n")
    for name in ("missing", "env"):
        assert "s3cret" not in json.dumps(run(env_file=str(tmp_path / name)))
