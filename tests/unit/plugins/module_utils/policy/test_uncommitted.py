# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worktree has that is not committed: nothing that the repository says hides it."""

from __future__ import annotations

import copy
import subprocess
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.diff import changes_in_diff
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.uncommitted import changes_in_worktree
from judged import GIT, KEY, POLICY, Repo, with_guards


def test_an_honest_change_is_allowed(repo: Repo) -> None:
    repo.write("docs/a.md", "hello\nworld\n")
    repo.commit()
    repo.write("docs/b.md", "more\n")
    assert repo.violations(prefixes=["docs"]) == set()


def test_nothing_that_the_repository_says_hides_a_file(repo: Repo) -> None:
    repo.git("update-index", "--assume-unchanged", "docs/a.md")
    repo.git("config", "core.excludesFile", "/dev/stdin")
    repo.git("config", "filter.hide.clean", "true")
    repo.git("config", "diff.external", "true")
    repo.write(".git/info/exclude", "hidden\n")
    repo.write(".git/info/attributes", "* -diff filter=hide\n")
    repo.write("hidden/.env", "A=1\n")
    repo.write("docs/a.md", f"{KEY}\n")
    assert repo.violations() == {("docs/a.md", "denied_content_patterns"), ("hidden/.env", "denied_path_globs")}


def test_a_file_that_is_ignored_by_the_tree_is_not_published_and_not_judged(repo: Repo) -> None:
    repo.write(".gitignore", "*.log\n")
    repo.write("debug.log", f"{KEY}\n")
    assert repo.violations() == set()
    repo.git("add", "--force", "debug.log")
    assert repo.violations() == {("debug.log", "denied_content_patterns")}


def test_kinds_of_files(repo: Repo) -> None:
    repo.write("docs/b.bin", b"\0\1")
    (repo.path / "docs/link").symlink_to("/etc/passwd")
    (repo.path / "run.sh").chmod(0o755)
    repo.git("init", "--quiet", "docs/module")
    expected = {
        ("docs/b.bin", "guards.binaries"),
        ("docs/link", "guards.symlinks"),
        ("run.sh", "guards.executables"),
        ("docs/module", "guards.submodules"),
    }
    assert repo.violations() == expected
    off = with_guards(binaries=["docs/*.bin"], symlinks=False, executables=["*.sh"], submodules=False)
    assert repo.violations(policy=off) == set()
    elsewhere = with_guards(binaries=["img/*"], symlinks=["img/*"], executables=["img/*"], submodules=["img/*"])
    assert repo.violations(policy=elsewhere) == expected


def test_a_directory_swapped_for_a_link_is_its_deletion(repo: Repo, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/a.md").write_text(KEY)
    (repo.path / "docs/a.md").unlink()
    (repo.path / "docs").rmdir()
    (repo.path / "docs").symlink_to(tmp_path / "other")
    assert repo.violations() == {("docs", "guards.symlinks")}
    changes = changes_in_worktree(str(repo.path))
    assert {(change.path, change.deleted) for change in changes} == {("docs/a.md", True), ("docs", False)}


@pytest.mark.parametrize(
    "name", ["é ü.md", "a\nb.md", 'q"uote.md', "back\\slash.md", "tab\t.md", "bad\udcff.md", "a -> b.md"]
)
def test_odd_names_are_judged_whole(repo: Repo, name: str) -> None:
    repo.write(f"secrets/{name}", "x\n")
    repo.write(f"docs/{name}", f"{KEY}\n")
    found = repo.violations()
    odd = set() if name.isprintable() else {"names"}
    assert {rule for subject, rule in found if subject.startswith("secrets/")} == {"denied_path_globs"} | odd
    assert {rule for subject, rule in found if subject.startswith("docs/")} == {"denied_content_patterns"} | odd
    assert all(subject.isprintable() for subject, _unused in found)
    before = repo.base
    repo.base = repo.commit()
    repo.git("mv", f"docs/{name}", "docs/plain.md")
    diff = subprocess.run(["git", "diff", before, "-M"], cwd=repo.path, env=GIT, check=True, capture_output=True).stdout
    paths = {change.path for change in changes_in_diff(diff)}
    assert paths == {f"secrets/{name}", "docs/plain.md"}


def test_sizes_are_of_the_whole_file(repo: Repo) -> None:
    repo.write("docs/big.md", "x" * 60 + "\n")
    repo.base = repo.commit()
    policy = copy.deepcopy(POLICY)
    policy["defaults"]["max_file_bytes"] = 61
    repo.write("docs/big.md", "x" * 60 + "\ny\n")
    assert repo.violations(policy=policy) == {("docs/big.md", "max_file_bytes")}
