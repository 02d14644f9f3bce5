# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""After a cycle, as root: what it means for the count of its issue, and that a hold is told on the forge.

A cycle counts for the issue that it took by the gateway's record, unless it opened a pull request, had nothing to do,
or was stopped by an operator or the host's own end. Each cycle is counted once, whoever was killed meanwhile.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from ..base import wire
from ..base.errors import LoopError
from ..base.journal import say
from ..base.untrusted import show
from ..cell import attempts, cells
from ..cell.attempts import Attempt, Count
from ..gateway import sessions
from ..gateway.audit import Story
from ..host import systemd
from ..host.settings import Settings

Json: TypeAlias = dict[str, Any]

# What a comment may take, a forge that is slow included.
COMMENT_SECONDS = 150.0


def account(config: Settings, story: Story, tried: Json, *, stopped: bool = False) -> Json:
    """Count this cycle, or not; for its record: ``{"n", "max", "held"}``, empty where it was no attempt.

    ``tried`` is the cycle's ``{"cycle", "outcome", "cost_usd"}``; ``stopped`` is whether a person ended it.
    """
    gone = attempts.clear(config, {name: digest for name, digest in story.released.items() if digest})
    for one in gone:
        if attempts.is_held(config, one):
            say(f"{one.issue} is not held any more: it is not what it was, or has a pull request\n")
    if not story.taken:
        return {}
    if story.own_pull:
        attempts.clear(config, {story.issue: ""})
        return {}
    if stopped or tried["outcome"] in cells.NOTHING_IN_IT:
        return {}
    repo, number = story.taken
    title, digest = story.titles.get(story.issue, ""), story.digests.get(story.issue, "")
    known = attempts.count(
        config, Attempt(tried["cycle"], repo, number, tried["outcome"], title, digest, tried["cost_usd"])
    )
    held = attempts.is_held(config, known)
    if held:
        say(f"{known.issue} is held: {known.why}. Release it with: {attempts.release_command(known.issue)}\n")
    return {"n": known.attempts, "max": attempts.most(config), "held": held}


def tell(config: Settings) -> None:
    """Write under each issue that is held since it was told last. What the forge refuses is said once."""
    for known in attempts.untold(config):
        if known.repo not in config.repos:
            continue
        try:
            answer = _commented(config, known)
        except LoopError as error:
            say(
                f"that {known.issue} is held could not be told on the forge, which is tried again after the next cycle:"
                f" {error}\n"
            )
            return
        attempts.note_told(config, known, str(answer["refused"]))
        if answer["refused"]:
            say(
                f"that {known.issue} is held cannot be told on the forge, it is held all the same:"
                f" {show(answer['refused'], 500)}\n"
            )
        else:
            say(f"that {known.issue} is held is told there: {show(answer['url'])}\n")


def _commented(config: Settings, known: Count) -> Json:
    asked = {
        "what": "comment", "repo": known.repo, "number": known.number, "cycle": known.cycle,
        "marker": known.marker, "text": known.comment, "since": known.written_after,
    }  # fmt: skip
    return wire.ask(sessions.socket_of(config), asked, "the gateway to the forge", COMMENT_SECONDS)


def stopped(config: Settings) -> bool:
    """Whether somebody asked systemd to stop this cycle: an operator, or the host as it goes down.

    Asked after the cycle's end, while systemd still has that in hand. What the cycle says of it is not looked at.
    """
    try:
        jobs = systemd.systemctl("list-jobs", "--no-legend", "--plain", f"{config.unit}.service")
    except LoopError:
        return False
    return any(words[1:3] == [f"{config.unit}.service", kind] for words in map(str.split, jobs.splitlines())
               for kind in ("stop", "restart"))  # fmt: skip
