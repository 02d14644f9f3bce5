# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a cycle may ask of the forge, in the words of GitHub's ``gh``: list issues, show one, open one pull request.

What is not here does not exist. Texts and exit statuses are those of the real program where an engine could look at
them.
"""

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
from ..base.journal import say
from ..base.untrusted import show
from ..cell import attempts, pristine
from ..cell.pristine import HEADS
from ..forge.client import APPROVED, Forge, Refused
from ..git.command import ANY, git, rows
from ..host.settings import Settings, change_id
from ..policy import rules, schema
from . import audit, holding, sessions
from .audit import Story

Json: TypeAlias = dict[str, Any]

MAX_TITLE, MAX_BODY = 256, 65_536  # GitHub's own

# What --json may ask for, and where the forge's answer has it.
FIELDS: dict[str, Callable[[Json], Any]] = {
    "author": lambda issue: {"login": issue["user"]["login"], "is_bot": issue["user"]["type"] == "Bot"},
    "body": lambda issue: issue["body"] or "",
    "closed": lambda issue: issue["state"] == "closed",
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


class _Parser(argparse.ArgumentParser):
    """One that says what is wrong instead of ending the program."""

    def error(self, message: str) -> NoReturn:
        raise LoopError(f"the gateway does not know this of gh: {message}")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise LoopError(message or f"ended with {status}")


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


@functools.cache
def _parser() -> _Parser:
    top = _Parser(prog="gh", allow_abbrev=False, add_help=False)
    topics = top.add_subparsers(required=True, dest="topic")
    issue = topics.add_parser("issue", add_help=False).add_subparsers(required=True, dest="verb")
    pull = topics.add_parser("pr", add_help=False).add_subparsers(required=True, dest="verb")

    def command(topic: Any, name: str, run: Callable[[Asking, argparse.Namespace], str]) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = topic.add_parser(name, allow_abbrev=False, add_help=False)
        made.set_defaults(run=run)
        made.add_argument("-R", "--repo", default="")
        return made

    listing = command(issue, "list", _list)
    listing.add_argument("-s", "--state", default="open")
    listing.add_argument("-l", "--label", action="extend", type=_names, default=[])
    listing.add_argument("-L", "--limit", type=int, default=30)
    listing.add_argument("--json", type=_names, required=True)
    viewing = command(issue, "view", _view)
    viewing.add_argument("number")
    viewing.add_argument("--json", type=_names, required=True)
    creating = command(pull, "create", _create)
    creating.add_argument("-t", "--title", required=True)
    creating.add_argument("-b", "--body", required=True)
    creating.add_argument("-H", "--head", required=True)
    creating.add_argument("-B", "--base", default="")
    creating.add_argument("-d", "--draft", action="store_true")
    creating.add_argument("-l", "--label", action="extend", type=_names, default=[])
    creating.add_argument("-r", "--reviewer", action="extend", type=_names, default=[])
    return top


def answer(asking: Asking, words: Sequence[str]) -> Json:
    """What ``gh`` prints for these words, and its exit status."""
    try:
        asked = _parser().parse_args([str(word) for word in words])
        return {"status": 0, "stdout": asked.run(asking, asked), "stderr": ""}
    except (LoopError, argparse.ArgumentError) as error:
        asked_for, why = show(" ".join(map(str, words[:2]))), show(str(error), 1000)
        asking.note("refused", asked=asked_for, why=why)
        say(f"gh {asked_for} refused: {why}\n")
        return {"status": 1, "stdout": "", "stderr": f"{error}\n"}


def _shown(records: Any, fields: Sequence[str]) -> str:
    for name in fields:
        if name not in FIELDS:
            raise LoopError(f'Unknown JSON field: "{show(name)}"\nAvailable fields:\n  ' + "\n  ".join(sorted(FIELDS)))

    def pick(record: Json) -> Json:
        return {name: FIELDS[name](record) for name in sorted(fields)}

    picked = [pick(one) for one in records] if isinstance(records, list) else pick(records)
    return json.dumps(picked, separators=(",", ":"), ensure_ascii=False) + "\n"


def _in_scope(asking: Asking, named: str) -> str:
    repo = "/".join(named.split("/")[-2:])
    if repo not in asking.config.repos:
        allowed = ", ".join(asking.config.repos)
        raise LoopError(f"{show(repo) or 'no --repo'} is not one that the loop works on, allowed: {allowed}")
    return repo


# --- issues -------------------------------------------------------------------------------------


def _list(asking: Asking, asked: argparse.Namespace) -> str:
    repo = _in_scope(asking, asked.repo)
    if asked.state != "open" or asked.label != [APPROVED]:
        raise LoopError(f"the gateway lists open issues with the label {APPROVED} and no others")
    offered, held = [], []
    approved = asking.forge.approved_issues(repo)
    pulls = {issue["number"]: why_held(asking, repo, issue) for issue in approved}
    released = holding.released(asking.counts, repo, [issue for issue in approved if not pulls[issue["number"]]])
    for issue in approved:
        why = pulls[issue["number"]] or holding.why_held(asking.counts, repo, issue)
        if why:
            held.append({"number": issue["number"], "why": why})
        else:
            offered.append(issue)
    offered = offered[: max(0, asked.limit)]
    told = [
        {"number": issue["number"], "title": show(issue["title"]), "digest": attempts.digest_of(issue)}
        for issue in offered
    ]
    asking.note("list", repo=repo, offered=told, held=held, released=released)
    return _shown(offered, asked.json)


def _view(asking: Asking, asked: argparse.Namespace) -> str:
    repo = _in_scope(asking, asked.repo)
    if not asked.number.isdecimal() or len(asked.number) > 9:
        raise LoopError(f"{show(asked.number)} is not the number of an issue")
    number = int(asked.number)
    if asking.bound and (repo, number) not in asking.story().offered:
        raise LoopError(f"{repo}#{number} was not offered to this cycle")
    issue = asking.forge.issue(repo, number)
    if issue is None:
        raise LoopError(
            f"GraphQL: Could not resolve to an issue or pull request with the number of {number}. (repository.issue)"
        )
    asking.note("view", repo=repo, number=number, body="body" in asked.json)
    return _shown(issue, asked.json)


def why_held(asking: Asking, repo: str, issue: Json) -> str:
    """Why an approved issue is not offered; empty where it is.

    Work of ours that is open as a pull request waits for a person. A branch that a cycle published and could not open
    a pull request for, because it was killed, gets it now: the work was paid for.
    """
    for clone in [one for one in pristine.clones(asking.config) if one.repo == repo]:
        for branch, tip in branches_of(asking.config, clone, repo, issue["number"]):
            pulls = asking.forge.pulls(repo, head=branch)
            ours = [pull for pull in pulls if _from(pull, repo)]
            open_one = next((pull for pull in ours if pull["state"] == "open"), None)
            if open_one:
                return f"its pull request {open_one['html_url']} is open"
            cycle = "" if ours else _published_by(asking.config, repo, branch, tip)
            if cycle:
                return _finish(asking, clone, branch, tip, issue, cycle)
    return ""


def _from(pull: Json, repo: str) -> bool:
    """Whether the pull request's branch is one of the repository itself, not of somebody's fork."""
    head = pull["head"].get("repo") or {}
    return str(head.get("full_name", "")).casefold() == repo.casefold()


def branches_of(config: Settings, clone: pristine.Clone, repo: str, number: int) -> list[tuple[str, str]]:
    """The branches of one change that its forge had when its clone was refreshed, and their commits."""
    change = change_id(repo, number)
    patterns = [f"{HEADS}{prefix}/{change}" for prefix in config.branch_prefixes]
    words = ["for-each-ref", "--format=%(objectname) %(refname)", *patterns]
    listed = git(clone.path, words, environment={"GIT_DIR": clone.path}, ok=ANY)[1]
    pairs = [line.split(" ", 1) for line in rows(listed)]
    return [(name.removeprefix(HEADS), tip) for tip, name in pairs]


def _published_by(config: Settings, repo: str, branch: str, tip: str) -> str:
    """The cycle that brought just this commit to this branch, by our own record; empty where none did."""
    for cycle in reversed(audit.cycles(config)):
        for entry in audit.read(config, cycle):
            begun = entry["what"] == "forward" or (entry["what"] == "push" and entry.get("allowed"))
            if begun and (entry.get("repo"), entry.get("branch"), entry.get("new")) == (repo, branch, tip):
                return cycle
    return ""


def _finish(asking: Asking, clone: pristine.Clone, branch: str, tip: str, issue: Json, cycle: str) -> str:
    body = (
        f"Work on #{issue['number']}. The cycle {cycle} that did it was cut off after its branch was published and"
        " before it could open this pull request, so there is no report of its reviews and gates here.\n"
    )
    with asking.turn():
        pull = open_pull(asking, clone, branch, show(issue["title"], MAX_TITLE - 3), body)
        asking.note("open", repo=clone.repo, branch=branch, new=tip, url=pull["html_url"], finished=cycle)
    return f"its pull request {pull['html_url']} was opened now: the cycle {cycle} was cut off before it could"


# --- pull requests ------------------------------------------------------------------------------


def _create(asking: Asking, asked: argparse.Namespace) -> str:
    with asking.turn():
        return _open(asking, asked)


def _open(asking: Asking, asked: argparse.Namespace) -> str:
    story = asking.story()
    pushed = story.forwarded.get(asked.head)
    if pushed is None:
        raise LoopError(f"{show(asked.head)} was not published by this cycle, so there is nothing to open")
    clone = next(one for one in pristine.clones(asking.config) if one.dest == pushed["dest"])
    if asked.repo and _in_scope(asking, asked.repo) != clone.repo:
        raise LoopError(f"{show(asked.head)} was published to {clone.repo}, not to {show(asked.repo)}")
    if not asked.draft:
        raise LoopError("the gateway opens drafts only: --draft is missing")
    if asked.base not in ("", clone.version):
        raise LoopError(f"the work starts from {clone.version}, so its pull request goes there, not to {asked.base}")
    if asking.bound and (asked.label or asked.reviewer):
        raise LoopError("a cycle's pull request has no label and no reviewer: what they set off is a person's to say")
    if story.own_pull and asking.bound:
        raise LoopError(f"this cycle has opened its pull request already: {story.own_pull.get('url')}")
    policy = deployed_policy(asking.config)
    text = f"{asked.title}\n{asked.body}"
    found = rules.judge_text(policy, clone.dest, "the pull request", text)
    if len(asked.title) > MAX_TITLE or len(asked.body) > MAX_BODY:
        raise LoopError(f"the pull request's title or body is longer than {MAX_TITLE} or {MAX_BODY} characters")
    if found or not asked.title.isprintable():
        why = found[0] if found else "its title has control characters, or such as show it otherwise than it is"
        raise LoopError(f"the pull request is refused: {why}")
    pull = open_pull(asking, clone, asked.head, asked.title, asked.body)
    asking.note("open", repo=clone.repo, branch=asked.head, new=pushed["new"], url=pull["html_url"])
    forge = asking.forge
    if asked.label:
        forge.add_labels(clone.repo, pull["number"], asked.label)
    if asked.reviewer:
        forge.request_reviewers(clone.repo, pull["number"], asked.reviewer)
    return f"{pull['html_url']}\n"


def open_pull(asking: Asking, clone: pristine.Clone, branch: str, title: str, body: str) -> Json:
    """A draft; where an answer was lost and it is there already, that one. Without a record nothing is opened."""
    asking.note("opening", repo=clone.repo, branch=branch)
    forge = asking.forge
    try:
        return forge.create_draft_pull(clone.repo, title=title, body=body, head=branch, base=clone.version)
    except Refused as error:
        there = [one for one in forge.pulls(clone.repo, state="open", head=branch) if _from(one, clone.repo)]
        if error.status == 422 and there:
            return there[0]
        raise LoopError(f"pull request create failed: {error}") from error
