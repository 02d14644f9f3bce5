# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a take-over writes down of itself: the file that a host of an earlier version has, and what is no manifest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.adopt import Part
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.takeover_manifest import (
    Manifest,
    Moved,
    Owner,
    listing,
    read,
    unfinished,
)

WRITTEN = {
    "begun": "20260101T120000.000000Z", "entries": ["src"], "timers": {"x.timer": {"ActiveState": "active"}},
    "head": "a" * 40, "items": [{"kind": "unit", "path": "/a", "to": "/b"}], "owners": {"/opt": [7, 8, 0o755]},
    "account": ["/home/x", "/bin/sh"], "cell": "20260101T120000Z-0a0a0a0a", "work": [["runs", "/runs", False]],
    "found": ["2 runs"],
}  # fmt: skip


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(WRITTEN))
    known = read(str(tmp_path))
    assert known.open and (known.items, known.work) == ([Moved("unit", "/a", "/b")], [Part("runs", "/runs", False)])
    assert known.owners == {"/opt": Owner(7, 8, 0o755)}
    assert (known.moved_from("unit", "/a"), known.moved_from("copy", "/a")) == (Moved("unit", "/a", "/b"), None)
    known.write(str(tmp_path))
    assert json.loads((tmp_path / "manifest.json").read_text()) == WRITTEN
    assert (tmp_path / "manifest.json").stat().st_mode & 0o7777 == 0o600


def test_one_of_an_earlier_version_that_knew_less(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"begun": "x", "ended": "y", "entries": [], "timers": {}, "items": []}')
    known = read(str(tmp_path))
    assert not known.open and (known.account, known.work, known.owners) == ((), [], {})


@pytest.mark.parametrize("text", [None, "", "[]", "{", '{"items": [{}]}', '{"items": 7}', '{"color": 1}', '"text"'])
def test_what_is_no_manifest_says_nothing(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    known = read(str(tmp_path))
    assert not known.open and (known.begun, list(known.items), dict(known.timers)) == ("", [], {})


def test_the_one_that_did_not_end_is_found(tmp_path: Path) -> None:
    assert (listing(str(tmp_path)), unfinished(str(tmp_path))) == ([], ("", Manifest()))
    for name, ended in (("1", "x"), ("2", ""), (".begin", "")):
        (tmp_path / "taken-over" / name).mkdir(parents=True)
        Manifest(begun=name, ended=ended).write(str(tmp_path / "taken-over" / name))
    assert [Path(each).name for each in listing(str(tmp_path))] == ["1", "2"]
    aside, known = unfinished(str(tmp_path))
    assert (Path(aside).name, known.begun) == ("2", "2")
