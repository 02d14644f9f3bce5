# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose a lock file of git's is: of a living git that is, or may be, at work on the repository."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.git.command import git
from ansible_collections.as215932.engineering_loop.plugins.module_utils.git.locks import lock_holder
from ansible_collections.as215932.engineering_loop.plugins.module_utils.git.repository import Repo, open_repo
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.processes import (
    Process,
    Running,
    processes,
)


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    git("/", ["init", "-q", "-b", "main", str(tmp_path / "repo")])
    (tmp_path / "repo/.git/index.lock").write_text("")
    return open_repo(str(tmp_path / "repo"))


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Process]:
    """A git that is at work on another repository."""
    git("/", ["init", "-q", "--bare", str(tmp_path / "other")])
    words = ["git", "cat-file", "--batch"]
    with subprocess.Popen(words, cwd=tmp_path / "other", stdin=subprocess.PIPE) as process:
        yield begun(Process(process.pid, [str(tmp_path / "other")]))
        process.kill()


def begun(process: Process) -> Process:
    """It is called git a moment after it was started."""
    while process.name != "git":
        del process.name
    return process


def lock(repo: Repo) -> str:
    return f"{repo.common}/index.lock"


def test_whoever_has_it_open_holds_it(repo: Repo) -> None:
    with open(lock(repo), "rb") as handle, subprocess.Popen(["sleep", "60"], stdin=handle) as process:
        found = lock_holder(lock(repo), repo, processes())
        process.kill()
    assert found == f"process {process.pid} (sleep)"


def test_a_git_elsewhere_holds_nothing_here(repo: Repo, elsewhere: Process) -> None:
    assert lock_holder(lock(repo), repo, Running([elsewhere])) is None
    elsewhere.places.append(repo.path)
    assert lock_holder(lock(repo), repo, Running([elsewhere])) == f"process {elsewhere.pid} (git)"


@pytest.mark.parametrize(("owner", "held"), [(65534, True), (0, False)])
def test_a_git_that_may_not_be_looked_at_is_one_of_its_owners(repo: Repo, owner: int, held: bool) -> None:
    """Only a user has processes of its own that it may not look at; what root may not is of another container."""
    os.chown(lock(repo), owner, owner)
    os.chown(repo.path, owner, owner)
    with subprocess.Popen(
        ["git", "hash-object", "--stdin"], cwd="/", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, user=owner
    ) as process:
        found = lock_holder(lock(repo), repo, Running([begun(Process(process.pid, []))]))
        process.kill()
    assert (found == f"process {process.pid} (git)") == held
