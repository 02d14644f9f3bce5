# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A forge on disk, and the workspace whose checkouts are of its repositories."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees import checkouts
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.checkouts import Workspace
from commands import sh

ME = pwd.getpwuid(os.geteuid()).pw_name
NAMES = ("one", "two", "three")


class World:
    """A forge on disk with three repositories, and a workspace for them."""

    def __init__(self, path: Path, user: str = ME) -> None:
        self.forge, self.root = path / "forge", path / "state/workspace"
        for name in NAMES:
            work = path / "work" / name
            work.mkdir(parents=True)
            sh(work, "git", "init", "-q", "-b", "main")
            (work / "README").write_text("0\n")
            (work / ".gitignore").write_text("*.cache\n")
            sh(work, "git", "add", "-A")
            sh(work, "git", "commit", "-q", "-m", "0")
            sh(path, "git", "clone", "-q", "--bare", str(work), str(self.forge / f"acme/{name}.git"))
        self.work = path / "work"
        (path / "state").mkdir()
        self.workspace = Workspace(
            root=str(self.root), repositories=[{"repo": f"acme/{name}"} for name in NAMES], user=user,
            git_url=str(self.forge), git_user_name="Loop", git_user_email="loop@example.org",
        )  # fmt: skip

    def push(self, name: str, text: str) -> str:
        (self.work / name / "README").write_text(f"{text}\n")
        sh(self.work / name, "git", "commit", "-q", "-a", "-m", text)
        sh(self.work / name, "git", "push", "-q", "--force", str(self.forge / f"acme/{name}.git"), "main")
        return sh(self.work / name, "git", "rev-parse", "HEAD")

    def update(self, check: bool = False, **changed: Any) -> dict[str, Any]:
        return checkouts.update(Workspace(**{**self.workspace.__dict__, **changed}), check=check)

    def statuses(self, check: bool = False, **changed: Any) -> list[str]:
        return [one["status"] for one in self.update(check, **changed)["repositories"]]


def head(world: World, name: str) -> str:
    assert sh(world.root / name, "git", "symbolic-ref", "HEAD") == "refs/heads/main"
    assert sh(world.root / name, "git", "status", "--porcelain") == ""
    return sh(world.root / name, "git", "rev-parse", "HEAD")


def put(place: Path, kind: str) -> None:
    """Something that is no file of its own in the place of one."""
    place.parent.mkdir(parents=True, exist_ok=True)
    content = place.read_bytes() if place.exists() else b""
    place.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "directory":
        (place / "x").mkdir(parents=True)
    elif kind == "link":
        place.symlink_to("/dev/zero")
    else:
        place.write_bytes(content)
        place.chmod(0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Nothing is cloned yet."""
    return World(tmp_path)


@pytest.fixture
def ready(world: World) -> World:
    """All is cloned and current."""
    world.update()
    return world


def deep(top: Path, levels: int = 3000) -> None:
    """Directories below each other, deeper than a path can be long."""
    top.mkdir(parents=True)
    descriptor = os.open(top, os.O_RDONLY)
    for _level in range(levels):
        os.mkdir("dd", dir_fd=descriptor)
        inner = os.open("dd", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
