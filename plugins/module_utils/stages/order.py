# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stages of an apply, by the names of the role's task files. It imports nothing, as the controller reads it."""

from __future__ import annotations

from typing import NamedTuple


class Stage(NamedTuple):
    """One of them: its module, and the stages that must have nothing to do for it to have nothing."""

    module: str
    after: tuple[str, ...] = ()


STAGES = {
    "identity": Stage("host_files"),
    "release": Stage("engine_release", after=("identity",)),
    "policy": Stage("gate_policy", after=("release",)),
    "agent": Stage("loop_agent", after=("policy",)),
    "workspace": Stage("pristine_clones", after=("identity",)),
    "service": Stage("host_files", after=("agent",)),
    "timer": Stage("loop_timer", after=("service", "workspace")),
}
# What the code on a host says before it does one: from then on nothing else may do it.
BEGUN = "begun"
# What comes before them all, and is done by what the host was found to be.
BEFORE = ("packages", "takeover")
# Options that are not handed on with the others: what no log may have, and what the look has options of its own for.
APART = ("secrets", "environment", "units")
