# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run by the agent, in its sandbox: what it reaches, as JSON. The argument is a port that the host listens on."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

PEM = "/usr/local/lib/loop-world/far.pem"
PAGES = (
    "http://allowed.example.test:8080/page",
    "https://www.secure.example.test:8443/page",
    "http://refused.example.test:8080/page",
    "https://refused.example.test:8443/page",
    "http://mine.example.test/",
    "https://loopback.example.test/",
    "http://link.example.test/",
    "http://mapped.example.test/",
    "https://six.example.test/",
    "http://198.51.100.2:8080/page",
)
DIRECT = (
    "198.51.100.2:8080", "198.51.100.1:PORT", "127.0.0.1:PORT", "127.0.0.2:PORT", "[::1]:PORT", "127.0.0.1:7711",
)  # fmt: skip


def fetched(url: str) -> str:
    try:
        context = ssl.create_default_context(cafile=PEM)
        with urllib.request.urlopen(url, timeout=20, context=context) as answer:  # noqa: S310 - PAGES alone
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return f"{error} ({error.headers['Refused']})"
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"


def connected(place: str, port: str) -> bool:
    host, _colon, number = place.replace("PORT", port).rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(number)), timeout=5):
            return True
    except OSError:
        return False


def devices() -> list[str]:
    with open("/proc/net/dev", encoding="ascii") as handle:
        return sorted(line.split(":")[0].strip() for line in handle if ":" in line)


if __name__ == "__main__":
    # All at once: what is dropped on its way answers nobody until the time is up.
    with ThreadPoolExecutor() as pool:
        pages = dict(zip(PAGES, pool.map(fetched, PAGES), strict=True))
        direct = dict(zip(DIRECT, pool.map(lambda place: connected(place, sys.argv[1]), DIRECT), strict=True))
    told = {name: value for name, value in os.environ.items() if "proxy" in name.lower()}
    print(json.dumps({"pages": pages, "direct": direct, "told": told, "devices": devices()}))
