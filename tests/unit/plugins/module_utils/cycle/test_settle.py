# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a cycle ended: what root saw stands above what the cycle says, and whatever it says, it is settled."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base import wire
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.clock import age_of, stamp, utc_now
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import (
    archive,
    attempts,
    budget,
    cells,
    kept_time,
    pristine,
    records,
)
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell.attempts import Attempt
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell.cells import Cell, Manifest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cycle import handover, prepare, settle
from ansible_collections.as215932.engineering_loop.plugins.module_utils.gateway import audit
from ansible_collections.as215932.engineering_loop.plugins.module_utils.gateway.audit import Story
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import systemd
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user
from celled import GATE, LOOP, NAME, NEEDS_ROOT, TODAY, Box, box, give, shape, write
from disks import fill, with_a_host_on_a_small_disk
from older_host import killed_at

INVOCATION = "1a2b3c4d" * 4


# --- judging


@pytest.mark.parametrize(
    ("manifest", "claim", "systemd", "outcome", "detail"),
    [
        ({}, {"outcome": "published"}, {}, "published", ""),
        ({"agents": 3}, {"outcome": "published", "detail": "d"}, {}, "published", "d"),
        ({}, {"outcome": "idle", "detail": "nothing"}, {}, "idle", "nothing"),
        ({"agents": 1}, {"outcome": "needs_triage", "detail": "a person"}, {}, "needs_triage", "a person"),
        # What root did or saw wins.
        ({"ended_by": "its cell has 9 files"}, {"outcome": "published"}, {"SERVICE_RESULT": "timeout"}, "interrupted",
         "the cycle was ended: its cell has 9 files"),
        ({"agents": 1}, {"outcome": "published"}, {"SERVICE_RESULT": "timeout"}, "interrupted",
         "it took longer than engineering_loop_service_timeout"),
        ({"agents": 1}, {"outcome": "idle", "detail": "honest"}, {}, "error",
         "the cycle says idle, but an agent was started: honest"),
        *(({"agents": 1}, {"outcome": name}, {}, "error", f"the cycle says {name}, but an agent was started: ")
          for name in cells.NOTHING_IN_IT if name != "paused"),
        # No report.
        ({}, {}, {"EXIT_CODE": "killed", "EXIT_STATUS": "KILL"}, "interrupted", "the cycle was killed (KILL)"),
        ({}, {}, {"EXIT_CODE": "dumped", "EXIT_STATUS": "SEGV"}, "interrupted", "the cycle was killed (SEGV)"),
        ({}, {}, {"EXIT_CODE": "exited", "EXIT_STATUS": "4"}, "refused",
         "the cycle refused to start its engine, see the journal"),
        ({"agents": 1}, {}, {"EXIT_CODE": "exited", "EXIT_STATUS": "4"}, "error",
         "the cycle ended (exited 4) without a report"),
        ({}, {}, {"EXIT_CODE": "exited", "EXIT_STATUS": "0"}, "error", "the cycle ended (exited 0) without a report"),
        ({}, {}, {"EXIT_CODE": "exited", "EXIT_STATUS": "10"}, "error", "the cycle ended (exited 10) without a report"),
        ({}, {}, {}, "error", "the cycle ended (unknown ) without a report"),
        # Nonsense.
        ({}, {"outcome": "win\x1b[2J", "detail": "x"}, {}, "error",
         "the engine says win\\x1b[2J, which nobody knows: x"),
        ({}, {"outcome": "running"}, {}, "error", "the engine says running, which nobody knows: "),
        ({}, {"outcome": "paused"}, {}, "error", "the engine says paused, which nobody knows: "),
        ({}, {"outcome": ["published"]}, {"EXIT_CODE": "exited", "EXIT_STATUS": "1"}, "error",
         "the cycle ended (exited 1) without a report"),
        ({}, {"outcome": None}, {"EXIT_CODE": "killed", "EXIT_STATUS": "TERM"}, "interrupted",
         "the cycle was killed (TERM)"),
        ({}, {"outcome": "error", "detail": {"a": 1}}, {}, "error", "{'a': 1}"),
    ],
)  # fmt: skip
def test_what_became_of_it(
    manifest: dict[str, Any], claim: dict[str, Any], systemd: dict[str, str], outcome: str, detail: str
) -> None:
    assert settle.judge(Manifest("running", **manifest), claim, systemd) == (outcome, detail)


def test_what_is_not_of_its_kind_is_no_claim() -> None:
    odd = {"report": [1], "pushes": [{"allowed": True}], "checkouts": [1, {"dest": "a"}], "numbers": 3,
           "exit_status": "0", "engine_ended": "yes", "outcome": {}, "more": 1}  # fmt: skip
    assert settle.claimed(odd) == {"checkouts": [{"dest": "a"}], "outcome": {}, "detail": ""}
    assert settle.claimed({}) == {"checkouts": [], "outcome": None, "detail": ""}


