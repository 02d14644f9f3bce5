# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate before a push: real git pushes with the engine's own environment, and the gate as its hook."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[4] / "tests" / "world"))

from ansible_collections.as215932.engineering_loop.plugins.module_utils import (
    cells,
    gate_policy,
    push_gate,
    runtime,
    settings,
)
from ansible_collections.as215932.engineering_loop.plugins.module_utils.errors import LoopError
from forge import Running, running

COLLECTIONS = Path(__file__).resolve().parents[4] / ".collections"
MODULE = "ansible_collections.as215932.engineering_loop.plugins.module_utils.push_gate"
BRANCH = "hyrule-feature/X/app"
KEY = "-----BEGIN OPENSSH PRIVATE " + "KEY-----"
POLICY = """\
version: 1
defaults:
  max_changed_files: 20
  denied_path_globs: ["*.key"]
  denied_content_patterns: ["-----BEGIN .*PRIVATE KEY-----"]
  allowed_gate_commands: [git]
  protected_branch_prefixes: [main]
  allowed_pr_remotes: [origin]
  allowed_handoff_dirs: [/runs]
"""
SETTINGS: dict[str, Any] = {
    **{key: kind() for key, kind in settings.KEYS.items()},
    "user": "root",
    "group": "root",
    "unit": "u",
    "branch_prefixes": ["hyrule-feature", "hyrule-loop"],
    "canary_required": True,
}


