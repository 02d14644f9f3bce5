# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs beside the cycle, on one booted host with the local forge: story.py STAGE INVENTORY [CHAPTER...]."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "operator"))
from at_work import UNIT, apply, asked, cycle, forge, must, on_host, pins, play, stage
from chapters import tell

GOVERNOR, REPO = "hyrule-reliability-governor", "AS215932/network-operations"
VERSION_JOB = {
    "name": "version",
    "command": ["hyrule-engineering-loop"],
    "args": ["--version"],
    "options": {"--nope": "x"},
}
STATE, CA = "/var/lib/engineering-loop", "/usr/local/share/ca-certificates/as215932-icinga-ca.crt"
TRACE, LEARNED, ROTATION = f"{STATE}/trace.jsonl", f"{STATE}/learning", f"/etc/logrotate.d/{UNIT}-trace"
# What users of the in-house role have in their host_vars, and what ours has beside that.
TOLD = {
    "knowledge_context_enabled": True,
    "knowledge_mcp_url": "http://192.0.2.7:8767/mcp",
    "knowledge_learning_dir": LEARNED,
    "max_iterations_per_run": 3,
    "max_wall_clock_minutes_per_run": 30,
    "noc_lhp_base_url": "http://192.0.2.8:8080",
    "lhp_callback_enabled": True,
    "agent_core_trace_enabled": True,
    "agent_core_trace_path": TRACE,
    "insight_records_enabled": True,
    "agent_environment": {"EDITOR": "true"},
}
KNOWLEDGE = {
    "knowledge_context": "True",
    "knowledge_mcp_url": "http://192.0.2.7:8767/mcp",
    "knowledge_mcp_transport": "streamable-http",
    "knowledge_context_budget": "6000",
    "knowledge_context_timeout": "20.0",
}
CANARY = ("-e", "engineering_loop_canary_run=true", "-e", '{"engineering_loop_canary": {"cleanup": true}}')


def pin(**more: Any) -> None:
    """What the inventory says from now on."""
    pins.write_text(yaml.safe_dump({**yaml.safe_load(pins.read_text(encoding="utf-8")), **more}), encoding="utf-8")


def triage(body: str = "Look at it.") -> int:
    """An issue that waits for the governor."""
    made = forge("POST", "issues", {"repo": REPO, "title": "A page", "body": body, "labels": ["loop:triage"]})
    return int(made["number"])


def labels(number: int) -> list[str]:
    return sorted(one["name"] for one in asked("GET", f"/repos/{REPO}/issues/{number}")["labels"])


def comments(number: int) -> list[str]:
    return [one["body"] for one in asked("GET", f"/repos/{REPO}/issues/{number}/comments")]


def run(unit: str = GOVERNOR) -> dict[str, Any]:
    """Start a job as a person does; its record, with the exit status of systemctl."""
    status, _said = on_host(f"systemctl start {unit}.service")
    on_host(f"systemctl reset-failed {unit}.service 2>/dev/null")
    return {**last(unit), "status": status}


def last(unit: str = GOVERNOR) -> dict[str, Any]:
    name = "reliability-governor" if unit == GOVERNOR else unit.partition("-job-")[2]
    found: dict[str, Any] = json.loads(must(f"cat $(ls /var/lib/engineering-loop/jobs/{name}/*.json | tail -1)"))
    return found


def authority() -> str:
    """A certificate as Icinga's authority has it."""
    path = pins.parent / "icinga-ca.crt"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9", "-subj", "/CN=Icinga CA"]
    subprocess.run([*words, "-keyout", "/dev/null", "-out", str(path)], capture_output=True, check=True)
    return str(path)


def told(identifier: str) -> dict[str, Any]:
    """What the engine said last that it was told."""
    line = must(f"journalctl -o cat -t {identifier} | grep '^.told. ' | tail -1")
    found: dict[str, Any] = json.loads(line.partition(" ")[2])
    return found


