# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verdicts on changes: never milder than the engine's rules, and not fooled where those are."""

from __future__ import annotations

import copy
import fnmatch
import os
import re
import subprocess
import time
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy import document, gate
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy import paths as gate_paths
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.gate import Change
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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

    def rules(self, **options: Any) -> set[tuple[str, str]]:
        changes = gate.changes_between(str(self.path), self.base) + gate.changes_in_worktree(str(self.path))
        return {
            (v.subject, v.rule) for v in gate.judge_changes(options.pop("policy", POLICY), "app", changes, **options)
        }


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "app")


def rules(diff: str | bytes, policy: dict[str, Any] | None = None, **options: Any) -> set[tuple[str, str]]:
    content = diff if isinstance(diff, bytes) else diff.encode("utf-8", "surrogateescape")
    changes = gate.changes_in_diff(content)
    return {(v.subject, v.rule) for v in gate.judge_changes(policy or POLICY, "app", changes, **options)}


def new_file(name: str, *lines: str, mode: str = "100644") -> str:
    body = "".join(f"+{line}\n" for line in lines)
    head = f"diff --git a/{name} b/{name}\nnew file mode {mode}\nindex 0000000..1111111\n"
    return f"{head}--- /dev/null\n+++ b/{name}\n@@ -0,0 +1,{len(lines)} @@\n{body}" if lines else head


def with_guards(**guards: Any) -> dict[str, Any]:
    return {**POLICY, "guards": {"defaults": guards}}


# --- a worktree


def test_an_honest_change_is_allowed(repo: Repo) -> None:
    repo.write("docs/a.md", "hello\nworld\n")
    repo.commit()
    repo.write("docs/b.md", "more\n")
    assert repo.rules(prefixes=["docs"]) == set()


def test_what_one_commit_adds_and_the_next_removes_is_judged(repo: Repo) -> None:
    repo.write("docs/k.md", f"{KEY}\n")
    repo.commit()
    (repo.path / "docs/k.md").unlink()
    repo.commit()
    assert repo.rules(prefixes=["docs"]) == {("docs/k.md", "denied_content_patterns")}


def test_directories_with_nothing_in_them_are_judged(repo: Repo) -> None:
    """No difference shows them, but they are published, with whatever name they have."""
    repo.write("docs/a.md", "page\n")
    good = repo.commit()
    repo.git("hash-object", "-t", "tree", "-w", "/dev/null")
    for place, found in {("docs", KEY): f"docs/{KEY}/x", ("src",): "src/x", (): "x"}.items():
        tree = gate.HOLLOW[0]
        for name in ("x", *reversed(place)):
            tree = repo.git_with(f"040000 tree {tree}\t{name}\n", "mktree")
        bad = repo.git("commit-tree", "-p", good, "-m", "x", tree)
        tidy = repo.git("commit-tree", "-p", bad, "-m", "x", f"{good}^{{tree}}")
        merge = repo.git("commit-tree", "-p", good, "-p", good, "-m", "x", tree)
        for head in (bad, tidy, merge):
            changes = gate.changes_between(str(repo.path), repo.base, head)
            odd = [one for one in gate.judge_changes(POLICY, "app", changes) if one.rule == "modes"]
            assert [(one.subject, one.reason) for one in odd] == [
                (found, "is a directory with nothing in it, which git makes none of")
            ]
    bare = repo.git("commit-tree", "-m", "x", gate.HOLLOW[0])
    assert gate.changes_between(str(repo.path), repo.base, bare)[-1].path == "."


def test_the_agents_own_commits_are_judged(repo: Repo) -> None:
    repo.write("src/x.py", "x\n")
    repo.commit()
    repo.write("docs/a.md", "page\n")
    assert repo.rules(prefixes=["docs"]) == {("src/x.py", "allowed_paths")}


def test_nothing_that_the_repository_says_hides_a_file(repo: Repo) -> None:
    repo.git("update-index", "--assume-unchanged", "docs/a.md")
    repo.git("config", "core.excludesFile", "/dev/stdin")
    repo.git("config", "filter.hide.clean", "true")
    repo.git("config", "diff.external", "true")
    repo.write(".git/info/exclude", "hidden\n")
    repo.write(".git/info/attributes", "* -diff filter=hide\n")
    repo.write("hidden/.env", "A=1\n")
    repo.write("docs/a.md", f"{KEY}\n")
    assert repo.rules() == {("docs/a.md", "denied_content_patterns"), ("hidden/.env", "denied_path_globs")}


def test_a_file_that_is_ignored_by_the_tree_is_not_published_and_not_judged(repo: Repo) -> None:
    repo.write(".gitignore", "*.log\n")
    repo.write("debug.log", f"{KEY}\n")
    assert repo.rules() == set()
    repo.git("add", "--force", "debug.log")
    assert repo.rules() == {("debug.log", "denied_content_patterns")}


def test_replaced_objects_do_not_change_what_is_judged(repo: Repo) -> None:
    repo.write("docs/k.md", f"{KEY}\n")
    bad = repo.commit()
    repo.git("replace", bad, repo.git("commit-tree", "-p", repo.base, "-m", "x", f"{repo.base}^{{tree}}"))
    repo.git("reset", "--quiet", "--hard", bad)
    assert ("docs/k.md", "denied_content_patterns") in repo.rules()


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
    assert repo.rules() == expected
    off = with_guards(binaries=["docs/*.bin"], symlinks=False, executables=["*.sh"], submodules=False)
    assert repo.rules(policy=off) == set()
    elsewhere = with_guards(binaries=["img/*"], symlinks=["img/*"], executables=["img/*"], submodules=["img/*"])
    assert repo.rules(policy=elsewhere) == expected


