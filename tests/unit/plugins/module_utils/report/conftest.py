# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host that the tests of the report share."""

from __future__ import annotations

import pytest
from deployed import Host
from watched import Watched, watched


@pytest.fixture
def well(host: Host, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """One that fares well."""
    return watched(host, monkeypatch)
