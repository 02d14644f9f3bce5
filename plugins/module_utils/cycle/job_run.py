# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run of a job beside the cycle: root prepares it, the loop's user runs the engine's program, root settles it.

``loop job-prepare``, ``loop job`` and ``loop job-settle`` with the job's name, in its unit. It has the cycle's rules
for pauses, secrets, policy and proof, and in the place of a cell one directory of its own. What it did at the forge is
what the gateway wrote down.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeAlias

from ..base.clock import moment_of, utc_now
from ..base.errors import LoopError
from ..base.files import remove_tree
from ..base.journal import say
from ..base.sizes import limits_of
from ..cell import cells, collected, records
from ..gateway import audit, sessions
from ..host import jobs, managed_files, settings
from ..host.jobs import Job
from ..host.managed_files import Entry
from ..host.settings import Settings
from ..proof import pause
from ..proof.pause import Paused
from ..release.engine_help import options_of
from . import handover, prepare
from .engine_run import Stopped, engine_environment, help_of, process_group, spoken, stop
from .handover import Handover

Record: TypeAlias = dict[str, Any]

DID = {"job-comment": "comments", "job-label": "label changes", "refused": "refusals"}


class Held(LoopError):
    """This engine cannot do the job: nobody's fault, and not a failure."""


# --- before, as root ------------------------------------------------------------------------------


def before(config_path: str, name: str) -> int:
    """``loop job-prepare``: what speaks against the run is handed over as well, and recorded."""
    invocation = os.environ.get("INVOCATION_ID", "")
    if not invocation or not os.environ.get("RUNTIME_DIRECTORY"):
        say("a job is prepared by its unit: start it with systemctl\n")
        return records.REFUSED
    try:
        config = settings.load(config_path)
        job = jobs.find(config, name)
        handover.give(config, _prepared(config, job, invocation))
    except LoopError as error:
        say(f"job {name} refused: {error}\n")
        return records.REFUSED
    return 0


def _prepared(config: Settings, job: Job, invocation: str) -> Handover:
    place = jobs.records_dir(config, job)
    managed_files.converge([Entry(path, "directory", mode=0o755) for path in (os.path.dirname(place), place)])
    for earlier in records.running(place):
        records.write(place, records.ended(earlier, "interrupted", "the run was killed before it could end"))
    release = os.path.realpath(f"{config.install_dir}/current")
    record: Record = {
        "cycle": cells.new_id(invocation), "job": job.name, "invocation_id": invocation, "started": utc_now(),
        "engine": {"sha": os.path.basename(release)}, "outcome": records.RUNNING, "trigger": prepare.trigger(),
    }  # fmt: skip
    try:
        pause.check(config)
        _check(config, job, release, record["trigger"])
        given = handover.for_cycle(config, handover.secrets(config))
        managed_files.converge([Entry(job.state, "directory", owner="root", group=config.group, mode=0o770)])
        sessions.open_session(config, f"{job.unit}.service", record["cycle"], may=job.may)
    except Paused as error:
        given, record = Handover(paused=str(error)), records.ended(record, "paused", str(error))
    except Held as error:
        given, record = Handover(paused=str(error)), records.ended(record, "held", str(error))
    except LoopError as error:
        given, record = Handover(refused=str(error)), records.ended(record, "refused", str(error))
    records.write(place, record)
    if record["outcome"] != records.RUNNING:
        say(f"{_sentence(record)}\n")
    return given


def _check(config: Settings, job: Job, release: str, started_by: str) -> None:
    """Refuse what no cycle would be started with; hold what this engine cannot do, or nobody has proven."""
    if why := jobs.unknown(job, release):
        raise Held(f"{why}: it waits for an engine that has it")
    prepare.check_host(config)
    if job.proof:
        try:
            prepare.check_proven(config, started_by)
        except LoopError as error:
            raise Held(str(error)) from error


# --- the run, as the loop's user ------------------------------------------------------------------


