# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What root hands to a cycle goes over once, and the day's runs are counted."""

from __future__ import annotations

import json
import os
import pwd
import stat
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils import budget, handover
from ansible_collections.as215932.engineering_loop.plugins.module_utils.errors import LoopError

HANDED: dict[str, Any] = {
    "environment": {"A": "caf\u00e9"},
    "cell": "/c",
    "refused": "",
    "over_budget": "",
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for name in ("run", "opt"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    me = pwd.getpwuid(os.geteuid()).pw_name
    return {"user": me, "unit": "u", "install_dir": str(tmp_path / "opt"), "max_runs_per_day": 2}


def test_it_goes_over_once(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    handover.give(config, HANDED)
    file = Path(handover.place(config))
    assert stat.S_IMODE(file.stat().st_mode) == 0o400
    assert handover.take(config) == HANDED
    assert not file.exists()
    with pytest.raises(LoopError, match="start it with systemctl start u"):
        handover.take(config)
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    assert handover.place(config) == "/run/u/handover.json"


def test_what_stands_in_its_place_is_not_followed(config: dict[str, Any], tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    Path(handover.place(config)).symlink_to(precious)
    handover.give(config, HANDED)
    assert precious.read_text() == "mine" and handover.take(config) == HANDED
    Path(handover.place(config)).symlink_to(precious)
    with pytest.raises(LoopError, match="cannot be read"):
        handover.take(config)


def test_without_a_place_it_is_one_line(config: dict[str, Any], tmp_path: Path) -> None:
    Path(handover.place(config)).mkdir()
    with pytest.raises(LoopError, match=r"handover.json cannot be written: Is a directory"):
        handover.give(config, HANDED)
    Path(handover.place(config)).rmdir()
    (tmp_path / "run").rmdir()
    with pytest.raises(LoopError, match=r"handover.json cannot be written: No such file"):
        handover.give(config, HANDED)


# --- the count


def test_a_cycle_is_counted_once_and_nothing_gives_it_back(config: dict[str, Any]) -> None:
    budget.start(config)
    assert budget.figures(config) == {"runs_today": 0, "started_today": 1, "max_runs": 2}
    for _unused in range(3):
        budget.take(config, "a", "timer")
    budget.take(config, "b", "manual")
    assert budget.figures(config) == {"runs_today": 2, "started_today": 1, "max_runs": 2}
    assert not hasattr(budget, "give_back")


def test_the_day_is_used_up(config: dict[str, Any]) -> None:
    assert budget.exhausted(config) == ""
    for invocation, trigger in (("a", "timer"), ("b", "manual")):
        budget.take(config, invocation, trigger)
    told = budget.exhausted(config)
    assert told.startswith("2 of 2 runs were started today (UTC: ")
    assert "timer, " in told and told.endswith("or raise engineering_loop_max_runs_per_day")
    config["max_runs_per_day"] = 3
    assert budget.exhausted(config) == ""
    config["max_runs_per_day"] = 0
    assert budget.exhausted(config)


def test_a_day_is_a_day_and_a_month_is_kept(config: dict[str, Any]) -> None:
    run = {"invocation": "x", "trigger": "timer", "at": "2026-01-01T00:00:00Z"}
    days = {f"2026-01-{day:02}": {"started": 1, "runs": [run]} for day in range(1, 32)}
    Path(budget.path_of(config)).write_text(json.dumps(days))
    assert budget.exhausted(config) == ""
    budget.take(config, "a", "timer")
    kept = json.loads(Path(budget.path_of(config)).read_text())
    assert (len(kept), min(kept)) == (31, "2026-01-02")
    assert [run["invocation"] for run in budget.today(config)["runs"]] == ["a"]


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"2026-01-01": 1}', '{"2026-01-01": {"started": 1, "runs": [{}]}}', "[" * 99999,
     '{"2026-01-01": {"started": 1e999, "runs": []}}'],
    ids=["cut", "list", "number", "run", "deep", "infinite"],
)  # fmt: skip
def test_a_count_that_cannot_be_read_is_a_refusal(config: dict[str, Any], content: str) -> None:
    Path(budget.path_of(config)).write_text(content)
    calls = (budget.exhausted, budget.start, budget.figures, lambda given: budget.take(given, "a", "timer"))
    for call in calls:
        with pytest.raises(LoopError, match=r"budget\.json cannot be read as the count of the day's runs"):
            call(config)
    assert Path(budget.path_of(config)).read_text() == content


def test_the_engines_ledger_is_made_of_the_count_and_of_todays_records(config: dict[str, Any]) -> None:
    budget.take(config, "a", "timer")
    now = f"{budget.this_day()}T00:00:01Z"
    records: list[dict[str, Any]] = [
        {"started": now, "agents": 1, "numbers": {"cost_usd": 1.5, "seconds": 60}},
        {"started": now, "agents": 0, "numbers": {"cost_usd": 0.5, "seconds": 9}},
        {"started": "2020-01-01T00:00:00Z", "agents": 1, "numbers": {"cost_usd": 99, "seconds": 99}},
        {"started": now, "agents": 1, "numbers": None}, {"started": None, "numbers": {"cost_usd": 7}},
        {"started": now, "numbers": {"cost_usd": -1}}, {"started": now, "numbers": {"cost_usd": "much"}},
    ]  # fmt: skip
    assert budget.ledger(config, records) == {"runs": 1, "cost_usd": 2.0, "wall_clock_seconds": 60.0}
