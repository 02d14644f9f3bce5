# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proxy between a cycle and the network: it reaches the named hosts and nothing of this host.

systemd hands it the sockets that listen in the cycle's namespace, so nobody else can speak to it. A name is looked at,
resolved here, and where it leads looked at as well; the connection goes to the very address that was looked at. What
follows is passed on as it is. A port of the host that was named is passed through under the same number.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import json
import os
import re
import socket
import ssl
import urllib.request
from dataclasses import dataclass, field
from typing import TypeAlias

from . import egress, env_file, settings, untrusted
from .errors import LoopError
from .files import write_atomic
from .journal import say

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]

MAX_HEAD = 64 * 1024
MAX_CONNECTIONS = 500
CHUNK = 64 * 1024
HEAD_SECONDS, DIAL_SECONDS = 60.0, 20.0
AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_-][A-Za-z0-9._-]*)(?::([0-9]{1,5}))?")
ABSOLUTE = re.compile(r"(?i)http://([^\s/?#@]+)([/?]\S*)?")
# About one connection, so not to be passed on; Host is written anew from what was asked for.
NOT_PASSED = ("connection", "proxy-connection", "proxy-authorization", "keep-alive", "host")


class Refused(LoopError):
    """This is not reached from here."""


@dataclass
class Way:
    """What may be reached, and by which way."""

    rules: list[egress.Rule]
    upstream: egress.Upstream | None
    refused_file: str
    refused: dict[str, float] = field(default_factory=dict)
    connections: int = 0


# --- before it, as root -------------------------------------------------------------------------


def prepare(config_path: str = settings.DEFAULT_PATH) -> int:
    """Leave what the proxy needs to know, which may read neither settings nor secrets, in its runtime directory."""
    directory = os.environ["RUNTIME_DIRECTORY"]
    try:
        config = settings.load(config_path)
        upstream = egress.upstream({**os.environ, **env_file.load(config["env_file"], config["forbidden_environment"])})
        told = {"hosts": config["egress"], "upstream": list(upstream) if upstream else None}
        owner = os.stat(directory)
        content = json.dumps(told).encode()
        write_atomic(f"{directory}/settings.json", content, mode=0o400, uid=owner.st_uid, gid=owner.st_gid)
    except LoopError as error:
        say(f"there is no way out: {error}\n")
        return 1
    return 0


# --- the service --------------------------------------------------------------------------------


def main() -> int:
    """Serve what systemd listens on, until we are stopped."""
    directory = os.environ["RUNTIME_DIRECTORY"]
    with open(f"{directory}/settings.json", encoding="utf-8") as handle:
        told = json.load(handle)
    upstream = egress.Upstream(*told["upstream"]) if told["upstream"] else None
    way = Way(egress.rules(told["hosts"]), upstream, f"{directory}/refused.json")
    given = int(os.environ.get("LISTEN_FDS", "0"))
    asyncio.run(serve(way, [socket.socket(fileno=number) for number in range(3, 3 + given)]))
    return 0


async def serve(way: Way, listeners: list[socket.socket]) -> None:
    """Of the listening sockets the one with the proxy's port is the proxy's; each other one is a port of the host."""
    servers = []
    for one in listeners:
        port = one.getsockname()[1]

        async def handle(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, local: int = 0 if port == egress.PORT else port
        ) -> None:
            await attend(way, (reader, writer), local)

        servers.append(await asyncio.start_server(handle, sock=one, limit=MAX_HEAD))
    await asyncio.gather(*(server.serve_forever() for server in servers))


async def attend(way: Way, client: Streams, local: int) -> None:
    """One connection, to its end. Whatever happens to it happens to no other."""
    way.connections += 1
    try:
        if way.connections > MAX_CONNECTIONS:
            raise Refused(f"503 More than {MAX_CONNECTIONS} connections at once")
        if local:
            await pass_on(client, await dial_local(local))
        else:
            await answer(way, client)
    except Refused as error:
        with contextlib.suppress(OSError):
            client[1].write(page(str(error)))
            await client[1].drain()
    except (OSError, EOFError, TimeoutError, ssl.SSLError):
        pass  # either end went away
    finally:
        way.connections -= 1
        client[1].close()


def page(status: str) -> bytes:
    """An answer of our own. The reason is in the first line, which is what programs show."""
    text = untrusted.show(status, 500).encode("ascii", "replace")
    head = b"HTTP/1.1 %s\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    return head % (text, len(text) + 1) + text + b"\n"


# --- a request ------------------------------------------------------------------------------------


async def answer(way: Way, client: Streams) -> None:
    try:
        head = await asyncio.wait_for(client[0].readuntil(b"\r\n\r\n"), HEAD_SECONDS)
    except asyncio.LimitOverrunError:
        raise Refused("431 The head of the request is too long") from None
    method, target, headers = parse(head)
    if target == "/":
        raise Refused("200 This is the way out to the hosts of engineering_loop_egress")
    host, port, path = wanted(method, target)
    there = await reach(way, host, port)
    if method == "CONNECT":
        client[1].write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    else:
        there[1].write(rewritten(method, target, path, headers))
    await pass_on(client, there)


