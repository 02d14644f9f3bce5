# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""One cycle of the loop, as the loop's user, in the unit's sandbox: checkouts, the engine, and a report of it.

Started by ``loop cycle`` after root's ``loop prepare``, which looked at everything and made the cell. What is reported
here is a claim: ``loop settle`` judges it. The exit status tells systemd what the engine's own does not (a dead-ended
run exits 0 there).
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
import subprocess
import time
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ..base import wire
from ..base.errors import APPLY, LoopError
from ..base.files import write_atomic
from ..base.journal import say
from ..base.untrusted import show
from ..cell import collected, egress, pristine, records, sandbox
from ..cell.cells import Cell, settings_in
from ..gateway import client, sessions
from ..git.command import safe_environment
from ..host import bubblewrap, secrets_file, settings
from ..host.settings import Settings
from ..policy import paths as gate_paths
from ..release import engine_options
from ..release.engine_help import options_of
from . import agent_check, handover
from .handover import Handover

# Runs the engine's program in its own interpreter, which is told to take another for itself: ours, which shuts in what
# it is asked to run. An engine that starts a gate command with sys.executable would otherwise pass by what is on PATH.
START = """\
import runpy, sys
sys.executable = sys.argv[1]
del sys.argv[:2]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

# How long the engine may take to end when it is told to.
GRACE = 5.0
# The report ends the engine's output, and is no longer than this many characters.
MAX_REPORT = 1024 * 1024


class Stopped(LoopError):
    """Somebody, mostly systemd, ended the cycle."""


# --- the engine -----------------------------------------------------------------------------


def engine_command(config: Settings, program: str, known: Collection[str]) -> list[str]:
    """The command line for one cycle, with only those flags that this engine knows."""
    command = [program, "daemon", "--once"]
    for repo in config.repos:
        command += ["--repo", repo]
    command += ["--workspace-root", config.workspace_dir, "--output-root", config.runs_dir]
    command += ["--state-dir-path", config.daemon_state_dir, "--memory-dir", config.memory_dir]
    unknown = sorted({*engine_options.flags_of(config.daemon_args)}.difference(known))
    if unknown:
        raise LoopError(
            f"the installed engine does not know {', '.join(unknown)}; remove it or bump engineering_loop_version"
        )
    command += config.daemon_args
    learning = {engine_options.LEARNING: collected.learning_in(config.daemon_state_dir)}
    wanted = [[one[0], learning[one[0]]] if one[0] in learning else one for one in config.engine_options]
    options, unknown = engine_options.fitting(wanted, known)
    if unknown:
        say(f"{engine_options.without(unknown)}\n")
    command += options
    if config.allowed_paths and "--allow" in known:
        for checkout, prefixes in sorted(config.allowed_paths.items()):
            for prefix in prefixes:
                command += ["--allow", f"{checkout}={gate_paths.normal_prefix(prefix)}"]
    elif any([*map(gate_paths.normal_prefix, prefixes)] != ["docs"] for prefixes in config.allowed_paths.values()):
        raise LoopError(
            "engineering_loop_allowed_paths asks for more than docs, but the installed engine has no --allow"
        )
    return command


def engine_environment(config: Settings, handed: Handover) -> dict[str, str]:
    """The unit's environment and the provider's keys, plus the way to the gateway.

    Programs that the engine starts by name are found in ``lib_dir/bin`` first: agent and gate commands are shut in
    there (see sandbox.py), and gh is the gateway's. HOME is a directory that they cannot write.
    """
    environment = egress.over(config, {**os.environ, **handed.environment, **way_out(config)})
    state = config.daemon_state_dir
    environment.update(
        HOME=state,
        PATH=f"{config.lib_dir}/bin:{os.environ.get('PATH', os.defpath)}:{config.install_dir}/uv/bin",
        HYRULE_POLICY_FILE=config.policy_file,
        GIT_AUTHOR_NAME=config.git_user_name,
        GIT_AUTHOR_EMAIL=config.git_user_email,
        GIT_COMMITTER_NAME=config.git_user_name,
        GIT_COMMITTER_EMAIL=config.git_user_email,
        PYTHONUNBUFFERED="1",
    )
    if handover.TRACE in environment:  # a cycle writes nowhere but in its cell
        environment[handover.TRACE] = collected.trace_in(state)
    if handed.model_policy:
        environment[handover.MODEL_POLICY] = f"{state}/model-policy.yml"
        write_atomic(environment[handover.MODEL_POLICY], handed.model_policy.encode(), mode=0o400)
    return environment


def check_agent(config: Settings, cell: Cell, environment: Mapping[str, str], *, probe: bool) -> None:
    """Refuse where the agent that the engine would start could not do its work. No run is spent on that."""
    words = agent_check.commands(environment[handover.MODEL_POLICY])
    path = sandbox.plain_path(config, environment["PATH"])
    # The agent's files as the agent finds them: where root has them, a cycle need see nothing.
    home = cell.part("home")
    copies = [{**one, "src": f"{home}/{one['dest']}"} for one in config.home_files]
    for name in dict.fromkeys(one[0] for one in words):
        agent_check.fit(Settings(config, home_files=copies), name, environment, path)
        say(f"agent {name}: {agent_check.starts(config, name, path)}\n")
    for one in words if probe else ():
        said = agent_check.answers(config, cell, one, environment)
        say(f"agent {one[0]}, asked for a word: {said}\n")


def check_hidden(paths: Sequence[str]) -> None:
    """Refuse where this user could read what lets somebody in at the forge."""
    for path in paths:
        if os.access(path, os.R_OK):
            raise LoopError(f"{path} can be read by what runs generated code: {secrets_file.mend(path)}")


def way_out(config: Settings) -> dict[str, str]:
    """How git reaches the gateway: whatever address a repository's origin has, and no other way is open."""
    places = {f"url.git://gateway/{one.dest}.git.insteadOf": one.url for one in pristine.clones(config)}
    extra = {
        client.SOCKET: sessions.socket_of(config),
        sandbox.SETTINGS: f"{config.config_dir}/loop.json",
        "GIT_PROXY_COMMAND": f"{config.lib_dir}/gateway-client",
        "GIT_ALLOW_PROTOCOL": "git",
        "GIT_ASKPASS": "",
    }
    # A push that recursed would push a submodule's commits as well, and what a checkout borrows from has no say.
    quiet = {"push.recurseSubmodules": "no", "push.followTags": "false", **pristine.LENDERS_ARE_MUTE}
    return safe_environment(extra, {**quiet, **places})


