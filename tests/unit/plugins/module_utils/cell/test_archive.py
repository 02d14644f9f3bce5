# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept of a cycle beside its record: bounded, readable, without secrets, whatever stands in its cell."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.redact import Redactor
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import archive
from celled import LOOP, NAME, NEEDS_ROOT, Box, box, give, write

SECRET = "sk-0123456789abcdef"
RECORD: dict[str, Any] = {"cycle": NAME, "invocation_id": "0123456789abcdef" * 2, "started": "2026-01-31T12:00:00Z"}
RUN = "issue_app_7"
WRITTEN = {
    f"{RUN}/request.md": f"the key is {SECRET}\n",
    f"{RUN}/tasks/ISSUE_APP_7.md": "a task",
    f"{RUN}/state/ISSUE_APP_7.json": '{"backend_name": "pi"}',
    f"{RUN}/handoff/ISSUE_APP_7.pi.transcript.txt": "$ pi\n\x1b[2J\u202ehello\ttab\r\nlast\n",
    f"{RUN}/handoff/loop_trace.json": "{}",
    f"{RUN}/worktrees/app/secret.md": "no file of the engine's",
    f"{RUN}/other.md": "nor this",
}


@pytest.fixture
def host() -> Iterator[Box]:
    with box() as found:
        yield found


def keep(host: Box) -> dict[str, str]:
    archive.keep_files(host.config, RECORD, Redactor([SECRET]))
    return {name: content.decode() for name, content in archive.files_of(host.config, NAME).items()}


@NEEDS_ROOT
def test_what_the_engine_wrote_for_people_is_kept(host: Box) -> None:
    cell = host.cell()
    write(Path(cell.part("runs")), WRITTEN)
    write(Path(cell.part("memory")), {"journal/ISSUE_APP_7.md": "a lesson", "journal/ISSUE_APP_6.md": "of another"})
    write(Path(cell.part("state")), {"agent-core-trace.jsonl": '{"a": 1}\n'})
    give(cell.path, LOOP)
    os.chown(cell.path, 0, 0)
    found = keep(host)
    assert found == {
        f"{RUN}/request.md": "the key is ***\n",
        f"{RUN}/tasks/ISSUE_APP_7.md": "a task",
        f"{RUN}/state/ISSUE_APP_7.json": '{"backend_name": "pi"}',
        f"{RUN}/handoff/ISSUE_APP_7.pi.transcript.txt": "$ pi\n\\x1b[2J\\u202ehello\ttab\nlast\n",
        f"{RUN}/handoff/loop_trace.json": "{}",
        f"{RUN}/journal/ISSUE_APP_7.md": "a lesson",
        "agent-core-trace.jsonl": '{"a": 1}\n',
    }
    (path,) = Path(host.config["cycles_dir"]).glob("*.tar.gz")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    keep(host)
    assert path.read_bytes() == before


@NEEDS_ROOT
def test_whatever_stands_in_the_cell_root_reads_no_more_than_texts(host: Box) -> None:
    cell = host.cell()
    runs = Path(cell.part("runs"))
    write(runs, {f"{RUN}/request.md": "x", f"{RUN}/handoff/good.json": "[" * 100_000, f"{RUN}/tasks": "no directory"})
    handoff = runs / RUN / "handoff"
    (handoff / "passwd.txt").symlink_to("/etc/passwd")
    os.mkfifo(handoff / "pipe.json")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(handoff / "socket.log"))
    with (handoff / "sparse.json").open("wb") as sparse:
        sparse.truncate(10**12)
        sparse.seek(10**12 - 4)
        sparse.write(b"last")
    (handoff / "dir.json").mkdir()
    (handoff / "\x1b[2J.md").write_text("x")
    (handoff / ("n" * 200 + ".md")).write_text("x")
    (handoff / ".hidden.md").write_text("x")
    (handoff / "program.so").write_text("x")
    (runs / RUN / "state").symlink_to("/etc")
    (runs / "issue_app_8").symlink_to("/etc")
    give(runs, LOOP)
    began = time.monotonic()
    found = keep(host)
    assert time.monotonic() - began < 10
    told = found.pop(archive.LEFT_OUT)
    sparse_text = found.pop(f"{RUN}/handoff/sparse.json")
    assert "bytes were left out here" in sparse_text and sparse_text.endswith("last") and "root:" not in str(found)
    assert found == {f"{RUN}/request.md": "x", f"{RUN}/handoff/good.json": "[" * 100_000}
    for name in ("passwd.txt", "pipe.json", "socket.log", "dir.json", "\\x1b[2J.md", "program.so", "state"):
        assert name in told
    assert ".hidden" not in told and told.replace("\n", "").isprintable()


