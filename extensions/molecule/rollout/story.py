# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rollouts as an operator meets them, by the playbooks themselves: story.py DIRECTORY INVENTORY [CHAPTER...].

Two booted hosts and one forge. ``one`` lives through everything; ``two`` must stay as it is while ``one`` fails.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tests/world"))
from chapters import tell

TOP = Path(__file__).resolve().parents[3]
HOME, INVENTORY = Path(sys.argv[1]), sys.argv[2]
STAGE = HOME / "world" / "stage.json"
ENGINE = TOP / "tests" / "world" / "reference_engine"
CYCLE = "src/reference_loop_engine/cycle.py"
UNIT = "hyrule-engineering-loop"
CANARY = "engineering_loop_canary_run=true"
JOURNAL = r"one \| \d\d:\d\d:\d\d (systemd|engineering-loop)\["  # the cycle's first lines
LONGEST = 15.0  # seconds without a word while something runs; 5 where no other tests run beside it
# As from an operator's shell: what molecule sets for its own playbooks is not for these.
SHELL = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "MOLECULE_"))}
SHELL.update(ANSIBLE_NOCOLOR="1", PYTHONUNBUFFERED="1")
stage = json.loads(STAGE.read_text(encoding="utf-8"))
pins = HOME / "pins.yml"


def arrange(*orders: str, **more: Any) -> None:
    """What a person does between two proofs: tidy up, and approve the issue again."""
    case = json.dumps({"orders": orders, **more})
    subprocess.run([sys.executable, str(TOP / "extensions/molecule/canary/arrange.py"), str(STAGE), case], check=True)


def bad_engine() -> str:
    """A version that opens its pull requests ready for review, on a branch of its own."""
    text = (ENGINE / CYCLE).read_text(encoding="utf-8")
    worse = text.replace('draft = [] if "ready" in run.orders else ["--draft"]', "draft: list[str] = []")
    assert worse != text
    body = {"repo": "AS215932/engineering-loop", "branch": "bad", "files": {CYCLE: worse}}
    answer = requests.post(f"{stage['url']}/_forge/commits", json=body, timeout=30)
    answer.raise_for_status()
    return str(answer.json()["sha"])


def pulls() -> list[int]:
    headers = {"Authorization": f"Bearer {stage['token']}"}
    url = f"{stage['api_url']}/repos/AS215932/network-operations/pulls?state=all&per_page=100"
    return [pull["number"] for pull in requests.get(url, headers=headers, timeout=30).json()]


def pin(sha: str, **more: Any) -> None:
    pins.write_text(
        yaml.safe_dump(
            {
                "engineering_loop_version": sha,
                "engineering_loop_repo": stage["engine"],
                "engineering_loop_allowed_branches": ["main", "bad"],
                "engineering_loop_git_url": stage["url"],
                "engineering_loop_github_api_url": stage["api_url"],
                "engineering_loop_environment": {"GH_TOKEN": stage["token"], "OPENAI_API_KEY": "played"},
                "engineering_loop_timer_enabled": True,
                "engineering_loop_timer_on_calendar": "yearly",
                "engineering_loop_max_runs_per_day": 20,
                # Only one of the two ever has a cycle.
                "engineering_loop_repos_shared_unsafely": ["*"],
                **more,
            }
        ),
        encoding="utf-8",
    )


def command(playbook: str, *arguments: str) -> list[str]:
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    return [program, "-i", INVENTORY, "-e", f"@{pins}", str(TOP / "playbooks" / playbook), *arguments]


