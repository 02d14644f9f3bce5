# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a branch publishes: every commit's own work, what is written while merging, and what a merge undoes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.git import command
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy import commits
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.commits import HOLLOW, Work, work_between
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.rules import (
    judge_changes,
)
from judged import GIT, KEY, POLICY, Repo, with_guards


def test_what_one_commit_adds_and_the_next_removes_is_judged(repo: Repo) -> None:
    repo.write("docs/k.md", f"{KEY}\n")
    repo.commit()
    (repo.path / "docs/k.md").unlink()
    repo.commit()
    assert repo.violations(prefixes=["docs"]) == {("docs/k.md", "denied_content_patterns")}


def test_directories_with_nothing_in_them_are_judged(repo: Repo) -> None:
    """No difference shows them, but they are published, with whatever name they have."""
    repo.write("docs/a.md", "page\n")
    good = repo.commit()
    repo.git("hash-object", "-t", "tree", "-w", "/dev/null")
    for place, found in {("docs", KEY): f"docs/{KEY}/x", ("src",): "src/x", (): "x"}.items():
        tree = HOLLOW[0]
        for name in ("x", *reversed(place)):
            tree = repo.git_with(f"040000 tree {tree}\t{name}\n", "mktree")
        bad = repo.git("commit-tree", "-p", good, "-m", "x", tree)
        tidy = repo.git("commit-tree", "-p", bad, "-m", "x", f"{good}^{{tree}}")
        merge = repo.git("commit-tree", "-p", good, "-p", good, "-m", "x", tree)
        for head in (bad, tidy, merge):
            changes = work_between(str(repo.path), repo.base, head).changes
            odd = [one for one in judge_changes(POLICY, "app", changes) if one.rule == "modes"]
            assert [(one.subject, one.reason) for one in odd] == [
                (found, "is a directory with nothing in it, which git makes none of")
            ]
    bare = repo.git("commit-tree", "-m", "x", HOLLOW[0])
    assert work_between(str(repo.path), repo.base, bare).changes[-1].path == "."


def test_the_agents_own_commits_are_judged(repo: Repo) -> None:
    repo.write("src/x.py", "x\n")
    repo.commit()
    repo.write("docs/a.md", "page\n")
    assert repo.violations(prefixes=["docs"]) == {("src/x.py", "allowed_paths")}


def test_replaced_objects_do_not_change_what_is_judged(repo: Repo) -> None:
    repo.write("docs/k.md", f"{KEY}\n")
    bad = repo.commit()
    repo.git("replace", bad, repo.git("commit-tree", "-p", repo.base, "-m", "x", f"{repo.base}^{{tree}}"))
    repo.git("reset", "--quiet", "--hard", bad)
    assert ("docs/k.md", "denied_content_patterns") in repo.violations()


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
        changes = work_between(str(self.path), self.base).changes
        return {(v.subject, v.rule) for v in judge_changes(POLICY, "app", changes, ["docs"])}


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
    changes = work_between(str(history.path), history.base).changes
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
    changes = work_between(str(history.path), history.base).changes
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
    changes = work_between(str(history.path), history.base).changes
    assert ("docs/page1.md", work) in {(change.path, change.since) for change in changes if change.deleted}


def test_a_merge_is_not_counted_twice(history: History) -> None:
    history.write("docs/long.md", "x" * 60 + "\n")
    history.commit()
    history.merge("main")
    changes = work_between(str(history.path), history.base).changes
    assert [change.path for change in changes if change.since] == ["docs/long.md", "docs/page1.md"]
    assert judge_changes(with_guards(max_patch_bytes=66), "app", changes) == []
    found = judge_changes(with_guards(max_patch_bytes=65), "app", changes)
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
    work = work_between(f"{tmp_path}/held.git", history.base, head, held)
    assert [change.path for change in work.changes] == ["docs/page1.md", "docs/page1.md"]
    assert work.commits.count("tree ") == 2
    with pytest.raises(LoopError, match="there is no commit"):
        work_between(f"{tmp_path}/held.git", history.base, head)


def test_few_processes_judge_a_push(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    run = command.git

    def count(directory: str, arguments: Any, **options: Any) -> Any:
        started.append(arguments[0])
        return run(directory, arguments, **options)

    monkeypatch.setattr(command, "git", count)
    for _commit in range(5):
        history.work()
    work_between(str(history.path), history.base, history.tip)
    assert started == ["rev-list", "diff-tree", "rev-list", "cat-file"]
    history.merge("main")
    started.clear()
    work_between(str(history.path), history.base, history.git("rev-parse", "HEAD"))
    assert started == ["rev-list", "merge-base", "diff-tree", "diff-tree", "rev-list", "cat-file"]
    history.git("commit", "--quiet", "--amend", "--no-edit")
    history.write("docs/page9.md", "while merging\n")
    history.git("add", "--all")
    history.git("commit", "--quiet", "--amend", "--no-edit")
    started.clear()
    work_between(str(history.path), history.base, history.git("rev-parse", "HEAD"))
    assert started == ["rev-list", "merge-base", *["diff-tree"] * 3, "rev-list", "cat-file"]


def test_what_an_honest_merge_brings_in_is_not_read(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    reader = commits.DiffReader

    def count(content: bytes) -> Any:
        read.append(len(content))
        return reader(content)

    monkeypatch.setattr(commits, "DiffReader", count)
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
    monkeypatch.setattr(commits, "MAX_ARGUMENTS", 10)
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
    assert work_between(str(repo.path), repo.base) == Work([], "")


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
    assert repo.violations() == {("docs/evil.md", "denied_content_patterns")}
    changes = work_between(str(repo.path), repo.base).changes
    names = ["docs/evil.md", "docs/main.md", "docs/side.md"]
    assert sorted(change.path for change in changes if not change.since) == names
    assert sorted(change.path for change in changes if change.since == repo.base) == names


def test_a_root_commit_and_an_unknown_base(repo: Repo) -> None:
    repo.git("checkout", "--quiet", "--orphan", "new")
    repo.write("docs/a.md", f"{KEY}\n")
    repo.commit()
    assert ("docs/a.md", "denied_content_patterns") in repo.violations()
    for name in ("nowhere", "--all", ""):
        with pytest.raises(LoopError, match="there is no commit"):
            work_between(str(repo.path), name)
