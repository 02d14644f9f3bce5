# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What fails in one turn of many is counted, and a turn that says nothing is no good one."""

from __future__ import annotations

import importlib.util
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parents[2] / "tools/again.py"


@pytest.fixture(scope="module")
def again() -> ModuleType:
    spec = importlib.util.spec_from_file_location("again", TOOL)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CHECK = """import pathlib, sys
turns = pathlib.Path("turns")
turns.write_text((turns.read_text() if turns.exists() else "") + "x")
assert sys.argv[1:] == ["lint", "unit"] and not sys.stdin.read()
if turns.read_text() == "xx":
    print("failed: molecule cells, pytest\\n7 passed, 2 failed")
    sys.exit(1)
print("\\n9 passed, 0 failed")
"""


@pytest.fixture
def checked(again: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkout whose check.py fails in its second turn. What a ctrl-C does is pytest's again afterwards."""
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(again, "ROOT", tmp_path)
    monkeypatch.setattr(again, "LOGS", tmp_path / ".cache/again")
    tools = tmp_path / "tests/tools"
    tools.mkdir(parents=True)
    (tools / "check.py").write_text(CHECK)
    yield tmp_path
    signal.signal(signal.SIGINT, before)


def test_what_failed_once_is_named(again: ModuleType, checked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert again.main(3, 1, ["lint", "unit"]) == 1
    said = capsys.readouterr().out
    assert "1 of 3: " in said and said.count("9 passed, 0 failed: nothing failed") == 2
    assert "s, 7 passed, 2 failed: molecule cells; pytest\n" in said
    assert "failed in 1 of 3: molecule cells; see .cache/again" in said and "failed in 1 of 3: pytest" in said
    assert "failed: molecule cells" in (checked / ".cache/again/2.log").read_text()


def test_all_turns_good(again: ModuleType, checked: Path) -> None:
    assert again.main(1, 0, ["lint", "unit"]) == 0


@pytest.mark.parametrize("said", ["", "Traceback\n", "3 passed, 0 failed\n"])
def test_a_turn_that_ends_without_a_word_has_failed(again: ModuleType, said: str) -> None:
    counts, failed = again.read(said, 137)
    assert failed == ["check.py ended with 137, and says of nothing that it failed"]
    assert counts in ("no counts", "3 passed, 0 failed")
    assert again.read("", 0)[1]
