# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records of cycles: written whole, read past anything that is none, bounded, and not too many."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.clock import stamp
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import records
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings

CONFIG = Settings({"lib_dir": "/lib/loop"})


def record(number: int, outcome: str = "idle") -> dict[str, Any]:
    return {"cycle": f"20260101T{number:06d}Z-0000000a", "outcome": outcome}


def write(directory: Path, *numbers: int, outcome: str = "idle") -> None:
    for number in numbers:
        records.write(str(directory), record(number, outcome))


def cycles(directory: Path, **options: int) -> list[int]:
    return [int(found["cycle"][9:15]) for found in records.read(str(directory), **options)]


def test_the_newest_are_read_oldest_first(tmp_path: Path) -> None:
    assert records.read(str(tmp_path / "none")) == []
    write(tmp_path, 3, 1, 2)
    assert cycles(tmp_path) == [1, 2, 3]
    assert cycles(tmp_path, last=2) == [2, 3]
    assert cycles(tmp_path, last=9) == [1, 2, 3]
    assert cycles(tmp_path, last=0) == cycles(tmp_path, last=-1) == []
    assert (tmp_path / f"{record(1)['cycle']}.json").stat().st_mode & 0o777 == 0o644


def test_a_record_is_replaced_by_its_later_self(tmp_path: Path) -> None:
    write(tmp_path, 1, outcome="running")
    write(tmp_path, 1, outcome="published")
    assert records.read(str(tmp_path)) == [record(1, "published")]


def test_whatever_else_is_there_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, 1)
    good = json.dumps(record(1))
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
    assert records.read(str(tmp_path)) == [record(1)]


def test_what_nobody_ended_is_found(tmp_path: Path) -> None:
    write(tmp_path, 1, outcome="published")
    write(tmp_path, 2, outcome="running")
    (found,) = records.running(str(tmp_path))
    assert found == record(2, "running")
    closed = records.ended(found, "interrupted", "killed")
    assert (closed["outcome"], closed["detail"]) == ("interrupted", "killed")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", closed["ended"])
    records.write(str(tmp_path), closed)
    assert records.running(str(tmp_path)) == []
    assert records.read(str(tmp_path)) == [record(1, "published"), closed]


def test_the_oldest_are_not_read(tmp_path: Path) -> None:
    write(tmp_path, *range(1, records.NEWEST + 4))
    assert cycles(tmp_path) == list(range(4, records.NEWEST + 4))
    assert records.running(str(tmp_path / "none")) == []


# --- how long they are kept


def kept(directory: Path) -> list[str]:
    """What is left, in short: the number of a cycle and what of it."""
    return sorted(f"{int(path.name[9:15])}{path.name[25:]}" for path in directory.iterdir() if path.name[0] == "2")


def full(directory: Path, *numbers: int, size: int = 1000) -> None:
    for number in numbers:
        name = record(number)["cycle"]
        for suffix in (".json", records.LOG, records.FILES):
            (directory / f"{name}{suffix}").write_bytes(b"x" * size)


