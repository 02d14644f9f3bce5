# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""As whom it is worked: what the owner may not move root moves, where it may, and runs no git."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.untrusted import opened
from ansible_collections.as215932.engineering_loop.plugins.module_utils.git.repository import Repo
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user, whose
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.owners import _giver
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.sweep import Scope, sweep
from worlds import (
    BRANCH,
    NOBODY,
    World,
    git,
    heal,
    one_line,
    repository_of_roots,
    sweep_two,
    swept,
)


@pytest.fixture
def victim(shared: World) -> Path:
    """Root's own repository beside it."""
    return repository_of_roots(shared.root.parent / "victim")


def theirs(world: World) -> None:
    """A worktree as an engine that somebody started as root would leave it."""
    environment = {
        **os.environ, "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"
    }  # fmt: skip
    subprocess.run(
        ["git", "worktree", "add", "-q", "-b", BRANCH, str(world.path)], cwd=world.repo, env=environment, check=True
    )
    (world.path / "untracked.txt").write_text("sentinel: root's\n")
    (world.path / "private.txt").write_text("sentinel: root's own\n")
    (world.path / "private.txt").chmod(0o600)


def test_root_moves_what_the_owner_may_not_and_runs_no_git(shared: World, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs(shared)
    started: list[int] = []
    original = Repo.git
    monkeypatch.setattr(Repo, "git", lambda self, *a, **b: (started.append(os.geteuid()), original(self, *a, **b))[1])
    done = heal(shared)
    assert started == []  # in this process, which is root's
    nobody = NOBODY.pw_uid
    assert shared.path.stat().st_uid == nobody
    assert (shared.path / "docs" / "page.md").stat().st_uid == nobody
    kept = next(entry for entry in done["quarantined"] if entry["to"].endswith("/tree"))
    private = Path(kept["to"], "private.txt")
    assert (private.stat().st_uid, private.read_text()) == (0, "sentinel: root's own\n")
    assert heal(shared, fresh=False)["changed"] is False


def test_the_owner_is_told_to_ask_root(shared: World) -> None:
    theirs(shared)
    with pytest.raises(LoopError, match="run the heal as root") as caught:
        as_user("nobody", lambda: heal(shared))
    assert "\n" not in str(caught.value)
    assert (shared.path / "untracked.txt").read_text() == "sentinel: root's\n"


def test_the_owner_needs_no_root(shared: World) -> None:
    done = as_user("nobody", lambda: heal(shared))
    again = as_user("nobody", lambda: heal(shared))
    assert done["changed"] and again["quarantined"][0]["from"] == str(shared.path)
    assert as_user("nobody", lambda: swept(shared))["removed"] == [str(shared.path)]


def test_root_does_not_follow_a_symlink_that_the_owner_put_in_the_way(shared: World) -> None:
    precious = shared.root.parent / "precious"
    precious.mkdir(mode=0o700)
    (precious / "note").write_text("root's\n")
    link = shared.runs / "link"
    link.symlink_to(precious)
    with (
        pytest.raises(LoopError, match="is no directory to enter"),
        opened(str(link), each=_giver(NOBODY.pw_uid, NOBODY.pw_gid)),
    ):
        raise AssertionError("the link was followed")
    assert precious.stat().st_uid == 0


def test_a_stranger_is_refused(shared: World) -> None:
    with pytest.raises(LoopError, match="belongs to nobody"):
        as_user("daemon", lambda: heal(shared))


def test_root_does_not_sweep_what_a_link_of_another_users_leads_to(shared: World, victim: Path) -> None:
    roots = shared.root.parent / "roots"
    roots.mkdir()
    victim.rename(roots / "victim")
    git(roots / "victim", "branch", "hyrule-feature/X/app")
    workspace = shared.root / "workspace"
    workspace.rename(shared.root / "away")
    workspace.symlink_to(roots)
    runs = shared.root.parent / "runs"
    runs.mkdir()
    for given in ({"workspace": str(workspace)}, {"repos": [str(workspace / "victim")]}):
        with pytest.raises(LoopError, match="is a link that root does not follow") as caught:
            sweep(Scope(str(runs), ["hyrule-feature"], **given))
        one_line(caught.value)
    with pytest.raises(LoopError, match="is a link that root does not follow"):
        heal(shared, fresh=False, repo=str(workspace / "victim"), path=f"{runs}/x/worktrees/x")
    assert git(roots / "victim", "branch", "--list", "hyrule-feature/X/app")
    workspace.unlink()
    workspace.symlink_to(roots)  # root's own link in root's own directory is followed
    os.chown(shared.root, 0, 0)
    assert sweep(Scope(str(runs), ["hyrule-feature"], workspace=str(workspace)))["removed"]


def test_a_repository_in_another_users_directory_is_refused(shared: World) -> None:
    subprocess.run(["chown", "-R", "root:root", str(shared.repo)], check=True)
    with pytest.raises(LoopError, match=r"belongs to root and .* to nobody") as caught:
        heal(shared, fresh=False)
    one_line(caught.value)
    kept = sweep_two(shared)
    assert [one["path"] for one in kept["kept"]] == [str(shared.repo)] and "belongs to root" in kept["kept"][0]["why"]


def test_root_works_in_its_own_repository_only_where_nobody_else_may_write_above_it(tmp_path: Path) -> None:
    place = tmp_path / "open/repo"
    place.mkdir(parents=True)
    assert whose(str(place)) == (str(place), 0)
    place.parent.chmod(0o777)
    with pytest.raises(LoopError, match="may be written by others"):
        whose(str(place))
    place.parent.chmod(0o1777)
    assert whose(str(place)) == (str(place), 0)
    os.chown(place, NOBODY.pw_uid, -1)
    place.parent.chmod(0o777)
    assert whose(str(place)) == (str(place), NOBODY.pw_uid)


def test_root_puts_nothing_of_its_own_into_another_users_directory(shared: World, victim: Path) -> None:
    with pytest.raises(LoopError, match="root works in its own places only"):
        heal(shared, fresh=False, repo=str(victim))
    assert not git(victim, "branch", "--list", BRANCH)
