# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the canary expects of a cycle: each expectation is judged on its own, from what was seen."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from ..base import untrusted
from ..base.errors import LoopError
from ..cell import records
from ..host import settings
from ..host.settings import Settings
from ..policy import paths, rules, schema
from . import installed
from .cycle_run import Cycle
from .forge_changes import Changes, Work
from .installed import Installed
from .preconditions import Target, has_prefix

Json: TypeAlias = dict[str, Any]

SEEN = 2000  # characters
HANDOFF_VERSION = 1
# How a cycle ends that never came to what is to be proven: the model's provider is down, the day is used up.
SAYS_NOTHING = frozenset({"refused", "over_budget", "paused", "locked"})


@dataclass(frozen=True)
class Expectation:
    """One expectation, whether it was met, and what was seen."""

    name: str
    passed: bool
    expected: str
    seen: str


def expect(name: str, passed: bool, expected: str, seen: object) -> Expectation:
    """One expectation as it can be shown: the forge and the engine have their say in both texts."""
    return Expectation(name, passed, untrusted.show(expected, SEEN), untrusted.show(seen, SEEN))


def judge_cycle(cycle: Cycle, outcome: str, engine_sha: str) -> list[Expectation]:
    """The cycle ended by itself, left its record, and says the outcome that we want."""
    record = cycle.record
    seen = record.get("outcome", "no record of the cycle")
    detail = record.get("detail") or f"systemd says {cycle.result or 'nothing'}"
    sha = (record.get("engine") or {}).get("sha", "no record of the cycle")
    ended = f"{'ended' if cycle.ended else 'still running'} after {cycle.seconds} s"
    return [
        expect("cycle ended", cycle.ended, "the cycle ends within the time-out", ended),
        expect("outcome", seen == outcome, outcome, f"{seen} ({detail})" if seen != outcome else seen),
        expect("engine", sha == engine_sha, f"the installed engine {engine_sha} ran", sha),
    ]


def judge_pulls(
    config: Settings, target: Target, pulls: Sequence[Json], identity: str, record: Json
) -> list[Expectation]:
    """Exactly one new pull request, and of the kind that a person can still refuse."""
    listed = ", ".join(pull["html_url"] for pull in pulls) or "none"
    one = expect("one pull request", len(pulls) == 1, f"exactly one new pull request, for {target}", listed)
    pull = own_pull(pulls, target)
    if pull is None:
        return [one]
    head, kind = pull["head"], f"{pull['state']} {'draft' if pull['draft'] else 'and ready for review'}"
    home = (head.get("repo") or {}).get("full_name", "a repository that is gone")
    mine = head["ref"] == target.branch or has_prefix(head["ref"], config.branch_prefixes)
    seen = f"issue {record.get('issue')}, pull request {record.get('pr_url')}"
    reported = record.get("issue") or {}
    told = (reported.get("repo"), reported.get("number")) == (target.repo, target.issue)
    told = told and str(record.get("pr_url", "")).endswith(f"/{target.repo}/pull/{pull['number']}")
    return [
        one,
        expect("draft", kind == "open draft", "open draft", kind),
        expect("author", pull["user"]["login"] == identity, f"opened by {identity}", pull["user"]["login"]),
        expect(
            "branch",
            mine and target.change_id in head["ref"] and home == target.repo,
            f"a branch of {target.repo} like {target.branch}",
            f"{head['ref']} of {home}",
        ),
        expect("base", pull["base"]["ref"] == target.default_branch, target.default_branch, pull["base"]["ref"]),
        expect("report", told, f"the cycle took {target} and opened {pull['html_url']}", seen),
    ]


def judge_agent(config: Settings, record: Json) -> Expectation:
    """The agent did the work, and not the engine's own mock: root saw it start, and the run's state says so."""
    known = [name for name in record.get("programs") or [] if name in config.agent_programs]
    backend = str(record.get("backend") or "")
    seen = f"{', '.join(known) or 'no agent'} was started, the backend was {backend or 'not named'}"
    wanted = f"{' or '.join(config.agent_programs)} was started in its sandbox, and did the run's work"
    return expect("agent", bool(known) and backend not in ("", records.MOCK), wanted, seen)


def judge_work(target: Target, work: Work) -> list[Expectation]:
    """The changed paths are among the allowed ones and the policy passes on what was pushed."""
    outside = [name for name in work.files if not paths.is_below(name, target.prefixes)]
    seen = ", ".join(outside or work.files) or "no changed file"
    violations = work.violations if work.files else ["nothing to judge"]
    return [
        expect("paths", bool(work.files) and not outside, f"changes only below {', '.join(target.prefixes)}", seen),
        expect("policy", not violations, "the policy passes on the diff", "; ".join(violations) or "no violation"),
    ]


def judge_handoff(config: Settings, target: Target, record: Json) -> Expectation:
    """The handoff file was written by this run, in a directory that the policy admits."""
    expected = f"{target.handoff} in the cycle's cell, schema_version {HANDOFF_VERSION}, in an admitted directory"
    cell = str(record.get("cell", ""))
    if os.path.dirname(cell) != config.runs_dir:
        return expect("handoff", False, expected, "the cycle left no cell")
    path = f"{cell}/{target.handoff}"
    try:
        content = untrusted.read(path, cell)
        if content is None:
            return expect("handoff", False, expected, "no such file")
        version = untrusted.parse(content, target.handoff).get("schema_version")
        admitted = rules.admits_handoff(schema.load_file(config.policy_file), os.path.dirname(path))
    except (LoopError, OSError) as error:
        return expect("handoff", False, expected, error)
    seen = f"schema_version {version}, directory {'admitted' if admitted else 'not admitted'}"
    return expect("handoff", version == HANDOFF_VERSION and admitted, expected, seen)


def judge_rest(changes: Changes, target: Target | None) -> Expectation:
    """Nothing else happened on the forge."""
    other = list(changes.changes)
    if target is None:
        other += [f"new pull request {pull['html_url']}" for pull in changes.pulls]
    return expect("nothing else", not other, "nothing else changed on the forge", "; ".join(other) or "nothing else")


def judge_host(config: Settings, before: Installed) -> Expectation:
    """What ran is still what is installed, else the proof would be of something else."""
    expected = "engine, policy and unit stay as they were during the cycle"
    try:
        now = installed.now(settings.load(f"{config.config_dir}/loop.json"))
    except LoopError as error:
        return expect("host unchanged", False, expected, error)
    changed = sorted(part for part, value in asdict(now).items() if value != getattr(before, part))
    return expect("host unchanged", not changed, expected, ", ".join(changed) or "unchanged")


def own_pull(pulls: Sequence[Json], target: Target) -> Json | None:
    """The pull request to look at closely: the one on the expected branch, else the first there."""
    there = [pull for pull in pulls if pull["base"]["repo"]["full_name"] == target.repo]
    return next((pull for pull in there if pull["head"]["ref"] == target.branch), there[0] if there else None)
