# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a cycle did on the forge: what is new there since before, and what its pull request holds."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..forge.client import Forge
from ..git.command import credentials, git
from ..host.settings import Settings
from ..policy import commits, rules, schema
from .preconditions import Target, has_prefix, labels

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Snapshot:
    """What must not change in a repository, open pull requests, issues and branches, and its newest number."""

    newest: int
    open: Mapping[int, str]
    branches: Mapping[str, str]


@dataclass(frozen=True)
class Changes:
    """New pull requests of the loop's, changes of anything else, and what others did meanwhile."""

    pulls: Sequence[Json] = ()
    changes: Sequence[str] = ()
    bystanders: Sequence[str] = ()


@dataclass(frozen=True)
class Work:
    """The paths that a pull request changes, and what the policy has against its commits."""

    files: Sequence[str] = ()
    violations: Sequence[str] = ()


def snapshot(forge: Forge, repo: str) -> Snapshot:
    """How a repository is now."""
    there = [*forge.pulls(repo, state="open"), *forge.issues(repo)]
    return Snapshot(forge.newest_number(repo), {one["number"]: _state(one) for one in there}, forge.branches(repo))


def since(forge: Forge, before: Mapping[str, Snapshot], identity: str, prefixes: Sequence[str]) -> Changes:
    """What happened on the forge since ``before``.

    A bystander is somebody else's new issue, or pull request on a branch that is not the
    loop's: colleagues work on while a canary runs, and what the loop does it does with its token.
    """
    pulls: list[Json] = []
    changes: list[str] = []
    bystanders: list[str] = []
    for repo, then in before.items():
        now = snapshot(forge, repo)
        fresh = forge.pulls(repo, after=then.newest)
        theirs = [item for item in fresh if not _is_loops(item, identity, prefixes)]
        pulls += [item for item in fresh if item not in theirs]
        bystanders += [f"{repo}: new pull request #{item['number']} by {item['user']['login']}" for item in theirs]
        for item in forge.issues(repo, state="all", after=then.newest):
            author = item["user"]["login"]
            (changes if author == identity else bystanders).append(f"{repo}: new issue #{item['number']} by {author}")
        seen = {number: state for number, state in now.open.items() if number <= then.newest}
        changes += [
            f"{repo}: #{number} changed: {_difference(then.open, seen, number)}"
            for number in _differing(then.open, seen)
        ]
        expected = {item["head"]["ref"]: item["head"]["sha"] for item in fresh}
        changes += [
            f"{repo}: branch {name} changed: {_difference(then.branches, now.branches, name)}"
            for name in _differing(then.branches, now.branches)
            if expected.get(name) != now.branches.get(name)
        ]
    return Changes(sorted(pulls, key=lambda item: int(item["number"])), changes, bystanders)


def _is_loops(pull: Json, identity: str, prefixes: Sequence[str]) -> bool:
    return pull["user"]["login"] == identity or has_prefix(pull["head"]["ref"], prefixes)


def _differing(then: Mapping[Any, Any], now: Mapping[Any, Any]) -> list[Any]:
    return sorted(key for key in then.keys() | now.keys() if then.get(key) != now.get(key))


def _difference(then: Mapping[Any, Any], now: Mapping[Any, Any], key: Any) -> str:
    return f"{then.get(key, 'nothing')} -> {now.get(key, 'nothing')}"


def _state(item: Json) -> str:
    draft = " draft" if item.get("draft") else ""
    return f"{item['state']}{draft} '{item['title']}' [{', '.join(sorted(labels(item)))}]"


def inspect(config: Settings, forge: Forge, target: Target, pull: Json, token: str) -> Work:
    """The changed paths as the forge lists them, old names included, and what the policy has against the commits.

    The commits are fetched and judged by the code of the gateway: a list of files or a
    diff from the forge would hide file modes, and what one commit adds and the next takes away.
    """
    listed = forge.pull_files(target.repo, pull["number"])
    files = sorted({item[key] for item in listed for key in ("filename", "previous_filename") if item.get(key)})
    base, head = pull["base"]["sha"], pull["head"]["sha"]
    between = forge.compare(target.repo, base, head)
    fork_point, depth = between["merge_base_commit"]["sha"], between["ahead_by"] + 1
    policy = schema.load_file(config.policy_file)
    with tempfile.TemporaryDirectory(prefix="loop-canary-") as directory:
        git(directory, ["init", "--quiet", "--bare", "."])
        url = f"{config.git_url.rstrip('/')}/{target.repo}.git"
        environment, access = credentials(url, token)
        fetch = ["fetch", "--quiet", "--no-tags", f"--depth={depth}", "--", url, head]
        git(directory, fetch, environment=environment, config=access, timeout=300)
        changes = commits.work_between(directory, fork_point, head).changes
        violations = rules.judge_changes(policy, target.checkout, changes, target.prefixes)
    return Work(files, [str(violation) for violation in violations])