URL = "http://forge/1"
SENT: dict[str, Any] = {"what": "push", "repo": "o/r", "branch": "b", "new": "1" * 40, "allowed": True, "reason": ""}
REFUSED = {**SENT, "allowed": False, "reason": "push refused: src/x.py: outside"}
OPENED = {"what": "open", "repo": "o/r", "branch": "b", "new": "1" * 40, "url": URL}
TOOK = [
    {"what": "list", "repo": "o/r", "offered": [{"number": 7, "title": "\\x1b[2J"}], "held": []},
    {"what": "view", "repo": "o/r", "number": 7, "body": True},
]


@pytest.mark.parametrize(
    ("outcome", "report", "entries", "told", "detail"),
    [
        ("published", {"pr_url": URL, "issue": {"repo": "o/r", "number": 7}}, [SENT, OPENED], "published", "d"),
        ("published", {}, [SENT, OPENED], "published", "d"),
        ("published", {"pr_url": URL}, [], "error", "the engine says published, but no pull request was opened"),
        ("published", {"pr_url": URL}, [REFUSED], "error",
         "the engine says published, but no pull request was opened: push refused: src/x.py: outside"),
        ("published", {"pr_url": URL}, [SENT, {**OPENED, "finished": "another"}], "error",
         "the engine says published, but no pull request was opened"),
        ("published", {"pr_url": "http://forge/2"}, [SENT, OPENED], "error",
         f"the engine reports http://forge/2, but it opened {URL}"),
        ("published", {"issue": {"repo": "o/r", "number": 8}}, [SENT, OPENED], "error",
         f"the engine reports o/r#8, but it took o/r#7; its pull request is {URL}"),
        *((said, {}, [], "error", f"the engine says {said}, but it took o/r#7: d")
          for said in ("idle", "locked", "over_budget", "refused", "refused_ci")),
        ("needs_triage", {}, [], "needs_triage", "d"),
        ("idle", {}, [SENT], "error", "the engine says idle, but it pushed: d"),
        ("over_budget", {}, [REFUSED], "error",
         "the engine says over_budget, but it pushed: d: push refused: src/x.py: outside"),
        ("needs_triage", {}, [REFUSED], "needs_triage", "push refused: src/x.py: outside"),
        ("needs_triage", {}, [SENT, OPENED], "error", f"the engine says needs_triage, but it opened {URL}: d"),
        ("error", {}, [REFUSED], "error", "push refused: src/x.py: outside"),
        ("error", {}, [SENT, OPENED], "error", f"d; its pull request {URL} is open"),
        ("interrupted", {}, [SENT, OPENED], "interrupted", f"d; its pull request {URL} is open"),
    ],
)  # fmt: skip
def test_what_the_gateway_wrote_down_stands_above_what_the_engine_says(
    outcome: str, report: dict[str, Any], entries: list[dict[str, Any]], told: str, detail: str
) -> None:
    story = audit.story([*TOOK, *entries])
    assert settle.against_record(outcome, "d", {"report": report}, story) == (told, detail)


@pytest.mark.parametrize("entries", [[], [{**OPENED, "finished": "another"}], [{**TOOK[1], "body": False}]])
def test_one_that_took_nothing_may_say_that_there_was_nothing(entries: list[dict[str, Any]]) -> None:
    assert settle.against_record("idle", "d", {}, audit.story([TOOK[0], *entries])) == ("idle", "d")


def test_what_the_record_of_a_cycle_has_of_it() -> None:
    held = [{"number": 9, "why": "open"}]
    more = [{**TOOK[0], "held": held}, SENT, {**OPENED, "url": "http://forge/9", "finished": "x"}, OPENED]
    told = settle.told_by(audit.story([*TOOK, *more, {"what": "refused", "why": "no"}]))
    assert told["issue"] == {"repo": "o/r", "number": 7, "title": "\\x1b[2J"}
    assert (told["pr_url"], told["finished"], told["refusals"], told["asked"]) == (URL, ["http://forge/9"], ["no"], 7)
    assert told["held"] == [{"repo": "o/r", "number": 9, "why": "open"}]
    assert told["pushes"] == [{key: SENT[key] for key in SENT if key != "what"}]
    nothing = settle.told_by(Story())
    assert nothing["issue"] is None and nothing["pr_url"] == "" and nothing["pushes"] == []


