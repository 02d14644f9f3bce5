# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages on their way to notification targets: a child of no rights speaks to the network, root only to the child.

The child is a user that systemd makes for it (``DynamicUser``) and sees nothing of the loop: no secret, no directory of
its own. What it is to send, with the URLs, comes through a pipe: nothing is in its arguments, environment or a file. It
ends in ``SECONDS``, whatever the targets do, and what it answers is read as input.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from ..base import untrusted
from ..base.errors import LoopError, MissingLibrary
from ..base.untrusted import show
from ..host import systemd
from ..host.targets import Target

Json: TypeAlias = dict[str, Any]

SECONDS = 45  # of the child, all in all; each target has so many by itself
SPARE = 15  # that systemd may need beside it
MAX_ANSWER = 256 * 1024
MAX_ORDER = 8 * 1024 * 1024
# What is closed to the child. The host's network is what it is for.
SHUT = (
    "LimitCORE=0",
    "DynamicUser=yes", "UMask=0077", "TasksMax=64", "MemoryMax=512M", "ProtectSystem=strict", "ProtectHome=yes",
    "PrivateTmp=yes", "PrivateDevices=yes", "PrivateIPC=yes", "PrivateUsers=yes", "NoNewPrivileges=yes",
    "CapabilityBoundingSet=", "ProtectKernelModules=yes", "ProtectKernelTunables=yes", "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes", "ProtectClock=yes", "ProtectHostname=yes", "ProtectProc=invisible", "ProcSubset=pid",
    "LockPersonality=yes", "RestrictRealtime=yes", "RestrictSUIDSGID=yes", "RestrictNamespaces=yes",
    "SystemCallArchitectures=native", "SystemCallFilter=@system-service", "SystemCallErrorNumber=EPERM",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6", "KillMode=control-group",
)  # fmt: skip


class Answer(NamedTuple):
    """What a target made of its messages: so many were taken, and why the next was not (empty where all were)."""

    taken: int = 0
    why: str = ""


UNKNOWN = Answer(0, "nobody knows whether it was taken")


# --- root's side ----------------------------------------------------------------------------------------


def deliver(
    lib_dir: str, targets: Sequence[Target], messages: Mapping[str, Sequence[Json]], network: Mapping[str, str]
) -> dict[str, Answer]:
    """Have the messages (target's id -> ``{kind, title, body}``) sent; what became of them, by id.

    ``network`` are variables such as HTTPS_PROXY. Nothing that a target does is an error here.
    """
    wanted = [
        {"id": one.id, "url": one.url, "messages": [{key: each[key] for key in KEYS} for each in messages[one.id]]}
        for one in targets
        if messages.get(one.id)
    ]
    if not wanted:
        return {}
    order = json.dumps({"network": dict(network), "targets": wanted, "seconds": SECONDS}).encode()
    problem, answers = _ask(lib_dir, order)
    found = {}
    for one in targets:
        if messages.get(one.id):
            answer = answers.get(one.id)
            taken, why = (answer.get("taken"), answer.get("why")) if isinstance(answer, dict) else (0, problem)
            taken = min(taken, len(messages[one.id])) if isinstance(taken, int) and taken > 0 else 0
            done = taken == len(messages[one.id])
            told = "" if done else show(without_secrets(str(why or UNKNOWN.why), one.url))
            found[one.id] = Answer(taken, told)
    return found


KEYS = ("kind", "title", "body")


