# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one door to the forge: ``loop gateway``, as the gate's user, started by its socket and stopped after each cycle.

A process for each connection. Who speaks is the kernel's word: a process of the loop's user in a unit that root
opened a session for, or root. Everything else is answered in one line and nothing done.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import resource
import socket
import socketserver
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

from ..base import untrusted, wire
from ..base.errors import LoopError
from ..base.journal import say
from ..cell import pristine
from ..forge import client
from ..git.command import MAX_MEMORY, begun, whole_environment
from ..host import settings
from ..host.processes import service_of
from ..host.settings import Settings
from ..host.users import account, end_with_parent
from . import access, audit, holding, judge, kept_pushes, receive, requests, sessions
from .asking import Asking

Json: TypeAlias = dict[str, Any]

# Without a session and a question for so long it ends; the socket starts it again.
IDLE_SECONDS = 20.0
SERVE_SECONDS = 600.0
SLOW_SECONDS = 10.0  # an answer that takes longer is told
FIRST_SOCKET = 3  # systemd's
GIT_REQUEST = re.compile(
    rb"(git-upload-pack|git-receive-pack) /([\w.-]{1,200})\.git\0host=[^\0]*\0(?:\0version=([12])\0)?"
)


def main(config_path: str = settings.DEFAULT_PATH) -> int:
    """Answer until there is no session and nobody has asked for a while."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        sys.stderr.write("the gateway is started by its socket\n")
        return 2
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    os.umask(0o027)
    try:
        config = settings.load(config_path)
        for name in ("inbox", "kept", "records"):
            os.makedirs(f"{config.gate_dir}/{name}", mode=0o700, exist_ok=True)
        access.take(config)
    except LoopError as error:
        say(f"{error}\n")
        return 1
    with contextlib.suppress(LoopError):  # each push is told again what is wrong with it
        judge.ready(config)
    client.load()
    gc.freeze()  # what is here now is shared with every child, and not copied to be looked through
    server = _Server(config)
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < IDLE_SECONDS:
        server.asked = False
        server.handle_request()
        if server.asked or server.active_children or sessions.listing(config):
            quiet_since = time.monotonic()
    return 0


class _Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    """Over systemd's socket."""

    timeout = 5
    max_children = 32

    def __init__(self, config: Settings) -> None:
        super().__init__("", socketserver.BaseRequestHandler, bind_and_activate=False)
        self.socket.close()
        self.socket = socket.socket(fileno=FIRST_SOCKET)
        self.config, self.pid = config, os.getpid()
        self.asked = False

    def process_request(self, request: Any, client_address: Any) -> None:
        self.asked = True
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the child."""
        end_with_parent(self.pid)
        serve(self.config, request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        traceback.print_exc()


# --- one connection -----------------------------------------------------------------------------


def serve(config: Settings, connection: socket.socket) -> None:
    """Answer one question, which begins with a line of JSON or as git begins."""
    connection.settimeout(wire.SECONDS)
    first = b""
    try:
        peer = wire.peer_of(connection)
        if peer.uid == 0:
            answer = root_asks(config, wire.receive(connection))
            connection.sendall(json.dumps(answer).encode() + b"\n")
            return
        first = wire.exactly(connection, 4)  # it tells in which words the other end wants to hear no
        asking = _who(config, peer)
        if first[:1] == b"{":
            asked = wire.receive(connection, first)
            words = asked.get("words")
            if asked.get("what") != "gh" or not isinstance(words, list):
                raise LoopError("nothing that the gateway does")
            began = time.monotonic()
            answer = requests.answer(asking, words)
            connection.sendall(json.dumps(answer).encode())
            if (seconds := time.monotonic() - began) > SLOW_SECONDS:
                say(f"gh {untrusted.show(' '.join(map(str, words[:2])))} took {seconds:.0f} s\n")
        else:
            _git(asking, connection, first)
    except (LoopError, OSError) as error:
        refuse(connection, first, str(error))
    except Exception:  # noqa: BLE001 - whoever waits must hear something
        traceback.print_exc()
        refuse(connection, first, "it failed, see its journal")


def refuse(connection: socket.socket, first: bytes, why: str) -> None:
    """In the words that the other end understands."""
    say(f"refused: {untrusted.show(why, 500)}\n")
    told = f"the gateway: {why}"
    with contextlib.suppress(OSError):
        if first[:1] == b"{" or not first:
            connection.sendall(
                json.dumps({"status": 1, "stdout": "", "stderr": f"{told}\n", "why": why}).encode() + b"\n"
            )
        else:
            connection.sendall(wire.packet(f"ERR {untrusted.show(told, 2000)}\n".encode()))
        wire.hear_out(connection)


def _who(config: Settings, peer: wire.Peer) -> Asking:
    """The session of the unit that this process belongs to."""
    if peer.uid != account(config.user).pw_uid:
        raise LoopError(f"uid {peer.uid} is not {config.user}, and nobody else may ask")
    unit = service_of(peer.pid)
    session = sessions.session_of(config, unit)

    def still() -> bool:
        return sessions.session_of(config, unit) == session

    cycle, bound = str(session.get("cycle")), session.get("bound") is not False
    may = tuple(map(str, session["may"])) if "may" in session else None
    return Asking(config, cycle, bound, lambda: access.token(config).token, still, session.get("counts") or {}, may)


def _git(asking: Asking, connection: socket.socket, first: bytes) -> None:
    """git's own protocol, as git: URLs speak it."""
    if asking.may is not None:
        raise LoopError("a job beside the cycle has nothing to fetch or push here")
    asked = GIT_REQUEST.fullmatch(wire.unpacked(connection, first))
    if asked is None:
        raise LoopError("nothing that git asks for")
    service, dest, version = asked[1].decode(), asked[2].decode(), (asked[3] or b"").decode()
    clone = next((one for one in pristine.clones(asking.config) if one.dest == dest), None)
    if clone is None:
        raise LoopError(f"{untrusted.show(dest)} is no repository of this loop")
    if service == "git-receive-pack":
        # What is judged here, and with what: a change that grows under git's or our hands ends this process.
        resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY,) * 2)
        receive.receive(asking, clone, connection)
        return
    asking.note("fetch", repo=clone.repo, dest=dest)
    refreshed = pristine.refresh_one(asking.config, clone, asking.token())
    if refreshed["status"] == "failed":
        raise LoopError(f"{clone.repo} cannot be fetched: {refreshed['detail']}")
    connection.settimeout(None)
    protocol = {"GIT_PROTOCOL": f"version={version}"} if version else {}
    environment = whole_environment(protocol, {"uploadpack.allowFilter": "true"})
    subprocess.run(
        [*begun(), "git", "upload-pack", "--strict", "--timeout=60", clone.path], env=environment,
        stdin=connection.fileno(), stdout=connection.fileno(), stderr=subprocess.DEVNULL,
        timeout=SERVE_SECONDS, check=False,
    )  # fmt: skip


