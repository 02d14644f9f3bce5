# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The canary: run one cycle as the timer would, and prove on the forge and the host what it did.

``docs``: one approved issue becomes exactly one harmless draft pull request. ``empty``:
nothing is approved and the cycle ends idle. Only what was seen counts: a cycle's exit
status says nothing about its work.
"""

from __future__ import annotations

import datetime
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from ..base import untrusted
from ..base.errors import APPLY, LoopError
from ..cell import budget, records
from ..forge.client import APPROVED, Forge, Refused, redact
from ..git.command import credentials, git
from ..host import settings
from ..host.settings import Settings
from ..policy import commits, paths, rules, schema
from ..release import store
from . import receipts

Json: TypeAlias = dict[str, Any]
Say: TypeAlias = Callable[[str], object]

# The engine's own rules for the order of its queue, and its own defaults.
WEIGHTS = {"critical": 5, "security": 4, "bug": 2, "firewall": 2, "bgp": 2, "monitoring": 1, "routine": 1}
SECTIONS = ("## Context", "## Action items", "## Related")
LISTED = 30  # gh lists the newest 30 of a repository, so the engine sees no more
MAX_COST = 10.0
CHECKOUTS = {"network-operations": "hyrule-infra", "noc-agent": "hyrule-noc-agent"}
JOURNAL_LINES, LINE, SEEN = 200, 500, 2000
HANDOFF_VERSION = 1


def run(
    config: Settings,
    mode: str,
    repo: str = "",
    issue: int = 0,
    *,
    token: str,
    identity: str = "",
    timeout: float = 3600.0,
    cleanup: bool = False,
    applied_by: str = "",
    overrides: Iterable[str] = (),
    say: Say = lambda line: None,
) -> Json:
    """Run one cycle and judge it: ``passed failed expectations evidence receipt cleanup left``.

    LoopError means that no cycle was started: what must be true beforehand is not. ``say``
    is told each step and each line of the cycle's journal while it happens.
    """

    def tell(line: str) -> None:
        say(untrusted.show(redact(line, [token]), 2 * SEEN))

    forge = Forge(config.api_url, token)
    target = _Target(config, repo, issue) if mode == "docs" else None
    identity = check_identity(forge, identity)
    check_budget(config)
    check_queue(config, forge, target)
    if target is not None:
        check_target(config, forge, target)
    installed = receipts.installed(config)
    before = {name: snapshot(forge, name) for name in config.repos}
    ready = (
        f"the engine would take {target}, {identity} may push and open pull requests"
        if target
        else "the queue is empty"
    )
    tell(f"budget is left, {ready}: starting {config.unit}.service")

    cycle = run_cycle(config.unit, config.cycles_dir, timeout, tell)
    tell(
        f"{'it ended' if cycle['ended'] else 'IT IS STILL RUNNING'} after {cycle['seconds']} s: looking at what it did"
    )
    cycle["journal"] = [redact(line, [token]) for line in cycle["journal"]]
    news: Json = {"pulls": [], "changes": [], "bystanders": []}
    work: Json = {"files": [], "violations": []}
    expectations = judge_cycle(cycle, "published" if target else "idle", installed["engine_sha"])
    try:
        news = whats_new(forge, before, identity, config.branch_prefixes)
        if target is not None:
            pull = _ours(news["pulls"], target)
            work = inspect(config, forge, target, pull, token) if pull else work
            expectations += judge_pulls(config, target, news["pulls"], identity, cycle["account"])
            expectations += judge_work(config, target, work)
            expectations.append(judge_agent(config, cycle["account"]))
            expectations.append(judge_handoff(config, target, cycle["account"]))
        expectations.append(judge_rest(news, target))
    except LoopError as error:
        expectations.append(expect("forge", False, "the forge tells what the cycle did", redact(str(error), [token])))
    expectations.append(judge_host(config, installed))
    for item in expectations:
        seen = "" if item["passed"] else f"; seen: {item['seen']}"
        tell(f"{'ok' if item['passed'] else 'FAILED'}: {item['name']}: {item['expected']}{seen}")

    evidence = {
        **cycle,
        **untrusted.shown(
            {
                "identity": identity,
                "pulls": [_short(pull) for pull in news["pulls"]],
                "files": work["files"],
                "bystanders": news["bystanders"],
            }
        ),
    }
    failed = next((item for item in expectations if not item["passed"]), None)
    result: Json = {
        "passed": failed is None,
        "failed": "" if failed is None else f"{failed['name']}: expected {failed['expected']}; seen: {failed['seen']}",
        "expectations": expectations,
        "evidence": evidence,
        "receipt": None,
        "cleanup": [],
        "left": [],
    }
    if failed is None:
        how = {
            **{key: cycle["account"][key] for key in ("cycle", "invocation_id", "started", "ended")},
            **{key: evidence[key] for key in ("identity", "pulls", "files", "bystanders")},
            "repo": repo,
            "issue": issue,
            "expectations": [item["name"] for item in expectations],
        }
        result["receipt"] = receipts.write(config, mode, installed, how, applied_by=applied_by, overrides=overrides)
        store.record_verdict(config.install_dir, installed["engine_sha"], "proven", f"{mode} canary")
    if target is not None and cycle["ended"]:
        ours = [pull for pull in news["pulls"] if pull["user"]["login"] == identity]
        result.update(tidy(forge, remains(target, ours, config.branch_prefixes), do=cleanup))
    return result


def clean_up(config: Settings, repo: str, issue: int, *, token: str, do: bool) -> Json:
    """Tidy up after a canary that passed before; with ``do`` false only ``left`` is told."""
    forge, target = Forge(config.api_url, token), _Target(config, repo, issue)
    pulls = open_pulls(forge, target, config.branch_prefixes)
    approved = APPROVED in _labels(forge.issue(repo, issue) or {})
    return tidy(forge, remains(target, pulls, config.branch_prefixes, approved=approved), do=do)


class _Target:
    """The canary's issue and the names that the engine derives from it."""

    def __init__(self, config: Settings, repo: str, issue: int) -> None:
        if repo not in config.repos:
            raise LoopError(f"{repo or 'no repository'} is not in the loop's scope: {', '.join(config.repos)}")
        if issue < 1:
            raise LoopError("the docs canary needs the number of its issue")
        self.repo, self.issue = repo, issue
        self.change_id = settings.change_id(repo, issue)
        short = repo.rpartition("/")[2]
        self.checkout = next(
            (entry["dest"] for entry in config.workspace_repositories if entry["repo"] == repo),
            CHECKOUTS.get(short, short),
        )
        self.branch = f"{config.branch_prefixes[0]}/{self.change_id}/{self.checkout}"
        self.handoff = f"runs/{self.change_id.lower()}/handoff/noc_handoff.json"  # in the cell of its cycle
        self.default_branch = ""
        self.url = f"{config.git_url.rstrip('/')}/{repo}/issues/{issue}"

    def __str__(self) -> str:
        return f"{self.repo}#{self.issue}"


