# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `loop_status`: it answers on any host, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.modules import loop_status
from celled import NEEDS_ROOT, shape
from deployed import SHA, Host
from watched import watched


@NEEDS_ROOT
def test_a_host_of_ours(
    task: Callable[..., dict[str, Any]], host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    well = watched(host, monkeypatch)
    host.write_config()
    before = shape(tmp_path)
    for check in (False, True):
        answer = task(loop_status, config=str(host.config_file), pin=SHA, _ansible_check_mode=check)
        assert (answer["changed"], answer["status"]["well"]) == (False, True)
    well.record(2, "error", "x")
    assert task(loop_status, config=str(host.config_file))["status"]["needs"][0]["code"] == "engine"
    assert {name: text for name, text in shape(tmp_path).items() if name in before} == before


def test_a_fresh_host(task: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    answer = task(loop_status, config=f"{tmp_path}/none.json")
    assert answer["status"]["state"] in ("absent", "broken") and not answer["status"]["well"]
