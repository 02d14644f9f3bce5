# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Before a cycle, as root: look, refresh the pristine clones, make the cell, and hand over what the cycle needs.

Whatever would make the cycle fail is found here, before an agent is paid. A refusal is a record and one line in the
journal as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import traceback
from dataclasses import replace
from typing import Any, TypeAlias

from ..base import wire
from ..base.clock import today, utc_now
from ..base.errors import APPLY, LoopError, playbook
from ..base.files import write_atomic
from ..base.journal import say
from ..base.sizes import number_of
from ..cell import archive, attempts, budget, cells, collected, kept_time, records, redaction
from ..cell.cells import Cell
from ..cell.egress import check_upstream, host_namespace, shut
from ..gateway import audit, sessions
from ..host import owner, settings
from ..host.settings import Settings
from ..host.users import account
from ..policy import rules, schema
from ..proof import pause, timer_hold
from ..proof.pause import Paused
from ..release import store
from ..release.build import require_program
from . import attempted, handover, watch
from .handover import Handover

Record: TypeAlias = dict[str, Any]

# Fewer free inodes than this and a checkout or an environment may not fit any more.
MIN_INODES = 10_000
# All clones together, and what the forge takes to let us in.
REFRESH_SECONDS = 1000.0


class OverBudget(LoopError):
    """The day's runs are used up."""


def trigger() -> str:
    """Who started the unit, as far as systemd knows."""
    return "timer" if os.environ.get("TRIGGER_UNIT", "").endswith(".timer") else "manual"


def main(config_path: str = settings.DEFAULT_PATH) -> int:
    """Prepare one cycle. What speaks against it is handed over as well: the cycle exits with what systemd must hear."""
    invocation = os.environ.get("INVOCATION_ID", "")
    if not invocation or not os.environ.get("RUNTIME_DIRECTORY"):
        say("a cycle is prepared by its unit: start it with systemctl\n")
        return records.REFUSED
    try:
        config = settings.load(config_path)
        with cells.alone(config):
            handed = _prepare(config, invocation)
        handover.give(config, handed)
    except LoopError as error:
        say(f"cycle refused: {error}\n")
        return records.REFUSED
    return 0


def _prepare(config: Settings, invocation: str) -> Handover:
    record: Record = {
        "cycle": cells.new_id(invocation),
        "invocation_id": invocation,
        "started": utc_now(),
        "engine": {"sha": os.path.basename(os.path.realpath(f"{config.install_dir}/current"))},
        "outcome": records.RUNNING,
        "trigger": trigger(),
    }
    _begin(config, record)
    try:
        handed = _fill(config, record)
    except OverBudget as error:
        handed = Handover(over_budget=str(error))
        record = records.ended(record, "over_budget", str(error))
    except Paused as error:
        handed = Handover(paused=str(error))
        record = records.ended(record, "paused", str(error))
    except LoopError as error:
        handed = Handover(refused=str(error))
        record = records.ended(record, "refused", str(error))
    except Exception as error:  # noqa: BLE001 - the record must tell of anything
        traceback.print_exc()
        handed = Handover(refused=f"the cycle could not be prepared ({type(error).__name__}), see the journal")
        record = records.ended(record, "refused", handed.refused)
    records.write(config.cycles_dir, record)
    if record["outcome"] != records.RUNNING:
        say(f"{records.sentence(config, record)}\n")
    return handed


def _begin(config: Settings, record: Record) -> None:
    """Write down that a cycle begins. Where not a byte is left for that, room is made first: nothing else would do it.

    What goes then would go before any cycle that lacks room. LoopError says what to type where that was not enough.
    """
    with contextlib.suppress(LoopError):
        records.write(config.cycles_dir, record)
        return
    check_ours(config)
    cells.clear_away(config.runs_dir)
    record["purged"] = make_room(config)
    try:
        records.write(config.cycles_dir, record)
    except LoopError as error:
        raise LoopError(f"{error}: make room there; df -h {config.cycles_dir} says how much is free") from error


