# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job beside the cycle may ask of the forge, by its rights: read issues, comment, move the loop's labels.

In the words of GitHub's ``gh``, as a cycle's requests. Nothing here pushes, opens or closes anything, and git is not
spoken with a job at all.
"""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Callable
from typing import Any

from ..base.errors import LoopError
from ..base.untrusted import show
from ..cell import pristine
from ..host import jobs
from ..policy import rules
from .asking import MAX_BODY, Asking, Parser, deployed_policy, in_scope, number_of, shown, viewed, words_of

LABEL = re.compile(r"[A-Za-z0-9._/-]{1,45}")  # what follows the beginning that all of them have
MOST = 1000  # issues in one list


@functools.cache
def parser() -> Parser:
    """The verbs of a job."""
    top = Parser(prog="gh", allow_abbrev=False, add_help=False)
    issue = (
        top.add_subparsers(required=True, dest="topic")
        .add_parser("issue", add_help=False)
        .add_subparsers(required=True, dest="verb")
    )

    def command(name: str, run: Callable[[Asking, argparse.Namespace], str]) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = issue.add_parser(name, allow_abbrev=False, add_help=False)
        made.set_defaults(run=run)
        made.add_argument("-R", "--repo", default="")
        return made

    listing = command("list", _list)
    listing.add_argument("-s", "--state", default="open")
    listing.add_argument("-l", "--label", action="extend", type=words_of, default=[])
    listing.add_argument("-L", "--limit", type=int, default=30)
    listing.add_argument("--json", type=words_of, required=True)
    viewing = command("view", _view)
    viewing.add_argument("number")
    viewing.add_argument("--json", type=words_of, required=True)
    commenting = command("comment", _comment)
    commenting.add_argument("number")
    commenting.add_argument("-b", "--body", required=True)
    editing = command("edit", _edit)
    editing.add_argument("number")
    editing.add_argument("--add-label", action="extend", type=words_of, default=[])
    editing.add_argument("--remove-label", action="extend", type=words_of, default=[])
    return top


def _needs(asking: Asking, right: str) -> None:
    if right not in (asking.may or ()):
        allowed = ", ".join(asking.may or ()) or "nothing"
        raise LoopError(f"this job may not {right}: its `may` in engineering_loop_jobs names {allowed}")


def _list(asking: Asking, asked: argparse.Namespace) -> str:
    _needs(asking, "read")
    repo = in_scope(asking, asked.repo)
    if asked.state != "open":
        raise LoopError("the gateway lists open issues and no others")
    issues = asking.forge.issues(repo, labels=",".join(asked.label))[: max(0, min(asked.limit, MOST))]
    asking.note("job-list", repo=repo, issues=len(issues))
    return shown(issues, asked.json)


def _view(asking: Asking, asked: argparse.Namespace) -> str:
    _needs(asking, "read")
    repo, number = in_scope(asking, asked.repo), number_of(asked.number)
    issue = viewed(asking, repo, number, asked.json)
    asking.note("job-view", repo=repo, number=number)
    return shown(issue, asked.json)


def _comment(asking: Asking, asked: argparse.Namespace) -> str:
    _needs(asking, "comment")
    repo, number = in_scope(asking, asked.repo), number_of(asked.number)
    asking.story()  # whoever asks without end is answered no more
    if not asked.body.strip() or len(asked.body) > MAX_BODY:
        raise LoopError(f"a comment has between 1 and {MAX_BODY} characters")
    _judge(asking, repo, "the comment", asked.body)
    with asking.turn():
        asking.note("job-commenting", repo=repo, number=number)
        made = asking.forge.comment(repo, number, asked.body)
        asking.note("job-comment", repo=repo, number=number, url=str(made["html_url"]))
    return f"{made['html_url']}\n"


def _judge(asking: Asking, repo: str, what: str, text: str) -> None:
    """Refuse what the policy would refuse in a pull request's text, such as a secret."""
    dest = next((one.dest for one in pristine.clones(asking.config) if one.repo == repo), "")
    found = rules.judge_text(deployed_policy(asking.config), dest, what, text)
    if found:
        raise LoopError(f"{what} is refused: {found[0]}")


def _edit(asking: Asking, asked: argparse.Namespace) -> str:
    _needs(asking, "label")
    repo, number = in_scope(asking, asked.repo), number_of(asked.number)
    asking.story()
    approved, ours = asking.config.label.casefold(), jobs.labels_begin(asking.config)
    for label in (*asked.add_label, *asked.remove_label):
        own = label.startswith(ours) and LABEL.fullmatch(label.removeprefix(ours))
        if not own and label.casefold() != approved:
            raise LoopError(f"a job moves labels that begin with {ours} and no others, not {show(label)}")
    if any(label.casefold() == approved for label in asked.add_label):  # the forge knows no capitals in labels
        _needs(asking, "approve")
    if not asked.add_label and not asked.remove_label:
        raise LoopError("nothing to change: give --add-label or --remove-label")
    with asking.turn():
        forge, told = asking.forge, {"repo": repo, "number": number}
        asking.note("job-labelling", **told, add=asked.add_label, remove=asked.remove_label)
        if asked.add_label:
            forge.add_labels(repo, number, asked.add_label)
        for label in asked.remove_label:
            forge.remove_label(repo, number, label)
        asking.note("job-label", **told, add=asked.add_label, remove=asked.remove_label)
    return f"{_page(asking, repo, number)}\n"


def _page(asking: Asking, repo: str, number: int) -> Any:
    issue = asking.forge.issue(repo, number)
    return issue["html_url"] if issue else f"{repo}#{number}"
