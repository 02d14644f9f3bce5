# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `loop_sbom`: it changes nothing, and refuses in one line. What it tells is in test_sbom.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.core_files import VERSION
from ansible_collections.as215932.engineering_loop.plugins.modules import loop_sbom

Task = Callable[..., dict[str, Any]]


@pytest.fixture
def deployed_settings(tmp_path: Path) -> Path:
    """The settings of a host with an engine that needs nothing."""
    sha = "58735fa051d24290f128109b4267e136316cbc86"
    release = tmp_path / "releases" / sha
    release.mkdir(parents=True)
    known = {"sha": sha, "source": "/srv/engine.bundle", "built_at": "2026-01-31T12:00:00Z"}
    (release / ".release.json").write_text(json.dumps({**known, "lock_digest": "", "files_digest": ""}))
    (tmp_path / "current").symlink_to(f"releases/{sha}")
    config = tmp_path / "loop.json"
    config.write_text(json.dumps({"install_dir": str(tmp_path), "agent": {}}))
    return config


@pytest.mark.parametrize("check", [False, True])
def test_it_tells_the_bill_and_changes_nothing(task: Task, deployed_settings: Path, check: bool) -> None:
    told = task(loop_sbom, config=str(deployed_settings), packages=["git"], _ansible_check_mode=check)
    bill = json.loads(told["text"])
    assert not told["changed"]
    assert told["components"] == len(bill["components"]) > 1
    assert bill["metadata"]["tools"]["components"][0]["version"] == VERSION


def test_a_host_without_a_loop_is_one_line(task: Task, tmp_path: Path) -> None:
    told = task(loop_sbom, config=str(tmp_path / "loop.json"))
    assert told["failed"]
    assert "is missing: this host was not deployed yet; run ansible-playbook" in told["msg"]
