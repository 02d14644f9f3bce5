# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The world of the tests is itself tested here: the forge on a free port, gh, pi and the reference engine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from forge import Running, running
from forge_client import Client, environment_of
from forge_store import Store


@pytest.fixture(scope="session")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("seeded") / "forge"
    Store(root).open()
    return root


@pytest.fixture
def forge(seeded: Path, tmp_path: Path) -> Iterator[Running]:
    shutil.copytree(seeded, tmp_path / "forge")
    with running(tmp_path / "forge") as served:
        yield served


@pytest.fixture
def client(forge: Running, tmp_path: Path) -> Client:
    return Client(forge, environment_of(forge, tmp_path))