def parse(head: bytes) -> tuple[str, str, list[str]]:
    """Method, target and header lines."""
    lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[0].isalpha():
        raise Refused("400 This is a proxy for HTTP/1.1")
    return words[0], words[1], lines[1:]


def wanted(method: str, target: str) -> tuple[str, int, str]:
    """Host, port and path of what is asked for."""
    absolute = ABSOLUTE.fullmatch(target)
    if (method != "CONNECT") != bool(absolute):
        raise Refused("400 This is a proxy: it wants CONNECT host:port, or a whole http:// URL")
    authority = AUTHORITY.fullmatch(absolute[1] if absolute else target)
    port = int(authority[2] or 80) if authority else 0
    if not authority or not 0 < port < 65536 or (method == "CONNECT" and not authority[2]):
        raise Refused("400 No host and port")
    path = (absolute[2] if absolute else "") or "/"
    return egress.plain(authority[1]), port, path if path.startswith("/") else f"/{path}"


def rewritten(method: str, target: str, path: str, headers: list[str]) -> bytes:
    """The head of a plain request, as the server itself wants it. What follows is its body."""
    kept = [line for line in headers if line.partition(":")[0].strip().lower() not in NOT_PASSED]
    authority = ABSOLUTE.fullmatch(target)
    lines = [f"{method} {path} HTTP/1.1", f"Host: {authority[1] if authority else ''}", *kept, "Connection: close"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


# --- the way there --------------------------------------------------------------------------------


async def reach(way: Way, host: str, port: int) -> Streams:
    """A connection to a host that may be reached."""
    if not any(rule.admits(host, port) for rule in way.rules):
        raise refuse(way, host, port, "is not named in engineering_loop_egress")
    through = way.upstream
    if through and not urllib.request.proxy_bypass_environment(host, {"no": through.except_for}):  # type: ignore[attr-defined]
        return await dial_through(through, host, port)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Refused(f"502 {host} has no address that the host knows") from None
    places = list(dict.fromkeys(str(place[4][0]) for place in found))
    others = [place for place in places if not egress.is_own(ipaddress.ip_address(place.partition("%")[0]))]
    if not others:
        raise refuse(way, host, port, f"leads to this host itself ({', '.join(places[:3])})")
    return await dial(others, port)


def refuse(way: Way, host: str, port: int, why: str) -> Refused:
    name = untrusted.show(f"{host}:{port}")
    if egress.remembered(way.refused, name):
        say(f"refused: {name} {why}\n")
    with contextlib.suppress(LoopError, OSError):  # it is refused all the same
        write_atomic(way.refused_file, json.dumps(way.refused).encode(), mode=0o600)
    return Refused(f"403 {name} {why}")


async def dial(places: list[str], port: int) -> Streams:
    for place in places:
        with contextlib.suppress(OSError, TimeoutError):
            return await asyncio.wait_for(asyncio.open_connection(place, port), DIAL_SECONDS)
    raise Refused(f"502 {', '.join(places[:3])} did not take the connection to port {port}")


async def dial_local(port: int) -> Streams:
    """A port of this host, which the deployment has named."""
    return await dial(["127.0.0.1", "::1"], port)


async def dial_through(through: egress.Upstream, host: str, port: int) -> Streams:
    """Through another proxy, always by CONNECT: it would take a second request on a plain one for another host."""
    context = ssl.create_default_context() if through.tls else None
    login = ""
    if through.login:
        login = f"Proxy-Authorization: Basic {base64.b64encode(through.login.encode()).decode()}\r\n"
    with contextlib.ExitStack() as stack:
        try:
            opened = asyncio.open_connection(through.host, through.port, ssl=context, limit=MAX_HEAD)
            reader, writer = await asyncio.wait_for(opened, DIAL_SECONDS)
            stack.callback(writer.close)
            writer.write(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{login}\r\n".encode())
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_SECONDS)
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError, ssl.SSLError):
            raise Refused(f"502 the host's own proxy does not let us through to {host}:{port}") from None
        status = head.split(b"\r\n")[0].decode("latin-1")
        if not re.match(r"HTTP/1\.[01] 2\d\d\b", status):
            raise Refused(f"502 the host's own proxy says to {host}:{port}: {untrusted.show(status)}")
        stack.pop_all()
        return reader, writer


async def pass_on(one: Streams, other: Streams) -> None:
    """Both ways, until both ends have said all."""
    try:
        await asyncio.gather(_copy(one[0], other[1]), _copy(other[0], one[1]))
    finally:
        other[1].close()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while chunk := await source.read(CHUNK):
        sink.write(chunk)
        await sink.drain()
    if sink.can_write_eof():
        with contextlib.suppress(OSError):
            sink.write_eof()