# --- before: what must be true, or no cycle is spent


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
    most = _argument(config.daemon_args, "--max-cost-usd-per-day", MAX_COST)
    if spent >= most:
        raise LoopError(
            f"no budget left today: {spent:.2f} of {most:.2f} USD were spent; wait or raise max_cost_usd_per_day"
        )


def check_queue(config: Settings, forge: Forge, target: _Target | None) -> None:
    """Refuse where the engine would take another issue than the one we mean, or any at all."""
    queue = [issue for repo in config.repos for issue in forge.approved_issues(repo)[:LISTED]]
    if target is None:
        if queue:
            raise LoopError(f"the empty canary needs an empty queue, and {_named(queue[0])} is approved: run mode docs")
        return
    now = _utc_now()
    own = next((score(issue, now) for issue in queue if _is(issue, target)), None)
    if own is None:
        found = forge.issue(target.repo, target.issue)
        if found is None:
            raise LoopError(f"there is no issue {target}, or the token may not see it")
        if "pull_request" in found:
            raise LoopError(f"{target} is a pull request, not an issue")
        if found["state"] != "open":
            raise LoopError(f"issue {target} is {found['state']}: open it again")
        if APPROVED not in _labels(found):
            raise LoopError(f"issue {target} does not have the label {APPROVED}")
        raise LoopError(f"the engine does not see {target}: it lists the newest {LISTED} approved ones of a repository")
    rival = max((issue for issue in queue if not _is(issue, target)), key=lambda issue: score(issue, now), default=None)
    # Level ones count: the engine asks the clock anew for each, so their order is chance.
    if rival is not None and score(rival, now) > own - 1e-6:
        raise LoopError(
            f"{_named(rival)} stands before {target} in the engine's queue (score {score(rival, now):.2f} against "
            f"{own:.2f}): take the label {APPROVED} off it for the canary, or use it as the canary's issue"
        )


