# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must be true before the canary spends a cycle: budget is left, the token may, and the engine takes our issue."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from ..base import untrusted
from ..base.errors import LoopError
from ..cell import attempts, budget, records
from ..forge.client import Forge, Refused
from ..host import settings
from ..host.settings import Settings

Json: TypeAlias = dict[str, Any]

# The engine's own rules for the order of its queue, and its own defaults.
WEIGHTS = {"critical": 5, "security": 4, "bug": 2, "firewall": 2, "bgp": 2, "monitoring": 1, "routine": 1}
SECTIONS = ("## Context", "## Action items", "## Related")
LISTED = 30  # gh lists the newest 30 of a repository, so the engine sees no more
MAX_COST = 10.0  # USD a day


@dataclass(frozen=True)
class Target:
    """The canary's issue and the names that the engine derives from it."""

    repo: str
    issue: int
    url: str
    label: str  # what approves it
    change_id: str
    checkout: str
    branch: str
    handoff: str  # below the cell of its cycle
    prefixes: list[str]  # of what it may change
    default_branch: str = ""

    def __str__(self) -> str:
        return f"{self.repo}#{self.issue}"


def target_of(config: Settings, repo: str, issue: int) -> Target:
    """The issue as the canary's. LoopError where it is out of the loop's scope."""
    if repo not in config.repos:
        raise LoopError(f"{repo or 'no repository'} is not in the loop's scope: {', '.join(config.repos)}")
    if issue < 1:
        raise LoopError("the docs canary needs the number of its issue")
    change_id = settings.change_id(repo, issue)
    short = repo.rpartition("/")[2]
    known = {entry["repo"]: entry["dest"] for entry in reversed(config.workspace_repositories)}
    known = {short: short, **config.checkout_names, **known}
    checkout = str(known.get(repo) or known[short])
    return Target(
        repo=repo,
        issue=issue,
        url=f"{config.git_url.rstrip('/')}/{repo}/issues/{issue}",
        label=config.label,
        change_id=change_id,
        checkout=checkout,
        branch=f"{config.branch_prefixes[0]}/{change_id}/{checkout}",
        handoff=f"runs/{change_id.lower()}/handoff/noc_handoff.json",
        prefixes=list(config.allowed_paths.get(checkout) or ["docs"]),
    )


def check_identity(forge: Forge, wanted: str) -> str:
    """The login that the token acts as; an app's token cannot say, so there the wanted one is believed."""
    try:
        login = forge.identity()
    except Refused as error:
        if wanted and error.status == 403:
            return wanted
        raise
    if wanted not in ("", login):
        raise LoopError(f"the token acts as {login}, not as {wanted}: put the other's token into the env file")
    return login


def check_budget(config: Settings) -> None:
    """Refuse where the day has no run left, or no money."""
    used_up = budget.exhausted(config)
    if used_up:
        raise LoopError(f"no budget left today: {used_up}")
    spent = budget.ledger(config, records.read(config.cycles_dir))["cost_usd"]
    most = max_cost(config)
    if spent >= most:
        raise LoopError(
            f"no budget left today: {spent:.2f} of {most:.2f} USD were spent; wait or raise max_cost_usd_per_day"
        )


def max_cost(config: Settings) -> float:
    """How many USD the engine may spend on a day, as it is told."""
    return _number_of(config.daemon_args, "--max-cost-usd-per-day", MAX_COST)


def together(*checks: Callable[[], Any]) -> list[Any]:
    """What each finds. LoopError with all that speaks against a canary: a person mends it in one go."""
    found, problems = [], []
    for check in checks:
        try:
            found.append(check())
        except LoopError as error:
            problems.append(str(error))
    if problems:
        raise LoopError("; and ".join(problems))
    return found