@NEEDS_ROOT
def test_what_is_kept_is_bounded(host: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = host.cell()
    monkeypatch.setattr(archive, "MAX_FILE", 1000)
    monkeypatch.setattr(archive, "MAX_ALL", 2500)
    monkeypatch.setattr(archive, "MAX_FILES", 4)
    write(Path(cell.part("runs")), {f"{RUN}/handoff/{number}.txt": "x" * 5000 for number in range(9)})
    found = keep(host)
    told = found.pop(archive.LEFT_OUT)
    assert sorted(found) == [f"{RUN}/handoff/{number}.txt" for number in range(3)]
    assert 2300 < sum(text.count("x") for text in found.values()) <= 2500
    assert told.count("no room") == 4 and told.endswith("and more\n")


@NEEDS_ROOT
def test_a_cell_with_nothing_for_people_or_none_at_all_leaves_no_archive(host: Box) -> None:
    assert keep(host) == {}
    host.cell()
    assert keep(host) == {} and os.listdir(host.config["cycles_dir"]) == []


@NEEDS_ROOT
def test_a_disk_that_is_full_fails_nothing(host: Box, capfd: pytest.CaptureFixture[str]) -> None:
    write(Path(host.cell().part("runs")), WRITTEN)
    host.config["cycles_dir"] = "/dev/full"
    archive.keep_files(host.config, RECORD, Redactor())
    archive.keep_log(host.config, {**RECORD, "started": "never"}, Redactor())
    said = capfd.readouterr().out
    assert said.count("is not kept beside the record: ") == 2 and said.count("\n") == 2


def test_an_archive_that_is_damaged_is_one_line(tmp_path: Path) -> None:
    config = {"cycles_dir": str(tmp_path)}
    good = archive.packed({"a.md": "x" * 5000}, 0.0)
    for content in (b"", b"garbage", good[:-20], good[:40]):
        (tmp_path / f"{NAME}.tar.gz").write_bytes(content)
        with pytest.raises(LoopError, match=r"tar\.gz cannot be read"):
            archive.files_of(archive.Settings(config), NAME)


# --- the log


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """What stands for journalctl: this machine has no journal. Its arguments go to the file that is returned."""

    def make(script: str) -> Path:
        program = tmp_path / "bin" / "journalctl"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n[ "$1" = --sync ] && exit\n{script}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        return tmp_path / "asked"

    return make


@NEEDS_ROOT
def test_the_log_is_what_all_units_of_the_cycle_said(host: Box, journal: Callable[[str], Path]) -> None:
    asked = journal(f"printf 'one {SECRET}\\n\\033[2Jtwo\\n'")
    archive.keep_log(host.config, RECORD, Redactor([SECRET]))
    assert archive.log_of(host.config, NAME) == "one ***\n\\x1b[2Jtwo\n"
    sync, words = asked.read_text().splitlines()
    unit = host.config["unit"]
    assert sync == "--sync"
    assert words.endswith(
        f"--since=@1769860795 _SYSTEMD_INVOCATION_ID={RECORD['invocation_id']}"
        f" + INVOCATION_ID={RECORD['invocation_id']} + _SYSTEMD_UNIT={unit}-watch.service"
        f" + _SYSTEMD_UNIT={unit}-gate.service + _SYSTEMD_UNIT={unit}-egress.service"
        f" + _SYSTEMD_UNIT={unit}-egress-proxy.service"
    )
    (path,) = Path(host.config["cycles_dir"]).glob("*.log")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@NEEDS_ROOT
def test_a_long_log_keeps_its_beginning_and_its_end(host: Box, journal: Callable[[str], Path]) -> None:
    journal("echo begin; yes 0123456789 | head -c 30000000; echo; echo the end")
    archive.keep_log(host.config, RECORD, Redactor([SECRET]))
    text = archive.log_of(host.config, NAME) or ""
    assert text.startswith("begin\n") and text.endswith("the end\n")
    assert 900_000 < len(text) <= archive.LOG_HEAD + archive.LOG_TAIL + 100
    (note,) = [line for line in text.splitlines() if line.startswith("[... ")]
    assert int(note.split()[1]) == 30_000_000 + len("begin\n\nthe end\n") - archive.LOG_HEAD - archive.LOG_TAIL


def test_beside_a_cut_no_part_of_a_secret_is_left() -> None:
    redact = Redactor([SECRET])
    for at in range(1, len(SECRET)):
        text = archive.readable(b"a" * 200 + SECRET[:at].encode(), SECRET[at:].encode() + b"z" * 200, 5, redact)
        assert SECRET[:3] not in text and SECRET[-3:] not in text and "[... 5 bytes were left out here ...]" in text
    assert archive.readable(b"a" * 5 + SECRET[:9].encode(), SECRET[9:].encode() + b"z", 0, redact) == "aaaaa***z"


@NEEDS_ROOT
def test_a_journal_that_does_not_end_is_read_from_its_end(
    host: Box, journal: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "LOG_SECONDS", 1.0)
    asked = journal('echo begin; case "$*" in *--lines*) echo the end;; *) exec sleep 60;; esac')
    began = time.monotonic()
    archive.keep_log(host.config, RECORD, Redactor())
    assert time.monotonic() - began < 10
    text = archive.log_of(host.config, NAME) or ""
    assert text.startswith("begin\n") and "from here on its last 2000 lines" in text and text.endswith("the end\n")
    assert "--lines=2000" in asked.read_text().splitlines()[-1]


@NEEDS_ROOT
@pytest.mark.parametrize(
    ("record", "script", "told"),
    [
        (RECORD, "exit 1", "(the journal has nothing of this cycle"),
        ({**RECORD, "invocation_id": "--file=/etc/shadow"}, "echo no", "(the record names no invocation"),
        (RECORD, None, "(journalctl cannot be run on this host: No such file or directory)"),
    ],
)
def test_where_there_is_nothing_the_log_says_so(
    host: Box, journal: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, record: Any, script: Any, told: str
) -> None:
    if script is None:
        monkeypatch.setenv("PATH", str(host.top))
    else:
        journal(script)
    archive.keep_log(host.config, record, Redactor())
    assert (archive.log_of(host.config, NAME) or "").startswith(told)
