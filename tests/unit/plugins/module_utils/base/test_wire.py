# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The socket beside a cycle: one bounded message each way, and who speaks by the kernel's word."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base import wire
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError

UNIT = "u"


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def test_where_it_is() -> None:
    assert wire.place(UNIT) == "/run/u-watch/socket"


def sent(pair: tuple[socket.socket, socket.socket], content: bytes) -> dict[str, Any]:
    writer = threading.Thread(target=lambda: (pair[0].sendall(content), pair[0].shutdown(socket.SHUT_WR)))
    writer.start()
    try:
        return wire.receive(pair[1])
    finally:
        pair[1].close()
        writer.join()


def test_a_message(pair: tuple[socket.socket, socket.socket]) -> None:
    assert sent(pair, b'{"what": "here", "odd": "\\udcff"}\n') == {"what": "here", "odd": "\udcff"}


def test_one_without_its_end_counts_as_whole_where_the_other_side_has_closed(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    assert sent(pair, b'{"a": 1}') == {"a": 1}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "nothing was said"), (b"\n", "is not JSON"), (b"hello\n", "is not JSON"),
        (b"[]\n", "is no JSON object"), (b"[" * 200_000 + b"\n", "is not JSON"), (b'{"a": 1\n', "is not JSON"),
        (b'{"a":' * 50 + b"1" + b"}" * 50 + b"\n", "is nested deeper"), (b"\xff\n", "is not JSON"),
    ],
)  # fmt: skip
def test_what_is_no_message(pair: tuple[socket.socket, socket.socket], content: bytes, reason: str) -> None:
    with pytest.raises(LoopError, match=reason):
        sent(pair, content)


def test_one_that_is_too_long(pair: tuple[socket.socket, socket.socket]) -> None:
    stop = threading.Event()

    def talk() -> None:
        try:
            while not stop.is_set():
                pair[0].sendall(b'{"a": "' + b"x" * 65536)
        except OSError:
            pass

    talker = threading.Thread(target=talk)
    talker.start()
    with pytest.raises(LoopError, match=f"longer than {wire.MAX_MESSAGE} bytes"):
        wire.receive(pair[1])
    pair[1].close()
    stop.set()
    talker.join()


def test_one_that_never_comes(pair: tuple[socket.socket, socket.socket]) -> None:
    began = time.monotonic()
    with pytest.raises(LoopError, match="a message broke off: timed out"):
        wire.receive(pair[1], seconds=0.3)
    assert time.monotonic() - began < 10


def test_one_that_comes_byte_by_byte(pair: tuple[socket.socket, socket.socket]) -> None:
    stop = threading.Event()

    def drip() -> None:
        try:
            while not stop.wait(0.05):
                pair[0].send(b" ")
        except OSError:
            pass

    dripper = threading.Thread(target=drip)
    dripper.start()
    began = time.monotonic()
    with pytest.raises(LoopError, match=r"did not end in time|timed out"):
        wire.receive(pair[1], seconds=0.5)
    assert time.monotonic() - began < 10
    pair[1].close()
    stop.set()
    dripper.join()


def test_who_speaks(pair: tuple[socket.socket, socket.socket]) -> None:
    assert wire.peer_of(pair[0]) == wire.Peer(os.getpid(), os.geteuid())


class Watch:
    """A watch that takes what ``act`` takes."""

    def __init__(self, path: str, act: Callable[[dict[str, Any]], None]) -> None:
        self.server = wire.listen(path)
        self.thread = threading.Thread(target=self.serve, args=(act,), daemon=True)
        self.thread.start()

    def serve(self, act: Callable[[dict[str, Any]], None]) -> None:
        while True:
            try:
                connection, _unused = self.server.accept()
            except OSError:
                return
            with connection:
                wire.answer(connection, act)

    def end(self) -> None:
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        self.thread.join(5)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(wire, "place", lambda _config: f"{tmp_path}/socket")
    return f"{tmp_path}/socket"


def test_said_and_taken(place: str) -> None:
    heard: list[dict[str, Any]] = []
    Path(place).write_text("left by a killed one")
    watch = Watch(place, heard.append)
    assert stat.S_IMODE(os.stat(place).st_mode) == 0o666
    assert wire.tell(UNIT, {"what": "here"}) == {"ok": True}
    large = {"what": "report", "text": "x" * 200_000}
    assert wire.tell(UNIT, large) == {"ok": True}
    assert heard == [{"what": "here"}, large]
    watch.end()


def test_what_is_not_taken_stops_who_says_it(place: str) -> None:
    def refuse(_message: dict[str, Any]) -> None:
        raise LoopError("not \x1b[2J you")

    watch = Watch(place, refuse)
    with pytest.raises(LoopError, match=r"the watch beside the cycle says: not \\x1b\[2J you$"):
        wire.tell(UNIT, {"what": "here"})
    watch.end()


def test_without_a_watch_nothing_goes_on(place: str) -> None:
    began = time.monotonic()
    with pytest.raises(LoopError, match=r"the watch beside the cycle does not answer .*is it running"):
        wire.tell(UNIT, {"what": "here"}, seconds=0.4)
    assert 0.3 < time.monotonic() - began < 5


def test_one_that_is_being_started_is_waited_for(place: str) -> None:
    started: list[Watch] = []
    timer = threading.Timer(0.4, lambda: started.append(Watch(place, lambda _message: None)))
    timer.start()
    assert wire.tell(UNIT, {"what": "here"}, seconds=10) == {"ok": True}
    timer.join()
    started[0].end()


@pytest.mark.parametrize("reply", [b"", b"nonsense\n", b"{}\n", b'{"ok": false}\n'])
def test_an_odd_answer_is_none(place: str, reply: bytes) -> None:
    server = wire.listen(place)

    def serve() -> None:
        connection, _unused = server.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(reply)

    thread = threading.Thread(target=serve)
    thread.start()
    with pytest.raises(LoopError):
        wire.tell(UNIT, {"what": "here"}, seconds=1)
    thread.join()
    server.close()


def test_who_hangs_up_before_the_answer_harms_nobody(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].sendall(json.dumps({"what": "here"}).encode() + b"\n")
    pair[0].close()
    heard: list[dict[str, Any]] = []
    wire.answer(pair[1], heard.append)
    assert heard == [{"what": "here"}]
