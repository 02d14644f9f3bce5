# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a cycle may ask of the forge, in the words of GitHub's ``gh``: list issues, show one, open one pull request.

What is not here does not exist. Texts and exit statuses are those of the real program where an engine could look at
them.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from ..base.errors import LoopError
from ..base.journal import say
from ..base.untrusted import show
from ..cell import attempts, pristine
from ..cell.pristine import HEADS
from ..forge.client import Refused
from ..git.command import ANY, git, rows
from ..host.settings import Settings, change_id
from ..policy import rules
from . import audit, holding, job_requests
from .asking import (
    MAX_BODY,
    MAX_TITLE,
    Asking,
    Parser,
    deployed_policy,
    in_scope,
    number_of,
    shown,
    viewed,
    words_of,
)

Json: TypeAlias = dict[str, Any]

# --- the words ----------------------------------------------------------------------------------


@functools.cache
def _parser() -> Parser:
    top = Parser(prog="gh", allow_abbrev=False, add_help=False)
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
    listing.add_argument("-l", "--label", action="extend", type=words_of, default=[])
    listing.add_argument("-L", "--limit", type=int, default=30)
    listing.add_argument("--json", type=words_of, required=True)
    viewing = command(issue, "view", _view)
    viewing.add_argument("number")
    viewing.add_argument("--json", type=words_of, required=True)
    creating = command(pull, "create", _create)
    creating.add_argument("-t", "--title", required=True)
    creating.add_argument("-b", "--body", required=True)
    creating.add_argument("-H", "--head", required=True)
    creating.add_argument("-B", "--base", default="")
    creating.add_argument("-d", "--draft", action="store_true")
    creating.add_argument("-l", "--label", action="extend", type=words_of, default=[])
    creating.add_argument("-r", "--reviewer", action="extend", type=words_of, default=[])
    return top


def answer(asking: Asking, words: Sequence[str]) -> Json:
    """What ``gh`` prints for these words, and its exit status."""
    try:
        parser = _parser() if asking.may is None else job_requests.parser()
        asked = parser.parse_args([str(word) for word in words])
        return {"status": 0, "stdout": asked.run(asking, asked), "stderr": ""}
    except (LoopError, argparse.ArgumentError) as error:
        asked_for, why = show(" ".join(map(str, words[:2]))), show(str(error), 1000)
        asking.note("refused", asked=asked_for, why=why)
        say(f"gh {asked_for} refused: {why}\n")
        return {"status": 1, "stdout": "", "stderr": f"{error}\n"}


# --- issues -------------------------------------------------------------------------------------


def _list(asking: Asking, asked: argparse.Namespace) -> str:
    repo = in_scope(asking, asked.repo)
    label = asking.config.label
    if asked.state != "open" or asked.label != [label]:
        raise LoopError(f"the gateway lists open issues with the label {label} and no others")
    offered, held = [], []
    approved = asking.forge.approved_issues(repo, label)
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
    return shown(offered, asked.json)


def _view(asking: Asking, asked: argparse.Namespace) -> str:
    repo = in_scope(asking, asked.repo)
    number = number_of(asked.number)
    if asking.bound and (repo, number) not in asking.story().offered:
        raise LoopError(f"{repo}#{number} was not offered to this cycle")
    issue = viewed(asking, repo, number, asked.json)
    asking.note("view", repo=repo, number=number, body="body" in asked.json)
    return shown(issue, asked.json)


UNFIT = 422  # what the forge answers where a branch has nothing that its base lacks, and the like


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
    try:
        with asking.turn():
            pull = open_pull(asking, clone, branch, show(issue["title"], MAX_TITLE - 3), body)
            asking.note("open", repo=clone.repo, branch=branch, new=tip, url=pull["html_url"], finished=cycle)
    except Refused as error:
        if error.status != UNFIT:
            raise
        # It will say so every hour, of this branch alone: the other issues do not wait for a person.
        return (
            f"the cycle {cycle} published its branch {branch}, for which no pull request can be opened:"
            f" {error}; delete the branch where its work is merged, else open one by hand"
        )
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
    if asked.repo and in_scope(asking, asked.repo) != clone.repo:
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
        if error.status == UNFIT and there:
            return there[0]
        raise Refused(f"pull request create failed: {error}", error.status) from error
