# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""After a cycle, as root, when all of its processes are gone: judge how it ended, take memory back, close its cell.

What the cycle reported is a claim. What the gateway wrote down (what was taken, pushed and opened) and what root saw
(whether an agent was started, how systemd ended it, who stopped it) stand above it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, TypeAlias

from ..base import untrusted
from ..base.clock import age_of, moment_of
from ..base.errors import LoopError
from ..base.journal import say
from ..base.redact import Redactor
from ..base.sizes import limits_of
from ..base.untrusted import show
from ..cell import archive, budget, cells, collected, egress, kept_time, memory, pristine, records, redaction
from ..cell.cells import Cell, Manifest
from ..gateway import audit, kept_pushes, sessions
from ..gateway.audit import Story
from ..host import settings
from ..host.settings import Settings
from . import attempted, handover

Json: TypeAlias = dict[str, Any]

# Outcomes that mean that the engine had work in hand, whatever else it says.
WORKED = ("published", "needs_triage")
MAX_STATE = 4 * 1024 * 1024
# Of what the gateway wrote down, so much is in the cycle's record: asking without end must not push out the rest.
TOLD, WORDS = 40, 600
# How long a push that had begun may take to reach the forge.
PUSH_SECONDS = 120.0


def main(config_path: str = settings.DEFAULT_PATH) -> int:
    """Settle the cycle of this invocation. Not 0 where systemd was told a better end than the cycle had."""
    invocation = os.environ.get("INVOCATION_ID", "")
    try:
        config = settings.load(config_path)
        close_gateway(config)
        with cells.alone(config):
            ours = records.of_invocation(config.cycles_dir, invocation) if invocation else []
            running = [one for one in ours if one.get("outcome") == records.RUNNING]
            fresh = [one for one in ours if not archive.has_log(config, one["cycle"])]
            redact = handover.redactor(config)
            ended = [_settle(config, record, redact) for record in running]
            for record in fresh:
                archive.keep_files(config, record, redact)
            retention(config)
        attempted.tell(config)
        for record in fresh:
            archive.keep_log(config, record, redact)  # with what was said here
        handover.forget(config)
    except LoopError as error:
        say(f"the cycle was not settled: {error}\n")
        return 1
    told = os.environ.get("EXIT_STATUS", "")
    status = max((records.EXIT_STATUS.get(record["outcome"], 1) for record in ended), default=0)
    return int(status not in (0, records.NOTHING_DONE) and told in ("0", str(records.NOTHING_DONE)))


def close_gateway(config: Settings) -> None:
    """Nobody asks any more; what is on its way to the forge gets there, or not, before anybody judges."""
    sessions.close_session(config, f"{config.unit}.service")
    if not sessions.quiet(config, PUSH_SECONDS):
        say("a push is still on its way to the forge: what comes of it is told by the next cycle\n")


