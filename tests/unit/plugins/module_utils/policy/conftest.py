# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository in which changes are made that the policy judges."""

from __future__ import annotations

from pathlib import Path

import pytest
from judged import Repo


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "app")
