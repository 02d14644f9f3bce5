# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Our code on the host, compiled: once, never of another source, and nothing that has no source any more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import bytecode


@pytest.fixture
def package(tmp_path: Path) -> Path:
    package = tmp_path / "core"
    (package / "room").mkdir(parents=True)
    for name, text in {"__init__.py": "", "room/__init__.py": "", "room/one.py": "print('one')\n"}.items():
        (package / name).write_text(text, encoding="utf-8")
    return package


def said(package: Path) -> str:
    program = f"import sys; sys.path.insert(0, {str(package.parent)!r}); import core.room.one"
    done = subprocess.run([sys.executable, "-IB", "-c", program], capture_output=True, text=True, check=True)
    return done.stdout


def test_once(package: Path) -> None:
    assert bytecode.bring(str(package), check=True) and not list(package.rglob("*.pyc"))
    assert bytecode.bring(str(package)) and len(list(package.rglob("*.pyc"))) == 3
    assert not bytecode.bring(str(package)) and not bytecode.bring(str(package), check=True)
    assert said(package) == "one\n"


def test_a_source_that_was_changed_behind_its_back_is_what_runs(package: Path) -> None:
    bytecode.bring(str(package))
    source = package / "room/one.py"
    before = source.stat()
    source.write_text("print('two')\n", encoding="utf-8")
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))  # the same size, and the same time
    assert said(package) == "two\n"
    assert bytecode.bring(str(package), check=True) and bytecode.bring(str(package))
    assert said(package) == "two\n" and not bytecode.bring(str(package))


def test_what_has_no_source_any_more_goes(package: Path) -> None:
    bytecode.bring(str(package))
    (package / "room/one.py").unlink()
    assert bytecode.bring(str(package)) and not list(package.rglob("one*"))


def test_code_that_cannot_be_compiled_is_one_line(package: Path) -> None:
    (package / "room/one.py").write_text("print(\n", encoding="utf-8")
    with pytest.raises(LoopError, match=r"core cannot be compiled: "):
        bytecode.bring(str(package))