def _is(issue: Json, target: _Target) -> bool:
    return (issue["repo"], issue["number"]) == (target.repo, target.issue)


def _named(issue: Json) -> str:
    return f"{issue['repo']}#{issue['number']} ({untrusted.show(issue['title'])})"


def check_target(config: Settings, forge: Forge, target: _Target) -> None:
    """Refuse where the run could only end in an error: no right to push or to open, or its branch is taken."""
    repository = forge.repository(target.repo)
    if repository.get("archived"):
        raise LoopError(f"{target.repo} is archived: nothing can be pushed there")
    if not forge.may_push(target.repo, config.git_url):
        raise LoopError(f"the token may not push to {target.repo}: give it write access to contents and pull requests")
    target.default_branch = repository["default_branch"]
    if not forge.may_open_pulls(target.repo, target.default_branch):
        raise LoopError(f"the token may not open pull requests in {target.repo}: give it write access to them")
    taken = open_pulls(forge, target, config.branch_prefixes)
    if taken:
        raise LoopError(
            f"{target} already has the pull request {taken[0]['html_url']}, so it is not offered to a cycle: close it,"
            " which engineering_loop_canary.cleanup: true does after the next proof"
        )


def open_pulls(forge: Forge, target: _Target, prefixes: Sequence[str]) -> list[Json]:
    """The open pull requests that the loop made for the issue."""
    return [
        pull
        for pull in forge.pulls(target.repo, state="open")
        if target.change_id in pull["head"]["ref"].split("/") and _has_prefix(pull["head"]["ref"], prefixes)
    ]


def score(issue: Json, now: datetime.datetime) -> float:
    """What the engine orders its queue by: the highest is taken."""
    total = 1.0 + sum(WEIGHTS.get(label.lower(), 0) for label in _labels(issue))
    try:
        updated = datetime.datetime.fromisoformat(str(issue["updated_at"]).replace("Z", "+00:00"))
        total += min(2.0, max(0.0, (now - updated).total_seconds() / 86400 / 30))
    except (ValueError, TypeError):
        pass  # the engine counts such an age as none
    body = issue.get("body") or ""
    return total + all(section in body for section in SECTIONS)


# --- the cycle


def systemd(*command: str) -> str:
    """Run systemctl or journalctl and return what it prints: the one door to systemd."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LoopError(f"{command[0]} cannot be run on this host ({error})") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise LoopError(f"{' '.join(command[:3])} ended with {done.returncode}: {last}")
    return done.stdout


def unit_state(unit: str) -> dict[str, str]:
    """What systemd says of the service."""
    wanted = "LoadState,ActiveState,Result,InvocationID,Job"
    text = systemd("systemctl", "show", f"{unit}.service", f"--property={wanted}")
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def run_cycle(unit: str, cycles_dir: str, timeout: float, say: Say) -> Json:
    """Start the service, wait for its end; ``ended result invocation_id account journal began seconds``."""
    state = unit_state(unit)
    if state["LoadState"] != "loaded":
        raise LoopError(f"systemd does not know {unit}.service ({state['LoadState']}): {APPLY} first")
    if _busy(state):
        raise LoopError(f"a cycle is running already ({unit}.service is {state['ActiveState']}): wait for its end")
    known, earlier = set(records.names(cycles_dir)), state["InvocationID"]
    began, clock = time.time(), time.monotonic()
    tail = _Tail(unit, began, say)
    systemd("systemctl", "start", "--no-block", f"{unit}.service")
    invocation, result = "", ""
    while True:
        state = unit_state(unit)
        if state["InvocationID"] not in ("", earlier):
            invocation, result = state["InvocationID"], state["Result"]
        ended, elapsed = not _busy(state), time.monotonic() - clock
        if ended or elapsed > timeout:
            break
        tail.tell()
        # Often at first: systemd forgets the invocation of a unit soon after its end.
        time.sleep(0.1 if elapsed < 5 else 1.0)
    tail.tell(last=True)
    account = _account(cycles_dir, known, invocation)
    invocation = invocation or account.get("invocation_id", "")
    return {
        "ended": ended,
        "result": result,
        "invocation_id": invocation,
        "account": account,
        "journal": journal(invocation),
        "began": began,
        "seconds": round(time.monotonic() - clock, 1),
    }


class _Tail:
    """The unit's journal from a moment on, said as it comes."""

    PAUSE = 1.0

    def __init__(self, unit: str, since: float, say: Say) -> None:
        self._unit, self._say = unit, say
        self._from = f"--since=@{since:.6f}"
        self._due = 0.0

    def tell(self, last: bool = False) -> None:
        """Say what is new, now and then; a journal that cannot be read does not end the cycle."""
        if not last and time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self.PAUSE
        try:
            if last:
                systemd("journalctl", "--sync")  # the service's last words may still be on their way
            text = systemd(
                "journalctl", "--quiet", "--no-pager", "--output=short-iso", "--show-cursor", self._from,
                f"--unit={self._unit}.service",
            )  # fmt: skip
        except LoopError as error:
            self._say(str(error))
            return
        for line in text.splitlines():
            if line.startswith("-- cursor: "):
                self._from = f"--after-cursor={line.removeprefix('-- cursor: ')}"
            else:
                # Whoever looks on knows the day and the host.
                self._say(untrusted.show(re.sub(r"^\S+T(\d\d:\d\d:\d\d)\S* \S+ ", r"\1 ", line), LINE))


