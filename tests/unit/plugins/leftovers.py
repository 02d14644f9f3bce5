# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that a crash, an agent or a hand was seen to leave in the way of the next run, made with real git."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.heal import Worktree, ensure
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.retention import Retention
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.sweep import Scope, sweep

BRANCH = "hyrule-feature/ISSUE_APP_1/app"
# Nothing runs on behind a test's back.
SETTINGS = ("user.name=Someone", "user.email=someone@example.net", "gc.auto=0", "maintenance.auto=false")
MISSING = "1" * 40


def git(directory: Path, *arguments: str) -> str:
    environment = {**os.environ, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}
    done = subprocess.run(
        ["git", *(word for each in SETTINGS for word in ("-c", each)), *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


class World:
    """A repository ``app`` and the directory of its runs."""

    def __init__(self, root: Path) -> None:
        self.root, self.repo, self.runs = root, root / "workspace" / "app", root / "runs"
        self.path = self.runs / "issue_app_1" / "worktrees" / "app-ISSUE_APP_1"
        self.other = self.runs / "issue_app_2" / "worktrees" / "app-ISSUE_APP_2"
        self.commits: list[str] = []
        self.repo.mkdir(parents=True)
        self.path.parent.mkdir(parents=True)
        self.other.parent.mkdir(parents=True)
        (self.path.parent.parent / "request.md").write_text("the request\n")
        git(self.repo, "init", "-q", "-b", "main")
        (self.repo / "docs").mkdir()
        (self.repo / "docs" / "page.md").write_text("page\n")
        (self.repo / ".gitignore").write_text("*.log\n")
        git(self.repo, "add", "-A")
        git(self.repo, "commit", "-qm", "first")
        self.base = git(self.repo, "rev-parse", "HEAD")
        self.admins = self.repo / ".git" / "worktrees"
        self.admin = self.admins / self.path.name
        self.head = self.repo / ".git" / "refs" / "heads" / BRANCH

    def commit(self, directory: Path, text: str) -> str:
        (directory / "docs").mkdir(exist_ok=True)
        (directory / "docs" / "committed.md").write_text(text)
        git(directory, "add", "-A")
        git(directory, "commit", "-qm", text)
        self.commits.append(git(directory, "rev-parse", "HEAD"))
        return self.commits[-1]

    def worktree(self, path: Path | None = None, branch: str = BRANCH) -> Path:
        """A registered worktree with a commit, a tracked change, an untracked and an ignored file."""
        path = path or self.path
        git(self.repo, "worktree", "add", "-q", "-b", branch, str(path))
        self.commit(path, "a sentinel commit\n")
        (path / "docs" / "page.md").write_text("sentinel: tracked change\n")
        (path / "untracked.txt").write_text("sentinel: untracked\n")
        (path / "debug.log").write_text("sentinel: ignored\n")
        return path

    def branch(self, name: str) -> str:
        """A branch with a commit of its own and no worktree."""
        git(self.repo, "checkout", "-q", "--detach")
        commit = self.commit(self.repo, f"on {name}\n")
        git(self.repo, "branch", name)
        git(self.repo, "checkout", "-q", "main")
        return commit


def snapshot(top: Path) -> dict[str, tuple[str, int, bytes]]:
    """Everything below ``top`` but links to git directories: kind, mode and content."""
    found: dict[str, tuple[str, int, bytes]] = {}
    for directory, deeper, names in os.walk(top):
        for name in [*deeper, *names]:
            path = Path(directory, name)
            mode = path.lstat().st_mode
            if name == ".git" and not stat.S_ISDIR(mode):
                continue
            if stat.S_ISLNK(mode):
                entry = ("link", 0, os.fsencode(os.readlink(path)))
            elif stat.S_ISREG(mode):
                entry = ("file", mode, path.read_bytes())
            else:
                entry = ("other", mode, b"")
            found[str(path.relative_to(top))] = entry
    return found


def usable(world: World) -> None:
    """A registered worktree at the path, on the branch, at the base, clean, and one can commit in it."""
    assert git(world.path, "symbolic-ref", "HEAD") == f"refs/heads/{BRANCH}"
    assert git(world.path, "rev-parse", "HEAD") == world.base
    assert git(world.path, "status", "--porcelain") == ""
    assert str(world.path) in git(world.repo, "worktree", "list", "--porcelain").split()
    (world.path / "docs" / "new.md").write_text("new\n")
    git(world.path, "add", "-A")
    git(world.path, "commit", "-qm", "the next run's")


def sentinels(top: Path) -> set[bytes]:
    found = set()
    for directory, _unused, names in os.walk(top):
        for name in names:
            path = Path(directory, name)
            if path.is_file() and not path.is_symlink():
                content = path.read_bytes()
                if content.startswith(b"sentinel"):
                    found.add(content)
    return found


def reachable(world: World) -> set[str]:
    return set(git(world.repo, "rev-list", "--all").split())


def wanted(world: World, **fields: Any) -> Worktree:
    """The worktree that the next run wants."""
    return Worktree(**{"repo": str(world.repo), "path": str(world.path), "branch": BRANCH, **fields})


def heal(world: World, *, fresh: bool = True, check: bool = False, **fields: Any) -> dict[str, Any]:
    return ensure(wanted(world, **fields), fresh=fresh, check=check)


def swept(world: World, retention: Retention | None = None, **fields: Any) -> dict[str, Any]:
    scope = Scope(
        workspace=str(world.root / "workspace"),
        branch_prefixes=["hyrule-feature", "hyrule-loop"],
        worktree_root=str(world.runs),
        **fields,
    )
    return sweep(scope, retention)


def quarantine(world: World) -> str:
    """Where a sweep puts things."""
    return str(world.runs / ".quarantine")


# --- the shapes -------------------------------------------------------------------------------

SHAPES: dict[str, Callable[[World], None]] = {}


def shape(make: Callable[[World], None]) -> Callable[[World], None]:
    SHAPES[make.__name__] = make
    return make


@shape
def registered_with_uncommitted_work(world: World) -> None:
    world.worktree()


@shape
def branch_only(world: World) -> None:
    world.branch(BRANCH)


@shape
def registered_directory_gone(world: World) -> None:
    shutil.rmtree(world.worktree())


@shape
def directory_that_git_does_not_know(world: World) -> None:
    world.path.mkdir()
    (world.path / "note.txt").write_text("sentinel: an operator's\n")


@shape
def worktree_locked(world: World) -> None:
    git(world.repo, "worktree", "lock", str(world.worktree()))


@shape
def path_is_a_file(world: World) -> None:
    world.path.write_text("sentinel: a file\n")


@shape
def path_is_a_symlink_to_a_directory(world: World) -> None:
    target = world.root / "elsewhere"
    target.mkdir()
    (target / "kept.txt").write_text("sentinel: behind the link\n")
    world.path.symlink_to(target)


@shape
def path_is_a_dangling_symlink(world: World) -> None:
    world.path.symlink_to(world.root / "nowhere")


@shape
def path_is_a_symlink_to_itself(world: World) -> None:
    world.path.symlink_to(world.path)


@shape
def path_is_a_fifo(world: World) -> None:
    os.mkfifo(world.path)


@shape
def path_is_a_socket(world: World) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        here = Path.cwd()
        os.chdir(world.path.parent)  # a socket's name is short
        try:
            end.bind(world.path.name)
        finally:
            os.chdir(here)


@shape
def parent_of_the_path_is_a_file(world: World) -> None:
    world.path.parent.rmdir()
    world.path.parent.write_text("sentinel: not a directory\n")


@shape
def parent_of_the_path_is_a_dangling_symlink(world: World) -> None:
    world.path.parent.rmdir()
    world.path.parent.symlink_to(world.root / "nowhere")


@shape
def path_is_an_empty_directory(world: World) -> None:
    world.path.mkdir()


@shape
def branch_in_another_loop_worktree(world: World) -> None:
    world.worktree(world.other)


@shape
def branch_in_another_worktree_whose_directory_is_gone(world: World) -> None:
    shutil.rmtree(world.worktree(world.other))


@shape
def branch_in_the_main_checkout(world: World) -> None:
    git(world.repo, "checkout", "-q", "-b", BRANCH)
    world.commit(world.repo, "in the main checkout\n")


@shape
def branch_in_the_main_checkout_with_uncommitted_work(world: World) -> None:
    git(world.repo, "checkout", "-q", "-b", BRANCH)
    world.commit(world.repo, "in the main checkout\n")
    (world.repo / "docs" / "page.md").write_text("sentinel: uncommitted in main\n")


@shape
def branch_named_like_a_parent(world: World) -> None:
    world.branch("hyrule-feature")


@shape
def branch_named_like_a_parent_and_checked_out(world: World) -> None:
    world.worktree(world.other, "hyrule-feature")


@shape
def parent_branch_is_packed(world: World) -> None:
    world.branch("hyrule-feature/ISSUE_APP_1")
    git(world.repo, "pack-refs", "--all")


@shape
def branch_below_ours(world: World) -> None:
    world.branch(f"{BRANCH}/extra")


@shape
def branch_below_ours_checked_out(world: World) -> None:
    world.worktree(world.other, f"{BRANCH}/extra")


@shape
def stale_ref_lock(world: World) -> None:
    world.worktree()
    Path(f"{world.head}.lock").write_text("")


@shape
def stale_ref_lock_with_a_commit_in_it(world: World) -> None:
    commit = world.branch("other")
    git(world.repo, "branch", "-D", "other")
    world.head.parent.mkdir(parents=True)
    Path(f"{world.head}.lock").write_text(f"{commit}\n")


@shape
def stale_locks_of_the_repository(world: World) -> None:
    world.worktree()
    for name in ("index", "config", "HEAD", "packed-refs", "shallow"):
        (world.repo / ".git" / f"{name}.lock").write_text("")


@shape
def stale_packed_refs_lock_over_packed_refs(world: World) -> None:
    world.worktree()
    git(world.repo, "pack-refs", "--all")
    (world.repo / ".git" / "packed-refs.lock").write_text("")


@shape
def stale_locks_of_the_admin_directory(world: World) -> None:
    world.worktree()
    (world.admin / "index.lock").write_text("")
    (world.admin / "HEAD.lock").write_text("")


@shape
def admin_without_commondir(world: World) -> None:
    world.worktree()
    (world.admin / "commondir").unlink()


@shape
def admin_commondir_empty(world: World) -> None:
    world.worktree()
    (world.admin / "commondir").write_text("")


@shape
def admin_commondir_is_a_directory(world: World) -> None:
    world.worktree()
    (world.admin / "commondir").unlink()
    (world.admin / "commondir").mkdir()


@shape
def commondir_of_a_stranger_is_empty(world: World) -> None:
    world.worktree(world.other, "somebody/else")
    (world.admins / world.other.name / "commondir").write_text("")


@shape
def admin_head_empty(world: World) -> None:
    world.worktree()
    (world.admin / "HEAD").write_text("")


@shape
def admin_head_garbage(world: World) -> None:
    world.worktree()
    (world.admin / "HEAD").write_bytes(b"\x00\xff garbage")


@shape
def admin_head_is_a_directory(world: World) -> None:
    world.worktree()
    (world.admin / "HEAD").unlink()
    (world.admin / "HEAD").mkdir()


@shape
def admin_gitdir_garbage(world: World) -> None:
    world.worktree()
    (world.admin / "gitdir").write_bytes(b"\x00\xff\n\n")


@shape
def admin_gitdir_missing(world: World) -> None:
    world.worktree()
    (world.admin / "gitdir").unlink()


@shape
def admin_directory_empty(world: World) -> None:
    world.worktree()
    for entry in world.admin.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


@shape
def admin_directory_is_a_file(world: World) -> None:
    world.branch(BRANCH)
    world.admins.mkdir()
    world.admin.write_text("sentinel: not an admin directory\n")


@shape
def admin_directory_is_a_symlink(world: World) -> None:
    world.worktree()
    world.admin.rename(world.root / "moved-admin")
    world.admin.symlink_to(world.root / "moved-admin")


@shape
def worktrees_is_a_file(world: World) -> None:
    world.branch(BRANCH)
    world.admins.write_text("sentinel: a file named worktrees\n")


@shape
def git_link_empty(world: World) -> None:
    (world.worktree() / ".git").write_text("")


@shape
def git_link_missing(world: World) -> None:
    (world.worktree() / ".git").unlink()


@shape
def git_link_points_elsewhere(world: World) -> None:
    (world.worktree() / ".git").write_text(f"gitdir: {world.repo}/.git\n")


@shape
def git_link_is_a_symlink(world: World) -> None:
    link = world.worktree() / ".git"
    link.unlink()
    link.symlink_to(world.repo / ".git")


@shape
def git_link_is_a_fifo(world: World) -> None:
    link = world.worktree() / ".git"
    link.unlink()
    os.mkfifo(link)


@shape
def detached_head_with_a_commit(world: World) -> None:
    world.worktree()
    git(world.path, "stash", "-q")
    git(world.path, "checkout", "-q", "--detach")
    world.commit(world.path, "detached\n")


@shape
def commit_only_in_the_reflog(world: World) -> None:
    world.worktree()
    git(world.path, "stash", "-q")
    git(world.path, "reset", "-q", "--hard", world.base)


@shape
def commit_amended_away(world: World) -> None:
    world.worktree()
    git(world.path, "commit", "-q", "--amend", "-m", "another")


@shape
def index_corrupt(world: World) -> None:
    world.worktree()
    (world.admin / "index").write_bytes(b"DIRC garbage")


@shape
def index_missing(world: World) -> None:
    world.worktree()
    (world.admin / "index").unlink()


@shape
def merge_in_progress_with_conflict(world: World) -> None:
    git(world.repo, "worktree", "add", "-q", "-b", BRANCH, str(world.path))
    (world.path / "docs" / "page.md").write_text("ours\n")
    world.commit(world.path, "ours")
    git(world.repo, "checkout", "-q", "-b", "theirs", world.base)
    (world.repo / "docs" / "page.md").write_text("theirs\n")
    world.commit(world.repo, "theirs")
    git(world.repo, "checkout", "-q", "main")
    with pytest.raises(subprocess.CalledProcessError):
        git(world.path, "merge", "theirs")


def stop_in_a_rebase(world: World, path: Path) -> None:
    git(world.repo, "worktree", "add", "-q", "-b", BRANCH, str(path))
    (path / "docs" / "page.md").write_text("ours\n")
    world.commit(path, "ours")
    (world.repo / "docs" / "page.md").write_text("newer\n")
    git(world.repo, "commit", "-qam", "newer main")
    world.base = git(world.repo, "rev-parse", "HEAD")
    with pytest.raises(subprocess.CalledProcessError):
        git(path, "rebase", "main")


@shape
def rebase_in_progress(world: World) -> None:
    stop_in_a_rebase(world, world.path)


@shape
def rebase_in_progress_in_another_worktree(world: World) -> None:
    stop_in_a_rebase(world, world.other)


@shape
def bisect_in_progress_in_another_worktree(world: World) -> None:
    world.worktree(world.other)
    git(world.other, "stash", "-q")
    world.commit(world.other, "second\n")
    world.commit(world.other, "third\n")
    git(world.other, "bisect", "start", "HEAD", world.base)


@shape
def staged_and_then_deleted(world: World) -> None:
    world.worktree()
    (world.path / "staged.txt").write_text("staged only\n")
    git(world.path, "add", "staged.txt")
    (world.path / "staged.txt").unlink()


@shape
def worktree_moved_by_hand(world: World) -> None:
    world.worktree().rename(world.path.with_name("moved"))


@shape
def two_admin_directories_for_one_path(world: World) -> None:
    world.worktree()
    twin = world.admins / "twin"
    shutil.copytree(world.admin, twin)


@shape
def admin_name_taken_by_another_worktree(world: World) -> None:
    strange = world.root / "strange" / world.path.name
    world.worktree(strange, "somebody/else")


@shape
def admin_path_ends_in_a_newline(world: World) -> None:
    world.worktree()
    (world.admin / "gitdir").write_text(f"{world.path}\n/.git\n")


@shape
def nested_repository_inside(world: World) -> None:
    inner = world.worktree() / "vendor"
    inner.mkdir()
    git(inner, "init", "-q", "-b", "main")
    (inner / "nested.txt").write_text("sentinel: nested\n")
    git(inner, "add", "-A")
    git(inner, "commit", "-qm", "nested")


@shape
def path_is_a_repository_of_its_own(world: World) -> None:
    world.path.mkdir()
    git(world.path, "init", "-q", "-b", "main")
    (world.path / "own.txt").write_text("sentinel: own\n")
    git(world.path, "add", "-A")
    git(world.path, "commit", "-qm", "own")


@shape
def submodule_with_uncommitted_work(world: World) -> None:
    library = world.root / "library"
    library.mkdir()
    git(library, "init", "-q", "-b", "main")
    (library / "lib.txt").write_text("library\n")
    git(library, "add", "-A")
    git(library, "commit", "-qm", "library")
    world.worktree()
    git(world.path, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(library), "lib")
    (world.path / "lib" / "lib.txt").write_text("sentinel: in the submodule\n")


@shape
def sparse_checkout(world: World) -> None:
    world.worktree()
    git(world.path, "stash", "-q", "-u")
    git(world.path, "sparse-checkout", "set", "none")
    (world.path / "untracked.txt").write_text("sentinel: in a sparse checkout\n")


@shape
def packed_refs(world: World) -> None:
    world.worktree()
    git(world.repo, "pack-refs", "--all", "--prune")


@shape
def branch_ref_empty(world: World) -> None:
    world.worktree()
    world.head.write_text("")


@shape
def branch_ref_garbage(world: World) -> None:
    world.worktree()
    world.head.write_bytes(b"\x00\x01garbage")


@shape
def branch_ref_names_a_missing_object(world: World) -> None:
    world.head.parent.mkdir(parents=True)
    world.head.write_text(f"{MISSING}\n")


@shape
def branch_ref_is_a_symlink(world: World) -> None:
    world.head.parent.mkdir(parents=True)
    world.head.symlink_to(world.root / "nowhere")


@shape
def branch_is_symbolic(world: World) -> None:
    git(world.repo, "symbolic-ref", f"refs/heads/{BRANCH}", "refs/heads/main")


@shape
def branch_is_symbolic_and_dangling(world: World) -> None:
    git(world.repo, "symbolic-ref", f"refs/heads/{BRANCH}", "refs/heads/nowhere")


@shape
def parent_ref_empty(world: World) -> None:
    world.head.parent.parent.parent.mkdir(exist_ok=True)
    (world.repo / ".git" / "refs" / "heads" / "hyrule-feature").write_text("")


@shape
def parent_ref_is_a_symlink_to_a_directory(world: World) -> None:
    target = world.root / "refs-elsewhere"
    target.mkdir()
    (world.repo / ".git" / "refs" / "heads" / "hyrule-feature").symlink_to(target)


@shape
def ref_is_a_directory_with_junk(world: World) -> None:
    world.head.mkdir(parents=True)
    (world.head / "junk.lock").write_text("sentinel: junk\n")


@shape
def reflog_is_a_directory(world: World) -> None:
    log = world.repo / ".git" / "logs" / "refs" / "heads" / BRANCH
    log.mkdir(parents=True)
    (log / "old").write_text("")


@shape
def parent_reflog_is_a_file(world: World) -> None:
    (world.repo / ".git" / "logs" / "refs" / "heads" / "hyrule-feature").write_text("")


@shape
def directory_read_only(world: World) -> None:
    world.worktree().chmod(0o500)


@shape
def directory_without_permissions(world: World) -> None:
    (world.worktree() / "docs").chmod(0)
    world.path.chmod(0)


@shape
def core_worktree_points_elsewhere(world: World) -> None:
    world.worktree()
    git(world.repo, "config", "core.worktree", "/nonexistent")


@shape
def core_bare_set(world: World) -> None:
    world.worktree()
    git(world.repo, "config", "core.bare", "true")


@shape
def branch_differs_in_case_only(world: World) -> None:
    world.worktree(world.other, BRANCH.lower())


@shape
def names_with_spaces_and_newlines_inside(world: World) -> None:
    (world.worktree() / "a b\nc").write_text("sentinel: odd name\n")


@shape
def half_made_by_a_killed_add(world: World) -> None:
    world.worktree()
    (world.admin / "index").rename(world.admin / "index.lock")
    (world.admin / "locked").write_text("initializing")
    (world.path / "docs" / "page.md").unlink()


@shape
def on_another_branch(world: World) -> None:
    world.worktree()
    git(world.path, "checkout", "-q", "-b", "agents/own")