def check_ours(config: Settings) -> None:
    """Refuse where this host's loop must change nothing. Paused where it was told to."""
    pause.check(config)
    cells.check_place(config)
    owner.check(config.state_dir)


def _fill(config: Settings, record: Record) -> Handover:
    """Look at everything, make the cell, and tell of it in ``record``; what is handed over."""
    check_ours(config)
    close_what_was_cut_off(config, record["cycle"])
    counts = attempts.for_gateway(config)
    budget.start(config)
    record["budget"] = budget.figures(config)
    used_up = budget.exhausted(config)
    if used_up:
        raise OverBudget(used_up)
    environment = handover.secrets(config)
    handover.remember(config, environment)
    check_host(config)
    check_upstream(config, environment)
    given = handover.for_cycle(config, environment)
    shut(config)
    check_proven(config, record["trigger"])
    record["purged"] = record.get("purged", []) + make_room(config)
    refreshed = refresh(config, record)
    record["clones"] = [one for one in refreshed if one["status"] != "current"]
    for one in refreshed:
        if one["status"] in ("failed", "replaced"):
            say(f"clone {one['dest']} {one['status']}: {one['detail']}\n")
    told = {
        "engine": record["engine"]["sha"], "trigger": record["trigger"], "invocation": record["invocation_id"],
        "agents": 0,
    }  # fmt: skip
    cell = cells.make(config, record["cycle"], told)
    write_ledger(config, cell)
    collected.give(config, cell)
    watch.point_at(config, cell)
    sessions.open_session(config, f"{config.unit}.service", cell.id, counts=counts)
    record["cell"] = cell.path
    probe = config.agent_probe and record["trigger"] != "timer"
    return replace(given, cell=cell.path, network=host_namespace(), probe=probe)


def refresh(config: Settings, record: Record) -> list[dict[str, Any]]:
    """Have the gateway bring all clones to what the forge has: it finds out whether the forge lets it in."""
    asked = {"what": "refresh", "cycle": record["cycle"]}
    answer = wire.ask(sessions.socket_of(config), asked, "the gateway to the forge", REFRESH_SECONDS)
    token = answer["token"]
    if token["note"]:
        say(f"{token['note']}\n")
    record["token"] = token
    found: list[dict[str, Any]] = answer["clones"]
    return found


def write_ledger(config: Settings, cell: Cell) -> None:
    """The day as root counts it, where the engine looks for its own count."""
    content = json.dumps(budget.ledger(config, records.read(config.cycles_dir))) + "\n"
    user = account(config.user)
    path = f"{cell.part('state')}/ledger-{today()}.json"
    write_atomic(path, content.encode(), mode=0o600, uid=user.pw_uid, gid=user.pw_gid)


def close_what_was_cut_off(config: Settings, ours: str) -> None:
    """Of a cycle before ours whose end nobody could write down: its cell is closed, its record ended."""
    redact = handover.redactor(config)
    for cell, manifest in cells.recover(config):
        redaction.clear(config, cell, redact)
        say(f"cell {cell.id} of a cycle that was cut off is kept: {manifest.detail}\n")
    for record in records.running(config.cycles_dir):
        if record["cycle"] != ours:
            ended = records.ended(record, "interrupted", "the cycle was killed before it could end")
            # Before the record says that it has ended: whoever is killed in between counts once all the same.
            story = audit.story(audit.read(config, str(record["cycle"])))
            tried = {"cycle": str(record["cycle"]), "outcome": "interrupted", "cost_usd": 0.0}
            ended["attempt"] = attempted.account(config, story, tried)
            records.write(config.cycles_dir, {**ended, "kept": os.path.isdir(str(record.get("cell", "")))})
            archive.keep_files(config, record, redact)
            archive.keep_log(config, record, redact)


# --- looking ------------------------------------------------------------------------------------


