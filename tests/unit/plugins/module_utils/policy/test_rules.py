# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verdicts: never milder than the engine's rules, and not fooled where those are."""

from __future__ import annotations

import copy
import fnmatch
import re
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.change import Change
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.paths import PROTECTED
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.rules import (
    admits_handoff,
    judge_branch,
    judge_changes,
    judge_gate_command,
    judge_handoff,
    judge_remote,
    judge_repo_root,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from judged import GIT, POLICY, Repo, new_file, violations, with_default, with_guards


def test_a_guard_is_switched_for_one_repo_with_its_exceptions() -> None:
    guards = {"repos": {"app": {"dependency_manifests": ["docs/requirements.txt"]}, "web": {"lock_files": False}}}
    policy = {**POLICY, "guards": guards}

    def found(repo: str, path: str) -> list[str]:
        return [violation.rule for violation in judge_changes(policy, repo, [Change(path)])]

    assert found("app", "docs/requirements.txt") == []
    assert found("app", "requirements.txt") == ["guards.dependency_manifests"]
    assert found("web", "docs/requirements.txt") == ["guards.dependency_manifests"]
    assert found("web", "uv.lock") == []
    assert found("app", "uv.lock") == ["guards.lock_files"]


def test_a_guard_that_is_off_leaves_the_engines_rules_on() -> None:
    policy = {**POLICY, "guards": {"defaults": dict.fromkeys(PROTECTED, False)}}
    found = judge_changes(policy, "app", [Change("secrets/AGENTS.md")])
    assert [violation.rule for violation in found] == ["denied_path_globs"]


def test_totals() -> None:
    many = [Change(f"docs/{number}") for number in range(21)]
    assert [v.rule for v in judge_changes(POLICY, "app", many)] == ["max_changed_files"]
    assert judge_changes(POLICY, "app", many[1:]) == []
    policy = with_guards(max_patch_bytes=10)
    assert violations(new_file("docs/a", "éééé"), policy) == set()
    assert violations(new_file("docs/a", "ééééé"), policy) == {("the change", "guards.max_patch_bytes")}


def engine_reads(status: str) -> str:
    path = status.split(" -> ", 1)[1] if " -> " in status else status
    return path.strip().strip('"')


def engine_denies(policy: dict[str, Any], repo: str, status: list[str], diff: str, prefixes: list[str]) -> bool:
    own = {**policy["defaults"], **policy["repos"].get(repo, {})}
    paths = sorted({engine_reads(line) for line in status})
    if len(paths) > own["max_changed_files"]:
        return True
    for path in paths:
        if not any(PurePosixPath(path).is_relative_to(prefix) for prefix in prefixes):
            return True
        if any(fnmatch.fnmatch(PurePosixPath(path).as_posix(), glob) for glob in own["denied_path_globs"]):
            return True
    added = [line[1:] for line in diff.splitlines() if line.startswith("+") and not line.startswith("+++")]
    return any(re.search(pattern, line) for pattern in own["denied_content_patterns"] for line in added)


PIECES = st.sampled_from(
    [
        "a",
        "B",
        " ",
        "é",
        '"',
        "\\",
        "\t",
        "docs",
        ".env",
        "key",
        "id_",
        "AKIA",
        "+",
        "\r",
        "\f",
        " -> ",
        "secrets",
        "token",
        "x='1'",
    ]
)
NAMES = st.lists(PIECES, min_size=1, max_size=4).map("".join).filter(lambda name: name not in ("secrets", "deep"))
FILES = st.dictionaries(
    st.tuples(st.sampled_from(["docs", "secrets", "docs/deep/secrets", "src"]), NAMES).map("/".join),
    st.lists(st.lists(PIECES, max_size=4).map("".join), max_size=3).map("\n".join),
    min_size=1,
    max_size=3,
)
GLOBS = st.sampled_from([".env", "*.key", "id_*", "secrets/**", "**/secrets/**", "*[0-9]", "[!a-z]*", "*1", "docs/*"])
PATTERNS = st.sampled_from(["AKIA", "^x", "a$", r"(?i)TOKEN\w*x", r"^\+", r"\S{9}", "é", "[^a]b", r"\\", "^$"])


@given(
    files=FILES,
    globs=st.lists(GLOBS, min_size=1, max_size=2),
    patterns=st.lists(PATTERNS, min_size=1, max_size=2),
    limit=st.integers(1, 3),
    prefixes=st.lists(st.sampled_from(["docs", ".", "secrets"]), min_size=1, max_size=2),
    own=st.booleans(),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_engine_denies_is_denied(
    tmp_path_factory: pytest.TempPathFactory,
    files: dict[str, str],
    globs: list[str],
    patterns: list[str],
    limit: int,
    prefixes: list[str],
    own: bool,
) -> None:
    repo = Repo(tmp_path_factory.mktemp("d") / "app")
    policy = copy.deepcopy(POLICY)
    policy["defaults"]["max_changed_files"] = limit
    target = policy["repos"]["app"] if own else policy["defaults"]
    target.update(denied_path_globs=globs, denied_content_patterns=patterns)
    for name, content in files.items():
        repo.write(name, content)
    repo.git("add", "--all", "--intent-to-add")
    raw = subprocess.run(
        ["git", "status", "--porcelain"], cwd=repo.path, env=GIT, check=True, capture_output=True
    ).stdout
    diff = subprocess.run(["git", "diff"], cwd=repo.path, env=GIT, check=True, capture_output=True).stdout
    status = [line[3:] for line in raw.decode().splitlines()]
    denied = engine_denies(policy, "app", status, diff.decode("utf-8", "surrogateescape"), prefixes)
    ours = repo.violations(policy=policy, prefixes=prefixes)
    assert not denied or ours
    if diff:
        assert not denied or violations(diff, policy, prefixes=prefixes)


@pytest.mark.parametrize(
    ("command", "allowed"),
    [
        ("python3 -m pytest", True),
        (["git", "diff"], True),
        (["/usr/bin/python3", "x"], True),
        ("bash -c true", False),
        ("./python3", False),
        ("/tmp/agent/python3", False),
        ("/usr/bin/../../tmp/git", False),
        ("", False),
        ([], False),
        ([""], False),
        ("python3 'x", False),
        (["python3/"], False),
    ],
)
def test_gate_commands(command: str | list[str], allowed: bool) -> None:
    assert (judge_gate_command(POLICY, command) == []) is allowed


@pytest.mark.parametrize(
    ("branch", "allowed"),
    [
        ("hyrule-feature", True),
        ("hyrule-feature/ISSUE_APP_1/app", True),
        ("mainline", True),
        ("x/main", True),
        ("main", False),
        ("main/x", False),
        ("Main", False),
        ("refs/heads/main", False),
        ("heads/prod/x", False),
        ("", False),
        ("-f", False),
        ("a..b", False),
        ("a b", False),
        ("a.lock", False),
        ("main\n", False),
        ("hyrule-feature/é", True),
        ("hyrule-feature/AKIA0123456789ABCDEF", False),
        ("hyrule-feature/AKIA0123456789ABCDEF/app", False),
        ("hyrule-feature/a\u202eb", False),
        ("hyrule-feature/a\u200bb", False),
        ("hyrule-feature/a\udcffb", False),
        ("x/" * 3000 + "x", False),
    ],
)
def test_branches(branch: str, allowed: bool) -> None:
    assert (judge_branch(POLICY, branch) == []) is allowed


def test_remotes() -> None:
    def allowed(remote: str, url: str | None = None, expected: str | None = None) -> bool:
        return judge_remote(POLICY, remote, url, expected) == []

    place = "https://github.com/AS215932/app.git"
    assert allowed("origin") and not allowed("fork") and not allowed("")
    assert allowed("origin", "https://x-access-token:T@GitHub.com/as215932/app/", place)
    assert not allowed("origin", "https://github.com.evil.example/AS215932/app.git", place)
    assert not allowed("origin", "https://github.com@evil.example/AS215932/app.git", place)
    assert not allowed("origin", None, place)
    told = judge_remote(POLICY, "origin", "https://u:TOKEN@evil.example/x", place)
    assert "TOKEN" not in str(told)


def test_roots_and_handoffs() -> None:
    assert judge_repo_root(POLICY, "app", "/srv/app") == []
    assert judge_repo_root(POLICY, "other", "/anywhere") == []
    assert judge_repo_root(POLICY, "app", "/srv/app2") != []
    assert judge_repo_root(POLICY, "other", "srv") != []
    assert judge_handoff(POLICY, "/var/lib/engineering-loop/runs/x/handoff") == []
    assert [v.rule for v in judge_handoff(POLICY, "/tmp/x")] == ["allowed_handoff_dirs"]


def test_admission_resolves_both_sides(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "runs/link").symlink_to(tmp_path / "outside")
    (tmp_path / "alias").symlink_to(tmp_path / "runs")
    (tmp_path / "root").symlink_to("/")
    policy = with_default("allowed_handoff_dirs", [str(tmp_path / "alias"), str(tmp_path / "root")])
    assert admits_handoff(policy, f"{tmp_path}/runs/new/handoff")
    assert admits_handoff(policy, f"{tmp_path}/alias")
    assert not admits_handoff(policy, f"{tmp_path}/runs/link/handoff")
    assert not admits_handoff(policy, f"{tmp_path}/runs/../outside")
    assert not admits_handoff(policy, f"{tmp_path}/runs-2")
    assert not admits_handoff(policy, "/etc"), "an allowed link to / does not admit everything"


def test_a_relative_handoff_is_never_admitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    policy = with_default("allowed_handoff_dirs", [str(tmp_path)])
    assert admits_handoff(policy, str(tmp_path / "handoff"))
    assert not admits_handoff(policy, "handoff")
    assert not admits_handoff(policy, "")
