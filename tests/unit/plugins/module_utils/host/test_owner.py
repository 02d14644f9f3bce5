# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A state directory is one host's: its own mark is fine, another's is a refusal that says what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import owner


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "machine-id"
    path.write_text(f"{'a' * 32}\n", encoding="utf-8")
    monkeypatch.setattr(owner, "MACHINE_ID", str(path))
    return path


def test_nobodys_and_ones_own(tmp_path: Path, machine: Path) -> None:
    assert owner.problem(str(tmp_path)) == owner.problem(str(tmp_path / "none")) == ""
    (tmp_path / owner.FILE).write_text(owner.mark(), encoding="utf-8")
    assert owner.problem(str(tmp_path)) == ""
    owner.check(str(tmp_path))


def test_anothers(tmp_path: Path, machine: Path) -> None:
    (tmp_path / owner.FILE).write_text(owner.mark(), encoding="utf-8")
    machine.write_text(f"{'b' * 32}\n", encoding="utf-8")
    with pytest.raises(LoopError) as caught:
        owner.check(str(tmp_path))
    assert re.search(rf"another host, \S+: two hosts.*_state_dir.*rm {tmp_path}/.host$", str(caught.value))


def test_the_id_itself_is_not_written(machine: Path) -> None:
    assert "a" * 32 not in owner.mark() and re.fullmatch(r"[0-9a-f]{32} \S+\n", owner.mark())


@pytest.mark.parametrize("known", ["", "uninitialized\n"])
def test_a_machine_without_an_id_refuses_nothing(tmp_path: Path, machine: Path, known: str) -> None:
    (tmp_path / owner.FILE).write_text(owner.mark(), encoding="utf-8")
    machine.write_text(known, encoding="utf-8")
    assert owner.mark() == owner.problem(str(tmp_path)) == ""


def test_what_somebody_else_wrote_there_is_harmless(tmp_path: Path, machine: Path) -> None:
    (tmp_path / owner.FILE).write_bytes(b"\xff\x1b[31m evil\x07\n")
    told = owner.problem(str(tmp_path))
    assert "another host, evil" in told and "\x07" not in told and "\x1b" not in told
    (tmp_path / owner.FILE).unlink()
    (tmp_path / owner.FILE).symlink_to(machine)
    with pytest.raises(LoopError):
        owner.problem(str(tmp_path))
