# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkouts of real repositories, left by people and agents in every state that git allows."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import workspaces
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.files import alone_in
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees import checkouts
from commands import sh
from workspaces import ME, NAMES, World, head, put

# pytest finds fixtures by their names in this module.
world, ready = workspaces.world, workspaces.ready


def test_missing_ones_are_cloned_the_rest_follows(world: World) -> None:
    assert world.statuses(check=True) == ["cloned"] * 3 and not world.root.exists()
    first = world.update()
    assert first["changed"] and [one["status"] for one in first["repositories"]] == ["cloned"] * 3
    again = world.update()
    assert not again["changed"] and [one["status"] for one in again["repositories"]] == ["current"] * 3
    assert (world.root / "one").stat().st_mode & 0o777 == 0o750
    tip = world.push("two", "new")
    assert world.statuses(check=True) == ["current", "updated", "current"] and head(world, "two") != tip
    moved = world.update()
    assert moved["repositories"][1]["after"] == tip == head(world, "two")
    assert sh(world.root / "one", "git", "config", "user.email") == "loop@example.org"


def test_a_fresh_host_in_check_mode_needs_neither_user_nor_git(world: World) -> None:
    assert world.statuses(check=True, user="no-such-user-yet") == ["cloned"] * 3


def test_checkouts_that_cannot_be_looked_at_yet_are_foretold(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older role left them; our packages are still to come."""
    world.update()
    shutil.rmtree(world.root / "two")
    monkeypatch.setattr(checkouts, "available", lambda: False)
    assert world.statuses(check=True) == ["updated", "cloned", "updated"]


def leave_dirty(world: World, path: Path) -> None:
    (path / "README").write_text("mine\n")
    (path / "new").write_text("untracked\n")
    (path / "big.cache").write_text("ignored\n")


def leave_detached(world: World, path: Path) -> None:
    sh(path, "git", "checkout", "-q", "--detach")
    (path / "README").write_text("mine\n")
    sh(path, "git", "commit", "-q", "-a", "-m", "mine")


def leave_diverged(world: World, path: Path) -> None:
    (path / "README").write_text("mine\n")
    sh(path, "git", "commit", "-q", "-a", "-m", "mine")


def leave_branch(world: World, path: Path) -> None:
    sh(path, "git", "checkout", "-q", "-b", "other")
    (path / "README").write_text("mine\n")
    sh(path, "git", "commit", "-q", "-a", "-m", "mine")


def leave_conflict(world: World, path: Path) -> None:
    leave_branch(world, path)
    sh(path, "git", "checkout", "-q", "main")
    (path / "README").write_text("theirs\n")
    sh(path, "git", "commit", "-q", "-a", "-m", "theirs")
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "merge", "other"],
        cwd=path,
        capture_output=True,
        check=False,
    )
    assert (path / ".git/MERGE_HEAD").exists()


def leave_file(world: World, path: Path) -> None:
    path.rename(f"{path}.gone")
    path.write_text("mine\n")


def leave_directory(world: World, path: Path) -> None:
    path.rename(f"{path}.gone")
    path.mkdir()
    (path / "README").write_text("mine\n")


def leave_link(world: World, path: Path) -> None:
    path.rename(f"{path}.gone")
    (world.root / "target").mkdir()
    (world.root / "target/README").write_text("mine\n")
    path.symlink_to("target")


def leave_broken(world: World, path: Path) -> None:
    (path / "README").write_text("mine\n")
    (path / ".git/HEAD").write_text("")


LEFT = [
    leave_dirty,
    leave_detached,
    leave_diverged,
    leave_branch,
    leave_conflict,
    leave_file,
    leave_directory,
    leave_link,
]


@pytest.mark.parametrize("leave", [*LEFT, leave_broken], ids=lambda leave: leave.__name__)
def test_what_is_in_the_way_is_kept_and_stops_no_one(ready: World, leave: Any) -> None:
    leave(ready, ready.root / "two")
    tips = {name: ready.push(name, "new") for name in NAMES}
    assert ready.statuses(conflicts="report") == ["updated", "left", "updated"]
    tips["three"] = ready.push("three", "newer")
    assert ready.statuses(check=True) == ["current", "restored", "updated"]
    done = ready.update()
    assert [one["status"] for one in done["repositories"]] == ["current", "restored", "updated"]
    assert {name: head(ready, name) for name in NAMES} == tips
    place = Path(done["repositories"][1]["quarantined"])
    manifest = json.loads((place / "manifest.json").read_text())
    assert manifest["why"] and "{this" not in manifest["restore"]
    kept = [entry.read_text() for entry in [*place.rglob("README"), *place.glob("whole")] if entry.is_file()]
    kept += [sh(ready.root / "two", "git", "show", f"{ref}:README") + "\n" for ref in manifest.get("salvaged", {})]
    if leave is leave_branch:
        kept.append(sh(ready.root / "two", "git", "show", "other:README") + "\n")
    if leave is leave_link:
        kept.append((ready.root / "target/README").read_text())
    assert "mine\n" in kept or leave is leave_conflict
    if leave is leave_conflict:
        assert "<<<<<<<" in "".join(kept) and (place / "git/MERGE_HEAD").exists() and "theirs\n" in kept
    if leave is leave_dirty:
        assert (place / "tree/new").exists() and (place / "tree/big.cache").exists()
    assert ready.statuses() == ["current"] * 3


def test_worktrees_of_runs_survive_a_dirty_checkout(ready: World, tmp_path: Path) -> None:
    sh(ready.root / "one", "git", "worktree", "add", "-q", "-b", "run", str(tmp_path / "run"))
    (tmp_path / "run/waits").write_text("for a person\n")
    leave_dirty(ready, ready.root / "one")
    assert ready.statuses()[0] == "restored"
    assert sh(tmp_path / "run", "git", "status", "--porcelain") == "?? waits"


def test_the_restore_command_restores(ready: World) -> None:
    leave_dirty(ready, ready.root / "one")
    place = Path(ready.update()["repositories"][0]["quarantined"])
    restore = json.loads((place / "manifest.json").read_text())["restore"]
    assert restore.startswith("git -C ") and f"{place}/tree/" in restore
    sh(
        ready.root,
        "sh",
        "-c",
        restore.replace("rsync -a --delete --exclude=.git", "cp -a").replace("/tree/ ", "/tree/. "),
    )
    assert (ready.root / "one/README").read_text() == "mine\n" and (ready.root / "one/big.cache").exists()


def test_an_unreachable_one_fails_by_name_after_the_others(ready: World) -> None:
    (ready.forge / "acme/two.git").rename(ready.forge / "acme/away.git")
    tip = ready.push("three", "new")
    done = ready.update()
    assert done["failed"] == ["two"] and head(ready, "three") == tip
    assert "acme/two.git cannot be reached" in done["repositories"][1]["detail"]
    assert "does not appear to be a git repository" in done["repositories"][1]["detail"]


def test_a_branch_that_is_gone_and_a_clone_that_fails(world: World) -> None:
    done = world.update(
        repositories=[{"repo": "acme/one", "version": "gone"}, {"repo": "acme/none"}, {"repo": "acme/two"}]
    )
    assert done["failed"] == ["one", "none"] and done["repositories"][2]["status"] == "cloned"
    assert os.listdir(world.root) == ["two"]


def test_configuration_that_could_run_something_is_removed(ready: World, tmp_path: Path) -> None:
    path, trap = ready.root / "one", tmp_path / "sprung"
    (tmp_path / "hooks").mkdir()
    for name in ("post-merge", "post-checkout", "reference-transaction", "pre-auto-gc"):
        (tmp_path / "hooks" / name).write_text(f"#!/bin/sh\ntouch {trap}\n")
        (tmp_path / "hooks" / name).chmod(0o755)
    evil = {
        "core.hooksPath": str(tmp_path / "hooks"), "core.fsmonitor": f"touch {trap}", "core.askPass": f"touch {trap}",
        "filter.x.smudge": f"touch {trap}; cat", "filter.x.clean": f"touch {trap}; cat", "include.path": "/nowhere",
        "remote.origin.uploadpack": f"touch {trap}; git-upload-pack", "core.alternateRefsCommand": f"touch {trap}",
        f"remote.{ready.forge}/acme/one.git.uploadpack": f"touch {trap}; git-upload-pack",
        f"url.{tmp_path}/elsewhere.insteadOf": str(ready.forge), "remote.origin.url": "https://example.org/other.git",
    }  # fmt: skip
    for key, value in evil.items():
        sh(path, "git", "config", "--file", ".git/config", key, value)
    (path / ".git/info").mkdir(exist_ok=True)
    (path / ".git/info/attributes").write_text("* filter=x\n")
    (path / ".git/hooks").mkdir(exist_ok=True)
    (path / ".git/hooks/post-merge").symlink_to(tmp_path / "hooks/post-merge")
    tip = ready.push("one", "new")
    done = ready.update()["repositories"][0]
    assert done["status"] == "updated" and {key.lower() for key in evil} <= {
        key.lower() for key in done["removed_config"]
    }
    assert head(ready, "one") == tip and not trap.exists()
    assert sh(path, "git", "config", "remote.origin.url") == f"{ready.forge}/acme/one.git"
    assert not ready.update()["changed"]


def test_names_of_an_agents_making_tell_no_terminal_what_to_do(ready: World) -> None:
    path = ready.root / "one"
    odd = "a\u202eb\x9b31m"
    sh(path, "git", "config", "--file", ".git/config", f"filter.{odd}\x1b[2J.clean", "cat")
    sh(path, "git", "checkout", "--quiet", "-b", odd)
    done = ready.update()["repositories"][0]
    assert done["removed_config"] == ["filter.a\\u202eb\\x9b31m\\x1b[2J.clean"]
    assert done["detail"] == "it is on a\\u202eb\\x9b31m instead of main"


def test_left_lock_files_and_killed_clones_are_cleared(ready: World) -> None:
    for name in ("index.lock", "HEAD.lock", "refs/heads/main.lock", "refs/remotes/origin/main.lock"):
        (ready.root / "one/.git" / name).write_text("")
    (ready.root / ".clone-two").mkdir()
    tip = ready.push("one", "new")
    done = ready.update()["repositories"]
    assert [one["status"] for one in done] == ["updated", "current", "current"], [one["detail"] for one in done]
    assert head(ready, "one") == tip and not (ready.root / ".clone-two").exists()


def test_where_somebody_works_nothing_moves(ready: World, tmp_path: Path) -> None:
    tips = {name: ready.push(name, "new") for name in NAMES}
    process = subprocess.Popen(["sleep", "60"], cwd=ready.root / "two")
    lock = tmp_path / "daemon.lock"
    try:
        assert ready.statuses() == ["updated", "busy", "updated"]
        lock.write_text(json.dumps({"pid": process.pid}))
        assert ready.statuses(run_lock=str(lock)) == ["busy"] * 3
    finally:
        process.kill()
        process.wait()
    assert ready.statuses(run_lock=str(lock)) == ["current", "updated", "current"]
    assert head(ready, "two") == tips["two"]


@pytest.mark.parametrize(
    "given",
    [
        {"repo": "acme/../x"}, {"repo": "acme"}, {"repo": ""}, {"repo": "acme/one", "dest": "../x"},
        {"repo": "acme/one", "dest": ".git"}, {"repo": "acme/one", "version": "-x"},
        {"repo": "acme/one", "version": "a..b"},
        {"repo": "https://u:secret@example.org/x.git"},
    ],
)  # fmt: skip
def test_names_are_checked(world: World, given: dict[str, str]) -> None:
    with pytest.raises(LoopError) as failure:
        world.update(repositories=[given])
    assert "secret" not in str(failure.value) and not world.root.exists()


def test_two_in_one_place_are_refused(world: World) -> None:
    with pytest.raises(LoopError, match=r"same dest.*one"):
        world.update(repositories=[{"repo": "acme/one"}, {"repo": "acme/two", "dest": "one"}])


def test_root_leaves_the_work_to_the_user(open_to_all: Path) -> None:
    world = World(open_to_all, user="nobody")
    for entry in [open_to_all, *open_to_all.rglob("*")]:
        os.chown(entry, pwd.getpwnam("nobody").pw_uid, -1)
    assert world.statuses() == ["cloned"] * 3
    owners = {entry.lstat().st_uid for entry in [world.root, *world.root.rglob("*")]}
    assert owners == {pwd.getpwnam("nobody").pw_uid}
    assert world.statuses() == ["current"] * 3


def test_the_token_never_is_an_argument_nor_on_disk(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin/git"
    real = sh("/", "sh", "-c", "command -v git")
    wrapper.write_text(f'#!/bin/sh\necho "$@" >> {seen}\nenv | grep -c extraHeader >> {seen}.env\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=os.pathsep)
    wanted = checkouts.Workspace(
        root=str(world.root), repositories=[{"repo": "acme/one"}], user=ME, git_url="http://127.0.0.1:9",
        git_user_name="Loop", git_user_email="loop@example.org", token="s3cret",
    )  # fmt: skip
    done = checkouts.update(wanted)
    assert done["failed"] == ["one"] and "s3cret" not in json.dumps(done)
    assert "clone" in seen.read_text() and "s3cret" not in seen.read_text() and "czNjcmV0" not in seen.read_text()
    assert "1" in Path(f"{seen}.env").read_text()


def test_eight_that_are_current_are_quick(world: World) -> None:
    many = [{"repo": f"acme/{NAMES[number % 3]}", "dest": f"d{number}"} for number in range(8)]
    world.update(repositories=many)
    begun = time.monotonic()
    assert not world.update(repositories=many)["changed"]
    assert time.monotonic() - begun < 5  # about 0.3 s where nothing else runs


@pytest.mark.parametrize("kind", ["fifo", "directory", "link", "mode"])
@pytest.mark.parametrize("name", [".workspaces.lock", ".clone-one", ".clone-x"])
def test_what_stands_beside_the_checkouts_is_in_nobodys_way(ready: World, name: str, kind: str) -> None:
    put(ready.root / name, kind)
    assert ready.statuses() == ["current"] * 3
    assert not list(ready.root.glob(".clone-*"))


def test_a_heal_that_holds_a_checkout_is_waited_for_and_nobodys_lock_is_removed(ready: World) -> None:
    lock = ready.root / "one/.git/foreign.lock"
    lock.write_text("")
    (ready.root / "one/.git/index.lock").write_text("")
    tip = ready.push("one", "new")
    with alone_in(str(ready.root / "one/.git"), 1):
        began = threading.Thread(target=ready.update)
        began.start()
        time.sleep(1)
        assert sh(ready.root / "one", "git", "rev-parse", "HEAD") != tip
        assert ready.root.joinpath("one/.git/index.lock").exists()
    began.join()
    assert head(ready, "one") == tip and lock.exists()


def test_who_worked_there_before_it_was_our_turn_is_in_nobodys_way(ready: World) -> None:
    """As the git of another refresh does."""
    tip = ready.push("one", "new")
    with alone_in(str(ready.root), 1), subprocess.Popen(["sleep", "60"], cwd=ready.root / "one") as process:
        began = threading.Thread(target=ready.update)
        began.start()
        time.sleep(1)
        process.kill()
        process.wait()
    began.join()
    assert head(ready, "one") == tip


def test_a_lock_of_gits_that_somebody_holds_stays(ready: World) -> None:
    ready.push("one", "new")
    lock, began = ready.root / "one/.git/index.lock", time.monotonic()
    with lock.open("w+") as handle, subprocess.Popen(["sleep", "60"], stdin=handle) as holder:
        done = ready.update()
        holder.kill()
    assert done["failed"] == ["one"] and "is held by process" in done["repositories"][0]["detail"]
    assert lock.exists()
    found = ready.statuses()
    while found[0] == "failed" and time.monotonic() < began + 20:  # any git that is about to end may hold it
        found = ready.statuses()
    assert found == ["updated", "current", "current"]


def test_thousands_of_settings_go_at_once_and_what_stays_is_as_it_was(ready: World) -> None:
    config = ready.root / "one/.git/config"
    sh(ready.root / "one", "git", "config", 'branch.a"b\\c.merge', 'refs/heads/x "y" \\ # ;\tz')
    before = sh(ready.root / "one", "git", "config", "--local", "--list")
    with config.open("a") as handle:
        handle.writelines(f'[filter "f{number}"]\n\tclean = false\n\trequired\n' for number in range(30_000))
    began = time.monotonic()
    done = ready.update()["repositories"][0]
    assert done["status"] == "current" and len(done["removed_config"]) == 60_000
    assert time.monotonic() - began < 20
    after = sh(ready.root / "one", "git", "config", "--local", "--list")
    assert sorted(after.splitlines()) == sorted(before.splitlines())


def test_a_tag_is_no_branch(ready: World) -> None:
    sh(ready.work / "one", "git", "tag", "v1")
    sh(ready.work / "one", "git", "push", "-q", str(ready.forge / "acme/one.git"), "v1")
    done = ready.update(repositories=[{"repo": "acme/one", "dest": "tagged", "version": "v1"}])["repositories"][0]
    assert done["status"] == "failed" and "Remote branch v1 not found" in done["detail"]
    assert sorted(os.listdir(ready.root)) == sorted(NAMES)


@pytest.mark.parametrize("other", ["heads/refs/heads/main", "heads/a/refs/heads/main", "x/refs/heads/main"])
def test_a_branch_is_told_by_its_whole_name(ready: World, other: str) -> None:
    tip = ready.push("one", "new")
    sh(ready.forge / "acme/one.git", "git", "update-ref", f"refs/{other}", "main~1")
    assert ready.statuses() == ["updated", "current", "current"] and head(ready, "one") == tip


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize(
    ("ours", "theirs", "named"),
    [
        ("big.cache", "big.cache", "big.cache"),
        ("out.cache/result", "out.cache", "out.cache"),
        ("out.cache/result", "out.cache/result", "out.cache/result"),
        ("up.cache", "up.cache/more", "up.cache"),
    ],
)
def test_what_git_ignores_is_kept_where_the_tip_has_something_in_its_place(
    ready: World, ours: str, theirs: str, named: str, detached: bool
) -> None:
    checkout, work = ready.root / "one", ready.work / "one"
    if detached:
        sh(checkout, "git", "checkout", "-q", "--detach")
    for top, name, text in ((checkout, ours, "three days of work\n"), (work, theirs, "upstream\n")):
        (top / name).parent.mkdir(exist_ok=True)
        (top / name).write_text(text)
    sh(work, "git", "add", "-A", "-f")
    sh(work, "git", "commit", "-q", "-m", "up")
    sh(work, "git", "push", "-q", "--force", str(ready.forge / "acme/one.git"), "main")
    told = ready.update()["repositories"][0]
    assert told["status"] == "restored" and f"the tip replaces {named}, which git ignores" in told["detail"]
    assert Path(told["quarantined"], "tree", ours).read_text() == "three days of work\n"
    assert (checkout / theirs).read_text() == "upstream\n"


def test_what_git_ignores_stays_where_nothing_comes_in_its_place(ready: World) -> None:
    (ready.root / "one" / "out.cache").mkdir()
    (ready.root / "one" / "out.cache" / "result").write_text("three days of work\n")
    for name in ("out.cache/other", "new.cache"):
        (ready.work / "one" / name).parent.mkdir(exist_ok=True)
        (ready.work / "one" / name).write_text("upstream\n")
    sh(ready.work / "one", "git", "add", "-A", "-f")
    sh(ready.work / "one", "git", "commit", "-q", "-m", "up")
    sh(ready.work / "one", "git", "push", "-q", "--force", str(ready.forge / "acme/one.git"), "main")
    assert ready.update()["repositories"][0]["status"] == "updated"
    assert (ready.root / "one" / "out.cache" / "result").read_text() == "three days of work\n"
    assert (ready.root / "one" / "out.cache" / "other").read_text() == "upstream\n"