def journal(invocation: str) -> list[str]:
    """The last lines that the service and systemd itself wrote about one invocation."""
    if not invocation:
        return []
    both = (f"_SYSTEMD_INVOCATION_ID={invocation}", "+", f"INVOCATION_ID={invocation}")
    try:
        text = systemd("journalctl", "--quiet", "--no-pager", "--output=short-iso", f"--lines={JOURNAL_LINES}", *both)
    except LoopError as error:
        return [str(error)]
    return [untrusted.show(line, LINE) for line in text.splitlines()]


def _busy(state: Mapping[str, str]) -> bool:
    return state["ActiveState"] not in ("inactive", "failed") or state.get("Job", "0") not in ("", "0")


def _account(cycles_dir: str, known: set[str], invocation: str) -> Json:
    """The record that root wrote of the cycle: by its invocation, else the newest new one; else empty."""
    recent: list[Json] = records.read(cycles_dir, 5)
    for record in reversed(recent):
        if f"{record['cycle']}.json" not in known and invocation in ("", record.get("invocation_id")):
            return record
    return {}


# --- the forge, before and after


def snapshot(forge: Forge, repo: str) -> Json:
    """What must not change there: open pull requests and issues, branches; and the newest number."""
    return {
        "newest": forge.newest_number(repo),
        "open": {item["number"]: _state(item) for item in [*forge.pulls(repo, state="open"), *forge.issues(repo)]},
        "branches": forge.branches(repo),
    }


def whats_new(forge: Forge, before: Mapping[str, Json], identity: str, prefixes: Sequence[str]) -> Json:
    """What happened on the forge since ``before``: new pull requests, other changes, bystanders.

    A bystander is somebody else's new issue, or pull request on a branch that is not the
    loop's: colleagues work on while a canary runs, and what the loop does it does with its token.
    """
    pulls: list[Json] = []
    changes: list[str] = []
    bystanders: list[str] = []
    for repo, then in before.items():
        now = snapshot(forge, repo)
        fresh = forge.pulls(repo, after=then["newest"])
        theirs = [item for item in fresh if not _is_loops(item, identity, prefixes)]
        pulls += [item for item in fresh if item not in theirs]
        bystanders += [f"{repo}: new pull request #{item['number']} by {item['user']['login']}" for item in theirs]
        for item in forge.issues(repo, state="all", after=then["newest"]):
            author = item["user"]["login"]
            (changes if author == identity else bystanders).append(f"{repo}: new issue #{item['number']} by {author}")
        seen = {number: state for number, state in now["open"].items() if number <= then["newest"]}
        changes += [
            f"{repo}: #{number} changed: {_difference(then['open'], seen, number)}"
            for number in _differing(then["open"], seen)
        ]
        expected = {item["head"]["ref"]: item["head"]["sha"] for item in fresh}
        changes += [
            f"{repo}: branch {name} changed: {_difference(then['branches'], now['branches'], name)}"
            for name in _differing(then["branches"], now["branches"])
            if expected.get(name) != now["branches"].get(name)
        ]
    return {"pulls": sorted(pulls, key=lambda item: int(item["number"])), "changes": changes, "bystanders": bystanders}


