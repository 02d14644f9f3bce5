# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cycle's side of the gateway's socket: what the engine finds as ``gh``, and what its git reaches out with.

A program of its own, with nothing of the core in it: it is started for every request. Called as ``gh`` it sends the
words and shows the answer; else it connects git, which gave it a host and a port, and copies both ways.
"""

import _socket  # socket itself, json and typing take longer to load than an answer takes
import os
import select
import sys

SOCKET = "ENGINEERING_LOOP_GATEWAY"
LATEST = 16 * 1024 * 1024


class Failed(Exception):
    """What is said instead of an answer."""


def connected() -> _socket.socket:
    path = os.environ.get(SOCKET, "")
    server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        server.connect(path)
    except OSError as error:
        raise Failed(
            f"the gateway to the forge does not answer at {path or 'no socket'} ({error.strerror}); {SOCKET} names it"
        ) from error
    return server


def gh(words: list[str]) -> int:
    """One request: the words, with a file that they name read here, where it is."""
    import json

    for option in ("--body-file", "-F"):
        if option in words[:-1]:
            at = words.index(option)
            try:
                with open(0 if words[at + 1] == "-" else words[at + 1], encoding="utf-8", errors="replace") as handle:
                    words[at : at + 2] = ["--body", handle.read(1 << 20)]
            except OSError as error:
                raise Failed(f"{words[at + 1]}: {error.strerror}") from error
    server = connected()
    try:
        server.sendall(json.dumps({"what": "gh", "words": words}).encode() + b"\n")
        server.shutdown(_socket.SHUT_WR)
        answer = b""
        while len(answer) < LATEST and (chunk := server.recv(1 << 16)):
            answer += chunk
        told = json.loads(answer)
        out, err = (told[name].encode("utf-8", "replace") for name in ("stdout", "stderr"))
        status = int(told["status"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Failed("the gateway to the forge broke off: see its journal") from error
    sys.stdout.buffer.write(out)
    sys.stderr.buffer.write(err)
    return status


def copy() -> int:
    """git's own protocol, both ways, until the gateway has said all."""
    server = connected()
    ways = {0: server.fileno(), server.fileno(): 1}
    try:
        while server.fileno() in ways:
            for source in select.select(list(ways), [], [])[0]:
                chunk = os.read(source, 1 << 17)
                if not chunk:
                    del ways[source]
                    if source == 0:
                        server.shutdown(_socket.SHUT_WR)
                while chunk:
                    chunk = chunk[os.write(ways[source], chunk) :]
    except OSError:  # git went away, or the gateway did
        return 1
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(gh(sys.argv[1:]) if os.path.basename(sys.argv[0]) == "gh" else copy())
    except Failed as problem:
        raise SystemExit(str(problem)) from None
