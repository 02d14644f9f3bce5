# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an engine calls its things: its program, the label that approves, its branches and its checkouts.

The public engine's names are the defaults; what another one may have is judged here, before any host is looked at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..base.errors import LoopError, printable
from ..base.files import inside

LABEL = r"[A-Za-z0-9][A-Za-z0-9 ._:/+-]{0,49}(?<! )"
LABEL_WORDS = "a label of the forge, of at most 50 letters, digits, spaces and ._:/+- and with a letter or digit first"
PREFIX = r"(?!.*(\.\.|//|/\.|\.(/|\Z)|\.lock(/|\Z)))[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._-]+)*"
PREFIX_WORDS = "beginnings of branches such as hyrule-feature, of letters, digits and /._- and without a / at the end"
CHECKOUT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
REPOSITORY = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]*/)?[A-Za-z0-9_.-]*[A-Za-z0-9_-]")
# What the public engine's policy protects; a policy may protect more, which each cycle looks at.
PROTECTED = ("main", "master", "production", "prod")
PREFIXES, CHECKOUTS = "engineering_loop_branch_prefixes", "engineering_loop_checkout_names"


def check_prefixes(prefixes: Sequence[str], overlay: Mapping[str, Any], checkouts: Sequence[Mapping[str, Any]]) -> None:
    """Refuse branches that no cycle could push: none, protected ones, and those that stand in each other's way."""
    if not prefixes:
        raise LoopError(f"{PREFIXES} is empty, but must name one beginning at least: else nothing could be pushed")
    defaults = overlay.get("defaults")
    given = defaults.get("protected_branch_prefixes") if isinstance(defaults, Mapping) else None
    # What is no list there, the policy's own check refuses.
    protected = dict.fromkeys([*PROTECTED, *(map(str, given) if isinstance(given, list) else ())])
    followed = [str(one.get("version") or "main") for one in checkouts]
    for prefix in prefixes:
        low = prefix.casefold()
        if by := next((name for name in protected if inside(low, name.casefold())), None):
            raise LoopError(f"{PREFIXES} holds {prefix}, but {by} is protected: name one that is the loop's own")
        if base := next((name for name in followed if _meet(low, name.casefold())), None):
            raise LoopError(
                f"{PREFIXES} holds {prefix}, but work starts from the branch {base} (engineering_loop_workspace"
                "_repositories): name one that is the loop's own"
            )
        if other := next((one for one in prefixes if one != prefix and inside(low, one.casefold())), None):
            raise LoopError(f"{PREFIXES} holds {prefix}, which lies below {other}: name just one of them")
    if len({*prefixes}) < len(prefixes):
        raise LoopError(f"{PREFIXES} names one more than once: remove all but the first")


def _meet(one: str, other: str) -> bool:
    return inside(one, other) or inside(other, one)


def check_checkouts(names: Mapping[Any, Any]) -> None:
    """Refuse what is no repository, and what is no name of a directory."""
    for repo, checkout in names.items():
        if not isinstance(repo, str) or not REPOSITORY.fullmatch(repo):
            raise LoopError(
                f"{CHECKOUTS} has the key {_shown(repo)}, but must have names of repositories: NAME or OWNER/NAME"
            )
        if not isinstance(checkout, str) or not CHECKOUT.fullmatch(checkout) or len(checkout) > 100:
            raise LoopError(
                f"{CHECKOUTS}.{repo} is {_shown(checkout)}, but must be a name of letters, digits and _.- only, of at"
                " most 100"
            )


def _shown(value: Any) -> str:
    return printable(json.dumps(value, ensure_ascii=False, default=str))[:100]
