# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""One worktree: healthy, absent, in repositories of every kind; and what a heal never runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees import heal as heal_module
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.heal import absent, ensure
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.manifests import listing
from worlds import BRANCH, World, everything, git, heal, reachable, sentinels, snapshot, swept, usable, wanted


def test_a_healthy_worktree_is_used_again(world: World) -> None:
    world.worktree()
    before = everything(world)
    done = ensure(wanted(world))
    assert (done["changed"], done["head"]) == (False, world.commits[0])
    assert everything(world) == before


def test_absent_takes_both_away_and_is_then_content(world: World) -> None:
    world.worktree()
    done = absent(wanted(world))
    assert done["changed"]
    assert not world.path.exists()
    assert git(world.repo, "for-each-ref", "refs/heads/hyrule-feature") == ""
    assert not absent(wanted(world))["changed"]


def test_a_directory_that_is_made_for_it_is_closed_to_others(world: World) -> None:
    path = world.runs / "issue_app_3" / "worktrees" / "app"
    assert heal(world, path=str(path))["changed"]
    assert path.parent.stat().st_mode & 0o7777 == 0o750


def test_two_heals_take_turns(world: World) -> None:
    world.worktree()
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from "
        "ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.heal import Worktree, ensure; "
        "print(ensure(Worktree(*sys.argv[2:5]), fresh=True)['quarantined'][0]['id'])"
    )
    top = str(Path(heal_module.__file__).parents[6])
    command = [sys.executable, "-c", code, top, str(world.repo), str(world.path), BRANCH]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _unused in range(3)]
    said = [process.communicate()[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0, 0]
    assert len(set(said)) == 3
    usable(world)
    assert set(world.commits) <= reachable(world)


def test_nothing_that_the_repository_names_is_run(world: World) -> None:
    proof = world.root / "ran"
    hook = world.root / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {proof}\ncat\n")
    hook.chmod(0o755)
    for name in ("post-checkout", "reference-transaction", "pre-auto-gc", "post-index-change"):
        shutil.copy(hook, world.repo / ".git" / "hooks" / name)
    (world.repo / ".git" / "info").mkdir(exist_ok=True)
    (world.repo / ".git" / "info" / "attributes").write_text("* filter=evil\n*.md filter=Other.Name\n")
    for key, value in {
        "core.hooksPath": str(world.repo / ".git" / "hooks"),
        "core.fsmonitor": str(hook),
        "filter.evil.smudge": str(hook),
        "filter.evil.process": str(hook),
        "filter.evil.required": "true",
        "filter.Other.Name.smudge": str(hook),
        "alias.worktree": f"!{hook}",
        "alias.update-ref": f"!{hook}",
        "core.pager": str(hook),
    }.items():
        subprocess.run(["git", "config", key, value], cwd=world.repo, check=True)
    included = world.root / "included"
    included.write_text(f'[filter "evil"]\n\tclean = {hook}\n')
    subprocess.run(["git", "config", "include.path", str(included)], cwd=world.repo, check=True)
    proof.unlink(missing_ok=True)
    done = heal(world)
    assert heal(world)["quarantined"][0]["from"] == done["path"]
    swept(world)
    assert not proof.exists()
    assert (Path(listing(str(world.path.parent / ".quarantine"))[0]["to"]) / "tree" / "docs" / "page.md").exists()


def test_a_symlink_is_taken_and_its_target_is_not(world: World) -> None:
    target = world.root / "elsewhere"
    target.mkdir()
    (target / "kept.txt").write_text("sentinel: behind the link\n")
    (target / ".git").write_text(f"gitdir: {world.repo}/.git\n")
    before = snapshot(target)
    world.path.symlink_to(target)
    place = heal(world)["quarantined"][0]["to"]
    assert os.readlink(place) == str(target)
    assert snapshot(target) == before


def test_what_was_only_staged_outlives_a_garbage_collection(world: World) -> None:
    world.worktree()
    (world.path / "staged.txt").write_text("only staged\n")
    git(world.path, "add", "staged.txt")
    (world.path / "staged.txt").unlink()
    blob = git(world.path, "rev-parse", ":staged.txt")
    heal(world)
    git(world.repo, "reflog", "expire", "--expire=now", "--all")
    git(world.repo, "gc", "-q", "--prune=now")
    assert git(world.repo, "cat-file", "blob", blob) == "only staged"
    assert set(world.commits) <= reachable(world)


def test_a_bare_repository(world: World) -> None:
    bare = world.root / "bare.git"
    git(world.root, "clone", "-q", "--bare", str(world.repo), str(bare))
    git(bare, "worktree", "add", "-q", "-b", BRANCH, str(world.path))
    (world.path / "untracked.txt").write_text("sentinel: in a bare one's worktree\n")
    done = heal(world, repo=str(bare))
    assert done["head"] == world.base
    assert sentinels(world.path.parent) == {b"sentinel: in a bare one's worktree\n"}
    assert git(world.path, "status", "--porcelain") == ""


def test_a_leftover_of_another_repository_at_our_path(world: World) -> None:
    twin = world.repo.with_name("twin")
    shutil.copytree(world.repo, twin)
    git(twin, "worktree", "add", "-q", "-b", BRANCH, str(world.path))
    (world.path / "untracked.txt").write_text("sentinel: another repository's\n")
    heal(world)
    usable(world)
    assert sentinels(world.path.parent) == {b"sentinel: another repository's\n"}
    assert git(twin, "rev-parse", BRANCH) == world.base


def test_a_path_through_a_symlink_is_the_same_place(world: World) -> None:
    world.worktree()
    link = world.root / "link"
    link.symlink_to(world.runs)
    through = link / world.path.relative_to(world.runs)
    again = heal(world, fresh=False, path=str(through))
    assert (again["changed"], again["path"]) == (False, str(world.path))
    heal(world, path=str(through))
    usable(world)


@pytest.mark.parametrize("taken", [BRANCH, "hyrule-feature/ISSUE_APP_1", "hyrule-feature"])
@pytest.mark.parametrize("base", ["HEAD", "@", "later"])
def test_a_main_checkout_on_what_is_in_the_way_goes_back_to_its_default(world: World, taken: str, base: str) -> None:
    git(world.repo, "checkout", "-q", "-b", taken)
    git(world.repo, "commit", "-q", "--allow-empty", "-m", "work")
    git(world.repo, "tag", "later")
    work = git(world.repo, "rev-parse", "HEAD")
    assert (
        heal(world, base_ref=base)["head"]
        == git(world.path, "rev-parse", "HEAD")
        == (work if base == "later" else world.base)
    )
    assert git(world.repo, "symbolic-ref", "HEAD") == "refs/heads/main"
    assert work in reachable(world)


def test_a_thousand_branches_in_the_way(world: World) -> None:
    lines = "".join(f"create refs/heads/{BRANCH}/{number} {world.base}\n" for number in range(1000))
    subprocess.run(["git", "update-ref", "--stdin"], cwd=world.repo, input=lines, text=True, check=True)
    assert sum(one["what"] == "branch" for one in heal(world)["quarantined"]) == 1000
    usable(world)
    assert len(git(world.repo, "for-each-ref", "refs/loop-salvage").splitlines()) == 1000
