# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a heal refuses, whom it waits for, what it never runs, and how it ends after it was cut off."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.files import alone_in
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.untrusted import opened
from ansible_collections.as215932.engineering_loop.plugins.module_utils.git.repository import Repo
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees import heal as heal_module
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees import quarantine as quarantine_module
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.heal import absent
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.manifests import listing
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.owners import _giver
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.restore import restore
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.retention import Retention, purge
from leftovers import BRANCH, World, git, heal, reachable, sentinels, snapshot, swept, usable, wanted


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def everything(world: World) -> tuple[dict[str, tuple[str, int, bytes]], str]:
    files = snapshot(world.root)
    files.pop("workspace/app/.git/loop-worktrees.lock", None)  # made by every heal, never removed
    return files, git(world.repo, "for-each-ref")


# --- live runs --------------------------------------------------------------------------------


@pytest.fixture
def sleeper(world: World) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"], cwd="/")
    yield process
    process.kill()
    process.wait()


def refused(world: World, words: str, **options: Any) -> None:
    before = everything(world)
    with pytest.raises(LoopError, match=words) as caught:
        heal(world, **options)
    assert "\n" not in str(caught.value)
    assert everything(world) == before


def test_a_living_run_is_left_alone(world: World, sleeper: subprocess.Popen[bytes]) -> None:
    world.worktree()
    lock = world.root / "daemon.lock"
    lock.write_text(json.dumps({"pid": sleeper.pid, "started_at": time.time()}))
    refused(world, "a run is in progress", run_lock=str(lock))
    with pytest.raises(LoopError, match="a run is in progress"):
        swept(world, run_lock=str(lock))


def test_the_lock_of_a_dead_process_is_nobodys(world: World) -> None:
    world.worktree()
    gone = subprocess.Popen(["true"])
    gone.wait()
    lock = world.root / "daemon.lock"
    lock.write_text(json.dumps({"pid": gone.pid, "started_at": time.time()}))
    heal(world, run_lock=str(lock))
    usable(world)


def test_a_pid_that_was_given_again_is_nobodys(world: World, sleeper: subprocess.Popen[bytes]) -> None:
    world.worktree()
    lock = world.root / "daemon.lock"
    lock.write_text(json.dumps({"pid": sleeper.pid, "started_at": "2020-01-02T03:04:05+00:00"}))
    heal(world, run_lock=str(lock))
    usable(world)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', '{"pid": -1}', '{"pid": 99999999999}'])
def test_a_damaged_lock_does_not_stop_the_next_run(world: World, content: str) -> None:
    world.worktree()
    lock = world.root / "daemon.lock"
    lock.write_text(content)
    heal(world, run_lock=str(lock))
    usable(world)


# Its first thread ends; the process, with all that it has open, goes on.
ONE_THREAD_LEFT = (
    "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(600,)).start();"
    "print(1, flush=True); ctypes.CDLL(None).pthread_exit(0)"
)


@pytest.mark.parametrize("how", ["cwd", "open file", "another worktree with the branch", "its first thread ended"])
def test_a_process_inside_is_left_alone(world: World, how: str) -> None:
    place = world.worktree(world.other if how.startswith("another") else world.path)
    thread = how.startswith("its")
    with (place / "debug.log").open() as handle:
        process = subprocess.Popen(
            [sys.executable, "-c", ONE_THREAD_LEFT] if thread else ["sleep", "600"],
            cwd="/" if how == "open file" else place / "docs",
            stdin=handle.fileno(),
            stdout=subprocess.PIPE if thread else None,
        )
    try:
        if process.stdout:
            process.stdout.readline()
            while " Z " not in Path(f"/proc/{process.pid}/stat").read_text():
                time.sleep(0.01)
        refused(world, f"is in use: process {process.pid}")
        assert [entry["why"] for entry in swept(world)["kept"]] != []
        assert (place / "untracked.txt").read_text() == "sentinel: untracked\n"
    finally:
        process.kill()
        process.communicate()
    heal(world)
    usable(world)


