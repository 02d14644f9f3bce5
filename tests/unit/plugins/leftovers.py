# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that a crash, an agent or a hand was seen to leave in the way of the next run, made with real git.

``SHAPES`` has one row for each; the same table draws the one in docs/worktrees.md.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from worlds import BRANCH, World, git

MISSING = "1" * 40
GONE = "registered worktree without its directory"


class Shape:
    """One row: how it is made, and what a heal puts into the quarantine for it, or moves off the branch."""

    def __init__(self, make: Callable[[World], object], *goes: str) -> None:
        self.make, self.goes = make, goes

    def __call__(self, world: World) -> None:
        self.make(world)


def directory_that_git_does_not_know(world: World) -> None:
    world.path.mkdir()
    (world.path / "note.txt").write_text("sentinel: an operator's\n")


def path_is_a_symlink_to_a_directory(world: World) -> None:
    target = world.root / "elsewhere"
    target.mkdir()
    (target / "kept.txt").write_text("sentinel: behind the link\n")
    world.path.symlink_to(target)


def path_is_a_socket(world: World) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        here = Path.cwd()
        os.chdir(world.path.parent)  # a socket's name is short
        try:
            end.bind(world.path.name)
        finally:
            os.chdir(here)


def parent_of_the_path_is_a_file(world: World) -> None:
    world.path.parent.rmdir()
    world.path.parent.write_text("sentinel: not a directory\n")


def parent_of_the_path_is_a_dangling_symlink(world: World) -> None:
    world.path.parent.rmdir()
    world.path.parent.symlink_to(world.root / "nowhere")


def branch_in_the_main_checkout(world: World) -> None:
    git(world.repo, "checkout", "-q", "-b", BRANCH)
    world.commit(world.repo, "in the main checkout\n")


def branch_in_the_main_checkout_with_uncommitted_work(world: World) -> None:
    git(world.repo, "checkout", "-q", "-b", BRANCH)
    world.commit(world.repo, "in the main checkout\n")
    (world.repo / "docs" / "page.md").write_text("sentinel: uncommitted in main\n")


def parent_branch_is_packed(world: World) -> None:
    world.branch("hyrule-feature/ISSUE_APP_1")
    git(world.repo, "pack-refs", "--all")


def stale_ref_lock(world: World) -> None:
    world.worktree()
    Path(f"{world.head}.lock").write_text("")


def stale_ref_lock_with_a_commit_in_it(world: World) -> None:
    commit = world.branch("other")
    git(world.repo, "branch", "-D", "other")
    world.head.parent.mkdir(parents=True)
    Path(f"{world.head}.lock").write_text(f"{commit}\n")


def stale_locks_of_the_repository(world: World) -> None:
    world.worktree()
    for name in ("index", "config", "HEAD", "packed-refs", "shallow"):
        (world.repo / ".git" / f"{name}.lock").write_text("")


def stale_packed_refs_lock_over_packed_refs(world: World) -> None:
    world.worktree()
    git(world.repo, "pack-refs", "--all")
    (world.repo / ".git" / "packed-refs.lock").write_text("")


def stale_locks_of_the_admin_directory(world: World) -> None:
    world.worktree()
    (world.admin / "index.lock").write_text("")
    (world.admin / "HEAD.lock").write_text("")


def admin_without_commondir(world: World) -> None:
    world.worktree()
    (world.admin / "commondir").unlink()


def admin_commondir_empty(world: World) -> None:
    world.worktree()
    (world.admin / "commondir").write_text("")


def admin_commondir_is_a_directory(world: World) -> None:
    world.worktree()
    (world.admin / "commondir").unlink()
    (world.admin / "commondir").mkdir()


def commondir_of_a_stranger_is_empty(world: World) -> None:
    world.worktree(world.other, "somebody/else")
    (world.admins / world.other.name / "commondir").write_text("")


def admin_head_empty(world: World) -> None:
    world.worktree()
    (world.admin / "HEAD").write_text("")


def admin_head_garbage(world: World) -> None:
    world.worktree()
    (world.admin / "HEAD").write_bytes(b"\x00\xff garbage")


def admin_head_is_a_directory(world: World) -> None:
    world.worktree()
    (world.admin / "HEAD").unlink()
    (world.admin / "HEAD").mkdir()


def admin_gitdir_garbage(world: World) -> None:
    world.worktree()
    (world.admin / "gitdir").write_bytes(b"\x00\xff\n\n")


def admin_gitdir_missing(world: World) -> None:
    world.worktree()
    (world.admin / "gitdir").unlink()


def admin_directory_empty(world: World) -> None:
    world.worktree()
    for entry in world.admin.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def admin_directory_is_a_file(world: World) -> None:
    world.branch(BRANCH)
    world.admins.mkdir()
    world.admin.write_text("sentinel: not an admin directory\n")


