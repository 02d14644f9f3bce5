# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cycle's side of the gateway's socket, as it is installed; what it speaks to is played where it misbehaves."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.gateway import client
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import core_files
from forks import PROGRAM, RAN

LARGE = 20 * 1024 * 1024
AS_MAIN = "path = sys.argv[1]; del sys.argv[:2]; exec(compile(open(path).read(), path, 'exec'))"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """``gh`` and ``gateway-client``, as they are installed."""
    content = {entry.path: entry.content for entry in core_files.entries(str(tmp_path))}
    for name in ("gh", "gateway-client"):
        inner = "bin/gh" if name == "gh" else name
        (tmp_path / name).write_bytes(content[f"{tmp_path}/{inner}"])
        assert content[f"{tmp_path}/{inner}"].endswith(Path(client.__file__).read_bytes().split(b"\n", 3)[3])
        (tmp_path / name).chmod(0o755)
    return tmp_path


class Played:
    """A gateway that does what it is told to with each connection."""

    def __init__(self, path: Path, act: Callable[[socket.socket], None]) -> None:
        self.path = path
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen(5)
        self.thread = threading.Thread(target=self.serve, args=(act,), daemon=True)
        self.thread.start()

    def serve(self, act: Callable[[socket.socket], None]) -> None:
        connection, _unused = self.server.accept()
        with connection:
            act(connection)

    def end(self) -> None:
        self.thread.join(20)
        self.server.close()
        assert not self.thread.is_alive()


@pytest.fixture
def played(tmp_path: Path) -> Iterator[Callable[[Callable[[socket.socket], None]], Played]]:
    made: list[Played] = []

    def play(act: Callable[[socket.socket], None]) -> Played:
        made.append(Played(tmp_path / "socket", act))
        return made[-1]

    yield play
    for one in made:
        one.end()


def run(
    programs: Path, name: str, *words: str, stdin: bytes = b"", place: str = ""
) -> subprocess.CompletedProcess[bytes]:
    environment = {client.SOCKET: place or f"{programs}/socket", "PATH": "/usr/bin:/bin"}
    command = [str(programs / name), *words]
    if RAN in os.environ:  # coverage sees only the module that they are made of
        environment[RAN] = os.environ[RAN]
        command = [sys.executable, "-c", PROGRAM + AS_MAIN, client.__file__, *command]
    return subprocess.run(command, env=environment, input=stdin, capture_output=True, check=False, timeout=60)


def whole(connection: socket.socket) -> bytes:
    found = b""
    while chunk := connection.recv(1 << 16):
        found += chunk
    return found


# --- gh


def test_words_go_and_the_answer_is_shown(programs: Path, played: Callable[..., Played]) -> None:
    heard: list[object] = []

    def act(connection: socket.socket) -> None:
        heard.append(json.loads(whole(connection)))
        connection.sendall(json.dumps({"status": 3, "stdout": "caf\u00e9 \ud800\n", "stderr": "why\n"}).encode())

    played(act)
    done = run(programs, "gh", "issue", "view", "7", "--json", "b\u00f6dy", "")
    assert (done.returncode, done.stdout.decode(), done.stderr) == (3, "caf\u00e9 ?\n", b"why\n")
    assert heard == [{"what": "gh", "words": ["issue", "view", "7", "--json", "b\u00f6dy", ""]}]


@pytest.mark.parametrize("option", ["--body-file", "-F"])
def test_a_file_that_words_name_is_read_here(programs: Path, played: Callable[..., Played], option: str) -> None:
    heard: list[list[str]] = []

    def act(connection: socket.socket) -> None:
        heard.append(json.loads(whole(connection))["words"])
        connection.sendall(b'{"status": 0, "stdout": "", "stderr": ""}')

    (programs / "body").write_bytes(b"text\n\xff" + b"x" * (3 << 20))
    played(act)
    assert run(programs, "gh", "pr", "create", option, str(programs / "body"), "--draft").returncode == 0
    (words,) = heard
    assert words[:3] == ["pr", "create", "--body"] and words[4:] == ["--draft"]
    assert words[3].startswith("text\n\ufffdx") and len(words[3]) == 1 << 20


def test_a_file_that_is_not_there(programs: Path) -> None:
    done = run(programs, "gh", "pr", "create", "--body-file", f"{programs}/none")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == f"{programs}/none: No such file or directory\n"


