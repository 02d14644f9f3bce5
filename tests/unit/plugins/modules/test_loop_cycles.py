# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `loop_cycles`, and the playbook `cycles` as it is typed: what it shows, and what it writes here."""

from __future__ import annotations

import base64
import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import archive, records
from ansible_collections.as215932.engineering_loop.plugins.modules import loop_cycles

TOP = Path(__file__).resolve().parents[4]
FIRST, SECOND = "20260101T000001Z-00000001", "20260101T000002Z-00000002"
FILES = {"run/request.md": "Explain.\n", "run/handoff/x.pi.transcript.txt": "$ pi\n"}


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """The settings of a host with two cycles, in a directory as its `config_dir`."""
    for part in ("etc", "cycles", "runs"):
        (tmp_path / part).mkdir()
    parts = {f"{part}_dir": f"{tmp_path}/{part}" for part in ("cycles", "runs", "lib", "state")}
    (tmp_path / "etc/loop.json").write_text(json.dumps({**parts, "unit": "u"}))
    issue = {"repo": "acme/one", "number": 7, "title": "\x1b[2JTitle\u202e"}
    for name, outcome in ((FIRST, "published"), (SECOND, "needs_triage")):
        records.write(parts["cycles_dir"], {
            "cycle": name, "outcome": outcome, "started": "2026-01-01T00:00:01Z", "issue": issue, "seconds": 3,
            "numbers": {"cost_usd": 0.5}, "detail": "=1+1", "pr_url": "",
        })  # fmt: skip
    (tmp_path / "cycles" / f"{SECOND}.log").write_text("one\ntwo\n")
    (tmp_path / "cycles" / f"{SECOND}.tar.gz").write_bytes(archive.packed(FILES, 0.0))
    return tmp_path / "etc"


def test_the_list(task: Callable[..., dict[str, Any]], etc: Path) -> None:
    answer = task(loop_cycles, config=f"{etc}/loop.json")
    assert not answer["changed"] and [one["cycle"] for one in answer["cycles"]] == [SECOND, FIRST]
    assert answer["cycles"][0]["title"] == "\\x1b[2JTitle\\u202e"
    assert [one["cycle"] for one in task(loop_cycles, config=f"{etc}/loop.json", last=1)["cycles"]] == [SECOND]
    (one,) = task(loop_cycles, config=f"{etc}/loop.json", outcome="published", issue="one#7")["cycles"]
    assert one["cycle"] == FIRST


def test_one_of_them(task: Callable[..., dict[str, Any]], etc: Path) -> None:
    answer = task(loop_cycles, config=f"{etc}/loop.json", cycle="last")
    assert answer["cycle"]["record"]["cycle"] == SECOND and "content" not in answer and "cycles" not in answer
    assert answer["cycle"]["log"] == {"kept": True, "lines": 2, "end": ["one", "two"]}
    content = task(loop_cycles, config=f"{etc}/loop.json", cycle=SECOND, content=True)["content"]
    assert sorted(content) == [*(f"files/{name}" for name in sorted(FILES)), "log.txt", "record.json"]
    assert base64.b64decode(content["log.txt"]) == b"one\ntwo\n"
    assert list(task(loop_cycles, config=f"{etc}/loop.json", cycle=FIRST, content=True)["content"]) == ["record.json"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"cycle": "2026"}, "cycle=2026: 2 cycles fit"),
        ({"cycle": "none"}, "cycle=none: no cycle is called so"),
        ({"outcome": "good"}, "outcome=good: there is no such outcome"),
        ({"issue": "one"}, "issue=one: it must be a number"),
        ({"last": -5}, "last=-5: it must be how many"),
        ({"last": "many"}, "unable to convert to int"),
        ({"config": "/none/loop.json"}, "was not deployed yet"),
    ],
)
def test_what_it_is_asked_in_vain(
    task: Callable[..., dict[str, Any]], etc: Path, asked: dict[str, Any], told: str
) -> None:
    answer = task(loop_cycles, **{"config": f"{etc}/loop.json", **asked})
    assert answer["failed"] and told in answer["msg"] and "\n" not in answer["msg"]


