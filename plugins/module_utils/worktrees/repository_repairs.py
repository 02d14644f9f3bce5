# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stops git in a whole repository and is put right where it is: its main checkout, extensions, commondirs."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..base.errors import LoopError
from ..base.files import write_atomic
from ..base.untrusted import show
from ..git.command import git
from ..git.repository import Repo, default_of, filters_off, read_small, unknown_extensions
from ..git.worktree_admin import Admin
from ..host.processes import git_user_of
from .leftovers import Leftover
from .manifests import new_id
from .quarantine import Pass, describe
from .salvage import put_aside


def leave_branch(repo: Repo, branch: str, this: Pass) -> None:
    """Move the main checkout off ``branch``. With uncommitted work only HEAD moves: no file is touched."""
    head, commit = default_of(repo, branch)
    holder = git_user_of(repo.path, this.running)
    if holder:
        raise LoopError(f"the main checkout {repo.path} is on {branch} and in use: {holder}; nothing was touched")
    this.plan.append(f"move the main checkout {repo.path} from {branch} to {head}")
    if this.check:
        return
    config = filters_off(repo)
    if not repo.bare:
        dirty = repo.git(["status", "--porcelain", "--ignore-submodules=all", "-uno"], config=config)[1]
        if not dirty:
            repo.git(["read-tree", "-m", "-u", "HEAD", commit], config=config, ok=(0, 128))
    if head.startswith("ref:"):
        repo.git(["symbolic-ref", "-m", "loop: freed", "HEAD", head.removeprefix("ref: ")])
    else:
        repo.git(["update-ref", "--no-deref", "-m", "loop: freed", "HEAD", commit])
    this.healed.append(f"main checkout on {branch}")


def repair_strangers(repo: Repo, admins: Iterable[Admin], this: Pass) -> None:
    """A broken ``commondir`` of any worktree stops git everywhere; it can only say one thing, so it is written anew."""
    for admin in admins:
        file = f"{admin.directory}/commondir"
        common = (read_small(file) or "").strip()
        if common == "../.." or (common and os.path.isdir(os.path.join(admin.directory, common))):
            continue
        if not os.path.isdir(admin.directory) or os.path.islink(admin.directory):
            continue
        this.plan.append(f"write {file} anew")
        broken = Leftover("debris", "broken commondir", repo, debris=[file], id=new_id(len(this.done)))
        describe(broken, this)
        if not this.check:
            put_aside(repo, broken.id, [file])
            write_atomic(file, b"../..\n")
            this.healed.append(f"commondir of worktree {admin.name}")


def repair_extensions(repo: Repo, this: Pass) -> None:
    """An extension that a newer git sets and an older one refuses, though it changes nothing that is kept, goes."""
    unknown = unknown_extensions(repo)
    if not unknown:
        return
    if set(unknown) - {"relativeworktrees"}:
        raise LoopError(
            f"{repo.path} has the extension {show(', '.join(unknown))}, which this host's git does not know"
        )
    if this.check:
        raise LoopError(f"{repo.path} has the extension relativeWorktrees: without check mode it is removed")
    this.plan.append(f"remove the extension relativeWorktrees of {repo.path}")
    file = ["config", "--file", f"{repo.common}/config", "--no-includes"]
    git("/", [*file, "--unset-all", "extensions.relativeworktrees"])
    this.healed.append(f"extension relativeWorktrees of {repo.path}")