def play(playbook: str, *arguments: str, fails: bool = False) -> str:
    """Run a playbook to its end; what it said."""
    done = subprocess.run(
        command(playbook, *arguments), cwd=TOP, env=SHELL, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = re.sub(r"\s+", " ", done.stdout + done.stderr)
    assert (done.returncode != 0) == fails, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Traceback" not in said and stage["token"] not in said
    # Its last words are three lines: engine, timer, what next.
    if playbook == "apply.yml" and not fails:
        told = [line for line in done.stdout.splitlines() if re.match("(one|two) [|] ", line)][-3:]
        assert [line.split()[2] for line in told] == ["Engine", "The", "Next:"], told
    return said


def killed(seen: str, *arguments: str) -> None:
    """Run the apply and kill it, with all that it started here, as soon as it says ``seen``."""
    process = subprocess.Popen(
        command("apply.yml", *arguments), cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, stdin=subprocess.DEVNULL, env=SHELL,
    )  # fmt: skip
    assert process.stdout
    told = ""
    for line in process.stdout:
        told += line
        if re.search(seen, line):
            break
    else:
        raise AssertionError(f"never said {seen!r}: {told[-3000:]}")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def sh(host: str, script: str) -> str:
    """A command on a host, by the same connection as the playbooks."""
    program = str(Path(sys.executable).with_name("ansible"))
    done = subprocess.run(
        [program, host, "-i", INVENTORY, "-b", "-m", "ansible.builtin.raw", "-a", script],
        cwd=TOP, env=SHELL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split("\n", 1)[1].strip()


def wait(seconds: float, what: str, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(AssertionError, IndexError):
            if ready():
                return
        time.sleep(0.5)
    raise AssertionError(f"waited {seconds:.0f} s in vain for {what}")


def engine(host: str = "one") -> str:
    return sh(host, "basename $(readlink /opt/engineering-loop/current)")


def timer(host: str = "one") -> list[str]:
    return sh(host, f"systemctl is-active {UNIT}.timer; systemctl is-enabled {UNIT}.timer; true").split()


ON, OFF = ["active", "enabled"], ["inactive", "disabled"]
GOOD, NEXT = stage["from"], stage["to"]


def a_rollout() -> None:
    """One apply builds, switches, proves and schedules; a second one changes nothing."""
    arrange()
    pin(GOOD)
    play("apply.yml", "-l", "one", "-e", CANARY)
    assert (engine(), timer()) == (GOOD, ON)
    said = play("apply.yml", "-l", "one", "-e", CANARY)
    assert " changed=0 " in said, said[-300:]


def a_slow_build() -> None:
    """The forge takes its time: what is done and for how long is told meanwhile, and that nothing hangs."""
    fault = {"kind": "slow", "seconds": 9, "path": "engineering-loop.*/git-upload-pack", "times": 1}
    requests.post(f"{stage['url']}/_forge/faults", json=fault, timeout=30).raise_for_status()
    pin(NEXT)
    process = subprocess.Popen(
        command("apply.yml", "-l", "one"), cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        stdin=subprocess.DEVNULL, env=SHELL,
    )  # fmt: skip
    assert process.stdout
    lines = [(time.monotonic(), line) for line in process.stdout]
    assert process.wait() == 0, lines[-40:]
    while_it_ran = [moment for moment, line in lines if "Build and activate the pinned engine" in line]
    gaps = [after - before for before, after in itertools.pairwise(while_it_ran)]
    assert len(gaps) >= 2 and max(gaps) < LONGEST, (gaps, lines)
    told = [
        line for _moment, line in lines if re.match(r"one \| Build and activate .*, \d+ s: fetching the engine", line)
    ]
    assert told and NEXT in told[0], lines
    assert sh("one", "ls /run/engineering-loop-*.progress 2>/dev/null; true") == ""
    pin(GOOD)
    play("apply.yml", "-l", "one")


def changed(said: str) -> list[str]:
    """The tasks of the role that changed something, or would, but the timer's: it is held by whoever changes first."""
    tasks = [part.split("] *", 1) for part in said.split("TASK [as215932.engineering_loop.engineering_loop : ")[1:]]
    return [name for name, more in tasks if "changed: [" in more and not name.startswith("Enable the timer")]


def by_its_tags() -> None:
    """Each brings what it needs, as check mode foretold. No cycle is refused for it, and nothing is left to apply."""
    arrange(approved=False)
    for number, tag in enumerate(("policy", "service"), 5):
        pin(GOOD, engineering_loop_policy_overlay={"defaults": {"max_changed_files": number}})
        foretold = play("apply.yml", "-l", "one", "--tags", tag, "--check")
        assert "The timer would be off: nobody has seen what this changes at work" in foretold, foretold[-2000:]
        assert timer() == (ON if tag == "policy" else OFF)
        said = play("apply.yml", "-l", "one", "--tags", tag)
        assert "The timer is off: the policy changed after the proof of" in said, said[-2000:]
        assert changed(said) == changed(foretold) and "Write the gate policy" in changed(said), said
        assert timer() == OFF
        sh("one", f"systemctl start {UNIT}.service")
        account = json.loads(sh("one", "cat $(ls /var/lib/engineering-loop/cycles/*.json | tail -1)"))
        assert account["outcome"] == "idle", account
        again = play("apply.yml", "-l", "one")
        assert " changed=0 " in again and "The timer is off" in again, again[-2000:]
    pin(GOOD)
    said = play("apply.yml", "-l", "one")  # proven before
    assert "The timer is on, next at 20" in said and timer() == ON, said[-2000:]


def what_is_left_on_the_forge() -> None:
    """It is told, and done where that is wanted."""
    arrange()
    tidy = {"repo": "AS215932/network-operations", "issue": 235, "cleanup": True}
    pin(GOOD, engineering_loop_service_timeout=3000)
    foretold = play("apply.yml", "-l", "one", "-e", CANARY, "--check")
    assert "the docs canary would run" in foretold, foretold[-2000:]
    assert "The timer would be on, once the canary has passed" in foretold, foretold[-2000:]
    said = play("apply.yml", "-l", "one", "-e", CANARY)
    assert changed(said) == changed(foretold) and "The timer is on" in said, said[-2000:]
    url = f"{stage['url']}/AS215932/network-operations"
    assert f"Next: left to tidy up on the forge: close {url}/pull/{max(pulls())}, delete hyrule-feature/" in said, said[
        -2000:
    ]
    assert f"take loop:approved off {url}/issues/235; engineering_loop_canary.cleanup: true does it" in said, said
    pin(GOOD, engineering_loop_service_timeout=3000, engineering_loop_canary=tidy)
    said = play("apply.yml", "-l", "one", "-e", CANARY)
    assert f"Tidied up on the forge: closed {url}/pull/{max(pulls())}, deleted hyrule-feature/" in said, said[-2000:]
    said = play("apply.yml", "-l", "one", "-e", CANARY)
    assert " changed=0 " in said and "on the forge" not in said, said[-2000:]
    pin(GOOD)
    play("apply.yml", "-l", "one")


def a_bad_one() -> None:
    """It goes back by itself, says why and what next, and the second host never sees it."""
    arrange()
    pin(BAD)
    said = play("apply.yml", "-e", CANARY, fails=True)
    for words in (
        "the docs canary failed at outcome: expected published; seen: error (the gateway opens drafts only: --draft",
        f"Went back to engine {GOOD} with its policy and unit, proven by the docs canary",
        "The timer is on, next at 20",
        f"The inventory still pins {BAD}",
        f"as215932.engineering_loop.bump -l one -e to={GOOD} -e allow_downgrade=true",
    ):
        assert words in said, (words, said[-3000:])
    assert said.count("the docs canary failed at outcome: expected published") == 1, said[-3000:]
    assert said.count("The inventory still pins") == said.count("The timer is") == 1, said[-3000:]
    assert (engine(), timer()) == (GOOD, ON)
    assert sh("two", "ls -d /opt/engineering-loop /etc/engineering-loop 2>/dev/null; id loop 2>/dev/null; true") == ""


def the_timer_runs_what_is_proven() -> None:
    arrange()
    override = f"/run/systemd/system/{UNIT}.timer.d"
    now = r"[Timer]\nOnCalendar=\nOnActiveSec=1\nRandomizedDelaySec=0\n"
    sh("one", f"mkdir -p {override} && printf '{now}' > {override}/now.conf && systemctl daemon-reload")
    sh("one", f"rm -f /var/lib/engineering-loop/cycles/*.json; systemctl restart {UNIT}.timer")
    cycles = "cat /var/lib/engineering-loop/cycles/*.json"
    wait(300, "a cycle of the timer's", lambda: '"ended": "' in sh("one", cycles))
    account = json.loads(sh("one", cycles))
    assert (account["trigger"], account["outcome"], account["engine"]["sha"]) == ("timer", "published", GOOD), account
    sh("one", f"rm -r {override}; systemctl daemon-reload; systemctl restart {UNIT}.timer")


def killed_between_switch_and_canary() -> None:
    """The timer is held meanwhile, and the next apply goes on where it stopped."""
    arrange()
    pin(NEXT)
    killed("TASK .*Write the gate policy", "-l", "one", "-e", CANARY)
    assert (engine(), timer()) == (NEXT, OFF)
    said = play("status.yml", "-l", "one", fails=True)
    assert "one: under_way What the apply of 20" in said, said
    said = play("apply.yml", "-l", "one", "-e", CANARY)
    assert (engine(), timer()) == (NEXT, ON)


def rolled_back() -> None:
    """One command; and the next apply says what it brings back."""
    said = play("rollback.yml", "-l", "one", "-e", "why='its pages are empty'", "-e", "pin=true", fails=True)
    assert f"Went back from {NEXT} to {GOOD} with its policy and unit, proven by" in said, said
    assert f"THE INVENTORY STILL PINS {NEXT}: no file in host_vars or group_vars beside" in said, said
    assert "The timer is on, next at 20" in said and (engine(), timer()) == (GOOD, ON), said
    again = play("rollback.yml", "-l", "one")
    assert "Nothing to do" in again and " changed=0 " in again and f"The inventory still pins {NEXT}" in again, again
    said = play("rollback.yml", "-l", "one", "-e", "pin=true", "-e", f"engineering_loop_pin_file={pins}")
    assert f"{pins} pins {GOOD} now" in said and GOOD in pins.read_text(encoding="utf-8"), said
    pin(NEXT)
    said = play("apply.yml", "-l", "one", "-e", CANARY)
    assert f"ENGINE {NEXT} was rolled back from at 20" in said and "its pages are empty" in said, said
    assert (engine(), timer()) == (NEXT, ON)  # proven already: no cycle was spent


def killed_during_the_canary() -> None:
    """The canary goes on without its playbook. The next apply waits for its verdict and spends no second cycle."""
    arrange("pi: sleep 6")
    before = pulls()
    pin(NEXT, engineering_loop_service_timeout=3500)
    killed(JOURNAL, "-l", "one", "-e", CANARY)
    assert timer() == OFF
    play("apply.yml", "-l", "one", "-e", CANARY)
    assert (engine(), timer(), len(pulls())) == (NEXT, ON, len(before) + 1)


def killed_and_rebooted() -> None:
    """A bad version, the operator's machine gone in the canary, then the host as well: the next apply goes back."""
    arrange("pi: sleep 600")
    pin(BAD)
    killed(JOURNAL, "-l", "one", "-e", CANARY)
    born = "cut -d' ' -f22 /proc/1/stat"
    before = sh("one", born)
    sh("one", "systemctl reboot --no-block; true")
    wait(300, "the host to be up again", lambda: sh("one", born) not in ("", before))
    wait(300, "systemd", lambda: "inactive" in timer())
    assert (engine(), timer()) == (BAD, OFF)
    arrange(approved=False)
    said = play("apply.yml", "-l", "one", "-e", CANARY, fails=True)
    assert "does not have the label loop:approved" in said and f"Went back to engine {NEXT}" in said, said[-3000:]
    assert (engine(), timer()) == (NEXT, ON)


def nothing_to_go_back_to() -> None:
    """A host whose first version fails is left to be looked at, with the timer held."""
    arrange()
    pin(BAD)
    said = play("apply.yml", "-l", "two", "-e", CANARY, fails=True)
    assert "Nothing was gone back to: nothing that was proven before is on this host" in said, said[-3000:]
    assert "The timer is off" in said and timer("two") == OFF


BAD = bad_engine()
CHAPTERS = (
    a_rollout,
    a_slow_build,
    by_its_tags,
    what_is_left_on_the_forge,
    a_bad_one,
    the_timer_runs_what_is_proven,
    killed_between_switch_and_canary,
    rolled_back,
    killed_during_the_canary,
    killed_and_rebooted,
    nothing_to_go_back_to,
)
tell(
    CHAPTERS,
    long=(a_slow_build, by_its_tags, what_is_left_on_the_forge, killed_during_the_canary, nothing_to_go_back_to),
)