def _is_loops(pull: Json, identity: str, prefixes: Sequence[str]) -> bool:
    return pull["user"]["login"] == identity or _has_prefix(pull["head"]["ref"], prefixes)


def _has_prefix(branch: str, prefixes: Sequence[str]) -> bool:
    return any(branch.startswith(f"{prefix.rstrip('/')}/") for prefix in prefixes)


def _differing(then: Mapping[Any, Any], now: Mapping[Any, Any]) -> list[Any]:
    return sorted(key for key in then.keys() | now.keys() if then.get(key) != now.get(key))


def _difference(then: Mapping[Any, Any], now: Mapping[Any, Any], key: Any) -> str:
    return f"{then.get(key, 'nothing')} -> {now.get(key, 'nothing')}"


def _state(item: Json) -> str:
    draft = " draft" if item.get("draft") else ""
    return f"{item['state']}{draft} '{item['title']}' [{', '.join(sorted(_labels(item)))}]"


def _labels(item: Json) -> list[str]:
    return [str(label["name"]) for label in item.get("labels", [])]


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


# --- judging: each expectation on its own, from what was seen


def expect(name: str, passed: bool, expected: str, seen: object) -> Json:
    """One expectation and whether it was met."""
    # The forge and the engine have their say in both.
    return {
        "name": name,
        "passed": bool(passed),
        "expected": untrusted.show(expected, SEEN),
        "seen": untrusted.show(seen, SEEN),
    }


def judge_cycle(cycle: Json, outcome: str, engine_sha: str) -> list[Json]:
    """The cycle ended by itself, left its account, and says the outcome that we want."""
    account = cycle["account"]
    seen = account.get("outcome", "no record of the cycle")
    detail = account.get("detail") or f"systemd says {cycle['result'] or 'nothing'}"
    sha = (account.get("engine") or {}).get("sha", "no record of the cycle")
    ended = f"{'ended' if cycle['ended'] else 'still running'} after {cycle['seconds']} s"
    return [
        expect("cycle ended", cycle["ended"], "the cycle ends within the time-out", ended),
        expect("outcome", seen == outcome, outcome, f"{seen} ({detail})" if seen != outcome else seen),
        expect("engine", sha == engine_sha, f"the installed engine {engine_sha} ran", sha),
    ]


def judge_pulls(config: Settings, target: _Target, pulls: Sequence[Json], identity: str, report: Json) -> list[Json]:
    """Exactly one new pull request, and of the kind that a person can still refuse."""
    listed = ", ".join(pull["html_url"] for pull in pulls) or "none"
    one = expect("one pull request", len(pulls) == 1, f"exactly one new pull request, for {target}", listed)
    pull = _ours(pulls, target)
    if pull is None:
        return [one]
    head, kind = pull["head"], f"{pull['state']} {'draft' if pull['draft'] else 'and ready for review'}"
    home = (head.get("repo") or {}).get("full_name", "a repository that is gone")
    mine = head["ref"] == target.branch or _has_prefix(head["ref"], config.branch_prefixes)
    seen_report = f"issue {report.get('issue')}, pull request {report.get('pr_url')}"
    reported = report.get("issue") or {}
    told = (reported.get("repo"), reported.get("number")) == (target.repo, target.issue)
    told = told and str(report.get("pr_url", "")).endswith(f"/{target.repo}/pull/{pull['number']}")
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
        expect("report", told, f"the cycle took {target} and opened {pull['html_url']}", seen_report),
    ]


def judge_agent(config: Settings, account: Json) -> Json:
    """The agent did the work, and not the engine's own mock: root saw it start, and the run's state says so."""
    known = [name for name in account.get("programs") or [] if name in config.agent_programs]
    backend = str(account.get("backend") or "")
    seen = f"{', '.join(known) or 'no agent'} was started, the backend was {backend or 'not named'}"
    wanted = f"{' or '.join(config.agent_programs)} was started in its sandbox, and did the run's work"
    return expect("agent", bool(known) and backend not in ("", records.MOCK), wanted, seen)


