# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate before a push: nothing leaves the host that was not judged, commit by commit.

The engine pushes with git, and what git may do then is decided by the cycle's environment, which
wins over every repository's configuration: git's hook is ``loop pre-push``, and ``loop askpass``
alone hands out the token. And git itself is ours, which does not run where that configuration says
more than a checkout needs. All look at the repository with the agent in mind, which can write all
of it. docs/push-gate.md says what is refused and what remains possible.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from . import gate_check, gate_policy, sandbox, settings
from .cells import settings_in
from .errors import LoopError
from .files import read_bytes
from .gate_check import Violation
from .gitcmd import credentials, git, safe_environment
from .untrusted import show
from .workspaces import HARMLESS

Config: TypeAlias = Mapping[str, Any]

SETTINGS = sandbox.SETTINGS
HEADS = "refs/heads/"
REASONS_TOLD = 3
GIT_SECONDS = 60.0
MAX_VERDICTS = 1024 * 1024
DEFAULT_PREFIXES = ["docs"]  # the engine's own

# A push that recursed would run git in a submodule without these variables, so with the agent's hooks.
# And what a checkout borrows from is not asked for its refs.
PUSH_CONFIG = {
    "core.alternateRefsCommand": "true", "push.recurseSubmodules": "no", "push.followTags": "false",
    "push.gpgSign": "false",
}  # fmt: skip


# --- what the engine's git is told ------------------------------------------------------------


def environment(config: Config) -> dict[str, str]:
    """What the engine's git is told: our git, our hook, our askpass, and no way out but the repositories' own."""
    schemes = sorted({urllib.parse.urlsplit(url).scheme or "file" for url in _urls(config).values()})
    extra = {
        "PATH": f"{config['lib_dir']}/bin:{os.environ.get('PATH', os.defpath)}",
        "GIT_ASKPASS": f"{config['lib_dir']}/git-askpass",
        "GIT_ALLOW_PROTOCOL": ":".join(schemes),
        SETTINGS: f"{config['config_dir']}/loop.json",
    }
    return safe_environment(extra, {**PUSH_CONFIG, "core.hooksPath": f"{config['lib_dir']}/hooks"})


def _urls(config: Config) -> dict[str, str]:
    """Checkout -> the one address that it may be pushed to."""
    found: dict[str, str] = {}
    for entry in config["workspace_repositories"]:
        repo = entry["repo"]
        elsewhere = "://" in repo or repo.startswith("/")
        found[entry["dest"]] = repo if elsewhere else f"{config['git_url'].rstrip('/')}/{repo}.git"
    return found


# --- which repository this is -----------------------------------------------------------------


class Place(NamedTuple):
    """The worktree that git works in, and the checkout of ours that it belongs to."""

    worktree: str
    common: str  # the checkout's .git, which holds objects, refs and configuration
    checkout: str
    url: str
    base: str  # the branch that work starts from


def find_place(config: Config, worktree: str, git_dir: str = "") -> Place:
    """The checkout that ``worktree`` belongs to. LoopError where it is none of the workspace's.

    ``git_dir`` is the GIT_DIR that git itself has found, if it says so. Nothing here asks
    git, which would look into the configuration that is still to be judged.
    """
    found = _git_dir(worktree)
    if git_dir and os.path.realpath(os.path.join(worktree, git_dir)) != found:
        raise LoopError(f"{worktree} belongs to {found}, but git works in {git_dir}")
    link = read_bytes(f"{found}/commondir", 4096)
    common = os.path.realpath(os.path.join(found, os.fsdecode(link).rstrip("\n"))) if link else found
    urls = _urls(config)
    for entry in config["workspace_repositories"]:
        name = entry["dest"]
        if common == f"{os.path.realpath(config['workspace_dir'])}/{name}/.git":
            return Place(worktree, common, name, urls[name], entry.get("version") or "main")
    raise LoopError(f"{worktree} belongs to {common}, which is no checkout in {config['workspace_dir']}")


def _git_dir(worktree: str) -> str:
    path = f"{worktree}/.git"
    if os.path.isdir(path):
        return os.path.realpath(path)
    word, _colon, target = os.fsdecode(read_bytes(path, 4096) or b"").partition(": ")
    if word != "gitdir" or not target.strip():
        raise LoopError(f"{worktree} is no worktree of git")
    return os.path.realpath(os.path.join(worktree, target.rstrip("\n")))


