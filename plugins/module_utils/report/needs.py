# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host needs of a person: for each thing that is wrong one sentence, and the command or step that mends it.

What follows from something else is not told beside it: who mends the cause has mended it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from ..base.clock import moment_of
from ..base.errors import playbook
from ..base.sizes import readable, spoken
from ..cell import cells, records
from ..forge.api_errors import CREDENTIALS, FORGE, kind_of
from ..proof import timer_hold
from .signs import Signs, few

Status: TypeAlias = Mapping[str, Any]

# The most urgent first.
ORDER = (
    "broken", "absent", "wedged", "disk_full", "secrets", "credentials", "forge", "policy", "drifted", "engine",
    "under_way", "unproven", "timer_off", "paused", "over_budget", "held", "triage", "job", "lessons",
    "proof_expires", "secrets_expire", "leftovers", "not_applied",
)  # fmt: skip
# What comes of something else, and of what: a cause stands for it.
FOLLOWS = {
    "unproven": {"broken", "policy", "drifted", "under_way"},
    "not_applied": {"under_way"},
    "timer_off": {"unproven", "under_way", "paused", "policy", "drifted"},
}
HOST = "on HOST: "  # before what is typed there; whoever shows it knows the host's name
# A proof that ends sooner than this, or than a quarter of its time, is said before.
SOON_SECONDS = 2 * 86400.0
TOKEN_SOON_SECONDS = 7 * 86400.0  # whoever makes a new one may have to ask somebody
HELD_SHOWN = 5


class Need(NamedTuple):
    """One thing that a person must do."""

    code: str
    what: str
    do: str


def of(status: Status, signs: Signs) -> list[Need]:
    """All of them, the most urgent first."""
    found = [
        *_unreadable(signs), *_wedged(status, signs), *_disk(status, signs), *_secrets(status, signs),
        *_files(status, signs), *_last_cycle(status, signs), *_proof(status, signs), *_timer(status, signs),
        *_paused(status), *_budget(status, signs), *_held(status, signs), *_triage(status, signs),
        *_jobs(status), *_lessons(signs), *_leftovers(status, signs), *_pin(status, signs),
    ]  # fmt: skip
    codes = {need.code for need in found}
    told = [need for need in found if not codes & FOLLOWS.get(need.code, set())]
    return sorted(told, key=lambda need: ORDER.index(need.code))


def _at(stamp: str) -> str:
    """A moment as a person reads it."""
    return f"{stamp[:16].replace('T', ' ')} UTC" if stamp else "an unknown time"


def _start(status: Status) -> str:
    return f"{HOST}systemctl start {status['unit']}.service"


def _unreadable(signs: Signs) -> Iterator[Need]:
    for problem in signs.problems:
        yield Need("broken", problem, f"do what it says, then {playbook('apply')}")


def _wedged(status: Status, signs: Signs) -> Iterator[Need]:
    service, apply = signs.units.get(".service"), playbook("apply")
    if service and service.stuck:
        yield Need(
            "wedged",
            f"A cycle hangs: it has run for {spoken(service.seconds)} and systemd should have ended it after"
            f" {spoken(service.limit)}. Its work is kept.",
            f"{HOST}systemctl kill --signal=SIGKILL {service.name} && systemctl reset-failed {service.name}",
        )
    for lock in signs.locks:
        words = " ".join(lock.command.split("\0"))[:60]
        yield Need(
            "wedged",
            f"Cycles wait for {lock.path}, which process {lock.pid} ({words}) holds, running for"
            f" {spoken(lock.seconds)}. When it ends, they go on by themselves.",
            f"{HOST}kill {lock.pid}",
        )
    for ending, unit in signs.units.items():
        if unit.load == "masked":
            yield Need("wedged", f"{unit.name} is masked, so no cycle can run.", f"{HOST}systemctl unmask {unit.name}")
        elif unit.load in ("bad-setting", "error") or (unit.load == "not-found" and ending != ".timer"):
            state = "is missing" if unit.load == "not-found" else "cannot be read by systemd"
            yield Need("wedged", f"{unit.name} {state}, so no cycle can run.", apply)
        elif unit.active == "failed" and ending not in (".service", ".timer"):
            yield Need(
                "wedged",
                f"{unit.name} has failed, and a cycle needs it.",
                f"{HOST}systemctl reset-failed {unit.name} && systemctl start {status['unit']}.service",
            )


