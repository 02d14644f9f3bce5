# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sockets between a cycle, root's watch beside it and the gateway: one JSON object each way, or git's packets."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import struct
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from . import untrusted
from .errors import LoopError

MAX_MESSAGE = 1024 * 1024
SECONDS = 10.0
# A host under load may take long to answer, and a cycle that gives up is a cycle lost.
PATIENCE = 30.0


class Peer(NamedTuple):
    """Who speaks, by the kernel's word."""

    pid: int
    uid: int


def place(unit: str) -> str:
    """Where the socket is: in the watch's runtime directory, which is root's."""
    return f"/run/{unit}-watch/socket"


def listen(path: str) -> socket.socket:
    """The watch's end. Everybody may connect; who it is counts."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if os.path.lexists(path):
        os.unlink(path)
    server.bind(path)
    os.chmod(path, 0o666)
    server.listen(16)
    return server


def peer_of(connection: socket.socket) -> Peer:
    """The process at the other end."""
    size = struct.calcsize("3i")
    pid, uid, _gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return Peer(pid, uid)


def receive(connection: socket.socket, begun: bytes = b"", seconds: float = SECONDS) -> dict[str, Any]:
    """One message, up to its end. LoopError where it is too long, too slow or no JSON object."""
    connection.settimeout(seconds)
    deadline, content = time.monotonic() + seconds, begun
    while not content.endswith(b"\n"):
        if time.monotonic() > deadline:
            raise LoopError("a message did not end in time")
        try:
            chunk = connection.recv(65536)
        except OSError as error:
            raise LoopError(f"a message broke off: {error}") from error
        if not chunk and not content:
            raise LoopError("nothing was said, see its journal")
        if not chunk:
            break
        content += chunk
        if len(content) > MAX_MESSAGE:
            raise LoopError(f"a message is longer than {MAX_MESSAGE} bytes")
    return untrusted.parse(content, "a message")


def exactly(connection: socket.socket, size: int, seconds: float = SECONDS) -> bytes:
    """So many bytes. LoopError where they do not come in time, or the other end has gone."""
    found, deadline = b"", time.monotonic() + seconds
    while len(found) < size:
        if time.monotonic() > deadline:
            raise LoopError("a request did not end in time")
        chunk = connection.recv(size - len(found))
        if not chunk:
            raise LoopError("a request broke off")
        found += chunk
    return found


def hear_out(connection: socket.socket, seconds: float = SECONDS) -> None:
    """Say no more, and throw away what still comes: who is cut off while it speaks does not hear what it was told."""
    connection.shutdown(socket.SHUT_WR)
    deadline = time.monotonic() + seconds
    connection.settimeout(1.0)
    while time.monotonic() < deadline and connection.recv(1 << 16):
        pass


def packet(content: bytes) -> bytes:
    """As git frames it: gitprotocol-common(5)."""
    return b"%04x" % (len(content) + 4) + content


def unpacked(connection: socket.socket, begun: bytes = b"", most: int = 1000, seconds: float = SECONDS) -> bytes:
    """What is in git's next packet, of which ``begun`` was read; empty for the one that ends a list."""
    head = begun or exactly(connection, 4, seconds)
    size = int(head, 16) if re.fullmatch(rb"[0-9a-fA-F]{4}", head) else 1
    if 0 < size <= 4 or size > most:
        raise LoopError("nothing that git asks for")
    return exactly(connection, max(0, size - 4), seconds)


def tell(unit: str, message: Mapping[str, Any], seconds: float = PATIENCE) -> dict[str, Any]:
    """Tell the watch and wait for its answer. LoopError where it does not take it: then nothing may go on."""
    return ask(place(unit), message, "the watch beside the cycle", seconds)


def ask(path: str, message: Mapping[str, Any], whom: str, seconds: float) -> dict[str, Any]:
    """Send a message to the socket at ``path`` and return the answer. LoopError where ``whom`` says no, or nothing.

    ``seconds`` are for the answer; that somebody is there is waited for no longer than ``PATIENCE``.
    """
    content = json.dumps(message).encode() + b"\n"
    deadline = time.monotonic() + min(seconds, PATIENCE)
    while True:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(max(0.1, deadline - time.monotonic()))
                connection.connect(path)
                connection.sendall(content)
                connection.shutdown(socket.SHUT_WR)
                answer = receive(connection, seconds=max(SECONDS, seconds))
                break
        except LoopError as error:
            raise LoopError(f"{whom}: {error}") from error
        except OSError as error:
            if time.monotonic() > deadline:
                raise LoopError(f"{whom} does not answer ({error}); is it running?") from error
            time.sleep(0.1)  # it is being started anew
    if not answer.get("ok"):
        raise LoopError(f"{whom} says: {untrusted.show(str(answer.get('why', 'no')), 1000)}")
    return answer


def answer(connection: socket.socket, act: Callable[[dict[str, Any]], None]) -> None:
    """Receive one message, act on it, and say whether it was taken."""
    reply: dict[str, Any] = {"ok": True}
    try:
        act(receive(connection))
    except LoopError as error:
        reply = {"ok": False, "why": str(error)}
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(reply).encode() + b"\n")