def admin_directory_is_a_symlink(world: World) -> None:
    world.worktree()
    world.admin.rename(world.root / "moved-admin")
    world.admin.symlink_to(world.root / "moved-admin")


def worktrees_is_a_file(world: World) -> None:
    world.branch(BRANCH)
    world.admins.write_text("sentinel: a file named worktrees\n")


def git_link_is_a_symlink(world: World) -> None:
    link = world.worktree() / ".git"
    link.unlink()
    link.symlink_to(world.repo / ".git")


def git_link_is_a_fifo(world: World) -> None:
    link = world.worktree() / ".git"
    link.unlink()
    os.mkfifo(link)


def detached_head_with_a_commit(world: World) -> None:
    world.worktree()
    git(world.path, "stash", "-q")
    git(world.path, "checkout", "-q", "--detach")
    world.commit(world.path, "detached\n")


def commit_only_in_the_reflog(world: World) -> None:
    world.worktree()
    git(world.path, "stash", "-q")
    git(world.path, "reset", "-q", "--hard", world.base)


def commit_amended_away(world: World) -> None:
    world.worktree()
    git(world.path, "commit", "-q", "--amend", "-m", "another")


def index_corrupt(world: World) -> None:
    world.worktree()
    (world.admin / "index").write_bytes(b"DIRC garbage")


def index_missing(world: World) -> None:
    world.worktree()
    (world.admin / "index").unlink()


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


def bisect_in_progress_in_another_worktree(world: World) -> None:
    world.worktree(world.other)
    git(world.other, "stash", "-q")
    world.commit(world.other, "second\n")
    world.commit(world.other, "third\n")
    git(world.other, "bisect", "start", "HEAD", world.base)


def staged_and_then_deleted(world: World) -> None:
    world.worktree()
    (world.path / "staged.txt").write_text("staged only\n")
    git(world.path, "add", "staged.txt")
    (world.path / "staged.txt").unlink()


def two_admin_directories_for_one_path(world: World) -> None:
    world.worktree()
    twin = world.admins / "twin"
    shutil.copytree(world.admin, twin)


def admin_name_taken_by_another_worktree(world: World) -> None:
    strange = world.root / "strange" / world.path.name
    world.worktree(strange, "somebody/else")


def admin_path_ends_in_a_newline(world: World) -> None:
    world.worktree()
    (world.admin / "gitdir").write_text(f"{world.path}\n/.git\n")


def nested_repository_inside(world: World) -> None:
    inner = world.worktree() / "vendor"
    inner.mkdir()
    git(inner, "init", "-q", "-b", "main")
    (inner / "nested.txt").write_text("sentinel: nested\n")
    git(inner, "add", "-A")
    git(inner, "commit", "-qm", "nested")


def path_is_a_repository_of_its_own(world: World) -> None:
    world.path.mkdir()
    git(world.path, "init", "-q", "-b", "main")
    (world.path / "own.txt").write_text("sentinel: own\n")
    git(world.path, "add", "-A")
    git(world.path, "commit", "-qm", "own")


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


def sparse_checkout(world: World) -> None:
    world.worktree()
    git(world.path, "stash", "-q", "-u")
    git(world.path, "sparse-checkout", "set", "none")
    (world.path / "untracked.txt").write_text("sentinel: in a sparse checkout\n")


def packed_refs(world: World) -> None:
    world.worktree()
    git(world.repo, "pack-refs", "--all", "--prune")


def branch_ref_empty(world: World) -> None:
    world.worktree()
    world.head.write_text("")


def branch_ref_garbage(world: World) -> None:
    world.worktree()
    world.head.write_bytes(b"\x00\x01garbage")


def branch_ref_names_a_missing_object(world: World) -> None:
    world.head.parent.mkdir(parents=True)
    world.head.write_text(f"{MISSING}\n")


def branch_ref_is_a_symlink(world: World) -> None:
    world.head.parent.mkdir(parents=True)
    world.head.symlink_to(world.root / "nowhere")


def parent_ref_empty(world: World) -> None:
    world.head.parent.parent.parent.mkdir(exist_ok=True)
    (world.repo / ".git" / "refs" / "heads" / "hyrule-feature").write_text("")


def parent_ref_is_a_symlink_to_a_directory(world: World) -> None:
    target = world.root / "refs-elsewhere"
    target.mkdir()
    (world.repo / ".git" / "refs" / "heads" / "hyrule-feature").symlink_to(target)


def ref_is_a_directory_with_junk(world: World) -> None:
    world.head.mkdir(parents=True)
    (world.head / "junk.lock").write_text("sentinel: junk\n")


def reflog_is_a_directory(world: World) -> None:
    log = world.repo / ".git" / "logs" / "refs" / "heads" / BRANCH
    log.mkdir(parents=True)
    (log / "old").write_text("")


