# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `loop_user`: what a task shows of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import privileges, processes
from ansible_collections.as215932.engineering_loop.plugins.modules import loop_info, loop_user

USERS = {"loop": "loop"}


@pytest.fixture
def had(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a user has that is taken away once the module really runs."""
    had = ["the user loop had the shell /bin/bash: nobody logs in as it any more"]

    def repair(_users: dict[str, str], *, check: bool = False) -> list[str]:
        found = list(had)
        if not check:
            had.clear()
        return found

    monkeypatch.setattr(privileges, "repair", repair)
    monkeypatch.setattr(processes, "wait_until_idle", lambda *_given: None)
    return had


def test_check_tells_what_then_happens_once(task: Callable[..., dict[str, Any]], had: list[str]) -> None:
    told = task(loop_user, users=USERS, _ansible_check_mode=True)
    assert had
    done = task(loop_user, users=USERS)
    assert not had
    assert told == done
    assert (done["changed"], len(done["lines"])) == (True, 1)
    assert "/bin/bash" in done["diff"]["before"]
    again = task(loop_user, users=USERS)
    assert (again["changed"], again["lines"], again["diff"]) == (False, [], {"before": "", "after": ""})


def test_a_cycle_is_waited_for(
    task: Callable[..., dict[str, Any]], had: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(lock: str, unit: str, wait: float, otherwise: str) -> None:
        raise LoopError(f"{lock}{unit} runs, waited for {wait} s: {otherwise}")

    monkeypatch.setattr(processes, "wait_until_idle", busy)
    answer = task(loop_user, users=USERS, unit="x", wait=3)
    assert (answer["failed"], answer["msg"]) == (True, "x runs, waited for 3.0 s: the users were not changed")
    assert had


def test_what_is_refused_is_one_line(task: Callable[..., dict[str, Any]]) -> None:
    answer = task(loop_user, users={"root": "root"})
    assert answer["failed"]
    assert answer["msg"].split("; ") == [
        "the group root has rights of its own on this host: name one that is the loop's alone, such as loop",
        "the user root has the number of root: name another one",
    ]
    found = task(loop_info, config="/nonexistent.json", details=False, accounts={"root": "root", "no-such": "no-such"})
    assert found["accounts"]["refused"] == answer["msg"].split("; ")
    assert (found["accounts"]["missing_users"], found["accounts"]["missing_groups"]) == (["no-such"], ["no-such"])
