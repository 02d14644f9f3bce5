# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A gateway and the forge behind it, for all tests of a module that ask for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gated import SEED, Cycle, Door, Running, door, running


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The local forge."""
    with running(tmp_path_factory.mktemp("forge") / "root", seed=SEED) as found:
        yield found


@pytest.fixture(scope="module")
def shared(forge: Running) -> Iterator[Door]:
    """A host whose gateway leads to it."""
    with door(forge) as found:
        yield found


@pytest.fixture
def gate(shared: Door) -> Iterator[Door]:
    """The same, and what a test left on the forge is closed after it."""
    yield shared
    shared.close_all()


@pytest.fixture
def ours(gate: Door) -> Iterator[Cycle]:
    """A cycle that took an issue."""
    with gate.cycle(gate.issue()) as found:
        yield found
