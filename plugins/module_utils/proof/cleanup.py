# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a canary leaves on the forge, its pull request, branch and label, and how it is tidied up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from ..base import untrusted
from ..base.errors import LoopError
from ..forge.client import Forge
from ..host.settings import Settings
from .preconditions import Target, is_approved, open_pulls, target_of

Json: TypeAlias = dict[str, Any]


def after_proof(config: Settings, repo: str, issue: int, *, token: str, do: bool) -> Json:
    """Tidy up after a canary that passed before; with ``do`` false only ``left`` is told."""
    forge, target = Forge(config.api_url, token), target_of(config, repo, issue)
    pulls = open_pulls(forge, target, config.branch_prefixes)
    approved = is_approved(forge.issue(repo, issue) or {}, target)
    return tidy(remains(forge, target, pulls, approved=approved), do=do)


class Remnant(NamedTuple):
    """Something left on the forge, as a person is told to tidy it, and how we do."""

    todo: str
    done: str
    tidy: Callable[[], None]


def remains(forge: Forge, target: Target, pulls: Sequence[Json], *, approved: bool = True) -> list[Remnant]:
    """These pull requests of the loop's, their branches, and the label."""
    found: list[Remnant] = []
    for pull in pulls:
        repo, branch, url = pull["base"]["repo"]["full_name"], pull["head"]["ref"], pull["html_url"]
        found.append(Remnant(f"close {url}", f"closed {url}", partial(forge.close_pull, repo, pull["number"])))
        of = f"{branch} of {repo}"
        found.append(Remnant(f"delete {of}", f"deleted {of}", partial(forge.delete_branch, repo, branch)))
    if approved:
        label = f"{target.label} off {target.url}"
        remove = partial(forge.remove_label, target.repo, target.issue, target.label)
        found.append(Remnant(f"take {label}", f"took {label}", remove))
    return found


def tidy(remnants: Sequence[Remnant], *, do: bool) -> Json:
    """``cleanup``, what was done, and ``left``, what is left to a person; in words."""
    done: list[str] = []
    left: list[str] = []
    for one in remnants:
        if not do:
            left.append(one.todo)
            continue
        try:
            one.tidy()
            done.append(one.done)
        except LoopError as error:  # the verdict stands; a person can finish the tidying
            left.append(f"{one.todo}, which failed: {error}")
    return {"cleanup": untrusted.shown(done), "left": untrusted.shown(left)}
