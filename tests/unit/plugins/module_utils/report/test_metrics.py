# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Metrics as Prometheus reads them; and that rules and dashboard ask for none that nobody writes."""

from __future__ import annotations

import json
import math
import re
import stat
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import records
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import telling
from ansible_collections.as215932.engineering_loop.plugins.module_utils.report import metrics, needs
from celled import NEEDS_ROOT
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from watched import Watched

ROOT = Path(__file__).resolve().parents[5]
EXAMPLES = ROOT / "examples"
NOW = 1_800_000_000.0
NOTIFY = {"targets": 2, "failing": [{"target": "json://***", "why": "x"}], "waiting": 3}
FULL: dict[str, Any] = {
    "state": "deployed", "version": "0.2.0", "well": False, "needs": [{"code": "paused"}, {"code": "news"}],
    "engine": {"pin": "a" * 40, "active": "b" * 40}, "policy": {"matches": True},
    "proof": {"matches": True, "proved_at": "2026-12-01T00:00:00Z", "expires_at": "2027-03-01T00:00:00Z"},
    "timer": {"active": True, "next": "2027-01-15T09:00:00Z"},
    "pause": {"why": "x", "since": "2027-01-15T07:00:00Z", "by": "eva"},
    "running": {"cycle": "c", "started": "2027-01-15T07:55:00Z", "issue": ""},
    "last_cycle": {"cycle": "b", "started": "2027-01-15T07:00:00Z", "outcome": "error", "seconds": 12.5},
    "history": [
        {"cycle": "a", "started": "2027-01-15T06:00:00Z", "outcome": "published", "seconds": 3, "cost_usd": 1.5},
        {"cycle": "b", "started": "2027-01-15T07:00:00Z", "outcome": "error", "seconds": 12.5, "cost_usd": 0.5},
    ],
    "today": {"runs": 1, "max_runs": 2, "cost_usd": 2.0, "max_cost_usd": 10.0},
    "held": [{"repo": "<evil>", "number": 4, "title": "\x1b[31m", "attempts": 3, "cost_usd": 0.75}],
    "waiting": [{"repo": "o/r", "number": 5, "why": "x"}], "leftovers": 2,
    "quarantine": {"count": 4, "bytes": 4096}, "disk": {"free_bytes": 9e9, "min_free_bytes": 1e9},
    "secrets": {"problem": "", "expires_at": "2027-02-01T00:00:00Z"},
}  # fmt: skip


def samples(status: dict[str, Any]) -> dict[str, float]:
    """Every series with its value, read by Prometheus' own parser."""
    text = metrics.render(metrics.figures(status, NOTIFY, NOW)).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation and family.type == "gauge"
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name.removeprefix(metrics.PREFIX)}{f'[{labels}]' if labels else ''}"] = sample.value
    return found


def test_every_figure_of_a_status() -> None:
    found = samples(FULL)
    expected = {
        "well": 0, "need[code=paused]": 1, "need[code=other]": 1, "need[code=held]": 0, "state[state=deployed]": 1,
        f"info[engine_active={'b' * 40},engine_pin={'a' * 40},version=0.2.0]": 1,
        "look_timestamp_seconds": NOW, "proof_valid": 1, "policy_valid": 1, "timer_active": 1, "paused": 1,
        "paused_timestamp_seconds": 1_799_996_400, "proof_expiry_timestamp_seconds": 1_803_859_200, "running": 1,
        "last_cycle_outcome[outcome=error]": 1, "last_cycle_outcome[outcome=published]": 0,
        "last_cycle_duration_seconds": 12.5, "last_cycle_cost_usd": 0.5, "failed_cycles_in_a_row": 1,
        "last_published_timestamp_seconds": 1_799_992_800, "recorded_cycles[outcome=published]": 1,
        "today_runs": 1, "today_runs_limit": 2, "today_cost_usd": 2, "today_cost_usd_limit": 10, "held_issues": 1,
        "held_attempts": 3, "held_cost_usd": 0.75, "waiting_issues": 1, "leftovers": 2, "quarantine_items": 4,
        "quarantine_bytes": 4096, "disk_free_bytes": 9e9, "secrets_valid": 1, "notify_targets": 2,
        "notify_targets_failing": 1, "notify_waiting": 3, "secrets_expiry_timestamp_seconds": 1_801_440_000,
    }  # fmt: skip
    assert {name: found.get(name) for name in expected} == expected
    names = {name.split("[")[0] for name in found}
    assert names == {*metrics.HELP}, "each has its words, and each of the words a figure"


