# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator sees of a task while it runs: real playbooks against this machine, each line with its time."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from ansible_collections.as215932.engineering_loop.plugins.plugin_utils.watch import FIRST

ROOT = Path(__file__).resolve().parents[4]
POLICY = ROOT / "tests/world/reference_engine/engineering-loop-policy.yml"
OURS = "as215932.engineering_loop"
WATCHED = f"{OURS}.watched"
COMMAND = "ansible.builtin.command"
LONGEST = 15.0  # seconds without a word: 5 where nothing else runs


class Played(NamedTuple):
    status: int
    lines: list[tuple[float, str]]  # each with the seconds since the play began

    @property
    def text(self) -> str:
        return "\n".join(line for _moment, line in self.lines)

    def told(self, word: str) -> list[tuple[float, str]]:
        """The lines of progress that have the word."""
        return [(moment, line) for moment, line in self.lines if re.match(r"\w+ \| ", line) and word in line]


def start(tmp_path: Path, tasks: list[dict[str, Any]], *options: str, hosts: int = 1) -> subprocess.Popen[str]:
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory = {f"host{number}": here for number in range(1, hosts + 1)}
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": inventory}}), encoding="utf-8")
    play = {"hosts": "all", "gather_facts": False, "tasks": tasks}
    (tmp_path / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
    own = {"ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "ANSIBLE_NOCOLOR": "1", "PYTHONUNBUFFERED": "1"}
    # As in ansible.cfg: without it every task's headline would come first, and be a word as well.
    own["ANSIBLE_DISPLAY_SKIPPED_HOSTS"] = "false"
    own |= {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_CALLBACK_FORMAT_PRETTY": "0"}
    # Where the tests run in the background, control-C is off for them and for whatever they start.
    program = ["env", "--default-signal=INT", str(Path(sys.executable).with_name("ansible-playbook"))]
    return subprocess.Popen(
        [*program, "-i", "hosts.json", "play.yml", *options],
        cwd=tmp_path, env={**os.environ, **own}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def played(tmp_path: Path, tasks: list[dict[str, Any]], *options: str, hosts: int = 1) -> Played:
    began, lines = time.monotonic(), []
    with start(tmp_path, tasks, *options, hosts=hosts) as play:
        assert play.stdout
        for line in play.stdout:
            lines.append((time.monotonic() - began, line.rstrip()))
    done = Played(play.returncode, lines)
    assert "Traceback" not in done.text
    return done


def test_each_host_tells_its_time_and_its_step_and_the_result_is_the_modules(tmp_path: Path) -> None:
    slow = {
        "name": "Take long",
        WATCHED: {
            "module": COMMAND,
            "args": {"cmd": "sh -c 'echo {{ inventory_hostname }} began > $0; sleep 9; echo done' {{ file }}"},
            "look": "cat {{ file }}",
        },
        "vars": {"file": f"{tmp_path}/{{{{ inventory_hostname }}}}"},
        "register": "found",
    }  # fmt: skip
    done = played(tmp_path, [slow, {"ansible.builtin.debug": {"msg": "{{ found.stdout }}, {{ found.rc }}"}}], hosts=2)
    assert done.status == 0 and done.text.count('"msg": "done, 0"') == 2 and "changed=1" in done.text, done.text
    for host in ("host1", "host2"):
        times = [moment for moment, line in done.told("Take long") if line.startswith(f"{host} | Take long, ")]
        assert len(times) >= 2 and times[1] - times[0] < LONGEST, done.text
        assert re.search(rf"{host} \| Take long, \d+ s: {host} began", done.text), done.text


def test_what_is_over_soon_shows_nothing_and_what_is_secret_neither(tmp_path: Path) -> None:
    quick = {"name": "Be quick", WATCHED: {"module": COMMAND, "args": {"cmd": "true"}}}
    hidden = {
        "name": "Hide",
        "no_log": True,
        WATCHED: {"module": COMMAND, "args": {"cmd": "sleep 5"}},
    }
    done = played(tmp_path, [quick, hidden])
    assert done.status == 0 and not done.told("Hide"), done.text
    assert all(moment >= FIRST for moment, _line in done.told("Be quick")), done.text  # on a machine that is busy


def test_a_module_of_ours_says_what_it_waits_for_and_leaves_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as cycle:
        (tmp_path / "run.lock").write_text(json.dumps({"pid": cycle.pid}), encoding="utf-8")
        (tmp_path / "policy.yml").write_text("version: 1\n", encoding="utf-8")
        options = {"dest": f"{tmp_path}/policy.yml", "base": str(POLICY), "run_lock": f"{tmp_path}/run.lock"}
        task = {"name": "Write the policy", f"{OURS}.gate_policy": {**options, "unit": "", "wait": 10, "mode": "0640"}}
        foretold = played(tmp_path, [task], "--check")
        done = played(tmp_path, [task])
        cycle.kill()
    assert foretold.status == 0 and "changed=1" in foretold.text and not foretold.told("waiting"), foretold.text
    assert done.status == 2 and "a cycle is in progress" in done.text, done.text
    assert re.search(r"host1 \| Write the policy, \d+ s: waiting for a cycle to end \(", done.text), done.text
    assert (tmp_path / "policy.yml").read_text(encoding="utf-8") == "version: 1\n"
    left = glob.glob("/run/engineering-loop-*.progress")  # other tests have theirs meanwhile
    for path in left:
        with contextlib.suppress(FileNotFoundError):
            assert str(tmp_path) not in Path(path).read_text(encoding="utf-8")


def test_what_it_is_told_wrongly_is_one_error(tmp_path: Path) -> None:
    for options, told in (
        ({"args": {"cmd": "true"}}, "missing required arguments: module"),
        ({"module": COMMAND, "args": "true"}, "unable to convert to dict"),
        ({"module": COMMAND, "cmd": "true"}, "Unsupported parameters"),
    ):
        done = played(tmp_path, [{WATCHED: options}])
        assert done.status == 2 and told in done.text, done.text


def test_control_c_ends_it_at_once(tmp_path: Path) -> None:
    task = {"name": "Take long", WATCHED: {"module": COMMAND, "args": {"cmd": "sleep 60"}}}
    with start(tmp_path, [task]) as play:
        assert play.stdout
        line = next(line for line in play.stdout if "Take long, " in line)
        assert line.startswith("host1 | Take long, ")
        # ansible-playbook itself misses one in a hundred, whatever module runs: whoever presses it does so again then.
        for _time in range(4):
            play.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                play.wait(10)
                break
    assert play.returncode not in (None, 0, 2)


def test_in_the_background_it_is_followed_by_whoever_sent_it_there(tmp_path: Path) -> None:
    slow = {WATCHED: {"module": COMMAND, "args": {"cmd": "sleep 5"}}, "async": 60, "poll": 2}
    done = played(tmp_path, [{"name": "Take long", **slow}])
    assert done.status == 0 and "changed=1" in done.text and not done.told("Take long"), done.text


def test_every_module_of_ours_is_shown_while_it_runs() -> None:
    names = {kind: {path.name for path in (ROOT / "plugins" / kind).glob("*.py")} for kind in ("action", "modules")}
    assert names["action"] == names["modules"]