def _disk(status: Status, signs: Signs) -> Iterator[Need]:
    disk = status["disk"]
    if not signs.no_room:
        return
    kept = status["quarantine"]
    much = kept["bytes"] > disk["min_free_bytes"]
    yield Need(
        "disk_full",
        f"{signs.no_room}, so no cycle starts."
        + (f" What is kept of earlier cycles takes {readable(kept['bytes'])}." if kept["bytes"] else ""),
        f"set engineering_loop_quarantine_max_size lower in host_vars, then {playbook('apply')}"
        if much
        else _make_room(status, signs),
    )


def _make_room(status: Status, signs: Signs) -> str:
    """Where to look: on the disk that is too full, or that could never have room enough."""
    disk = status["disk"]
    if disk["total_bytes"] <= disk["min_free_bytes"]:
        whole = readable(disk["total_bytes"])
        return (
            f"{HOST}findmnt -T {signs.config.runs_dir}; that disk is too small for any cycle ({whole} in all): unmount"
            " or enlarge it, or set engineering_loop_min_free lower"
        )
    return f"{HOST}du -xah --max-depth=3 {disk['mount']} | sort -h | tail; remove what is not needed"


def _secrets(status: Status, signs: Signs) -> Iterator[Need]:
    problem = status["secrets"]["problem"]
    if problem:
        code = CREDENTIALS if "no forge token" in problem else "secrets"
        yield Need(code, f"Every cycle is refused for its secrets: {problem}.", f"mend that, then {_start(status)}")
    elif ends := status["secrets"]["expires_at"]:
        left = (moment_of(ends) - moment_of(status["looked_at"])).total_seconds()
        if left < TOKEN_SOON_SECONDS:
            yield Need(
                "secrets_expire",
                f"The forge token ends at {_at(ends)}, in {spoken(max(0, left))}: then no cycle gets to the forge.",
                f"make a new one at the forge and put it {_where(signs)}",
            )


def _where(signs: Signs) -> str:
    """Where a secret is put, so that it stays there."""
    if signs.env_by_role:
        return f"into engineering_loop_environment of the inventory; then {playbook('apply')}"
    return f"into {signs.config.env_file}, as whatever renders that file does"


def _access(signs: Signs) -> str:
    """What lets the loop in at the forge here."""
    return "App key" if signs.config.github_app.get("id") else "token (GH_TOKEN)"


def _files(status: Status, signs: Signs) -> Iterator[Need]:
    apply = playbook("apply")
    if signs.damaged:
        yield Need(
            "engine",
            f"The engine's release {status['engine']['active'][:12]} is damaged: {few(signs.damaged)}.",
            f"{apply}; it builds the release anew; then {_start(status)}",
        )
    if not status["policy"]["matches"]:
        path = signs.config.policy_file
        yield Need(
            "policy", f"{signs.policy_problem or f'The gate policy {path} was edited on the host'}; each cycle is"
            " refused until it is the deployed one.", apply,
        )  # fmt: skip
    others = [line for line in status["engine"]["drift"] if not line.startswith(f"{signs.config.policy_file} ")]
    added = [line for line in others if line.endswith(" was added")]
    if others and len(added) == len(others):
        files = " ".join(line.removesuffix(" was added") for line in added)
        yield Need(
            "drifted",
            f"Somebody added on the host what was not proven: {few(files.split())}. The timer starts nothing unproven.",
            f"{HOST}rm {files} && systemctl daemon-reload; or, to keep it: {playbook('canary')}",
        )
    elif others:
        yield Need(
            "drifted", f"Somebody changed on the host what was deployed: {few(others)}. The timer starts nothing"
            " unproven.", f"{apply}; it overwrites the change with what was deployed",
        )  # fmt: skip


