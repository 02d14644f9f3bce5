# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The history of cycles: which are found, how one is told, and what they cost as a table for a spreadsheet."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import archive, records
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.report import history

URL = "https://forge.example/acme/one/pull/8"


def name(number: int) -> str:
    return f"20260101T{number:06d}Z-{number:08x}"


def record(number: int, outcome: str = "published", **more: Any) -> dict[str, Any]:
    issue = {"repo": "acme/one", "number": number, "title": f"Title {number}"}
    return {
        "cycle": name(number), "invocation_id": f"{number:032x}", "started": f"2026-01-01T00:{number:02d}:00Z",
        "outcome": outcome, "seconds": 61.5, "agents": 1, "programs": ["pi"], "backend": "pi", "trigger": "timer",
        "engine": {"sha": "5" * 40}, "issue": issue, "pr_url": URL if outcome == "published" else "",
        "detail": "" if outcome == "published" else "it stopped", "numbers": {"cost_usd": 0.25},
        "budget": {"runs_today": 1, "max_runs": 2}, **more,
    }  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Settings:
    for part in ("cycles", "runs"):
        (tmp_path / part).mkdir()
    found = Settings(
        {"cycles_dir": f"{tmp_path}/cycles", "runs_dir": f"{tmp_path}/runs", "lib_dir": "/lib/loop", "unit": "u"}
    )
    for one in (record(1), record(2, "error"), record(3, "idle", issue=None), record(4), record(5, "running")):
        records.write(found.cycles_dir, one)
    return found


def numbers(rows: list[dict[str, Any]]) -> list[int]:
    return [int(one["cycle"][9:15]) for one in rows]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, [5, 4, 3, 2, 1]),
        ({"last": 2}, [5, 4]),
        ({"last": 0}, [5, 4, 3, 2, 1]),
        ({"outcome": "published"}, [4, 1]),
        ({"outcome": "published", "last": 1}, [4]),
        ({"outcome": "idle, error"}, [3, 2]),
        ({"issue": "4"}, [4]),
        ({"issue": "#4"}, [4]),
        ({"issue": " one#4 "}, [4]),
        ({"issue": "Acme/ONE#4"}, [4]),
        ({"issue": "other/one#4"}, []),
        ({"issue": "one#9"}, []),
        ({"outcome": "refused"}, []),
    ],
)
def test_those_that_fit_newest_first(config: Settings, asked: dict[str, Any], found: list[int]) -> None:
    assert numbers(history.select(config, **asked)) == found


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            {"outcome": "publshed"},
            r"outcome=publshed: there is no such outcome; there are published, idle, .*, running",
        ),
        ({"outcome": "idle,\x1b[2J"}, r"outcome=\\x1b\[2J: there is no such outcome"),
        ({"issue": "one"}, r"issue=one: it must be a number such as 7, REPO#7 or OWNER/REPO#7"),
        ({"issue": "a/b/c#7"}, "it must be a number"),
        ({"issue": "one7"}, "it must be a number"),
        ({"issue": "7" * 100}, "it must be a number"),
        ({"last": -1}, "last=-1: it must be how many cycles to show, or 0 for all of them"),
    ],
)
def test_a_filter_that_is_none_is_refused(config: Settings, asked: dict[str, Any], told: str) -> None:
    with pytest.raises(LoopError, match=told):
        history.select(config, **asked)


def test_one_is_found_by_any_part_that_fits_no_other(config: Settings) -> None:
    assert history.find(config, name(4)) == history.find(config, "-00000004") == name(4)
    assert history.find(config, "last") == name(5)
    with pytest.raises(LoopError, match=r"5 cycles fit, such as .*; give more of the one you mean"):
        history.find(config, "20260101")
    for unknown in ("none", "", "../../etc/passwd", "\x1b[2J"):
        with pytest.raises(LoopError, match=r"no cycle is called so; ansible-playbook .*cycles"):
            history.find(config, unknown)


def test_a_host_without_cycles_has_none(tmp_path: Path) -> None:
    empty = Settings({"cycles_dir": f"{tmp_path}/none"})
    assert history.select(empty) == [] and history.table([]) == ["No cycle fits."]
    with pytest.raises(LoopError, match="there was no cycle on this host yet"):
        history.find(empty, "last")


def test_the_table_fits_a_terminal_and_cuts_no_link(config: Settings) -> None:
    records.write(config.cycles_dir, record(6, "needs_triage", detail="two\nlines " + "long " * 100))
    lines = history.table(history.select(config))
    assert " ".join(lines[0].split()) == "WHEN (UTC) CYCLE OUTCOME TOOK USD ISSUE PULL REQUEST, OR WHY"
    assert lines[1].startswith("2026-01-01 00:06  00000006  needs_triage  1 min 1 s  0.25  one#6")
    assert "two lines long" in lines[1] and lines[1].endswith("...")
    assert all(len(line) <= history.WIDTH or line.endswith(URL) for line in lines)
    assert lines[3].endswith(URL) and lines[2].split()[3:5] == ["running", "-"] and "  -" in lines[4]


def full(config: Settings, number: int, log: str | None, files: dict[str, str]) -> None:
    if log is not None:
        Path(config.cycles_dir, f"{name(number)}.log").write_text(log)
    if files:
        Path(config.cycles_dir, f"{name(number)}.tar.gz").write_bytes(archive.packed(files, 0.0))


def told(config: Settings, number: int) -> str:
    return "\n".join(history.words(history.outline(history.whole(config, name(number)))))


