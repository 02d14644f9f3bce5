# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who asks the gateway, what they may have, and how ``gh`` words a question and an answer."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

from ..base.errors import APPLY, LoopError
from ..base.files import read_bytes
from ..base.untrusted import show
from ..forge.client import Forge
from ..host.settings import Settings
from ..policy import schema
from . import audit, sessions
from .audit import Story

Json: TypeAlias = dict[str, Any]

MAX_TITLE, MAX_BODY = 256, 65_536  # GitHub's own
COMMENTS = "comments of it"  # where an issue has them once they were asked for: its own number of them is in the way
SINCE_EVER = "1970-01-01T00:00:00Z"

# What --json may ask for, and where the forge's answer has it.
FIELDS: dict[str, Callable[[Json], Any]] = {
    "author": lambda issue: {"login": issue["user"]["login"], "is_bot": issue["user"]["type"] == "Bot"},
    "body": lambda issue: issue["body"] or "",
    "closed": lambda issue: issue["state"] == "closed",
    "comments": lambda issue: [
        {
            "id": one["node_id"],
            "author": {"login": one["user"]["login"]},
            "body": one["body"] or "",
            "authorAssociation": one["author_association"],
            "createdAt": one["created_at"],
            "url": one["html_url"],
        }
        for one in issue[COMMENTS]
    ],
    "createdAt": lambda issue: issue["created_at"],
    "id": lambda issue: issue["node_id"],
    "labels": lambda issue: [
        {"id": one["node_id"], "name": one["name"], "description": one["description"] or "", "color": one["color"]}
        for one in issue["labels"]
    ],
    "number": lambda issue: issue["number"],
    "state": lambda issue: issue["state"].upper(),
    "title": lambda issue: show(issue["title"], MAX_TITLE - 3),  # it becomes the pull request's
    "updatedAt": lambda issue: issue["updated_at"],
    "url": lambda issue: issue["html_url"],
}


@dataclass
class Asking:
    """Who asks, and what they may have."""

    config: Settings
    cycle: str
    bound: bool  # a cycle works on the issue that it took, a person on what they want
    token: Callable[[], str]  # one that is good for a while
    still: Callable[[], bool] = lambda: True  # whether its cycle runs still
    counts: Mapping[str, Json] = field(default_factory=dict)  # issues that were tried before, by name, as root has it
    may: tuple[str, ...] | None = None  # the rights of a job beside the cycle; None for a cycle, which has its own

    @functools.cached_property
    def forge(self) -> Forge:
        """The forge, as we may see it: one connection to it for all that is asked of it here."""
        return Forge(self.config.api_url, self.token())

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """One at a time reaches the forge, and nobody whose cycle has ended while it waited: its record is closed."""
        with sessions.turn(self.config):
            if not self.still():
                raise LoopError("the cycle has ended")
            yield

    def note(self, what: str, **more: Any) -> None:
        """Into the record of the cycle."""
        audit.append(self.config, self.cycle, {"what": what, **more})

    def story(self) -> Story:
        """What this cycle did so far. LoopError where it has asked for more than any cycle does."""
        told = audit.story(audit.read(self.config, self.cycle))
        if told.entries > audit.MAX_ENTRIES:
            raise LoopError("this cycle has asked for too much: it is answered no more")
        return told


def deployed_policy(config: Settings) -> schema.Policy:
    """The policy in force. LoopError where it is not the one that was deployed, to the digest."""
    path = config.policy_file
    content = read_bytes(path, schema.MAX_BYTES)
    policy, digest = _loaded(content, path) if content is not None else (schema.load_file(path), "")
    if digest != config.policy_sha256:
        raise LoopError(f"the policy {path} is not the one that was deployed; {APPLY}")
    return policy


@functools.lru_cache(maxsize=1)
def _loaded(content: bytes, path: str) -> tuple[schema.Policy, str]:
    """Read once: the gateway loads it before it answers anybody."""
    policy = schema.load(content, path)
    return policy, schema.digest(policy)


# --- the words ----------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """One that says what is wrong instead of ending the program."""

    def error(self, message: str) -> NoReturn:
        raise LoopError(f"the gateway does not know this of gh: {message}")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise LoopError(message or f"ended with {status}")


def words_of(text: str) -> list[str]:
    """What ``gh`` takes with commas between."""
    return [name for name in text.split(",") if name]


def shown(records: Any, fields: Sequence[str]) -> str:
    """The fields of one issue, or of a list of them, as ``--json`` has them."""
    for name in fields:
        if name not in FIELDS:
            raise LoopError(f'Unknown JSON field: "{show(name)}"\nAvailable fields:\n  ' + "\n  ".join(sorted(FIELDS)))
    if "comments" in fields and isinstance(records, list):
        raise LoopError("the gateway lists no comments: gh issue view NUMBER --json comments has those of one issue")

    def pick(record: Json) -> Json:
        return {name: FIELDS[name](record) for name in sorted(fields)}

    picked = [pick(one) for one in records] if isinstance(records, list) else pick(records)
    return json.dumps(picked, separators=(",", ":"), ensure_ascii=False) + "\n"


def in_scope(asking: Asking, named: str) -> str:
    """The repository, ``OWNER/NAME``. LoopError for one that the loop does not work on."""
    repo = "/".join(named.split("/")[-2:])
    if repo not in asking.config.repos:
        allowed = ", ".join(asking.config.repos)
        raise LoopError(f"{show(repo) or 'no --repo'} is not one that the loop works on, allowed: {allowed}")
    return repo


def number_of(text: str) -> int:
    """The number of an issue."""
    if not text.isdecimal() or len(text) > 9:
        raise LoopError(f"{show(text)} is not the number of an issue")
    return int(text)


def viewed(asking: Asking, repo: str, number: int, fields: Sequence[str]) -> Json:
    """The issue, with its comments where ``fields`` ask for them."""
    issue = asking.forge.issue(repo, number)
    if issue is None:
        raise LoopError(
            f"GraphQL: Could not resolve to an issue or pull request with the number of {number}. (repository.issue)"
        )
    return {**issue, COMMENTS: asking.forge.comments(repo, number, SINCE_EVER)} if "comments" in fields else issue
