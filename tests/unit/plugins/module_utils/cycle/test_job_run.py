# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run of a job: prepared by root, run as the loop's user, settled. A shell script stands in for the engine."""

from __future__ import annotations

import grp
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import records
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cycle import handover, job_run
from ansible_collections.as215932.engineering_loop.plugins.module_utils.gateway import sessions
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import jobs
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import pause
from celled import LOOP, NEEDS_ROOT, Box, box, gid, give
from gated import gateway_of

pytestmark = NEEDS_ROOT
ENGINE = """\
#!/bin/sh
[ "$1" = look ] || exit 2
case "$*" in *--help*) echo "usage: --once --fast"; exit 0;; esac
echo "$@" > said; pwd >> said; echo "$HOME" >> said
grep -q fail said && exit 7
exit 0
"""


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    with box() as found:
        found.deploy()
        found.enter_unit(monkeypatch)
        give(found.top / "run/unit", LOOP)
        found.config["group"] = grp.getgrgid(gid(LOOP)).gr_name
        state = f"{found.top}/var/jobs/look/state"
        found.config["jobs"] = [
            {
                "name": "look", "unit": "loop-job-look", "command": ["engine", "look"],
                "args": ["--once", "{release}", "{state}"], "options": {"--fast": "", "--new": "1"}, "state": state,
                "may": ["read"], "proof": True, "enabled": True,
            }
        ]  # fmt: skip
        found.config["state_dir"] = f"{found.top}/var"
        program = found.release / ".venv/bin/engine"
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(ENGINE.replace("said", f"{state}/said"))
        program.chmod(0o755)
        yield found


def last(host: Box) -> dict[str, Any]:
    return records.read(jobs.records_dir(host.config, jobs.find(host.config, "look")))[-1]


def prepared(host: Box) -> dict[str, Any]:
    host.write_config()
    assert job_run.before(host.config_file, "look") == 0
    return last(host)


def run(host: Box) -> int:
    """As the loop's user."""
    return as_user(LOOP, lambda: job_run.run(host.config_file, "look"))


def ended(host: Box, monkeypatch: pytest.MonkeyPatch, status: int, **systemd: str) -> dict[str, Any]:
    told = {"SERVICE_RESULT": "success", "EXIT_CODE": "exited", "EXIT_STATUS": str(status), **systemd}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert job_run.after(host.config_file, "look") == 0
    return last(host)


def test_a_run(host: Box, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    with gateway_of(host):
        record = prepared(host)
        assert record["outcome"] == records.RUNNING and record["trigger"] == "manual"
        assert sessions.session_of(host.config, "loop-job-look.service")["may"] == ["read"]
        state = Path(host.config["jobs"][0]["state"])
        assert state.stat().st_uid == 0 and state.stat().st_mode & 0o777 == 0o770
        (state / "model-policy.yml/x").mkdir(parents=True)  # whatever an earlier run has left there
        give(state / "model-policy.yml", LOOP)
        give(state / "model-policy.yml/x", LOOP)
        assert run(host) == 0
        words, where, home = (state / "said").read_text().splitlines()
        release = os.path.realpath(host.release)
        assert words == f"look --once {release} {state} --fast" and (where, home) == (release, str(state))
        assert "does not know --new, so job look is run without it" in capfd.readouterr().out
        assert ended(host, monkeypatch, 0)["outcome"] == "done"
        assert "loop-job-look" not in sessions.listing(host.config)


def test_its_trace_is_collected(host: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    program, kept = host.release / ".venv/bin/engine", Path(f"{host.top}/var/trace.jsonl")
    place = "$HYRULE_ENGINEERING_AGENT_CORE_TRACE_PATH"
    program.write_text(program.read_text().replace("exit 0\n", f"echo '{{\"n\": 1}}' >> {place}\nexit 0\n"))
    host.config["engine_environment"] = {handover.TRACE: str(kept)}
    host.config["trace_file"] = str(kept)
    with gateway_of(host):
        prepared(host)
        state = Path(host.config["jobs"][0]["state"])
        assert run(host) == 0 and (state / "agent-core-trace.jsonl").exists()
        assert ended(host, monkeypatch, 0)["collected"]["lines"] == 1
    assert kept.read_text() == '{"n": 1}\n' and not (state / "agent-core-trace.jsonl").exists()


def test_one_that_fails(host: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    host.config["jobs"][0]["args"] = ["fail"]
    with gateway_of(host):
        prepared(host)
        assert run(host) == 1
        record = ended(host, monkeypatch, 1)
        assert record["outcome"] == "error" and "ended with 1, see the journal" in record["detail"]


def test_an_engine_that_does_not_know_it(host: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    host.config["jobs"][0]["command"] = ["engine", "govern"]
    with gateway_of(host):
        prepared(host)
        assert run(host) == records.NOTHING_DONE
        assert ended(host, monkeypatch, records.NOTHING_DONE)["outcome"] == "held"
    host.config["jobs"][0]["command"] = ["another"]
    record = prepared(host)
    assert record["outcome"] == "held" and "has no program another: it waits for an engine" in record["detail"]
    assert run(host) == records.NOTHING_DONE


def no_secrets(host: Box) -> None:
    (host.top / "etc/env").unlink()


def no_policy(host: Box) -> None:
    Path(host.config["policy_file"]).unlink()


@pytest.mark.parametrize("spoil", [no_secrets, no_policy])
def test_what_no_cycle_would_start_with(host: Box, spoil: Callable[[Box], None]) -> None:
    spoil(host)
    assert prepared(host)["outcome"] == "refused"
    assert run(host) == records.REFUSED
    with pytest.raises(job_run.LoopError):
        sessions.session_of(host.config, "loop-job-look.service")


def test_a_pause_and_what_is_not_proven(host: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    host.config["canary_required"] = True
    monkeypatch.setenv("TRIGGER_UNIT", "loop-job-look.timer")
    record = prepared(host)
    assert record["outcome"] == "held" and "not proven, so not run on the timer" in record["detail"]
    assert run(host) == records.NOTHING_DONE
    host.config["jobs"][0]["proof"] = False
    with gateway_of(host):
        assert prepared(host)["outcome"] == records.RUNNING
    monkeypatch.setenv("INVOCATION_ID", "fedcba98" * 4)  # else it would be the same run, within this second
    pause.put(host.config, "the forge moves", "me")
    assert prepared(host)["outcome"] == "paused"
    killed = records.read(jobs.records_dir(host.config, jobs.find(host.config, "look")))
    assert "interrupted" in [one["outcome"] for one in killed]


@pytest.mark.parametrize(
    ("systemd", "outcome"),
    [
        ({"SERVICE_RESULT": "timeout"}, "interrupted"),
        ({"EXIT_CODE": "killed", "EXIT_STATUS": "KILL"}, "interrupted"),
        ({"EXIT_STATUS": "4"}, "refused"),
        ({"EXIT_STATUS": "9"}, "error"),
    ],
)
def test_how_it_ended(host: Box, monkeypatch: pytest.MonkeyPatch, systemd: dict[str, str], outcome: str) -> None:
    with gateway_of(host):
        prepared(host)
    assert ended(host, monkeypatch, 0, **systemd)["outcome"] == outcome
    assert json.dumps(last(host))


def test_it_is_started_by_its_unit(host: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INVOCATION_ID")
    assert job_run.before(host.config_file, "look") == records.REFUSED
    monkeypatch.setenv("INVOCATION_ID", "x" * 32)
    assert job_run.before(host.config_file, "other") == records.REFUSED
    assert job_run.after(host.config_file, "other") == 1
    assert run(host) == records.REFUSED
