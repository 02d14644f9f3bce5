# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The forge and the deployed host that the tests of proofs share."""

from __future__ import annotations

from functools import partial

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import systemd
from deployed import Host


@pytest.fixture
def host(host: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Its systemctl and journalctl are the test's."""
    monkeypatch.setattr(systemd, "systemctl", partial(host.systemd, "systemctl"))
    monkeypatch.setattr(systemd, "_journalctl", partial(host.systemd, "journalctl"))
    return host
