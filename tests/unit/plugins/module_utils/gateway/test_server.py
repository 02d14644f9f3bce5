# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may speak to the gateway, and what it says to those who may not, or who say nothing that it knows."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base import wire
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.gateway import (
    audit,
    kept_pushes,
    requests,
    server,
    sessions,
)
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user
from celled import GATE, LOOP, NEEDS_ROOT, gid, uid
from forge import over_ipv6, over_tls
from gated import APPROVED, REPO, Cycle, Door, Running, commit_files, door, in_unit, journal

pytestmark = NEEDS_ROOT
LIST = ["issue", "list", "--repo", REPO, "--label", APPROVED, "--json", "number"]
ASKED = json.dumps({"what": "gh", "words": LIST}).encode() + b"\n"


@pytest.fixture
def ours(gate: Door) -> Iterator[Cycle]:
    with gate.cycle() as found:
        yield found


def said(gate: Door, content: bytes, user: str, unit: str, *, end: bool = True) -> str:
    """Send this as that user in that unit; the whole answer."""
    place = sessions.socket_of(gate.config)

    def work() -> str:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(30)
            peer.connect(place)
            peer.sendall(content)
            if end:
                peer.shutdown(socket.SHUT_WR)
            answer = b""
            while chunk := peer.recv(65536):
                answer += chunk
            return answer.decode("utf-8", "replace")

    with in_unit(unit):
        answer: str = as_user(user, work) if user != "root" else work()
    return answer


# --- who


def test_a_process_outside_of_any_unit(ours: Cycle) -> None:
    answer = json.loads(said(ours.door, ASKED, LOOP, "none"))
    assert answer == {
        "status": 1,
        "stdout": "",
        "stderr": "the gateway: no cycle is running\n",
        "why": "no cycle is running",
    }


@pytest.mark.parametrize("unit", ["other.service", "loop.service.service", "x.scope", ".service"])
def test_a_process_in_a_unit_without_a_session(ours: Cycle, unit: str) -> None:
    done = ours.gh(*LIST, unit=unit)
    assert done.returncode == 1 and done.stderr == "the gateway: no cycle is running\n"
    done = ours.run("git", "fetch", "origin", unit=unit)
    assert done.returncode and "the gateway: no cycle is running" in done.stderr


def test_when_the_session_is_closed_nobody_asks_any_more(ours: Cycle) -> None:
    assert ours.gh(*LIST).returncode == 0
    sessions.close_session(ours.door.config, ours.unit)
    assert ours.gh(*LIST).stderr == "the gateway: no cycle is running\n"
    before = ours.door.branches()
    ours.commit()
    assert "no cycle is running" in ours.push().stderr and ours.door.branches() == before


def test_two_sessions_do_not_mix(gate: Door) -> None:
    number = gate.issue()
    with gate.cycle(number) as one, gate.cycle(sub="-enter-x", bound=False) as other:
        assert one.unit != other.unit
        assert other.gh("issue", "view", str(number), "-R", REPO, "--json", "title").returncode == 0
        assert [entry["number"] for entry in one.entries("view")] == [number]
        assert other.entries("view")[0]["number"] == number and not other.entries("list")


def test_another_user_may_not_even_ask(ours: Cycle) -> None:
    """The socket's mode does not let them; where it would, the gateway does not."""
    place = sessions.socket_of(ours.door.config)
    with pytest.raises(LoopError, match="Permission denied"):
        said(ours.door, ASKED, "man", ours.unit)
    os.chmod(place, 0o666)
    try:
        for user in ("man", GATE):
            answer = json.loads(said(ours.door, ASKED, user, ours.unit))
            assert answer["why"].endswith(f"is not {LOOP}, and nobody else may ask"), answer
    finally:
        os.chmod(place, 0o660)


# --- root


