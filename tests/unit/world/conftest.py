# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The world of the tests is itself tested here: the forge on a free port, gh, pi and the reference engine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "world"))

from forge import Running, running
from forge_client import Client, environment_of


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "forge") as served:
        yield served


@pytest.fixture
def client(forge: Running, tmp_path: Path) -> Client:
    return Client(forge, environment_of(forge, tmp_path))
