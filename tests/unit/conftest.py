# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Unit tests import the collection by its name, from this checkout, and what they share from where it stands."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is. What must be quick says so in a test of its own.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

HERE = Path(__file__).resolve().parent
sys.path[:0] = [
    str(HERE.parents[1] / ".collections"),
    *(str(HERE.parent / name) for name in (".", "world")),
    str(HERE / "plugins"),
]


@pytest.fixture(autouse=True)
def within_a_day() -> None:
    """Much is counted by the day, and asked for again a moment later: no test begins right before midnight, UTC."""
    left = 86400 - time.time() % 86400
    if left < 20:
        time.sleep(left)


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A directory that other users may enter. pytest's own are below one that its next run closes to them again."""
    path = Path(tempfile.mkdtemp(prefix="loop-open-"))
    path.chmod(0o755)
    yield path
    subprocess.run(["rm", "-rf", str(path)], check=True)


@pytest.fixture
def task(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Call a module with options, in diff mode; what it answers."""
    from ansible.module_utils.testing import patch_module_args

    def call(module: ModuleType, **options: Any) -> dict[str, Any]:
        with patch_module_args({"_ansible_diff": True, **options}), pytest.raises(SystemExit):
            module.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return call
