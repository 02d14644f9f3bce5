# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bump as a draft pull request in the inventory's own repository.

The commit is made of objects alone, on top of the remote's default branch: work tree, index and
branches of whoever runs this stay as they are. git runs as that person, with their own configuration.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from ..base.errors import LoopError, playbook, without_passwords
from ..forge.client import GREEN, Forge
from ..git.command import credentials, told_branch, told_refs
from . import version_pin

SECONDS = 300.0


class Home(NamedTuple):
    """Where a repository lives on a forge."""

    api_url: str
    repo: str  # OWNER/NAME


@dataclass(frozen=True)
class Base:
    """The pin file as it is on the remote's default branch."""

    top: str
    remote: str
    url: str
    branch: str
    commit: str
    path: str
    mode: str
    pin: version_pin.Pin
    access: Mapping[str, str]  # the environment of the operator's git, with the token where it is wanted
    key: str = version_pin.KEY

    def git(self, *arguments: str, stdin: str = "") -> str:
        """git in that repository, as the operator."""
        return _git(self.top, self.access, *arguments, stdin=stdin)


def home_of(url: str, forge_url: str, api_url: str) -> Home:
    """The API that serves a clone URL. ``forge_url`` is the one forge that the token is meant for."""
    plain = re.fullmatch(r"(?:[\w.-]+@)?([\w.-]+):(?!//)(.+)", url)
    parts = urlsplit(f"ssh://{plain[1]}/{plain[2]}" if plain else url)
    path = parts.path.strip("/").removesuffix(".git")
    forge = urlsplit(forge_url)
    same = parts.hostname == forge.hostname and (parts.scheme == "ssh" or parts.port == forge.port)
    if path.count("/") != 1 or parts.scheme not in ("https", "http", "ssh") or not same:
        raise LoopError(f"{without_passwords(url)} is not OWNER/NAME on the forge {forge_url}: name that one")
    return Home(api_url or _api_of(forge.hostname or ""), path)


def _api_of(host: str) -> str:
    return "https://api.github.com" if host == "github.com" else f"https://{host}/api/v3"


def check_green(forge: Forge, repo: str, sha: str, wanted: list[str]) -> list[str]:
    """The names of the checks that passed on ``sha``; LoopError unless each wanted one (``all``: every one) did."""
    states = forge.checks(repo, sha)
    names = sorted(states) if "all" in wanted else wanted
    if not names:
        raise LoopError(f"no check has run on {sha} in {repo} yet: wait for one, or bump without asking for checks")
    bad = [f"{name} ({states.get(name, 'has not run')})" for name in names if states.get(name) not in GREEN]
    if bad:
        raise LoopError(f"{sha} of {repo} is not green: {', '.join(bad)}; nothing was changed")
    return names


# --- the inventory's repository


def base_of(path: str, token: str, forge_url: str, remote: str = "origin", key: str = version_pin.KEY) -> Base:
    """Fetch the remote's default branch, objects only, and find the pin in it."""
    mine = dict(os.environ)  # now: our own git takes every GIT_ variable away
    real = os.path.realpath(path)
    directory = os.path.dirname(real)
    if not os.path.isdir(directory):
        raise LoopError(f"the pin file {path} does not exist: name the file that holds {key}")
    try:
        top = _git(directory, mine, "rev-parse", "--show-toplevel").strip()
        url = _git(top, mine, "remote", "get-url", "--push", remote).strip()
    except LoopError:
        raise LoopError(f"{path} is not in a git repository with a remote {remote}: a pull request needs one") from None
    access = {**mine, **_access(url, token, forge_url, int(mine.get("GIT_CONFIG_COUNT") or 0))}
    listed = _git(top, access, "ls-remote", "--symref", remote, "HEAD")
    branch, commit = told_branch(listed), told_refs(listed).get("HEAD", "")
    if not branch or not commit:
        raise LoopError(f"{without_passwords(url)} has no default branch")
    _fetch(top, remote, branch, access)
    name = os.path.relpath(real, os.path.realpath(top))
    entry = _git(top, access, "ls-tree", commit, "--", name).split()
    if len(entry) < 4 or entry[1] != "blob":
        raise LoopError(f"{name} is not on {branch} of {without_passwords(url)}: push it there first")
    content = _git(top, access, "cat-file", "blob", entry[2]).encode("utf-8", "surrogateescape")
    pin = version_pin.parse(content, name, key)
    return Base(top, remote, url, branch, commit, name, entry[0], pin, access, key)


