# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator writes for a repository: where it is, what its checkout is called, which branch counts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from ..base.errors import LoopError, holds_password, without_passwords

ON_HOST = "the host could read: write GH_TOKEN into engineering_loop_env_file instead"
ON_CONTROLLER = "this machine could read: set GH_TOKEN in your environment instead"


class Remote(NamedTuple):
    """A repository as it was asked for, its address, its checkout's name and the branch that work starts from."""

    repo: str
    url: str
    dest: str
    version: str


def remote_of(given: Mapping[str, str], git_url: str) -> Remote:
    """What ``{repo, dest, version}`` asks for. LoopError where it is no repository, plain name or branch."""
    repo = given.get("repo") or ""
    dest = given.get("dest") or repo.rstrip("/").rsplit("/", 1)[-1].removesuffix(".git")
    version = given.get("version") or "main"
    elsewhere = "://" in repo or repo.startswith("/")
    if not elsewhere and not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_.][\w.-]*", repo, re.ASCII):
        raise LoopError(f"{repo!r} is not a repository: write OWNER/NAME or a URL")
    if holds_password(repo):
        raise LoopError(f"the URL of {dest} holds a password, which every user of {ON_HOST}")
    if not re.fullmatch(r"[A-Za-z0-9_][\w.-]*", dest, re.ASCII):
        raise LoopError(f"dest {dest!r} of {repo} is not a plain directory name")
    if not re.fullmatch(r"[A-Za-z0-9_][\w.+/-]*", version) or re.search(r"\.\.|//|/\.|\.lock(/|$)|[/.]$", version):
        raise LoopError(f"version {version!r} of {repo} is not the name of a branch")
    return Remote(repo, repo if elsewhere else f"{git_url.rstrip('/')}/{repo}.git", dest, version)


def check_engine(repo: str, on_host: bool = True) -> None:
    """LoopError where ``engineering_loop_repo`` is nothing that git can fetch from, or holds a password.

    Otherwise than ``on_host`` it is read on the controller, where a name alone is taken for a token as well.
    """
    shown = without_passwords(repo)
    if not repo or repo.startswith("-") or "::" in repo or any(ord(letter) < 32 for letter in repo):
        raise LoopError(f"engineering_loop_repo {shown!r} is not the URL or path of a git repository or bundle")
    if holds_password(repo, or_name=not on_host):
        who = ON_HOST if on_host else ON_CONTROLLER
        raise LoopError(f"engineering_loop_repo {shown} holds a password, which every user of {who}")