def an_engine_that_does_not_know_it() -> None:
    """The job is held, its flags are said by name, and nothing has failed."""
    pin(
        **{f"engineering_loop_{name}": value for name, value in TOLD.items()},
        engineering_loop_icinga_ca_src=authority(),
        engineering_loop_governor_timer_enabled=True,
        engineering_loop_governor_timer_calendar="yearly",
        engineering_loop_jobs=[VERSION_JOB],
        engineering_loop_canary={"mode": "docs", "repo": REPO, "issue": 235, "cleanup": True},
    )
    said = apply("-e", "engineering_loop_canary_run=true")
    assert "Not acted on" not in said and "does not know --knowledge-context, --knowledge-mcp-url," in said, said
    assert "--max-wall-clock-minutes-per-run, --nope (engineering_loop_knowledge_context_enabled, eng" in said, said
    said = apply()
    assert " changed=0 " in said and "does not know --knowledge-context" in said, said
    assert "does not know --knowledge-context" in re.sub(r"\s+", " ", play("status")[1])
    assert "[told]" not in must("journalctl -o cat -t engineering-loop")
    assert "does not know --knowledge-context" in must("journalctl -o cat -t engineering-loop")
    must(f"openssl verify -CAfile /etc/ssl/certs/ca-certificates.crt {CA}")
    must(f'logrotate --debug {ROTATION}; test ! -e {TRACE}; test -z "$(ls {LEARNED})"')
    seen = run()
    assert (seen["status"], seen["outcome"]) == (0, "held") and "does not know this job" in seen["detail"], seen
    assert must(f"systemctl is-active {GOVERNOR}.timer") == "active"
    seen = run(f"{UNIT}-job-version")
    assert (seen["status"], seen["outcome"]) == (0, "done"), seen
    assert "does not know --nope, so job version is run without it" in must("journalctl -o cat -t engineering-loop-job")


def a_later_engine() -> None:
    """Said before the switch; then the governor reads, comments and moves a label, once."""
    asked("POST", f"/repos/{REPO}/issues/235/labels", {"labels": ["loop:approved"]})
    pin(engineering_loop_version=stage["to"])
    said = apply("-e", "engineering_loop_canary_run=true")
    assert "does not know --nope (engineering_loop_jobs)" in said and "does not know --knowledge" not in said, said
    assert " changed=0 " in apply()
    number = triage()
    seen = run()
    assert (seen["status"], seen["outcome"], seen["did"]) == (0, "done", {"comments": 1, "label changes": 1}), seen
    assert labels(number) == ["loop:ready"] and len(comments(number)) == 1
    asked("POST", f"/repos/{REPO}/issues/{number}/labels", {"labels": ["loop:triage"]})
    assert run()["did"] == {"label changes": 1} and len(comments(number)) == 1, "it read what it had decided"
    assert must("cat /var/lib/engineering-loop/reliability-governor/decisions.json") != "{}"
    asked("PATCH", f"/repos/{REPO}/issues/{number}", {"state": "closed"})


