# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The forge and the deployed host that the tests of proofs share."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import systemd
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import (
    cycle_run,
)
from deployed import SEED, Host, Running, deployed, running


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("forge") / "root", seed=SEED) as forge:
        yield forge


@pytest.fixture
def host(tmp_path: Path, forge: Running, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = deployed(tmp_path, forge)
    monkeypatch.setattr(systemd, "UNIT_DIR", str(tmp_path / "systemd"))
    monkeypatch.setattr(cycle_run, "systemctl", partial(host.systemd, "systemctl"))
    monkeypatch.setattr(cycle_run, "journalctl", partial(host.systemd, "journalctl"))
    return host
