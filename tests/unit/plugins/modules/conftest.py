# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A module runs on a host, where nothing of Ansible's own controller is."""

from __future__ import annotations

import pytest
from ansible.module_utils import _internal


@pytest.fixture(autouse=True)
def on_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another test may have loaded the controller's half into this process: warnings would go to its terminal."""
    monkeypatch.setattr(_internal, "is_controller", False)
