# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a canary leaves on the forge, its pull request, branch and label, and how it is tidied up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from ..base import untrusted
from ..base.errors import LoopError
from ..forge.client import APPROVED, Forge
from ..host.settings import Settings
from .preconditions import Target, has_prefix, labels, open_pulls, target_of

Json: TypeAlias = dict[str, Any]


def after_proof(config: Settings, repo: str, issue: int, *, token: str, do: bool) -> Json:
    """Tidy up after a canary that passed before; with ``do`` false only ``left`` is told."""
    forge, target = Forge(config.api_url, token), target_of(config, repo, issue)
    pulls = open_pulls(forge, target, config.branch_prefixes)
    approved = APPROVED in labels(forge.issue(repo, issue) or {})
    return tidy(forge, remains(target, pulls, config.branch_prefixes, approved=approved), do=do)


class Remnant(NamedTuple):
    """What a canary leaves on the forge, as a person is told to tidy it, and how we do."""

    todo: str
    done: str
    call: Callable[..., None]
    arguments: tuple[str | int, ...]


def remains(target: Target, pulls: Sequence[Json], prefixes: Sequence[str], *, approved: bool = True) -> list[Remnant]:
    """These pull requests of the loop's, their branches, and the label."""
    found: list[Remnant] = []
    for pull in pulls:
        repo, number, branch = pull["base"]["repo"]["full_name"], pull["number"], pull["head"]["ref"]
        if has_prefix(branch, prefixes):
            url = pull["html_url"]
            found.append(Remnant(f"close {url}", f"closed {url}", Forge.close_pull, (repo, number)))
            of = f"{branch} of {repo}"
            found.append(Remnant(f"delete {of}", f"deleted {of}", Forge.delete_branch, (repo, branch)))
    if approved:
        label = f"{APPROVED} off {target.url}"
        arguments = (target.repo, target.issue, APPROVED)
        found.append(Remnant(f"take {label}", f"took {label}", Forge.remove_label, arguments))
    return found


def tidy(forge: Forge, remnants: Sequence[Remnant], *, do: bool) -> Json:
    """``cleanup``, what was done, and ``left``, what is left to a person; in words."""
    done: list[str] = []
    left: list[str] = []
    for one in remnants:
        if not do:
            left.append(one.todo)
            continue
        try:
            one.call(forge, *one.arguments)
            done.append(one.done)
        except LoopError as error:  # the verdict stands; a person can finish the tidying
            left.append(f"{one.todo}, which failed: {error}")
    return {"cleanup": untrusted.shown(done), "left": untrusted.shown(left)}
