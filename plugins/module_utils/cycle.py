# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""One cycle of the loop, as the systemd unit runs it: look first, heal, run the engine, keep the account.

Started as the loop user by ``loop cycle``. Whatever happens is one line in the journal that a
person understands and one JSON account under ``cycles_dir``; the exit status tells systemd the
truth, which the engine's own does not (a dead-ended run exits 0 there).
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import re
import select
import signal
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from . import accounts, gate_policy, push_gate, quarantine, receipts, settings, workspaces, worktrees
from .errors import LoopError
from .forge import Forge

ENGINE = "hyrule-engineering-loop"

# What systemd is told. Only what needs a person is a failure.
EXIT_STATUS = {
    "published": 0,
    "idle": 0,
    "over_budget": 0,
    "locked": 0,
    "needs_triage": 3,
    "refused": 4,
    "refused_ci": 4,
    "error": 1,
    "interrupted": 1,
}


# Where the engine leaves handoffs of runs that name no directory of their own.
HANDOFF = "HYRULE_HANDOFF_DIR"
# Fewer free inodes than this and a checkout or an environment may not fit any more.
MIN_INODES = 10_000


class Stopped(LoopError):
    """Somebody, mostly systemd, ended the cycle while the engine ran."""


def say(text: str) -> None:
    """To the journal, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


# --- before ---------------------------------------------------------------------------------


def check_host(config: dict[str, Any]) -> None:
    """Refuse what would waste a run or run something unproven. Raises LoopError with the reason."""
    if os.environ.get("GITHUB_ACTIONS"):
        raise LoopError("GITHUB_ACTIONS is set: the loop never runs on a CI runner")
    check_policy(config)
    for name in ("runs_dir", "daemon_state_dir", "memory_dir", "workspace_dir"):
        if not os.access(config[name], os.W_OK | os.X_OK):
            raise LoopError(
                f"{config[name]} ({name}) is not a directory that {config['user']} can write; run apply.yml"
            )
    if not os.environ.get("GH_TOKEN"):
        raise LoopError(
            f"no GH_TOKEN: put it into {config['env_file']} (KEY=value) or into engineering_loop_environment"
        )


def check_policy(config: dict[str, Any]) -> None:
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
    handoff = os.environ.get(HANDOFF)
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


def heal(config: dict[str, Any], forge: Forge) -> dict[str, Any]:
    """Move aside what the coming cycle would trip over; work that waits for a person stays.

    A run's worktree is in the way only while its issue can be taken again, so every run
    whose issue is not in the approved queue is kept where its state file says.
    """
    takeable = {
        settings.change_id(issue["repo"], issue["number"]).lower()
        for repo in config["repos"]
        for issue in forge.approved_issues(repo)
    }
    checkouts = [f"{config['workspace_dir']}/{entry['dest']}/.git" for entry in config["workspace_repositories"]]
    if not any(map(os.path.isdir, checkouts)):
        workspaces.refresh(config)  # whoever emptied the workspace must not stop the loop for good
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


def engine_environment(config: dict[str, Any], current: str) -> dict[str, str]:
    """The unit's environment, plus a git that no repository's configuration can bend and whose pushes are judged."""
    environment = {**os.environ, **push_gate.environment(config)}
    environment.update(
        HYRULE_POLICY_FILE=config["policy_file"],
        GIT_AUTHOR_NAME=config["git_user_name"],
        GIT_AUTHOR_EMAIL=config["git_user_email"],
        GIT_COMMITTER_NAME=config["git_user_name"],
        GIT_COMMITTER_EMAIL=config["git_user_email"],
        PYTHONUNBUFFERED="1",
    )
    environment.setdefault("HYRULE_MODEL_POLICY_FILE", f"{current}/configs/loop/model-policy.production.yml")
    return environment


def run_engine(config: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """One ``daemon --once``; (exit status, its JSON report). Its output goes to the journal as it comes.

    The release is resolved once, so that a switch of ``current`` in the middle of the
    cycle cannot mix two versions. The engine leads a process group that dies with it.
    """
    current = os.path.realpath(f"{config['install_dir']}/current")
    program = f"{current}/.venv/bin/{ENGINE}"
    environment = engine_environment(config, current)
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
    engine = subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )

    def stop(signum: int, _frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(engine.pid, signal.SIGTERM)
        raise Stopped(f"stopped by signal {signal.Signals(signum).name}")

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield engine
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
    invocation = os.environ.get("INVOCATION_ID", "")
    trigger = "timer" if os.environ.get("TRIGGER_UNIT", "").endswith(".timer") else "manual"
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
        check_host(config)
        check_proven(config, trigger)
        account["purged"] = make_room(config)
        account["swept"] = heal(config, Forge(config["api_url"], os.environ["GH_TOKEN"]))
        for kept in account["swept"]["quarantined"]:
            say(f"kept aside: {kept['from']} -> {kept['to']}\n")
        refreshed = workspaces.refresh(config)["repositories"]
        account["workspaces"] = [one for one in refreshed if one["status"] != "current"]
        push_gate.take_verdicts(config)  # of a cycle that was killed
        status, report = run_engine(config)
        outcome = report.get("outcome", "error")
        detail = report.get("detail", "") if report else f"the engine ended with {status} and without a report"
        account.update(outcome=outcome, detail=detail, report=report, exit_status=status)
        account["pushes"] = push_gate.take_verdicts(config)
        refused = [one["reason"] for one in account["pushes"] if not one["allowed"]]
        account["detail"] = refused[-1] if refused else " ".join(str(detail).split())
    except Stopped as error:
        account.update(outcome="interrupted", detail=str(error))
    except LoopError as error:
        account.update(outcome="refused", detail=str(error))
    except Exception as error:  # noqa: BLE001 - the account must tell of anything
        traceback.print_exc()
        account.update(outcome="error", detail=f"{type(error).__name__}: {error}")
    account.update(ended=accounts.utc_now(), seconds=round(time.monotonic() - begun, 1))
    accounts.write(config["cycles_dir"], account)
    purged = let_go(config) if "exit_status" in account else []
    if purged:
        account["purged"] += purged
        accounts.write(config["cycles_dir"], account)
    for gone in account.get("purged", []):
        say(f"kept long enough, let go: {gone['id']} from {gone['from']}\n")
    return account


def sentence(account: dict[str, Any]) -> str:
    """The cycle in one line, for the journal."""
    report = account.get("report") or {}
    issue = report.get("issue")
    words = [f"cycle {account['outcome']} after {account.get('seconds', 0)} s"]
    if isinstance(issue, dict) and issue:
        words.append(f"{issue.get('repo')}#{issue.get('number')}")
    words += [str(text) for text in (report.get("pr_url"), account.get("detail")) if text]
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
