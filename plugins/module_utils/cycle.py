# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""One cycle of the loop, as the systemd unit runs it: look first, heal, run the engine, keep the account.

Started as the loop user by ``loop cycle``, after root's ``loop prepare`` (see handover.py). Whatever
happens is one line in the journal that a person understands and one JSON account under ``cycles_dir``;
the exit status tells systemd the truth, which the engine's own does not (a dead-ended run exits 0 there).
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import re
import resource
import select
import signal
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from . import (
    accounts,
    env_file,
    gate_policy,
    handover,
    push_gate,
    quarantine,
    receipts,
    settings,
    workspaces,
    worktrees,
)
from .errors import LoopError
from .forge import Forge
from .handover import NOTHING_DONE, REFUSED

ENGINE = "hyrule-engineering-loop"

# What systemd is told. Only what needs a person is a failure: the unit names NOTHING_DONE as a success.
EXIT_STATUS = {
    "published": 0,
    "idle": NOTHING_DONE,
    "over_budget": NOTHING_DONE,
    "locked": NOTHING_DONE,
    "needs_triage": 3,
    "refused": REFUSED,
    "refused_ci": REFUSED,
    "error": 1,
    "interrupted": 1,
}

# How long the engine may take to end when it is told to.
GRACE = 5.0
JOBS = 8

# Where the engine leaves handoffs of runs that name no directory of their own.
HANDOFF = "HYRULE_HANDOFF_DIR"
# Fewer free inodes than this and a checkout or an environment may not fit any more.
MIN_INODES = 10_000


class OverBudget(LoopError):
    """The day's runs are used up."""


class Stopped(LoopError):
    """Somebody, mostly systemd, ended the cycle while the engine ran."""


def say(text: str) -> None:
    """To the journal, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


# --- before ---------------------------------------------------------------------------------


def check_host(config: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Refuse what would waste a run or run something unproven. Raises LoopError with the reason."""
    if os.environ.get("GITHUB_ACTIONS"):
        raise LoopError("GITHUB_ACTIONS is set: the loop never runs on a CI runner")
    check_policy(config, environment.get(HANDOFF, ""))
    for name in ("runs_dir", "daemon_state_dir", "memory_dir", "workspace_dir"):
        if not os.access(config[name], os.W_OK | os.X_OK):
            raise LoopError(
                f"{config[name]} ({name}) is not a directory that {config['user']} can write; run apply.yml"
            )
    release = os.path.realpath(f"{config['install_dir']}/current")
    receipts.active_release(config)
    owner = os.stat(release)
    if owner.st_uid != 0 or owner.st_mode & 0o022:
        raise LoopError(f"the engine {release} must belong to root, and nobody else may write it; run apply.yml")


def check_policy(config: dict[str, Any], handoff: str) -> None:
    """Refuse a policy that is not to the letter what root deployed, or does not admit where this cycle will write."""
    path = config["policy_file"]
    try:
        folder, file = os.lstat(os.path.dirname(path)), os.lstat(path)
    except FileNotFoundError:
        raise LoopError(f"the policy {path} is missing (the engine would allow everything); run apply.yml") from None
    except OSError as error:
        raise LoopError(f"the policy {path} cannot be looked at: {error.strerror}; run apply.yml") from error
    if not stat.S_ISREG(file.st_mode) or file.st_uid != 0 or file.st_mode & 0o022:
        raise LoopError(f"the policy {path} must be a regular file that only root can write; run apply.yml")
    if not stat.S_ISDIR(folder.st_mode) or folder.st_uid != 0 or folder.st_mode & 0o022:
        raise LoopError(f"the directory of the policy {path} must be one that only root can write; run apply.yml")
    policy = gate_policy.load_file(path)
    if gate_policy.digest(policy) != config["policy_sha256"]:
        raise LoopError(f"the policy {path} is not the one that was deployed; run apply.yml and prove it again")
    if not gate_policy.admits_handoff(policy, config["runs_dir"]):
        raise LoopError(f"the policy {path} does not admit handoffs under {config['runs_dir']}; run apply.yml")
    if handoff and not gate_policy.admits_handoff(policy, handoff):
        raise LoopError(
            f"the policy {path} does not admit handoffs under {handoff}, which {HANDOFF} names: remove it from"
            f" {config['env_file']}, or add it to allowed_handoff_dirs in engineering_loop_policy_overlay"
        )
    if handoff and not os.access(handoff, os.W_OK | os.X_OK):
        raise LoopError(f"{handoff} ({HANDOFF}) is not a directory that {config['user']} can write")