def test_root_has_the_clones_refreshed(gate: Door) -> None:
    name = "20260131T120000Z-0a0b0c0d"
    answer = gate.refresh(name)
    assert [(one["dest"], one["status"]) for one in answer["clones"]] in (
        [("app", "cloned"), ("other", "cloned")], [("app", "current"), ("other", "current")],
    )  # fmt: skip
    assert answer["token"] == {"kind": "break-glass", "note": "", "expires": ""}
    sha = commit_files(gate.directory(), "main", {"docs/new.md": "x\n"}, "Merged", int(time.time()))
    assert {one["dest"]: one["after"] for one in gate.refresh(name)["clones"]}["app"] == sha
    assert audit.read(gate.config, name)[-1]["tips"]["app"] == sha
    assert gate.forge.token not in json.dumps(audit.read(gate.config, name))


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"what": "gh", "words": LIST}, "nothing that root asks"), ({}, "nothing that root asks"),
        ({"what": "refresh", "cycle": "../../etc/x"}, "is not the name of a cycle"),
        ({"what": "refresh"}, "None is not the name of a cycle"),
    ],
)  # fmt: skip
def test_nothing_else_that_root_asks(gate: Door, asked: dict[str, Any], why: str) -> None:
    with pytest.raises(LoopError, match=f"the gateway says: the gateway: .*{why}|the gateway says: .*{why}"):
        wire.ask(sessions.socket_of(gate.config), asked, "the gateway", 20)


# --- what


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "a request broke off"), (b"{", "a request broke off"), (b'{"what": "gh", "wor', "a message is not JSON"),
        (b"{ }\n", "nothing that the gateway does"),
        (b'{"what": "refresh", "cycle": "x"}\n', "nothing that the gateway does"),
        (b'{"what": "gh", "words": "issue list"}\n', "nothing that the gateway does"),
        (b'{"what":' * 2000 + b"\n", "a message is not JSON"),
        (b'{"a":' * 99 + b"1" + b"}" * 99 + b"\n", "a message is nested deeper"),
        (b'{"what": "gh", "words": ["' + b"x" * 2_000_000, "a message is longer than 1048576 bytes"),
        (b"GET / HTTP/1.1\r\n\r\n", "nothing that git asks for"), (b"\0\0\0\0\0\0\0\0", "nothing that git asks for"),
        (b"0000", "nothing that git asks for"), (b"ffff" + b"x" * 100, "nothing that git asks for"),
        (b"0010git-upload-pa", "nothing that git asks for"),
    ],
)  # fmt: skip
def test_what_is_no_question(ours: Cycle, content: bytes, why: str) -> None:
    assert f"the gateway: {why}" in said(ours.door, content, LOOP, ours.unit)
    assert ours.gh(*LIST).returncode == 0


def git_asks(service: str, path: str) -> bytes:
    line = f"{service} {path}\0host=gateway\0".encode()
    return b"%04x" % (len(line) + 4) + line


@pytest.mark.parametrize(
    ("service", "path", "why"),
    [
        ("git-upload-archive", "/app.git", "nothing that git asks for"),
        ("git-upload-pack", "/../../../etc/passwd", "nothing that git asks for"),
        ("git-upload-pack", "/../gate/kept.git", "nothing that git asks for"),
        ("git-upload-pack", "/...git", ".. is no repository of this loop"),
        ("git-receive-pack", "/elsewhere.git", "elsewhere is no repository of this loop"),
        ("git-upload-pack", "/app", "nothing that git asks for"),
    ],
)
def test_what_is_no_repository_of_ours(ours: Cycle, service: str, path: str, why: str) -> None:
    assert said(ours.door, git_asks(service, path), LOOP, ours.unit)[4:] == f"ERR the gateway: {why}\n"


def test_words_without_end(ours: Cycle) -> None:
    done = json.loads(said(ours.door, json.dumps({"what": "gh", "words": ["x" * 300_000]}).encode(), LOOP, ours.unit))
    assert done["status"] == 1 and "does not know this of gh" in done["stderr"]
    many = {"what": "gh", "words": ["issue", "list", *(["--json"] * 60_000)]}
    assert json.loads(said(ours.door, json.dumps(many).encode(), LOOP, ours.unit))["status"] == 1
    odd = {"what": "gh", "words": [None, 5, {"a": []}, "\udcff\0"]}
    assert json.loads(said(ours.door, json.dumps(odd).encode(), LOOP, ours.unit))["status"] == 1
    assert all(len(json.dumps(one)) < 10_000 for one in ours.entries())


def test_a_fetch_brings_what_the_forge_has_now_and_leaves_a_note(ours: Cycle) -> None:
    sha = commit_files(ours.door.directory(), "main", {"docs/newer.md": "x\n"}, "Merged", int(time.time()))
    ours.git("fetch", "origin")
    assert ours.git("rev-parse", "origin/main") == sha
    assert ours.entries("fetch") == [
        {"at": ours.entries("fetch")[0]["at"], "what": "fetch", "repo": REPO, "dest": "app"}
    ]
    ours.git(
        "clone",
        "-q",
        "--filter=blob:none",
        "--no-checkout",
        f"{ours.door.forge.url}/{REPO}.git",
        f"{ours.workspace}/again",
    )