def started(config: Settings, current: str, command: list[str]) -> list[str]:
    """``command``, the engine's program and its arguments, as it is started: one of Python's as ``START`` says."""
    with open(command[0], "rb") as handle:
        first, second = [*handle.read(4096).split(b"\n", 2), b""][:2]
    if b"python" not in first and not (b"exec" in second and b"python" in second):
        return command
    return [f"{current}/.venv/bin/python", "-P", "-c", START, sandbox.engine_python(config), *command]


def help_of(command: Sequence[str], current: str, environment: Mapping[str, str]) -> str | None:
    """What a program of the release in ``current`` says to ``--help``; None where it does not know that."""
    try:
        asked = subprocess.run(
            [*command, "--help"], cwd=current, env={**environment, "COLUMNS": "200"},
            capture_output=True, text=True, errors="replace", timeout=120, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        say(f"{' '.join(command)} --help: {show(str(said).strip()[-300:])}\n")
        return None
    return asked.stdout


def run_engine(config: Settings, environment: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    """One ``daemon --once``; (exit status, its JSON report). Its output goes to the journal as it comes.

    The release is resolved once, so that a switch of ``current`` in the middle of the
    cycle cannot mix two versions. The engine leads a process group that dies with it.
    """
    current = os.path.realpath(f"{config.install_dir}/current")
    program = f"{current}/.venv/bin/{config.program}"
    # An apply has asked it already. To ask it costs as much as to start it.
    known = engine_options.known(config, os.path.basename(current), f"{config.program} daemon")
    if known is None or not os.access(program, os.X_OK):
        known = options_of(_told_by(program, current, environment))
    command = started(config, current, engine_command(config, program, known))
    end = ""
    with process_group(command, current, environment) as engine:
        for text in spoken(engine):
            say(text)
            end = (end + text)[-MAX_REPORT:]
        status = engine.wait()
    if status and not end and options_of(_told_by(program, current, environment)) != known:
        raise LoopError(f"the engine {program} is not what the last apply has asked for its options; {APPLY}")
    return status, parse_report(end)


def _told_by(program: str, current: str, environment: Mapping[str, str]) -> str:
    said = help_of([program, "daemon"], current, environment)
    if said is None:
        raise LoopError(f"the engine {program} does not start; {APPLY}")
    return said


@contextlib.contextmanager
def process_group(
    command: list[str], directory: str, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """The engine in a PID namespace of its own: what it starts dies with it, and nothing in there sees this process.

    systemd's PrivatePIDs would do that for the whole unit, but then it cannot wait for a main process that it stops.
    """
    engine = subprocess.Popen(
        [*bubblewrap.NAMESPACE, "--chdir", directory, "--", *command],
        cwd=directory,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield engine
    except Stopped:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(engine.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            engine.wait(GRACE)
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(engine.pid, signal.SIGKILL)
        engine.wait()
        if engine.stdout:
            engine.stdout.close()


def spoken(engine: subprocess.Popen[bytes]) -> Iterator[str]:
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


def run(config: Settings, cell: Cell, handed: Handover) -> dict[str, Any]:
    """The cycle from its checkouts to the engine's end; what it reports of itself."""
    begun = time.monotonic()
    inside = settings_in(config, cell)
    claim: dict[str, Any] = {"outcome": "error", "detail": "", "engine_ended": False}
    try:
        wire.tell(config.unit, {"what": "here"})
        check_hidden(handed.hidden)
        claim["network"] = egress.check(config, handed.network)
        if claim["network"]:
            say(f"{claim['network']}\n")
        sandbox.bound_files(config)
        sandbox.check(config, cell)
        environment = engine_environment(inside, handed)
        check_agent(inside, cell, environment, probe=handed.probe)
        made = pristine.check_out(inside, cell.part("workspace"))
        claim["checkouts"] = [one for one in made if one["status"] != "made"]
        for one in claim["checkouts"]:
            say(f"checkout {one['dest']} {one['status']}: {one['detail']}\n")
        before = round(time.monotonic() - begun, 1)
        status, report = run_engine(inside, environment)
        detail = report.get("detail", "") if report else f"the engine ended with {status} and without a report"
        claim.update(outcome=report.get("outcome", "error"), report=report, exit_status=status, engine_ended=True)
        claim["detail"] = " ".join(str(detail).split())
        claim["numbers"] = {"seconds_before_engine": before, **_used()}
    except Stopped as error:
        claim.update(outcome="interrupted", detail=str(error))
    except LoopError as error:
        claim.update(outcome="refused", detail=str(error))
    except Exception as error:  # noqa: BLE001 - the record must tell of anything
        traceback.print_exc()
        claim.update(outcome="error", detail=f"{type(error).__name__}: {error}")
    return claim


def _used() -> dict[str, float]:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"cpu_seconds": round(used.ru_utime + used.ru_stime, 1), "memory_max_bytes": used.ru_maxrss * 1024}


def stop(signum: int, _frame: object) -> None:
    """What to do where the unit is stopped."""
    raise Stopped(f"stopped by signal {signal.Signals(signum).name}: systemctl stop, a shutdown or the time-out")


def main(config_path: str = settings.DEFAULT_PATH) -> int:
    """Run one cycle and exit as ``records.EXIT_STATUS`` says."""
    signal.signal(signal.SIGTERM, stop)
    try:
        config = settings.load(config_path)
        handed = handover.take(config)
        if handed.over_budget or handed.paused:
            return records.NOTHING_DONE
        if handed.refused:
            return records.REFUSED
        claim = run(config, Cell(handed.cell), handed)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        wire.tell(config.unit, {"what": "report", **records.fitting(claim, wire.MAX_MESSAGE // 2)})
    except Stopped as error:
        say(f"{error}\n")
        return records.EXIT_STATUS["interrupted"]
    except LoopError as error:
        say(f"cycle refused: {error}\n")
        return records.REFUSED
    return records.EXIT_STATUS.get(str(claim["outcome"]), 1)
