# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an engine wrote and stays: its trace line by line, what it learned file by file, whoever wrote that."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.redact import Redactor
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import collected
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell.cells import Cell
from celled import LOOP, NEEDS_ROOT, Box, box, gid, give, shape, write

pytestmark = NEEDS_ROOT
PLAIN = Redactor([])
EVENT = {"event_type": "model_call", "cost": {"input_tokens": 100}}


@pytest.fixture
def host_box() -> Iterator[Box]:
    with box() as found:
        yield found


@pytest.fixture
def cell(host_box: Box) -> Cell:
    host_box.config["trace_file"] = f"{host_box.top}/var/trace.jsonl"
    host_box.config["learning_dir"] = f"{host_box.top}/var/learning"
    Path(host_box.config["learning_dir"]).mkdir(mode=0o750)
    os.chown(host_box.config["learning_dir"], 0, gid(LOOP))
    return host_box.cell()


def traced(cell: Cell, content: bytes) -> Path:
    path = Path(collected.trace_in(cell.part("state")))
    path.write_bytes(content)
    give(path, LOOP)
    return path


def test_a_trace_is_appended(host_box: Box, cell: Cell) -> None:
    line = json.dumps(EVENT).encode()
    traced(cell, line + b"\n")
    kept = Path(host_box.config["trace_file"])
    for count in (1, 2):
        seen = collected.take_back(host_box.config, cell, PLAIN, ended=False)
        assert seen["trace"] == {"lines": 1, "left_out": 0, "bytes_left_out": 0}
        assert [json.loads(one) for one in kept.read_text().splitlines()] == [EVENT] * count
    status = kept.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (0, gid(LOOP), 0o640)


def test_of_lines_only_those_that_are_objects(host_box: Box, cell: Cell) -> None:
    bad = [b"\x1b[2J", b'{"a": ', b"[1]", b'{"a": "\xff"}', b'{"a":' * 40 + b"1" + b"}" * 40]
    bad.append(b'{"n": ' + b"9" * 5000 + b"}")
    good = b'{"title": "\\u001b[31m", "key": "hunter2-and-more", "hunter2-and-more": 1}'
    traced(cell, b"\n".join([*bad, good, b"", good[:9]]))
    seen = collected.take_back(host_box.config, cell, Redactor(["hunter2-and-more"]), ended=True)["trace"]
    assert (seen["lines"], seen["left_out"]) == (1, len(bad) + 1)
    text = Path(host_box.config["trace_file"]).read_text()
    assert text.isascii() and "\x1b" not in text and "hunter2" not in text
    assert json.loads(text)["title"] == "\x1b[31m"


