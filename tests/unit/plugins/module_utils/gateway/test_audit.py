# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the gateway wrote down: bounded, whole after a kill, read by root without harm, and the story that it tells."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.gateway import audit, sessions
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user
from celled import GATE, NAME, NEEDS_ROOT, Box, box

pytestmark = NEEDS_ROOT


@pytest.fixture
def host() -> Iterator[Box]:
    with box() as found:
        as_user(GATE, lambda: os.mkdir(f"{found.config['gate_dir']}/records"))
        yield found
        subprocess.run(["rm", "-rf", sessions.directory(found.config)], check=True)


def note(host: Box, *entries: dict[str, Any], name: str = NAME) -> None:
    as_user(GATE, lambda: [audit.append(host.config, name, one) for one in entries] and None)


def file_of(host: Box, name: str = NAME) -> Path:
    return Path(audit.path_of(host.config, name))


def test_what_was_asked_is_written_down(host: Box) -> None:
    note(host, {"what": "a", "text": "caf\u00e9\n\udcff"}, {"what": "b"})
    found = audit.read(host.config, NAME)
    assert [one["what"] for one in found] == ["a", "b"] and found[0]["text"] == "caf\u00e9\n\udcff"
    assert all(one["at"].endswith("Z") for one in found)
    assert file_of(host).stat().st_mode & 0o777 == 0o600
    assert audit.cycles(host.config) == [NAME]


@pytest.mark.parametrize("name", ["", "x", "../x", f"{NAME}/x", f"{NAME}\n", "None"])
def test_what_is_no_cycle_has_no_record(host: Box, name: str) -> None:
    for act in (audit.read, lambda config, given: audit.append(config, given, {"what": "a"})):
        with pytest.raises(LoopError, match="is not the name of a cycle"):
            act(host.config, name)


def test_a_line_that_was_cut_off_swallows_no_other(host: Box) -> None:
    note(host, {"what": "a"})
    with file_of(host).open("a") as file:
        file.write('{"what": "b", "te')
    assert [one["what"] for one in audit.read(host.config, NAME)] == ["a"]
    note(host, {"what": "c"})
    assert [one["what"] for one in audit.read(host.config, NAME)] == ["a", "c"]


