# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Of two applies at once the later one goes on, and the one before it is told so at its next step."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import apply_run


def run_of(tmp_path: Path, name: str, by: str = "eva") -> dict[str, str]:
    return {"id": name, "by": by, "file": str(tmp_path / "loop.applies")}


def test_the_later_one_goes_on(tmp_path: Path) -> None:
    first, second = run_of(tmp_path, "1"), run_of(tmp_path, "2", "max")
    apply_run.still_wanted(first)
    apply_run.still_wanted(first)
    apply_run.still_wanted(second)
    for _again in range(2):
        with pytest.raises(LoopError, match=r"^another apply, by max, began at 2\S+, while this one.* run this again"):
            apply_run.still_wanted(first)
        apply_run.still_wanted(second)
    apply_run.still_wanted(run_of(tmp_path, "3"))  # after both of them


def test_check_mode_and_a_module_by_itself_note_nothing(tmp_path: Path) -> None:
    apply_run.still_wanted(run_of(tmp_path, "1"), check=True)
    apply_run.still_wanted(None)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"id": 1}]', "7"])
def test_what_cannot_be_understood_stops_nobody(tmp_path: Path, text: str) -> None:
    run = run_of(tmp_path, "1")
    Path(run["file"]).write_text(text, encoding="utf-8")
    apply_run.still_wanted(run)
    apply_run.still_wanted(run)


def test_not_all_of_them_are_remembered(tmp_path: Path) -> None:
    for number in range(apply_run.REMEMBERED + 5):
        apply_run.still_wanted(run_of(tmp_path, str(number)))
    assert Path(tmp_path / "loop.applies").read_text(encoding="utf-8").count('"id"') == apply_run.REMEMBERED


def test_what_goes_with_the_loop_is_what_its_role_has_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    role = Path(__file__).parents[5] / "roles/engineering_loop/tasks/main.yml"
    assert f'file: "{apply_run.files("{{ engineering_loop_unit }}")[0]}"' in role.read_text(encoding="utf-8")
    monkeypatch.setattr(apply_run, "DIRECTORY", str(tmp_path))
    apply_run.still_wanted(run_of(tmp_path, "1"))
    assert sorted(apply_run.files("loop")) == sorted(map(str, tmp_path.iterdir()))


def test_while_one_works_the_other_waits_and_then_goes_on(tmp_path: Path) -> None:
    """Whatever the one was at when the later one came, it is done before the later one does the same."""
    first, second = run_of(tmp_path, "1"), run_of(tmp_path, "2", "max")
    did: list[str] = []

    def later() -> None:
        with apply_run.step(second):
            did.append("second")

    with apply_run.step(first):
        other = threading.Thread(target=later)
        other.start()
        other.join(0.5)
        did.append("first")
    other.join(10)
    assert did == ["first", "second"]
    with pytest.raises(LoopError, match="another apply, by max"), apply_run.step(first):
        did.append("first again")
    assert did == ["first", "second"]


def test_nobody_waits_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply_run, "WAIT", 0)
    why = "another apply has gone on for 0 s: wait for its end"
    with apply_run.step(run_of(tmp_path, "1")), pytest.raises(LoopError, match=why):
        apply_run.still_wanted(run_of(tmp_path, "2"))
    apply_run.still_wanted(run_of(tmp_path, "2"))


def test_one_that_looks_waits_for_a_step_and_begins_only_where_it_says_so(tmp_path: Path) -> None:
    first, second = run_of(tmp_path, "1"), run_of(tmp_path, "2", "max")
    apply_run.still_wanted(first)
    with apply_run.beginning(second):
        pass  # it has nothing to do
    apply_run.still_wanted(first)
    did: list[str] = []

    def later() -> None:
        with apply_run.beginning(second) as begin:
            did.append("looked")
            begin()

    with apply_run.step(first):
        other = threading.Thread(target=later)
        other.start()
        other.join(0.5)
        did.append("first")
    other.join(10)
    assert did == ["first", "looked"]
    with pytest.raises(LoopError, match="another apply, by max"):
        apply_run.still_wanted(first)
    apply_run.still_wanted(second)
    with apply_run.beginning(None) as begin:
        begin()