def test_a_ref_lock_that_a_living_git_holds_is_respected(world: World) -> None:
    world.worktree()
    with subprocess.Popen(
        ["git", "update-ref", "--stdin"], cwd=world.repo, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout
        process.stdin.write(f"start\nupdate refs/heads/{BRANCH} {world.base}\nprepare\n".encode())
        process.stdin.flush()
        assert [process.stdout.readline() for _unused in range(2)] == [b"start: ok\n", b"prepare: ok\n"]
        refused(world, f"app.lock is held by process {process.pid}")
        process.kill()
    heal(world)
    usable(world)


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


def test_a_lock_that_is_never_given_back_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with alone_in(str(world.repo / ".git"), 1):
        monkeypatch.setattr(heal_module, "LOCK_SECONDS", 0.1)
        refused(world, "another process has held the lock")


# --- bad input --------------------------------------------------------------------------------

BRANCHES = [
    "a..b", "a@{b", "-a", "a/-b", "a.lock", "a.lock/b", "a\tb", "a\nb", "a" * 300, "\u0430dmin/x", "a/", "/a", "a//b",
    ".a", "a/.b", "a.", "@", "a b", "a~1", "a^", "a:b", "a?", "a*", "a[b", "a\\b", "", "main", "HEAD", "refs/heads/a",
    "a;b", "$(a)", "`a`", "a\x7fb", "a\u200bb", "a|b", "a&b", "a'b", 'a"b', "..", "production",
]  # fmt: skip


@pytest.mark.parametrize("branch", BRANCHES)
def test_a_branch_that_could_be_misread_is_refused(world: World, branch: str) -> None:
    world.worktree()
    refused(world, "^branch ", branch=branch)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/", "below /"),
        ("relative/path", "absolute"),
        ("{repo}", "one inside the other"),
        ("{repo}/inside", "one inside the other"),
        ("{repo}/.git/worktrees/x", "inside a git directory"),
        ("{root}/workspace", "one inside the other"),
        ("{root}", "one inside the other"),
        ("{other}/deeper", "inside another worktree"),
        ("{root}/a/../b", "without"),
        ("{root}/a\nb", "control character"),
        ("{root}/" + "a" * 300, "too long"),
        ("{root}/x.git/../.git/y", "without"),
        ("//net/share", "absolute"),
    ],
)
def test_a_path_that_is_no_place_for_a_worktree_is_refused(world: World, path: str, words: str) -> None:
    world.worktree(world.other, "somebody/else")
    filled = path.format(repo=world.repo, root=world.root, other=world.other)
    refused(world, words, path=filled)


@pytest.mark.parametrize("base", ["nowhere", "--help", "", "a b", "0" * 40, "HEAD:docs", "HEAD^5", "\x00"])
def test_a_base_that_is_no_commit_is_refused(world: World, base: str) -> None:
    world.worktree()
    refused(world, "base_ref", base_ref=base)


def test_an_ambiguous_base_is_refused(world: World) -> None:
    world.worktree()
    git(world.repo, "branch", "twice")
    git(world.repo, "tag", "twice")
    refused(world, "ambiguous", base_ref="twice")


def test_a_base_beyond_a_shallow_clone_is_refused(world: World) -> None:
    git(world.repo, "commit", "-q", "--allow-empty", "-m", "second")
    clone = world.root / "shallow"
    git(world.root, "clone", "-q", "--depth", "1", world.repo.as_uri(), str(clone))
    with pytest.raises(LoopError, match="shallow"):
        heal(world, repo=str(clone), base_ref=world.base)
    assert heal(world, repo=str(clone))["head"] != world.base


def test_a_repository_without_commits_is_one_clear_error(world: World) -> None:
    empty = world.root / "empty"
    empty.mkdir()
    git(empty, "init", "-q")
    with pytest.raises(LoopError, match="has no commit yet"):
        heal(world, repo=str(empty))


@pytest.mark.parametrize("make", ["nothing", "directory", "worktree"])
def test_what_is_no_main_checkout_is_refused(world: World, make: str) -> None:
    place = world.root / "place"
    if make == "directory":
        place.mkdir()
    if make == "worktree":
        world.worktree(place, "somebody/else")
    with pytest.raises(LoopError, match=r"cannot be read|not a git repository|itself a linked worktree"):
        heal(world, repo=str(place))


def test_a_damaged_head_is_one_clear_error(world: World) -> None:
    (world.repo / ".git" / "HEAD").write_text("garbage\n")
    with pytest.raises(LoopError, match="is damaged"):
        heal(world)