def test_no_half_line_stays_where_the_disk_fails(
    host_box: Box, cell: Cell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    traced(cell, b'{"n": 1}\n')
    collected.take_back(host_box.config, cell, PLAIN, ended=True)
    monkeypatch.setattr(os, "fsync", full)
    seen = collected.take_back(host_box.config, cell, PLAIN, ended=True)["trace"]
    assert "No space left" in seen["error"] and "the trace was not collected" in capsys.readouterr().out
    assert Path(host_box.config["trace_file"]).read_text() == '{"n": 1}\n'


def test_of_a_long_one_beginning_and_end(host_box: Box, cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collected, "MAX_TRACE", 1000)
    traced(cell, b"".join(b'{"n": %d}\n' % number for number in range(1000)))
    seen = collected.take_back(host_box.config, cell, PLAIN, ended=True)["trace"]
    numbers = [json.loads(one)["n"] for one in Path(host_box.config["trace_file"]).read_text().splitlines()]
    assert numbers[0] == 0 and numbers[-1] == 999 and len(numbers) == seen["lines"] < 120
    assert seen["bytes_left_out"] > 5000


@pytest.mark.parametrize("what", ["link", "pipe", "directory", "state is a link"])
def test_what_is_no_file_is_not_read(host_box: Box, cell: Cell, what: str) -> None:
    path = Path(collected.trace_in(cell.part("state")))
    write(host_box.top, {"secret": '{"secret": 1}\n'})
    if what == "link":
        path.symlink_to(host_box.top / "secret")
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "directory":
        path.mkdir()
    else:
        write(host_box.top / "elsewhere", {"agent-core-trace.jsonl": '{"secret": 1}\n'})
        Path(cell.part("state")).rmdir()
        Path(cell.part("state")).symlink_to(host_box.top / "elsewhere")
    seen = collected.take_back(host_box.config, cell, PLAIN, ended=False)["trace"]
    assert seen["lines"] == 0 and seen["error"]
    assert not os.path.exists(host_box.config["trace_file"])


@pytest.mark.parametrize("what", ["link", "pipe", "hard link", "directory of another", "full"])
def test_where_it_is_collected_is_roots_alone(
    host_box: Box, cell: Cell, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    traced(cell, b"{}\n")
    kept, victim = Path(host_box.config["trace_file"]), host_box.top / "victim"
    victim.write_text("mine\n")
    if what == "link":
        kept.symlink_to(victim)
    elif what == "pipe":
        os.mkfifo(kept)
    elif what == "hard link":
        os.link(victim, kept)
    elif what == "directory of another":
        give(kept.parent, LOOP)
    else:
        monkeypatch.setattr(collected, "MAX_KEPT", 2)
    seen = collected.take_back(host_box.config, cell, PLAIN, ended=False)["trace"]
    assert seen["lines"] == 0 and seen["error"], seen
    assert victim.read_text() == "mine\n"


def test_no_trace_and_nothing_wanted(host_box: Box, cell: Cell) -> None:
    seen = collected.take_back(host_box.config, cell, PLAIN, ended=False)
    assert seen == {"trace": {"lines": 0, "left_out": 0}}
    host_box.config.update(trace_file="", learning_dir="")
    assert collected.take_back(host_box.config, cell, PLAIN, ended=True) == {}


def test_of_a_job_it_goes_from_its_directory(host_box: Box, cell: Cell) -> None:
    path = traced(cell, b"{}\n")
    assert collected.collect_from_job(host_box.config, cell.part("state"), PLAIN)["lines"] == 1
    assert not path.exists()
    path.symlink_to("/etc/passwd")
    assert "error" in collected.collect_from_job(host_box.config, cell.part("state"), PLAIN)
    assert path.is_symlink()
    host_box.config["trace_file"] = ""
    assert collected.collect_from_job(host_box.config, cell.part("state"), PLAIN) == {}


def test_what_was_learned_goes_from_cell_to_cell(host_box: Box, cell: Cell) -> None:
    kept = Path(host_box.config["learning_dir"])
    collected.give(host_box.config, cell)
    inner = Path(collected.learning_in(cell.part("state")))
    write(inner, {"candidates/one.json": "{}"})
    os.symlink("/etc/passwd", inner / "link")
    give(inner, LOOP)
    seen = collected.take_back(host_box.config, cell, PLAIN, ended=True)["learning"]
    assert seen["changed"] and seen["left_out"] == ["link"] and shape(kept) == {"candidates/one.json": "{}"}
    assert (kept.stat().st_uid, kept.stat().st_mode & 0o777) == (0, 0o750)
    assert not collected.take_back(host_box.config, cell, PLAIN, ended=True)["learning"]["changed"]
    other = host_box.cell("20260131T120000Z-0a0a0a0a")
    collected.give(host_box.config, other)
    assert shape(collected.learning_in(other.part("state"))) == {"candidates/one.json": "{}"}
    write(Path(collected.learning_in(other.part("state"))), {"candidates/one.json": "half"})
    assert "learning" not in collected.take_back(host_box.config, other, PLAIN, ended=False)
    assert shape(kept) == {"candidates/one.json": "{}"}


def test_what_was_learned_cannot_be_read(host_box: Box, cell: Cell, capsys: pytest.CaptureFixture[str]) -> None:
    Path(host_box.config["learning_dir"]).chmod(0o700)
    collected.give(host_box.config, cell)
    assert shape(collected.learning_in(cell.part("state"))) == {}
    assert "the cycle has nothing of what was learned" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["gone", "link", "state is a link"])
def test_what_was_learned_is_no_directory_any_more(host_box: Box, cell: Cell, what: str) -> None:
    kept = Path(host_box.config["learning_dir"])
    write(kept, {"a": "1"})
    inner = Path(collected.learning_in(cell.part("state")))
    if what == "link":
        inner.symlink_to(host_box.top / "etc")
    elif what == "state is a link":
        write(host_box.top / "elsewhere", {"learning/b": "2"})
        Path(cell.part("state")).rmdir()
        Path(cell.part("state")).symlink_to(host_box.top / "elsewhere")
    seen = collected.take_back(host_box.config, cell, PLAIN, ended=True)["learning"]
    assert not seen["changed"] and seen["error"] and shape(kept) == {"a": "1"}
