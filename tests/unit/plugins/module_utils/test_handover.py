# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What root does around a cycle: the secrets go over once, and the day's runs are counted."""

from __future__ import annotations

import json
import os
import pwd
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ansible_collections.as215932.engineering_loop.plugins.module_utils import budget, handover
from ansible_collections.as215932.engineering_loop.plugins.module_utils.errors import LoopError
from deployed import SEED, Host, Running, deployed, running

ROOT = os.geteuid() == 0
NOT_ROOTS = "must belong to root"


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("forge") / "root", seed=SEED) as forge:
        yield forge


@pytest.fixture
def host(tmp_path: Path, forge: Running, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = deployed(tmp_path, forge)
    host.config["user"] = pwd.getpwuid(os.geteuid()).pw_name
    host.write_config()
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setenv("INVOCATION_ID", "a")
    for name in ("TRIGGER_UNIT", "EXIT_CODE", "EXIT_STATUS"):
        monkeypatch.delenv(name, raising=False)
    return host


def secrets(host: Host, text: str) -> None:
    Path(host.config["env_file"]).write_text(text)


def handed(host: Host) -> dict[str, Any]:
    assert handover.prepare(str(host.config_file)) == 0
    return handover.take(host.config)


def test_the_secrets_go_over_once(host: Host) -> None:
    secrets(
        host, "GH_TOKEN=t\nENGINEERING_LOOP_GITHUB_TOKEN=u\nOPENAI_API_KEY=k\nENGINEERING_LOOP_GITHUB_APP_API_URL=x\n"
    )
    assert handover.prepare(str(host.config_file)) == 0
    file = Path(handover.place(host.config))
    assert stat.S_IMODE(file.stat().st_mode) == 0o400
    found = handover.take(host.config)
    assert not file.exists()
    assert (found["environment"], found["token"]) == (({"OPENAI_API_KEY": "k"}, "t") if ROOT else ({}, ""))
    assert ("" if ROOT else NOT_ROOTS) in found["refused"]
    with pytest.raises(LoopError, match="start it with systemctl start hyrule-engineering-loop"):
        handover.take(host.config)


def test_what_stands_in_its_place_is_not_followed(host: Host, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    Path(handover.place(host.config)).symlink_to(precious)
    assert handed(host)["budget"]["max_runs"] == 2
    assert precious.read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "mode", "reason"),
    [
        (None, 0o600, "is missing: it must hold the secrets"),
        ("GH_TOKEN\n", 0o600, "line 1: no KEY=value"),
        ("GH_TOKEN=hunter2\n", 0o644, "is world-readable"),
        ("GH_TOKEN=hunter2\nVAULT_TOKEN=hunter2\n", 0o600, "holds VAULT_TOKEN, which must not be where generated code"),
        ("OTHER=1\n", 0o600, "no forge token: put GH_TOKEN into"),
    ],
)
def test_secrets_that_are_not_fit_are_a_refusal_and_no_run(
    host: Host, text: str | None, mode: int, reason: str
) -> None:
    file = Path(host.config["env_file"])
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
        file.chmod(mode)
    found = handed(host)
    assert (reason if ROOT or text is None else NOT_ROOTS) in found["refused"]
    assert (found["environment"], found["token"]) == ({}, "")
    assert "hunter2" not in json.dumps(found)
    assert budget.today(host.config)["started"] == 0


def test_secrets_in_a_directory_of_anothers_could_be_anothers(host: Host) -> None:
    Path(host.config["env_file"]).parent.chmod(0o777)
    assert "can be written by others than root" in handed(host)["refused"]


def test_a_host_without_settings_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert handover.prepare(f"{tmp_path}/none.json") == 4
    assert capfd.readouterr().out.startswith("cycle refused: ")
    assert handover.settle(f"{tmp_path}/none.json") == 0


# --- the count


def end(host: Host, monkeypatch: pytest.MonkeyPatch, code: str, status: str) -> int:
    """One cycle that systemd saw end so; how many runs the day has then."""
    invocation = str(budget.today(host.config)["started"])
    monkeypatch.setenv("INVOCATION_ID", invocation)
    budget.take(host.config, invocation, "manual")
    monkeypatch.setenv("EXIT_CODE", code)
    monkeypatch.setenv("EXIT_STATUS", status)
    assert handover.settle(str(host.config_file)) == 0
    return len(budget.today(host.config)["runs"])


def test_every_run_counts_and_what_was_none_does_not(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    none = [("exited", "10"), ("exited", "4"), ("exited", "203"), ("exited", "226"), ("", "")]
    assert [end(host, monkeypatch, *how) for how in none] == [0] * len(none)
    runs = [
        ("exited", "0"),
        ("exited", "1"),
        ("exited", "3"),
        ("killed", "TERM"),
        ("killed", "KILL"),
        ("dumped", "SEGV"),
    ]
    assert [end(host, monkeypatch, *how) for how in runs] == [1, 2, 3, 4, 5, 6]
    assert budget.today(host.config)["started"] == len(none) + len(runs)


def test_the_day_is_used_up(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    assert budget.exhausted(host.config) == ""
    for invocation, trigger in (("a", "timer"), ("b", "manual")):
        budget.take(host.config, invocation, trigger)
    told = budget.exhausted(host.config)
    assert told.startswith("2 of 2 runs were started today (UTC: ")
    assert "timer, " in told and told.endswith("or raise engineering_loop_max_runs_per_day")
    found = handed(host)
    assert (found["over_budget"], found["token"], found["budget"]["started_today"]) == (told, "", 2)
    host.config["max_runs_per_day"] = 3
    assert budget.exhausted(host.config) == ""
    host.config["max_runs_per_day"] = 0
    assert budget.exhausted(host.config)


def test_a_day_is_a_day_and_a_month_is_kept(host: Host) -> None:
    run = {"invocation": "x", "trigger": "timer", "at": "2026-01-01T00:00:00Z"}
    days = {f"2026-01-{day:02}": {"started": 1, "runs": [run]} for day in range(1, 32)}
    Path(budget.path_of(host.config)).write_text(json.dumps(days))
    assert budget.exhausted(host.config) == ""
    budget.take(host.config, "a", "timer")
    kept = json.loads(Path(budget.path_of(host.config)).read_text())
    assert (len(kept), min(kept)) == (31, "2026-01-02")
    assert [run["invocation"] for run in budget.today(host.config)["runs"]] == ["a"]


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"2026-01-01": 1}', '{"2026-01-01": {"started": 1, "runs": [{}]}}', "[" * 99999],
    ids=["cut", "list", "number", "run", "deep"],
)
def test_a_count_that_cannot_be_read_is_a_refusal(host: Host, content: str) -> None:
    Path(budget.path_of(host.config)).write_text(content)
    assert handed(host)["refused"].endswith("budget.json cannot be read as the count of the day's runs: move it aside")