def _settle(config: Settings, record: Json, redact: Redactor) -> Json:
    cell = Cell(f"{config.runs_dir}/{record['cycle']}")
    try:
        manifest = cells.manifest_of(cell)
    except LoopError as error:  # it was not made, or somebody took it away
        record = records.ended(record, "error", f"the cycle ended without a cell: {error}")
        records.write(config.cycles_dir, record)
        return record
    claim = claimed(cells.report_of(cell))
    story = audit.story(audit.read(config, cell.id))
    outcome, detail = judge(manifest, claim, os.environ)
    outcome, detail = against_record(outcome, detail, claim, story)
    outcome, detail = by_what_is_there(outcome, detail, cell)
    backend = backend_of(cell, story)
    outcome, detail = by_an_agent(config, outcome, detail, manifest, backend)
    told = {key: claim[key] for key in ("report", "exit_status", "checkouts") if key in claim}
    record.update(redact.everywhere(told))  # many may read a record
    record = {**records.ended(record, outcome, redact(detail)), **told_by(story)}
    record["issue"] = redact.everywhere(record["issue"])
    record.update(agents=manifest.agents, programs=list(manifest.programs), backend=backend)
    record["seconds"] = _seconds_since(record["started"])
    record["network"] = {"refused": egress.refused(config, record["started"]), "open": show(claim.get("network", ""))}
    # An engine whose agent is none of our programs:
    if not manifest.agents and (outcome in WORKED or story.pushes):
        budget.take(config, manifest.invocation, manifest.trigger)
    record["budget"] = budget.figures(config)
    record["attempt"] = attempt_of(
        config, record, story, claim, stopped=not manifest.ended_by and attempted.stopped(config)
    )
    redaction.clear(config, cell, redact)  # before anything of it goes anywhere
    if claim.get("engine_ended"):
        record["memory"] = _memory_back(config, cell)
    record["collected"] = collected.take_back(config, cell, redact, ended=bool(claim.get("engine_ended")))
    _mark_damaged(config, claim)
    if outcome in cells.NOTHING_IN_IT:
        _remove(cell)
        record.pop("cell", None)
    else:
        manifest = cells.close(cell, outcome=outcome, detail=records.bounded(record["detail"]), issue=record["issue"])
        record["kept"] = manifest.is_kept
    record["numbers"] = numbers(config, record, claim, manifest)
    records.write(config.cycles_dir, record)
    for url in record["finished"]:
        say(f"opened {url}, which an earlier cycle could not: it was cut off after its push\n")
    say(f"{records.sentence(config, record)}\n")
    return record


def attempt_of(config: Settings, record: Json, story: Story, claim: Mapping[str, Any], *, stopped: bool) -> Json:
    """What the cycle is in the count of its issue's attempts. A failure is told and changes no outcome."""
    cost = _number(claim.get("report", {}).get("cost_usd"))
    tried = {"cycle": record["cycle"], "outcome": record["outcome"], "cost_usd": cost}
    try:
        return attempted.account(config, story, tried, stopped=stopped)
    except LoopError as error:
        say(f"the attempt was not counted: {error}\n")
        return {"error": str(error)}


def claimed(report: Mapping[str, Any]) -> Json:
    """Of what the cycle reported, what has the kind that it should have."""
    kinds: dict[str, type] = {
        "report": dict, "checkouts": list, "numbers": dict, "exit_status": int, "engine_ended": bool,
        "network": str,
    }  # fmt: skip
    found = {key: report[key] for key, kind in kinds.items() if isinstance(report.get(key), kind)}
    found["checkouts"] = [one for one in found.get("checkouts", []) if isinstance(one, dict)]
    return {**found, "outcome": report.get("outcome"), "detail": report.get("detail", "")}


def judge(manifest: Manifest, claim: Mapping[str, Any], systemd: Mapping[str, str]) -> tuple[str, str]:
    """The outcome and its detail, from what root saw and, where that leaves it open, from what the cycle reported."""
    if manifest.ended_by:
        return "interrupted", f"the cycle was ended: {manifest.ended_by}"
    if systemd.get("SERVICE_RESULT") == "timeout":
        return "interrupted", "it took longer than engineering_loop_service_timeout"
    outcome, detail = claim.get("outcome"), str(claim.get("detail", ""))
    if not isinstance(outcome, str):
        code, status = systemd.get("EXIT_CODE", ""), systemd.get("EXIT_STATUS", "")
        if code in ("killed", "dumped"):
            return "interrupted", f"the cycle was killed ({status})"
        if status == str(records.REFUSED) and not manifest.agents:
            return "refused", "the cycle refused to start its engine, see the journal"
        return "error", f"the cycle ended ({code or 'unknown'} {status}) without a report"
    if outcome not in records.EXIT_STATUS or outcome == "paused":  # which is ours to say, before it begins
        return "error", f"the engine says {show(outcome)}, which nobody knows: {detail}"
    if manifest.agents and outcome in cells.NOTHING_IN_IT:
        return "error", f"the cycle says {outcome}, but an agent was started: {detail}"
    return outcome, detail


