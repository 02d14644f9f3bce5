# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host is used to, and our programs are not."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import habits
from ansible_collections.as215932.engineering_loop.plugins.modules import host_files

COLLECTIONS = Path(__file__).resolve().parents[5] / ".collections"
PLUGINS = Path(__file__).resolve().parents[5] / "plugins"
MODULES = sorted((PLUGINS / "modules").glob("*.py"))


def put_aside(*arguments: str, umask: int = 0o077, **environment: str) -> list[str]:
    """What a process that put them aside finds: umask, language, what a program says of a missing file."""
    script = (
        f"from {habits.__name__} import put_habits_aside as put; import os, subprocess, sys; put(*sys.argv[1:]);"
        "print(f'{os.umask(0):03o}', os.environ['LC_ALL'], os.environ['LANG'], 'LANGUAGE' in os.environ)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": str(COLLECTIONS), **environment}, umask=umask,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split()


def test_umask_and_language_of_the_host_end_here() -> None:
    expected = "022" if os.geteuid() == 0 else "077"  # whoever is not root makes files for nobody else
    assert put_aside("2.19.3", LANG="de_DE.UTF-8", LANGUAGE="de", LC_ALL="de_DE") == [
        expected,
        "C.UTF-8",
        "C.UTF-8",
        "False",
    ]


@pytest.mark.parametrize("version", ["2.9.27", "2.16.19", "2.18.0rc1"])
def test_an_ansible_that_is_too_old(version: str) -> None:
    before = os.umask(0o077), os.umask(0o077)
    try:
        with pytest.raises(LoopError, match=rf"needs ansible-core 2.19 or later .* this is {version}: nothing was"):
            habits.put_habits_aside(version)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before[0])


def test_a_module_refuses_it_and_writes_nothing(task: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    entries = [{"path": str(tmp_path / "f"), "content": ""}]
    answer = task(host_files, entries=entries, _ansible_version="2.18.6")
    assert answer["failed"] and "ansible-core 2.19" in answer["msg"]
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_every_module_starts_with_it(path: Path) -> None:
    """Also a Python that is too old for the core comes to the line that says so."""
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    if not any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
        assert (PLUGINS / "action" / path.name).exists()  # it is documentation: all of it is done on the controller
        return
    ours = [
        (node.module, [name.name for name in node.names])
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("ansible_collections.as215932")
    ]
    assert ours[0] == (habits.__name__, ["put_habits_aside"])
    used = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]  # called, or handed to what calls it
    assert used.count("put_habits_aside") == 1


def test_it_is_read_by_every_python_that_ansible_goes_to() -> None:
    source = (PLUGINS / "module_utils/host/habits.py").read_text()
    ast.parse(source, feature_version=(3, 8))
    assert source.index("SystemExit(1)") < source.index("from ..base.errors")
