# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The local forge, and a host that is deployed beside it. A test file or room that needs more of one has its own.

Where coverage is measured, what the tests' children run counts as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import systemd
from deployed import SEED, Host, Running, deployed, running
from forks import counted


@pytest.fixture(scope="session", autouse=True)
def _children_count() -> Iterator[None]:
    with counted():
        yield


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The local forge; what one test leaves there is gone for the next that asks for a host."""
    with running(tmp_path_factory.mktemp("forge") / "root", seed=SEED) as forge:
        yield forge


@pytest.fixture
def host(tmp_path: Path, forge: Running, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host where everything is installed and nothing is proven, with its units in a directory of the test."""
    monkeypatch.setattr(systemd, "UNIT_DIR", str(tmp_path / "systemd"))
    return deployed(tmp_path, forge)