def check_queue(config: Settings, forge: Forge, target: Target | None) -> None:
    """Refuse where the engine would take another issue than the one we mean, or any at all.

    What is held stands in nobody's way, and the canary's own issue is released for it.
    """
    queue = [
        issue
        for repo in config.repos
        for issue in [
            one
            for one in forge.approved_issues(repo, config.label)
            if (target and _is(one, target)) or not attempts.why_held(config, repo, one)
        ][:LISTED]
    ]
    if target is None:
        if queue:
            raise LoopError(f"the empty canary needs an empty queue, and {_named(queue[0])} is approved: run mode docs")
        return
    now = datetime.datetime.now(datetime.UTC)
    own = next((score(issue, now) for issue in queue if _is(issue, target)), None)
    if own is None:
        found = forge.issue(target.repo, target.issue)
        if found is None:
            raise LoopError(f"there is no issue {target}, or the token may not see it")
        if "pull_request" in found:
            raise LoopError(f"{target} is a pull request, not an issue")
        if found["state"] != "open":
            raise LoopError(f"issue {target} is {found['state']}: open it again")
        if not is_approved(found, target):
            raise LoopError(f"issue {target} does not have the label {target.label}")
        raise LoopError(f"the engine does not see {target}: it lists the newest {LISTED} approved ones of a repository")
    rival = max((issue for issue in queue if not _is(issue, target)), key=lambda issue: score(issue, now), default=None)
    # Level ones count: the engine asks the clock anew for each, so their order is chance.
    if rival is not None and score(rival, now) > own - 1e-6:
        raise LoopError(
            f"{_named(rival)} stands before {target} in the engine's queue (score {score(rival, now):.2f} against "
            f"{own:.2f}): take the label {target.label} off it for the canary, or use it as the canary's issue"
        )


def _is(issue: Json, target: Target) -> bool:
    return (issue["repo"], issue["number"]) == (target.repo, target.issue)


def _named(issue: Json) -> str:
    return f"{issue['repo']}#{issue['number']} ({untrusted.show(issue['title'])})"


def check_target(config: Settings, forge: Forge, target: Target) -> Target:
    """The target with its default branch. LoopError where the run could only fail: no right, or a taken branch."""
    repository = forge.repository(target.repo)
    if repository.get("archived"):
        raise LoopError(f"{target.repo} is archived: nothing can be pushed there")
    if not forge.may_push(target.repo, config.git_url):
        raise LoopError(f"the token may not push to {target.repo}: give it write access to contents and pull requests")
    default_branch = str(repository["default_branch"])
    if not forge.may_open_pulls(target.repo, default_branch):
        raise LoopError(f"the token may not open pull requests in {target.repo}: give it write access to them")
    taken = open_pulls(forge, target, config.branch_prefixes)
    if taken:
        raise LoopError(
            f"{target} already has the pull request {taken[0]['html_url']}, so it is not offered to a cycle: close it"
            " (after each proof, engineering_loop_canary.cleanup: true does)"
        )
    return replace(target, default_branch=default_branch)


def open_pulls(forge: Forge, target: Target, prefixes: Sequence[str]) -> list[Json]:
    """The open pull requests that the loop made for the issue."""
    return [
        pull
        for pull in forge.pulls(target.repo, state="open")
        if target.change_id in pull["head"]["ref"].split("/") and has_prefix(pull["head"]["ref"], prefixes)
    ]


def score(issue: Json, now: datetime.datetime) -> float:
    """What the engine orders its queue by: the highest is taken."""
    total = 1.0 + sum(WEIGHTS.get(label.lower(), 0) for label in labels(issue))
    try:
        updated = datetime.datetime.fromisoformat(str(issue["updated_at"]).replace("Z", "+00:00"))
        total += min(2.0, max(0.0, (now - updated).total_seconds() / 86400 / 30))
    except (ValueError, TypeError):
        pass  # the engine counts such an age as none
    body = issue.get("body") or ""
    return total + all(section in body for section in SECTIONS)


def has_prefix(branch: str, prefixes: Sequence[str]) -> bool:
    """Whether it is a branch of the loop's."""
    return any(branch.startswith(f"{prefix.rstrip('/')}/") for prefix in prefixes)


def labels(item: Json) -> list[str]:
    """The names of an issue's labels."""
    return [str(label["name"]) for label in item.get("labels", [])]


def is_approved(issue: Json, target: Target) -> bool:
    """Whether it has the label by which a person approves; the forge knows no capitals in it."""
    return target.label.casefold() in map(str.casefold, labels(issue))


def _number_of(arguments: Sequence[str], flag: str, default: float) -> float:
    """The number of ``--flag NUMBER`` or ``--flag=NUMBER`` on the engine's command line; the last one counts."""
    found = str(default)
    for place, word in enumerate(arguments):
        if word.startswith(f"{flag}="):
            found = word.partition("=")[2]
        elif word == flag and place + 1 < len(arguments):
            found = arguments[place + 1]
    try:
        return float(found)
    except ValueError:
        raise LoopError(f"{flag} must be a number on the command line of the engine, and is {found!r}") from None
