# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The canary: run one cycle as the timer would, and prove on the forge and the host what it did.

``docs``: one approved issue becomes exactly one harmless draft pull request. ``empty``:
nothing is approved and the cycle ends idle. Only what was seen counts: a cycle's exit
status says nothing about its work.

Look before (preconditions.py), start and wait (cycle_run.py), look after (forge_changes.py),
judge (expectations.py), write the receipt (receipts.py), tidy up (cleanup.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

from ..base import untrusted
from ..base.errors import LoopError
from ..cell import attempts
from ..forge.client import Forge, redact
from ..host.settings import Settings
from ..release import store
from . import cleanup, cycle_run, expectations, forge_changes, installed, preconditions, receipts
from .cycle_run import Cycle, Say
from .expectations import SEEN, Expectation, expect
from .forge_changes import Changes, Snapshot, Work
from .installed import Installed
from .preconditions import Target

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """What an operator asks of a canary; the options of the module ``loop_canary``."""

    mode: str
    repo: str = ""
    issue: int = 0
    identity: str = ""  # the login that the token must act as; empty: whoever that is
    timeout: float = 3600.0  # seconds
    cleanup: bool = False
    applied_by: str = ""
    overrides: Sequence[str] = ()


@dataclass(frozen=True)
class Before:
    """How things stand before the cycle; no target where it is to end idle."""

    target: Target | None
    identity: str
    installed: Installed
    forge: Mapping[str, Snapshot]


@dataclass(frozen=True)
class After:
    """What the forge shows afterwards; ``error`` is why it does not show all of it."""

    changes: Changes
    work: Work
    error: str = ""


def run(config: Settings, request: Request, token: str, say: Say = lambda line: None) -> Json:
    """Run one cycle and judge it: ``passed judged failed expectations evidence receipt cleanup left``.

    LoopError means that no cycle was started: what must be true beforehand is not. ``say``
    is told each step and each line of the cycle's journal while it happens.
    """

    def tell(line: str) -> None:
        say(untrusted.show(redact(line, [token]), 2 * SEEN))

    forge = Forge(config.api_url, token)
    before = look_before(config, request, forge)
    if before.target:  # who names an issue means it, however often it was tried
        attempts.clear(config, {str(before.target): ""})
    ready = "the queue is empty"
    if before.target:
        ready = f"the engine would take {before.target}, {before.identity} may push and open pull requests"
    tell(f"budget is left, {ready}: starting {config.unit}.service")
    cycle = cycle_run.run(config.unit, config.cycles_dir, request.timeout, tell)
    cycle = replace(cycle, journal=[redact(line, [token]) for line in cycle.journal])
    tell(f"{'it ended' if cycle.ended else 'IT IS STILL RUNNING'} after {cycle.seconds} s: looking at what it did")
    after = look_after(config, before, forge, token)
    judged = judge(config, before, cycle, after)
    for one in judged:
        seen = "" if one.passed else f"; seen: {one.seen}"
        tell(f"{'ok' if one.passed else 'FAILED'}: {one.name}: {one.expected}{seen}")
    failed = next((one for one in judged if not one.passed), None)
    on_the_forge = _on_the_forge(before, after)
    outcome = str(cycle.record.get("outcome", ""))
    result: Json = {
        "passed": failed is None,
        "judged": failed is None or not (after.error or outcome in expectations.SAYS_NOTHING),
        "failed": f"{failed.name}: expected {failed.expected}; seen: {failed.seen}" if failed else "",
        "expectations": [asdict(one) for one in judged],
        "evidence": {**asdict(cycle), **on_the_forge},
        "receipt": None,
        "cleanup": [],
        "left": [],
    }
    if failed is None:
        names = [one.name for one in judged]
        how = {**_moment(cycle), **on_the_forge, "repo": request.repo, "issue": request.issue, "expectations": names}
        result["receipt"] = write_receipt(config, request, before.installed, how)
    if before.target and cycle.ended:
        pulls = [pull for pull in after.changes.pulls if _is_ours(config, before, pull)]
        result.update(cleanup.tidy(cleanup.remains(forge, before.target, pulls), do=request.cleanup))
    return result


def _on_the_forge(before: Before, after: After) -> Json:
    found = {
        "identity": before.identity,
        "pulls": [_short(pull) for pull in after.changes.pulls],
        "files": after.work.files,
        "bystanders": after.changes.bystanders,
    }
    return dict(untrusted.shown(found))


def look_before(config: Settings, request: Request, forge: Forge) -> Before:
    """How things stand. LoopError where a cycle would be wasted."""
    target = preconditions.target_of(config, request.repo, request.issue) if request.mode == "docs" else None
    identity = preconditions.check_identity(forge, request.identity)
    target = preconditions.together(
        lambda: preconditions.check_budget(config),
        lambda: preconditions.check_queue(config, forge, target),
        lambda: preconditions.check_target(config, forge, target) if target else None,
    )[-1]
    now = installed.now(config)
    receipts.signing_key(config.receipts_dir)
    return Before(target, identity, now, {repo: forge_changes.snapshot(forge, repo) for repo in config.repos})


def look_after(config: Settings, before: Before, forge: Forge, token: str) -> After:
    """What the cycle did on the forge, as far as that can be seen."""
    after = After(Changes(), Work())
    try:
        changes = forge_changes.since(forge, before.forge, before.identity, config.branch_prefixes)
        after = replace(after, changes=changes)
        pull = expectations.own_pull(changes.pulls, before.target) if before.target else None
        if before.target and pull:
            after = replace(after, work=forge_changes.inspect(config, forge, before.target, pull, token))
    except LoopError as error:
        return replace(after, error=redact(str(error), [token]))
    return after


def judge(config: Settings, before: Before, cycle: Cycle, after: After) -> list[Expectation]:
    """Every expectation of this cycle, met or not."""
    target, record = before.target, cycle.record
    outcome = "published" if target else "idle"
    judged = expectations.judge_cycle(cycle, outcome, before.installed.engine_sha)
    if after.error:
        judged.append(expect("forge", False, "the forge tells what the cycle did", after.error))
    else:
        if target is not None:
            judged += expectations.judge_pulls(config, target, after.changes.pulls, before.identity, record)
            judged += expectations.judge_work(target, after.work)
            judged.append(expectations.judge_agent(config, record))
            judged.append(expectations.judge_handoff(config, target, record))
        judged.append(expectations.judge_rest(after.changes, target))
    return [*judged, expectations.judge_host(config, before.installed)]


def write_receipt(config: Settings, request: Request, proven: Installed, how: Json) -> str:
    """Write that ``proven`` passed, and its path; from now on its engine is one to go back to."""
    path = receipts.write(config, request.mode, proven, how, applied_by=request.applied_by, overrides=request.overrides)
    store.record_verdict(config.install_dir, proven.engine_sha, "proven", f"{request.mode} canary")
    return path


def _is_ours(config: Settings, before: Before, pull: Json) -> bool:
    is_own = pull["user"]["login"] == before.identity
    return is_own and preconditions.has_prefix(pull["head"]["ref"], config.branch_prefixes)


def _moment(cycle: Cycle) -> Json:
    return {key: cycle.record[key] for key in ("cycle", "invocation_id", "started", "ended")}


def _short(pull: Json) -> Json:
    return {
        "number": pull["number"],
        "url": pull["html_url"],
        "author": pull["user"]["login"],
        "draft": pull["draft"],
        "state": pull["state"],
        "branch": pull["head"]["ref"],
        "head_sha": pull["head"]["sha"],
        "base": pull["base"]["ref"],
    }
