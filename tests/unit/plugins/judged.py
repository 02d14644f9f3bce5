# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the policy share: a base to compose, a policy to judge by, changes, and a repository of them."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.commits import work_between
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.diff import changes_in_diff
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.rules import judge_changes
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.uncommitted import changes_in_worktree

BASE: dict[str, Any] = {
    "version": 1,
    "defaults": {
        "max_changed_files": 20,
        "max_file_bytes": 1048576,
        "denied_path_globs": [".env", "*.key", "secrets/**"],
        "denied_content_patterns": ["-----BEGIN .*PRIVATE KEY-----", "AKIA[0-9A-Z]{16}"],
        "allowed_gate_commands": ["python3", "git"],
        "protected_branch_prefixes": ["main", "prod"],
        "allowed_pr_remotes": ["origin"],
        "allowed_handoff_dirs": ["/tmp", "/var/lib/engineering-loop/runs"],
    },
    "repos": {},
}
RUNS = "/var/lib/engineering-loop/runs"
SCHEMA = json.loads((Path(__file__).resolve().parents[3] / "docs/gate-policy.schema.json").read_text())
POLICY: dict[str, Any] = {
    "version": 1,
    "defaults": {
        "max_changed_files": 20,
        "max_file_bytes": 100_000,
        "denied_path_globs": [".env", ".env.*", "*.key", "id_*", "secrets/**", "**/secrets/**"],
        "denied_content_patterns": [
            "-----BEGIN .*PRIVATE KEY-----",
            "AKIA[0-9A-Z]{16}",
            r"(?i)(api_key|token|secret)\s*=\s*['\"][^'\"]+['\"]",
        ],
        "allowed_gate_commands": ["python3", "git"],
        "protected_branch_prefixes": ["main", "prod"],
        "allowed_pr_remotes": ["origin"],
        "allowed_handoff_dirs": ["/var/lib/engineering-loop/runs"],
    },
    "repos": {"app": {"allowed_repo_roots": ["/srv/app"]}},
}
KEY = "-----BEGIN RSA PRIVATE KEY-----"
GIT = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    **{f"GIT_{who}_{what}": "x@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


class Repo:
    """A repository with one commit, written to like an agent would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")
        self.write("docs/a.md", "hello\n")
        self.write("run.sh", "echo\n")
        self.base = self.commit()

    def git(self, *arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(
            command, cwd=self.path, env=GIT, check=True, capture_output=True, text=True
        ).stdout.strip()

    def git_with(self, text: str, *arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(
            command, cwd=self.path, env=GIT, check=True, capture_output=True, text=True, input=text
        ).stdout.strip()

    def write(self, name: str, content: str | bytes) -> Path:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))
        return file

    def commit(self) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message=x")
        return self.git("rev-parse", "HEAD")

    def violations(self, **options: Any) -> set[tuple[str, str]]:
        changes = work_between(str(self.path), self.base).changes + changes_in_worktree(str(self.path))
        return {(v.subject, v.rule) for v in judge_changes(options.pop("policy", POLICY), "app", changes, **options)}


def violations(diff: str | bytes, policy: dict[str, Any] | None = None, **options: Any) -> set[tuple[str, str]]:
    content = diff if isinstance(diff, bytes) else diff.encode("utf-8", "surrogateescape")
    changes = changes_in_diff(content)
    return {(v.subject, v.rule) for v in judge_changes(policy or POLICY, "app", changes, **options)}


def new_file(name: str, *lines: str, mode: str = "100644") -> str:
    body = "".join(f"+{line}\n" for line in lines)
    head = f"diff --git a/{name} b/{name}\nnew file mode {mode}\nindex 0000000..1111111\n"
    return f"{head}--- /dev/null\n+++ b/{name}\n@@ -0,0 +1,{len(lines)} @@\n{body}" if lines else head


def with_guards(**guards: Any) -> dict[str, Any]:
    return {**POLICY, "guards": {"defaults": guards}}


def with_default(key: str, value: Any) -> dict[str, Any]:
    """BASE, with another value of one of its defaults."""
    policy = copy.deepcopy(BASE)
    policy["defaults"][key] = value
    return policy
