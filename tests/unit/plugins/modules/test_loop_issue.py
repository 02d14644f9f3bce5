# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `loop_issue`: what was counted of an issue is told and forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import attempts
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell.attempts import Attempt
from ansible_collections.as215932.engineering_loop.plugins.modules import loop_issue
from celled import Box, box

REPO = "AS215932/app"
Task = Callable[..., dict[str, Any]]


@pytest.fixture
def host() -> Iterator[Box]:
    with box() as found:
        found.config["repos"] = [REPO]
        found.write_config()
        yield found


@pytest.fixture
def call(task: Task, host: Box) -> Task:
    def call(**options: Any) -> dict[str, Any]:
        return task(loop_issue, config=host.config_file, **options)

    return call


def tried(host: Box, number: int, times: int = 3, repo: str = REPO) -> None:
    for time in range(times):
        attempts.count(host.config, Attempt(f"{repo}{number}.{time}", repo, number, "error", "\x1b[2J", "d", 0.5))


@pytest.mark.parametrize("name", [f"{REPO}#7", f" https://github.com/{REPO}/issues/7\n", f"{REPO}/issues/7"])
def test_it_is_released_once(call: Task, host: Box, name: str) -> None:
    tried(host, 7)
    tried(host, 8)
    tried(host, 9, 1)
    told = call(issue=name, _ansible_check_mode=True)
    assert told["changed"] and len(attempts.held(host.config)) == 2
    done = call(issue=name)
    assert done == told
    assert (done["issue"], done["held"]) == (f"{REPO}#7", [f"{REPO}#8"])
    counted = done["counted"]
    assert (counted["attempts"], counted["cost_usd"], counted["outcome"], counted["held"]) == (3, 1.5, "error", True)
    assert counted["title"] == "\\x1b[2J"
    assert done["diff"] == {"before": "attempts: 3\nheld: True\n", "after": "attempts: 0\nheld: False\n"}
    again = call(issue=name)
    assert not again["changed"] and again["counted"] is None and again["diff"]["before"] == again["diff"]["after"]


def test_one_that_is_not_held_yet_begins_anew_and_one_out_of_scope_can_go(call: Task, host: Box) -> None:
    tried(host, 7, 1)
    tried(host, 1, repo="AS215932/elsewhere")
    assert call(issue=f"{REPO}#7")["counted"]["held"] is False
    assert call(issue="AS215932/elsewhere#1")["counted"]["held"] is True
    assert attempts.counts(host.config) == {}


@pytest.mark.parametrize(
    "name", ["", "7", "#7", "app#7", f"{REPO}#0", f"{REPO}#x", f"{REPO}#7#8", "\x1b[2J", f"{REPO}#\u0667"]
)
def test_what_is_no_issue_is_one_line(call: Task, name: str) -> None:
    answer = call(issue=name)
    assert answer["failed"] and answer["msg"].endswith(" is none: write OWNER/NAME#7, or the address of the issue")
    assert answer["msg"].isprintable()


def test_an_issue_that_the_loop_never_sees_and_a_host_without_one(call: Task, host: Box) -> None:
    assert call(issue="AS215932/other#7")["msg"] == (
        f"AS215932/other is not one that the loop works on, allowed: {REPO}"
    )
    (host.top / "etc/loop.json").unlink()
    assert "this host was not deployed yet" in call(issue=f"{REPO}#7")["msg"]
