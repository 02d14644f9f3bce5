# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository of engines, and hosts to bring them to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import releases
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release.wanted_version import Wanted
from engines import PYTHON, UV, Source, memory


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return Source(tmp_path_factory.mktemp("source") / "engine")


@pytest.fixture(scope="module")
def shas(source: Source) -> list[str]:
    return [source.commit(f"release {number}") for number in range(4)]


@pytest.fixture
def wanted(source: Source, shas: list[str]) -> Iterator[Wanted]:
    with memory() as path:
        yield Wanted(
            install_dir=str(path / "opt"), repo=str(source.path), python=PYTHON, uv=UV, smoke=[".venv/bin/engine"]
        )


@pytest.fixture
def anywhere(wanted: Wanted) -> Wanted:
    """The same, for commits on branches of their own."""
    return dataclasses.replace(wanted, branches=["*"])


@pytest.fixture(scope="module")
def installed(source: Source, shas: list[str]) -> Iterator[Wanted]:
    """A host with release 0, for tests that must leave it as it is."""
    with memory() as path:
        wanted = Wanted(
            install_dir=str(path / "opt"), repo=str(source.path), python=PYTHON, uv=UV, smoke=[".venv/bin/engine"]
        )
        releases.present(wanted, shas[0])
        yield wanted
