# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Issues that were tried too often: not offered, and told so once on the forge.

Root counts (``cell/attempts.py``) and says what is held; whether an issue is still the one that was counted is seen
here, where the forge's answer is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ..base.errors import LoopError
from ..base.untrusted import show
from ..cell import attempts
from ..forge.client import Forge, Refused
from ..host.settings import Settings
from . import audit, sessions

Json: TypeAlias = dict[str, Any]

# What a forge answers where asking again later is no use: no right, no such issue, a closed conversation.
FINAL = (403, 404, 410, 422)


def why_held(counts: Mapping[str, Json], repo: str, issue: Mapping[str, Any]) -> str:
    """Why root has this issue held; empty where it has not, or where the issue is not what it was any more."""
    known = counts.get(attempts.name_of(repo, issue["number"]), {})
    return str(known.get("held", "")) if known.get("digest") == attempts.digest_of(issue) else ""


def released(counts: Mapping[str, Json], repo: str, approved: Sequence[Mapping[str, Any]]) -> list[Json]:
    """Those of this repository's counted issues whose count begins anew, with the digest that it was of.

    ``approved`` are its open and approved issues that have no pull request. What is not among them, or not what it was,
    begins anew.
    """
    now = {attempts.name_of(repo, issue["number"]): attempts.digest_of(issue) for issue in approved}
    found = []
    for name, known in counts.items():
        of, _hash, number = name.rpartition("#")
        if of == repo and known["digest"] != now.get(name):
            found.append({"number": int(number), "digest": known["digest"]})
    return found


def comment(config: Settings, token: str, asked: Mapping[str, Any]) -> Json:
    """As root asks: ``text`` under the issue, unless a comment with its ``marker`` stands there.

    The answer's ``url`` is that of the comment, or ``refused`` says why there can be none. LoopError where it may be
    tried again later.
    """
    repo, number, marker, cycle = asked["repo"], int(asked["number"]), str(asked["marker"]), str(asked["cycle"])
    if repo not in config.repos:
        raise LoopError(f"{show(repo)} is not one that the loop works on")
    forge = Forge(config.api_url, token)
    with sessions.turn(config):
        try:
            there = [one for one in forge.comments(repo, number, str(asked["since"])) if marker in (one["body"] or "")]
            if not there:
                audit.append(config, cycle, {"what": "commenting", "repo": repo, "number": number, "marker": marker})
                there = [forge.comment(repo, number, f"{asked['text']}\n{marker}\n")]
        except Refused as error:
            if error.status not in FINAL or "rate limit" in str(error):
                raise
            audit.append(config, cycle, {"what": "comment", "repo": repo, "number": number, "refused": str(error)})
            return {"ok": True, "url": "", "refused": str(error)}
    url = show(there[0]["html_url"])
    audit.append(config, cycle, {"what": "comment", "repo": repo, "number": number, "url": url})
    return {"ok": True, "url": url, "refused": ""}