def _last_cycle(status: Status, signs: Signs) -> Iterator[Need]:
    """What the last cycle that did anything failed for, as long as no other need says why."""
    last = status["last_cycle"]
    if last is None or records.EXIT_STATUS.get(last["outcome"], 1) in (0, records.NOTHING_DONE):
        return
    kind = kind_of(signs.forge_words)
    at = _at(last["started"])
    why, again = last["detail"] or "it does not say why", _start(status)
    if kind == CREDENTIALS and not status["secrets"]["problem"]:
        yield Need(
            CREDENTIALS,
            f"The forge does not let the loop in, as the cycle of {at} found: {signs.forge_words}",
            f"put a valid {_access(signs)} {_where(signs)}; then {again}",
        )
    elif kind == FORGE:
        yield Need(
            FORGE,
            f"The forge could not be reached in the cycle of {at}: {signs.forge_words}",
            f"nothing, if it is to come back: the timer tries again; to see at once whether it has: {again}",
        )
    elif last["outcome"] in ("refused", "refused_ci") and not _explained(status, signs):
        yield Need(
            "engine", f"The cycle of {at} was refused: {why}", f"mend what it says, if nobody has since; then {again}"
        )
    elif last["outcome"] == "error":
        yield _errors(status, at, why)
    elif last["outcome"] == "interrupted" and signs.ended_for:
        yield Need(
            "engine",
            f"The cycle of {at} was ended: {why}",
            f"see where it was: {HOST}{cells.enter_command(signs.config, last['cycle'])}",
        )


def _errors(status: Status, at: str, why: str) -> Need:
    """The engine's own failure: once it is to be looked at, again and again it is to be gone back from."""
    in_row = 0
    for one in reversed(status["history"]):
        if one["outcome"] == "error":
            in_row += 1
        elif one["outcome"] in ("published", "needs_triage"):
            break
    last, back = status["last_cycle"], status["engine"]["back"]
    look = f"{playbook('restore')} -e what={last['cycle']}"
    if in_row > 1:
        step = playbook("rollback") if back else f"look at it with {look}"
        return Need("engine", f"The last {in_row} cycles that worked ended in an error, the last at {at}: {why}", step)
    return Need("engine", f"The cycle of {at} ended in an error: {why}", f"look at it with {look}")


def _explained(status: Status, signs: Signs) -> bool:
    """Whether another need says why cycles are refused."""
    return bool(
        signs.no_room
        or status["secrets"]["problem"]
        or not status["policy"]["matches"]
        or not status["proof"]["matches"]
        or status["engine"]["drift"]
        or signs.damaged
        or status["pause"]
    )


def _proof(status: Status, signs: Signs) -> Iterator[Need]:
    proof, began = status["proof"], signs.under_way
    if began:
        yield Need(
            "under_way",
            f"What the apply of {_at(began)} brought is not proven: it was without the canary, or did not end. The"
            " timer is held.",
            f"{playbook('canary')}; or go back: {playbook('rollback')}",
        )
    if not proof["matches"] and signs.config.canary_required:
        reason = proof["reason"].partition("; prove it with")[0]
        if reason == timer_hold.NOTHING_YET and status["history"]:
            reason = "cycles have run here, and no proof is on this host any more"
        yield Need("unproven", f"No timer may start what is installed: {reason}.", playbook("canary"))
    if proof["matches"] and proof["expires_at"] and signs.config.canary_required:
        left = (moment_of(proof["expires_at"]) - moment_of(status["looked_at"])).total_seconds()
        whole = left + (proof["age_seconds"] or 0)
        if left < min(SOON_SECONDS, whole / 4):
            yield Need(
                "proof_expires",
                f"The proof ends at {_at(proof['expires_at'])}, in {spoken(max(0, left))}: then no cycle starts.",
                playbook("canary"),
            )


def _timer(status: Status, signs: Signs) -> Iterator[Need]:
    timer, unit = status["timer"], f"{status['unit']}.timer"
    if timer["active"] and not timer["next"] and not status["running"]:
        yield Need("timer_off", f"{unit} is on and will never fire.", f"{HOST}systemctl restart {unit}")
    elif not timer["active"] and signs.timer_wanted:
        if signs.timer_enabled:
            yield Need("timer_off", "Somebody stopped the timer: no cycle starts.", f"{HOST}systemctl start {unit}")
        else:
            yield Need("timer_off", "The timer is off, though it is wanted: no cycle starts.", playbook("apply"))


