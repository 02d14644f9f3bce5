# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules `git_worktree` and `git_worktree_sweep`: options, check and diff mode, what a task shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.as215932.engineering_loop.plugins.modules import git_worktree, git_worktree_sweep
from worlds import BRANCH, World, snapshot, usable

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def runner(module: Any, capsys: pytest.CaptureFixture[str], defaults: dict[str, Any]) -> Run:
    def run(**options: Any) -> dict[str, Any]:
        given = {key: value for key, value in {**defaults, **options}.items() if value is not None}
        with patch_module_args({"_ansible_diff": True, **given}), pytest.raises(SystemExit):
            module.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return run


@pytest.fixture
def one(world: World, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(git_worktree, capsys, {"repo": str(world.repo), "path": str(world.path), "branch": BRANCH})


@pytest.fixture
def sweep(world: World, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(
        git_worktree_sweep,
        capsys,
        {
            "workspace": str(world.root / "workspace"),
            "branch_prefixes": ["hyrule-feature"],
            "worktree_root": str(world.runs),
        },
    )


def test_check_mode_names_what_would_happen_and_changes_nothing(world: World, one: Run) -> None:
    world.worktree()
    before = snapshot(world.path)
    planned = one(fresh=True, _ansible_check_mode=True)
    assert planned["changed"]
    assert f"quarantine worktree {world.path} (branch {BRANCH})" in planned["diff"]["prepared"]
    assert f"add worktree {world.path} on {BRANCH} at {world.base}" in planned["diff"]["prepared"]
    assert snapshot(world.path) == before
    assert not (world.path.parent / ".quarantine").exists()


def test_the_second_run_changes_nothing(world: World, one: Run) -> None:
    first, second = one(), one()
    assert (first["changed"], second["changed"]) == (True, False)
    assert second["head"] == first["base_sha"] == world.base
    assert second["diff"]["prepared"] == ""
    usable(world)


def test_absent_is_reached_once(world: World, one: Run) -> None:
    world.worktree()
    gone = one(state="absent")
    assert gone["changed"] and not world.path.exists()
    assert not one(state="absent")["changed"]


def test_bad_input_is_one_line(one: Run) -> None:
    failed = one(branch="a..b")
    assert failed["failed"]
    assert failed["msg"].startswith("branch 'a..b'")
    assert "\n" not in failed["msg"]


def test_a_sweep_with_retention(world: World, sweep: Run) -> None:
    world.worktree()
    planned = sweep(_ansible_check_mode=True)
    assert planned["removed"] == [str(world.path)] and world.path.exists()
    done = sweep()
    assert done["removed"] == planned["removed"]
    assert done["diff"] == planned["diff"]
    assert not sweep()["changed"]
    purged = sweep(quarantine_keep={"age": "0s", "min_age": "0s"})
    assert [entry["from"] for entry in purged["purged"]] == [str(world.path)]
    assert purged["changed"] and f"({world.path}): older than its time" in purged["diff"]["prepared"]
    assert not sweep(quarantine_keep={"age": "0s", "min_age": "0s"})["changed"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"older_than": "soon"}, "older_than 'soon' is not a time such as 2d"),
        ({"quarantine_keep": {"size": "10d"}}, "size '10d' is not a size such as 10G"),
        ({"quarantine_keep": {"age": "10G"}}, "age '10G' is not a time"),
        ({"workspace": "/nonexistent"}, "workspace /nonexistent is not a directory"),
        ({"branch_prefixes": [""]}, "branch ''"),
        ({"worktree_root": "/"}, "worktree_root"),
    ],
)
def test_a_bad_option_is_named(sweep: Run, options: dict[str, Any], words: str) -> None:
    failed = sweep(**options)
    assert failed["failed"]
    assert words in failed["msg"]
