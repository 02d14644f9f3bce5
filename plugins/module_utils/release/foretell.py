# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What another version of the engine will understand that this one does not, and what it will not any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ..base.untrusted import show
from .engine_help import help_of, options_of
from .engine_options import flags_of

Asked: TypeAlias = Mapping[str, Any]

DAEMON = "daemon"
# What every cycle gives the engine, whatever the inventory says.
ALWAYS = ("--once", "--repo", "--workspace-root", "--output-root", "--state-dir-path", "--memory-dir")
MAX_NAMED = 12


def between(before: str, after: str, asked: Sequence[Asked], user: str = "") -> list[str]:
    """A line for each command whose options are others in the release ``after`` than in the one ``before``.

    Each of ``asked`` is a ``command``, and the words that it is ``given``. The two are asked shut in.
    """
    lines = []
    for one in asked:
        command = [str(word) for word in one["command"]]
        old, new = help_of(before, command, user), help_of(after, command, user)
        lines += _line(command, [str(word) for word in one.get("given", [])], old, new)
    return lines


def not_known(sha: str) -> str:
    """What check mode says where only a build could tell."""
    return f"which options the engine {sha[:12]} has is known once it is built: apply says it before it switches"


def _line(command: Sequence[str], given: Sequence[str], old: str | None, new: str | None) -> list[str]:
    called = f"`{show(' '.join(command))}`"
    if new is None:
        return [f"the new engine has no {called}, which the one before it had"] if old is not None else []
    if old is None:
        return [f"the new engine has {called}, which the one before it had not"]
    before, after = options_of(old), options_of(new)
    passed = {*flags_of(given), *(ALWAYS if command[1:] == [DAEMON] else ())}
    gone, came = before - after, after - before
    told = [f"lost {_named(gone & passed)}, which this host passes to it"] if gone & passed else []
    told += [f"no longer has {_named(gone - passed)}"] if gone - passed else []
    told += [f"has gained {_named(came)}"] if came else []
    return [f"{called} of the new engine {'; it '.join(told)}"] if told else []


def _named(options: frozenset[str] | set[str]) -> str:
    names = sorted(options)
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return show(", ".join(names[:MAX_NAMED]), 600) + more