@pytest.mark.parametrize("name", ["gh", "gateway-client"])
def test_a_gateway_that_is_away(programs: Path, name: str) -> None:
    done = run(programs, name, "issue", "list")
    told = f"the gateway to the forge does not answer at {programs}/socket (No such file or directory)"
    assert (done.returncode, done.stdout) == (1, b"") and done.stderr.decode().startswith(told)
    (programs / "socket").write_text("")
    assert b"Connection refused" in run(programs, name).stderr
    environment = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run([programs / name], env=environment, capture_output=True, check=False)
    assert done.returncode == 1 and b"does not answer at no socket" in done.stderr
    assert b"ENGINEERING_LOOP_GATEWAY names it" in done.stderr


@pytest.mark.parametrize(
    "answer",
    [b"", b'{"status": 0, "stdout": "half', b"nonsense\n", b"\xff", b"[]", b"{}", b"null", b'{"status": "x"}',
     b'{"status": 0, "stdout": 5, "stderr": ""}'],
)  # fmt: skip
def test_an_answer_that_is_cut_off_or_odd(programs: Path, played: Callable[..., Played], answer: bytes) -> None:
    def act(connection: socket.socket) -> None:
        whole(connection)
        connection.sendall(answer)

    played(act)
    done = run(programs, "gh", "issue", "list")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"the gateway to the forge broke off: see its journal\n"


def test_an_answer_without_end(programs: Path, played: Callable[..., Played]) -> None:
    def act(connection: socket.socket) -> None:
        whole(connection)
        try:
            while True:
                connection.sendall(b'"' + b"x" * (1 << 20))
        except OSError:
            pass

    played(act)
    done = run(programs, "gh", "issue", "list")
    assert done.returncode == 1 and done.stderr.endswith(b"broke off: see its journal\n")


def test_a_gateway_that_goes_away_while_it_is_asked(programs: Path, played: Callable[..., Played]) -> None:
    played(lambda connection: None)
    done = run(programs, "gh", "pr", "create", "--body", "x" * 100_000)
    assert done.returncode == 1 and b"broke off" in done.stderr


# --- git


def test_git_is_copied_in_both_directions(programs: Path, played: Callable[..., Played]) -> None:
    there, back = os.urandom(LARGE), os.urandom(LARGE)
    heard: list[str] = []

    def act(connection: socket.socket) -> None:
        speaker = threading.Thread(target=connection.sendall, args=(back,))
        speaker.start()
        heard.append(hashlib.sha256(whole(connection)).hexdigest())
        speaker.join()

    played(act)
    done = run(programs, "gateway-client", "gateway", "9418", stdin=there)
    assert done.returncode == 0 and done.stderr == b""
    assert done.stdout == back
    assert heard == [hashlib.sha256(there).hexdigest()]


def test_git_hears_the_answer_after_it_has_said_all(programs: Path, played: Callable[..., Played]) -> None:
    played(lambda connection: connection.sendall(b"heard " + whole(connection)))
    assert run(programs, "gateway-client", "gateway", "9418", stdin=b"words").stdout == b"heard words"


def test_it_ends_with_the_gateway_though_git_says_nothing(programs: Path, played: Callable[..., Played]) -> None:
    played(lambda connection: connection.sendall(b"bye"))
    reader, writer = os.pipe()
    environment = {client.SOCKET: f"{programs}/socket", "PATH": "/usr/bin:/bin"}
    process = subprocess.Popen([programs / "gateway-client"], env=environment, stdin=reader, stdout=subprocess.PIPE)
    try:
        assert process.communicate(timeout=20)[0] == b"bye" and process.returncode == 0
    finally:
        os.close(reader)
        os.close(writer)


def test_it_ends_with_git(programs: Path, played: Callable[..., Played]) -> None:
    def act(connection: socket.socket) -> None:
        try:
            while True:
                connection.sendall(b"x" * (1 << 20))
        except OSError:
            pass

    played(act)
    environment = {client.SOCKET: f"{programs}/socket", "PATH": "/usr/bin:/bin"}
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([programs / "gateway-client"], env=environment, **streams) as process:
        assert process.stdout and process.stderr
        process.stdout.read(100)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