def judge_work(config: Settings, target: _Target, work: Json) -> list[Json]:
    """The changed paths are among the allowed ones and the policy passes on what was pushed."""
    prefixes = _prefixes(config, target)
    outside = [name for name in work["files"] if not paths.is_below(name, prefixes)]
    seen = ", ".join(outside or work["files"]) or "no changed file"
    violations = work["violations"] if work["files"] else ["nothing to judge"]
    return [
        expect("paths", bool(work["files"]) and not outside, f"changes only below {', '.join(prefixes)}", seen),
        expect("policy", not violations, "the policy passes on the diff", "; ".join(violations) or "no violation"),
    ]


def judge_handoff(config: Settings, target: _Target, account: Json) -> Json:
    """The handoff file was written by this run, in a directory that the policy admits."""
    expected = f"{target.handoff} in the cycle's cell, schema_version {HANDOFF_VERSION}, in an admitted directory"
    cell = str(account.get("cell", ""))
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


def judge_rest(changes: Json, target: _Target | None) -> Json:
    """Nothing else happened on the forge."""
    other = list(changes["changes"])
    if target is None:
        other += [f"new pull request {pull['html_url']}" for pull in changes["pulls"]]
    return expect("nothing else", not other, "nothing else changed on the forge", "; ".join(other) or "nothing else")


def judge_host(config: Settings, before: Json) -> Json:
    """What ran is still what is installed, else the proof would be of something else."""
    expected = "engine, policy and unit stay as they were during the cycle"
    try:
        now = receipts.installed(config)
    except LoopError as error:
        return expect("host unchanged", False, expected, error)
    changed = _differing(before, now)
    return expect("host unchanged", not changed, expected, ", ".join(changed) or "unchanged")


def _ours(pulls: Sequence[Json], target: _Target) -> Json | None:
    """The pull request to look at closely: the one on the expected branch, else the first there."""
    there = [pull for pull in pulls if pull["base"]["repo"]["full_name"] == target.repo]
    return next((pull for pull in there if pull["head"]["ref"] == target.branch), there[0] if there else None)


def _prefixes(config: Settings, target: _Target) -> list[str]:
    return list(config.allowed_paths.get(target.checkout) or ["docs"])


def inspect(config: Settings, forge: Forge, target: _Target, pull: Json, token: str) -> Json:
    """The changed paths as the forge lists them, old names included, and what the policy has against the commits.

    The commits are fetched and judged by the code of the gateway: a list of files or a
    diff from the forge would hide file modes, and what one commit adds and the next takes away.
    """
    listed = forge.pull_files(target.repo, pull["number"])
    files = sorted({item[key] for item in listed for key in ("filename", "previous_filename") if item.get(key)})
    base, head = pull["base"]["sha"], pull["head"]["sha"]
    between = forge.compare(target.repo, base, head)
    fork_point, depth = between["merge_base_commit"]["sha"], between["ahead_by"] + 1
    policy = schema.load_file(config.policy_file)
    with tempfile.TemporaryDirectory(prefix="loop-canary-") as directory:
        git(directory, ["init", "--quiet", "--bare", "."])
        url = f"{config.git_url.rstrip('/')}/{target.repo}.git"
        environment, access = credentials(url, token)
        fetch = ["fetch", "--quiet", "--no-tags", f"--depth={depth}", "--", url, head]
        git(directory, fetch, environment=environment, config=access, timeout=300)
        changes = commits.work_between(directory, fork_point, head).changes
        violations = rules.judge_changes(policy, target.checkout, changes, _prefixes(config, target))
    return {"files": files, "violations": [str(violation) for violation in violations]}


# --- after


class Remnant(NamedTuple):
    """What a canary leaves on the forge, as a person is told to tidy it, and how we do."""

    todo: str
    done: str
    call: Callable[..., None]
    arguments: tuple[str | int, ...]


def remains(target: _Target, pulls: Sequence[Json], prefixes: Sequence[str], *, approved: bool = True) -> list[Remnant]:
    """These pull requests of the loop's, their branches, and the label."""
    found: list[Remnant] = []
    for pull in pulls:
        repo, number, branch = pull["base"]["repo"]["full_name"], pull["number"], pull["head"]["ref"]
        if _has_prefix(branch, prefixes):
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


def _argument(arguments: Sequence[str], flag: str, default: float) -> float:
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


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
