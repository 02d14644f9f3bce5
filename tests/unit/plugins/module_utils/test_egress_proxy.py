# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proxy itself, on real sockets: what it refuses, what it passes on, and how it goes through another one.

All addresses of a test are this host's own, so what is allowed is reached through another proxy here; the direct way is
gone on a booted host.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import re
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ansible_collections.as215932.engineering_loop.plugins.module_utils import egress, egress_proxy
from celled import NEEDS_ROOT, box
from hypothesis import given
from hypothesis import strategies as st

Serve = Callable[[socket.socket], None]


def listener() -> socket.socket:
    found = socket.socket()
    found.bind(("127.0.0.1", 0))
    found.listen()
    return found


@contextmanager
def served(serve: Serve) -> Iterator[int]:
    """A server of the test, for one connection after the other; its port."""
    with listener() as listening:

        def work() -> None:
            with suppress(OSError):
                while True:
                    serve(listening.accept()[0])

        threading.Thread(target=work, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy(way: egress_proxy.Way, *local: socket.socket) -> Iterator[int]:
    """The proxy in a thread; its port. It knows which socket is its own by the port."""
    begun: queue.Queue[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = queue.Queue()

    async def body() -> None:
        task = asyncio.current_task()
        assert task
        begun.put((asyncio.get_running_loop(), task))
        with suppress(asyncio.CancelledError):
            await egress_proxy.serve(way, [one.dup() for one in (own, *local)])
        while way.connections > known:  # each is served to its end
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)

    def work() -> None:
        asyncio.run(body())

    known = way.connections

    with listener() as own:
        before, egress.PORT = egress.PORT, own.getsockname()[1]
        thread = threading.Thread(target=work)
        thread.start()
        loop, task = begun.get(timeout=30)
        try:
            yield own.getsockname()[1]
        finally:
            loop.call_soon_threadsafe(task.cancel)
            thread.join(30)
            egress.PORT = before


def way(tmp_path: Path, *hosts: str, upstream: egress.Upstream | None = None) -> egress_proxy.Way:
    return egress_proxy.Way(egress.rules(hosts), upstream, str(tmp_path / "refused.json"))


def said(port: int, request: bytes) -> bytes:
    """All that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer


def head(connection: socket.socket) -> bytes:
    found = b""
    while not found.endswith(b"\r\n\r\n"):
        found += connection.recv(1)
    return found


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "status", "noted"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", b"200 This is the way out", ""),
        (b"CONNECT evil.example:443 HTTP/1.1\r\n\r\n", b"403 evil.example:443 is not named", "evil.example:443"),
        (
            b"GET http://evil.example/x HTTP/1.1\r\nHost: ok.example\r\n\r\n",
            b"403 evil.example:80 is",
            "evil.example:80",
        ),
        (b"CONNECT OK.example:22 HTTP/1.1\r\n\r\n", b"403 ok.example:22 is not named", "ok.example:22"),
        (b"CONNECT 127.0.0.1:443 HTTP/1.1\r\n\r\n", b"403 127.0.0.1:443 is not named", "127.0.0.1:443"),
        (b"CONNECT [::1]:443 HTTP/1.1\r\n\r\n", b"403 [::1]:443 is not named", "[::1]:443"),
        (b"CONNECT localhost:443 HTTP/1.1\r\n\r\n", b"403 localhost:443 leads to this host itself", "localhost:443"),
        (b"GET http://localhost/ HTTP/1.1\r\n\r\n", b"403 localhost:80 leads to this host itself", "localhost:80"),
        (b"CONNECT no.invalid:443 HTTP/1.1\r\n\r\n", b"502 no.invalid has no address", ""),
        (b"CONNECT ok.example HTTP/1.1\r\n\r\n", b"400 No host and port", ""),
        (b"CONNECT ok.example:99999 HTTP/1.1\r\n\r\n", b"400 No host and port", ""),
        (b"CONNECT http://ok.example/ HTTP/1.1\r\n\r\n", b"400 This is a proxy", ""),
        (b"CONNECT u@ok.example:443 HTTP/1.1\r\n\r\n", b"400 No host and port", ""),
        (b"GET /x HTTP/1.1\r\n\r\n", b"400 This is a proxy", ""),
        (b"GET ftp://ok.example/ HTTP/1.1\r\n\r\n", b"400 This is a proxy", ""),
        (b"hello\r\n\r\n", b"400 This is a proxy for HTTP/1.1", ""),
        (b"\xff\xfe \x00 HTTP/1.1\r\n\r\n", b"400 This is a proxy", ""),
        (b"GET http://x/ HTTP/1.1\r\n" + b"A: b\r\n" * 20_000, b"431 The head", ""),
    ],
)
def test_what_is_refused(tmp_path: Path, request_: bytes, status: bytes, noted: str) -> None:
    with proxy(way(tmp_path, "ok.example", "localhost", "no.invalid")) as port:
        answer = said(port, request_)
    assert answer.startswith(b"HTTP/1.1 " + status), answer
    file = tmp_path / "refused.json"
    assert (list(json.loads(file.read_text())) if file.exists() else []) == ([noted] if noted else [])


def test_a_client_that_goes_away_and_one_that_says_nothing_harm_nobody(tmp_path: Path) -> None:
    with proxy(way(tmp_path)) as port:
        for begun in (b"", b"CONNECT x"):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(begun)
        with socket.create_connection(("127.0.0.1", port)):
            assert b" 200 " in said(port, b"GET / HTTP/1.0\r\n\r\n")
            egress.ask_proxy({"unit": "u"}, port)


def test_too_many_at_once_are_told_so(tmp_path: Path) -> None:
    busy = way(tmp_path)
    busy.connections = egress_proxy.MAX_CONNECTIONS
    with proxy(busy) as port:
        assert said(port, b"").startswith(b"HTTP/1.1 503 More than 500 connections")
    assert busy.connections == egress_proxy.MAX_CONNECTIONS


@given(st.binary(max_size=400) | st.builds(b"%b %b HTTP/1.1\r\n%b".__mod__, st.tuples(*[st.binary(max_size=60)] * 3)))
def test_any_head_is_refused_or_names_a_plain_host(content: bytes) -> None:
    with suppress(egress_proxy.Refused):
        method, target, headers = egress_proxy.parse(content + b"\r\n\r\n")
        host, port, path = egress_proxy.wanted(method, target)
        assert re.fullmatch(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]", host) and 0 < port < 65536 and path.startswith("/")
        first = egress_proxy.rewritten(method, target, path, headers).split(b"\r\n")[0]
        assert method == "CONNECT" or re.fullmatch(rb"[^ ]+ /[^ ]* HTTP/1\.1", first)


@given(
    st.sampled_from([b"CONNECT ", b"GET http://", b"POST HTTP://"]),
    st.from_regex(rb"[a-zA-Z0-9._\[\]:-]{1,30}(:[0-9]{1,6})?(/[!-~]{0,9})?", fullmatch=True),
)
def test_heads_that_are_almost_right(verb: bytes, target: bytes) -> None:
    test_any_head_is_refused_or_names_a_plain_host.hypothesis.inner_test(verb + target + b" HTTP/1.1\r\nHost: x")


# --- through another proxy ------------------------------------------------------------------------


def another(heard: list[bytes], answer: bytes = b"HTTP/1.1 200 OK\r\nVia: x\r\n\r\n") -> Serve:
    """A proxy that opens a tunnel to a server that says back, in capitals, what it hears."""

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            heard.append(head(connection))
            connection.sendall(answer)
            while chunk := connection.recv(65536):
                connection.sendall(chunk.upper())

    return serve


def test_a_tunnel_goes_both_ways(tmp_path: Path) -> None:
    heard: list[bytes] = []
    with served(another(heard)) as there:
        through = egress.Upstream("127.0.0.1", there, False, "u:s", "")
        with proxy(way(tmp_path, "*.ok.example", upstream=through)) as port:
            request = b"CONNECT www.ok.example:443 HTTP/1.1\r\n\r\n"
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(request + b"early ")  # what follows at once is not lost
                assert head(connection).startswith(b"HTTP/1.1 200 ")
                connection.sendall(b"x" * 300_000)
                connection.shutdown(socket.SHUT_WR)
                back = b""
                while chunk := connection.recv(65536):
                    back += chunk
    assert back == b"EARLY " + b"X" * 300_000
    assert heard[0].startswith(b"CONNECT www.ok.example:443 HTTP/1.1\r\n") and b"Basic dTpz\r\n" in heard[0]


def test_a_plain_request_is_a_tunnel_there_and_has_the_head_of_a_server(tmp_path: Path) -> None:
    heard: list[bytes] = []
    with served(another(heard)) as there:
        through = egress.Upstream("127.0.0.1", there, False, "", "")
        with (
            proxy(way(tmp_path, "ok.example:8080", upstream=through)) as port,
            socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
        ):
            lines = [b"POST http://ok.example:8080?q HTTP/1.1", b"Host: evil.example", b"Proxy-Connection: keep-alive"]
            connection.sendall(b"\r\n".join([*lines, b"Proxy-Authorization: Basic x", b"X-Mine: 1", b"", b"body"]))
            back = head(connection)
            assert connection.recv(4) == b"BODY"
    assert back == b"POST /?Q HTTP/1.1\r\nHOST: OK.EXAMPLE:8080\r\nX-MINE: 1\r\nCONNECTION: CLOSE\r\n\r\n"
    assert heard == [b"CONNECT ok.example:8080 HTTP/1.1\r\nHost: ok.example:8080\r\n\r\n"]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (
            b"HTTP/1.1 407 Who\x1b are you\r\n\r\n",
            b"502 the host's own proxy says to ok.example:443: HTTP/1.1 407 Who\\x1b",
        ),
        (b"", b"502 the host's own proxy does not let us through"),
    ],
)
def test_another_proxy_that_refuses(tmp_path: Path, answer: bytes, status: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        with connection:
            head(connection)
            connection.sendall(answer)

    with served(serve) as there:
        through = egress.Upstream("127.0.0.1", there, False, "", "")
        with proxy(way(tmp_path, "ok.example", upstream=through)) as port:
            assert said(port, b"CONNECT ok.example:443 HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 " + status)


def test_hosts_that_the_other_proxy_is_not_for(tmp_path: Path) -> None:
    through = egress.Upstream("127.0.0.1", 1, False, "", "localhost,.inside")
    with proxy(way(tmp_path, "localhost", upstream=through)) as port:
        assert b"leads to this host itself" in said(port, b"CONNECT localhost:443 HTTP/1.1\r\n\r\n")


def test_what_a_program_shows_of_it(tmp_path: Path) -> None:
    with proxy(way(tmp_path)) as port:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": f"http://127.0.0.1:{port}"}))
        with pytest.raises(urllib.error.HTTPError, match=r"evil\.example:80 is not named in engineering_loop") as shown:
            opener.open("http://evil.example/", timeout=10)
        shown.value.close()


# --- ports of the host ----------------------------------------------------------------------------


def test_a_port_of_the_host_under_its_own_number(tmp_path: Path) -> None:
    """In a cycle's namespace the same port is free to listen on; here it takes another loopback address."""

    def echo(connection: socket.socket) -> None:
        with connection:
            connection.sendall(connection.recv(100)[::-1])

    with served(echo) as there, socket.socket() as door:
        door.bind(("127.0.0.2", there))
        door.listen()
        with proxy(way(tmp_path), door), socket.create_connection(("127.0.0.2", there), timeout=10) as connection:
            connection.sendall(b"model")
            assert connection.recv(10) == b"ledom"


# --- before it ------------------------------------------------------------------------------------


@NEEDS_ROOT
def test_what_root_leaves_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with box() as host:
        host.config["egress"] = ["ok.example"]
        host.write_config()
        monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
        (host.top / "etc/env").write_text("GH_TOKEN=t\nOPENAI_API_KEY=k\nHTTPS_PROXY=http://u:s@p:3128\nNO_PROXY=x\n")
        (host.top / "etc/env").chmod(0o600)
        assert egress_proxy.prepare(str(host.config_file)) == 0
        told = json.loads((tmp_path / "settings.json").read_text())
        assert told == {"hosts": ["ok.example"], "upstream": ["p", 3128, False, "u:s", "x"]}
        assert os.stat(tmp_path / "settings.json").st_mode & 0o777 == 0o400
        (host.top / "etc/env").unlink()
        assert egress_proxy.prepare(str(host.config_file)) == 1
        assert "there is no way out: " in capsys.readouterr().out