def test_a_forge_that_is_away_is_said_to_git(ours: Cycle) -> None:
    ours.door.fault("down", r"\.git/")
    done = ours.run("git", "fetch", "origin")
    assert done.returncode and "the gateway: AS215932/app cannot be fetched: " in done.stderr
    assert ours.door.forge.token not in done.stderr


# --- how many, how long


CROWD = """if True:
    import socket, sys
    place, asked, number = sys.argv[1], sys.argv[2].encode() + b"\\n", int(sys.argv[3])
    peers = []
    for _unused in range(number):
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(100)
        peer.connect(place)
        peers.append(peer)
    for peer in peers:
        peer.sendall(asked)
    answers = []
    for peer in peers:
        answer = b""
        while chunk := peer.recv(65536):
            answer += chunk
        answers.append(b'"status": 1' in answer)
    print(sum(answers))
"""


def test_two_hundred_at_once_are_all_answered(ours: Cycle) -> None:
    asked = json.dumps({"what": "gh", "words": ["issue", "close"]})
    place = sessions.socket_of(ours.door.config)
    done = ours.run("/usr/bin/python3", "-c", CROWD, place, asked, "200")
    assert done.stdout == "200\n", done.stderr
    assert len(ours.entries("refused")) == 200


def test_silence_holds_nobody_else_up_for_long(forge: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "SECONDS", 1.0)
    monkeypatch.setattr(wire.receive, "__defaults__", (b"", 1.0))
    with door(forge) as gate, gate.cycle() as ours:
        began = time.monotonic()
        answer = json.loads(said(gate, b"", LOOP, ours.unit, end=False))
        assert answer["why"] == "timed out" and 0.8 < time.monotonic() - began < 10
        answer = said(gate, b'{"what"', LOOP, ours.unit, end=False)
        assert "a message broke off: timed out" in answer
        assert ours.gh(*LIST).returncode == 0
        gate.close_all()


