# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether what was received may be published: object by object, against the base of the gateway's own clone."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..base.errors import LoopError
from ..base.untrusted import show
from ..cell import pristine
from ..cell.pristine import HEADS, Clone
from ..git.command import helpers, rows
from ..host.settings import Settings
from ..policy import commits, rules, schema
from ..policy.change import Change, Violation
from .asking import deployed_policy
from .inbox import Inbox

DEFAULT_PREFIXES = ["docs"]  # the engine's own
# What is in it, when unpacked, may be this many times what a change may add; more is no change but a bomb.
BOMB = 8
# A pack up to this size is not looked into before: what git says of it is bounded, and so is its memory.
SMALL = 65_536
MAX_OBJECTS = 200_000
MAX_LISTED = 64 * 1024 * 1024  # of the names of what changes


class NotAllowed(LoopError):
    """The judge, or the forge, said no to what was received."""


def ready(config: Settings) -> None:
    """Read the policy, compile its patterns and look for git once, before there is a process for each connection."""
    helpers()
    policy = deployed_policy(config)
    page = [Change("docs/page.md", mode="100644", added=("A page",))]
    for clone in pristine.clones(config):
        rules.judge_changes(policy, clone.dest, page, _allowed(config, clone))


def judge(config: Settings, inbox: Inbox, new: str, ref: str) -> tuple[list[Violation], Sequence[str]]:
    """Every reason why the commit ``new`` may not become ``ref``, none lets it through; and the commits that it has.

    NotAllowed where it is too much to be looked at, or does not start from what the forge has.
    """
    policy, clone = deployed_policy(config), inbox.clone
    found = rules.judge_branch(policy, ref.removeprefix(HEADS), clone.dest)
    if found:
        return found, ()
    most = int(schema.guards(policy, clone.dest)["max_patch_bytes"])
    if sum(os.path.getsize(path) for path in inbox.packs()) > SMALL:
        _check_size(inbox, new, most * BOMB)
    try:
        work = commits.work_between(inbox.home, inbox.base(), new, {"GIT_DIR": inbox.home})
    except LoopError:  # of a small pack that is large after all: say what is
        _check_size(inbox, new, most * BOMB)
        raise
    if new not in work.names:
        raise NotAllowed(f"{new[:12]} is no commit on top of what {clone.repo} has")
    found += rules.judge_changes(policy, clone.dest, work.changes, _allowed(config, clone))
    found += rules.judge_text(policy, clone.dest, "a commit", work.commits)
    if len(work.commits) > most:
        reason = f"are {len(work.commits)} letters, allowed: {most}"
        found.append(Violation("guards.max_patch_bytes", "the commits", reason))
    return found, work.names


def _allowed(config: Settings, clone: Clone) -> Sequence[str]:
    found: Sequence[str] = config.allowed_paths.get(clone.dest) or DEFAULT_PREFIXES
    return found


def _check_size(inbox: Inbox, new: str, most: int) -> None:
    """Refuse what unpacks to more bytes than ``most``, before git writes it out as a difference."""
    words = ["rev-list", "--objects", "--no-object-names", new, f"^{inbox.base()}"]
    status, listed, _err = inbox.git(words, ok=(0, 128), most=MAX_LISTED)
    if status:
        raise NotAllowed(f"{show(new[:12])} is no commit on top of what {inbox.clone.repo} has")
    names = rows(listed)
    if len(names) > MAX_OBJECTS:
        raise NotAllowed(f"more than {MAX_OBJECTS} objects were received")
    told = inbox.git(["cat-file", "--batch-check=%(objecttype) %(objectsize)"], stdin=_lines(names))[1]
    if names and (names[0] != new or not told.startswith("commit ")):
        raise NotAllowed(f"{new[:12]} is no commit")
    lines = list(zip(names, rows(told), strict=True))
    total = sum(int(line.split(" ")[1]) for _name, line in lines if " missing" not in line)
    if total <= most:
        total, lost = _written_out(inbox, [name for name, line in lines if line.startswith("commit ")])
        if lost > MAX_LISTED:
            raise NotAllowed(f"{lost} bytes would be taken away, allowed: {MAX_LISTED}")
    if total > most:
        raise NotAllowed(
            f"{total} bytes would be unpacked, more than {BOMB} times what a change may add [max_patch_bytes]"
        )


def _written_out(inbox: Inbox, names: Sequence[str]) -> tuple[int, int]:
    """How many bytes of files these commits bring, and take away, when they are written out.

    A few trees can name a file a million times. git lists what changes in memory first, which is bounded.
    """
    words = ["diff-tree", "--stdin", "-r", "-c", "--root", "--raw", "--no-abbrev", "--no-renames"]
    try:
        listed = inbox.git(words, stdin=_lines(names), most=MAX_LISTED)[1]
    except LoopError as error:
        raise NotAllowed(f"more files would be changed in {inbox.clone.repo} than git can list: {error}") from error
    new, old = [], []
    for line in rows(listed):
        parents = len(line) - len(line.lstrip(":"))
        if parents:  # :MODE MODE SHA SHA STATUS; of a merge as many as it has parents, and the result
            *before, after = line[parents:].split(" ")[parents + 1 : 2 * parents + 2]
            new.append(after)
            old += before[:1]
    told = inbox.git(["cat-file", "--batch-check"], stdin=_lines([*{*new, *old}]))[1]
    sizes = {words[0]: int(words[2]) for words in map(str.split, rows(told)) if len(words) == 3}
    return sum(sizes.get(name, 0) for name in new), sum(sizes.get(name, 0) for name in old)


def _lines(names: Sequence[str]) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()
