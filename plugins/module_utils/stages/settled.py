# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an apply has anything to do: every stage is asked what it would do, in one go, before any is begun.

What is answered for is answered by the very code that would do it, so a stage is passed over only where that found
nothing. Nothing is remembered from one apply to the next.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

from ..base.errors import LoopError
from . import agent, clones, engine, files, gate_policy, timer
from .order import BEFORE, STAGES
from .outcome import Bring, Done, How, Json, filled

WORK: dict[str, tuple[Mapping[str, Any], Bring]] = {
    "identity": (files.OPTIONS, files.bring),
    "release": (engine.OPTIONS, engine.bring),
    "policy": (gate_policy.OPTIONS, gate_policy.bring),
    "agent": (agent.OPTIONS, agent.bring),
    "workspace": (clones.OPTIONS, clones.bring),
    "service": (files.OPTIONS, files.bring),
    "timer": (timer.OPTIONS, timer.bring),
}


def busy(host: Mapping[str, Any], uv: str) -> list[str]:
    """The stages that have something to do by what ``loop_info`` found the ``host`` to be; ``uv`` is the one wanted."""
    accounts = host["accounts"]
    found = {
        "packages": host["packages_missing"] or host["packages_interrupted"] or host["python_apt_half"],
        "takeover": host["takeover"],
        "identity": [accounts[key] for key in ("missing_users", "missing_groups", "faults") if accounts[key]]
        or host["secrets"]["loose"],
        "release": uv and host["uv_version"] != uv,
    }
    return [name for name, something in found.items() if something]


def look(asked: Mapping[str, Json], config: str, known: Collection[str] = ()) -> dict[str, Done]:
    """Of the stages ``asked``, with their options, those that have nothing to do, and what each answers.

    Those that are ``known`` to have something to do are not asked. On a host that nothing was deployed on each has
    something to do. So has one that fails, or whose options are wrong: it says why itself.
    """
    found: dict[str, Done] = {}
    if not os.path.lexists(config) or any(name in known for name in BEFORE):
        return found
    for name in asked:
        if name in known or not all(other in found for other in STAGES[name].after):
            continue
        options, bring = WORK[name]
        try:
            done = bring(filled(options, asked[name]), How(check=True))
        except LoopError:
            continue
        if not done.result["changed"]:
            found[name] = done
    return found