def test_what_is_older_than_its_time_goes_but_for_the_last_one(tmp_path: Path) -> None:
    full(tmp_path, 1, 2)
    fresh = f"{stamp()}-0000000a"
    (tmp_path / f"{fresh}.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("a person's")
    assert records.retire(str(tmp_path), 36500 * 86400.0, None) == []
    gone = records.retire(str(tmp_path), 86400.0, None)
    assert len(gone) == 6 and sorted(os.listdir(tmp_path)) == [f"{fresh}.json", "notes.txt"]
    (tmp_path / f"{fresh}.json").unlink()
    full(tmp_path, 3)
    assert records.retire(str(tmp_path), 0.0, 0.0) == []
    assert kept(tmp_path) == ["3.json", "3.log", "3.tar.gz"]


def test_for_size_logs_go_before_records_and_the_oldest_before_others(tmp_path: Path) -> None:
    full(tmp_path, 1, 2, 3)  # 9000 bytes
    assert records.retire(str(tmp_path), None, 9000.0) == []
    assert records.retire(str(tmp_path), None, 8000.0) == [f"{record(1)['cycle']}.log"]
    records.retire(str(tmp_path), None, 5500.0)
    assert kept(tmp_path) == ["1.json", "2.json", "3.json", "3.log", "3.tar.gz"]
    records.retire(str(tmp_path), None, 4000.0)
    assert kept(tmp_path) == ["2.json", "3.json", "3.log", "3.tar.gz"]
    records.retire(str(tmp_path), None, 0.0)
    assert kept(tmp_path) == ["3.json", "3.log", "3.tar.gz"]


def test_their_number_is_bounded_and_what_lost_its_record_goes(tmp_path: Path) -> None:
    full(tmp_path, 1, 2, 3)
    (tmp_path / f"{record(2)['cycle']}.json").unlink()
    (tmp_path / f".{record(1)['cycle']}.log.new").write_text("half")  # of a killed writer
    (tmp_path / "20250101T000000Z-a.json").mkdir()  # cannot be removed like a file, and must stop nobody
    gone = records.retire(str(tmp_path), None, None)
    assert sorted(gone) == [f"{record(2)['cycle']}.log", f"{record(2)['cycle']}.tar.gz"]
    assert len(records.retire(str(tmp_path), None, None, most=1)) == 4
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    assert kept(tmp_path) == ["0", "3.json", "3.log", "3.tar.gz"]


def test_a_directory_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(LoopError, match="cannot be written"):
            write(directory, 1)
    for call in (records.read, records.running, records.names):
        with pytest.raises(LoopError, match="file cannot be read: Not a directory"):
            call(str(tmp_path / "file"))


# --- what others wrote


def test_what_an_engine_claims_is_cut_and_cleaned() -> None:
    deep: Any = "end"
    for _unused in range(50):
        deep = {"in": deep}
    given = {
        "text": "\x1b[2J\u202e" + "x" * 50_000, "list": list(range(5000)), "deep": deep, "\x07key": 1,
        "lines": "one\ntwo\x00", "surrogate": "\udcff", "many": {str(number): 1 for number in range(5000)},
    }  # fmt: skip
    seen = records.bounded(given)
    assert seen["text"].startswith("\\x1b[2J\\u202exxx") and len(seen["text"]) <= records.MAX_TEXT + 3
    assert (len(seen["list"]), len(seen["many"])) == (records.MAX_ITEMS,) * 2
    assert seen["lines"] == "one\ntwo\\x00" and seen["\\x07key"] == 1 and seen["surrogate"] == "\\xff"
    assert '"..."' in json.dumps(seen["deep"]) and json.dumps(seen["deep"]).count("in") < records.MAX_DEPTH + 1


def test_a_record_is_json_for_everybody(tmp_path: Path) -> None:
    told = {"cost_usd": float("nan"), "deep": [{"x": float("inf")}, 1.5, -0.0]}
    records.write(str(tmp_path), {**record(1), "report": told})
    (text,) = [path.read_text() for path in tmp_path.glob("*.json")]
    seen = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert seen["report"] == {"cost_usd": None, "deep": [{"x": None}, 1.5, -0.0]}


def test_what_does_not_fit_is_left_out_by_name() -> None:
    large = {str(number): ["x" * 1000] * 100 for number in range(10)}
    seen = records.fitting({"cycle": "c", "report": large, "numbers": {"seconds": 1}, "detail": "d"})
    assert seen == {"cycle": "c", "detail": "d", "numbers": {"seconds": 1}, "left_out": ["report"]}
    assert records.fitting({"cycle": "c", "list": [1]}) == {"cycle": "c", "list": [1]}


def test_a_record_of_others_making_is_written_and_read(tmp_path: Path) -> None:
    records.write(str(tmp_path), {**record(1), "report": {"a": [["x" * 2000] * 100] * 100, "b": "\udcff\x1b"}})
    (found,) = records.read(str(tmp_path))
    assert found["outcome"] == "idle"
    assert (tmp_path / f"{record(1)['cycle']}.json").stat().st_size <= records.MAX_BYTES + 1000


def test_the_sentence_is_one_line() -> None:
    told = {"issue": {"repo": "acme/one", "number": 7}, "pr_url": "http://forge/1"}
    whole = {"cycle": "c", "outcome": "published", "seconds": 12.5, **told, "detail": "two\nlines"}
    assert records.sentence(CONFIG, whole) == "cycle published after 12.5 s: acme/one#7 http://forge/1 two lines"
    assert records.sentence(CONFIG, {"outcome": "idle"}) == "cycle idle after 0 s"
    run = {**whole, "agents": 2, "budget": {"runs_today": 1, "max_runs": 2}, "kept": True}
    assert records.sentence(CONFIG, run).endswith("(run 1 of 2 today); its cell is kept: sudo /lib/loop/loop enter c")
    odd = {"outcome": "error", "report": {"issue": ["x"], "pr_url": "\x1b[2J"}, "detail": {"a": "\u202e"}}
    assert records.sentence(CONFIG, odd).isprintable()


@pytest.mark.parametrize("report", [[], "text", 3, [1], True])
def test_a_report_that_is_no_object_is_told_as_none(report: Any) -> None:
    assert records.sentence(CONFIG, {"outcome": "error", "report": report, "detail": "d"}) == "cycle error after 0 s: d"
