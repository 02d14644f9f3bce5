# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The jobs of a host's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import jobs
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings

TOLD: dict[str, Any] = {
    "name": "look", "unit": "loop-job-look", "command": ["engine", "look"], "args": ["--in", "{release}/x"],
    "options": {"--state": "{state}", "--fast": ""}, "state": "/var/lib/look", "may": ["read"], "proof": True,
    "enabled": True, "network": False, "on_calendar": "hourly", "randomized_delay": 0, "timeout": 60,
}  # fmt: skip


def test_they_are_read(tmp_path: Path) -> None:
    config = Settings({"jobs": [TOLD], "state_dir": "/var/lib/loop"})
    (job,) = jobs.of(config)
    assert jobs.find(config, "look") is not None and jobs.records_dir(config, job) == "/var/lib/loop/jobs/look"
    assert job.filled("{release}/x:{state}", "/opt/1") == "/opt/1/x:/var/lib/look"
    assert "has no program engine" in jobs.unknown(job, str(tmp_path))
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/engine").touch()
    assert jobs.unknown(job, str(tmp_path)) == ""


def test_settings_of_an_earlier_version_have_none() -> None:
    assert jobs.of(Settings({})) == []


@pytest.mark.parametrize("spoil", [{"options": []}, {"command": None}])
def test_what_cannot_be_read(spoil: dict[str, Any]) -> None:
    with pytest.raises(LoopError, match="settings of a job cannot be read"):
        jobs.of(Settings({"jobs": [{**TOLD, **spoil}]}))
    with pytest.raises(LoopError, match="cannot be read"):
        jobs.of(Settings({"jobs": ["look"]}))


def test_one_that_is_not_there() -> None:
    with pytest.raises(LoopError, match="no job other: it is not in engineering_loop_jobs"):
        jobs.find(Settings({"jobs": [TOLD]}), "other")
