# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository, the directory of its runs, and what is looked at and asked for in the tests of worktrees."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.heal import Worktree, ensure
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.retention import Retention
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.sweep import Scope, sweep

BRANCH = "hyrule-feature/ISSUE_APP_1/app"
# Nothing runs on behind a test's back.
SETTINGS = ("user.name=Someone", "user.email=someone@example.net", "gc.auto=0", "maintenance.auto=false")
NOBODY = pwd.getpwnam("nobody")


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


def everything(world: World) -> tuple[dict[str, tuple[str, int, bytes]], str]:
    """All files and refs."""
    return snapshot(world.root), git(world.repo, "for-each-ref")


def one_line(error: BaseException) -> str:
    """What it says, which can be printed."""
    text = str(error)
    assert text.isprintable(), text
    return text


def refused(world: World, words: str, **options: Any) -> None:
    """A heal that says why not in one line, and changes nothing."""
    before = everything(world)
    with pytest.raises(LoopError, match=words) as caught:
        heal(world, **options)
    one_line(caught.value)
    assert everything(world) == before


def sweep_two(world: World) -> dict[str, Any]:
    """A sweep of the workspace with a second, sound checkout in it, which has a branch to take."""
    other = world.root / "workspace/zzz"
    other.mkdir()
    git(other, "init", "-q", "-b", "main")
    git(other, "commit", "-q", "--allow-empty", "-m", "one")
    git(other, "branch", BRANCH)
    if os.stat(world.runs).st_uid != os.geteuid():
        give(other, os.stat(world.runs).st_uid)
    began = time.monotonic()
    done = swept(world)
    assert time.monotonic() - began < 30
    assert BRANCH in done["removed"]
    return done


def give(path: Path, uid: int) -> None:
    """Let it belong to another user, with all that is in it."""
    subprocess.run(["chown", "-R", f"{uid}:{uid}", str(path)], check=True)


@contextlib.contextmanager
def of_nobodys(*, worktree: bool) -> Iterator[World]:
    """A world that belongs to an unprivileged user, in a directory of root's."""
    top = Path(tempfile.mkdtemp(prefix="loop-"))
    top.chmod(0o755)
    world = World(top / "world")
    if worktree:
        world.worktree()
    give(world.root, NOBODY.pw_uid)
    yield world
    shutil.rmtree(top)


def repository_of_roots(path: Path) -> Path:
    """One that only root may look into."""
    path.mkdir()
    git(path, "init", "-q", "-b", "main")
    git(path, "commit", "-q", "--allow-empty", "-m", "root's")
    (path / ".git").chmod(0o700)
    return path