def test_who_is_refused_and_speaks_on_is_heard_out_for_a_moment(
    forge: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then keeps no process of the gateway: there are so many of them, and then nobody is answered."""
    monkeypatch.setattr(wire.hear_out, "__defaults__", (1.0,))

    def work() -> float:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(sessions.socket_of(gate.config))
            peer.sendall(b"0009junk!")
            began = time.monotonic()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                while time.monotonic() - began < 20:
                    peer.sendall(b"x")
                    time.sleep(0.1)
            return time.monotonic() - began

    with door(forge) as gate, gate.cycle() as ours:
        with in_unit(ours.unit):
            assert as_user(LOOP, work) < 10
        gate.close_all()


def test_it_ends_when_nobody_asks_any_more(forge: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_SECONDS", 0.3)
    monkeypatch.setattr(server._Server, "timeout", 0.1)
    with door(forge) as gate:
        time.sleep(1)
        assert os.waitpid(gate.pid, os.WNOHANG) == (0, 0)  # a session is open
        sessions.close_session(gate.config, "somebody.service")
        for _unused in range(100):
            pid, status = os.waitpid(gate.pid, os.WNOHANG)
            if pid:
                break
            time.sleep(0.05)
        assert (pid, status) == (gate.pid, 0)


def test_what_it_started_ends_with_it(forge: Running) -> None:
    """A push is on its way when the gateway is killed: nothing of it goes on, and the next one tidies up."""
    with door(forge) as gate, gate.cycle(gate.issue()) as ours:
        ours.commit()
        gate.fault("slow", r"/info/refs", seconds=20, times=1)
        command = ["env", "git", "push", "origin", f"HEAD:refs/heads/{ours.branch}"]
        with in_unit(ours.unit):
            push = subprocess.Popen(
                command, cwd=ours.checkout, env=ours.environment, stderr=subprocess.PIPE, user=LOOP, group=gid(LOOP)
            )
            for _unused in range(200):
                if ours.entries("forward"):
                    break
                time.sleep(0.05)
            (name,) = os.listdir(f"{gate.config['gate_dir']}/inbox")
            assert processes_in(name)
            os.kill(gate.pid, signal.SIGKILL)
            os.waitpid(gate.pid, 0)
            assert push.communicate(timeout=30)[1] and push.returncode
        for _unused in range(100):
            if not (left := processes_in(name)):
                break
            time.sleep(0.05)
        assert left == [] and ours.branch not in gate.branches()
        assert sessions.quiet(gate.config, 1)  # nobody waits for it
        as_user(GATE, lambda: kept_pushes.tidy(gate.config))
        assert os.listdir(f"{gate.config['gate_dir']}/inbox") == []
        gate.close_all()


def processes_in(name: str) -> list[bytes]:
    """What runs in a directory of this name."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if name in os.readlink(f"/proc/{pid}/cwd"):
                found.append(Path(f"/proc/{pid}/cmdline").read_bytes())
    return found


def test_it_is_started_by_its_socket(
    shared: Door, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for pid in ("", "1", "x"):
        monkeypatch.setenv("LISTEN_PID", pid)
        assert server.main(shared.host.config_file) == 2
    assert capsys.readouterr().err == "the gateway is started by its socket\n" * 3


def test_a_failure_of_its_own_is_said_and_logged(forge: Running) -> None:
    with door(forge) as gate, gate.cycle() as ours:
        audit.path_of(gate.config, ours.name)
        os.mkdir(file := f"{gate.config['gate_dir']}/broken")
        path = audit.path_of(gate.config, ours.name)
        os.unlink(path)
        os.rename(file, path)
        done = ours.gh(*LIST)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert "is no regular file" in done.stderr or "cannot be written" in done.stderr, done.stderr
        assert "refused: " in journal(gate.host)
        gate.close_all()


def test_what_nobody_thought_of_is_in_the_journal_and_said_in_one_line(
    forge: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "answer", lambda *_words: 1 // 0)
    with door(forge) as gate, gate.cycle() as ours:
        done = ours.gh(*LIST)
        assert (done.returncode, done.stderr) == (1, "the gateway: it failed, see its journal\n")
        assert "ZeroDivisionError" in journal(gate.host)


def test_without_settings_or_access_it_does_not_start(
    shared: Door, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    for path, why in (
        (f"{shared.host.top}/none.json", "this host was not deployed yet"),
        (shared.host.config_file, "the gateway was not given access to the forge: systemctl restart"),
    ):
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
        assert server.main(path) == 1
        said = "".join(capfd.readouterr())
        assert why in said and "Traceback" not in said


def test_the_fixture_is_a_host_as_the_role_leaves_it(shared: Door) -> None:
    """What the others rest on: the gateway is the gate's user and nobody else's."""
    status = Path(f"/proc/{shared.pid}/status").read_text()
    uids = next(line.split()[1:] for line in status.splitlines() if line.startswith("Uid:"))
    assert set(uids) == {str(uid(GATE))}


def test_a_forge_with_a_ca_of_its_own(forge: Running, tmp_path: Path) -> None:
    """A GitHub Enterprise: what trusts it stands in the file with the secrets, for the API and for git."""
    with over_tls(forge, tmp_path) as (url, bundle):
        os.chmod(bundle, 0o644)
        trusted = Path(f"/run/test-ca-{os.getpid()}.pem")
        trusted.write_bytes(bundle.read_bytes())
        trusted.chmod(0o644)
        trust = f"REQUESTS_CA_BUNDLE={trusted}\nGIT_SSL_CAINFO={trusted}\n"
        try:
            with door(forge, trust, git_url=url, api_url=f"{url}/api/v3") as gate:
                number = gate.issue()
                with gate.cycle(number) as ours:
                    new = ours.commit()
                    assert ours.push().returncode == 0 and gate.branches()[ours.branch] == new
                    assert ours.open().returncode == 0 and len(gate.pulls(ours.branch)) == 1
                gate.close_all()
            with door(forge, git_url=url, api_url=f"{url}/api/v3") as gate:
                found = gate.refresh("20260131T120000Z-1a2b3c4d")["clones"]
                assert {one["status"] for one in found} == {"failed"} and "certificate" in found[0]["detail"]
        finally:
            trusted.unlink()


def test_a_forge_that_has_an_ipv6_address_only(forge: Running) -> None:
    """Clones, a push and a pull request."""
    with over_ipv6(forge) as url, door(forge, git_url=url, api_url=f"{url}/api/v3") as gate:
        with gate.cycle(gate.issue()) as ours:
            new = ours.commit()
            assert ours.push().returncode == 0 and gate.branches()[ours.branch] == new
            assert ours.open().returncode == 0 and len(gate.pulls(ours.branch)) == 1
        gate.close_all()