# --- the whole, on files


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    with box() as found:
        for name in ("SERVICE_RESULT", "EXIT_CODE", "EXIT_STATUS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("INVOCATION_ID", INVOCATION)
        yield found


def begun(host: Box, name: str = NAME, agents: int = 1, invocation: str = INVOCATION) -> Cell:
    """A cycle as ``loop prepare`` leaves it."""
    cell = host.cell(name, agents=agents, invocation=invocation)
    record = {
        "cycle": name, "invocation_id": invocation, "started": utc_now(), "outcome": "running", "trigger": "manual",
        "cell": cell.path, "clones": [{"dest": "x", "status": "failed"}],
    }  # fmt: skip
    records.write(host.config["cycles_dir"], record)
    return cell


def tell(host: Box, cell: Cell) -> None:
    """What the gateway writes down of a cycle that publishes."""

    def write_down() -> None:
        os.makedirs(f"{host.config['gate_dir']}/records", exist_ok=True)
        for entry in [*TOOK, REFUSED, SENT, OPENED]:
            audit.append(host.config, cell.id, entry)

    as_user(GATE, write_down)


def settled(host: Box, claim: dict[str, Any] | None, cell: Cell) -> dict[str, Any]:
    if claim is not None:
        cells.write_report(cell, claim)
        if claim.get("outcome") == "published":
            tell(host, cell)
    assert settle.main(host.config_file) == 0
    return records.read(host.config["cycles_dir"])[-1]


PUBLISHED = {
    "outcome": "published", "detail": "", "engine_ended": True, "exit_status": 0,
    "report": {"outcome": "published", "pr_url": "http://forge/1", "cost_usd": 0.5,
               "issue": {"repo": "o/r", "number": 7, "title": "\x1b[2J"}},
    "numbers": {"cpu_seconds": 3.5, "memory_max_bytes": 1e6, "seconds_before_engine": 0.2},
}  # fmt: skip


@NEEDS_ROOT
def test_a_published_one(host: Box, capfd: pytest.CaptureFixture[str]) -> None:
    cell = begun(host, agents=2)
    budget.take(host.config, INVOCATION, "manual")
    write(Path(cell.part("memory")), {"lesson.md": "x"})
    give(cell.part("memory"), LOOP)
    record = settled(host, PUBLISHED, cell)
    assert (record["outcome"], record["agents"], record["kept"], record["exit_status"]) == ("published", 2, False, 0)
    assert record["memory"] == {"changed": True, "files": 1, "bytes": 1, "left_out": []}
    assert shape(host.memory) == {"lesson.md": "x"}
    seen = record["numbers"]
    assert (seen["cost_usd"], seen["agents"], seen["pushes"], seen["pushes_refused"]) == (0.5, 2, 2, 1)
    assert (seen["cpu_seconds"], seen["clones_failed"], seen["runs_today"], seen["max_runs"]) == (3.5, 1, 1, 2)
    assert seen["cell_bytes"] > 0 and seen["free_bytes"] > 0
    manifest = cells.manifest_of(cell)
    assert manifest.issue is not None
    assert (manifest.outcome, manifest.issue["title"]) == ("published", "\\x1b[2J")
    assert os.lstat(cell.path).st_mode & 0o777 == 0o700
    told = capfd.readouterr().out
    assert "o/r#7 http://forge/1 (run 1 of 2 today)" in told and told.isprintable() == (told.count("\n") == 0)


@NEEDS_ROOT
def test_an_idle_one_leaves_nothing(host: Box) -> None:
    cell = begun(host, agents=0)
    record = settled(host, {"outcome": "idle", "engine_ended": True, "report": {"outcome": "idle"}}, cell)
    assert record["outcome"] == "idle" and "cell" not in record and record["agents"] == 0
    assert os.listdir(host.runs) == []
    assert budget.today(host.config)["runs"] == []


@NEEDS_ROOT
def test_one_that_says_idle_after_its_agent_is_kept_and_counted(host: Box) -> None:
    cell = begun(host, agents=1)
    budget.take(host.config, INVOCATION, "manual")
    record = settled(host, {"outcome": "idle", "detail": "honest", "engine_ended": True}, cell)
    assert (record["outcome"], record["kept"]) == ("error", True)
    assert os.path.isdir(cell.path) and len(budget.today(host.config)["runs"]) == 1


@NEEDS_ROOT
@pytest.mark.parametrize("outcome", ["idle", "locked", "over_budget"])
@pytest.mark.parametrize("what", ["taken", "worktree", "neither"])
def test_a_cell_goes_at_once_only_where_nothing_is_in_it(host: Box, outcome: str, what: str) -> None:
    cell = begun(host, agents=0)
    if what == "taken":
        took(host, cell)
    runs = Path(cell.part("runs"))
    write(runs, {"issue_r_7/request.md": "x", "Not one/worktrees/x": "", ".hidden/worktrees/x": ""})
    (runs / "issue_r_7/worktrees").mkdir()
    (runs / "issue_r_8").symlink_to("/")
    (runs / "issue_r_9").mkdir()
    (runs / "issue_r_9/worktrees").symlink_to(host.top)
    if what == "worktree":
        write(runs, {"issue_r_7/worktrees/r-issue_r_7/src/fix.py": "an hour of work\n"})
    give(runs, LOOP)
    record = settled(host, {"outcome": outcome, "detail": "d", "engine_ended": True}, cell)
    if what == "neither":
        assert (record["outcome"], record["attempt"]) == (outcome, {}) and os.listdir(host.runs) == []
        return
    assert (record["outcome"], record["kept"]) == ("error", True) and os.path.isdir(runs / "issue_r_7")
    assert [manifest.is_kept for _cell, manifest in cells.listing(str(host.runs))] == [True]
    assert record["attempt"] == ({"n": 1, "max": 3, "held": False} if what == "taken" else {})
    told = "it took o/r#7: d" if what == "taken" else "its run issue_r_7 has a worktree: d"
    assert record["detail"].endswith(f" says {outcome}, but {told}")


@NEEDS_ROOT
@pytest.mark.parametrize("outcome", ["published", "needs_triage", "idle", "error"])
def test_an_engine_whose_agent_is_none_of_our_programs_counts_by_what_it_had_in_hand(host: Box, outcome: str) -> None:
    settled(host, {"outcome": outcome, "engine_ended": True}, begun(host, agents=0))
    assert len(budget.today(host.config)["runs"]) == (outcome in ("published", "needs_triage"))


@NEEDS_ROOT
@pytest.mark.parametrize(
    ("agents", "state", "outcome", "end", "told"),
    [
        (0, '{"backend_name": "mock"}', "published", "error", "pi (engineering_loop_agent_programs) was not started"),
        (0, '{"backend_name": "pi"}', "published", "error", "the engine's backend was pi: "),
        (0, None, "published", "error", "the engine's backend was not named: "),
        (
            1,
            '{"backend_name": "mock"}',
            "published",
            "error",
            "was started, but did not do it, and the engine's backend",
        ),
        (0, '{"backend_name": "mock"}', "needs_triage", "error", "What it made is none: stopped"),
        (0, "{}", "needs_triage", "needs_triage", "stopped"),
        (1, '{"backend_name": "pi"}', "published", "published", ""),
        (1, None, "published", "published", ""),
    ],
)
def test_work_that_no_agent_did_is_an_error(
    host: Box, agents: int, state: str | None, outcome: str, end: str, told: str
) -> None:
    cell = begun(host, agents=agents)
    if state is not None:
        write(Path(cell.part("runs")), {"issue_r_7/state/ISSUE_R_7.json": state})
    claim = {**PUBLISHED, "outcome": outcome, "detail": "stopped" if outcome != "published" else ""}
    cells.write_report(cell, claim)
    tell(host, cell)
    if outcome != "published":  # it took its issue, and went no further
        os.unlink(audit.path_of(host.config, cell.id))
        as_user(GATE, lambda: [audit.append(host.config, cell.id, one) for one in TOOK])
    settle.main(host.config_file)
    record = records.read(host.config["cycles_dir"])[-1]
    assert (record["outcome"], told in record["detail"]) == (end, True), record["detail"]
    assert record["backend"] == (json.loads(state or "{}").get("backend_name") or "")
    assert os.path.isdir(cell.path)


@NEEDS_ROOT
@pytest.mark.parametrize("odd", ["[", "[]", '{"backend_name": 5}', '{"backend_name": ["mock"]}', "x" * 99, "", None])
def test_a_state_file_is_input(host: Box, odd: str | None) -> None:
    cell, story = begun(host), audit.story(TOOK)
    state = Path(cell.part("runs"), "issue_r_7/state")
    write(state, {"ISSUE_R_7.json": odd or ""})
    if odd is None:
        (state / "ISSUE_R_7.json").unlink()
        os.mkfifo(state / "ISSUE_R_7.json")
    assert settle.backend_of(cell, story) == settle.backend_of(cell, Story()) == ""
    (state / "ISSUE_R_7.json").unlink()
    (state / "ISSUE_R_7.json").symlink_to(host.top / "etc/mine.json")
    write(host.top / "etc", {"mine.json": '{"backend_name": "pi"}'})
    assert settle.backend_of(cell, story) == ""


@NEEDS_ROOT
def test_a_crashed_one_is_kept_whole_and_its_memory_is_not_taken(host: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    host.remember({"a.md": "old"})
    cell = begun(host, agents=1)
    write(Path(cell.part("runs")), {"x/work.md": "mine"})
    write(Path(cell.part("memory")), {"a.md": "half"})
    monkeypatch.setenv("EXIT_CODE", "killed")
    monkeypatch.setenv("EXIT_STATUS", "KILL")
    record = settled(host, None, cell)
    assert (record["outcome"], record["detail"], record["kept"]) == ("interrupted", "the cycle was killed (KILL)", True)
    assert "memory" not in record and shape(host.memory) == {"a.md": "old"}
    assert shape(cell.part("runs")) == {"x/work.md": "mine"}
    assert [manifest.outcome for _cell, manifest in cells.listing(str(host.runs))] == ["interrupted"]


@NEEDS_ROOT
def test_one_without_a_cell_is_settled_as_well(host: Box) -> None:
    cell = begun(host)
    cells.remove(cell)
    record = settled(host, None, cell)
    assert record["outcome"] == "error" and "ended without a cell: " in record["detail"]
    damaged = begun(host, f"{TODAY}T000001Z-1a2b3c4d")
    Path(damaged.path, cells.MANIFEST).write_text("[")
    record = settled(host, None, damaged)
    assert record["outcome"] == "error" and "is not JSON" in record["detail"]
    assert records.running(host.config["cycles_dir"]) == []


ODD: list[Any] = [
    None, [], [1], "text", 7, 1e999, {}, {"a": [[[[[[[[[[1]]]]]]]]]]}, "\x1b[2J\udcff\ud800" * 1000,
    True, -1, ["x"] * 10_000,
    {"issue": "x"}, {"issue": {"repo": ["\x1b"], "number": {"a": 1}}, "pr_url": ["\x07"]}, {"cost_usd": "much"},
]  # fmt: skip


@NEEDS_ROOT
@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_whatever_a_cycle_reports_it_is_settled(host: Box, capfd: pytest.CaptureFixture[str], value: Any) -> None:
    for number, key in enumerate(
        ("report", "checkouts", "numbers", "exit_status", "engine_ended", "outcome", "detail")
    ):
        cell = begun(host, f"{TODAY}T00000{number}Z-1a2b3c4d")
        record = settled(host, {**PUBLISHED, key: value}, cell)
        assert record["outcome"] in records.EXIT_STATUS
        assert all(isinstance(one, (int, float)) for one in record["numbers"].values())
        json.dumps(record).encode()
    out, err = capfd.readouterr()
    assert all(line.isprintable() for line in out.splitlines()) and not err


@NEEDS_ROOT
def test_a_hostile_memory_changes_no_outcome(host: Box, capfd: pytest.CaptureFixture[str]) -> None:
    host.remember({"a.md": "old"})
    cell = begun(host, agents=1)
    os.chmod(cell.part("memory"), 0)
    record = settled(host, PUBLISHED, cell)
    assert record["outcome"] == "published"
    assert record["memory"]["changed"] is False and "no directory to enter" in record["memory"]["error"]
    assert "memory stays as it was: " in capfd.readouterr().out
    assert shape(host.memory) == {"a.md": "old"}


@NEEDS_ROOT
def test_a_clone_that_gave_no_checkout_is_marked(host: Box) -> None:
    host.repository("app")
    host.write_config()
    pristine.refresh(host.config)
    claim = {**PUBLISHED, "checkouts": [{"dest": name, "status": "failed"} for name in ("app", "../x", None, "other")]}
    settled(host, claim, begun(host))
    (path,) = Path(host.config["pristine_dir"]).glob("*.git")
    assert (path / "rebuild").exists()
    host.config["gate_user"] = "no-such-user"
    host.write_config()
    assert settled(host, claim, begun(host, f"{TODAY}T000001Z-1a2b3c4d"))["outcome"] == "published"


@NEEDS_ROOT
def test_it_is_found_among_records_of_a_clock_that_was_years_ahead(host: Box) -> None:
    begun(host)
    for number in range(records.NEWEST):
        at = f"20990101T00{number // 60:02}{number % 60:02}Z"
        records.write(host.config["cycles_dir"], {"cycle": f"{at}-{number:08x}", "outcome": "idle"})
    settle.main(host.config_file)
    record = records.one(host.config["cycles_dir"], NAME)
    assert record and record["outcome"] != "running"


def test_only_the_cycle_of_this_invocation(host: Box) -> None:
    other = begun(host, f"{TODAY}T000001Z-00000000", invocation="o" * 32)
    records.write(host.config["cycles_dir"], {"cycle": "20250101T000000Z-old", "outcome": "running"})
    assert settle.main(host.config_file) == 0
    assert {one["outcome"] for one in records.read(host.config["cycles_dir"])} == {"running"}
    assert cells.manifest_of(other).outcome == "running"


@NEEDS_ROOT
@pytest.mark.parametrize(
    ("claim", "told", "status"),
    [
        ("published", "0", 0), ("idle", "10", 0), ("needs_triage", "3", 0), ("error", "1", 0),
        ("needs_triage", "0", 1), ("error", "10", 1), ("win", "0", 1), ("published", "", 0),
    ],
)  # fmt: skip
def test_systemd_is_told_no_better_end_than_it_had(
    host: Box, monkeypatch: pytest.MonkeyPatch, claim: str, told: str, status: int
) -> None:
    cell = begun(host, agents=int(claim != "idle"))
    cells.write_report(cell, {"outcome": claim})
    tell(host, cell)
    if claim != "published":
        os.unlink(audit.path_of(host.config, cell.id))
    monkeypatch.setenv("EXIT_STATUS", told)
    assert settle.main(host.config_file) == status


def test_a_host_without_settings_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert settle.main(f"{tmp_path}/none.json") == 1
    assert capfd.readouterr().out.startswith("the cycle was not settled: ")


@NEEDS_ROOT
def test_what_was_kept_long_enough_is_let_go(host: Box, capfd: pytest.CaptureFixture[str]) -> None:
    host.config["quarantine_keep"]["age"] = "90d"
    host.write_config()
    host.kept("20200101T000000Z-00000000")
    host.kept("20200102T000000Z-00000000")
    with cells.used(Cell(f"{host.runs}/20200102T000000Z-00000000")):
        assert settle.main(host.config_file) == 0
    assert os.listdir(host.runs) == ["20200102T000000Z-00000000"]
    assert "cell 20200101T000000Z-00000000 kept long enough (older than its time), let go" in capfd.readouterr().out


@NEEDS_ROOT
def test_a_clock_that_jumped_lets_nothing_go(host: Box) -> None:
    host.config["quarantine_keep"].update(age="90d")
    kept_time.note(host.config)
    kept = host.kept(f"{stamp()}-00000000")
    jumped = {"seen": time.time() - 10 * 365 * 86400, "leaps": []}  # to now, from ten years ago
    old = host.kept(f"{datetime.fromtimestamp(jumped['seen'] - 3600, UTC):%Y%m%dT%H%M%SZ}-00000000")
    Path(kept_time.path_of(host.config)).write_text(json.dumps(jumped))
    settle.retention(host.config)
    assert os.path.isdir(kept.path) and os.path.isdir(old.path)
    os.unlink(kept_time.path_of(host.config))
    settle.retention(host.config)
    assert os.path.isdir(kept.path) and not os.path.isdir(old.path)


@NEEDS_ROOT
@pytest.mark.parametrize("leapt", [False, True])
def test_where_not_a_byte_is_left_what_was_kept_long_enough_goes_and_nothing_else(
    leapt: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    def work(host: Box) -> None:
        host.config["quarantine_keep"].update(age="90d")
        old = host.kept("20200101T000000Z-00000000")
        kept = host.kept(f"{stamp()}-00000000")
        seen = age_of(old.id) - 86400 if leapt else 3600  # seconds ago: a day after it was made, or lately
        note = json.dumps({"seen": time.time() - seen, "leaps": []})
        Path(kept_time.path_of(host.config)).write_text(note)
        fill(host.top)
        settle.retention(host.config)
        assert (os.path.isdir(old.path), os.path.isdir(kept.path)) == (leapt, True)
        assert Path(kept_time.path_of(host.config)).read_text() == note
        settle.retention(host.config)  # there is room for the note now
        assert (Path(kept_time.path_of(host.config)).read_text() == note) == leapt

    with_a_host_on_a_small_disk(work)
    told = capfd.readouterr().out
    assert "clock.json cannot be written: No space left on device: what was noted of the clock before counts" in told
    assert ("older than its time" in told) != leapt


@NEEDS_ROOT
def test_a_clone_that_was_replaced_is_let_go_after_all_that_borrowed_from_it(
    host: Box, capfd: pytest.CaptureFixture[str]
) -> None:
    host.config["quarantine_keep"].update(min_age="30d")
    replaced = Path(host.config["pristine_dir"], ".replaced-app-20200301T000000Z")
    (replaced / "objects").mkdir(parents=True)
    give(host.config["pristine_dir"], GATE)
    cell = host.kept("20200201T000000Z-1a2b3c4d")
    host.config["quarantine_keep"].update(age="36500d")
    settle.retention(host.config)
    assert replaced.exists()
    cells.remove(cell)
    host.kept("20200401T000000Z-1a2b3c4d")
    host.config["quarantine_keep"].update(min_age="36500d")
    settle.retention(host.config)
    assert replaced.exists()
    host.config["quarantine_keep"].update(min_age="7d")
    settle.retention(host.config)
    assert not replaced.exists()
    assert f"{replaced.name} in {replaced.parent}, which was damaged, let go" in capfd.readouterr().out


@NEEDS_ROOT
def test_a_cell_that_cannot_go_stops_nothing(
    host: Box, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = begun(host, agents=0)
    real: Callable[[str], None] = cells.remove_tree

    def stuck(path: str) -> None:
        if ".gone-" in path and os.path.lexists(path):
            raise settle.LoopError(f"{path} cannot be removed: busy")
        real(path)

    monkeypatch.setattr(cells, "remove_tree", stuck)
    assert settled(host, {"outcome": "idle"}, cell)["outcome"] == "idle"
    assert "cannot be removed: busy" in capfd.readouterr().out


# --- what is kept beside the record


@NEEDS_ROOT
def test_its_log_and_what_its_engine_wrote_are_kept_without_the_secrets_of_its_beginning_and_of_now(
    host: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "place", lambda _unit: f"{tmp_path}/watch/socket")
    (tmp_path / "watch").mkdir()
    write(host.top / "etc", {"env": "OPENAI_API_KEY=sk-new-0123456789\nGH_TOKEN=short\nHOME_PATH=/usr/share/path\n"})
    write(host.top / "etc", {"auth.json": '{"pi": {"apiKey": "home-0123456789", "keys": ["OPENAI_API_KEY"]}}'})
    host.config["home_files"] = [{"src": str(host.top / "etc/auth.json"), "dest": "auth.json"}]
    host.write_config()
    handover.remember(host.config, {"OPENAI_API_KEY": "sk-old-0123456789"})
    remembered = tmp_path / "watch" / handover.REMEMBERED
    assert os.lstat(remembered).st_mode & 0o777 == 0o600
    text = "sk-old-0123456789 sk-new-0123456789 home-0123456789 short /usr/share/path OPENAI_API_KEY\n"
    cell = begun(host)
    write(Path(cell.part("runs")), {"issue_r_7/handoff/ISSUE_R_7.pi.transcript.txt": text})
    settled(host, PUBLISHED, cell)
    found = archive.files_of(host.config, NAME)
    assert found["issue_r_7/handoff/ISSUE_R_7.pi.transcript.txt"].decode() == (
        "*** *** *** short /usr/share/path OPENAI_API_KEY\n"
    )
    assert archive.log_of(host.config, NAME) is not None
    assert not remembered.exists()


@NEEDS_ROOT
def test_what_an_engine_says_of_itself_holds_no_secret(host: Box) -> None:
    write(host.top / "etc", {"env": "OPENAI_API_KEY=sk-0123456789\nODD=needs_triage\n"})
    claim = {**PUBLISHED, "outcome": "needs_triage", "detail": "401 for sk-0123456789",
             "report": {"notifications": [{"text": "sk-0123456789"}], "issue": None}}  # fmt: skip
    cell = begun(host)
    record = settled(host, claim, cell)
    assert (record["outcome"], record["detail"]) == ("needs_triage", "401 for ***")
    assert record["report"]["notifications"] == [{"text": "***"}]
    assert cells.manifest_of(cell).detail == "401 for ***"


@NEEDS_ROOT
def test_what_a_run_wrote_down_is_cleared_before_any_of_it_goes_anywhere(host: Box) -> None:
    write(host.top / "etc", {"env": "OPENAI_API_KEY=sk-0123456789\n"})
    cell = begun(host)
    write(Path(cell.part("runs"), "issue_r_7"), {
        "handoff/transcript.txt": "OPENAI_API_KEY=sk-0123456789\n", "worktrees/r/.git": "gitdir: /x",
        "worktrees/r/a": "sk-0123456789",
    })  # fmt: skip
    write(Path(cell.part("memory")), {"journal/ISSUE_R_7.md": "the key was sk-0123456789"})
    give(cell.part("runs"), LOOP)
    give(cell.part("memory"), LOOP)
    settled(host, {**PUBLISHED, "detail": "sk-0123456789"}, cell)
    runs = Path(cell.part("runs"), "issue_r_7")
    assert (runs / "handoff/transcript.txt").read_text() == "OPENAI_API_KEY=*************\n"
    assert (runs / "worktrees/r/a").read_text() == "sk-0123456789"
    assert (host.memory / "journal/ISSUE_R_7.md").read_text() == "the key was *************"
    assert cells.report_of(cell)["detail"] == "***"


@NEEDS_ROOT
def test_one_that_was_refused_before_it_began_has_its_log_as_well(host: Box) -> None:
    record = {"cycle": NAME, "invocation_id": INVOCATION, "started": utc_now(), "outcome": "refused"}
    records.write(host.config["cycles_dir"], record)
    assert settle.main(host.config_file) == 0
    assert archive.log_of(host.config, NAME) is not None and archive.files_of(host.config, NAME) == {}
    assert records.read(host.config["cycles_dir"]) == [record]


@NEEDS_ROOT
def test_records_of_long_ago_go_with_what_stands_beside_them(host: Box, capfd: pytest.CaptureFixture[str]) -> None:
    old = "20200101T000000Z-00000000"
    for suffix in (".json", records.LOG, records.FILES):
        Path(host.config["cycles_dir"], f"{old}{suffix}").write_text("{}")
    settled(host, PUBLISHED, begun(host))
    assert not [name for name in os.listdir(host.config["cycles_dir"]) if name.startswith(old)]
    assert "3 files of earlier cycles" in capfd.readouterr().out


@NEEDS_ROOT
@pytest.mark.parametrize("damage", ["", "{", "[1]", '"text"', "null", "directory"])
def test_what_was_remembered_may_be_anything(
    host: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(wire, "place", lambda _unit: f"{tmp_path}/socket")
    remembered = tmp_path / handover.REMEMBERED
    if damage == "directory":
        remembered.mkdir()
    else:
        remembered.write_text(damage)
    assert handover.redactor(host.config)("text") == "text"
    handover.forget(host.config)


# --- what it means for its issue


def took(host: Box, cell: Cell) -> None:
    """What the gateway writes down of a cycle that takes an issue and opens nothing."""

    def write_down() -> None:
        os.makedirs(f"{host.config['gate_dir']}/records", exist_ok=True)
        listed = {**TOOK[0], "offered": [{"number": 7, "title": "\x1b[2J", "digest": "d" * 64}]}
        for entry in [listed, TOOK[1]]:
            audit.append(host.config, cell.id, entry)

    as_user(GATE, write_down)


@NEEDS_ROOT
def test_an_attempt_is_counted_and_the_last_one_holds(
    host: Box, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wire, "PATIENCE", 0.1)  # no gateway is started
    host.config["repos"] = ["o/r"]
    host.write_config()
    seen = []
    for number in range(3):
        cell = begun(host, f"{TODAY}T00000{number}Z-1a2b3c4d")
        took(host, cell)
        claim = {"outcome": "needs_triage", "engine_ended": True, "report": {"cost_usd": 0.5}}
        seen.append(settled(host, claim, cell)["attempt"])
    assert seen == [{"n": n, "max": 3, "held": n == 3} for n in (1, 2, 3)]
    known = attempts.counts(host.config)["o/r#7"]
    assert (known.attempts, known.cost_usd, known.outcome, known.digest) == (3, 1.5, "needs_triage", "d" * 64)
    assert known.title == "\\x1b[2J"
    told = capfd.readouterr().out
    assert "o/r#7 (run 0 of 2 today) (attempt 2 of 3);" in told and "(attempt 3 of 3, it is held now);" in told
    later = "o/r#7 is held could not be told on the forge, which is tried again after the next cycle: the gateway to"
    assert f"that {later} the forge does not answer" in told
    assert f"o/r#7 is held: {known.why}. Release it with: {attempts.release_command('o/r#7')}\n" in told


@NEEDS_ROOT
def test_a_published_one_is_no_attempt(host: Box) -> None:
    attempts.count(host.config, Attempt("before", "o/r", 7, "error", digest="d" * 64))
    assert settled(host, PUBLISHED, begun(host))["attempt"] == {}
    assert attempts.counts(host.config) == {}


@NEEDS_ROOT
@pytest.mark.parametrize(
    ("jobs", "ended_by", "counts"),
    [
        ("7 UNIT stop running\n", "", False),
        ("7 UNIT restart running\n8 UNIT start waiting\n", "", False),
        ("7 UNIT stop running\n", "its cell has 9 files", True),  # the watch asked for it
        ("7 UNIT start running\n", "", True),
        ("7 other.service stop running\n", "", True),
        ("", "", True),
        (None, "", True),
    ],
)
def test_what_an_operator_stops_does_not_count_and_what_the_watch_ends_does(
    host: Box, monkeypatch: pytest.MonkeyPatch, jobs: str | None, ended_by: str, counts: bool
) -> None:
    def systemctl(*words: str) -> str:
        assert words == ("list-jobs", "--no-legend", "--plain", f"{host.config['unit']}.service")
        if jobs is None:
            raise LoopError("systemctl cannot be run on this host")
        return jobs.replace("UNIT", f"{host.config['unit']}.service")

    monkeypatch.setattr(systemd, "systemctl", systemctl)
    cell = begun(host)
    took(host, cell)
    if ended_by:
        cells.update(cell, ended_by=ended_by)
    # What the cycle says of itself is a claim: no engine talks its way out of the count.
    record = settled(host, {"outcome": "interrupted", "detail": "stopped by signal SIGTERM: systemctl stop"}, cell)
    assert record["outcome"] == "interrupted" and bool(record["attempt"]) == counts
    assert bool(attempts.counts(host.config)) == counts


@NEEDS_ROOT
def test_a_count_that_cannot_be_read_changes_no_outcome(host: Box, capfd: pytest.CaptureFixture[str]) -> None:
    cell = begun(host)
    took(host, cell)
    Path(attempts.path_of(host.config)).write_text("{")
    cells.write_report(cell, {"outcome": "error", "detail": "why"})
    settle.main(host.config_file)
    record = records.read(host.config["cycles_dir"])[-1]
    assert (record["outcome"], record["detail"]) == ("error", "why") and "move it aside" in record["attempt"]["error"]
    assert "the attempt was not counted: " in capfd.readouterr().out


@NEEDS_ROOT
def test_killed_anywhere_it_is_counted_once(host: Box) -> None:
    host.config["max_attempts_per_issue"] = 0
    host.write_config()
    number = 0
    while True:
        cell = begun(host, f"{TODAY}T{number:06}Z-1a2b3c4d")
        took(host, cell)
        cells.write_report(cell, {"outcome": "error", "detail": "why"})
        killed = killed_at(number, lambda: settle.main(host.config_file))
        prepare.close_what_was_cut_off(host.config, "the next")
        prepare.close_what_was_cut_off(host.config, "the one after it")
        assert records.running(host.config["cycles_dir"]) == []
        number += 1
        assert attempts.counts(host.config)["o/r#7"].attempts == number, number
        if not killed:
            break
    assert number > 5