# --- root ---------------------------------------------------------------------------------------


def root_asks(config: Settings, asked: Json) -> Json:
    """Before a cycle: let go of what was kept long enough, and bring all clones to what the forge has.

    After one: write under an issue that it is held.
    """
    if asked.get("what") == "comment":
        return holding.comment(config, access.token(config).token, asked)
    if asked.get("what") != "refresh":
        raise LoopError("nothing that root asks")
    kept_pushes.tidy(config)
    audit.forget_old(config)
    found = access.token(config)
    with ThreadPoolExecutor(1) as pool:  # the forge is asked while git waits for it as well
        ends = pool.submit(_ends, config, found.token) if not found.expires_at else None
        refreshed = pristine.refresh(config, found.token)
    tips = {one["dest"]: one["after"] for one in refreshed if one["after"]}
    audit.append(config, str(asked.get("cycle")), {"what": "refresh", "tips": tips})
    token = {"kind": found.kind, "note": found.note, "expires": ends.result() if ends else found.expires_at}
    return {"ok": True, "clones": refreshed, "token": token}


def _ends(config: Settings, token: str) -> str:
    """When a token that was not minted ends, so that it is told before. A forge that does not say it ends no cycle."""
    try:
        return client.Forge(config.api_url, token, patience=0).token_ends()
    except LoopError:
        return ""
