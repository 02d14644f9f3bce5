# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Accounts of cycles: written whole, read past anything that is none, closed for the dead, and not too many."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils import accounts
from ansible_collections.as215932.engineering_loop.plugins.module_utils.errors import LoopError


def account(number: int, outcome: str = "idle") -> dict[str, Any]:
    return {"cycle": f"20260101T{number:06d}Z-0000000a", "outcome": outcome}


def write(directory: Path, *numbers: int, outcome: str = "idle") -> None:
    for number in numbers:
        accounts.write(str(directory), account(number, outcome))


def cycles(directory: Path, **options: int) -> list[int]:
    return [int(found["cycle"][9:15]) for found in accounts.read(str(directory), **options)]


def test_the_newest_are_read_oldest_first(tmp_path: Path) -> None:
    assert accounts.read(str(tmp_path / "none")) == []
    write(tmp_path, 3, 1, 2)
    assert cycles(tmp_path) == [1, 2, 3]
    assert cycles(tmp_path, last=2) == [2, 3]
    assert cycles(tmp_path, last=9) == [1, 2, 3]
    assert cycles(tmp_path, last=0) == cycles(tmp_path, last=-1) == []
    assert (tmp_path / f"{account(1)['cycle']}.json").stat().st_mode & 0o777 == 0o640


def test_an_account_is_replaced_by_its_later_self(tmp_path: Path) -> None:
    write(tmp_path, 1, outcome="running")
    write(tmp_path, 1, outcome="published")
    assert accounts.read(str(tmp_path)) == [account(1, "published")]


def test_whatever_else_is_there_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, 1)
    good = json.dumps(account(1))
    broken = {
        "20260102T000000Z-a.json": "", "20260102T000001Z-a.json": good[:-1], "20260102T000002Z-a.json": "[]",
        "20260102T000003Z-a.json": "\udcff", "20260102T000004Z-a.json": good, "20260102T000005Z-a.json": "null",
        "20260102T000006Z-a.json": "[" * 200_000, "20260102T000007Z-a.json": '{"cycle": 7}', ".20260102.json": good,
        "20260102T000008Z-a.json": "1" * 10_000, "other.json": good, "20260101T000001Z-0000000a.json.bak": good,
    }  # fmt: skip
    for name, text in broken.items():
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    os.mkfifo(tmp_path / "20260103T000000Z-a.json")
    (tmp_path / "20260103T000001Z-a.json").mkdir()
    (tmp_path / "20260103T000002Z-a.json").symlink_to("20260101T000001Z-0000000a.json")
    assert accounts.read(str(tmp_path)) == [account(1)]
    accounts.close_interrupted(str(tmp_path))


def test_what_was_killed_is_closed_by_the_next(tmp_path: Path) -> None:
    write(tmp_path, 1, outcome="published")
    write(tmp_path, 2, outcome="running")
    accounts.close_interrupted(str(tmp_path))
    first, second = accounts.read(str(tmp_path))
    assert first == account(1, "published")
    assert (second["outcome"], second["detail"]) == ("interrupted", "the cycle was killed before it could end")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", second["ended"])
    accounts.close_interrupted(str(tmp_path))
    assert accounts.read(str(tmp_path)) == [first, second]


def test_the_oldest_go(tmp_path: Path) -> None:
    (tmp_path / "20250101T000000Z-a.json").mkdir()  # cannot be removed like a file, and must stop nobody
    write(tmp_path, *range(1, accounts.KEEP + 4))
    accounts.close_interrupted(str(tmp_path))
    assert cycles(tmp_path) == list(range(4, accounts.KEEP + 4))
    accounts.close_interrupted(str(tmp_path / "none"))


def test_a_directory_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(LoopError, match="cannot be written"):
            write(directory, 1)
    for call in (accounts.read, accounts.close_interrupted):
        with pytest.raises(LoopError, match="file cannot be read: Not a directory"):
            call(str(tmp_path / "file"))
