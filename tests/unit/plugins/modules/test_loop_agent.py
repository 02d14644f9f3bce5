# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `loop_agent`: check mode, diff, refusals. How it is installed is in test_agents.py."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import npm_registry
import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import agents
from ansible_collections.as215932.engineering_loop.plugins.modules import loop_agent
from npm_registry import config_of

Task = Callable[..., dict[str, Any]]
# pytest finds fixtures by their names in this module.
registry, agent = npm_registry.registry, npm_registry.agent
KEY = {"OPENAI_API_KEY": "sk-of-the-test"}  # what a task shows has no such word


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Not below /tmp, which an agent has of its own."""
    with tempfile.TemporaryDirectory(dir=Path.home()) as directory:
        yield Path(directory)


@pytest.fixture
def call(task: Task, tmp_path: Path) -> Task:
    def call(agent: dict[str, str], **options: Any) -> dict[str, Any]:
        more = {"env_file": str(tmp_path / "env"), "home_files": [], "user": "root", "unit": "u"}
        return task(loop_agent, settings=config_of(tmp_path, agent, **more), **{"environment": KEY, **options})

    return call


def test_it_is_installed_once(call: Task, agent: dict[str, str], tmp_path: Path) -> None:
    told = call(agent, _ansible_check_mode=True)
    assert told["changed"] and told["program"] == "" and not (tmp_path / "agents").exists()
    done = call(agent)
    assert done["changed"] and done["diff"] == told["diff"] == {"before": "", "after": "@played/agent 1.2.3\n"}
    assert done["program"] == f"{agents.place(str(tmp_path), agent)}/node_modules/.bin/pi"
    again = call(agent)
    assert not again["changed"] and again["program"] == done["program"] and again["diff"]["before"]


def test_the_oldest_go(call: Task, agent: dict[str, str], registry: npm_registry.Registry, tmp_path: Path) -> None:
    call(agent)
    files = {"cli.sh": npm_registry.PROGRAM}
    newer = {
        **agent,
        "version": "2.0.0",
        "integrity": registry.publish("@played/agent", "2.0.0", files, bin={"pi": "cli.sh"}),
    }
    assert call(newer, keep=1)["pruned"] == [agents.place(str(tmp_path), agent)]


@pytest.mark.parametrize(
    ("wanted", "options", "says"),
    [
        ({"path": "/usr/bin/git", "program": "pi"}, {"environment": {}}, "the agent pi has no key"),
        ({"path": "/nowhere/pi", "program": "pi"}, {}, "engineering_loop_agent.path is /nowhere/pi"),
        ({"package": "p"}, {}, "engineering_loop_agent must have either package"),
    ],
)
@pytest.mark.parametrize("check", [False, True])
def test_what_would_not_work_is_one_line(
    call: Task, wanted: dict[str, str], options: dict[str, Any], says: str, check: bool
) -> None:
    answer = call(wanted, _ansible_check_mode=check, **options)
    assert answer["failed"] and answer["msg"].startswith(says) and "\n" not in answer["msg"]


def test_the_file_with_the_secrets_is_looked_at(call: Task, tmp_path: Path) -> None:
    given = {"path": "/usr/bin/git", "program": "pi"}
    (tmp_path / "env").write_text("OPENAI_API_KEY=k\n")
    answer = call(given, environment={})
    assert not answer["changed"] and answer["program"] == "/usr/bin/git" and answer["said"].startswith("git version")
