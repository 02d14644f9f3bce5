# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""git over HTTP, by git's own CGI program; every push is accounted for."""

from __future__ import annotations

import gzip
import os
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from flask import Flask, Response, g, request
from forge_http import Refusal, not_found
from forge_store import GIT_ENVIRONMENT, Store, all_refs


def add_git(app: Flask, store: Store) -> None:
    @app.route("/<owner>/<name>.git/<path:rest>", methods=["GET", "POST"])
    @app.route("/<owner>/<name>/<path:rest>", methods=["GET", "POST"])
    def smart_http(owner: str, name: str, rest: str) -> Any:
        if rest not in ("info/refs", "git-upload-pack", "git-receive-pack", "HEAD"):
            raise not_found()
        full_name = f"{owner}/{name}"
        pushing = "git-receive-pack" in (rest, request.args.get("service"))
        record = store.state["repos"].get(full_name)
        if g.login is None and (pushing or record is None or record["private"]):
            raise Refusal(401, "Repository not found.", headers={"WWW-Authenticate": 'Basic realm="GitHub"'})
        if record is None:
            raise Refusal(404, "Repository not found.")
        role = store.state["users"][g.login]["role"] if g.login else "read"
        if pushing and role == "read":
            raise Refusal(403, f"Permission to {full_name}.git denied to {g.login}.")
        app = store.app_of(g.record)
        if pushing and app and app["permissions"].get("contents") != "write":
            raise Refusal(403, f"Permission to {full_name}.git denied to {g.login}.")
        body = request.get_data()
        response = _http_backend(store, full_name, rest, body, [] if role == "admin" else record["protected"])
        if rest == "git-receive-pack":
            plain = gzip.decompress(body) if request.headers.get("Content-Encoding") == "gzip" else body
            _note_push(store, full_name, plain)
        return response


def _http_backend(store: Store, full_name: str, rest: str, body: bytes, protected: Sequence[str]) -> Response:
    environment = {
        "PATH": os.environ["PATH"],
        **GIT_ENVIRONMENT,
        "GIT_PROJECT_ROOT": str(store.root / "git"),
        "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_INFO": f"/{full_name}.git/{rest}",
        "REQUEST_METHOD": request.method,
        "QUERY_STRING": request.query_string.decode(),
        "CONTENT_TYPE": request.headers.get("Content-Type", ""),
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
        "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
        "REMOTE_USER": g.login or "",
        "FORGE_REFUSES": g.refuses,
        "FORGE_PROTECTED": " ".join(f"refs/heads/{branch}" for branch in protected),
    }
    done = subprocess.run(["git", "http-backend"], input=body, capture_output=True, check=False, env=environment)
    head, _unused, content = done.stdout.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
    status = int(headers.pop("Status", "200").split(" ", 1)[0])
    return Response(content, status, headers)


def _note_push(store: Store, full_name: str, body: bytes) -> None:
    """Record which refs a push asked for, and which of them it got."""
    with store.lock:
        store.note_pushed(full_name)
        refs = all_refs(store.directory(full_name))
    for old, new, ref in _push_commands(body):
        done = refs.get(ref) == new or (set(new) == {"0"} and ref not in refs)
        g.git_commands.append({"ref": ref, "old": old, "new": new, "accepted": done})


def _push_commands(body: bytes) -> Iterator[tuple[str, str, str]]:
    """The ``old new ref`` lines at the head of a push, which end with a flush packet."""
    position = 0
    while position + 4 <= len(body):
        length = int(body[position : position + 4], 16)
        if length == 0:
            return
        line = body[position + 4 : position + length].split(b"\0", 1)[0].decode().strip()
        position += length
        old, new, ref = line.split(" ", 2)
        yield old, new, ref
