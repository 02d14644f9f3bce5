# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `loop_rollout`: check mode, diff, refusals. What it does is in test_rollout.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import rolled
from ansible_collections.as215932.engineering_loop.plugins.modules import loop_rollout
from rolled import BAD, SHA, Host, Systemd, everything, new_everything, prove

Task = Callable[..., dict[str, Any]]
# pytest finds fixtures by their names in this module.
host, systemd = rolled.host, rolled.systemd


@pytest.fixture
def call(task: Task, host: Host) -> Task:
    def call(**options: Any) -> dict[str, Any]:
        return task(loop_rollout, config=str(host.config_file), timer_enabled=True, **options)

    return call


def test_check_mode_tells_what_would_come_back(call: Task, host: Host, systemd: Systemd) -> None:
    prove(host, systemd)
    before = everything(host)
    new_everything(host)
    new = everything(host)
    told = call(state="undone", failed=True, reason="two", _ansible_check_mode=True)
    assert told["changed"] and everything(host) == new
    done = call(state="undone", failed=True, reason="two")
    assert done["changed"] and everything(host) == before
    assert (done["from"], done["to"]["sha"], done["restored"]) == (BAD, SHA, told["restored"])
    assert done["diff"] == told["diff"]
    assert done["diff"]["after"] == f"engine: {SHA}\ntimer enabled: True\ntimer active: True\n"
    again = call(state="undone")
    assert not again["changed"] and again["reason"] == "nothing that a proof covers was changed"


def test_what_cannot_be_done_is_one_line(call: Task, host: Host, systemd: Systemd) -> None:
    answer = call(state="previous")
    assert answer["failed"] and answer["msg"].startswith("there is no other proven release to go back to")
    host.config_file.unlink()
    assert "is missing: this host was not deployed yet" in call(state="previous")["msg"]
    answer = call(state="undone")
    assert not answer["changed"] and "first deployment" in answer["reason"]