def test_a_host_that_cannot_be_read_has_no_figures_of_its_cycles() -> None:
    found = samples({"state": "broken", "well": False, "needs": [{"code": "broken"}], "version": "<script>"})
    assert found["state[state=broken]"] == 1 and found["need[code=broken]"] == 1 and found["well"] == 0
    assert found["info[engine_active=,engine_pin=,version=]"] == 1
    assert not {"today_runs", "proof_valid", "held_issues"} & {*found}


@NEEDS_ROOT
def test_a_real_status_and_its_file(well: Watched, tmp_path: Path) -> None:
    status = well.look()
    found = samples(status)
    assert found["well"] == 1 and found["last_cycle_outcome[outcome=published]"] == 1 and found["paused"] == 0
    assert found["today_cost_usd"] == found["last_cycle_cost_usd"] == 0.25
    metrics.write(str(tmp_path), status, NOTIFY, NOW)
    path = tmp_path / telling.METRICS
    assert (
        stat.S_IMODE(path.stat().st_mode) == 0o644 and [each.name for each in tmp_path.iterdir()].count(path.name) == 1
    )


def test_each_need_and_outcome_that_there_can_be_is_a_label() -> None:
    assert {*needs.ORDER} <= {*metrics.CODES} and {*records.EXIT_STATUS} <= {*metrics.OUTCOMES}


def test_names_are_as_prometheus_has_them() -> None:
    for name in metrics.HELP:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
        assert not name.endswith(("_total", "_count", "_sum", "_bucket")), f"{name}: all of them are gauges"
        assert not re.search(r"milli|_ms|_kb|minutes|hours|percent", name), f"{name} is not in base units"


TEXT = st.none() | st.text(max_size=20) | st.floats() | st.integers() | st.booleans() | st.just([]) | st.just({})


@given(st.dictionaries(st.sampled_from([*FULL]), TEXT), st.dictionaries(st.text(max_size=9), TEXT))
def test_whatever_a_status_holds_the_file_can_be_read(changed: dict[str, Any], part: dict[str, Any]) -> None:
    for status in ({**FULL, **changed}, {**FULL, **dict.fromkeys(changed, part)}, {**FULL, "history": [part]}):
        found = samples(status)
        assert all(math.isfinite(value) for value in found.values())
        assert len(found) < 120, "no label has values without end"


# --- what asks for them


def named(text: str) -> set[str]:
    return {name.removeprefix(metrics.PREFIX) for name in re.findall(rf"\b{metrics.PREFIX}\w+", text)}


def test_rules_ask_for_what_is_written_and_say_what_to_type() -> None:
    document = yaml.safe_load((EXAMPLES / "prometheus/alerts.yml").read_text())
    rules = [rule for group in document["groups"] for rule in group["rules"]]
    assert len(rules) == len({rule["alert"] for rule in rules}) >= 14
    known = {path.stem for path in (ROOT / "playbooks").glob("*.yml")} | {"pause", "resume", "release_issue"}
    for rule in rules:
        assert named(rule["expr"]) and named(rule["expr"]) <= {*metrics.HELP}, rule["alert"]
        assert {*re.findall(r'code="(\w+)"', rule["expr"])} <= {*metrics.CODES}, rule["alert"]
        assert {*rule["annotations"]} == {"summary", "description", "todo"}, rule["alert"]
        assert {*re.findall(r"as215932\.engineering_loop\.(\w+)", rule["annotations"]["todo"])} <= known, rule["alert"]


def test_the_dashboard_asks_for_what_is_written() -> None:
    board = json.loads((EXAMPLES / "grafana/dashboard.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [one["query"]["query"] for one in board["templating"]["list"] if one["type"] == "query"]
    assert len(queries) > 20
    for query in queries:
        assert named(query) and named(query) <= {*metrics.HELP}, query
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24 and panel["title"], panel["title"]


def test_docs_tell_of_each() -> None:
    told = (ROOT / "docs/metrics.md").read_text()
    assert {name for name in metrics.HELP if f"`{metrics.PREFIX}{name}" not in told} == set()
