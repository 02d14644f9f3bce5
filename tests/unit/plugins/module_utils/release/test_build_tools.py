# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What git dependencies may be built with: pinned lines, and names alone in a project."""

from __future__ import annotations

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import build_tools

DIGEST = "--hash=sha256:" + "0" * 64


def test_ours_are_pinned() -> None:
    assert build_tools.pinned(build_tools.OURS) == build_tools.pinned([])
    assert {"hatchling", "setuptools", "wheel", "flit-core", "poetry-core"} < {*build_tools.pinned([])}


def test_lines_as_a_file_has_them() -> None:
    given = [
        "# by uv",
        f"Flit_Core==3.9 {DIGEST}  # why",
        "a==1 ; python_version > '3' \\",
        f"    {DIGEST} \\",
        f" {DIGEST}",
        "",
    ]
    assert build_tools.pinned(given) == {
        "flit-core": f"Flit_Core==3.9 {DIGEST}",
        "a": f"a==1 ; python_version > '3'      {DIGEST}   {DIGEST}",
    }


@pytest.mark.parametrize(
    "line",
    [
        "hatchling", "hatchling==1.2", f"hatchling>=1 {DIGEST}", f"hatchling==1 {DIGEST[:-1]}", "--index-url https://x",
        f"x @ https://x/y.whl {DIGEST}", "-r /etc/passwd", f"hatchling==1.* {DIGEST}", "hatchling==1 --hash=md5:00",
    ],
)  # fmt: skip
def test_a_line_that_pins_nothing(line: str) -> None:
    with pytest.raises(LoopError, match=r"engineering_loop_build_tools holds .*must be lines such as"):
        build_tools.pinned([f"a==1 {DIGEST}", line])


def test_what_a_project_is_built_with() -> None:
    asked = ["hatchling", "setuptools>=61, <80", "wheel ; python_version < '3'", "x[a,b] ~= 1.0", "y==1.*", "z (>=2)"]
    text = f"[build-system]\nrequires = {asked}\n"
    assert build_tools.wanted_by(text, "x") == asked
    assert build_tools.wanted_by("", "x") == ["setuptools"]
    assert build_tools.wanted_by("[build-system]\nrequires = []", "x") == []


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ('["x @ https://evil/x.whl"]', "only packages of an index"),
        ('["--index-url=https://evil"]', "only packages"),
        ('["-r /etc/passwd"]', "only packages"),
        ('["a\\nb @ https://evil/x"]', "only packages"),
        ('["./here"]', "only packages"),
        ('["a ; x\\n-r /etc/passwd"]', "only packages"),
        ("1", "cannot be understood"),
        ("[", "cannot be understood"),
    ],
)
def test_a_project_that_asks_for_more_than_names(asked: str, why: str) -> None:
    with pytest.raises(LoopError, match=why):
        build_tools.wanted_by(f"[build-system]\nrequires = {asked}\n", "agent-core")


def test_a_tool_that_nobody_pinned() -> None:
    tools = build_tools.pinned([])
    assert build_tools.chosen(tools, ["Hatchling"], "x") == [tools["hatchling"]]
    with pytest.raises(LoopError, match="x is built with maturin, which engineering_loop_build_tools does not pin"):
        build_tools.chosen(tools, ["hatchling", "maturin"], "x")