def run(config_path: str, name: str) -> int:
    """``loop job``: the engine's program, with what root handed over; its end as systemd must hear it."""
    signal.signal(signal.SIGTERM, stop)
    try:
        config = settings.load(config_path)
        job = jobs.find(config, name)
        handed = handover.take(config)
        if handed.paused:
            return records.NOTHING_DONE
        if handed.refused:
            return records.REFUSED
        return _run(config, job, handed)
    except Stopped as error:
        say(f"{error}\n")
        return records.EXIT_STATUS["interrupted"]
    except LoopError as error:
        say(f"job {name} refused: {error}\n")
        return records.REFUSED


def _run(config: Settings, job: Job, handed: Handover) -> int:
    current = os.path.realpath(f"{config.install_dir}/current")
    inside = Settings(config, daemon_state_dir=job.state)
    remove_tree(f"{job.state}/model-policy.yml")  # whatever an earlier run has left there
    environment = engine_environment(inside, handed)
    start = [job.program(current), *job.command[1:]]
    known = help_of(start, current, environment)
    if known is None:
        say(f"the engine has no {' '.join(job.command)}: job {job.name} waits for one that has it\n")
        return records.NOTHING_DONE
    with process_group([*start, *_words(job, current, known)], current, environment) as engine:
        for text in spoken(engine):
            say(text)
        return 1 if engine.wait() else 0


def _words(job: Job, release: str, help_text: str) -> list[str]:
    """The arguments, and of the options those that this engine knows. What it does not know is said."""
    words, known = [job.filled(word, release) for word in job.args], options_of(help_text)
    for flag, value in job.options:
        if flag in known:
            words += [flag, *([job.filled(value, release)] if value else [])]
        else:
            say(f"the engine does not know {flag}, so job {job.name} is run without it\n")
    return words


# --- after, as root -------------------------------------------------------------------------------


def after(config_path: str, name: str) -> int:
    """``loop job-settle``: who asked is answered no more, and the record gets its end."""
    try:
        config = settings.load(config_path)
        job = jobs.find(config, name)
        sessions.close_session(config, f"{job.unit}.service")
        place = jobs.records_dir(config, job)
        invocation = os.environ.get("INVOCATION_ID", "")
        for record in [one for one in records.running(place) if one.get("invocation_id") == invocation]:
            _settle(config, job, record)
        kept = limits_of(config.cycles_keep)
        records.retire(place, kept["age"], kept["size"])
    except LoopError as error:
        say(f"job {name} was not settled: {error}\n")
        return 1
    return 0


def _settle(config: Settings, job: Job, record: Record) -> None:
    did = Counter(DID[one["what"]] for one in audit.read(config, str(record["cycle"])) if one["what"] in DID)
    outcome, detail = _ended(os.environ)
    told = ", ".join(f"{count} {what}" for what, count in sorted(did.items()))
    record = records.ended(record, outcome, "; ".join(filter(None, (detail, told))))
    record["did"] = dict(did)
    record["collected"] = collected.collect_from_job(config, job.state, handover.redactor(config))
    record["seconds"] = round((moment_of(record["ended"]) - moment_of(record["started"])).total_seconds(), 1)
    records.write(jobs.records_dir(config, job), record)
    say(f"{_sentence(record)}\n")


def _ended(systemd: Mapping[str, str]) -> tuple[str, str]:
    """The outcome by how systemd saw it end."""
    if systemd.get("SERVICE_RESULT") == "timeout":
        return "interrupted", "it took longer than its timeout"
    code, status = systemd.get("EXIT_CODE", ""), systemd.get("EXIT_STATUS", "")
    if code == "exited" and status == "0":
        return "done", ""
    if code == "exited" and status == str(records.NOTHING_DONE):
        return "held", "the installed engine does not know this job"
    if code == "exited" and status == str(records.REFUSED):
        return "refused", "it refused to start, see the journal"
    if code in ("killed", "dumped"):
        return "interrupted", f"it was killed ({status})"
    return "error", f"it ended with {status or 'an unknown status'}, see the journal"


def _sentence(record: Mapping[str, Any]) -> str:
    seconds = f" after {record['seconds']} s" if "seconds" in record else ""
    detail = f": {record['detail']}" if record["detail"] else ""
    return f"job {record['job']} {record['outcome']}{seconds}{detail}"
