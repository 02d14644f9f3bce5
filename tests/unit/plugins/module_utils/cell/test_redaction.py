# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets in what a run wrote down are overwritten where they stand; work stays, nothing planted is followed."""

from __future__ import annotations

import base64
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.redact import LOOKS_AHEAD, Redactor
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import cells, redaction
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell.cells import Cell
from celled import LOOP, NEEDS_ROOT, Box, box, git, give, uid, write

SECRET = "sk-0123456789abcdef"
STARS = "*" * len(SECRET)
RUN = "issue_app_7"

pytestmark = NEEDS_ROOT


@pytest.fixture
def host() -> Iterator[Box]:
    with box() as found:
        yield found


@pytest.fixture
def cell(host: Box) -> Cell:
    return host.cell()


def put(cell: Cell, files: dict[str, str]) -> None:
    """The loop's user has written them."""
    write(Path(cell.path), files)
    for part in cells.PARTS:
        give(cell.part(part), LOOP)


def clear(host: Box, cell: Cell, *secrets: str) -> None:
    redaction.clear(host.config, cell, Redactor(secrets or [SECRET]))


def text(cell: Cell, name: str) -> str:
    return Path(cell.path, name).read_text()


def test_all_that_a_run_wrote_down_is_looked_through(host: Box, cell: Cell, capsys: pytest.CaptureFixture[str]) -> None:
    said = f"HOME=/\nOPENAI_API_KEY={SECRET}\nagain {SECRET}\n"
    names = [
        f"runs/{RUN}/handoff/transcript.txt", f"runs/{RUN}/request.md", f"runs/{RUN}/tasks/deep/er/.hidden",
        f"runs/{RUN}/other.bin", "runs/beside", "state/agent-core-trace.jsonl", "state/learning/a",
        "memory/journal/A.md", "home/.pi/sessions/1.jsonl",
    ]  # fmt: skip
    put(cell, dict.fromkeys(names, said) | {f"runs/{RUN}/clean": "no secret\n"})
    before = {name: os.stat(f"{cell.path}/{name}") for name in names}
    untouched = os.stat(f"{cell.path}/runs/{RUN}/clean").st_mtime_ns
    clear(host, cell)
    for name in names:
        assert text(cell, name) == said.replace(SECRET, STARS), name
        after = os.stat(f"{cell.path}/{name}")
        assert (after.st_uid, after.st_mode, after.st_ino) == (uid(LOOP), before[name].st_mode, before[name].st_ino)
    assert os.stat(f"{cell.path}/runs/{RUN}/clean").st_mtime_ns == untouched
    out = capsys.readouterr().out
    assert f"runs/{RUN}/handoff/transcript.txt in its cell had a secret in it 2 times, which was overwritten" in out
    assert SECRET not in out and len(out.splitlines()) == len(names)
    clear(host, cell)
    assert capsys.readouterr().out == ""


def test_the_work_is_left_as_it_is(host: Box, cell: Cell) -> None:
    """A checkout, a worktree with its uncommitted files, a branch, a commit: they may have it, and are nobody's."""
    checkout, worktree = Path(cell.part("workspace"), "app"), Path(cell.part("runs"), RUN, "worktrees/app")
    checkout.mkdir()
    git(checkout, "init", "--quiet", "--initial-branch=main")
    git(checkout, "commit", "--quiet", "--allow-empty", "-m", f"has {SECRET}")
    git(checkout, "worktree", "add", "--quiet", "-b", "work", str(worktree))
    write(worktree, {"committed": SECRET, "deep/loose": SECRET})
    git(worktree, "add", "committed")
    git(worktree, "commit", "--quiet", "-m", SECRET)
    write(checkout, {"loose": SECRET})
    put(cell, {f"runs/{RUN}/handoff/transcript.txt": SECRET, "home/.git/config": SECRET})
    head = git(worktree, "rev-parse", "HEAD")
    clear(host, cell)
    assert text(cell, f"runs/{RUN}/handoff/transcript.txt") == STARS
    assert (worktree / "committed").read_text() == (worktree / "deep/loose").read_text() == SECRET
    assert (checkout / "loose").read_text() == text(cell, "home/.git/config") == SECRET
    assert git(worktree, "rev-parse", "HEAD") == head and git(worktree, "log", "-1", "--format=%s") == SECRET
    assert git(worktree, "status", "--porcelain") == "?? deep/"
    assert git(checkout, "fsck", "--strict") == ""


def test_a_file_of_any_kind_keeps_its_length(host: Box, cell: Cell) -> None:
    """A database, JSON, no UTF-8: nothing but the secret is another, wherever in the file it stands."""
    secret = 'pass "word" ä \\ 0123456789'
    token = "gh" + "s_" + "0123456789abcdef" * 2
    key = "-----BEGIN {0}-----\\nbm90IGEga2V5\\n-----END {0}-----".format("RSA PRIVATE " + "KEY")
    url = "https://robot:letmein-please@host/x"
    document = {"a": [secret, token], "key": f"<{key}>", "url": url, "mail": "a@b", "more": "://", "at": "c@d"}
    binary = b"\0\xff\xfe" + secret.encode() + b"\0" + token.encode() + b"\0" + os.urandom(64).replace(b"*", b"+")
    encoded = base64.b64encode(secret.encode())
    put(cell, {"state/a.json": json.dumps(document), "state/b": "", "state/c": "", "state/d": f"x{token}"})
    Path(cell.path, "state/b").write_bytes(binary)
    Path(cell.path, "state/c").write_bytes(encoded)
    clear(host, cell, secret)
    shown = json.loads(text(cell, "state/a.json"))
    assert {*shown["a"][0]} == {*shown["a"][1]} == {"*"}
    assert shown["url"] == f"https://robot:{'*' * len('letmein-please')}@host/x" and shown["at"] == "c@d"
    assert {*shown["key"][1:-1]} == {"*"} and shown["key"][0] + shown["key"][-1] == "<>" and shown["mail"] == "a@b"
    stars = [b"*" * len(secret.encode()), b"*" * len(token)]
    assert Path(cell.path, "state/b").read_bytes() == binary.replace(secret.encode(), stars[0]).replace(
        token.encode(), stars[1]
    )
    left = Path(cell.path, "state/c").read_bytes()
    assert len(left) == len(encoded) and left.rstrip(b"=").strip(b"*") == b""
    assert text(cell, "state/d") == f"x{token}"  # a part of a longer word


