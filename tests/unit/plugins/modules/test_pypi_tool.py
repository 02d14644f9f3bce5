# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `pypi_tool`: what a task shows of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.modules import pypi_tool


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    """A tool that is installed in version 1.0."""
    (tmp_path / "tool-1.0/bin").mkdir(parents=True)
    (tmp_path / "tool").symlink_to("tool-1.0")
    return tmp_path / "tool"


def test_the_version_in_use_is_left_alone(task: Callable[..., dict[str, Any]], dest: Path) -> None:
    answer = task(pypi_tool, name="tool", version="1.0", dest=str(dest), python="/nowhere/python3")
    assert (answer["changed"], answer["before"], answer["after"]) == (False, "1.0", "1.0")
    assert answer["diff"] == {"before": "tool 1.0\n", "after": "tool 1.0\n"}


def test_check_mode_installs_nothing(task: Callable[..., dict[str, Any]], dest: Path, tmp_path: Path) -> None:
    for name, before in ((str(dest), "1.0"), (f"{tmp_path}/other", "")):
        answer = task(pypi_tool, name="tool", version="2.0", dest=name, _ansible_check_mode=True)
        assert (answer["changed"], answer["before"], answer["after"]) == (True, before, "2.0")
        assert answer["diff"] == {"before": f"tool {before or 'absent'}\n", "after": "tool 2.0\n"}
    assert sorted(os.listdir(tmp_path)) == ["tool", "tool-1.0"]


def test_a_failed_installation_is_one_line_and_leaves_the_old(task: Callable[..., dict[str, Any]], dest: Path) -> None:
    answer = task(pypi_tool, name="tool", version="2.0", dest=str(dest), python="/nowhere/python3")
    assert answer["failed"]
    assert answer["msg"].startswith("tool 2.0 cannot be installed: ")
    assert "\n" not in answer["msg"]
    assert os.readlink(dest) == "tool-1.0"


@pytest.mark.parametrize(
    ("name", "version"),
    [("tool", "latest"), ("tool", ">=1"), ("tool", "1.0 --pre"), ("tool", "1.0/../x"), ("tool", ""), ("tool", "1\n"),
     ("--index-url=http://evil", "1.0"), ("a b", "1.0"), ("../tool", "1.0"), ("tool[extra]", "1.0"), ("", "1.0")],
)  # fmt: skip
def test_only_a_name_and_an_exact_version(
    task: Callable[..., dict[str, Any]], dest: Path, name: str, version: str
) -> None:
    answer = task(pypi_tool, name=name, version=version, dest=str(dest), python="/nowhere/python3")
    assert answer["failed"]
    assert "is not a package name or an exact version such as" in answer["msg"]
