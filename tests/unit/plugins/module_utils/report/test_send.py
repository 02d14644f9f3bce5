# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages on their way, by the real library to real sockets: what is taken, what is not, and no secret comes back."""

from __future__ import annotations

import http.server
import json
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import systemd
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.targets import Target
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import core_files
from ansible_collections.as215932.engineering_loop.plugins.module_utils.report import send
from ansible_collections.as215932.engineering_loop.plugins.module_utils.report.send import Answer

MESSAGE = {"kind": "warning", "title": "loop1: a title", "body": "what\nTo do: type this"}


class Taker(http.server.BaseHTTPRequestHandler):
    """Takes what comes, and answers with the status that the path names."""

    def do_POST(self) -> None:
        got = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append(json.loads(got))  # type: ignore[attr-defined]
        self.send_response(int(self.path.rsplit("/", 1)[-1]))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is said."""


class Mute(socketserver.StreamRequestHandler):
    """Says a letter now and then, and never all."""

    def handle(self) -> None:
        for _turn in range(100):
            time.sleep(0.2)
            try:
                self.wfile.write(b"H")
            except OSError:
                return


@contextmanager
def served(handler: type[socketserver.BaseRequestHandler]) -> Iterator[tuple[int, list[Any]]]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.got = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], server.got  # type: ignore[attr-defined]
        server.shutdown()


def one(name: str, url: str, count: int = 1) -> dict[str, Any]:
    return {"id": name, "url": url, "messages": [MESSAGE] * count}


def test_all_targets_at_once_and_none_waits_for_another() -> None:
    with served(Taker) as (port, got), served(Mute) as (mute, _none):
        began = time.monotonic()
        answers = send.send_all(
            [
                one("mute", f"json://127.0.0.1:{mute}/x"),
                one("nobody", "json://127.0.0.1:1/x"),
                one("refuses", f"json://127.0.0.1:{port}/500", 3),
                one("takes", f"json://127.0.0.1:{port}/200", 2),
                one("nonsense", "slack://x"),
            ],
            8,
        )
        assert time.monotonic() - began < 15
    assert answers["takes"] == Answer(2)
    assert answers["mute"] == Answer(0, "it did not answer within 8 s")
    assert answers["refuses"].taken == 0 and "500" in answers["refuses"].why
    assert answers["nobody"].taken == 0 and answers["nobody"].why
    assert answers["nonsense"] == Answer(0, "Apprise cannot make a target of it")
    bodies = [each for each in got if each["type"] == "warning"]
    assert bodies and (bodies[0]["title"], bodies[0]["message"]) == ("loop1: a title", "what\nTo do: type this")


@pytest.fixture
def lib_dir(tmp_path: Path) -> str:
    """Our code as a host has it, run by the Python of the tests, which has the library."""
    package = tmp_path / core_files.PACKAGE
    for name, content in core_files.sources().items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    launcher = core_files.LAUNCHER.format(lib_dir=str(tmp_path), config="/nonexistent")
    (tmp_path / "loop").write_text(launcher.replace("#!/usr/bin/python3 -I", f"#!{sys.executable} -I"))
    (tmp_path / "loop").chmod(0o755)
    return str(tmp_path)


def test_root_hands_over_by_a_pipe_and_hears_no_secret(lib_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "running", lambda: False)
    commands: list[Any] = []
    real = subprocess.run

    def run(*words: Any, check: bool, **more: Any) -> Any:
        commands.append(words)
        return real(*words, check=check, **more)

    monkeypatch.setattr(subprocess, "run", run)
    with served(Taker) as (port, got):
        well = Target(f"json://user:s3cretpw@127.0.0.1:{port}/s3cretpath/200", "file, line 1")
        bad = Target("json://s3cret.invalid/s3cretpath", "file, line 2")
        answers = send.deliver(lib_dir, [well, bad], {well.id: [{**MESSAGE, "ids": ["1"]}], bad.id: [MESSAGE]}, {})
    assert answers[well.id] == Answer(1) and len(got) == 1
    assert answers[bad.id].taken == 0 and answers[bad.id].why and "s3cret" not in answers[bad.id].why
    assert "s3cret" not in str(commands)


@pytest.mark.parametrize("answer", ["", "nonsense", "[1]", '{"X": 3}', '{"X": {"taken": "x", "why": 7}}', "x" * 10**6])
def test_a_child_that_lies_or_dies_is_no_error(tmp_path: Path, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "running", lambda: False)
    target = Target("json://example.org/s3cret", "x")
    (tmp_path / "answer").write_text(answer.replace("X", target.id))
    (tmp_path / "loop").write_text(f"#!/bin/sh\ncat >/dev/null; cat {tmp_path}/answer; echo s3cret >&2; exit 3\n")
    (tmp_path / "loop").chmod(0o755)
    found = send.deliver(str(tmp_path), [target], {target.id: [MESSAGE]}, {})
    assert found[target.id].taken == 0 and found[target.id].why and "s3cret" not in found[target.id].why


def test_a_child_that_cannot_be_started_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "running", lambda: False)
    target = Target("json://example.org/s3cret", "x")
    found = send.deliver(str(tmp_path), [target], {target.id: [MESSAGE]}, {})
    assert "cannot be started" in found[target.id].why


def test_where_nothing_is_to_be_sent_nobody_is_started() -> None:
    assert send.deliver("/nonexistent", [Target("json://example.org/x", "x")], {}, {}) == {}