def check_repository(place: Place) -> None:
    """Refuse a repository that was told more than a checkout needs: proxies, other addresses, programs, half a history.

    Read as a plain file: git in the repository would obey what is to be found here.
    """
    listing = ["config", "--file", f"{place.common}/config", "--no-includes", "--list", "--name-only", "-z"]
    keys = git("/", listing, timeout=GIT_SECONDS)[1].split("\0")
    foreign = sorted({key for key in keys if key and not HARMLESS.fullmatch(key)})
    if foreign:
        raise LoopError(f"the configuration of {place.checkout} was changed during the run: {show(', '.join(foreign))}")
    if os.path.lexists(f"{place.common}/shallow"):
        raise LoopError(f"the history of {place.checkout} was cut off during the run ({place.common}/shallow)")


# --- judging a push ---------------------------------------------------------------------------


class Update(NamedTuple):
    """One line that git gives its hook: what the remote's ref was, and what it is to be."""

    local_ref: str
    new: str
    ref: str
    old: str


def judge(config: Config, place: Place, remote: str, url: str, updates: Sequence[Update]) -> list[Violation]:
    """Every reason why this push is not allowed; an empty list lets it through."""
    policy = gate_policy.load_file(config["policy_file"])
    if gate_policy.digest(policy) != config["policy_sha256"]:
        raise LoopError(f"the policy {config['policy_file']} is not the one that was deployed; run apply.yml")
    found = gate_check.judge_remote(policy, remote)
    if url != place.url:
        found.append(Violation("remote", show(remote), f"leads to {show(_plain(url))}, allowed: {_plain(place.url)}"))
    for update in updates:
        found += _judge_ref(policy, config["branch_prefixes"], update)
    if found or not updates:
        return found
    base = _base(place)
    prefixes = config["allowed_paths"].get(place.checkout) or DEFAULT_PREFIXES
    for update in updates:
        found += _judge_history(place, update)
        changes = gate_check.changes_between(place.worktree, base, update.new)
        found += gate_check.judge_changes(policy, place.checkout, changes, prefixes)
        texts = gate_check.commits_between(place.worktree, base, update.new)
        found += gate_check.judge_text(policy, place.checkout, "a commit", texts)
    return found


def _plain(url: str) -> str:
    """A URL without what may be a secret in it."""
    return re.sub(r"^(\w+://)[^/]*@", r"\1", url)


def _judge_ref(policy: gate_policy.Policy, prefixes: Sequence[str], update: Update) -> list[Violation]:
    name = show(update.ref)
    if not update.ref.startswith(HEADS):
        return [Violation("branch", name, "is no branch")]
    if not update.new.strip("0"):
        return [Violation("branch", name, "would be deleted")]
    branch = update.ref.removeprefix(HEADS)
    if not any(branch.startswith(f"{prefix}/") for prefix in prefixes):
        return [Violation("branch", show(branch), f"is not the loop's own, allowed: below {', '.join(prefixes)}")]
    return gate_check.judge_branch(policy, branch)


def _base(place: Place) -> str:
    """The tip of the base branch on the remote itself: the refs in the repository are the agent's to forge."""
    branch = f"{HEADS}{place.base}"
    access, config = credentials(place.url, os.environ.get("GH_TOKEN", ""))
    asked = git("/", ["ls-remote", "--", place.url, branch], environment=access, config=config, timeout=GIT_SECONDS)[1]
    tips = [line.split("\t")[0] for line in asked.splitlines() if line.endswith(f"\t{branch}")]
    if not tips:
        raise LoopError(f"{_plain(place.url)} has no branch {place.base} to compare with")
    if git(place.worktree, ["cat-file", "-e", f"{tips[0]}^{{commit}}"], ok=range(256))[0]:
        fetch = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--recurse-submodules=no", "--"]
        git(place.worktree, [*fetch, place.url, branch], environment=access, config=config, timeout=GIT_SECONDS)
    return tips[0]


def _judge_history(place: Place, update: Update) -> list[Violation]:
    """Only a commit is pushed to a branch, and what the branch has stays in it."""
    if git(place.worktree, ["cat-file", "-t", update.new])[1] != "commit\n":
        return [Violation("branch", show(update.ref), f"would become {update.new[:12]}, which is no commit")]
    if not update.old.strip("0"):
        return []
    if git(place.worktree, ["merge-base", "--is-ancestor", update.old, update.new], ok=range(256))[0]:
        return [Violation("branch", show(update.ref), f"has {update.old[:12]} on the remote, which would be lost")]
    return []


# --- the commands -----------------------------------------------------------------------------