def test_a_quarantine_on_another_file_system_says_how_much_it_would_copy(world: World) -> None:
    world.worktree()
    with tempfile.TemporaryDirectory(dir=other_file_system(world.root)) as place:
        refused(world, r"different file systems: it would have to copy \d{4,} bytes", quarantine=f"{place}/q")


def other_file_system(place: Path) -> str:
    return next(each for each in ("/dev/shm", "/tmp", "/var/tmp") if os.stat(each).st_dev != place.stat().st_dev)


@pytest.mark.parametrize("quarantine", ["relative", "{path}/inside", "{path}", "/"])
def test_a_quarantine_at_a_wrong_place_is_refused(world: World, quarantine: str) -> None:
    world.worktree()
    refused(world, "quarantine", quarantine=quarantine.format(path=world.path))


# --- what is never run ------------------------------------------------------------------------


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


# --- cut off ----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(12))
def test_a_heal_that_dies_between_two_steps_is_finished_by_the_next(world: World, steps: int) -> None:
    """Every step that changes something is counted; after ``steps`` of them the process kills itself."""
    world.worktree()
    git(world.path, "checkout", "-q", "--detach")
    world.commit(world.path, "detached\n")
    before = sentinels(world.root)
    child = os.fork()
    if child == 0:
        left = [steps]

        def counted(work: Any) -> Any:
            def step(*arguments: Any, **options: Any) -> Any:
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                return work(*arguments, **options)

            return step

        for module, name in (
            (quarantine_module, "write_manifest"), (quarantine_module, "_mark"), (os, "rename"), (heal_module, "add")
        ):  # fmt: skip
            setattr(module, name, counted(getattr(module, name)))
        heal(world)
        os._exit(0)
    os.waitpid(child, 0)

    heal(world)

    usable(world)
    assert set(world.commits) <= reachable(world)
    assert sentinels(world.root) == before
    quarantine = str(world.path.parent / ".quarantine")
    with_tree = [thing for thing in listing(quarantine) if os.path.isfile(f"{thing['to']}/tree/untracked.txt")]
    assert len(with_tree) == 1
    back = Path(restore(quarantine, with_tree[0]["id"])["path"])
    assert (back / "untracked.txt").read_text() == "sentinel: untracked\n"
    assert git(back, "rev-parse", "HEAD") == world.commits[-1]


@pytest.mark.parametrize("delay", [0.001, 0.003, 0.006, 0.01, 0.015])
def test_a_killed_worktree_add_is_healed(world: World, delay: float) -> None:
    for number in range(300):
        (world.repo / "docs" / f"{number}.md").write_text(f"{number}\n")
    git(world.repo, "add", "-A")
    git(world.repo, "commit", "-qm", "many")
    world.base = git(world.repo, "rev-parse", "HEAD")
    command = ["git", "worktree", "add", "-q", "-b", BRANCH, str(world.path)]
    with subprocess.Popen(command, cwd=world.repo, start_new_session=True) as process:
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
    while group_lives(process.pid):  # a signal takes a moment on a busy machine, and what lives is rightly respected
        time.sleep(0.01)
    heal(world, fresh=False)
    usable(world)


def group_lives(group: int) -> bool:
    """Whether a process of that group is not dead yet."""
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _parent, own = place.read_text().rpartition(")")[2].split()[:3]
            if int(own) == group and state not in "ZX":
                return True
    return False


# --- restore and retention --------------------------------------------------------------------


def test_a_restored_run_is_at_its_very_path_again(world: World) -> None:
    world.worktree()
    (world.path / "staged.txt").write_text("staged\n")
    git(world.path, "add", "staged.txt")
    before, status = snapshot(world.path), git(world.path, "status", "--porcelain=v2", "--branch")
    link, admin = (world.path / ".git").read_bytes(), snapshot(world.admin)
    swept(world)
    assert not world.path.exists()
    done = restore(str(world.runs / ".quarantine"), listing(str(world.runs / ".quarantine"))[0]["id"])
    assert done["path"] == str(world.path)
    assert done["branch"] == BRANCH
    assert snapshot(world.path) == before
    assert (world.path / ".git").read_bytes() == link
    assert git(world.path, "status", "--porcelain=v2", "--branch") == status
    assert {name: entry for name, entry in snapshot(world.admin).items() if name != "index"} == {
        name: entry for name, entry in admin.items() if name != "index"
    }
    assert git(world.path, "log", "-g", "--format=%gs", BRANCH).splitlines()[0] == "commit: a sentinel commit"


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


