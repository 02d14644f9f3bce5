# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A package registry with one agent in it, and a host that is told to have it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import agents

NPM = shutil.which("npm") or str(Path(sys.executable).with_name("npm"))
NAME = "@played/agent"
PROGRAM = "#!/bin/sh\necho 1.2.3\n"


def packed(files: dict[str, str]) -> bytes:
    """A package as npm keeps it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size, info.mode = len(text.encode()), 0o644
            archive.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


def integrity(content: bytes) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()


class Registry:
    """What an npm registry answers, as far as an installation asks."""

    def __init__(self) -> None:
        self.packages: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.replace("%2f", "/").lstrip("/")
                registry.asked.append(name)
                known = registry.packages.get(name)
                content = json.dumps(known).encode() if known else registry.files.get(name, b"")
                self.send_response(200 if content else 404)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def publish(self, name: str, version: str, files: dict[str, str] | None = None, **about: Any) -> str:
        """Offer a version; its hash."""
        described = {"name": name, "version": version, **about}
        content = packed({"package.json": json.dumps(described), **(files or {})})
        place = f"tar/{name}-{version}.tgz"
        self.files[place] = content
        dist = {"tarball": f"{self.url}/{place}", "integrity": integrity(content)}
        known = self.packages.setdefault(name, {"name": name, "versions": {}, "dist-tags": {}})
        known["versions"][version] = {**described, "dist": dist}
        known["dist-tags"]["latest"] = version
        return integrity(content)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    found = Registry()
    monkeypatch.setenv("npm_config_registry", found.url)
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    monkeypatch.setattr(agents, "PATH", f"{os.path.dirname(NPM)}:{agents.PATH}")
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def agent(registry: Registry) -> dict[str, str]:
    """An agent that needs another package, both with scripts that must not run."""
    spoil = {"install": "touch ../../../spoiled ../../spoiled"}
    registry.publish("helper", "2.0.0", {"index.js": "1\n"}, scripts=spoil)
    wanted = registry.publish(
        NAME, "1.2.3", {"cli.sh": PROGRAM}, bin={"pi": "cli.sh"}, dependencies={"helper": "^2.0.0"}, scripts=spoil
    )
    return {"package": NAME, "version": "1.2.3", "integrity": wanted, "program": "pi", "lock": ""}


def config_of(top: Path, agent: dict[str, str], **more: Any) -> Settings:
    return Settings(more, install_dir=str(top), agent=agent, agent_programs=["pi"])


def below(top: Path) -> list[str]:
    return sorted(name for name in os.listdir(top / "agents") if name != ".lock")