@pytest.mark.parametrize("shift", range(-40, 41, 5))
def test_a_secret_at_the_edge_of_a_window_is_found(
    host: Box, cell: Cell, shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redaction, "WINDOW", 4096)
    key = "-----BEGIN {0}-----{1}-----END {0}-----".format("PRIVATE " + "KEY", "QUJD" * 1000)
    before = "." * (4096 * 3 + shift)
    put(cell, {"state/a": f"{before}{SECRET}{before}", "state/b": f"{before}{key}{before}"})
    clear(host, cell)
    assert text(cell, "state/a") == f"{before}{STARS}{before}"
    assert text(cell, "state/b") == f"{before}{'*' * len(key)}{before}"


def test_nothing_that_was_planted_is_followed(host: Box, cell: Cell, capsys: pytest.CaptureFixture[str]) -> None:
    outside = host.top / "outside"
    write(outside, {"file": SECRET, "hard": SECRET, "theirs": SECRET})
    give(outside / "hard", LOOP)
    put(cell, {f"runs/{RUN}/handoff/transcript.txt": SECRET})
    handoff = Path(cell.part("runs"), RUN, "handoff")
    (handoff / "link").symlink_to(outside / "file")
    (handoff / "folder").symlink_to(outside)
    (handoff / "name").hardlink_to(outside / "hard")
    (handoff / "roots").write_text(SECRET)
    os.mkfifo(handoff / "a-pipe")
    os.mknod(handoff / "a-tape", 0o600 | 0o020000, os.makedev(9, 200))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(handoff / "a-socket"))
    began = time.monotonic()
    clear(host, cell)
    assert time.monotonic() - began < 10
    assert (handoff / "transcript.txt").read_text() == STARS
    assert {(outside / name).read_text() for name in ("file", "hard", "theirs")} == {SECRET}
    assert (handoff / "roots").read_text() == SECRET  # root's, such as what was given to the home
    out = capsys.readouterr().out
    assert f"secrets may stand in its cell: runs/{RUN}/handoff/name has another name, and is as it was" in out
    assert SECRET not in out and len(out.splitlines()) == 2, out


@pytest.mark.parametrize("part", ["runs", f"runs/{RUN}"])
def test_a_part_that_is_a_link_is_not_entered(
    host: Box, cell: Cell, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(host.top / "outside", {"file": SECRET})
    give(host.top / "outside", LOOP)
    place = Path(cell.path, part)
    if place.exists():
        place.rmdir()
    place.symlink_to(host.top / "outside")
    clear(host, cell)
    assert (host.top / "outside/file").read_text() == SECRET
    assert ("is no directory to enter" in capsys.readouterr().out) == (part == "runs")


def test_it_ends_and_says_what_was_left_out(
    host: Box, cell: Cell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    big = f"{SECRET}{'.' * LOOKS_AHEAD}{SECRET}"
    put(cell, {"runs/a/transcript": SECRET, "state/big": big, f"home/{'d/' * 60}x": SECRET})
    monkeypatch.setattr(redaction, "WINDOW", 60)
    monkeypatch.setattr(redaction, "MAX_FILE", 60)
    clear(host, cell)
    assert text(cell, "state/big").startswith(STARS) and text(cell, "state/big").endswith(SECRET)
    out = capsys.readouterr().out
    assert f"state/big has {len(big)} bytes, the first 60 were looked through" in out
    assert "is deeper than 40 directories" in out and text(cell, "runs/a/transcript") == STARS
    put(cell, {f"runs/many/{number}": SECRET for number in range(30)})
    monkeypatch.setattr(redaction, "MAX_ENTRIES", 20)
    clear(host, cell)
    assert "its cell: all from runs/many/" in capsys.readouterr().out
    monkeypatch.setattr(redaction, "SECONDS", 0.0)
    clear(host, cell)
    assert "all from runs/a on, since there is too much to look through" in capsys.readouterr().out


def test_a_huge_file_without_content_takes_its_time_and_no_more(
    host: Box, cell: Cell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redaction, "SECONDS", 1.0)
    put(cell, {"runs/a/huge": ""})
    os.truncate(f"{cell.path}/runs/a/huge", 1 << 40)
    began = time.monotonic()
    clear(host, cell)
    assert time.monotonic() - began < 20
    assert "the first 536870912 were looked through" in capsys.readouterr().out


def test_what_the_cycle_said_of_itself_is_cleared_too(host: Box, cell: Cell) -> None:
    cells.write_report(cell, {"outcome": "error", "detail": f"it said {SECRET}", "report": {SECRET: [SECRET]}})
    clear(host, cell)
    assert cells.report_of(cell) == {"outcome": "error", "detail": "it said ***", "report": {"***": ["***"]}}
    assert os.stat(f"{cell.path}/{cells.REPORT}").st_uid == 0