def test_many_at_once_lose_nothing(host: Box) -> None:
    def write() -> None:
        for _unused in range(20):
            audit.append(host.config, NAME, {"what": "a", "text": "x" * 500})

    threads = [threading.Thread(target=write) for _unused in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(audit.read(host.config, NAME)) == 160


def test_there_is_an_end_to_it(host: Box) -> None:
    as_user(GATE, lambda: file_of(host).write_bytes(b"x" * (audit.MAX_BYTES - audit.SPARE - 100)) and None)
    note(host, {"what": "a"})
    with pytest.raises(LoopError, match="this cycle has asked for too much: it is answered no more"):
        note(host, {"what": "b", "text": "x" * 200})
    note(host, {"what": "push", "text": "x" * 200}, {"what": "open"})  # these have reached the forge already
    with pytest.raises(LoopError, match="this cycle has asked for too much: it is answered no more"):
        note(host, {"what": "push", "text": "x" * audit.SPARE})
    assert file_of(host).stat().st_size <= audit.MAX_BYTES
    assert [one["what"] for one in audit.read(host.config, NAME)] == ["a", "push", "open"]


def test_where_it_cannot_be_written_nothing_goes_on(host: Box) -> None:
    os.rename(f"{host.config['gate_dir']}/records", f"{host.config['gate_dir']}/away")
    with pytest.raises(LoopError, match="cannot be written: No such file or directory"):
        note(host, {"what": "a"})
    assert audit.read(host.config, NAME) == [] and audit.cycles(host.config) == []


# --- what root reads


@pytest.mark.parametrize(
    "line",
    ["", "nonsense", "[]", "5", '"text"', "{}", '{"what": 5}', '{"what": ["a"]}', '{"a": 1', '{"what":' * 5000,
     '{"what": "a", "b":' + '{"a":' * 20 + "1" + "}" * 21, '{"what": "a", "b": ' + "[" * 9 + "]" * 9 + "}",
     "\x00\x1b[2J", "\xff\xfe"],
)  # fmt: skip
def test_a_line_that_is_no_entry_is_passed_over(host: Box, line: str) -> None:
    file_of(host).write_bytes(b'{"what": "first"}\n' + line.encode("latin-1") + b'\n{"what": "last"}\n')
    assert [one["what"] for one in audit.read(host.config, NAME)] == ["first", "last"]


@pytest.mark.parametrize("kind", ["link", "pipe", "directory", "large", "linked directory"])
def test_what_stands_in_its_place_is_not_read(host: Box, kind: str, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.jsonl").write_text('{"what": "stolen"}\n')
    if kind == "link":
        file_of(host).symlink_to(tmp_path / f"{NAME}.jsonl")
    elif kind == "pipe":
        os.mkfifo(file_of(host))
    elif kind == "directory":
        file_of(host).mkdir()
    elif kind == "large":
        with file_of(host).open("wb") as file:
            file.truncate(1 << 40)
    else:
        file_of(host).parent.rmdir()
        file_of(host).parent.symlink_to(tmp_path)
    began = time.monotonic()
    with pytest.raises(LoopError):
        audit.read(host.config, NAME)
    assert time.monotonic() - began < 5


def test_the_newest_are_kept(host: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "KEEP", 3)
    names = [f"20260131T12000{number}Z-1a2b3c4d" for number in range(5)]
    for name in reversed(names):
        note(host, {"what": "a"}, name=name)
    (file_of(host).parent / "notes.txt").write_text("somebody's")
    for number in range(5):  # a job that runs more often pushes no cycle out
        note(host, {"what": "job-list"}, name=f"20270131T12000{number}Z-1a2b3c4d")
    as_user(GATE, lambda: audit.forget_old(host.config))
    assert audit.cycles(host.config) == [*names[2:], *(f"20270131T12000{number}Z-1a2b3c4d" for number in (2, 3, 4))]
    assert (file_of(host).parent / "notes.txt").exists()


# --- the story


def test_the_story_of_a_cycle() -> None:
    push = {"what": "push", "repo": "o/r", "branch": "b", "new": "1", "allowed": True}
    told = audit.story(
        [
            {"what": "refresh", "tips": {"app": "0"}},
            {"what": "list", "repo": "o/r", "offered": [{"number": 7, "title": "A"}],
             "held": [{"number": 8, "why": "w"}]},
            {"what": "view", "repo": "o/r", "number": 9, "body": False},
            {"what": "view", "repo": "o/r", "number": 5, "body": True},
            {"what": "view", "repo": "o/r", "number": 7, "body": True},
            {**push, "what": "forward"},
            {"what": "view", "repo": "o/r", "number": 8, "body": True},  # its work is on its way: it has its issue
            {**push, "allowed": False, "reason": "no"}, push, {**push, "new": "2"},
            {"what": "view", "repo": "o/r", "number": 8, "body": True},
            {"what": "open", "url": "x", "finished": "another"}, {"what": "open", "url": "u"},
            {"what": "refused", "why": "w"}, {"what": "something new"},
        ]
    )  # fmt: skip
    assert (told.taken, told.issue, told.offered, told.tips) == (("o/r", 7), "o/r#7", [("o/r", 7)], {"app": "0"})
    assert told.titles == {"o/r#7": "A"} and told.held == [{"repo": "o/r", "number": 8, "why": "w"}]
    assert len(told.pushes) == 3 and told.forwarded["b"]["new"] == "2" and told.own_pull["url"] == "u"
    assert told.refusals == ["w"] and told.entries == 15
    assert audit.Story().issue == "" and audit.Story().own_pull == {}


@pytest.mark.parametrize("what", ["list", "view", "refresh", "push", "open", "refused"])
@pytest.mark.parametrize("value", [None, 5, "x", [], {}, [1], {"a": 1}, [{"number": "x"}], [[]]], ids=repr)
def test_an_entry_that_is_odd_harms_nothing(what: str, value: Any) -> None:
    keys = ("repo", "number", "offered", "held", "body", "tips", "allowed", "branch", "why", "url")
    odd = {"what": what, **dict.fromkeys(keys, value)}
    for entry in (odd, {"what": what}):
        told = audit.story([entry, {"what": "open", "url": "u"}])
        assert told.own_pull and told.entries == 2
        json.dumps([told.offered, told.held, told.pushes, told.opened])