def what_it_is_told() -> None:
    """The later engine gets its flags and its environment, in cycles and in jobs; what it leaves is collected."""
    seen, of_job = told("engineering-loop"), told("engineering-loop-job")
    limits = {"max_iterations_per_run": "3", "max_wall_clock_minutes_per_run": "30"}
    learning = seen["options"].pop("knowledge_learning_dir")
    assert seen["options"] == {**KNOWLEDGE, **limits} and re.fullmatch(rf"{STATE}/runs/[^/]+/state/learning", learning)
    assert of_job["options"] == KNOWLEDGE and of_job["command"] == "reliability-governor"
    for found in (seen, of_job):
        environment = found["environment"]
        assert environment.pop("HYRULE_ENGINEERING_AGENT_CORE_TRACE_PATH").endswith("/agent-core-trace.jsonl")
        assert environment == {
            "HYRULE_ENGINEERING_AGENT_CORE_TRACE": "1", "HYRULE_ENGINEERING_INSIGHT_RECORDS": "1",
            "ENGINEERING_LOOP_NOC_LHP_BASE_URL": "http://192.0.2.8:8080", "ENGINEERING_LOOP_LHP_CALLBACK_ENABLED": "1",
            "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",
        }, environment  # fmt: skip
        assert not found["secret"]
    lines = [json.loads(line)["command"] for line in must(f"cat {TRACE}").splitlines()]
    assert {"daemon", "reliability-governor"} == {*lines} and lines.count("daemon") == 1, lines
    assert must(f"stat -c '%U:%G %a' {TRACE} {LEARNED}").split("\n") == ["root:loop 640", "root:loop 750"]
    assert must(f"ls {LEARNED}") == "candidate-0.json"
    cycle()
    assert must(f"ls {LEARNED}").split() == ["candidate-0.json", "candidate-1.json"]
    must(f"logrotate --force {ROTATION}")
    assert run()["collected"] == {"lines": 1, "left_out": 0, "bytes_left_out": 0}
    assert len(must(f"cat {TRACE}").splitlines()) == 1 and must(f"ls {TRACE}.1")


def words_of_ones_own() -> None:
    """They are passed as they are; one that the role passes itself is refused, and nothing is changed."""
    pin(engineering_loop_daemon_args=["--dry-run"])
    apply()
    cycle()
    assert told("engineering-loop")["options"]["dry_run"] == "True"
    for words, why in (
        (["--state-dir=/x"], "the role passes --state-dir-path itself"),
        (["--knowledge-mcp-url", "x"], "set engineering_loop_knowledge_mcp_url instead"),
        (["--api-key", "x"], "a command line is no place for a secret"),
    ):
        pin(engineering_loop_daemon_args=words)
        status, said = play("apply", "--check")
        assert status != 0 and why in re.sub(r"\s+", " ", said) and "changed=0" in said, said[-2000:]
    pin(engineering_loop_daemon_args=["--odd"])
    assert "does not know --odd, so every cycle is refused" in apply()
    cycle()
    assert "does not know --odd" in must("journalctl -o cat -t engineering-loop | tail -20")
    pin(engineering_loop_daemon_args=[])
    apply()


def what_goes_again() -> None:
    """Without its variables nothing of it is passed, and what was put on the host for it is gone."""
    nothing = {"knowledge_learning_dir": "", "noc_lhp_base_url": "", "max_iterations_per_run": 0, "icinga_ca_src": ""}
    off = dict.fromkeys(
        ("knowledge_context_enabled", "lhp_callback_enabled", "agent_core_trace_enabled", "insight_records_enabled"),
        False,
    )
    told_no_more = {**nothing, **off, "max_wall_clock_minutes_per_run": 0, "agent_environment": {}}
    pin(**{f"engineering_loop_{name}": value for name, value in told_no_more.items()})
    assert CA in apply("--check", "--diff") and must(f"ls {CA}") == CA
    asked("POST", f"/repos/{REPO}/issues/235/labels", {"labels": ["loop:approved"]})
    apply("-e", "engineering_loop_canary_run=true")
    assert " changed=0 " in apply()
    must(f"test ! -e {CA} && test ! -e {ROTATION} && test -e {TRACE} && test -e {LEARNED}/candidate-0.json")
    must("test ! -e /etc/ssl/certs/as215932-icinga-ca.pem")
    seen, before = told("engineering-loop"), must(f"cat {TRACE}")
    assert (seen["options"], seen["environment"]) == ({}, {}) and must(f"cat {TRACE}") == before


