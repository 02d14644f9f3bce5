# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stage that the code on the host does, in real playbooks: as when the module is sent, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.managed_files import converge
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import core_files
from ansible_collections.as215932.engineering_loop.plugins.module_utils.stages import step
from celled import NEEDS_ROOT

ROOT = Path(__file__).resolve().parents[4]
MODULE = "as215932.engineering_loop.host_files"
pytestmark = NEEDS_ROOT  # what is installed is root's


@pytest.fixture
def lib_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        converge(core_files.entries(f"{place}/lib"))
        yield Path(place, "lib")


def start(place: Path, lib_dir: Path | str, args: dict[str, Any], *options: str) -> subprocess.Popen[str]:
    task = {"name": "Write it", MODULE: args, "register": "found", "failed_when": False}
    show = {"ansible.builtin.debug": {"msg": "RESULT {{ found | to_json }} END"}}
    host = {"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"}
    host |= {"engineering_loop_lib_dir": str(lib_dir)} if lib_dir else {}
    (place / "hosts.json").write_text(json.dumps({"all": {"hosts": {"one": host}}}), encoding="utf-8")
    play = {"hosts": "all", "gather_facts": False, "tasks": [task, show]}
    (place / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
    own = {"ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "ANSIBLE_NOCOLOR": "1"}
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-vvv", "-i", "hosts.json", "play.yml", *options],
        cwd=place, env={**os.environ, **own}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def ended(play: subprocess.Popen[str]) -> tuple[dict[str, Any], bool]:
    """What the task has answered, and whether the module was sent for it."""
    said = play.communicate(timeout=300)[0]
    found = re.search(r'"msg": "RESULT (.*) END"', said)
    assert found, said
    result: dict[str, Any] = json.loads(json.loads(f'"{found[1]}"'))
    ansibles = ("failed_when_result", "failed_when_suppressed_exception")
    for key in ("invocation", "failed", "exception", "warnings", "deprecations", *ansibles):
        result.pop(key, None)
    return result, "AnsiballZ" in said


def both(place: Path, lib_dir: Path, args: dict[str, Any], *options: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The answers of the code on the host and of the module, each to a place that is as the other one's was."""
    answers = []
    for where, sent in ((lib_dir, False), ("", True)):
        for path in place.glob("made*"):
            path.unlink()
        result, was_sent = ended(start(place, where, args, *options))
        assert was_sent == sent
        answers.append(result)
    return answers[0], answers[1]


def asked_of(play: subprocess.Popen[str]) -> tuple[int, Path]:
    """The Python that does the task, once it tells what it does, and where it tells that."""
    while play.poll() is None:
        for status in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                started_like = (status.parent / "cmdline").read_bytes() == b"/usr/bin/python3\0-I\0-\0"
                told = [os.readlink(one) for one in (status.parent / "fd").iterdir()] if started_like else []
                if told := [path for path in told if path.endswith(".progress")]:
                    session = int(status.read_text().rpartition(") ")[2].split()[3])
                    if f"PPid:\t{play.pid}\n" in Path(f"/proc/{session}/status").read_text():
                        return int(status.parent.name), Path(told[0])
        time.sleep(0.2)
    raise AssertionError(play.communicate()[0])


@pytest.mark.parametrize("options", [[], ["--check", "--diff"], ["--diff"]], ids=["", "check and diff", "diff"])
def test_it_answers_as_the_module_does(tmp_path: Path, lib_dir: Path, options: list[str]) -> None:
    args = {"entries": [{"path": f"{tmp_path}/made", "content": "one\n"}]}
    here, sent = both(tmp_path, lib_dir, args, *options)
    assert here == sent and here["changed"] and ("diff" in here) == ("--diff" in options)
    assert (tmp_path / "made").exists() != ("--check" in options)
    here, sent = both(tmp_path, lib_dir, {"entries": [{"path": f"{tmp_path}/none/f", "content": ""}]})
    assert here == sent and here["msg"]


@pytest.mark.parametrize(
    "change",
    [
        lambda core: (core / "stages/step.py").write_text("print('begun')\n", encoding="utf-8"),
        lambda core: (core / "stages/step.py").unlink(),
        lambda core: core.chmod(0o777),
    ],
    ids=["changed", "gone", "everybody's"],
)
def test_code_that_is_not_ours_is_not_asked(tmp_path: Path, lib_dir: Path, change: Callable[[Path], object]) -> None:
    change(lib_dir / core_files.PACKAGE)
    result, sent = ended(start(tmp_path, lib_dir, {"entries": [{"path": f"{tmp_path}/made", "content": "one\n"}]}))
    assert sent and result["changed"] and (tmp_path / "made").read_text() == "one\n"


def test_options_that_are_wrong_are_told_by_the_module(tmp_path: Path, lib_dir: Path) -> None:
    for args, told in (
        ({"entries": [], "more": 3}, "Unsupported parameters"),
        ({"entries": [{"path": "/x", "state": "odd"}]}, "value of state must be one of"),
        ({"entries": [{"path": "/x"}]}, "state is file but all of the following are missing: content"),
    ):
        result, sent = ended(start(tmp_path, lib_dir, args))
        assert sent and told in result["msg"]


def test_one_that_is_killed_has_failed_and_is_not_begun_again(tmp_path: Path, lib_dir: Path) -> None:
    run = {"id": "a", "by": "x", "file": f"{tmp_path}/applies"}
    args = {"entries": [{"path": f"{tmp_path}/made", "content": ""}], "run": run}
    with open(f"{tmp_path}/applies.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # so it waits
        play = start(tmp_path, lib_dir, args)
        process, progress = asked_of(play)
        os.kill(process, signal.SIGKILL)
        progress.unlink()
    result, sent = ended(play)
    assert not sent and "No start of json" in result["msg"] and not (tmp_path / "made").exists()


def test_a_fault_of_ours_is_told_with_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "WORK", {"identity": ({"entries": {}}, lambda given, how: given["none"])})
    said = step.on_host({"module": "host_files", "check": False, "diff": False, "options": {}})
    result = json.loads(said)["result"]
    assert result["failed"] and result["msg"] == "KeyError: 'none'"
    assert "in <lambda>" in result["module_stderr"]


def test_no_secret_is_in_the_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = "very\"secret'of it"
    for path in ("relative", f"{tmp_path}/{secret}"):
        entries = [{"path": path, "content": "x"}, {"path": f"{tmp_path}/{secret}/x", "content": secret}]
        given = {"module": "host_files", "check": False, "diff": True}
        said = step.on_host({**given, "options": {"entries": entries, "secrets": {"KEY": secret}}})
        assert capsys.readouterr().out == "begun\n"
        assert json.loads(said)["result"] and "secret" not in said.replace("********", ""), said