def _ask(lib_dir: str, order: bytes) -> tuple[str, Json]:
    """The child's answer; where there is none, why."""
    command = [f"{lib_dir}/loop", "send"]
    if systemd.running():
        shut = [f"--property={each}" for each in (*SHUT, f"RuntimeMaxSec={SECONDS + SPARE}")]
        command = ["systemd-run", "--pipe", "--wait", "--collect", "--quiet", *shut, "--", *command]
    try:
        done = subprocess.run(command, input=order, capture_output=True, timeout=SECONDS + 2 * SPARE, check=False)
    except subprocess.TimeoutExpired:
        return f"it was not over within {SECONDS + 2 * SPARE} s", {}
    except OSError as error:
        return f"{command[0]} cannot be started ({error.strerror})", {}
    try:
        return UNKNOWN.why, untrusted.parse(done.stdout[:MAX_ANSWER], "the answer")
    except LoopError:
        last = (done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return f"what sends ended without an answer: {show(last)}", {}


def without_secrets(text: str, url: str) -> str:
    """``text`` without any part of a target's URL but its scheme, and its host where that is none."""
    parts = re.split(r"[/:@?&=#+,;%]+", url.partition("://")[2])
    for part in sorted({part for part in parts if len(part) >= 4} | {url}, key=len, reverse=True):
        if not re.fullmatch(r"\d{1,5}|https?|localhost", part):
            text = text.replace(part, "***")
    return text


# --- the child's side -----------------------------------------------------------------------------------


class _Said(logging.Handler):
    """What the library says, by the thread that it says it in: each target has one."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.of: dict[int, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self.of[threading.get_ident()] = record.getMessage()[:500]


def main() -> int:
    """Send what stdin says, all targets at once, and say on stdout what became of it."""
    order = untrusted.parse(sys.stdin.buffer.read(MAX_ORDER), "the order")
    os.environ.update(order.get("network", {}))
    try:
        answers = send_all(order["targets"], float(order["seconds"]))
    except MissingLibrary as error:
        answers = {one["id"]: Answer(0, str(error)) for one in order["targets"]}
    sys.stdout.write(json.dumps({name: answer._asdict() for name, answer in answers.items()}))
    sys.stdout.flush()
    os._exit(0)  # whoever still waits for a target is not waited for


def send_all(targets: Sequence[Json], seconds: float) -> dict[str, Answer]:
    """What became of the messages of each target; one that is not done in time has taken what it has taken."""
    try:
        import apprise
    except ImportError as error:
        raise MissingLibrary("apprise", "apprise") from error
    said = _Said()
    logging.getLogger("apprise").addHandler(said)
    logging.getLogger("apprise").propagate = False
    answers: dict[str, Answer] = {}
    ends = time.monotonic() + seconds
    workers = [
        threading.Thread(target=_send, args=(apprise, one, answers, said), daemon=True, name=one["id"])
        for one in targets
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(max(0.0, ends - time.monotonic()))
    found = dict(answers)
    for one in targets:
        answer = found.get(one["id"], Answer())
        if answer.taken < len(one["messages"]) and not answer.why:
            found[one["id"]] = Answer(answer.taken, f"it did not answer within {seconds:g} s")
    logging.getLogger("apprise").removeHandler(said)
    return found


def _send(apprise: Any, target: Json, answers: dict[str, Answer], said: _Said) -> None:
    """One target's messages, in order, up to the first that it does not take."""
    name, taken = target["id"], 0
    try:
        asset = apprise.AppriseAsset(
            app_id="engineering loop", app_desc="engineering loop", async_mode=False, secure_logging=True,
            image_url_mask=None, image_url_logo=None, app_url="https://github.com/AS215932/engineering-loop",
        )  # fmt: skip
        made = apprise.Apprise.instantiate(target["url"], asset=asset, suppress_exceptions=True)
        if made is None:
            answers[name] = Answer(0, "Apprise cannot make a target of it")
            return
        for one in target["messages"]:
            said.of.pop(threading.get_ident(), None)
            if not made.notify(
                body=one["body"], title=one["title"], notify_type=one["kind"], body_format=apprise.NotifyFormat.TEXT
            ):
                answers[name] = Answer(taken, said.of.get(threading.get_ident(), "") or "it was not taken")
                return
            taken += 1
            answers[name] = Answer(taken)
    except Exception as error:  # noqa: BLE001 - whatever a plugin does, the others are sent and this is told
        answers[name] = Answer(taken, f"{type(error).__name__}: {error}")
