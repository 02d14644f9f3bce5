# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `pristine_clones`: what a task shows of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.modules import pristine_clones
from celled import GATE, NEEDS_ROOT, Box, box, give

pytestmark = NEEDS_ROOT
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def host() -> Iterator[Box]:
    with box() as found:
        found.repository("app")
        yield found


@pytest.fixture
def run(host: Box, task: Callable[..., dict[str, Any]]) -> Run:
    def call(**options: Any) -> dict[str, Any]:
        given = {
            "root": host.config["pristine_dir"],
            "user": GATE,
            "repositories": host.config["workspace_repositories"],
        }
        return task(pristine_clones, **{**given, **options})

    return call


def test_cloned_once(host: Box, run: Run) -> None:
    foretold = run(_ansible_check_mode=True)
    assert foretold["changed"] and foretold["repositories"][0]["status"] == "cloned"
    assert os.listdir(host.config["pristine_dir"]) == []
    done = run()
    (one,) = done["repositories"]
    assert (done["changed"], one["status"], done["failed_clones"]) == (True, "cloned", [])
    assert done["diff"] == {"before": "app: -\n", "after": f"app: {one['after']}\n"}
    again = run()
    assert not again["changed"] and again["diff"]["before"] == again["diff"]["after"]
    assert not run(_ansible_check_mode=True)["changed"]


def test_a_damaged_one_is_a_warning(host: Box, run: Run) -> None:
    run()
    head = Path(host.config["pristine_dir"], "app.git", "HEAD")
    head.write_text("garbage")
    give(head, GATE)
    foretold = run(_ansible_check_mode=True)
    assert foretold["changed"] and head.read_text() == "garbage"
    assert "app is damaged and would be cloned anew: git cannot read it" in str(foretold["warnings"])
    done = run()
    assert done["changed"] and "app was damaged and is cloned anew: git cannot read it: fatal: not a git" in str(
        done["warnings"]
    )
    assert not run()["changed"]


def test_one_that_fails_is_named_and_the_others_are_there(host: Box, run: Run) -> None:
    host.config["workspace_repositories"].append({"repo": f"{host.top}/none.git", "dest": "none"})
    answer = run()
    assert answer["failed"] and answer["failed_clones"] == ["none"]
    assert answer["msg"].startswith("1 of 2 clones failed: none: ") and "\n" not in answer["msg"]
    assert [one["status"] for one in answer["repositories"]] == ["cloned", "failed"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"user": "no-such-user"}, "there is no user no-such-user"),
        ({"repositories": [{"repo": "app"}]}, "is not a repository: write OWNER/NAME or a URL"),
        ({"repositories": [{"repo": "o/a"}, {"repo": "p/a"}]}, "two repositories have the same dest: a"),
        ({"env_file": "ENV"}, "line 1: no KEY=value"),
        ({"root": "/dev/null/x"}, "/dev/null/x/.private cannot be made: Not a directory"),
    ],
)
def test_bad_input_is_one_line(host: Box, run: Run, options: dict[str, Any], words: str) -> None:
    (host.top / "etc/env").write_text("nonsense\n")
    (host.top / "etc/env").chmod(0o600)
    answer = run(**{key: f"{host.top}/etc/env" if value == "ENV" else value for key, value in options.items()})
    assert answer["failed"] and words in answer["msg"] and "\n" not in answer["msg"]
    assert os.listdir(host.config["pristine_dir"]) == []
