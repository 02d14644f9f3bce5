# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The worlds that the tests of worktrees ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.files import remove_tree
from worlds import World, of_nobodys, swept


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A repository of ours, and the directory of its runs."""
    yield World(tmp_path)
    remove_tree(str(tmp_path))  # deeper than pytest's own cleaning can go


@pytest.fixture
def shared() -> Iterator[World]:
    """The same of an unprivileged user's."""
    with of_nobodys(worktree=False) as world:
        yield world


@pytest.fixture
def worked() -> Iterator[World]:
    """The same of an unprivileged user's, with a worktree in it."""
    with of_nobodys(worktree=True) as world:
        yield world


@pytest.fixture
def kept(world: World) -> dict[str, Any]:
    """A worktree with work in it, put aside."""
    world.worktree()
    thing: dict[str, Any] = swept(world)["quarantined"][0]
    return thing