def directory_without_permissions(world: World) -> None:
    (world.worktree() / "docs").chmod(0)
    world.path.chmod(0)


def core_worktree_points_elsewhere(world: World) -> None:
    world.worktree()
    git(world.repo, "config", "core.worktree", "/nonexistent")


def core_bare_set(world: World) -> None:
    world.worktree()
    git(world.repo, "config", "core.bare", "true")


def half_made_by_a_killed_add(world: World) -> None:
    world.worktree()
    (world.admin / "index").rename(world.admin / "index.lock")
    (world.admin / "locked").write_text("initializing")
    (world.path / "docs" / "page.md").unlink()


def on_another_branch(world: World) -> None:
    world.worktree()
    git(world.path, "checkout", "-q", "-b", "agents/own")


SHAPES: dict[str, Shape] = {
    "registered with uncommitted work": Shape(lambda world: world.worktree(), "worktree"),
    "branch only": Shape(lambda world: world.branch(BRANCH), "branch"),
    "registered directory gone": Shape(lambda world: shutil.rmtree(world.worktree()), GONE),
    "directory that git does not know": Shape(directory_that_git_does_not_know, "unregistered directory"),
    "worktree locked": Shape(lambda world: git(world.repo, "worktree", "lock", str(world.worktree())), "worktree"),
    "path is a file": Shape(lambda world: world.path.write_text("sentinel: a file\n"), "unregistered file"),
    "path is a symlink to a directory": Shape(path_is_a_symlink_to_a_directory, "unregistered symlink"),
    "path is a dangling symlink": Shape(
        lambda world: world.path.symlink_to(world.root / "nowhere"), "unregistered symlink"
    ),
    "path is a symlink to itself": Shape(lambda world: world.path.symlink_to(world.path), "unregistered symlink"),
    "path is a fifo": Shape(lambda world: os.mkfifo(world.path), "unregistered fifo"),
    "path is a socket": Shape(path_is_a_socket, "unregistered socket"),
    "parent of the path is a file": Shape(parent_of_the_path_is_a_file, "file"),
    "parent of the path is a dangling symlink": Shape(parent_of_the_path_is_a_dangling_symlink, "symlink"),
    "path is an empty directory": Shape(lambda world: world.path.mkdir(), "unregistered directory"),
    "branch in another loop worktree": Shape(lambda world: world.worktree(world.other), "worktree"),
    "branch in another worktree whose directory is gone": Shape(
        lambda world: shutil.rmtree(world.worktree(world.other)), GONE
    ),
    "branch in the main checkout": Shape(branch_in_the_main_checkout, "branch", "main checkout"),
    "branch in the main checkout with uncommitted work": Shape(
        branch_in_the_main_checkout_with_uncommitted_work, "branch", "main checkout"
    ),
    "branch named like a parent": Shape(lambda world: world.branch("hyrule-feature"), "branch"),
    "branch named like a parent and checked out": Shape(
        lambda world: world.worktree(world.other, "hyrule-feature"), "worktree"
    ),
    "parent branch is packed": Shape(parent_branch_is_packed, "branch"),
    "branch below ours": Shape(lambda world: world.branch(f"{BRANCH}/extra"), "branch", "debris"),
    "branch below ours checked out": Shape(
        lambda world: world.worktree(world.other, f"{BRANCH}/extra"), "worktree", "debris"
    ),
    "stale ref lock": Shape(stale_ref_lock, "worktree", "debris"),
    "stale ref lock with a commit in it": Shape(stale_ref_lock_with_a_commit_in_it, "debris"),
    "stale locks of the repository": Shape(stale_locks_of_the_repository, "worktree", "debris"),
    "stale packed refs lock over packed refs": Shape(stale_packed_refs_lock_over_packed_refs, "worktree", "debris"),
    "stale locks of the admin directory": Shape(stale_locks_of_the_admin_directory, "worktree"),
    "admin without commondir": Shape(admin_without_commondir, "worktree"),
    "admin commondir empty": Shape(admin_commondir_empty, "worktree"),
    "admin commondir is a directory": Shape(admin_commondir_is_a_directory, "worktree"),
    "commondir of a stranger is empty": Shape(commondir_of_a_stranger_is_empty, "debris"),
    "admin head empty": Shape(admin_head_empty, "worktree"),
    "admin head garbage": Shape(admin_head_garbage, "worktree"),
    "admin head is a directory": Shape(admin_head_is_a_directory, "worktree"),
    "admin gitdir garbage": Shape(admin_gitdir_garbage, "worktree"),
    "admin gitdir missing": Shape(admin_gitdir_missing, "worktree"),
    "admin directory empty": Shape(admin_directory_empty, "worktree"),
    "admin directory is a file": Shape(admin_directory_is_a_file, "branch"),
    "admin directory is a symlink": Shape(admin_directory_is_a_symlink, "worktree"),
    "worktrees is a file": Shape(worktrees_is_a_file, "branch", "debris"),
    "git link empty": Shape(lambda world: (world.worktree() / ".git").write_text(""), "worktree"),
    "git link missing": Shape(lambda world: (world.worktree() / ".git").unlink(), "worktree"),
    "git link points elsewhere": Shape(
        lambda world: (world.worktree() / ".git").write_text(f"gitdir: {world.repo}/.git\n"), "worktree"
    ),
    "git link is a symlink": Shape(git_link_is_a_symlink, "worktree"),
    "git link is a fifo": Shape(git_link_is_a_fifo, "worktree"),
    "detached head with a commit": Shape(detached_head_with_a_commit, "worktree", "branch"),
    "commit only in the reflog": Shape(commit_only_in_the_reflog, "worktree"),
    "commit amended away": Shape(commit_amended_away, "worktree"),
    "index corrupt": Shape(index_corrupt, "worktree"),
    "index missing": Shape(index_missing, "worktree"),
    "merge in progress with conflict": Shape(merge_in_progress_with_conflict, "worktree"),
    "rebase in progress": Shape(lambda world: stop_in_a_rebase(world, world.path), "worktree"),
    "rebase in progress in another worktree": Shape(lambda world: stop_in_a_rebase(world, world.other), "worktree"),
    "bisect in progress in another worktree": Shape(bisect_in_progress_in_another_worktree, "worktree"),
    "staged and then deleted": Shape(staged_and_then_deleted, "worktree"),
    "worktree moved by hand": Shape(
        lambda world: world.worktree().rename(world.path.with_name("moved")),
        GONE,
    ),
    "two admin directories for one path": Shape(two_admin_directories_for_one_path, "worktree", "admin directory"),
    "admin name taken by another worktree": Shape(admin_name_taken_by_another_worktree),
    "admin path ends in a newline": Shape(admin_path_ends_in_a_newline, "worktree"),
    "nested repository inside": Shape(nested_repository_inside, "worktree"),
    "path is a repository of its own": Shape(path_is_a_repository_of_its_own, "unregistered directory"),
    "submodule with uncommitted work": Shape(submodule_with_uncommitted_work, "worktree"),
    "sparse checkout": Shape(sparse_checkout, "worktree"),
    "packed refs": Shape(packed_refs, "worktree"),
    "branch ref empty": Shape(branch_ref_empty, "worktree", "debris"),
    "branch ref garbage": Shape(branch_ref_garbage, "worktree", "debris"),
    "branch ref names a missing object": Shape(branch_ref_names_a_missing_object, "branch"),
    "branch ref is a symlink": Shape(branch_ref_is_a_symlink, "debris"),
    "branch is symbolic": Shape(
        lambda world: git(world.repo, "symbolic-ref", f"refs/heads/{BRANCH}", "refs/heads/main"), "branch"
    ),
    "branch is symbolic and dangling": Shape(
        lambda world: git(world.repo, "symbolic-ref", f"refs/heads/{BRANCH}", "refs/heads/nowhere"), "debris"
    ),
    "parent ref empty": Shape(parent_ref_empty, "debris"),
    "parent ref is a symlink to a directory": Shape(parent_ref_is_a_symlink_to_a_directory, "debris"),
    "ref is a directory with junk": Shape(ref_is_a_directory_with_junk, "debris"),
    "reflog is a directory": Shape(reflog_is_a_directory, "debris"),
    "parent reflog is a file": Shape(
        lambda world: (world.repo / ".git" / "logs" / "refs" / "heads" / "hyrule-feature").write_text(""), "debris"
    ),
    "directory read only": Shape(lambda world: world.worktree().chmod(0o500), "worktree"),
    "directory without permissions": Shape(directory_without_permissions, "worktree"),
    "core worktree points elsewhere": Shape(core_worktree_points_elsewhere, "worktree"),
    "core bare set": Shape(core_bare_set, "worktree"),
    "branch differs in case only": Shape(lambda world: world.worktree(world.other, BRANCH.lower())),
    "names with spaces and newlines inside": Shape(
        lambda world: (world.worktree() / "a b\nc").write_text("sentinel: odd name\n"), "worktree"
    ),
    "half made by a killed add": Shape(half_made_by_a_killed_add, "worktree"),
    "on another branch": Shape(on_another_branch, "worktree", "branch"),
}


def drawn() -> str:
    """The table as Markdown."""
    rows = [f"| {name} | {', '.join(shape.goes) or 'nothing'} |" for name, shape in SHAPES.items()]
    return "\n".join(["| what is left | what goes |", "| --- | --- |", *rows, ""])