def test_one_in_words(config: Settings) -> None:
    refused = {"allowed": False, "reason": "src/x.py: outside", "kept": "k1"}
    pushes = [
        {"repo": "acme/one", "branch": "b", "new": "1" * 40, **refused},
        {"repo": "acme/one", "branch": "b", "new": "2" * 40, "allowed": True, "seconds": 0.3},
    ]  # fmt: skip
    held = [{"repo": "acme/one", "number": 9, "why": "its pull request is open"}]
    records.write(config.cycles_dir, record(4, pushes=pushes, pushed=2, held=held, refusals=["no"],
                                            network={"refused": ["x.example:443"]},
                                            memory={"changed": True, "files": 2, "bytes": 3000, "left_out": ["a"]},
                                            collected={"learning": {"changed": False, "error": "so"}}))  # fmt: skip
    full(
        config, 4, "".join(f"line {number}\n" for number in range(100)), {"run/handoff/x.pi.transcript.txt": "x" * 2000}
    )
    Path(config.runs_dir, name(4)).mkdir()
    text = told(config, 4)
    for part in (
        f"Cycle {name(4)}: published", "2026-01-01T00:04:00Z, took 1 min 1 s, started by timer", URL,
        "acme/one#4: Title 4", "5" * 40 + ", backend pi", "pi, started 1 times", "0.2500 USD", "1 of 2 that day",
        "acme/one b 111111111111, refused: src/x.py: outside", "the gateway keeps it as k1",
        "acme/one b 222222222222, let through (0.3 s)", "acme/one#9: its pull request is open",
        "x.example:443 was refused", "memory       2 files, 2.9 KiB", "memory       not taken: a",
        "learned      as it was before: so", "transcript   run/handoff/x.pi.transcript.txt (2.0 KiB)",
        f"sudo /lib/loop/loop enter {name(4)}", f"-e what={name(4)} -e to=BRANCH",
        "the last 40 of 100 lines; all of it: ", f"-e cycle={name(4)} -e fetch=DIR", "    line 60\n", "    line 99",
    ):  # fmt: skip
        assert part in text, (part, text)
    assert "line 59\n" not in text


def test_what_is_missing_is_said(config: Settings) -> None:
    text = told(config, 2)
    assert "none was kept: the cycle is not over, or was cut off, or the disk was full" in text
    assert (
        f"journalctl INVOCATION_ID={2:032x}" in text
        and "cell         gone: " in text
        and "detail       it stopped" in text
    )
    Path(config.cycles_dir, f"{name(2)}.tar.gz").write_bytes(b"garbage")
    assert f"problem      {config.cycles_dir}/{name(2)}.tar.gz cannot be read" in told(config, 2)
    Path(config.cycles_dir, f"{name(3)}.json").write_text("{")
    with pytest.raises(LoopError, match="cannot be read as the record of a cycle"):
        history.whole(config, name(3))


ODD: list[Any] = [None, [], "text", 7, {}, [1, None, "x"], {"sha": [1]}, True, -1.5]


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_a_record_of_any_shape_is_told(config: Settings, value: Any) -> None:
    for key in record(1):
        if key != "cycle":
            records.write(config.cycles_dir, {**record(1), key: value})
            assert told(config, 1).startswith(f"Cycle {name(1)}")
            history.table(history.select(config))
            history.costs(history.select(config), "loop")
    for key in ("pushes", "held", "refusals", "network", "memory", "collected", "kept", "pushed"):
        records.write(config.cycles_dir, {**record(1), key: value})
        assert told(config, 1).startswith(f"Cycle {name(1)}")


def test_what_others_wrote_stays_in_its_line(config: Settings) -> None:
    records.write(config.cycles_dir, record(1, "error", detail="\x1b[2J\u202e\r\nForged: line\u2028x" + "y" * 65536))
    full(config, 1, "a\tb\n" + "z" * 70000 + "\n", {})
    lines = history.words(history.shown(history.outline(history.whole(config, name(1)))))
    assert all(line.isprintable() and len(line) < 6000 for line in lines)
    assert all(line.isprintable() for line in history.table(history.select(config)))


def test_costs_over_time_for_a_spreadsheet(config: Settings) -> None:
    hostile = {"repo": "=cmd|' /C calc'!A0", "number": 6, "title": "+x"}
    records.write(config.cycles_dir, record(6, "error", issue=hostile, pr_url="@SUM(1,2)", engine={"sha": "-1+1"}))
    lines = [history.comma_separated(history.COSTS), *history.costs(history.select(config), "=loop\n")]
    rows = list(csv.DictReader("\n".join(lines).replace("'=loop\n", "'=loop").splitlines()))
    assert [row["cycle"] for row in rows] == [name(number) for number in range(1, 7)]
    assert {key: value for key, value in rows[0].items() if key != "host"} == {
        "cycle": name(1), "date": "2026-01-01T00:01:00Z", "engine": "5" * 40, "repo": "acme/one", "issue": "1",
        "outcome": "published", "seconds": "61.5", "cost_usd": "0.250000", "agents": "1", "pr_url": URL,
    }  # fmt: skip
    assert rows[2]["issue"] == "" and rows[5]["repo"] == "'=cmd|' /C calc'!A0" and rows[5]["pr_url"] == "'@SUM(1,2)"
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@"))]


# --- on the host


def test_the_command(config: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / "loop.json"
    settings.write_text(json.dumps({**config, "state_dir": str(tmp_path)}))
    if history.os.geteuid() != 0:
        assert history.main(str(settings)) == 1 and "logs of cycles are root's" in capsys.readouterr().err
        return
    assert history.main(str(settings)) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    assert history.main(str(settings), "last") == 0
    assert capsys.readouterr().out.startswith(f"Cycle {name(5)}: running")
    assert history.main(str(settings), "none") == 1
    assert capsys.readouterr().err.startswith("loop: cycle=none: no cycle is called so")
    assert history.main(f"{tmp_path}/none.json") == 1
    assert "was not deployed yet" in capsys.readouterr().err