def what_it_may_not() -> None:
    """Each is refused by name, and nothing happens at the forge."""
    orders = {
        f"issue edit 235 --repo {REPO} --add-label bug": "labels that begin with loop:",
        f"issue edit 235 --repo {REPO} --add-label loop:approved": "may not approve",
        "issue comment 1 --repo AS215932/elsewhere --body x": "is not one that the loop works on",
        f"issue close 235 --repo {REPO}": "does not know this of gh",
        f"pr create --repo {REPO} --title t --body b --head main --draft": "does not know this of gh",
        f"api /repos/{REPO}": "does not know this of gh",
    }
    before = labels(235)
    for order, why in orders.items():
        number = triage(f"gh: {order}")
        seen = run()
        assert (seen["outcome"], seen["did"]) == ("error", {"refusals": 1}) and seen["status"] != 0, (order, seen)
        assert why in must("journalctl -o cat -t engineering-loop-gate | tail -5"), (order, why)
        assert labels(number) == ["loop:triage"] and labels(235) == before
        asked("PATCH", f"/repos/{REPO}/issues/{number}", {"state": "closed"})
    assert run()["outcome"] == "done"


def what_nobody_has_proven() -> None:
    """Its timer starts nothing unproven; a person may."""
    code = "/usr/local/lib/engineering-loop/engineering_loop_core/cycle/settle.py"
    pin(engineering_loop_governor_timer_calendar="*:*:0/5", engineering_loop_governor_randomized_delay=0)
    apply()
    must(f"cp -p {code} /var/tmp/settle.py; echo '# mine' >> {code}")
    deadline = time.monotonic() + 60
    while last()["trigger"] != "timer" or last()["outcome"] != "held":
        assert time.monotonic() < deadline, last()
        time.sleep(1)
    assert "not proven, so not run on the timer" in last()["detail"], last()
    must(f"mv /var/tmp/settle.py {code}")
    pin(engineering_loop_governor_timer_calendar="yearly")
    apply()


def a_pause() -> None:
    """It holds for jobs as well."""
    assert play("pause")[0] == 0
    seen = run()
    assert (seen["status"], seen["outcome"]) == (0, "paused"), seen
    assert must(f"systemctl is-active {GOVERNOR}.timer; true") == "inactive"
    apply()
    assert must(f"systemctl is-active {GOVERNOR}.timer; true") == "inactive"
    assert play("resume")[0] == 0
    assert must(f"systemctl is-active {GOVERNOR}.timer; true") == "active"
    assert " changed=0 " in apply() and cycle() is not None


def what_a_job_costs() -> None:
    """An apply with nothing to do, with two jobs and with none."""
    times = []
    for jobs in (True, False):
        if not jobs:
            gone()
        began = time.monotonic()
        assert " changed=0 " in apply()
        times.append(time.monotonic() - began)
    print(f"  with two jobs {times[0]:.1f} s, with none {times[1]:.1f} s", flush=True)


def gone() -> None:
    """Nothing of a job that nobody asks for any more stays but its records."""
    pin(engineering_loop_governor_timer_enabled=False, engineering_loop_jobs=[])
    said = apply("--check", "--diff")
    assert f"{GOVERNOR}.timer" in said and must(f"systemctl is-active {GOVERNOR}.timer") == "active"
    apply()
    assert must(f"ls /etc/systemd/system | grep -c -e '{GOVERNOR}' -e '-job-'; true") == "0"
    assert must(f"systemctl list-timers --all | grep -c -e {GOVERNOR} -e job-version; true") == "0"


def back_again() -> None:
    """The older engine does not know it again: held, not failed."""
    pin(engineering_loop_version=stage["from"], engineering_loop_governor_timer_enabled=True)
    apply()
    seen = run()
    assert (seen["status"], seen["outcome"]) == (0, "held"), seen


tell(
    (
        an_engine_that_does_not_know_it,
        a_later_engine,
        what_it_is_told,
        words_of_ones_own,
        what_it_may_not,
        what_nobody_has_proven,
        a_pause,
        what_goes_again,
        what_a_job_costs,
        back_again,
    )
)