def pre_push(remote: str, url: str) -> int:
    """git's hook: 0 lets the push through. What would be pushed is read from stdin."""
    began = time.monotonic()
    git_dir = os.environ.get("GIT_DIR", "")
    updates = [Update(*line.rsplit(" ", 3)) for line in sys.stdin.read().splitlines()]
    verdict: dict[str, Any] = {"remote": show(remote), "refs": {update.ref: update.new for update in updates}}

    def decide(config: Config) -> str:
        place = find_place(config, os.getcwd(), git_dir)
        check_repository(place)
        found = judge(config, place, remote, url, updates)
        verdict["seconds"] = round(time.monotonic() - began, 3)
        return _told(found)

    return _answer("push", decide, verdict)


def askpass(prompt: str) -> int:
    """Give git the token, for a checkout of ours and the forge only: git asks before it runs the hook."""
    git_dir = os.environ.get("GIT_DIR", "")
    token = os.environ.get("GH_TOKEN", "")

    def decide(config: Config) -> str:
        hook = f"{config['lib_dir']}/hooks/pre-push"
        place = find_place(config, os.getcwd(), git_dir)
        check_repository(place)
        if not os.access(hook, os.X_OK):  # then git would push without asking
            return f"the gate {hook} is missing; run apply.yml"
        return "" if _asks_for(prompt, place.url) else f"{show(_plain(prompt))} is not for {_plain(place.url)}"

    status = _answer("token", decide)
    if status == 0:
        sys.stdout.write(f"{token}\n")
    return status


def guarded_git(*words: str) -> int:
    """Run git for the engine, unless the repository was told what could make git run something else."""

    def decide(config: Config) -> str:
        check_repository(find_place(config, os.getcwd(), os.environ.get("GIT_DIR", "")))
        return ""

    environment = dict(os.environ)
    status = _answer("git", decide)
    if status == 0:
        os.execve("/usr/bin/git", ["git", *words], environment)  # noqa: S606 - a shell has no part in this
    return status


def _asks_for(prompt: str, url: str) -> bool:
    """Whether git asks for a password at the scheme, host and port of ``url``."""
    asked = re.fullmatch(r"Password for '(\w+)://(?:[^/@']*@)?([^/@']+)(?:/[^']*)?': ", prompt)
    known = urllib.parse.urlsplit(url)
    return asked is not None and asked.groups() == (known.scheme, known.netloc)


def _answer(what: str, decide: Callable[[Config], str], verdict: dict[str, Any] | None = None) -> int:
    """Ask ``decide`` for a reason against it; say it in one line, keep it for the account, and exit so."""
    config: Config = {}
    try:
        host = settings.load(os.environ.get(SETTINGS) or settings.DEFAULT_PATH)
        config = settings_in(host, sandbox.cell_of(host, os.environ.get("HOME", "")))
        reason = decide(config)
    except (LoopError, OSError) as error:
        reason = f"{error}"
    if reason:
        reason = f"{what} refused: {reason}; nothing was published, the work stays in {os.getcwd()}"
        sys.stderr.write(f"{reason}\n")
    if config and (reason or verdict is not None):
        with contextlib.suppress(OSError):
            _keep(config, {"allowed": not reason, "reason": reason, **(verdict or {})})
    return 1 if reason else 0


def _told(found: Sequence[Violation]) -> str:
    more = f" and {len(found) - REASONS_TOLD} more" if len(found) > REASONS_TOLD else ""
    return "; ".join(map(str, found[:REASONS_TOLD])) + more


# --- for the cycle's account ------------------------------------------------------------------


def _file(config: Config) -> str:
    return f"{config['daemon_state_dir']}/pushes.jsonl"


def _keep(config: Config, verdict: Mapping[str, Any]) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(_file(config), flags, 0o640), "a", encoding="utf-8") as handle:
        handle.write(json.dumps(verdict) + "\n")


def take_verdicts(config: Config) -> list[dict[str, Any]]:
    """What was decided since the last call, oldest first.

    The agent could have written it: it informs and decides nothing, and nothing in it stops the cycle.
    """
    found = []
    with contextlib.suppress(LoopError):
        for line in (read_bytes(_file(config), MAX_VERDICTS) or b"").splitlines():
            with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
                verdict = json.loads(line)
                if isinstance(verdict["allowed"], bool) and isinstance(verdict["reason"], str):
                    found.append(verdict)
    with contextlib.suppress(OSError):
        os.unlink(_file(config))
    return found
