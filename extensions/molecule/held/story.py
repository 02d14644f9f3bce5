# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""One bad issue never starves the others, and a pause holds: story.py DIRECTORY INVENTORY [CHAPTER...].

By the playbooks themselves, on one booted host, with the local forge.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import requests
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tests/world"))
from chapters import tell

TOP = Path(__file__).resolve().parents[3]
HOME, INVENTORY = Path(sys.argv[1]), sys.argv[2]
HOST, UNIT, REPO = "held", "hyrule-engineering-loop", "AS215932/network-operations"
STATE, INSTALL = "/var/lib/engineering-loop", "/opt/engineering-loop"
SETTINGS = "/etc/engineering-loop/loop.json"
CANARY = "engineering_loop_canary_run=true"
GOOD = 5
# As from an operator's shell: what molecule sets for its own playbooks is not for these.
SHELL = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "MOLECULE_"))}
SHELL.update(ANSIBLE_NOCOLOR="1", PYTHONUNBUFFERED="1")
stage = json.loads((HOME / "world" / "stage.json").read_text(encoding="utf-8"))
pins = HOME / "pins.yml"
LEAVES_DOCS = "<!-- pi: write src/poison.py print(1) -->"


# --- the forge


def forge(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """A person's request."""
    asked = {"login": "operator", "role": "admin"}
    login = requests.post(f"{stage['url']}/_forge/tokens", json=asked, timeout=30).json()["token"]
    headers = {"Authorization": f"Bearer {login}"}
    answer = requests.request(method, f"{stage['api_url']}{path}", json=body, headers=headers, timeout=30)
    answer.raise_for_status()
    return answer.json()


def approve(title: str, *orders: str, labels: tuple[str, ...] = ()) -> int:
    text = "\n".join(["Explain.", "", *orders])
    body = {"repo": REPO, "title": title, "body": text, "labels": ["loop:approved", *labels]}
    made = requests.post(f"{stage['url']}/_forge/issues", json=body, timeout=30)
    made.raise_for_status()
    return int(made.json()["number"])


def close(*numbers: int) -> None:
    for number in numbers:
        forge("PATCH", f"/repos/{REPO}/issues/{number}", {"state": "closed"})


def close_all() -> None:
    close(*(one["number"] for one in forge("GET", f"/repos/{REPO}/issues?state=open&per_page=100")))


def comments(number: int) -> list[str]:
    return [one["body"] for one in forge("GET", f"/repos/{REPO}/issues/{number}/comments")]


# --- the controller and the host


def command(playbook: str, *arguments: str) -> list[str]:
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    return [program, "-i", INVENTORY, "-e", f"@{pins}", str(TOP / "playbooks" / playbook), "-l", HOST, *arguments]


def play(playbook: str, *arguments: str, fails: bool = False) -> str:
    """Run a playbook to its end; what it said."""
    done = subprocess.run(
        command(playbook, *arguments), cwd=TOP, env=SHELL, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = re.sub(r"\s+", " ", done.stdout + done.stderr)
    assert (done.returncode != 0) == fails, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Traceback" not in said and stage["token"] not in said
    return said


def sh(script: str) -> str:
    """A command on the host, by the same connection as the playbooks."""
    program = str(Path(sys.executable).with_name("ansible"))
    done = subprocess.run(
        [program, HOST, "-i", INVENTORY, "-b", "-m", "ansible.builtin.shell", "-a", json.dumps({"cmd": script})],
        cwd=TOP, env=SHELL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.partition("\n")[2].strip()


def wait(what: str, script: str, seconds: float = 90) -> None:
    """Until a command on the host prints something."""
    sh(f'for n in $(seq {seconds * 10:.0f}); do [ -n "$({script})" ] && exit 0; sleep 0.1; done; echo {what}; exit 1')


def cycle() -> dict[str, Any]:
    """Start one as a person does, and wait for its end; its record, and how systemctl ended."""
    told = sh(
        f"systemctl start {UNIT} 2>/dev/null; echo $?; systemctl reset-failed {UNIT} 2>/dev/null;"
        f" cat $(ls {STATE}/cycles/*.json | tail -1)"
    )
    status, record = told.split("\n", 1)
    return {**json.loads(record), "status": int(status)}


def attempts() -> dict[str, Any]:
    """What root counted, by the issue's number."""
    told = json.loads(sh(f"cat {INSTALL}/attempts.json"))
    return {int(name.rpartition("#")[2]): one for name, one in told["issues"].items()}


def runs() -> int:
    days = json.loads(sh(f"cat {INSTALL}/budget.json"))  # midnight may pass while a test counts
    return sum(len(day["runs"]) for day in days.values())


def after(attempts: int) -> None:
    """Have issues held after so many attempts from now on."""
    sh(f'sed -i \'s/"max_attempts_per_issue": [0-9]*/"max_attempts_per_issue": {attempts}/\' {SETTINGS}')


def timer() -> list[str]:
    return sh(f"systemctl is-active {UNIT}.timer; systemctl is-enabled {UNIT}.timer; true").split()


ON, OFF = ["active", "enabled"], ["inactive", "disabled"]


# --- the chapters


def proven() -> None:
    pins.write_text(
        yaml.safe_dump(
            {
                "engineering_loop_version": stage["from"],
                "engineering_loop_repo": stage["engine"],
                "engineering_loop_git_url": stage["url"],
                "engineering_loop_github_api_url": stage["api_url"],
                "engineering_loop_environment": {"GH_TOKEN": stage["token"], "OPENAI_API_KEY": "played"},
                "engineering_loop_timer_enabled": True,
                "engineering_loop_timer_on_calendar": "yearly",
                "engineering_loop_max_runs_per_day": 30,
            }
        ),
        encoding="utf-8",
    )
    play("apply.yml", "-e", CANARY)
    assert timer() == ON
    close_all()


def one_bad_issue_and_five_good_ones() -> None:
    """The engine takes what has the highest score: three times the bad one, then each of the others."""
    before = runs()
    bad = approve("Poison", LEAVES_DOCS, labels=("security",))
    good = [approve(f"Page {number}") for number in range(GOOD)]
    seen = [cycle() for _unused in range(3 + GOOD + 1)]
    assert [one["outcome"] for one in seen] == ["needs_triage"] * 3 + ["published"] * GOOD + ["idle"], seen
    assert [one["issue"]["number"] for one in seen[:3]] == [bad] * 3
    assert sorted(one["issue"]["number"] for one in seen[3:-1]) == good
    assert [one["attempt"] for one in seen[:3]] == [{"n": n, "max": 3, "held": n == 3} for n in (1, 2, 3)]
    assert all(one["attempt"] == {} for one in seen[3:])
    assert runs() == before + 3 + GOOD, "each attempt was paid for once, and no more"
    (known,) = attempts().values()
    assert (known["number"], known["attempts"], known["told"]) == (bad, 3, seen[2]["cycle"])
    (text,) = comments(bad)
    assert "3 attempts without a pull request" in text and f"release_issue -l HOST -e issue={REPO}#{bad}" in text
    why = [one["why"] for one in seen[-1]["held"] if one["number"] == bad]
    assert why[0].startswith("3 attempts without a pull request since "), seen[-1]["held"]
    lines = sh(f"journalctl -o cat -u {UNIT}.service | grep 'is held'")
    assert lines.count(f"{REPO}#{bad} is held: 3 attempts") == lines.count(f"{REPO}#{bad} is held is told there: ") == 1


def released() -> None:
    """By an operator, and by whoever changes the issue."""
    (bad,) = attempts()
    name = f"{REPO}#{bad}"
    foretold = play("release_issue.yml", "-e", f"issue={name}", "--check", "--diff")
    assert f"{name} would be released: it was held after 3 attempts" in foretold and bad in attempts()
    said = play("release_issue.yml", "-e", f"issue={name}")
    assert f"{name} is released: it was held after 3 attempts since 20" in said and attempts() == {}
    said = play("release_issue.yml", "-e", f"issue={name}")
    assert "is not held: no attempt at it was counted" in said and " changed=0 " in said
    assert "give it with -e issue=OWNER/NAME#7" in play("release_issue.yml", fails=True)
    assert cycle()["attempt"] == {"n": 1, "max": 3, "held": False}
    after(1)  # and held again
    assert cycle()["outcome"] == "idle" and len({*comments(bad)}) == 2
    forge("PATCH", f"/repos/{REPO}/issues/{bad}", {"body": "Explain it in docs/."})
    assert cycle()["outcome"] == "published" and attempts() == {}
    after(3)


def killed_as_it_settles() -> None:
    """Whoever settles is killed at one moment after the other; the attempt is neither lost nor counted twice."""
    after(0)
    bad = approve("Killed", LEAVES_DOCS, labels=("security",))
    # The shell that looks has these words on its command line as well.
    hunt = "until pid=$(pgrep -f 'python3.*[l]oop settle'); do sleep 0.02; done"
    moments = (0.0, 0.1, 0.3)
    for number, moment in enumerate(moments):
        sh(f"systemctl start --no-block {UNIT}; {hunt}; sleep {moment}; kill -KILL $pid; true")
        wait("the end of the unit", f"systemctl show -P ActiveState {UNIT} | grep -E 'inactive|failed'")
        sh(f"systemctl reset-failed {UNIT}; true")
        seen = attempts().get(bad, {}).get("attempts", 0)
        assert seen in (number, number + 1), (number, seen)
    seen = cycle()
    assert attempts()[bad]["attempts"] == seen["attempt"]["n"] == len(moments) + 1, (attempts(), seen["attempt"])
    assert '"running"' not in sh(f"grep -h '\"outcome\"' {STATE}/cycles/*.json")
    after(3)
    close(bad)
    assert cycle()["outcome"] == "idle" and attempts() == {}


def paused() -> None:
    """Timer off, the running cycle ended and not counted; it holds for a start by hand, a canary and an apply."""
    slow = approve("Slow", "<!-- pi: write docs/precious.md mine -->", "<!-- pi: sleep 600 -->", labels=("security",))
    sh(f"systemctl start --no-block {UNIT}")
    wait("the page", f"ls {STATE}/runs/*/runs/issue_*_{slow}/worktrees/*/docs/precious.md 2>/dev/null")
    foretold = play("pause.yml", "-e", "now=true", "--check")
    assert "Would be paused" in foretold and "would be ended, its cell kept" in foretold and timer() == ON
    said = play("pause.yml", "-e", json.dumps({"now": True, "why": "the forge\u202e moves"}))
    assert "Paused since 20" in said and ": the forge" in said and "\u202e" not in said
    assert (
        "The running cycle was ended (interrupted); its cell is kept: sudo /usr/local/lib/" in said and timer() == OFF
    )
    record = json.loads(sh(f"cat $(ls {STATE}/cycles/*.json | tail -1)"))
    assert (record["outcome"], record["kept"], record["attempt"]) == ("interrupted", True, {}), record
    assert record["issue"]["number"] == slow and attempts() == {}
    seen = cycle()
    assert (seen["status"], seen["outcome"]) == (0, "paused") and "cell" not in seen, seen
    assert seen["detail"].startswith("paused since 20") and "resume with: ansible-playbook" in seen["detail"]
    assert sh(f"systemctl show -P Result {UNIT}") == "success"
    assert f"cycle paused after 0 s: {seen['detail']}" in sh(f"journalctl -o cat -u {UNIT}.service | tail -20")
    again = play("pause.yml")
    assert " changed=0 " in again and "the forge" in again


def a_pause_survives() -> None:
    for words in (["canary.yml"], ["canary.yml", "--check"], ["apply.yml", "-e", CANARY]):
        said = play(*words, fails=True)
        assert "paused since 20" in said and "engineering_loop.resume" in said and "Nothing was changed" in said, said
    said = play("apply.yml", "-e", "engineering_loop_max_attempts_per_issue=2")
    assert "The timer is off: paused since 20" in said and timer() == OFF, said[-2000:]
    assert "Next: let it go on: " in said and "prove it" not in said, said[-2000:]
    sh(f"systemctl enable --now {UNIT}.timer")  # somebody who did not know
    assert cycle()["outcome"] == "paused"
    said = play("apply.yml")
    assert timer() == OFF and cycle()["outcome"] == "paused"


def resumed() -> None:
    foretold = play("resume.yml", "--check")
    assert "Would be resumed. It was paused since 20" in foretold and "The timer would be on" in foretold
    said = play("resume.yml")
    assert "Resumed. It was paused since 20" in said and "The timer is on, next at 20" in said and timer() == ON
    said = play("resume.yml")
    assert "It was not paused." in said and " changed=0 " in said
    close_all()
    assert cycle()["outcome"] == "idle"


CHAPTERS = (
    proven,
    one_bad_issue_and_five_good_ones,
    released,
    killed_as_it_settles,
    paused,
    a_pause_survives,
    resumed,
)
tell(CHAPTERS, long=(a_pause_survives,))