def branch_for(base: Base, sha: str) -> str:
    """The same bump has the same branch, so that a second run finds it."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", base.path.removesuffix(".yml")).strip("-")[-60:]
    return f"engineering-loop/bump-{stem}-{sha[:12]}"


def push(base: Base, sha: str, message: str) -> bool:
    """Have the branch with the bump on the remote; False where it was there already."""
    branch = branch_for(base, sha)
    ref = f"refs/heads/{branch}"
    tip = told_refs(base.git("ls-remote", base.remote, ref)).get(ref)
    if tip:
        _fetch(base.top, base.remote, branch, base.access)
        content = base.git("cat-file", "blob", f"{tip}:{base.path}").encode("utf-8", "surrogateescape")
        if version_pin.parse(content, base.path, base.key).value != sha:
            raise LoopError(f"the branch {branch} is there already and pins something else: delete it, or merge it")
        return False
    commit = _commit(base, sha, message)
    # By its address, so that no remote-tracking branch is made; only where nobody made that branch meanwhile.
    base.git("push", "--quiet", f"--force-with-lease={ref}:", base.url, f"{commit}:{ref}")
    return True


def _commit(base: Base, sha: str, message: str) -> str:
    """One commit with the value changed and nothing else, out of an index of its own."""
    text = base.pin.replaced(sha)
    with tempfile.TemporaryDirectory() as directory:
        index = {**base.access, "GIT_INDEX_FILE": os.path.join(directory, "index")}
        blob = _git(base.top, index, "hash-object", "-w", "--stdin", stdin=text).strip()
        _git(base.top, index, "read-tree", base.commit)
        _git(base.top, index, "update-index", "--cacheinfo", f"{base.mode},{blob},{base.path}")
        tree = _git(base.top, index, "write-tree").strip()
    signed = base.git("config", "--type=bool", "--default=false", "--get", "commit.gpgSign").strip()
    arguments = ["commit-tree", *(["-S"] if signed == "true" else []), "-p", base.commit, "-F", "-", tree]
    return base.git(*arguments, stdin=message).strip()


def open_pull(forge: Forge, repo: str, base: Base, sha: str, title: str, body: str) -> tuple[str, bool]:
    """The address of the bump's draft pull request, and whether it is new."""
    branch = branch_for(base, sha)
    there = forge.pulls(repo, state="all", head=branch)
    for pull in there:
        if pull["state"] == "open":
            return str(pull["html_url"]), False
    if there:
        raise LoopError(f"{there[0]['html_url']} proposed the same and is closed: reopen it, or delete {branch}")
    made = forge.create_draft_pull(repo, title=title, body=body, head=branch, base=base.branch)
    return str(made["html_url"]), True


def body_of(bump: version_pin.Bump, repo: str, host: str, checks: list[str]) -> str:
    """What the pull request says: what changes, and what rolling it out will do."""
    new = "unknown" if bump.commits is None else str(bump.commits)
    lines = [
        f"Pins the engine of `{host}` to another commit of {without_passwords(repo)}.",
        "",
        "| | |",
        "| --- | --- |",
        f"| before | `{bump.before}` |",
        f"| after | `{bump.after}` |",
        f"| commits | {new} new" + (f", {bump.dropped} dropped |" if bump.dropped else " |"),
        *([f"| compare | {bump.compare} |"] if bump.compare else []),
        *([f"| checks | {', '.join(checks)} passed |"] if checks else []),
        "",
        "Merging changes no host. Then roll it out:",
        "",
        "```console",
        f"{playbook('apply', host)} --check --diff",
        f"{playbook('apply', host)} -e engineering_loop_canary_run=true",
        "```",
        "",
        "It builds the engine beside the one that runs, holds the timer, switches when no cycle is in progress, and",
        "runs one cycle on the canary issue, which spends one run and opens one draft pull request. Only if that is as",
        "it must be, the timer runs the new engine. If anything fails, the host goes back to what was proven before.",
        "",
    ]
    return "\n".join(lines)


# --- git, as the operator


def _access(url: str, token: str, forge_url: str, count: int) -> dict[str, str]:
    """The token for the forge's own address, beside the ``count`` settings and the credentials that are there."""
    settings = credentials(url, token, forge=forge_url)[1]
    access = {"GIT_CONFIG_COUNT": str(count + len(settings))}
    for number, (key, value) in enumerate(settings.items(), count):
        access.update({f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value})
    return access


def _fetch(top: str, remote: str, branch: str, access: Mapping[str, str]) -> None:
    quiet = ["--quiet", "--no-tags", "--no-write-fetch-head", "--refmap="]
    _git(top, access, "fetch", *quiet, remote, f"refs/heads/{branch}")


def _git(directory: str, environment: Mapping[str, str], *arguments: str, stdin: str = "") -> str:
    full = {**environment, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"}
    given = stdin.encode("utf-8", "surrogateescape")
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=directory, env=full, input=given, capture_output=True, timeout=SECONDS,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LoopError(f"git {arguments[0]} cannot be run in {directory}: {type(error).__name__}") from error
    if done.returncode:
        lines = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()] or ["no message"]
        told = [line for line in lines if line.startswith(("fatal:", "error:", "remote:"))][:2] or lines[-1:]
        raise LoopError(f"git {arguments[0]} in {directory}: {without_passwords(' '.join(told))}")
    return done.stdout.decode("utf-8", "surrogateescape")