def against_record(outcome: str, detail: str, claim: Mapping[str, Any], story: Story) -> tuple[str, str]:
    """The outcome where what the engine says and what the gateway wrote down are held together."""
    report = claim.get("report", {})
    url = str(story.own_pull.get("url", ""))
    issue = report.get("issue")
    issue = issue if isinstance(issue, dict) else {}
    refused = [str(one.get("reason", "")) for one in story.pushes if not one.get("allowed")]
    if outcome == "published" and not url:
        return "error", f"the engine says published, but no pull request was opened{_because(refused)}"
    if outcome == "published" and story.taken and issue and (issue.get("repo"), issue.get("number")) != story.taken:
        told = show(f"{issue.get('repo')}#{issue.get('number')}")
        return "error", f"the engine reports {told}, but it took {story.issue}; its pull request is {url}"
    if outcome == "published" and report.get("pr_url") not in (None, "", url):
        return "error", f"the engine reports {show(str(report['pr_url']))}, but it opened {url}"
    if outcome in ("idle", "over_budget", "locked", "needs_triage", "refused", "refused_ci"):
        if url:
            return "error", f"the engine says {outcome}, but it opened {url}: {detail}"
        if story.pushes and outcome != "needs_triage":
            return "error", f"the engine says {outcome}, but it pushed: {detail}{_because(refused)}"
        if story.taken and outcome != "needs_triage":
            return "error", f"the engine says {outcome}, but it took {story.issue}: {detail}"
    if outcome != "published":
        detail = refused[-1] if refused else detail  # what an engine makes of it says less
        detail = f"{detail}; its pull request {url} is open" if url else detail
    return outcome, detail


def by_what_is_there(outcome: str, detail: str, cell: Cell) -> tuple[str, str]:
    """An error in the place of an outcome that says that nothing was begun, where a run has a worktree."""
    begun = cells.worktrees_in(cell) if outcome in cells.NOTHING_IN_IT else []
    if not begun:
        return outcome, detail
    return "error", f"the cycle says {outcome}, but its run {show(begun[0])} has a worktree: {detail}"


def backend_of(cell: Cell, story: Story) -> str:
    """Which backend did the work, by the run's own state file; empty where that does not say."""
    if not story.taken:
        return ""
    change = settings.change_id(*story.taken)
    try:
        content = untrusted.read(f"{cell.part('runs')}/{change.lower()}/state/{change}.json", cell.path, MAX_STATE)
        name = untrusted.parse(content or b"{}", "the state").get("backend_name")
    except LoopError:
        return ""
    return show(name, 50) if isinstance(name, str) else ""


def by_an_agent(config: Settings, outcome: str, detail: str, manifest: Manifest, backend: str) -> tuple[str, str]:
    """An error in the place of an outcome that no agent worked for: an engine that finds none makes a stub itself."""
    stub = backend == records.MOCK or (outcome == "published" and not manifest.agents)
    if outcome not in WORKED or not stub:
        return outcome, detail
    started = "was started, but did not do it" if manifest.agents else "was not started"
    return "error", (
        f"no agent did the work: {' or '.join(config.agent_programs)} (engineering_loop_agent_programs) {started},"
        f" and the engine's backend was {backend or 'not named'}: see which model policy it used. What it made is none:"
        f" {detail or outcome}"
    )


def _because(refused: list[str]) -> str:
    return f": {refused[-1]}" if refused else ""