def check_host(config: Settings) -> None:
    """Refuse what would waste a run or run something unproven. LoopError with the reason."""
    if os.environ.get("GITHUB_ACTIONS"):
        raise LoopError("GITHUB_ACTIONS is set: the loop never runs on a CI runner")
    check_policy(config)
    cells.check_given(config.home_files, config.caches)
    release = os.path.realpath(f"{config.install_dir}/current")
    store.require_active(config.install_dir)
    owner = os.stat(release)
    if owner.st_uid != 0 or owner.st_mode & 0o022:
        raise LoopError(f"the engine {release} must belong to root, and nobody else may write it; {APPLY}")
    require_program(release, f".venv/bin/{config.program}")


def check_policy(config: Settings) -> None:
    """Refuse a policy that is not to the letter what root deployed, or does not admit where cycles write."""
    path = config.policy_file
    try:
        folder, file = os.lstat(os.path.dirname(path)), os.lstat(path)
    except FileNotFoundError:
        raise LoopError(f"the policy {path} is missing (the engine would allow everything); {APPLY}") from None
    except OSError as error:
        raise LoopError(f"the policy {path} cannot be looked at: {error.strerror}; {APPLY}") from error
    if not stat.S_ISREG(file.st_mode) or file.st_uid != 0 or file.st_mode & 0o022:
        raise LoopError(f"the policy {path} must be a regular file that only root can write; {APPLY}")
    if not stat.S_ISDIR(folder.st_mode) or folder.st_uid != 0 or folder.st_mode & 0o022:
        raise LoopError(f"the directory of the policy {path} must be one that only root can write; {APPLY}")
    if file.st_gid != account(config.user).pw_gid or not file.st_mode & 0o040:
        raise LoopError(f"the policy {path} cannot be read by {config.user}; {APPLY}")
    policy = schema.load_file(path)
    if schema.digest(policy) != config.policy_sha256:
        raise LoopError(f"the policy {path} is not the one that was deployed; {APPLY} and prove it again")
    if not rules.admits_handoff(policy, config.runs_dir):
        raise LoopError(f"the policy {path} does not admit handoffs under {config.runs_dir}; {APPLY}")
    for prefix in config.branch_prefixes:
        if found := rules.judge_branch(policy, prefix):
            raise LoopError(
                f"the policy {path} refuses every branch below {prefix}, which engineering_loop_branch_prefixes names:"
                f" it {found[0].reason}"
            )


def check_proven(config: Settings, started_by: str) -> None:
    """What the timer starts must have been proven as it stands; a person may start anything."""
    if started_by == "timer" and config.canary_required:
        proof = timer_hold.by_settings(config)
        if proof.receipt is None:
            raise LoopError(f"not proven, so not run on the timer: {proof.reason}")


def make_room(config: Settings) -> list[dict[str, Any]]:
    """Refuse to start where the disk would run full half-way; before that, remove what was kept long enough.

    Oldest first, one at a time until there is room, and never what is younger than ``min_age``. Returns what went.
    """
    if not missing_room(config):
        return []
    min_age = number_of(config.quarantine_keep.get("min_age") or "0s", "age")
    counted = kept_time.passed(config).age_of
    gone = cells.retire(
        config.runs_dir, None, None, min_age, age_of=counted, lacks_room=lambda: bool(missing_room(config))
    )
    if why := missing_room(config):
        raise LoopError(f"{why}: make room; {playbook('restore')} lists what is kept in {config.runs_dir}")
    return gone


def missing_room(config: Settings) -> str:
    """Why a cycle may not start for want of room; empty where it may."""
    runs = config.runs_dir
    disk = os.statvfs(runs)
    free = disk.f_bavail * disk.f_frsize
    if free < number_of(config.min_free, "size"):
        return f"only {free >> 20} MiB are free in {runs}, less than {config.min_free}"
    if disk.f_files and disk.f_favail < MIN_INODES:
        return f"only {disk.f_favail} inodes are free in {runs}, less than {MIN_INODES}"
    return ""
