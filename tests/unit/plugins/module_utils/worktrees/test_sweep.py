# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole workspace in one pass: what goes, what stays, and what is refused in one line."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.untrusted import show
from ansible_collections.as215932.engineering_loop.plugins.module_utils.git.repository import Repo
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.manifests import listing
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.restore import restore
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.sweep import Scope, sweep
from worlds import (
    BRANCH,
    World,
    git,
    heal,
    sentinels,
    snapshot,
    swept,
    usable,
)


@pytest.mark.parametrize("keep", ["ISSUE_APP_1", "issue_app_1", BRANCH, "{path}", "{run}"])
def test_a_sweep_leaves_what_it_is_told_to(world: World, keep: str) -> None:
    world.worktree()
    world.worktree(world.other, "hyrule-feature/ISSUE_APP_2/app")
    before = snapshot(world.path)
    done = swept(world, keep=[keep.format(path=world.path, run=world.path.parent.parent)])
    assert [entry["path"] for entry in done["kept"]] == [str(world.path)]
    assert done["removed"] == [str(world.other)]
    assert snapshot(world.path) == before
    assert git(world.path, "rev-parse", "--abbrev-ref", "HEAD") == BRANCH


def test_a_sweep_leaves_what_is_too_young(world: World) -> None:
    world.worktree()
    done = swept(world, older_than=3600)
    assert "less than 3600 s" in done["kept"][0]["why"]
    assert not done["changed"]


def test_a_sweep_of_many_lists_and_changes_refs_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    original = Repo.git

    def counting(self: Any, arguments: Any, **options: Any) -> Any:
        calls.append(arguments[0])
        return original(self, arguments, **options)

    for number in range(30):
        world.worktree(world.runs / f"issue_{number}" / "worktrees" / f"app-{number}", f"hyrule-feature/{number}/app")
    monkeypatch.setattr(Repo, "git", counting)
    assert len(swept(world)["quarantined"]) == 30
    assert len(calls) <= 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"repos": []}, "no repository to sweep"),
        ({"repos": ["{root}/nowhere"]}, "cannot be read"),
        ({"workspace": "{root}/nowhere"}, "is not a directory"),
        ({"worktree_root": "/"}, "below /"),
        ({"worktree_root": "relative"}, "absolute"),
        ({"worktree_root": "{repo}/.git/worktrees"}, "inside a git directory"),
        ({"worktree_root": "{repo}/runs"}, "one inside the other"),
        ({"worktree_root": "{root}"}, "one inside the other"),
        ({"branch_prefixes": ["main"]}, "protected"),
        ({"branch_prefixes": [""]}, "branch ''"),
        ({"branch_prefixes": ["refs/heads"]}, "protected"),
        ({"branch_prefixes": ["*"]}, "branch '\\*'"),
        ({"branch_prefixes": ["hyrule\u2010loop"]}, "look-alike"),
        ({"quarantine": "relative"}, "absolute"),
        ({"quarantine": "/"}, "below /"),
    ],
)
def test_a_sweep_refuses_in_one_line(world: World, options: dict[str, Any], words: str) -> None:
    world.worktree()

    def filled(value: Any) -> Any:
        return value.format(root=world.root, repo=world.repo) if isinstance(value, str) else list(map(filled, value))

    given = {"repos": [str(world.repo)], "branch_prefixes": ["hyrule-feature"], "worktree_root": str(world.runs)}
    with pytest.raises(LoopError, match=words) as caught:
        sweep(Scope(**{**given, **{key: filled(value) for key, value in options.items()}}))
    assert "\n" not in str(caught.value)
    assert (world.path / "untracked.txt").exists()
    assert not (world.runs / ".quarantine").exists()


def test_a_workspace_without_repositories_is_named(world: World) -> None:
    (world.root / "empty").mkdir()
    with pytest.raises(LoopError, match=f"no repository to sweep in {world.root}/empty"):
        sweep(Scope(str(world.runs), ["x"], workspace=str(world.root / "empty")))


@pytest.mark.parametrize("name", ["-rf", "a b", "ü", "a\nb", "'; rm -rf x", "$(id)", "..."])
def test_a_run_with_a_hostile_name_is_swept_like_any_other(world: World, name: str) -> None:
    place = world.runs / name / "worktrees" / name
    place.parent.mkdir(parents=True)
    world.worktree(place, "hyrule-feature/ISSUE_APP_9/app")
    done = swept(world)
    assert done["removed"] == [show(str(place), 5000)]  # as it is told to people
    assert restore(str(world.runs / ".quarantine"), listing(str(world.runs / ".quarantine"))[0]["id"])
    assert (place / "untracked.txt").read_text() == "sentinel: untracked\n"


def test_the_same_change_in_two_repositories(world: World) -> None:
    twin = world.repo.with_name("twin")
    shutil.copytree(world.repo, twin)
    second = world.path.with_name("twin-ISSUE_APP_1")
    world.worktree()
    git(twin, "worktree", "add", "-q", "-b", BRANCH, str(second))
    (second / "untracked.txt").write_text("sentinel: the twin's\n")
    before = sentinels(world.root)
    assert sorted(swept(world)["removed"]) == sorted([str(world.path), str(second)])
    assert sentinels(world.root) == before
    heal(world)
    usable(world)