def test_a_directory_swapped_for_a_link_is_its_deletion(repo: Repo, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/a.md").write_text(KEY)
    (repo.path / "docs/a.md").unlink()
    (repo.path / "docs").rmdir()
    (repo.path / "docs").symlink_to(tmp_path / "other")
    assert repo.rules() == {("docs", "guards.symlinks")}
    changes = gate.changes_in_worktree(str(repo.path))
    assert {(change.path, change.deleted) for change in changes} == {("docs/a.md", True), ("docs", False)}


@pytest.mark.parametrize(
    "name", ["é ü.md", "a\nb.md", 'q"uote.md', "back\\slash.md", "tab\t.md", "bad\udcff.md", "a -> b.md"]
)
def test_odd_names_are_judged_whole(repo: Repo, name: str) -> None:
    repo.write(f"secrets/{name}", "x\n")
    repo.write(f"docs/{name}", f"{KEY}\n")
    found = repo.rules()
    odd = set() if name.isprintable() else {"names"}
    assert {rule for subject, rule in found if subject.startswith("secrets/")} == {"denied_path_globs"} | odd
    assert {rule for subject, rule in found if subject.startswith("docs/")} == {"denied_content_patterns"} | odd
    assert all(subject.isprintable() for subject, _unused in found)
    before = repo.base
    repo.base = repo.commit()
    repo.git("mv", f"docs/{name}", "docs/plain.md")
    diff = subprocess.run(["git", "diff", before, "-M"], cwd=repo.path, env=GIT, check=True, capture_output=True).stdout
    paths = {change.path for change in gate.changes_in_diff(diff)}
    assert paths == {f"secrets/{name}", "docs/plain.md"}


def test_sizes_are_of_the_whole_file(repo: Repo) -> None:
    repo.write("docs/big.md", "x" * 60 + "\n")
    repo.base = repo.commit()
    policy = copy.deepcopy(POLICY)
    policy["defaults"]["max_file_bytes"] = 61
    repo.write("docs/big.md", "x" * 60 + "\ny\n")
    assert repo.rules(policy=policy) == {("docs/big.md", "max_file_bytes")}


CI = ".github/workflows/ci.yml"
UNDONE = {(CI, "guards.ci"), (CI, "allowed_paths")}


class History(Repo):
    """A base branch that has moved on since the work began, and the work on a branch of its own."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.write(CI, "on: push\n")
        self.write("src/x.py", "token = 'of main itself'\n")
        self.write("docs/both.md", "".join(f"{number}\n" for number in range(9)))
        self.old = self.commit()
        self.git("checkout", "--quiet", "-b", "work")
        self.page = 0
        self.work()
        self.git("checkout", "--quiet", "main")
        self.move()
        self.git("checkout", "--quiet", "work")

    def work(self) -> None:
        """One more commit of honest work."""
        self.page += 1
        self.write(f"docs/page{self.page}.md", "page\n")
        self.tip = self.commit()

    def move(self) -> None:
        """The base moves on in places where the work may not go."""
        self.write(CI, f"{(self.path / CI).read_text()}# {self.page}\n")
        self.write(f"src/y{self.page}.py", "y\n")
        (self.path / f"src/y{self.page}.py").chmod(0o755)
        self.write("docs/both.md", f"token = 'of main itself'\n{(self.path / 'docs/both.md').read_text()}")
        (self.path / "src/x.py").unlink(missing_ok=True)
        self.base = self.commit()

    def merge(self, other: str, *options: str) -> None:
        self.git("merge", "--quiet", "--no-edit", *options, other)

    def forge(self, tree: str, *parents: str) -> None:
        """A merge commit with any tree and any parents."""
        options = [word for parent in parents for word in ("-p", parent)]
        self.git("reset", "--quiet", "--hard", self.git("commit-tree", f"{tree}^{{tree}}", *options, "-m", "x"))

    def without(self, tree: str, path: str) -> str:
        self.git("checkout", "--quiet", "--detach", tree)
        self.git("rm", "--quiet", path)
        return self.commit()

    def found(self) -> set[tuple[str, str]]:
        changes = gate.changes_between(str(self.path), self.base)
        return {(v.subject, v.rule) for v in gate.judge_changes(POLICY, "app", changes, ["docs"])}


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "app")


def test_an_honest_merge_is_not_refused_for_what_the_base_did(history: History) -> None:
    assert history.found() == set()
    history.merge("main")
    assert history.found() == set()
    history.work()
    history.git("checkout", "--quiet", "main")
    history.move()  # and the base moves on once more
    history.git("checkout", "--quiet", "work")
    assert history.found() == set()
    history.merge("main")
    history.work()
    assert history.found() == set()


def test_an_honest_merge_the_other_way_round(history: History) -> None:
    history.git("checkout", "--quiet", "--detach", "main")
    history.merge("work", "--no-ff")
    assert history.found() == set()


def test_an_honest_merge_with_a_conflict_counts_with_the_lines_that_are_new(history: History) -> None:
    history.write("docs/both.md", "work\n0\n")
    history.commit()
    with pytest.raises(subprocess.CalledProcessError):
        history.merge("main")
    history.write("docs/both.md", "token = 'of main itself'\nwork\nmended\n0\n")
    history.commit()
    assert history.found() == set()
    changes = gate.changes_between(str(history.path), history.base)
    assert [c.added for c in changes if c.path == "docs/both.md" and not c.since] == [("work",), ("mended",)]
    history.write("docs/both.md", "token = 'of the merge'\nwork\n0\n")
    history.git("add", "--all")
    history.git("commit", "--quiet", "--amend", "--no-edit")
    assert history.found() == {("docs/both.md", "denied_content_patterns")}


def test_a_program_and_a_link_of_the_base_come_with_an_honest_merge(history: History) -> None:
    history.git("checkout", "--quiet", "main")
    history.write("docs/run", "one\ntwo\nthree\n").chmod(0o644)
    history.base = history.commit()
    history.git("checkout", "--quiet", "work")
    history.merge("main")
    history.write("docs/run", "one\ntwo\nwork\n")
    history.commit()
    history.git("checkout", "--quiet", "main")
    (history.path / "docs/run").chmod(0o755)
    (history.path / "docs/link").symlink_to("page1.md")
    history.base = history.commit()
    history.git("checkout", "--quiet", "work")
    history.merge("main")
    assert history.found() == set()
    (history.path / "docs/page1.md").chmod(0o755)
    history.git("commit", "--quiet", "--all", "--amend", "--no-edit")
    assert history.found() == {("docs/page1.md", "guards.executables")}


def test_a_merge_that_keeps_its_own_side_undoes_the_base(history: History) -> None:
    history.merge("main", "--strategy=ours")
    undone = {("src/x.py", "allowed_paths"), ("src/y1.py", "allowed_paths")}
    assert history.found() - {("src/x.py", "denied_content_patterns")} == UNDONE | undone
    assert ("src/x.py", "denied_content_patterns") in history.found()  # which the base had got rid of
    history.work()
    assert history.found() >= UNDONE


@pytest.mark.parametrize("swapped", [False, True])
def test_an_older_commit_of_the_base_as_a_parent_hides_nothing(history: History, swapped: bool) -> None:
    bare = history.without(history.base, CI)
    older = history.git("rev-parse", f"{history.old}~1")  # which had no workflow yet
    history.git("checkout", "--quiet", "-B", "work", history.base)
    history.work()
    tree = history.without("HEAD", CI)
    parents = [history.git("rev-parse", "work"), older]
    history.forge(tree, *(parents[::-1] if swapped else parents))
    assert history.found() == UNDONE
    history.forge(bare, history.base, older)
    assert history.found() == UNDONE


def test_a_change_that_a_merge_drops_again_is_still_judged(history: History) -> None:
    history.write("docs/k.md", f"{KEY}\n")
    with_key = history.commit()
    history.forge(history.base, with_key, history.base)
    assert history.found() == {("docs/k.md", "denied_content_patterns")}
    changes = gate.changes_between(str(history.path), history.base)
    assert not [change for change in changes if change.since]  # on the whole nothing is changed


def test_somebodys_unmerged_branch_is_no_base(history: History) -> None:
    history.git("checkout", "--quiet", "-b", "other", history.base)
    history.write(CI, "on: never\n")
    history.commit()
    history.git("checkout", "--quiet", "work")
    history.merge("other")
    assert history.found() == UNDONE


def test_a_merge_of_many(history: History) -> None:
    for name in ("one", "two"):
        history.git("checkout", "--quiet", "-b", name, history.old)
        history.write(f"docs/{name}.md", f"{name}\n")
        history.commit()
    history.git("checkout", "--quiet", "work")
    history.merge("main")
    history.git("merge", "--quiet", "--no-edit", "one", "two")
    assert len(history.git("rev-list", "--parents", "-1", "HEAD").split()) == 4
    assert history.found() == set()
    history.forge(history.without("HEAD", CI), "work", "one", "two", history.base)
    assert history.found() == UNDONE
    history.write("docs/evil.md", f"{KEY}\n")
    tree = history.commit()
    history.forge(tree, "work", "one", "two")
    assert ("docs/evil.md", "denied_content_patterns") in history.found()


def criss_cross(history: History) -> None:
    """The base took in an earlier commit of the work while the work took in the base."""
    work, main = history.tip, history.base
    history.git("checkout", "--quiet", "main")
    history.merge(work)
    history.base = history.git("rev-parse", "HEAD")
    history.git("checkout", "--quiet", "work")
    history.merge(main)
    history.work()
    assert len(history.git("merge-base", "--all", history.base, "HEAD").split()) == 2


def test_a_criss_cross_of_honest_merges(history: History) -> None:
    criss_cross(history)
    assert history.found() == set()


def test_a_criss_cross_hides_no_change_that_one_of_the_ancestors_has(history: History) -> None:
    criss_cross(history)
    tree = history.git("rev-parse", "HEAD")
    history.git("checkout", "--quiet", "--detach", tree)
    history.git("checkout", "--quiet", history.old, "--", CI)
    undone = history.commit()
    work, main = history.git("rev-parse", f"{tree}~1^1", f"{tree}~1^2").split()
    history.forge(undone, work, main)
    assert len(history.git("merge-base", "--all", history.base, "HEAD").split()) == 2
    assert history.found() == UNDONE
    history.forge(history.without(tree, "docs/page1.md"), work, main)  # which only the work has had
    changes = gate.changes_between(str(history.path), history.base)
    assert ("docs/page1.md", work) in {(change.path, change.since) for change in changes if change.deleted}


def test_a_merge_is_not_counted_twice(history: History) -> None:
    history.write("docs/long.md", "x" * 60 + "\n")
    history.commit()
    history.merge("main")
    changes = gate.changes_between(str(history.path), history.base)
    assert [change.path for change in changes if change.since] == ["docs/long.md", "docs/page1.md"]
    assert gate.judge_changes(with_guards(max_patch_bytes=66), "app", changes) == []
    found = gate.judge_changes(with_guards(max_patch_bytes=65), "app", changes)
    assert [violation.rule for violation in found] == ["guards.max_patch_bytes"]


def test_a_merge_with_what_has_nothing_in_common(history: History) -> None:
    history.git("checkout", "--quiet", "--orphan", "alone")
    history.git("rm", "--quiet", "-r", "--force", ".")
    history.write("docs/alone.md", "alone\n")
    history.commit()
    assert history.found() == set()
    history.write(CI, "on: push\n")
    history.commit()
    assert history.found() == UNDONE
    history.git("checkout", "--quiet", "work")
    history.merge("alone", "--allow-unrelated-histories", "--strategy=ours")
    assert history.found() == UNDONE


def test_a_push_in_quarantine_is_judged_where_it_is(history: History, tmp_path: Path) -> None:
    """As git runs a hook: the objects of the push lie in a directory that only its variables name."""
    history.merge("main")
    store = tmp_path / "store.git"
    git = [
        "git",
        "clone",
        "--quiet",
        "--bare",
        "--single-branch",
        "--branch=main",
        f"file://{history.path}",
        str(store),
    ]
    subprocess.run(git, env=GIT, check=True)
    hook = store / "hooks/pre-receive"
    hook.write_text(f"#!/bin/sh\nenv | grep ^GIT_ > {tmp_path}/variables\ncp -r . {tmp_path}/held.git\nexit 1\n")
    hook.chmod(0o755)
    refused = subprocess.run(["git", "push", "--quiet", str(store), "work"], cwd=history.path, env=GIT, check=False)
    assert refused.returncode == 1
    lines = (tmp_path / "variables").read_text().splitlines()
    told = dict(line.split("=", 1) for line in lines)
    names = ("GIT_DIR", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES")
    held = {name: told[name].replace(str(store), f"{tmp_path}/held.git") for name in names}
    head = history.git("rev-parse", "HEAD")
    work = gate.work_between(f"{tmp_path}/held.git", history.base, head, held)
    assert [change.path for change in work.changes] == ["docs/page1.md", "docs/page1.md"]
    assert work.commits.count("tree ") == 2
    assert gate.changes_between(f"{tmp_path}/held.git", history.base, head, held) == work.changes
    assert gate.commits_between(f"{tmp_path}/held.git", history.base, head, held) == work.commits
    with pytest.raises(LoopError, match="there is no commit"):
        gate.changes_between(f"{tmp_path}/held.git", history.base, head)


def test_few_processes_judge_a_push(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    run = gate.git

    def count(directory: str, arguments: Any, **options: Any) -> Any:
        started.append(arguments[0])
        return run(directory, arguments, **options)

    monkeypatch.setattr(gate, "git", count)
    for _commit in range(5):
        history.work()
    gate.work_between(str(history.path), history.base, history.tip)
    assert started == ["rev-list", "diff-tree", "rev-list", "cat-file"]
    history.merge("main")
    started.clear()
    gate.work_between(str(history.path), history.base, history.git("rev-parse", "HEAD"))
    assert started == ["rev-list", "merge-base", "diff-tree", "diff-tree", "rev-list", "cat-file"]
    history.git("commit", "--quiet", "--amend", "--no-edit")
    history.write("docs/page9.md", "while merging\n")
    history.git("add", "--all")
    history.git("commit", "--quiet", "--amend", "--no-edit")
    started.clear()
    gate.work_between(str(history.path), history.base, history.git("rev-parse", "HEAD"))
    assert started == ["rev-list", "merge-base", *["diff-tree"] * 3, "rev-list", "cat-file"]


def test_what_an_honest_merge_brings_in_is_not_read(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    reader = gate._Reader

    def count(content: bytes) -> Any:
        read.append(len(content))
        return reader(content)

    monkeypatch.setattr(gate, "_Reader", count)
    history.git("checkout", "--quiet", "main")
    history.write("src/big.py", "x\n" * 100_000)
    history.base = history.commit()
    history.git("checkout", "--quiet", "work")
    history.merge("main")
    assert history.found() == set()
    odd = ":!while*merging.md"  # to git's commands this says which files not to look at
    history.write(odd, f"{KEY}\n")
    history.git("add", "--all")
    history.git("commit", "--quiet", "--amend", "--no-edit")
    assert (odd, "denied_content_patterns") in history.found()
    assert sum(read) < 10_000
    monkeypatch.setattr(gate, "MAX_ARGUMENTS", 10)
    assert (odd, "denied_content_patterns") in history.found()
    assert sum(read) > 100_000


def test_a_merge_of_more_than_anybody_merges_is_refused(history: History) -> None:
    many = [history.git("commit-tree", f"{history.base}^{{tree}}", "-p", history.base, "-m", f"{n}") for n in range(17)]
    history.forge(history.base, *many)
    with pytest.raises(LoopError, match="has 17 parents, allowed: 16"):
        history.found()
    history.forge(history.base, *many[1:])
    assert history.found() == set()


def test_nothing_new_is_no_work(repo: Repo) -> None:
    assert gate.work_between(str(repo.path), repo.base) == gate.Work([], "")


def test_a_merge_counts_with_what_is_in_none_of_its_parents(repo: Repo) -> None:
    repo.git("checkout", "--quiet", "-b", "side")
    repo.write("docs/side.md", "side\n")
    repo.commit()
    repo.git("checkout", "--quiet", "main")
    repo.write("docs/main.md", "main\n")
    repo.commit()
    repo.git("merge", "--quiet", "--no-commit", "side")
    repo.write("docs/evil.md", f"{KEY}\n")
    repo.commit()
    assert repo.rules() == {("docs/evil.md", "denied_content_patterns")}
    changes = gate.changes_between(str(repo.path), repo.base)
    names = ["docs/evil.md", "docs/main.md", "docs/side.md"]
    assert sorted(change.path for change in changes if not change.since) == names
    assert sorted(change.path for change in changes if change.since == repo.base) == names


def test_a_root_commit_and_an_unknown_base(repo: Repo) -> None:
    repo.git("checkout", "--quiet", "--orphan", "new")
    repo.write("docs/a.md", f"{KEY}\n")
    repo.commit()
    assert ("docs/a.md", "denied_content_patterns") in repo.rules()
    for name in ("nowhere", "--all", ""):
        with pytest.raises(LoopError, match="there is no commit"):
            gate.changes_between(str(repo.path), name)


# --- a unified diff


def test_content_cannot_pass_for_a_header() -> None:
    diff = new_file("docs/a.md", "++ b/harmless.md", "@@ -0,0 +1 @@", "diff --git a/x b/x", "++ token = 'x'")
    changes = gate.changes_in_diff(diff.encode())
    assert [change.path for change in changes] == ["docs/a.md"]
    assert rules(diff) == {("docs/a.md", "denied_content_patterns")}, "the engine skips a line that begins with +++"


def test_both_names_of_a_rename_and_of_a_copy_are_judged() -> None:
    head = "diff --git a/secrets/x b/docs/x\nsimilarity index 100%\n"
    for word in ("rename", "copy"):
        assert rules(f"{head}{word} from secrets/x\n{word} to docs/x\n") == {("secrets/x", "denied_path_globs")}
        assert rules(f"{head}{word} from secrets/x\n{word} to docs/x\n", prefixes=["docs"]) == {
            ("secrets/x", "denied_path_globs"),
            ("secrets/x", "allowed_paths"),
        }


def test_a_deletion_and_a_mode_are_changes_too() -> None:
    gone = "diff --git a/id_rsa b/id_rsa\ndeleted file mode 100644\nindex 1111111..0000000\n"
    assert rules(gone) == {("id_rsa", "denied_path_globs")}
    mode = "diff --git a/docs/a b b/docs/a b\nold mode 100644\nnew mode 100755\n"
    assert rules(mode) == {("docs/a b", "guards.executables")}
    assert rules(new_file("docs/l", "/etc/passwd", mode="120000")) == {("docs/l", "guards.symlinks")}
    assert rules(new_file("docs/m", "Subproject commit 1", mode="160000")) == {("docs/m", "guards.submodules")}
    assert rules(new_file("docs/m", "x", mode="104755")) == {("docs/m", "modes")}


def test_binary_patches() -> None:
    head = "diff --git a/docs/i.png b/docs/i.png\nnew file mode 100644\nindex 0000000..1111111\n"
    assert rules(f"{head}Binary files /dev/null and b/docs/i.png differ\n") == {("docs/i.png", "guards.binaries")}
    patch = f"{head}GIT binary patch\nliteral 200000\nMcmZQzU|?ckU|;|M00aO5\n\nliteral 0\nHcmV?d00001\n\n"
    both = {("docs/i.png", "guards.binaries"), ("docs/i.png", "max_file_bytes")}
    assert rules(patch + new_file("docs/b.md", "x")) == both


def test_a_binary_file_that_is_left_alone_is_still_searched() -> None:
    wide = "\0".join(KEY)
    off = with_guards(binaries=False)
    assert rules(new_file("docs/utf16.txt", wide), off) == {("docs/utf16.txt", "denied_content_patterns")}
    assert rules(new_file("docs/x.bin", "\0" + "x" * 70_000 + KEY), off) == {("docs/x.bin", "denied_content_patterns")}


def test_a_plain_diff_without_git_headers_and_a_mailed_one() -> None:
    plain = "--- a/docs/a.md\t2026-01-01\n+++ b/docs/a.md\t2026-01-02\n@@ -1 +1 @@\n-a\n+AKIA0123456789ABCDEF\n"
    assert rules(plain) == {("docs/a.md", "denied_content_patterns")}
    assert rules("From: x\n\n words\n---\n docs/a.md | 2 +-\n\n" + plain + "-- \n2.47\n") == rules(plain)


@pytest.mark.parametrize(
    "diff",
    [
        "nothing to see\n",
        "diff --cc a\n",
        "@@ -0,0 +1 @@\n+x\n",
        "diff --git a/x b/y\n",
        'diff --git "a/x b/x\n',
        'diff --git "a/\\q" "b/\\q"\n',
        "diff --git x x\nnew file mode 100644\n",
        "diff --git a/x b/x\n--- a/x\n+++ b/y\n",
        "diff --git a/x b/x\nrename from y\nrename to x\n",
        "diff --git a/x b/x\nnew mode 1\nnew mode 2\n",
        "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1,9 @@\n+x\n",
        "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -0,0 +1 @@\n+x\n+hidden\n",
        "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1,0 @@\n x\n",
        "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ what @@\n",
        "diff --git a/x b/x\n@@ -0,0 +1 @@\n+x\n",
        "diff --git a/x b/x\nGIT binary patch\n",
        "--- /dev/null\n+++ /dev/null\n@@ -0,0 +1 @@\n+x\n",
        "--- x\n+++ x\n@@ -0,0 +1 @@\n+x\n",
    ],
)
def test_a_diff_that_is_not_understood_is_refused(diff: str) -> None:
    with pytest.raises(LoopError, match="the diff cannot be read"):
        gate.changes_in_diff(diff.encode())


def test_no_diff_is_no_change() -> None:
    assert gate.changes_in_diff(b"") == []
    assert gate.judge_changes(POLICY, "app", [], []) == []


# --- paths


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("config/.env", "denied_path_globs"),  # the engine matches .env at the top only
        ("docs/SERVER.KEY", "denied_path_globs"),  # ... and case by case
        ("docs/id_rsa", "denied_path_globs"),
        ("a/secrets/b", "denied_path_globs"),
        ("Secrets/b", "denied_path_globs"),
        ("/etc/passwd", "paths"),
        ("docs/../src/x", "paths"),
        ("docs//x", "paths"),
        ("docs/.GIT/hooks/pre-push", "paths"),
        (".github/workflows/ci.yml", "guards.ci"),
        ("docs/CODEOWNERS", "guards.codeowners"),
        ("sub/AGENTS.md", "guards.agent_instructions"),
        ("x/.claude/settings.json", "guards.agent_instructions"),
        ("pyproject.toml", "guards.dependency_manifests"),
        ("docs/requirements.txt", "guards.dependency_manifests"),
        ("uv.lock", "guards.lock_files"),
        ("docs/.gitattributes", "guards.git_settings"),
        (".vscode/mcp.json", "guards.agent_instructions"),
        (".vscode/mcp.json", "guards.workspace_settings"),
        # git's own directory in disguise: for macOS, for Windows
        ("docs/.g\u200cit/x", "paths"),
        ("docs/.g\ufe0fit/x", "paths"),
        ("docs/\uff0egit/x", "paths"),
        ("docs/GIT~1/x", "paths"),
        ("docs/.git /x", "paths"),
        ("docs/.git./x", "paths"),
        ("docs/.git . ./x", "paths"),
        ("docs/.git::$INDEX_ALLOCATION/x", "paths"),
        ("docs\\.git\\x", "paths"),
        ("docs\\..\\src\\x", "paths"),
        ("docs/.../x", "paths"),
        # other names in disguise
        ("docs/.env.", "denied_path_globs"),
        ("docs/server.key::$DATA", "denied_path_globs"),
        ("docs\\secrets\\x", "denied_path_globs"),
        ("AGENTS.md ", "guards.agent_instructions"),
        (".github./workflows/ci.yml", "guards.ci"),
        # what a reader does not see
        ("docs/a\nb.md", "names"),
        ("docs/a\x7f.md", "names"),
        ("docs/a\x9b.md", "names"),
        ("docs/a\u202egnp.md", "names"),
        ("docs/a\u2066.md", "names"),
        ("docs/a\u200b.md", "names"),
        ("docs/a\u00ad.md", "names"),
        ("docs/a\ufeff.md", "names"),
        ("docs/a\u3164.md", "names"),
        ("docs/a\ufe0f.md", "names"),
        ("docs/a\U000e0061.md", "names"),
        ("docs/a\u2028.md", "names"),
        ("docs/a\xa0.md", "names"),
        ("docs/a\udcff.md", "names"),
        ("docs/" + "a/" * 2100 + "x", "names"),
        # denied text
        ("docs/AKIA0123456789ABCDEF.md", "denied_content_patterns"),
        ("docs/AKIA0123456789ABCDEF/a.md", "denied_content_patterns"),
    ],
)
def test_paths_that_are_refused(path: str, rule: str) -> None:
    found = gate.judge_changes(POLICY, "app", [Change(path)])
    assert rule in {violation.rule for violation in found}


@pytest.mark.parametrize(
    "path",
    [
        *("docs/a.md", "src/keys.py", "docs/environment.md", "secret/x", ".gitignore", "a/b c.md", "docs/a:b.md"),
        *("docs/é ü/日本語.md", "docs/.gitkeep", "docs/digit~1.md", "docs/git/x.md", "docs/😀.md", "docs/a..b.md"),
        *("docs/hooks/useful.ts", "docs/agent.md", "docs/building.md", "docs/make/it.md", "docs/rules.md", "x/ci.md"),
    ],
)
def test_paths_that_are_not(path: str) -> None:
    assert gate.judge_changes(POLICY, "app", [Change(path)]) == []


def test_a_name_that_goes_is_not_searched_for_denied_text() -> None:
    assert gate.judge_changes(POLICY, "app", [Change("docs/AKIA0123456789ABCDEF.md", deleted=True)]) == []


def test_a_denied_text_that_is_a_whole_name() -> None:
    policy = copy.deepcopy(POLICY)
    policy["defaults"]["denied_content_patterns"] = ["^hush$"]
    changes = [Change("docs/hush/a.md"), Change("docs/hush/b.md"), Change("docs/hushed.md")]
    found = gate.judge_changes(policy, "app", changes)
    assert [(v.subject, v.rule) for v in found] == [("docs/hush/a.md", "denied_content_patterns")]  # told once


@pytest.mark.parametrize(
    ("guard", "paths"),
    {
        "ci": """.gitlab-ci.yml .forgejo/workflows/a.yaml .gitea/workflows/a.yml .woodpecker/a.yml .drone.yml .build.yml
            sub/Jenkinsfile .cirrus.star .tekton/a.yaml azure-pipelines-nightly.yml .pre-commit-config.yaml netlify.toml
            .github/dependabot.yaml renovate.json5 .buildkite/pipeline.yml dangerfile.ts""",
        "agent_instructions": """agents.md docs/GEMINI.md opencode.json .opencode/agent/x.md .roo/rules/a.md .mcp.json
            .cursor/mcp.json .junie/guidelines.md .goosehints .kiro/steering/a.md .github/prompts/a.prompt.md
            .amazonq/rules/a.md crush.md .crush.json firebender.json .clinerules/a.md docs/.claude/skills/x/SKILL.md
            skills/x/SKILL.md .trae/rules/a.md .aider.conf.yml .openhands/microagents/repo.md .augment/rules/a.md""",
        "git_hooks": """.husky/pre-commit .githooks/pre-push lefthook.yml .lefthook-local.toml .config/lefthook.json
            .overcommit.yml .lintstagedrc.js .simple-git-hooks.cjs prek.toml""",
        "workspace_settings": """.envrc docs/.envrc .vscode/tasks.json .vscode/settings.json mise.toml
            .devcontainer/devcontainer.json .devcontainer.json .idea/runConfigurations/x.xml app.code-workspace
            .config/mise/config.toml .nvim.lua docs/.dir-locals.el .gitpod.yml .zed/tasks.json .run/a.run.xml""",
        "build_settings": """docs/conf.py .readthedocs.yaml docs/.readthedocs.yml mkdocs.yml mkdocs.en.yml docs/hooks.py
            docs/_ext/a.py docs/hooks/a.py .cargo/config.toml build.rs Makefile docs/Makefile docs/make.bat Dockerfile
            docker-compose.yml CMakeLists.txt justfile Taskfile.yml tox.ini noxfile.py conftest.py gradlew .mvn/x
            docusaurus.config.ts .eleventy.js .vitepress/config.mts _config.yml book.toml ansible.cfg .eslintrc.cjs
            Directory.Build.props gradle/wrapper/gradle-wrapper.properties .yarn/releases/yarn.cjs release.config.js""",
        "dependency_manifests": "global.json bunfig.toml .config/dotnet-tools.json pixi.toml docs/requirements.txt",
        "lock_files": "uv.lock bun.lockb .terraform.lock.hcl",
        "codeowners": ".github/CODEOWNERS docs/OWNERS",
        "git_settings": ".gitattributes docs/.gitmodules .lfsconfig .mailmap",
    }.items(),
)
def test_what_each_guard_protects(guard: str, paths: str) -> None:
    policy = with_guards(**{guard: False})
    for path in paths.split():
        found = gate.judge_changes(POLICY, "app", [Change(path)])
        assert [violation.rule for violation in found] == [f"guards.{guard}"], path
        assert gate.judge_changes(policy, "app", [Change(path)]) == [], path


@given(st.sampled_from(sorted(gate_paths.PROTECTED)), st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_looking_names_up_finds_what_fnmatch_does(guard: str, data: st.DataObject) -> None:
    entry = data.draw(st.sampled_from(gate_paths.PROTECTED[guard]))
    path = entry.replace("*", data.draw(st.sampled_from(["", "x", "a", "x/y", "."]))).rstrip("/")
    path = data.draw(st.sampled_from(["", "docs/", "x"])) + path + data.draw(st.sampled_from(["", "x", "/x", "l"]))
    parts = path.split("/")

    def named(glob: str) -> bool:
        if glob.endswith("/"):
            return glob[:-1] in parts
        return fnmatch.fnmatchcase(path if "/" in glob else parts[-1], glob)

    both = [glob.replace("y*ml", end) for glob in gate_paths.PROTECTED[guard] for end in ("yml", "yaml")]
    assert gate_paths.protector(guard)(path) == any(map(named, both))


def test_guards_are_what_a_policy_can_name_and_no_name_is_in_two() -> None:
    assert set(gate_paths.PROTECTED) <= set(document.GUARD_KEYS)
    entries = [entry for entries in gate_paths.PROTECTED.values() for entry in entries]
    assert sorted(entries) == sorted(set(entries))
    assert all(entry == entry.casefold() and "?" not in entry for entry in entries)
    for entry in entries:
        path = f"{entry}x" if entry.endswith("/") else entry.replace("y*ml", "yml").replace("*", "x")
        assert [guard for guard in gate_paths.PROTECTED if gate_paths.protector(guard)(path)] != [], entry
        if "/" not in entry.rstrip("/"):
            guards = [guard for guard in gate_paths.PROTECTED if gate_paths.protector(guard)(f"docs/{path}")]
            assert len(guards) == 1, entry


def test_a_guard_is_switched_for_one_repo_with_its_exceptions() -> None:
    guards = {"repos": {"app": {"dependency_manifests": ["docs/requirements.txt"]}, "web": {"lock_files": False}}}
    policy = {**POLICY, "guards": guards}

    def found(repo: str, path: str) -> list[str]:
        return [violation.rule for violation in gate.judge_changes(policy, repo, [Change(path)])]

    assert found("app", "docs/requirements.txt") == []
    assert found("app", "requirements.txt") == ["guards.dependency_manifests"]
    assert found("web", "docs/requirements.txt") == ["guards.dependency_manifests"]
    assert found("web", "uv.lock") == []
    assert found("app", "uv.lock") == ["guards.lock_files"]


def test_a_guard_that_is_off_leaves_the_engines_rules_on() -> None:
    policy = {**POLICY, "guards": {"defaults": dict.fromkeys(gate_paths.PROTECTED, False)}}
    found = gate.judge_changes(policy, "app", [Change("secrets/AGENTS.md")])
    assert [violation.rule for violation in found] == ["denied_path_globs"]


def test_prefixes() -> None:
    def allowed(path: str, *prefixes: str) -> bool:
        return gate.judge_changes(POLICY, "app", [Change(path)], prefixes) == []

    assert allowed("docs/a", "docs") and allowed("docs/a", "docs/") and allowed("docs", "docs") and allowed("x", ".")
    assert not allowed("docs2/a", "docs") and not allowed("Docs/a", "docs") and not allowed("docs/a")
    for prefix in ("./docs", "docs/", "docs//", "././docs/."):
        assert allowed("docs/a", prefix) and not allowed("docs2/a", prefix), prefix
    assert allowed("docs/x/a", "docs//x") and not allowed("docs/y/a", "docs//x") and allowed("x", "./")
    for prefix in ("", "/docs", "../docs", "docs/../..", "docs\0"):
        with pytest.raises(LoopError, match="allowed paths"):
            allowed("docs/a", prefix)


def test_totals() -> None:
    many = [Change(f"docs/{number}") for number in range(21)]
    assert [v.rule for v in gate.judge_changes(POLICY, "app", many)] == ["max_changed_files"]
    assert gate.judge_changes(POLICY, "app", many[1:]) == []
    policy = with_guards(max_patch_bytes=10)
    assert rules(new_file("docs/a", "éééé"), policy) == set()
    assert rules(new_file("docs/a", "ééééé"), policy) == {("the change", "guards.max_patch_bytes")}


# --- content


def test_a_line_that_nobody_can_search_in_time_is_refused_unsearched() -> None:
    hostile = "-----BEGIN " * 80_000
    began = time.process_time()
    found = rules(new_file("docs/a", hostile), with_guards(max_patch_bytes=10**7))
    assert found == {("docs/a", "guards.max_line_length"), ("docs/a", "max_file_bytes")}
    assert time.process_time() - began < 1


def test_judging_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "JUDGE_SECONDS", 0.2)
    policy = copy.deepcopy(POLICY)
    policy["defaults"]["denied_content_patterns"] = ["(a+)+$"]
    with pytest.raises(LoopError, match="took longer"):
        rules(new_file("docs/a", "a" * 40 + "b"), policy)


@pytest.mark.parametrize("end", ["\r", "\f", "\v", "\x1c", "\x85", "\u2028"])
def test_an_odd_line_end_hides_nothing(end: str) -> None:
    assert rules(new_file("docs/a", f"text{end}AKIA0123456789ABCDEF")) == {("docs/a", "denied_content_patterns")}


@pytest.mark.parametrize(
    "pattern",
    [
        "(?i)kelvin",
        "(?i:\u017fecret)",
        "(?i)straße|x9",
        "a(?:bc|de)+f",
        "[k]ey",
        "(?!x)lit",
        "(?:abc)?d",
        "(?<=a)bc",
        "(?x) a b c",
        "ab|",
    ],
)
@given(st.text(st.sampled_from("kK\u212aelvi\u0131n\u017fsSecrtßaxbcdfy9 é"), max_size=12))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_looking_for_a_part_first_changes_no_verdict(pattern: str, line: str) -> None:
    policy = copy.deepcopy(POLICY)
    policy["defaults"]["denied_content_patterns"] = [pattern]
    found = gate.judge_changes(policy, "app", [Change("0", added=(line,))])
    assert bool(found) == bool(re.search(pattern, line))


def test_judging_grows_no_faster_than_the_diff() -> None:
    def seconds(files: int) -> float:
        diff = "".join(new_file(f"docs/f{number}.md", *["some token of text"] * 40) for number in range(files)).encode()
        policy = with_guards(max_patch_bytes=10**8)
        began = time.process_time()
        gate.judge_changes(policy, "app", gate.changes_in_diff(diff))
        return time.process_time() - began

    seconds(100)
    assert min(seconds(2000) for _unused in range(2)) < 10 * max(min(seconds(400) for _unused in range(3)), 0.01)


# --- the engine's rules, written down once more, plainly


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
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    ours = repo.rules(policy=policy, prefixes=prefixes)
    assert not denied or ours
    if diff:
        assert not denied or rules(diff, policy, prefixes=prefixes)


BITS = st.sampled_from(
    [
        "diff --git a/x b/x\n",
        "--- a/x\n",
        "+++ b/x\n",
        "@@ -1 +1 @@\n",
        "@@ -0,0 +1,3 @@\n",
        "+a\n",
        "-a\n",
        " a\n",
        "\n",
        "\\ No newline\n",
        "new file mode 120000\n",
        "index 1..2 100644\n",
        "rename from x\n",
        "rename to y\n",
        '"a/\\303',
        "\0",
        "GIT binary patch\n",
        "literal 5\n",
        "McmZQzU|?ckU|;|M00aO5\n",
        "Binary files a/x and b/x differ\n",
        "\t",
        "-- \n",
    ]
)


@given(
    st.lists(
        st.one_of(BITS, st.binary(max_size=4).map(lambda raw: raw.decode("utf-8", "surrogateescape"))), max_size=25
    )
)
@settings(max_examples=500, deadline=1000)
def test_any_bytes_are_a_diff_or_one_clear_line(bits: list[str]) -> None:
    try:
        changes = gate.changes_in_diff("".join(bits).encode("utf-8", "surrogateescape"))
    except LoopError as error:
        assert str(error).startswith("the diff cannot be read") and "\n" not in str(error)
    else:
        for violation in gate.judge_changes(POLICY, "app", changes, ["docs"]):
            assert str(violation).isprintable()


# --- everything else


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
    assert (gate.judge_gate_command(POLICY, command) == []) is allowed


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
    assert (gate.judge_branch(POLICY, branch) == []) is allowed


def test_remotes() -> None:
    def allowed(remote: str, url: str | None = None, expected: str | None = None) -> bool:
        return gate.judge_remote(POLICY, remote, url, expected) == []

    place = "https://github.com/AS215932/app.git"
    assert allowed("origin") and not allowed("fork") and not allowed("")
    assert allowed("origin", "https://x-access-token:T@GitHub.com/as215932/app/", place)
    assert not allowed("origin", "https://github.com.evil.example/AS215932/app.git", place)
    assert not allowed("origin", "https://github.com@evil.example/AS215932/app.git", place)
    assert not allowed("origin", None, place)
    told = gate.judge_remote(POLICY, "origin", "https://u:TOKEN@evil.example/x", place)
    assert "TOKEN" not in str(told)


def test_roots_and_handoffs() -> None:
    assert gate.judge_repo_root(POLICY, "app", "/srv/app") == []
    assert gate.judge_repo_root(POLICY, "other", "/anywhere") == []
    assert gate.judge_repo_root(POLICY, "app", "/srv/app2") != []
    assert gate.judge_repo_root(POLICY, "other", "srv") != []
    assert gate.judge_handoff(POLICY, "/var/lib/engineering-loop/runs/x/handoff") == []
    assert [v.rule for v in gate.judge_handoff(POLICY, "/tmp/x")] == ["allowed_handoff_dirs"]