def told_by(story: Story) -> Json:
    """What the gateway's record says, for the cycle's own."""
    keys = ("at", "repo", "branch", "new", "old", "allowed", "reason", "kept", "seconds", "judged")
    # What is on the forge, in any case; of what was refused, the last.
    standing = [id(one) for one in story.forwarded.values()]
    pushes = [one for one in story.pushes[:-TOLD] if id(one) in standing] + story.pushes[-TOLD:]
    told: Json = {
        "issue": None, "pr_url": str(story.own_pull.get("url", "")),
        "pushes": [{key: one[key] for key in keys if key in one} for one in pushes],
        "pushed": len(story.pushes), "pushes_refused": sum(not one.get("allowed") for one in story.pushes),
        "finished": [str(one.get("url")) for one in story.opened if one.get("finished")][:TOLD],
        "held": story.held[:TOLD], "refusals": story.refusals[-TOLD:], "asked": story.entries,
    }  # fmt: skip
    for one in told["pushes"]:
        one["reason"] = str(one.get("reason", ""))[:WORDS]
    if story.taken:
        repo, number = story.taken
        told["issue"] = {"repo": repo, "number": number, "title": story.titles.get(story.issue, "")}
    return told


def _memory_back(config: Settings, cell: Cell) -> Json:
    """A failure is told and changes no outcome: the memory of before stays."""
    try:
        return memory.take_back(config, cell.part("memory"))
    except (LoopError, OSError) as error:
        say(f"memory stays as it was: {error}\n")
        return {"changed": False, "error": str(error)}


def _mark_damaged(config: Settings, claim: Mapping[str, Any]) -> None:
    """Clones that no checkout could be made from are made anew before the next cycle."""
    for one in claim["checkouts"]:
        if one.get("status") == "failed":
            try:
                pristine.mark_damaged(config, str(one.get("dest")))
            except LoopError as error:
                say(f"the clone {show(str(one.get('dest')))} stays as it is: {error}\n")


def _remove(cell: Cell) -> None:
    try:
        cells.remove(cell)
    except LoopError as error:  # it is out of its place, and goes as soon as it can
        say(f"{error}\n")


def retention(config: Settings) -> None:
    """Remove what was kept long enough."""
    limits = limits_of(config.quarantine_keep)
    counted = kept_time.note(config).age_of
    gone = cells.retire(config.runs_dir, limits["age"], limits["size"], limits["min_age"] or 0, age_of=counted)
    for one in gone:
        words = f"cannot be removed: {one['stuck']}" if one["stuck"] else f"kept long enough ({one['why']}), let go"
        say(f"cell {one['id']} {words}\n")
    # Cells borrow from the clones of their time, and so does what the gateway keeps.
    borrowers = [cell.id for cell, manifest in cells.listing(config.runs_dir) if manifest.kind != "adopted"]
    borrowers += [one["id"] for one in kept_pushes.listing(config)]
    oldest = max(map(age_of, borrowers), default=0.0)
    kept = limits_of(config.cycles_keep)
    gone_records = records.retire(config.cycles_dir, kept["age"], kept["size"], age_of=counted)
    if gone_records:
        say(f"{len(gone_records)} files of earlier cycles in {config.cycles_dir} kept long enough, let go\n")
    for name in pristine.let_go(config, oldest, limits["min_age"] or 0):
        say(f"{name} in {config.pristine_dir}, which was damaged, let go: nothing borrows from it any more\n")


def numbers(config: Settings, record: Json, claim: Mapping[str, Any], manifest: Manifest) -> dict[str, float]:
    """What can be counted of a cycle, flat, for whoever draws curves."""
    report, given = claim.get("report", {}), claim.get("numbers", {})
    disk = os.statvfs(config.cycles_dir)
    names = ("seconds_before_engine", "cpu_seconds", "memory_max_bytes")
    counted = {name: _number(given.get(name)) for name in names}
    return {
        **counted,
        "seconds": record["seconds"],
        "cost_usd": _number(report.get("cost_usd")),
        "agents": record["agents"],
        "cell_bytes": manifest.size,
        "clones_failed": sum(one["status"] == "failed" for one in record.get("clones", [])),
        "pushes": record["pushed"],
        "pushes_refused": record["pushes_refused"],
        **record["budget"],
        "free_bytes": disk.f_bavail * disk.f_frsize,
    }


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and 0 <= value < 1e15 else 0.0


def _seconds_since(text: str) -> float:
    return round(max(0.0, time.time() - moment_of(text).timestamp()), 1)
