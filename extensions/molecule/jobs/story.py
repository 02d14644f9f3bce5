# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs beside the cycle, on one booted host with the local forge: story.py STAGE INVENTORY [CHAPTER...]."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import requests
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "operator"))
from at_work import UNIT, cycle, forge, must, on_host, pins, play, stage, tell

GOVERNOR, REPO = "hyrule-reliability-governor", "AS215932/network-operations"
VERSION_JOB = {
    "name": "version",
    "command": ["hyrule-engineering-loop"],
    "args": ["--version"],
    "options": {"--nope": "x"},
}
CANARY = ("-e", "engineering_loop_canary_run=true", "-e", '{"engineering_loop_canary": {"cleanup": true}}')


def pin(**more: Any) -> None:
    """What the inventory says from now on."""
    pins.write_text(yaml.safe_dump({**yaml.safe_load(pins.read_text(encoding="utf-8")), **more}), encoding="utf-8")


def apply(*words: str) -> str:
    status, said = play("apply", *words)
    assert status == 0, said[-3000:]
    return re.sub(r"\s+", " ", said)


def asked(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """A person at the forge."""
    token = forge("POST", "tokens", {"login": "operator", "role": "admin"})["token"]
    head = {"Authorization": f"Bearer {token}"}
    answer = requests.request(method, f"{stage['api_url']}{path}", json=body, headers=head, timeout=30)
    answer.raise_for_status()
    return answer.json()


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


def an_engine_that_does_not_know_it() -> None:
    """The job is held, and nothing has failed."""
    pin(
        engineering_loop_governor_timer_enabled=True,
        engineering_loop_governor_timer_calendar="yearly",
        engineering_loop_jobs=[VERSION_JOB],
        engineering_loop_canary={"mode": "docs", "repo": REPO, "issue": 235, "cleanup": True},
    )
    apply("-e", "engineering_loop_canary_run=true")
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
    apply("-e", "engineering_loop_canary_run=true")
    number = triage()
    seen = run()
    assert (seen["status"], seen["outcome"], seen["did"]) == (0, "done", {"comments": 1, "label changes": 1}), seen
    assert labels(number) == ["loop:ready"] and len(comments(number)) == 1
    asked("POST", f"/repos/{REPO}/issues/{number}/labels", {"labels": ["loop:triage"]})
    assert run()["did"] == {"label changes": 1} and len(comments(number)) == 1, "it read what it had decided"
    assert must("cat /var/lib/engineering-loop/reliability-governor/decisions.json") != "{}"
    asked("PATCH", f"/repos/{REPO}/issues/{number}", {"state": "closed"})


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
    assert must(f"systemctl is-active {GOVERNOR}.timer; true") == "active"
    apply()
    assert must(f"systemctl is-active {GOVERNOR}.timer; true") == "inactive"
    assert play("resume")[0] == 0
    apply()
    assert must(f"systemctl is-active {GOVERNOR}.timer; true") == "active" and cycle() is not None


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
        what_it_may_not,
        what_nobody_has_proven,
        a_pause,
        what_a_job_costs,
        back_again,
    )
)