def _pin(status: Status, signs: Signs) -> Iterator[Need]:
    """Where the inventory has moved on, or stands still: the next apply brings what it pins."""
    pin, active = status["engine"]["pin"], status["engine"]["active"]
    if signs.inventory_pins and pin != active and active:
        told = f"The inventory pins {pin[:12]}, and {active[:12]} runs"
        if signs.gone_back:
            yield Need(
                "not_applied",
                f"{told}: the pinned one {signs.gone_back}. The next apply would bring it again.",
                f"pin another: {playbook('bump')} -e to={active}",
            )
        else:
            yield Need("not_applied", f"{told}: nobody has applied the pin yet.", playbook("apply"))


def _paused(status: Status) -> Iterator[Need]:
    pause = status["pause"]
    if pause:
        by = f" by {pause['by']}" if pause["by"] else ""
        yield Need(
            "paused",
            f"Paused since {_at(pause['since'])}{by}: {pause['why'] or 'no reason was given'}. No cycle starts.",
            f"leave it until that is settled; then {playbook('resume')}",
        )


def _budget(status: Status, signs: Signs) -> Iterator[Need]:
    """Only where it is for nothing: a day that is used up and has published is what the operator asked for."""
    today = status["today"]
    if today["runs"] >= today["max_runs"]:
        used, name = f"{today['runs']} of {today['max_runs']} runs", "engineering_loop_max_runs_per_day"
    elif today["cost_usd"] >= today["max_cost_usd"]:
        used = f"{today['cost_usd']:.2f} of {today['max_cost_usd']:.2f} USD"
        name = "engineering_loop_max_cost_usd_per_day"
    else:
        return
    if not signs.published_today:
        yield Need(
            "over_budget",
            f"Today's budget is used up ({used}) and nothing was published for it; the next cycle may work after"
            " midnight UTC.",
            f"nothing, it goes on by itself then; to see what it was spent on: {playbook('cycles')}; to go on sooner,"
            f" raise {name} in host_vars, then {playbook('apply')}",
        )


def _held(status: Status, signs: Signs) -> Iterator[Need]:
    held = status["held"]
    for one in held[:HELD_SHOWN]:
        issue = f"{one['repo']}#{one['number']}"
        url = f"{signs.config.git_url.rstrip('/')}/{one['repo']}/issues/{one['number']}"
        yield Need(
            "held",
            f"{issue} ({one['title'][:60]}) is not worked on any more: {one['why']}. It is {url}",
            f"change what it says there, or close it; to have it tried as it is:"
            f" {playbook('release_issue')} -e issue={issue}",
        )
    if len(held) > HELD_SHOWN:
        yield Need("held", f"{len(held) - HELD_SHOWN} more issues are held.", playbook("cycles"))


def _triage(status: Status, signs: Signs) -> Iterator[Need]:
    waiting = [one for one in status["quarantine"]["items"] if one["outcome"] == "needs_triage" and not one["seen"]]
    if waiting:
        newest = waiting[-1]
        look = cells.enter_command(signs.config, newest["id"])
        others = f" ({len(waiting)} such runs wait)" if len(waiting) > 1 else ""
        yield Need(
            "triage",
            f"A run stopped for a person to decide{others}, {newest['what']}: {newest['detail']}",
            f"look at it, which takes it off this list as well: {HOST}{look}",
        )


def _jobs(status: Status) -> Iterator[Need]:
    for job in status["jobs"]:
        if job["outcome"] in ("error", "refused", "interrupted"):
            yield Need(
                "job",
                f"The job {job['name']} ended as {job['outcome']} at {_at(job['started'])}: {job['detail']}.",
                f"see what it said: {HOST}journalctl -u {job['unit']}.service -n 50; to run it again:"
                f" {HOST}systemctl start {job['unit']}.service",
            )


def _lessons(signs: Signs) -> Iterator[Need]:
    if signs.not_learned:
        yield Need(
            "lessons",
            f"What the last cycle that worked has learned was not taken, or not all of it: {signs.not_learned}.",
            "do what it says, and remove from there what is of no use; what was not taken is in the cycle's cell, as"
            f" long as that is kept: {playbook('restore')}",
        )


def _leftovers(status: Status, signs: Signs) -> Iterator[Need]:
    if signs.strays:
        yield Need(
            "leftovers",
            f"In {signs.config.runs_dir} lies what is no cell: {few(signs.strays)}.",
            f"{HOST}ls -la {signs.config.runs_dir}; remove it, or move it away",
        )