class Loop:
    """One deployed loop: a remote, the cell of a cycle with its checkout and a worktree, and the gate."""

    def __init__(self, top: Path, git_url: str = "", repo: str = "") -> None:
        self.top, self.token = top, ""
        self.remote = top / "remote.git"
        places = ("install", "config", "lib", "state", "pristine", "runs", "memory", "cycles")
        self.config = {**SETTINGS, **{f"{name}_dir": str(top / name) for name in places}}
        for name in places:
            (top / name).mkdir()
        self.cell = top / "runs" / "20260131T120000Z-1a2b3c4d"
        for part in cells.PARTS:
            (self.cell / part).mkdir(parents=True)
        policy = top / "config" / "policy.yml"
        policy.write_text(POLICY, encoding="utf-8")
        self.config |= {
            "policy_file": str(policy),
            "policy_sha256": gate_policy.digest(gate_policy.load_file(str(policy))),
            "git_url": git_url,
            "workspace_repositories": [{"repo": repo or str(self.remote), "dest": "app", "version": "main"}],
        }
        self.save()
        self.program(top / "lib" / "hooks" / "pre-push", "pre_push")
        self.program(top / "lib" / "git-askpass", "askpass", 'case "$1" in Username*) echo x; exit;; esac')
        self.program(top / "lib" / "loop", "guarded_git", "shift")
        door = top / "lib" / "bin" / "git"
        door.parent.mkdir()
        door.write_text(runtime.git_door(str(top / "lib")), encoding="utf-8")
        door.chmod(0o755)
        if not repo:
            self.git(top, "init", "-q", "--bare", "-b", "main", str(self.remote))
            self.commit_elsewhere("docs/a.md")
        self.url = f"{git_url}/{repo}.git" if repo else str(self.remote)
        self.checkout = self.cell / "workspace" / "app"
        self.git(top, "clone", "-q", self.url, str(self.checkout))
        self.worktree = self.cell / "runs" / "x" / "worktrees" / "app-X"
        self.git(self.checkout, "worktree", "add", "-q", "-b", BRANCH, str(self.worktree))

    @property
    def inside(self) -> dict[str, Any]:
        """The settings as what runs in the cell has them."""
        return cells.settings_in(self.config, cells.Cell(str(self.cell)))

    def save(self) -> None:
        (self.top / "config" / "loop.json").write_text(json.dumps(self.config), encoding="utf-8")

    def program(self, path: Path, function: str, before: str = "") -> None:
        """What the launcher does on a host, with the Python and the collection of the tests."""
        path.parent.mkdir(exist_ok=True)
        call = f"import sys; from {MODULE} import {function}; sys.exit({function}(*sys.argv[1:]))"
        python = f'PYTHONPATH={COLLECTIONS} exec {sys.executable} -c "{call}" "$@"'
        path.write_text(f"#!/bin/sh\n{before}\n{python}\n", encoding="utf-8")
        path.chmod(0o755)

    def git(self, directory: Path, *arguments: str) -> str:
        """git as a person or an agent runs it, unguarded."""
        alone = {"PATH": os.environ["PATH"], "HOME": str(self.top), "GIT_CONFIG_NOSYSTEM": "1"}
        for who in ("AUTHOR", "COMMITTER"):
            alone |= {f"GIT_{who}_NAME": "pi", f"GIT_{who}_EMAIL": "pi@example.invalid"}
        done = subprocess.run(["git", *arguments], cwd=directory, env=alone, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(self, path: str, text: str = "text\n", message: str = "Page") -> str:
        (self.worktree / path).parent.mkdir(parents=True, exist_ok=True)
        (self.worktree / path).write_text(text, encoding="utf-8")
        self.git(self.worktree, "add", "-A")
        self.git(self.worktree, "commit", "-q", "-m", message)
        return self.git(self.worktree, "rev-parse", "HEAD")

    def commit_elsewhere(self, path: str) -> None:
        """What a person merges while the loop is not looking."""
        clone = self.top / f"clone-{path.replace('/', '-')}"
        self.git(self.top, "clone", "-q", str(self.remote), str(clone))
        (clone / path).parent.mkdir(exist_ok=True)
        (clone / path).write_text("text\n", encoding="utf-8")
        self.git(clone, "add", "-A")
        self.git(clone, "commit", "-q", "-m", "Merged")
        self.git(clone, "push", "-q", "origin", "HEAD:main")

    def push(
        self, *refs: str, remote: str = "origin", options: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """As the engine pushes, but past the guard before git, so that the gate behind it is asked."""
        return self.engine("/usr/bin/git", "push", *options, remote, *(refs or (f"HEAD:{BRANCH}",)))

    def engine(self, *command: str) -> subprocess.CompletedProcess[str]:
        """What the engine runs, in its environment."""
        environment = {"HOME": str(self.cell / "state"), "GH_TOKEN": self.token, **push_gate.environment(self.inside)}
        # A shell, because Python would look for the program on our own PATH.
        words = ["sh", "-c", 'exec "$@"', "sh", *command]
        return subprocess.run(
            words, cwd=self.worktree, env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    def refs(self, remote: Path | None = None) -> dict[str, str]:
        lines = self.git(remote or self.remote, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
        return dict(line.split(" ") for line in lines)

    def refused(self, *refs: str, remote: str = "origin", options: tuple[str, ...] = ()) -> str:
        """Push and be refused: the reason, after looking that nothing moved on either side."""
        before, head = self.refs(), self.git(self.worktree, "rev-parse", "HEAD")
        done = self.push(*refs, remote=remote, options=options)
        assert done.returncode != 0
        assert self.refs() == before
        assert self.git(self.worktree, "rev-parse", "HEAD") == head
        told = [line for line in done.stderr.splitlines() if line.startswith("push refused: ")]
        verdicts = push_gate.take_verdicts(self.inside)
        assert [one["reason"] for one in verdicts] == told and len(told) == 1, done.stderr
        assert not verdicts[0]["allowed"]
        assert told[0].endswith(f"nothing was published, the work stays in {self.worktree}")
        return told[0]


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    return Loop(tmp_path)


def test_good_work_passes_and_is_told(loop: Loop) -> None:
    sha = loop.commit("docs/b.md")
    done = loop.push()
    assert done.returncode == 0, done.stderr
    assert loop.refs()[f"refs/heads/{BRANCH}"] == sha
    verdict = push_gate.take_verdicts(loop.inside)[0]
    assert verdict["allowed"] and verdict["refs"] == {f"refs/heads/{BRANCH}": sha} and verdict["seconds"] < 30
    assert push_gate.take_verdicts(loop.inside) == []
    more = loop.commit("docs/c.md")
    assert loop.push().returncode == 0
    assert loop.refs()[f"refs/heads/{BRANCH}"] == more


def test_what_was_merged_meanwhile_is_not_ours(loop: Loop) -> None:
    loop.commit_elsewhere("src/theirs.py")
    loop.commit("docs/b.md")
    done = loop.push()
    assert done.returncode == 0, done.stderr


def test_allowed_paths_are_those_of_the_checkout(loop: Loop) -> None:
    loop.config["allowed_paths"] = {"app": ["src"], "other": ["docs"]}
    loop.save()
    loop.commit("docs/b.md")
    assert "docs/b.md: outside of what may be changed (src)" in loop.refused()


# --- what is in the commits


def test_every_commit_counts_not_only_the_last(loop: Loop) -> None:
    loop.commit("docs/b.md", f"{KEY}\n")
    loop.commit("docs/b.md", "clean\n")
    assert "docs/b.md: adds text denied by -----BEGIN .*PRIVATE KEY-----" in loop.refused()


def test_a_merged_side_branch_counts(loop: Loop) -> None:
    loop.git(loop.worktree, "checkout", "-q", "-b", "side")
    loop.commit("src/x.py")
    loop.git(loop.worktree, "checkout", "-q", BRANCH)
    loop.commit("docs/b.md")
    loop.git(loop.worktree, "merge", "-q", "--no-ff", "-m", "Merge", "-s", "ours", "side")
    assert "src/x.py: outside" in loop.refused()


@pytest.mark.parametrize("empty", [True, False])
def test_messages_are_published_too(loop: Loop, empty: bool) -> None:
    if not empty:
        loop.commit("docs/b.md")
    loop.git(loop.worktree, "commit", "-q", "--allow-empty", "-m", f"Page\n\n{KEY}")
    assert "a commit: adds text denied" in loop.refused()


def test_a_history_of_its_own_is_judged_as_a_whole(loop: Loop) -> None:
    loop.git(loop.worktree, "checkout", "-q", "--orphan", "fresh")
    loop.commit("src/x.py")
    assert "src/x.py: outside" in loop.refused()


def test_links_and_a_few_reasons_of_many(loop: Loop) -> None:
    (loop.worktree / "docs/p").symlink_to("/etc/passwd")
    for number in range(5):
        loop.commit(f"src/{number}.py")
    reason = loop.refused()
    assert "docs/p: is a symlink" in reason and " and 3 more; " in reason


# --- what the remote has is asked of the remote


def test_forged_remote_tracking_refs_hide_nothing(loop: Loop) -> None:
    sha = loop.commit("src/x.py")
    loop.commit("docs/b.md")
    for ref in ("refs/remotes/origin/main", "refs/heads/main", "refs/tags/main"):
        loop.git(loop.worktree, "update-ref", ref, sha)
    assert "src/x.py: outside" in loop.refused()


def test_replaced_objects_hide_nothing(loop: Loop) -> None:
    bad = loop.commit("src/x.py")
    loop.git(loop.worktree, "replace", bad, "main")
    assert "src/x.py: outside" in loop.refused()


def test_grafts_hide_nothing(loop: Loop) -> None:
    base = loop.git(loop.worktree, "rev-parse", "HEAD")
    loop.commit("src/x.py")
    (loop.worktree / "src/x.py").unlink()
    last = loop.commit("docs/b.md")
    (loop.checkout / ".git/info/grafts").write_text(f"{last} {base}\n", encoding="utf-8")
    assert "src/x.py: outside" in loop.refused()


def test_a_history_that_was_cut_off(loop: Loop) -> None:
    sha = loop.commit("docs/b.md")
    (loop.checkout / ".git/shallow").write_text(f"{sha}\n", encoding="utf-8")
    assert "the history of app was cut off during the run" in loop.refused()


# --- where it goes


@pytest.mark.parametrize(
    ("ref", "reason"),
    [
        ("HEAD:refs/heads/main", "main: is not the loop's own, allowed: below hyrule-feature, hyrule-loop"),
        ("HEAD:refs/heads/hyrule-feature", "hyrule-feature: is not the loop's own"),
        ("HEAD:refs/heads/hyrule-features/x", "hyrule-features/x: is not the loop's own"),
        ("HEAD:refs/tags/v1", "refs/tags/v1: is no branch"),
        ("HEAD:refs/pull/1/head", "refs/pull/1/head: is no branch"),
        (":main", "refs/heads/main: would be deleted"),
    ],
)
def test_only_the_loops_own_branches(loop: Loop, ref: str, reason: str) -> None:
    loop.commit("docs/b.md")
    assert reason in loop.refused(ref)
    assert reason in loop.refused(f"HEAD:refs/heads/{BRANCH[:-3]}other", ref)


def test_what_a_branch_has_stays_in_it(loop: Loop) -> None:
    loop.commit("docs/b.md")
    assert loop.push().returncode == 0
    loop.git(loop.worktree, "commit", "-q", "--amend", "-m", "Other")
    push_gate.take_verdicts(loop.inside)
    assert "which would be lost" in loop.refused(options=("--force",))


def test_a_branch_becomes_nothing_but_a_commit(loop: Loop) -> None:
    loop.commit("docs/b.md")
    loop.git(loop.worktree, "tag", "-a", "-m", KEY, "v1")
    assert "which is no commit" in loop.refused(f"v1:refs/heads/{BRANCH}")


@pytest.mark.parametrize(
    "words",
    [
        ["remote.origin.pushurl", "OTHER"],
        ["url.OTHER.insteadOf", "REMOTE"],
        ["url.OTHER.pushInsteadOf", "REMOTE"],
        ["http.proxy", "http://127.0.0.1:9"],
        ["http.https://example.invalid/.sslVerify", "false"],
        ["core.gitProxy", "/bin/true"],
        ["push.recurseSubmodules", "on-demand"],
        ["core.hooksPath", "/dev/null"],
        ["include.path", "/dev/null"],
        ["extensions.worktreeConfig", "true"],
        ["credential.helper", "!true"],
    ],
)
def test_no_configuration_of_the_repository_counts(loop: Loop, words: list[str]) -> None:
    other = loop.top / "other.git"
    loop.git(loop.top, "clone", "-q", "--bare", str(loop.remote), str(other))
    before = loop.refs(other)
    loop.commit("docs/b.md")
    key, value = (word.replace("OTHER", str(other)).replace("REMOTE", str(loop.remote)) for word in words)
    loop.git(loop.checkout, "config", key, value)
    assert "the configuration of app was changed during the run: " in loop.refused()
    assert loop.refs(other) == before


@pytest.mark.parametrize("option", [("set-url",), ("set-url", "--add")])
def test_origin_leads_elsewhere(loop: Loop, option: tuple[str, ...]) -> None:
    other = loop.top / "other.git"
    loop.git(loop.top, "clone", "-q", "--bare", str(loop.remote), str(other))
    before = loop.refs(other)
    loop.commit("docs/b.md")
    loop.git(loop.checkout, "remote", *option, "origin", str(other))
    done = loop.push()
    assert done.returncode != 0 and loop.refs(other) == before
    assert f"push refused: origin: leads to {other}, allowed: {loop.remote} [remote]" in done.stderr


def test_a_remote_by_another_name(loop: Loop) -> None:
    loop.commit("docs/b.md")
    assert "is not an allowed remote" in loop.refused(remote=str(loop.remote))


def test_the_environment_wins_over_the_repository(loop: Loop) -> None:
    wished = {"core.hooksPath": "/tmp", "push.recurseSubmodules": "on-demand", "core.fsmonitor": "/bin/false"}
    for key, value in wished.items():
        loop.git(loop.checkout, "config", key, value)
    environment = push_gate.environment(loop.inside)
    expected = {"core.hooksPath": f"{loop.top}/lib/hooks", "push.recurseSubmodules": "no", "core.fsmonitor": "false"}
    for key, value in expected.items():
        seen = subprocess.check_output(["/usr/bin/git", "config", key], cwd=loop.worktree, env=environment, text=True)
        assert seen.strip() == value
    assert environment["GIT_ALLOW_PROTOCOL"] == "file"


# --- git itself


PROGRAM = "cat; touch RAN"


@pytest.mark.parametrize(
    ("key", "attribute", "words"),
    [
        ("filter.x.clean", "* filter=x", ["add", "-A"]),
        ("filter.x.process", "* filter=x", ["status"]),
        ("diff.x.textconv", "* diff=x", ["diff", "--", "."]),
        ("diff.external", "", ["diff"]),
        ("alias.publish", "", ["publish"]),
        ("gpg.program", "", ["commit", "--allow-empty", "-m", "x"]),
        ("include.path", "", ["status"]),
    ],
)
def test_git_does_not_run_what_the_repository_names(loop: Loop, key: str, attribute: str, words: list[str]) -> None:
    ran = loop.top / "RAN"
    (loop.worktree / "docs/a.md").write_text("changed\n", encoding="utf-8")
    (loop.checkout / ".git/info").mkdir(exist_ok=True)
    (loop.checkout / ".git/info/attributes").write_text(f"{attribute}\n", encoding="utf-8")
    loop.git(loop.checkout, "config", key, f"!{PROGRAM}".replace("RAN", str(ran)).removeprefix("!"))
    done = loop.engine("git", *words)
    assert done.returncode == 1 and not ran.exists()
    told = f"git refused: the configuration of app was changed during the run: {key}; nothing was published"
    assert done.stderr.startswith(told)
    assert [one["allowed"] for one in push_gate.take_verdicts(loop.inside)] == [False]
    loop.git(loop.checkout, "config", "--unset", key)
    assert loop.engine("git", "add", "-A").returncode == 0


def test_git_runs_for_whoever_is_not_the_engine_and_where_nothing_was_told(loop: Loop) -> None:
    assert loop.engine("git", "-C", str(loop.checkout), "rev-parse", "HEAD").stdout.strip()
    assert loop.engine("git", "--version").stdout.startswith("git version")
    assert loop.engine("git", "-C", str(loop.top), "status").returncode == 128  # git's own words
    loop.git(loop.checkout, "config", "alias.x", "status")
    for option in (["-C", str(loop.worktree)], [f"--git-dir={loop.checkout}/.git"], ["-c", "a.b=c"]):
        assert "git refused: " in loop.engine("git", *option, "status").stderr
    environment = {"HOME": str(loop.top), "PATH": f"{loop.top}/lib/bin:{os.environ['PATH']}"}
    done = subprocess.run([f"{loop.top}/lib/bin/git", "x"], cwd=loop.worktree, env=environment, check=False)
    assert done.returncode == 0


# --- which repository it is


def test_a_repository_of_the_agents_own(loop: Loop) -> None:
    own = loop.top / "own"
    loop.git(loop.top, "clone", "-q", str(loop.remote), str(own))
    (loop.worktree / ".git").write_text(f"gitdir: {own}/.git\n", encoding="utf-8")
    loop.commit("docs/b.md")
    assert f"belongs to {own}/.git, which is no checkout in" in loop.refused()


def test_a_checkout_that_is_a_link(loop: Loop) -> None:
    own = loop.top / "own"
    loop.checkout.rename(own)
    loop.checkout.symlink_to(own)
    loop.git(own, "worktree", "repair", str(loop.worktree))
    loop.commit("docs/b.md")
    assert "which is no checkout in" in loop.refused()


def test_no_worktree_or_two_truths(loop: Loop) -> None:
    with pytest.raises(LoopError, match="is no worktree of git"):
        push_gate.find_place(loop.inside, str(loop.top))
    with pytest.raises(LoopError, match="but git works in /elsewhere"):
        push_gate.find_place(loop.inside, str(loop.worktree), "/elsewhere")
    assert push_gate.find_place(loop.inside, str(loop.checkout), ".git").checkout == "app"


# --- what must be true on the host


def test_a_policy_that_is_not_the_deployed_one(loop: Loop) -> None:
    loop.commit("docs/b.md")
    policy = Path(loop.config["policy_file"])
    policy.write_text(POLICY.replace("20", "2000"), encoding="utf-8")
    assert "is not the one that was deployed" in loop.refused()
    policy.unlink()
    assert "there is no policy at" in loop.refused()


def test_no_base_and_no_remote(loop: Loop) -> None:
    loop.commit("docs/b.md")
    loop.config["workspace_repositories"][0]["version"] = "gone"
    loop.save()
    assert "has no branch gone to compare with" in loop.refused()
    place = push_gate.find_place(loop.inside, str(loop.worktree))._replace(url=f"{loop.top}/nowhere.git")
    update = push_gate.Update("HEAD", "1" * 40, f"refs/heads/{BRANCH}", "0" * 40)
    with pytest.raises(LoopError, match="ls-remote"):
        push_gate.judge(loop.inside, place, "origin", place.url, [update])


def test_without_settings_nothing_is_pushed(loop: Loop) -> None:
    loop.commit("docs/b.md")
    before = loop.refs()
    (loop.cell / "state").rename(loop.top / "state" / "elsewhere")
    home, loop.cell = loop.cell, loop.top
    done = loop.push()
    assert done.returncode != 0 and "lies in no cell below" in done.stderr and loop.refs() == before
    loop.cell = home
    (loop.top / "config" / "loop.json").unlink()
    done = loop.push()
    assert done.returncode != 0 and "push refused: " in done.stderr and loop.refs() == before


def test_verdicts_that_somebody_else_wrote(loop: Loop) -> None:
    file = loop.cell / "state" / "pushes.jsonl"
    for text in ("[]\n", "{}\n", "nonsense\n", '{"allowed": 1, "reason": ""}\n'):
        file.write_text(text, encoding="utf-8")
        assert push_gate.take_verdicts(loop.inside) == [] and not file.exists()
    file.symlink_to("/etc/passwd")
    assert push_gate.take_verdicts(loop.inside) == [] and not file.is_symlink()


# --- the same questions, asked in this process


Asked = Callable[..., tuple[int, str]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Asked:
    """Call a command as git would: its status, and what it says on stderr or, where that is nothing, on stdout."""

    def ask(loop: Loop, function: Callable[..., int], *words: str, stdin: str = "") -> tuple[int, str]:
        monkeypatch.chdir(loop.worktree)
        monkeypatch.setenv(push_gate.SETTINGS, f"{loop.top}/config/loop.json")
        monkeypatch.setenv("GIT_DIR", loop.git(loop.worktree, "rev-parse", "--absolute-git-dir"))
        monkeypatch.setenv("GH_TOKEN", loop.token)
        monkeypatch.setenv("HOME", str(loop.cell / "state"))
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        status = function(*words)
        said = capsys.readouterr()
        return status, said.err or said.out

    return ask


NOTHING = "0" * 40


def push(loop: Loop, asked: Asked, ref: str = f"refs/heads/{BRANCH}", new: str = "", old: str = NOTHING) -> str:
    """What the hook says to a push of HEAD; '' where it lets it through."""
    new = new or loop.git(loop.worktree, "rev-parse", "HEAD")
    status, said = asked(loop, push_gate.pre_push, "origin", loop.url, stdin=f"HEAD {new} {ref} {old}\n")
    assert status == bool(said)
    return said


def test_the_hook_lets_good_work_through_and_keeps_its_verdict(loop: Loop, asked: Asked) -> None:
    loop.commit_elsewhere("src/theirs.py")  # the base is fetched
    loop.commit("docs/b.md")
    assert push(loop, asked) == ""
    assert [one["allowed"] for one in push_gate.take_verdicts(loop.inside)] == [True]
    assert asked(loop, push_gate.pre_push, "origin", loop.url) == (0, "")  # nothing is pushed


@pytest.mark.parametrize(
    ("path", "text", "message", "reason"),
    [
        ("src/x.py", "x\n", "Page", "src/x.py: outside of what may be changed (docs) [allowed_paths]"),
        ("docs/b.md", f"{KEY}\n", "Page", "docs/b.md: adds text denied by"),
        ("docs/b.md", "x\n", f"Page\n\n{KEY}", "a commit: adds text denied by"),
        ("docs/AGENTS.md", "x\n", "Page", "docs/AGENTS.md: is protected (agent instructions) [guards."),
        ("docs/b.bin", "a\0b\n", "Page", "docs/b.bin: is binary [guards.binaries]"),
    ],
)
def test_the_hook_judges_each_commit(loop: Loop, asked: Asked, path: str, text: str, message: str, reason: str) -> None:
    loop.commit(path, text, message)
    loop.git(loop.worktree, "rm", "-q", path)
    loop.git(loop.worktree, "commit", "-q", "-m", "Tidy")
    said = push(loop, asked)
    assert said.startswith(f"push refused: {reason}") and said.count("\n") == 1


@pytest.mark.parametrize(
    ("ref", "new", "reason"),
    [
        ("refs/tags/v1", "", "refs/tags/v1: is no branch"),
        ("refs/heads/main", "", "main: is not the loop's own, allowed: below hyrule-feature, hyrule-loop"),
        ("refs/heads/hyrule-feature/x..y", "", "is not a branch name"),
        (f"refs/heads/{BRANCH}", NOTHING, "would be deleted"),
        (f"refs/heads/{BRANCH}", "HEAD^{tree}", "there is no commit"),
    ],
)
def test_the_hook_knows_what_a_ref_may_become(loop: Loop, asked: Asked, ref: str, new: str, reason: str) -> None:
    loop.commit("docs/b.md")
    new = loop.git(loop.worktree, "rev-parse", new) if "^" in new else new
    assert reason in push(loop, asked, ref, new)


def test_the_hook_loses_nothing_that_a_branch_has(loop: Loop, asked: Asked) -> None:
    old = loop.commit("docs/b.md")
    loop.git(loop.worktree, "reset", "-q", "--hard", "HEAD^")
    loop.commit("docs/c.md")
    assert f"has {old[:12]} on the remote, which would be lost" in push(loop, asked, old=old)


def test_the_hook_says_three_reasons_and_how_many_more(loop: Loop, asked: Asked) -> None:
    for number in range(5):
        loop.commit(f"src/{number}.py")
    assert "and 2 more; nothing was published" in push(loop, asked)


def test_the_hook_looks_at_repository_policy_and_remote(loop: Loop, asked: Asked) -> None:
    loop.commit("docs/b.md")
    loop.git(loop.checkout, "config", "http.proxy", "http://127.0.0.1:9")
    assert "the configuration of app was changed during the run: http.proxy" in push(loop, asked)
    loop.git(loop.checkout, "config", "--unset", "http.proxy")
    (loop.checkout / ".git/shallow").touch()
    assert "the history of app was cut off" in push(loop, asked)
    (loop.checkout / ".git/shallow").unlink()
    deployed = loop.config["policy_sha256"]
    for other in ("0" * 64, ""):
        loop.config["policy_sha256"] = other
        loop.save()
        assert "is not the one that was deployed" in push(loop, asked)
    loop.config |= {"policy_sha256": deployed, "workspace_repositories": [{"repo": "/elsewhere", "dest": "app"}]}
    loop.save()
    assert f"origin: leads to {loop.url}, allowed: /elsewhere [remote]" in push(loop, asked)
    loop.config["workspace_repositories"] = []
    loop.save()
    assert "which is no checkout in" in push(loop, asked)
    (loop.top / "config/loop.json").write_text("{", encoding="utf-8")
    assert "is not JSON" in push(loop, asked)


def test_the_token_is_said_to_whom_it_belongs(loop: Loop, asked: Asked) -> None:
    loop.token = "secret"
    loop.config |= {"git_url": "https://forge.example", "workspace_repositories": [{"repo": "o/app", "dest": "app"}]}
    loop.save()
    right = "Password for 'https://x-access-token@forge.example': "
    assert asked(loop, push_gate.askpass, right) == (0, "secret\n")
    for host in (
        "http://x@forge.example",
        "https://x@forge.example:8443",
        "https://x@forge.example.evil",
        "https://x@e",
    ):
        status, said = asked(loop, push_gate.askpass, f"Password for '{host}': ")
        assert status == 1 and "secret" not in said
        assert said.startswith("token refused: Password for '") and "is not for https://forge.example/o/app.git" in said
    loop.git(loop.checkout, "config", "alias.x", "y")
    assert asked(loop, push_gate.askpass, right)[1].startswith("token refused: the configuration of app was changed")
    loop.git(loop.checkout, "config", "--unset", "alias.x")
    (loop.top / "lib/hooks/pre-push").unlink()
    assert "pre-push is missing; run apply.yml" in asked(loop, push_gate.askpass, right)[1]


def test_git_is_run_where_python_finds_nothing_either(
    loop: Loop, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []

    def execve(program: str, words: list[str], environment: dict[str, str]) -> None:
        ran.append([program, *words, environment["GIT_DIR"], environment[push_gate.SETTINGS]])

    monkeypatch.setattr(os, "execve", execve)
    assert asked(loop, push_gate.guarded_git, "status", "-s") == (0, "")
    assert ran[0][:4] == ["/usr/bin/git", "git", "status", "-s"]
    loop.git(loop.checkout, "config", "filter.x.clean", "cat")
    assert asked(loop, push_gate.guarded_git, "add", ".")[0] == 1
    assert len(ran) == 1


# --- over HTTP: who gets the token


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "forge", seed={"repos": [{"name": "app"}], "issues": []}) as forge:
        yield forge


@pytest.fixture
def online(tmp_path: Path, forge: Running) -> Loop:
    (tmp_path / "loop").mkdir()
    loop = Loop(tmp_path / "loop", forge.url, "AS215932/app")
    loop.remote = tmp_path / "forge" / "git" / "AS215932" / "app.git"
    loop.token = forge.token
    loop.commit("docs/b.md")
    return loop


def test_the_token_is_for_the_forge(online: Loop) -> None:
    done = online.push()
    assert done.returncode == 0, done.stderr
    assert f"refs/heads/{BRANCH}" in online.refs()


def test_the_token_is_not_for_another_host(online: Loop) -> None:
    before = online.refs()
    online.git(online.checkout, "remote", "set-url", "origin", online.url.replace("127.0.0.1", "localhost"))
    done = online.push()
    assert done.returncode != 0 and online.refs() == before
    assert "token refused: Password for 'http://localhost" in done.stderr.replace("x@", "")


def test_no_token_without_the_gate(online: Loop) -> None:
    before = online.refs()
    hook = online.top / "lib" / "hooks" / "pre-push"
    hook.chmod(0o644)
    done = online.push()
    assert done.returncode != 0 and online.refs() == before
    assert f"token refused: the gate {hook} is missing" in done.stderr


def test_a_proxy_of_the_agents_gets_no_token(online: Loop) -> None:
    """A proxy that asks for the password, as the forge would, and keeps what it is told."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        done = threading.Event()

        def listen() -> None:
            while not done.is_set():
                try:
                    client, _unused = server.accept()
                except TimeoutError:
                    continue
                with client:
                    heard.append(client.recv(65536))
                    answer = 'HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm="GitHub"\r\n'
                    client.sendall(f"{answer}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())

        thread = threading.Thread(target=listen)
        thread.start()
        online.git(online.checkout, "config", "http.proxy", f"http://127.0.0.1:{server.getsockname()[1]}")
        pushed = online.push()
        done.set()
        thread.join()
    assert pushed.returncode != 0 and "token refused: the configuration of app was changed" in pushed.stderr
    assert heard and not any(b"authorization" in request.lower() for request in heard)
