# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A forge on this machine: GitHub's REST calls that a loop and its deployer make, and git over HTTP.

Every exchange is held to GitHub's own description of its API; `/_forge/violations` lists what differs.

    python tests/world/forge.py serve --root DIR --port PORT [--seed SEED.yml] [--token-file FILE]
    python tests/world/forge.py seed --root DIR [--seed SEED.yml]
    python tests/world/forge.py import DIR OWNER/NAME SOURCE

or, in a test, ``with running(root) as forge: forge.api_url, forge.token``.
Everything under ``/_forge/`` is a side door for tests: it asks for no token and is not recorded.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openapi
import yaml
from flask import Flask
from forge_door import add_side_door
from forge_git import add_git
from forge_http import API, add_gate
from forge_pages import add_pages
from forge_rest import add_app_tokens, add_reading, add_writing
from forge_store import ForgeError, Store, import_source
from forge_tls import certificate
from werkzeug.serving import WSGIRequestHandler, make_server


def create_app(store: Store) -> Flask:
    try:
        description = openapi.published()
    except FileNotFoundError:
        raise ForgeError(f"GitHub's description of its API is missing at {openapi.FILE}: run make setup") from None
    app = Flask("forge")
    app.extensions["forge"] = store
    app.json.sort_keys = False  # type: ignore[attr-defined]
    add_gate(app, store, description)
    add_reading(app, store)
    add_writing(app, store)
    add_app_tokens(app, store)
    add_git(app, store)
    add_pages(app, store)
    add_side_door(app, store)
    return app


class _Handler(WSGIRequestHandler):
    # git sends large packs in chunks, which HTTP/1.0 does not have.
    protocol_version = "HTTP/1.1"

    def date_time_string(self, timestamp: float | None = None) -> str:
        """What an answer is dated: by the forge's own clock."""
        app = self.server.app
        assert isinstance(app, Flask)
        return super().date_time_string(app.extensions["forge"].time() if timestamp is None else timestamp)

    def log(self, type: str, message: str, *args: Any) -> None:
        """Say nothing: ``requests.jsonl`` is the log."""


class _Place:
    """Where the forge listens. It can leave for a while, when connections are refused, and come back to its port."""

    def __init__(self, app: Flask, port: int, tls: tuple[str, str] | None = None, address: str = "127.0.0.1") -> None:
        self._app, self._tls, self._address = app, tls, address
        self.port = port
        self._lock = threading.Lock()
        self._over = False
        self._open()

    def _open(self) -> None:
        with self._lock:
            if self._over:
                return
            self._server = make_server(
                self._address, self.port, self._app, threaded=True, request_handler=_Handler, ssl_context=self._tls
            )
            self._server.daemon_threads = True  # type: ignore[attr-defined]
            self.port = self._server.server_port
            serve = {"poll_interval": 0.02}
            self._thread = threading.Thread(target=self._server.serve_forever, kwargs=serve, name="forge", daemon=True)
            self._thread.start()

    def close(self, *, for_good: bool = False) -> None:
        with self._lock:
            self._over = self._over or for_good
            self._server.shutdown()  # which closes it; what is being answered is answered
            self._thread.join()

    def leave(self, seconds: float) -> None:
        self.close()
        back = threading.Timer(seconds, self._open)
        back.daemon = True
        back.start()


@dataclass(frozen=True)
class Running:
    """A forge that serves, as its clients see it."""

    url: str
    token: str
    store: Store

    @property
    def api_url(self) -> str:
        return self.url + API


@contextmanager
def running(
    root: Path, port: int = 0, seed: Mapping[str, Any] | None = None, token: str | None = None
) -> Iterator[Running]:
    """Serve ``root`` on 127.0.0.1 from a thread, for as long as the block lasts.

    ForgeError at its end where something was sent or answered that GitHub does not know.
    """
    store = Store(root).open(seed, token)
    place = _Place(create_app(store), port)
    store.leave = place.leave
    try:
        yield Running(f"http://127.0.0.1:{place.port}", (root / "token").read_text(encoding="utf-8").strip(), store)
    finally:
        place.close(for_good=True)
    if store.violations:
        raise ForgeError("\n".join(["not as GitHub describes it:", *dict.fromkeys(store.violations)]))


@contextmanager
def over_tls(served: Running, directory: Path) -> Iterator[tuple[str, Path]]:
    """The same forge as a GitHub Enterprise under a CA of its own: its second address, and the CA bundle."""
    bundle, key = certificate(directory)
    place = _Place(create_app(served.store), 0, (str(bundle), str(key)))
    try:
        yield f"https://127.0.0.1:{place.port}", bundle
    finally:
        place.close(for_good=True)


@contextmanager
def over_ipv6(served: Running) -> Iterator[str]:
    """The same forge for hosts that have no other address: its second one."""
    place = _Place(create_app(served.store), 0, address="::1")
    try:
        yield f"http://[::1]:{place.port}"
    finally:
        place.close(for_good=True)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="forge.py", description="A forge on this machine, for tests.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("serve", "seed"):
        command = commands.add_parser(name)
        command.add_argument("--root", type=Path, required=True)
        command.add_argument("--seed", type=Path, help="YAML with owner, bot, repos, labels, issues (all optional)")
        command.add_argument(
            "--token-file", type=Path, help="the bot's token; else FORGE_TOKEN, else a new one in ROOT/token"
        )
    commands.choices["serve"].add_argument("--port", type=int, required=True, help="0 takes a free one")
    importing = commands.add_parser("import", help="replace a repository's branches by those of SOURCE")
    importing.add_argument("root", type=Path)
    importing.add_argument("repo", metavar="OWNER/NAME")
    importing.add_argument("source", metavar="BUNDLE|PATH|URL")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    asked = _arguments(argv)
    try:
        if asked.command == "import":
            print(json.dumps(import_source(asked.root, asked.repo, asked.source), indent=1))
            return 0
        seed = yaml.safe_load(asked.seed.read_text(encoding="utf-8")) if asked.seed else None
        token = (
            asked.token_file.read_text(encoding="utf-8").strip() if asked.token_file else os.environ.get("FORGE_TOKEN")
        )
        if asked.command == "seed":
            Store(asked.root).open(seed, token)
            return 0
        with running(asked.root, asked.port, seed, token) as forge, over_tls(forge, asked.root) as (tls_url, ca):
            told = {"url": forge.url, "api_url": forge.api_url, "tls_url": tls_url, "ca": str(ca)}
            print(json.dumps({**told, "token_file": str(asked.root / "token")}), flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        pass
    except ForgeError as problem:
        print(f"forge: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