def test_a_restore_of_nothing_is_one_clear_error(world: World) -> None:
    for what in ("rubbish", "20260102T030405Z-1a2b3c4d-0"):
        with pytest.raises(LoopError):
            restore(str(world.runs / ".quarantine"), what)


def test_purge_keeps_what_is_young_and_lets_the_oldest_go(world: World) -> None:
    quarantine = world.runs / ".quarantine"
    for days in (40, 20, 2, 0):
        world.path.mkdir(exist_ok=True)
        (world.path / "note.txt").write_text(f"{days}\n" * 4000)
        git(world.repo, "branch", "-f", BRANCH)
        swept(world)
        for thing in listing(str(quarantine)):
            if days and thing["when"] > "2001":
                age_by(world, thing, days)
    assert len(listing(str(quarantine))) == 8
    assert len(purge(str(quarantine), Retention(age=30 * 86400), check=True)["purged"]) == 2
    assert len(listing(str(quarantine))) == 8
    gone = purge(str(quarantine), Retention(age=30 * 86400))
    assert len(gone["purged"]) == 2
    assert all(entry["age"] > 39 * 86400 and entry["size"] > 0 for entry in gone["purged"])
    gone = purge(str(quarantine), Retention(size=0, min_age=86400))
    assert [entry["why"] for entry in gone["purged"]] == ["the quarantine is larger than allowed"] * 4
    assert gone["left"] == 2
    assert len(git(world.repo, "for-each-ref", "refs/loop-salvage").splitlines()) == 1
    assert purge(str(quarantine), Retention(age=0, min_age=0))["left"] == 0
    assert git(world.repo, "for-each-ref", "refs/loop-salvage") == ""


def age_by(world: World, thing: dict[str, Any], days: int) -> None:
    """Let a quarantined thing be older than it is: its id tells."""
    old = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() - days * 86400)) + thing["id"][16:]
    manifest = json.loads(Path(thing["to"], "manifest.json").read_text())
    manifest["when"] = "2000-01-01T00:00:00Z"
    Path(thing["to"], "manifest.json").write_text(json.dumps(manifest))
    Path(thing["to"]).rename(Path(thing["to"]).with_name(old))
    held = world.repo / ".git" / "loop-quarantine" / thing["id"]
    if held.exists():
        held.rename(held.with_name(old))
    for row in git(world.repo, "for-each-ref", "--format=%(objectname) %(refname)", "refs/loop-salvage").splitlines():
        commit, ref = row.split()
        if thing["id"] in ref:
            git(world.repo, "update-ref", ref.replace(thing["id"], old), commit)
            git(world.repo, "update-ref", "-d", ref)


# --- sweep ------------------------------------------------------------------------------------


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


def test_absent_takes_both_away_and_is_then_content(world: World) -> None:
    world.worktree()
    done = absent(wanted(world))
    assert done["changed"]
    assert not world.path.exists()
    assert git(world.repo, "for-each-ref", "refs/heads/hyrule-feature") == ""
    assert not absent(wanted(world))["changed"]


def test_a_healthy_worktree_is_used_again(world: World) -> None:
    world.worktree()
    before = everything(world)
    done = heal(world, fresh=False)
    assert (done["changed"], done["head"]) == (False, world.commits[0])
    assert everything(world) == before


NOBODY = pwd.getpwnam("nobody")

# --- owners -----------------------------------------------------------------------------------


@pytest.fixture
def shared() -> Iterator[World]:
    """A world that belongs to an unprivileged user, made by that user."""
    place = Path(tempfile.mkdtemp(prefix="loop-"))
    place.chmod(0o755)
    world = World(place / "world")
    subprocess.run(["chown", "-R", f"{NOBODY.pw_uid}:{NOBODY.pw_gid}", str(place / "world")], check=True)
    yield world
    shutil.rmtree(place)


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
    nobody = pwd.getpwnam("nobody").pw_uid
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