def check_proven(config: dict[str, Any], trigger: str) -> None:
    """What the timer starts must have been proven as it stands; a person may start anything."""
    if trigger == "timer" and config["canary_required"]:
        proof = receipts.unprivileged(config)
        if not proof["matches"]:
            raise LoopError(f"not proven, so not run on the timer: {proof['reason']}")


def make_room(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Refuse to start where the disk would run full half-way; before that, let go of what was kept long enough.

    Oldest first, only as much as is missing and never what is younger than ``min_age``. Returns what went.
    """
    missing, why = _missing_room(config)
    if not missing:
        return []
    place = settings.quarantine_dir(config)
    limits: dict[str, Any] = quarantine.limits_of({**config["quarantine_keep"], "age": None, "size": None})
    kept = quarantine.purge(place, check=True, **limits)["size"]
    purged: list[dict[str, Any]] = quarantine.purge(place, **{**limits, "size": max(0, kept - missing)})["purged"]
    missing, why = _missing_room(config)
    if missing:
        raise LoopError(f"{why}: make room, or see what playbooks/restore.yml lists as kept in {place}")
    return purged


def _missing_room(config: dict[str, Any]) -> tuple[float, str]:
    """How many bytes must become free before a cycle may start, and why."""
    runs = config["runs_dir"]
    disk = os.statvfs(runs)
    free = disk.f_bavail * disk.f_frsize
    missing = quarantine.number_of(config["min_free"], "size") - free
    if missing > 0:
        return missing, f"only {free >> 20} MiB are free in {runs}, less than {config['min_free']}"
    if disk.f_files and disk.f_favail < MIN_INODES:
        return float("inf"), f"only {disk.f_favail} inodes are free in {runs}, less than {MIN_INODES}"
    return 0, ""


def let_go(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Empty the quarantine by its rules, when the engine is done; a failure is told and changes no outcome."""
    try:
        limits: dict[str, Any] = quarantine.limits_of(config["quarantine_keep"])
        gone = quarantine.purge(settings.quarantine_dir(config), **limits)
    except LoopError as error:
        say(f"the quarantine was not purged: {error}\n")
        return []
    for stuck in gone["stuck"]:
        say(f"kept for longer than it should be: {stuck['id']}: {stuck['why']}\n")
    return list(gone["purged"])


def heal(config: dict[str, Any], token: str) -> dict[str, Any]:
    """Move aside what the coming cycle would trip over; work that waits for a person stays.

    A run's worktree is in the way only while its issue can be taken again, so every run
    whose issue is not in the approved queue is kept where its state file says.
    """
    with ThreadPoolExecutor(JOBS) as pool:  # a connection each: there may be a hundred
        queues = pool.map(lambda repo: Forge(config["api_url"], token).approved_issues(repo), config["repos"])
        takeable = {settings.change_id(issue["repo"], issue["number"]).lower() for queue in queues for issue in queue}
    checkouts = [f"{config['workspace_dir']}/{entry['dest']}/.git" for entry in config["workspace_repositories"]]
    if not any(map(os.path.isdir, checkouts)):
        workspaces.refresh(config, token)  # whoever emptied the workspace must not stop the loop for good
    runs = config["runs_dir"]
    waiting = [name.upper() for name in os.listdir(runs) if not name.startswith(".") and name.lower() not in takeable]
    return worktrees.sweep(
        workspace=config["workspace_dir"],
        branch_prefixes=config["branch_prefixes"],
        worktree_root=runs,
        keep=waiting,
        quarantine=settings.quarantine_dir(config),
        run_lock=settings.run_lock(config),
    )


def tell_of(swept: dict[str, Any]) -> None:
    """To the journal: what was moved aside, and what could not be."""
    for kept in swept["quarantined"]:
        say(f"kept aside: {kept['from']} -> {kept['to']}\n")
    for left in swept["kept"]:
        if not left["why"].startswith(worktrees.TOLD_TO_KEEP):
            say(f"in the way, and stays: {left['path']}: {left['why']}\n")


# --- the engine -----------------------------------------------------------------------------


def engine_command(config: dict[str, Any], program: str, help_text: str) -> list[str]:
    """The command line for one cycle, with only those flags that this engine knows."""
    command = [program, "daemon", "--once"]
    for repo in config["repos"]:
        command += ["--repo", repo]
    command += ["--workspace-root", config["workspace_dir"], "--output-root", config["runs_dir"]]
    command += ["--state-dir-path", config["daemon_state_dir"], "--memory-dir", config["memory_dir"]]
    unknown = sorted(
        {word.split("=")[0] for word in config["daemon_args"] if word.startswith("--")} - _flags(help_text)
    )
    if unknown:
        raise LoopError(
            f"the installed engine does not know {', '.join(unknown)}; remove it or bump engineering_loop_version"
        )
    command += config["daemon_args"]
    if config["allowed_paths"] and "--allow" in _flags(help_text):
        for checkout, prefixes in sorted(config["allowed_paths"].items()):
            for prefix in prefixes:
                command += ["--allow", f"{checkout}={prefix}"]
    elif any(prefixes != ["docs"] for prefixes in config["allowed_paths"].values()):
        raise LoopError(
            "engineering_loop_allowed_paths asks for more than docs, but the installed engine has no --allow"
        )
    return command


def _flags(help_text: str) -> set[str]:
    return {word.strip("[],|").split("=")[0] for word in help_text.split() if word.strip("[],|").startswith("--")}


def engine_environment(config: dict[str, Any], current: str, handed: Mapping[str, Any]) -> dict[str, str]:
    """The unit's environment and the secrets, plus a git that no repository can bend and whose pushes are judged.

    Programs that the engine starts by name are found in ``lib_dir/bin`` first, which takes the secrets
    off them (see runtime.CHILD). The agent gets what the engine's own allowlist hands on.
    """
    environment = {**os.environ, **handed["environment"], **push_gate.environment(config)}
    path = handed["environment"].get("PATH") or os.environ.get("PATH", os.defpath)
    environment.update(
        GH_TOKEN=handed["token"],
        PATH=f"{config['lib_dir']}/bin:{path}:{config['install_dir']}/uv/bin",
        ENGINEERING_LOOP_SECRETS=" ".join(handed["environment"].keys() - env_file.network(handed["environment"])),
        HYRULE_POLICY_FILE=config["policy_file"],
        GIT_AUTHOR_NAME=config["git_user_name"],
        GIT_AUTHOR_EMAIL=config["git_user_email"],
        GIT_COMMITTER_NAME=config["git_user_name"],
        GIT_COMMITTER_EMAIL=config["git_user_email"],
        PYTHONUNBUFFERED="1",
    )
    environment.setdefault("HYRULE_MODEL_POLICY_FILE", f"{current}/configs/loop/model-policy.production.yml")
    return environment


def run_engine(config: dict[str, Any], handed: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """One ``daemon --once``; (exit status, its JSON report). Its output goes to the journal as it comes.

    The release is resolved once, so that a switch of ``current`` in the middle of the
    cycle cannot mix two versions. The engine leads a process group that dies with it.
    """
    current = os.path.realpath(f"{config['install_dir']}/current")
    program = f"{current}/.venv/bin/{ENGINE}"
    environment = engine_environment(config, current, handed)
    try:
        asked = subprocess.run(
            [program, "daemon", "--help"],
            cwd=current,
            env={**environment, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise LoopError(f"the engine {program} does not start ({error}); run apply.yml") from error
    command = engine_command(config, program, asked.stdout)
    output: list[str] = []
    with _process_group(command, current, environment) as engine:
        for text in _spoken(engine):
            say(text)
            output.append(text)
        status = engine.wait()
    return status, parse_report("".join(output))


@contextlib.contextmanager
def _process_group(
    command: list[str], directory: str, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    started: list[subprocess.Popen[bytes]] = []
    stopped: list[str] = []

    def stop(signum: int, _frame: object) -> None:
        stopped.append(signal.Signals(signum).name)
        if started:  # else it is being started: then it is stopped as soon as it can be
            end()

    def end() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started[0].pid, signal.SIGTERM)
        raise Stopped(f"stopped by signal {stopped[0]}: systemctl stop, a shutdown or the time-out")

    previous = signal.signal(signal.SIGTERM, stop)
    engine = subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        started.append(engine)
        if stopped:
            end()
        yield engine
    except Stopped:
        with contextlib.suppress(subprocess.TimeoutExpired):
            engine.wait(GRACE)
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(engine.pid, signal.SIGKILL)
        engine.wait()
        if engine.stdout:
            engine.stdout.close()


def _spoken(engine: subprocess.Popen[bytes]) -> Iterator[str]:
    """The engine's stdout as it comes, until the engine ends: what it left behind may hold the pipe for longer."""
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    ended = os.pidfd_open(engine.pid)
    pipe = engine.stdout.fileno() if engine.stdout else -1
    try:
        last = False
        while not last:
            ready = select.select([pipe, ended], [], [])[0]
            last = ended in ready  # then one read gives all that is left in the pipe
            if pipe in ready:
                chunk = os.read(pipe, 1 << 20)
                yield decode(chunk, final=last or not chunk)
                last = last or not chunk
    finally:
        os.close(ended)


def parse_report(output: str) -> dict[str, Any]:
    """The JSON object that ends the engine's output; {} where there is none."""
    decoder = json.JSONDecoder()
    for begin in reversed([match.start() for match in re.finditer(r"^\{", output, re.MULTILINE)]):
        with contextlib.suppress(ValueError, RecursionError):
            report, _end = decoder.raw_decode(output, begin)
            if isinstance(report.get("outcome"), str):
                return dict(report)
    return {}


# --- the whole ------------------------------------------------------------------------------


def run(config: dict[str, Any]) -> dict[str, Any]:
    """One cycle from look to account; returns the account."""
    invocation, trigger = os.environ.get("INVOCATION_ID", ""), handover.trigger()
    begun = time.monotonic()
    account: dict[str, Any] = {
        "cycle": f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{invocation[:8] or os.getpid()}",
        "invocation_id": invocation,
        "started": accounts.utc_now(),
        "engine": {"sha": os.path.basename(os.path.realpath(f"{config['install_dir']}/current"))},
        "outcome": "running",
        "trigger": trigger,
    }
    accounts.close_interrupted(config["cycles_dir"])
    accounts.write(config["cycles_dir"], account)
    try:
        handed = handover.take(config)
        account["budget"] = handed["budget"]
        if handed["over_budget"]:
            raise OverBudget(handed["over_budget"])
        if handed["refused"]:
            raise LoopError(handed["refused"])
        account["token"] = {key: handed[f"token_{key}"] for key in ("kind", "note", "expires")}
        check_host(config, handed["environment"])
        check_proven(config, trigger)
        account["purged"] = make_room(config)
        account["swept"] = heal(config, handed["token"])
        tell_of(account["swept"])
        refreshed = workspaces.refresh(config, handed["token"])["repositories"]
        account["workspaces"] = [one for one in refreshed if one["status"] != "current"]
        for one in refreshed:
            if one["status"] in ("failed", "restored", "busy"):
                say(f"checkout {one['dest']} {one['status']}: {one['detail']}\n")
        push_gate.take_verdicts(config)  # of a cycle that was killed
        account["seconds_before_engine"] = round(time.monotonic() - begun, 1)
        status, report = run_engine(config, handed)
        outcome = report.get("outcome", "error")
        detail = report.get("detail", "") if report else f"the engine ended with {status} and without a report"
        account.update(outcome=outcome, detail=detail, report=report, exit_status=status)
        account["pushes"] = push_gate.take_verdicts(config)
        refused = [one["reason"] for one in account["pushes"] if not one["allowed"]]
        account["detail"] = refused[-1] if refused else " ".join(str(detail).split())
    except Stopped as error:
        account.update(outcome="interrupted", detail=str(error))
    except OverBudget as error:
        account.update(outcome="over_budget", detail=str(error))
    except LoopError as error:
        account.update(outcome="refused", detail=str(error))
    except Exception as error:  # noqa: BLE001 - the account must tell of anything
        traceback.print_exc()
        account.update(outcome="error", detail=f"{type(error).__name__}: {error}")
    account.update(ended=accounts.utc_now(), seconds=round(time.monotonic() - begun, 1))
    account["numbers"] = numbers(config, account)
    accounts.write(config["cycles_dir"], account)
    purged = let_go(config) if "exit_status" in account else []
    if purged:
        account["purged"] += purged
        accounts.write(config["cycles_dir"], account)
    for gone in account.get("purged", []):
        say(f"kept long enough, let go: {gone['id']} from {gone['from']}\n")
    return account


def numbers(config: dict[str, Any], account: dict[str, Any]) -> dict[str, float]:
    """What can be counted of a cycle, flat, for whoever draws curves."""
    report, swept = account.get("report") or {}, account.get("swept") or {}
    pushes = account.get("pushes") or []
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    disk = os.statvfs(config["cycles_dir"])
    cost = report.get("cost_usd")
    return {
        "seconds": account["seconds"],
        "seconds_before_engine": account.get("seconds_before_engine", account["seconds"]),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "memory_max_bytes": used.ru_maxrss * 1024,
        "cost_usd": float(cost) if isinstance(cost, (int, float)) else 0.0,
        "quarantined": len(swept.get("quarantined", [])),
        "purged": len(account.get("purged", [])),
        "checkouts_failed": sum(one["status"] == "failed" for one in account.get("workspaces", [])),
        "pushes": len(pushes),
        "pushes_refused": sum(not one["allowed"] for one in pushes),
        "runs_today": account.get("budget", {}).get("runs_today", 0),
        "started_today": account.get("budget", {}).get("started_today", 0),
        "max_runs": account.get("budget", {}).get("max_runs", 0),
        "free_bytes": disk.f_bavail * disk.f_frsize,
    }


def sentence(account: dict[str, Any]) -> str:
    """The cycle in one line, for the journal."""
    report = account.get("report") or {}
    issue = report.get("issue")
    words = [f"cycle {account['outcome']} after {account.get('seconds', 0)} s"]
    if isinstance(issue, dict) and issue:
        words.append(f"{issue.get('repo')}#{issue.get('number')}")
    words += [str(text) for text in (report.get("pr_url"), account.get("detail")) if text]
    if EXIT_STATUS.get(account["outcome"], 1) not in (NOTHING_DONE, REFUSED) and account.get("budget"):
        words.append(f"(run {account['budget']['runs_today']} of {account['budget']['max_runs']} today)")
    return " ".join(": ".join([words[0], " ".join(words[1:])] if words[1:] else words).split())


def main(config_path: str = settings.DEFAULT_PATH) -> int:
    """Run one cycle and exit as ``EXIT_STATUS`` says."""
    try:
        account = run(settings.load(config_path))
    except LoopError as error:
        say(f"cycle refused: {error}\n")
        return EXIT_STATUS["refused"]
    say(f"{sentence(account)}\n")
    return EXIT_STATUS.get(account["outcome"], 1)


def close(config_path: str = settings.DEFAULT_PATH) -> int:
    """When all of a cycle has ended: one that was killed could not write the end of its account."""
    try:
        accounts.close_interrupted(settings.load(config_path)["cycles_dir"])
    except LoopError as error:
        say(f"the account was not closed: {error}\n")
    return 0
