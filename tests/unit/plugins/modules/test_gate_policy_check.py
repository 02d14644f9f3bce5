# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module that asks the policy: one answer for all that was asked."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy import compose
from ansible_collections.as215932.engineering_loop.plugins.modules import gate_policy_check

POLICY = {
    "version": 1,
    "defaults": {
        "denied_path_globs": [".env"],
        "denied_content_patterns": ["AKIA[0-9A-Z]{16}"],
        "allowed_gate_commands": ["git"],
        "protected_branch_prefixes": ["main"],
        "allowed_handoff_dirs": ["/srv/runs"],
    },
    "repos": {"app": {"allowed_repo_roots": ["/srv/app"]}},
}
SECRET = "AKIA0123456789ABCDEF"
DIFF = f"diff --git a/docs/x b/docs/x\nnew file mode 100644\n--- /dev/null\n+++ b/docs/x\n@@ -0,0 +1 @@\n+{SECRET}\n"


def ask(capsys: pytest.CaptureFixture[str], **options: Any) -> dict[str, Any]:
    if "policy" not in options:
        options.setdefault("policy_content", POLICY)
    with patch_module_args(options), pytest.raises(SystemExit):
        gate_policy_check.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert answer.get("failed") or answer["changed"] is False
    return answer


@pytest.mark.parametrize(
    ("question", "denied"),
    [
        ({"handoff_dir": "/srv/runs/x"}, ""),
        ({"handoff_dir": "/tmp"}, "[allowed_handoff_dirs]"),
        ({"paths": ["docs/a"]}, ""),
        ({"paths": ["docs/a"], "allowed_paths": ["docs"]}, ""),
        ({"paths": ["src/a"], "allowed_paths": ["docs"]}, "[allowed_paths]"),
        ({"paths": ["docs/a"], "allowed_paths": []}, "[allowed_paths]"),
        ({"paths": ["docs/.env"]}, "[denied_path_globs]"),
        ({"diff": DIFF}, "[denied_content_patterns]"),
        ({"diff": DIFF.replace(SECRET, "text")}, ""),
        ({"gate_commands": ["git diff", ["git", "status"]]}, ""),
        ({"gate_commands": ["git diff", ["sh", "-c", "git"]]}, "[allowed_gate_commands]"),
        ({"branch_prefix": "hyrule-feature"}, ""),
        ({"branch_prefix": "main/x"}, "[protected_branch_prefixes]"),
        ({"remote": "origin"}, ""),
        ({"remote": "fork"}, "[allowed_pr_remotes]"),
        (
            {"remote": "origin", "remote_url": "https://evil.example/x", "expected_url": "https://a.example/x"},
            "[remote]",
        ),
        ({"repo": "app", "repo_root": "/srv/app"}, ""),
        ({"repo": "app", "repo_root": "/tmp/app"}, "[allowed_repo_roots]"),
    ],
)
def test_each_question(capsys: pytest.CaptureFixture[str], question: dict[str, Any], denied: str) -> None:
    answer = ask(capsys, **question)
    assert answer["allowed"] is not bool(denied)
    assert [line for line in answer["violations"] if not line.endswith(denied)] == []
    assert len(answer["violations"]) == bool(denied)


def test_all_at_once_from_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    policy, diff = tmp_path / "policy.yml", tmp_path / "x.diff"
    policy.write_text(compose.compose(POLICY, {}).text)
    diff.write_bytes(
        DIFF.encode()
        + b"diff --git a/docs/y b/docs/y\nnew file mode 100644\n--- /dev/null\n+++ b/docs/y\n@@ -0,0 +1 @@\n+\xff\n"
    )
    answer = ask(
        capsys, policy=str(policy), diff_file=str(diff), remote="fork", handoff_dir="/tmp", branch_prefix="main"
    )
    assert len(answer["violations"]) == 4
    assert ask(capsys, policy=str(policy), diff_file=str(tmp_path / "none"))["failed"] is True


def test_a_worktree_and_its_commits(capsys: pytest.CaptureFixture[str], open_to_all: Path) -> None:
    def git(*arguments: str) -> None:
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
        subprocess.run(command, cwd=open_to_all, check=True, capture_output=True)

    (open_to_all / "docs").mkdir()
    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message=base")
    git("tag", "base")
    (open_to_all / "docs/a").write_text(f"{SECRET}\n")
    git("add", "--all")
    git("commit", "--quiet", f"--message=agent\n\n{SECRET}")
    (open_to_all / "docs/a").write_text("clean\n")
    (open_to_all / ".env").write_text("A=1\n")
    if os.geteuid() == 0:  # then git must run as the owner, who is somebody else
        subprocess.run(["chown", "-R", "nobody", str(open_to_all)], check=True)
    answer = ask(capsys, worktree=str(open_to_all), base="base", allowed_paths=["docs"])
    assert sorted(line.rpartition(" ")[2] for line in answer["violations"]) == [
        "[allowed_paths]",
        "[denied_content_patterns]",
        "[denied_content_patterns]",
        "[denied_path_globs]",
    ]
    assert any(line.startswith("a commit: ") for line in answer["violations"])
    failed = ask(capsys, worktree=str(open_to_all), base="nothing")
    assert failed["failed"] is True
    assert "there is no commit nothing" in failed["msg"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of the following is required"),
        ({"policy": "/nowhere", "remote": "origin"}, "there is no policy at /nowhere"),
        ({"policy_content": {"version": 1}, "remote": "origin"}, "defaults.denied_path_globs: found nothing"),
        ({"diff": "no diff"}, "the diff cannot be read"),
        ({"paths": ["x"], "allowed_paths": ["/"]}, "allowed paths: found '/'"),
        ({"worktree": "/nowhere", "base": "x"}, "is not a directory"),
        ({"worktree": "/tmp"}, "parameters are required together"),
        ({"remote_url": "x", "handoff_dir": "/x"}, "remote"),
    ],
)
def test_what_cannot_be_asked(capsys: pytest.CaptureFixture[str], options: dict[str, Any], message: str) -> None:
    answer = ask(capsys, **options)
    assert answer["failed"] is True
    assert message in answer["msg"]