# --- as it is typed


def play(etc: Path, *words: str) -> tuple[int, str]:
    """The playbook on this machine; its exit status, and what it says."""
    given = {"engineering_loop_config_dir": etc, "ansible_become": "false", "engineering_loop_hosts": "all"}
    more = [word for name, value in given.items() for word in ("-e", f"{name}={value}")]
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "a/host,", "-c", "local"]
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": f"{TOP}/.collections", "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(
        [*command, f"{TOP}/playbooks/cycles.yml", *more, "-e", f"ansible_python_interpreter={sys.executable}", *words],
        cwd=etc, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def everything(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_text(errors="replace") for path in files}


def test_it_is_shown_in_lines(etc: Path) -> None:
    status, said = play(etc)
    assert status == 0
    assert "\n2026-01-01 00:00  00000002  needs_triage  3 s   0.50  one#7  =1+1\n" in said
    assert "One in full: ansible-playbook -i a/host, as215932.engineering_loop.cycles -l a/host" in said
    status, said = play(etc, "-e", "cycle=last")
    assert (
        status == 0 and f"\nCycle {SECOND}: needs_triage\n" in said and "\n    two\n" in said and "\x1b[2J" not in said
    )


def test_one_is_brought_here_once(etc: Path) -> None:
    brought = etc / "new" / "dir"
    words = ("-e", "cycle=00000002", "-e", "fetch=new/dir", "-e", "format=json")
    status, said = play(etc, *words, "--check", "--diff")
    assert status == 0 and not brought.exists() and "changed=1" in said
    status, said = play(etc, *words)
    assert status == 0 and "changed=1" in said
    document = json.loads(said[said.index("\n{\n") : said.index("\n}\n") + 2])
    assert document["host"] == "a/host" and document["cycle"]["record"]["cycle"] == SECOND
    top = f"a_host/{SECOND}"
    assert everything(brought) == {
        f"{top}/record.json": json.dumps(document["cycle"]["record"] | {}, indent=2, sort_keys=True) + "\n",
        f"{top}/log.txt": "one\ntwo\n",
        **{f"{top}/files/{name}": text for name, text in FILES.items()},
    }
    assert {path.stat().st_mode & 0o777 for path in brought.rglob("*") if path.is_file()} == {0o600}
    assert "changed=0" in play(etc, *words)[1]


def test_what_a_host_gone_bad_sends_is_written_nowhere_else(etc: Path) -> None:
    hostile = archive.packed({"../../../../../evil.txt": "x"}, 0.0)
    (etc.parent / "cycles" / f"{SECOND}.tar.gz").write_bytes(hostile)
    status, said = play(etc, "-e", "cycle=last", "-e", "fetch=there")
    assert status == 2 and "which is none of a cycle's" in said and not list(etc.parent.rglob("evil.txt"))


def test_costs_go_into_a_file(etc: Path) -> None:
    for words, change in ((("--check",), "changed=1"), ((), "changed=1"), ((), "changed=0")):
        status, said = play(etc, "-e", "csv=costs.csv", *words)
        assert status == 0 and change in said and "WHEN" not in said
        assert (etc / "costs.csv").exists() != bool(words)
    with (etc / "costs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["host"], row["cycle"], row["cost_usd"]) for row in rows] == [
        ("a/host", FIRST, "0.500000"), ("a/host", SECOND, "0.500000"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("fetch=new",), "fetch= brings one cycle: say which by cycle=ID"),
        (("fetch=loop.json", "cycle=last"), "loop.json is a file, but must be a directory"),
        (("fetch=new", "cycle=none"), "cycle=none: no cycle is called so"),
        (("csv=none/costs.csv",), "none does not exist"),
        (("format=xml",), "value of format must be one of: text, json, none, got: xml"),
    ],
)
def test_bad_words_are_one_error_and_nothing_is_written(etc: Path, words: tuple[str, ...], told: str) -> None:
    before = everything(etc.parent)
    status, said = play(etc, *(word for one in words for word in ("-e", one)))
    assert status == 2 and told in said and "Traceback" not in said
    assert everything(etc.parent) == before
