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
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.files import alone_in, remove_tree
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees import checkouts
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.checkouts import Settings
from damages import DAMAGES, SETTINGS, Spoil, left_by_a_killed_git, setting

ME = pwd.getpwuid(os.geteuid()).pw_name
NAMES = ("one", "two", "three")


def sh(directory: Path | str, *command: str) -> str:
    identity = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    for who in ("AUTHOR", "COMMITTER"):
        identity |= {f"GIT_{who}_NAME": "Someone", f"GIT_{who}_EMAIL": "someone@example.org"}
    done = subprocess.run(
        command, cwd=directory, env={**os.environ, **identity}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


class World:
    """A forge on disk with three repositories, and a workspace for them."""

    def __init__(self, path: Path, user: str = ME) -> None:
        self.forge, self.root = path / "forge", path / "state/workspace"
        for name in NAMES:
            work = path / "work" / name
            work.mkdir(parents=True)
            sh(work, "git", "init", "-q", "-b", "main")
            (work / "README").write_text("0\n")
            (work / ".gitignore").write_text("*.cache\n")
            sh(work, "git", "add", "-A")
            sh(work, "git", "commit", "-q", "-m", "0")
            sh(path, "git", "clone", "-q", "--bare", str(work), str(self.forge / f"acme/{name}.git"))
        self.work = path / "work"
        (path / "state").mkdir()
        self.settings = Settings(
            root=str(self.root), repositories=[{"repo": f"acme/{name}"} for name in NAMES], user=user,
            git_url=str(self.forge), git_user_name="Loop", git_user_email="loop@example.org",
        )  # fmt: skip

    def push(self, name: str, text: str) -> str:
        (self.work / name / "README").write_text(f"{text}\n")
        sh(self.work / name, "git", "commit", "-q", "-a", "-m", text)
        sh(self.work / name, "git", "push", "-q", "--force", str(self.forge / f"acme/{name}.git"), "main")
        return sh(self.work / name, "git", "rev-parse", "HEAD")

    def update(self, check: bool = False, **changed: Any) -> dict[str, Any]:
        return checkouts.update(Settings(**{**self.settings.__dict__, **changed}), check=check)

    def statuses(self, check: bool = False, **changed: Any) -> list[str]:
        return [one["status"] for one in self.update(check, **changed)["repositories"]]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def ready(world: World) -> World:
    world.update()
    return world


def head(world: World, name: str) -> str:
    assert sh(world.root / name, "git", "symbolic-ref", "HEAD") == "refs/heads/main"
    assert sh(world.root / name, "git", "status", "--porcelain") == ""
    return sh(world.root / name, "git", "rev-parse", "HEAD")


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


def test_refs_in_a_reftable_are_replaced_by_a_clone(ready: World) -> None:
    (ready.root / "one/.git/HEAD").write_text("ref: refs/heads/.invalid\n")
    (ready.root / "one/mine").write_text("mine\n")
    done = ready.update()["repositories"][0]
    assert (done["status"], done["detail"]) == ("restored", "its refs are kept in a reftable")
    assert Path(done["quarantined"], "whole/mine").read_text() == "mine\n"
    assert ready.statuses() == ["current", "current", "current"]


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


def test_root_leaves_the_work_to_the_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    try:
        world = World(path, user="nobody")
        for entry in [path, *path.rglob("*")]:
            os.chown(entry, pwd.getpwnam("nobody").pw_uid, -1)
        assert world.statuses() == ["cloned"] * 3
        owners = {entry.lstat().st_uid for entry in [world.root, *world.root.rglob("*")]}
        assert owners == {pwd.getpwnam("nobody").pw_uid}
        assert world.statuses() == ["current"] * 3
    finally:
        sh("/", "rm", "-rf", str(path))


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
    wanted = checkouts.Settings(
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


def test_all_together_have_a_bound_of_time(ready: World) -> None:
    tip = ready.push("one", "new")
    late = ready.update(seconds=1e-9)
    assert late["failed"] == list(NAMES)
    assert "no time was left for it: all of them together may take 1e-09 s" in late["repositories"][0]["detail"]
    assert head(ready, "one") != tip
    assert ready.update(seconds=60.0)["failed"] == [] and head(ready, "one") == tip


# --- what an agent can leave in a checkout


GIT_FILES = ("HEAD", "config", "index", "packed-refs", "shallow", "info/exclude", "objects/info/alternates")
PLACES = [*(f".git/{name}" for name in GIT_FILES), ".gitignore", ".gitattributes", ".git/loop-worktrees.lock"]


def put(place: Path, kind: str) -> None:
    """Something that is no file of its own in the place of one."""
    place.parent.mkdir(parents=True, exist_ok=True)
    content = place.read_bytes() if place.exists() else b""
    place.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "directory":
        (place / "x").mkdir(parents=True)
    elif kind == "link":
        place.symlink_to("/dev/zero")
    else:
        place.write_bytes(content)
        place.chmod(0)


@pytest.mark.parametrize("kind", ["fifo", "directory", "link"])
@pytest.mark.parametrize("name", PLACES)
def test_what_stands_in_the_place_of_a_file_stops_no_one(ready: World, name: str, kind: str) -> None:
    put(ready.root / "two" / name, kind)
    tips = {each: ready.push(each, "new") for each in NAMES}
    began = time.monotonic()
    done = ready.update()
    assert time.monotonic() - began < 20
    assert not done["failed"] and {each: head(ready, each) for each in NAMES} == tips
    assert ready.statuses() == ["current"] * 3


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_files_and_directories_without_permissions_stop_no_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in (".git/HEAD", ".git/config", ".git/index", ".git/objects", ".git", ".", ".gitignore"):
        path = tmp_path_factory.mktemp("world")
        for parent in (path, *path.parents):
            parent.chmod(parent.stat().st_mode | 0o055)
        world = World(path, user="nobody")
        sh(path, "chown", "-R", "nobody", "state", "forge")
        assert not world.update()["failed"]
        (world.root / "two" / name).chmod(0)
        done = world.update()
        assert not done["failed"], name
        assert (world.root / "two/README").read_text() == "0\n"


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


@pytest.mark.parametrize("ref", ["refs/remotes/origin/main", "refs/remotes/origin/gone", "refs/sessions/1/turn/7"])
@pytest.mark.parametrize("content", ["", "1" * 40 + "\n"])
def test_a_broken_ref_keeps_nothing_from_its_tip(ready: World, ref: str, content: str) -> None:
    (ready.root / "one/.git" / ref).parent.mkdir(parents=True, exist_ok=True)
    (ready.root / "one/.git" / ref).write_text(content)
    (ready.root / "one/mine").write_text("mine\n")
    tip = ready.push("one", "new")
    done = ready.update()["repositories"][0]
    assert done["status"] == "restored" and head(ready, "one") == tip
    assert [each.read_text() for each in Path(done["quarantined"]).glob("*/mine")] == ["mine\n"]


@pytest.mark.parametrize("new", [False, True], ids=["nothing new", "something new"])
@pytest.mark.parametrize("spoil", [pytest.param(spoil, id=name) for name, spoil in DAMAGES.items()])
def test_a_damaged_one_is_made_anew(ready: World, spoil: Spoil, new: bool) -> None:
    """In the same run, and no other has to suffer for it."""
    ready.push("one", "more")
    ready.update()
    (ready.root / "one/mine").write_text("mine\n")
    (ready.root / "one/mine").rename(ready.root / "mine")  # a clone in its place would be in its way
    spoil(ready.root / "one/.git")
    (ready.root / "mine").rename(ready.root / "one/mine")
    tip = ready.push("one", "new") if new else sh(ready.work / "one", "git", "rev-parse", "HEAD")
    one, two, three = ready.update()["repositories"]
    assert one["status"] == "restored" and "cannot be reached" not in one["detail"]
    assert (two["status"], three["status"]) == ("current", "current") and head(ready, "one") == tip
    assert [each.read_text() for each in Path(one["quarantined"]).glob("*/mine")] == ["mine\n"]
    assert ready.statuses() == ["current"] * 3
    sh(ready.root / "one", "git", "fsck", "--strict")


@pytest.mark.parametrize(
    "spoil",
    [pytest.param(spoil, id=name) for name, spoil in SETTINGS.items()]
    + [pytest.param(setting("core.worktree", "/nowhere"), id="a worktree elsewhere")],
)
def test_settings_that_git_would_stop_at_are_put_right(ready: World, spoil: Spoil) -> None:
    spoil(ready.root / "one/.git")
    assert ready.update()["repositories"][0]["status"] in ("current", "restored")
    assert ready.statuses() == ["current"] * 3
    assert sh(ready.root / "one", "git", "status", "--short") == ""


def test_an_index_that_cannot_be_read(ready: World) -> None:
    (ready.root / "one/.git/index").write_bytes(b"DIRC" + bytes(100))
    assert ready.statuses() == ["restored", "current", "current"]
    assert ready.statuses() == ["current"] * 3


def test_what_a_killed_git_left_is_cleared_though_nothing_is_to_be_done(ready: World) -> None:
    left = left_by_a_killed_git(ready.root / "one/.git")
    assert ready.statuses(check=True) == ["current"] * 3 and all(path.exists() for path in left)
    assert ready.statuses() == ["current"] * 3 and not [path for path in left if path.exists()]


def test_a_tag_is_no_branch(ready: World) -> None:
    sh(ready.work / "one", "git", "tag", "v1")
    sh(ready.work / "one", "git", "push", "-q", str(ready.forge / "acme/one.git"), "v1")
    done = ready.update(repositories=[{"repo": "acme/one", "dest": "tagged", "version": "v1"}])["repositories"][0]
    assert done["status"] == "failed" and "Remote branch v1 not found" in done["detail"]
    assert sorted(os.listdir(ready.root)) == sorted(NAMES)


def test_cut_off_borrowed_and_partial_clones_are_made_anew(ready: World) -> None:
    forge = {name: f"file://{ready.forge}/acme/{name}.git" for name in NAMES}
    for name in NAMES:
        ready.push(name, "new")
        shutil.rmtree(ready.root / name)
    sh(ready.forge / "acme/three.git", "git", "config", "uploadpack.allowFilter", "true")
    sh(ready.root, "git", "clone", "-q", "--depth=1", forge["one"], "one")
    sh(ready.root, "git", "clone", "-q", "--reference", str(ready.work / "two"), forge["two"], "two")
    sh(ready.root, "git", "clone", "-q", "--filter=tree:0", forge["three"], "three")
    details = [one["detail"] for one in ready.update()["repositories"]]
    assert details == [
        "its history is cut off", "its objects are those of another repository", "it is a partial clone"
    ]  # fmt: skip
    assert ready.statuses() == ["current"] * 3
    for name in NAMES:
        sh(ready.root / name, "git", "fsck", "--strict")


def test_an_object_that_is_empty_is_found_though_nothing_is_to_be_done(ready: World) -> None:
    blob = sh(ready.root / "one", "git", "rev-parse", "HEAD:README")
    place = ready.root / f"one/.git/objects/{blob[:2]}/{blob[2:]}"
    place.unlink()  # the forge has a hard link to it
    place.write_bytes(b"")
    done = ready.update()["repositories"][0]
    assert done["status"] == "restored" and done["detail"] == f"{place} is empty or no file"
    assert ready.statuses() == ["current"] * 3


def test_what_cannot_be_cloned_anew_stays_where_it_is(ready: World) -> None:
    put(ready.root / "one/.git/HEAD", "fifo")
    (ready.forge / "acme/one.git").rename(ready.forge / "acme/away.git")
    done = ready.update()
    assert done["failed"] == ["one"] and "cannot be cloned" in done["repositories"][0]["detail"]
    assert (ready.root / "one/README").read_text() == "0\n" and not (ready.root / ".quarantine").exists()


@pytest.mark.parametrize("other", ["heads/refs/heads/main", "heads/a/refs/heads/main", "x/refs/heads/main"])
def test_a_branch_is_told_by_its_whole_name(ready: World, other: str) -> None:
    tip = ready.push("one", "new")
    sh(ready.forge / "acme/one.git", "git", "update-ref", f"refs/{other}", "main~1")
    assert ready.statuses() == ["updated", "current", "current"] and head(ready, "one") == tip


def test_a_tree_deeper_than_a_walk_can_go_and_names_that_are_no_text(ready: World) -> None:
    top = ready.root / "one"
    (top / " ").mkdir()
    (top / " " / "file").write_text("mine\n")
    (top / os.fsdecode(b"caf\xe9")).write_text("mine\n")
    deep(top / "deep", 3000)
    shutil.copytree(top / " ", ready.root / ".clone-one")
    deep(ready.root / ".clone-one/deep", 3000)
    began = time.monotonic()
    done = ready.update()["repositories"][0]
    assert done["status"] == "restored" and not list(ready.root.glob(".clone-*"))
    assert time.monotonic() - began < 20
    assert (Path(done["quarantined"]) / "tree" / " " / "file").read_text() == "mine\n"
    assert ready.statuses() == ["current"] * 3
    remove_tree(str(ready.root))  # pytest's own cleaning would end in it
    assert not ready.root.exists()


def deep(top: Path, levels: int) -> None:
    """Directories below each other, deeper than a path can be long."""
    top.mkdir()
    descriptor = os.open(top, os.O_RDONLY)
    for _level in range(levels):
        os.mkdir("dd", dir_fd=descriptor)
        inner = os.open("dd", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
