# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `loop_cell`: what a task shows of it. systemd alone is played: a command runs here as it is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import cells, memory
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cycle import enter
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import processes
from ansible_collections.as215932.engineering_loop.plugins.modules import loop_cell
from celled import LOOP, NAME, NEEDS_ROOT, Box, box, git, give, shape, write

pytestmark = NEEDS_ROOT
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def host() -> Iterator[Box]:
    with box() as found:
        yield found


@pytest.fixture
def run(host: Box, task: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Run:
    @contextlib.contextmanager
    def opened(
        _config: Any, cell: cells.Cell, command: Sequence[str], *, as_engine: bool = False
    ) -> Iterator[list[str]]:
        yield ["env", f"--chdir={cell.part('runs')}", f"AS_ENGINE={as_engine}", *command]

    monkeypatch.setattr(enter, "opened", opened)
    return lambda **options: task(loop_cell, config=host.config_file, **options)


def test_a_look(host: Box, run: Run) -> None:
    cell = host.kept(NAME)
    worktree = Path(cell.part("runs"), "issue_x_1/worktrees/app-issue_x_1")
    git(host.top, "init", "-q", str(worktree))
    write(worktree, {"new.md": "x"})
    write(Path(cell.part("runs")), {"issue_x_1/state/run.json": "{}"})
    answer = run(what=NAME[-8:])
    assert (answer["changed"], answer["id"], answer["exit_status"]) == (False, NAME, 0)
    assert f"{worktree}:" in answer["lines"] and "?? new.md" in answer["lines"]
    assert answer["lines"][-1] == f"state file: {cell.part('runs')}/issue_x_1/state/run.json"


def test_a_command(host: Box, run: Run) -> None:
    host.kept(NAME)
    foretold = run(what=NAME, run=["sh", "-c", "touch x"], _ansible_check_mode=True)
    assert foretold["changed"] and foretold["lines"] == [f"would run in {NAME}: sh -c touch x"]
    answer = run(what=NAME, run=["sh", "-c", r"printf '\033[2J%s\n' $AS_ENGINE; exit 3"], as_engine=True)
    assert (answer["changed"], answer["exit_status"], answer["lines"]) == (True, 3, ["\\x1b[2JTrue"])
    assert "took longer than 1 s" in run(what=NAME, run=["sleep", "9"], timeout=1)["msg"]


def test_memory_is_swapped(host: Box, run: Run) -> None:
    assert "there is no earlier memory" in run(what="memory")["msg"]
    host.remember({"a.md": "old"})
    cell = host.cell()
    write(Path(cell.part("memory")), {"a.md": "new"})
    give(cell.part("memory"), LOOP)
    memory.take_back(host.config, cell.part("memory"))
    foretold = run(what="memory", _ansible_check_mode=True)
    assert foretold["changed"] and shape(host.memory) == {"a.md": "new"}
    answer = run(what="memory")
    assert answer["changed"] and answer["id"] == "memory" and shape(host.memory) == {"a.md": "old"}


def test_memory_stays_while_a_cycle_would_exchange_it(host: Box, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    host.remember({"a.md": "bad"})
    write(Path(f"{host.memory}.previous"), {"a.md": "good"})
    monkeypatch.setattr(processes, "cycle_in_progress", lambda _lock, unit: f"{unit}.service is active")
    for check in (False, True):
        told = run(what="memory", _ansible_check_mode=check)["msg"]
        assert "service is active) and exchanges the memory at its end" in told and ".pause -l HOST -e now=true" in told
    assert shape(host.memory) == {"a.md": "bad"}


def test_without_an_earlier_memory_check_mode_says_so_too(host: Box, run: Run) -> None:
    assert "there is no earlier memory" in run(what="memory", _ansible_check_mode=True)["msg"]


def test_bad_input_is_one_line(host: Box, run: Run) -> None:
    host.kept(NAME)
    for options, words in (
        (
            {"what": "none"},
            "none: there is no such cell; ansible-playbook -i INVENTORY as215932",
        ),
        ({"what": NAME, "run": ["ls"], "to": "x"}, "-e run= and -e to= cannot be had at once"),
        ({"what": NAME, "to": "a..b"}, "check-ref-format"),
        ({"what": NAME, "to": "rescue/x"}, "cannot be looked through"),
    ):
        answer = run(**options)  # type: ignore[arg-type]
        assert answer["failed"] and words in answer["msg"] and "\n" not in answer["msg"]
    os.unlink(host.config_file)
    assert "this host was not deployed yet" in run(what=NAME)["msg"]
