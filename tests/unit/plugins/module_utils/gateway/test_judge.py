# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is in a push: real git, a real gateway and a real forge; which change is let through and which refused."""

from __future__ import annotations

import os
import re
import zlib
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.gateway import (
    judge,
    receive,
)
from celled import NEEDS_ROOT
from gated import Cycle, Running, door

pytestmark = NEEDS_ROOT
KEY = "-----BEGIN OPENSSH PRIVATE " + "KEY-----"
NOTHING = "0" * 40


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
def test_each_commit_is_judged_not_only_the_last(ours: Cycle, path: str, text: str, message: str, reason: str) -> None:
    ours.commit(path, text, message)
    (ours.checkout / path).unlink()
    ours.commit("docs/c.md", message="Tidy")
    assert ours.refused().startswith(f"push refused: {reason}")


def test_a_hostile_author_is_published_too(ours: Cycle) -> None:
    ours.commit(GIT_AUTHOR_NAME=KEY)
    assert "a commit: adds text denied" in ours.refused()


def test_a_commit_of_the_year_2100(ours: Cycle) -> None:
    """It says what it likes of its time: nothing that we decide rests on it."""
    ours.commit(GIT_AUTHOR_DATE="@4102444800 +0000", GIT_COMMITTER_DATE="@4102444800 +0000")
    ours.commit("src/x.py")
    assert "src/x.py: outside" in ours.refused()


def test_an_author_with_odd_characters_cannot_speak_to_the_terminal(ours: Cycle) -> None:
    ours.commit(GIT_AUTHOR_NAME="\x1b[2J\u202e<Nobody", GIT_AUTHOR_EMAIL="a\tb@\x07")
    ours.commit("src/\x1b[2J.py")
    done = ours.push()
    assert done.returncode and "\x1b[2J" not in done.stderr.replace("\x1b[K", "")
    assert "\x1b" not in ours.entries("push")[-1]["reason"]


def test_names_of_files_that_end_a_line_elsewhere(ours: Cycle) -> None:
    ours.commit("docs/a\u2028b\x1cc\x85.md")
    (ours.checkout / "docs" / "\udcff\x0b\n.md").write_text("x\n")
    ours.commit("docs/d.md")
    reason = ours.refused()
    assert "docs/a\\u2028b\\x1cc\\x85.md: has U+2028, which is not seen as it is [names]" in reason, reason


def test_a_merged_side_branch_counts(ours: Cycle) -> None:
    ours.git("checkout", "-q", "-b", "side")
    ours.commit("src/x.py")
    ours.git("checkout", "-q", "main")
    ours.commit()
    ours.git("merge", "-q", "--no-ff", "-m", "Merge", "-s", "ours", "side")
    assert "src/x.py: outside" in ours.refused()


def test_a_directory_with_nothing_in_it_is_not_published(ours: Cycle) -> None:
    """git makes none, and no difference shows one: its name could be anything, anywhere."""
    hollow = ours.git("hash-object", "-t", "tree", "-w", "/dev/null")
    inner = ours.git("mktree", stdin=f"040000 tree {hollow}\t{KEY}\n")
    files = ours.git("ls-tree", "HEAD")
    tree = ours.git("mktree", stdin=f"{files}\n040000 tree {inner}\thollow\n")
    ours.git("reset", "-q", "--hard", ours.git("commit-tree", "-p", "HEAD", "-m", "Page", tree))
    reason = f"hollow/{KEY}: is a directory with nothing in it, which git makes none of [modes]"
    assert reason in ours.refused()
    ours.commit()
    assert reason in ours.refused()


def test_a_history_of_its_own_is_judged_as_a_whole(ours: Cycle) -> None:
    ours.git("checkout", "-q", "--orphan", "fresh")
    ours.commit("src/x.py")
    assert "README.md: outside" in ours.refused() or "src/x.py: outside" in ours.entries("push")[-1]["reason"]


def test_links_and_a_few_reasons_of_many(ours: Cycle) -> None:
    (ours.checkout / "docs/p").symlink_to("/etc/passwd")
    for number in range(5):
        ours.commit(f"src/{number}.py")
    reason = ours.refused()
    assert "docs/p: is a symlink" in reason and reason.endswith(" and 3 more")


def test_nothing_that_a_repository_says_hides_a_commit(ours: Cycle) -> None:
    """Forged refs, replaced objects, grafts and a forged object in the pusher's store: what is received is judged."""
    base = ours.git("rev-parse", "HEAD")
    bad = ours.commit("src/x.py")
    (ours.checkout / "src/x.py").unlink()
    last = ours.commit()
    for ref in ("refs/remotes/origin/main", "refs/heads/other", "refs/tags/main"):
        ours.git("update-ref", ref, bad)
    ours.git("replace", bad, base)
    assert "src/x.py: outside" in ours.refused()
    ours.git("replace", "-d", bad)
    (ours.checkout / ".git/info").mkdir(exist_ok=True)
    (ours.checkout / ".git/info/grafts").write_text(f"{last} {base}\n")
    ours.push("--force")
    assert ours.branch not in ours.door.branches()


def test_a_forged_object_of_the_pushers_does_not_arrive(ours: Cycle) -> None:
    ours.commit("src/x.py", "bad\n")
    blob = ours.git("rev-parse", "HEAD:src/x.py")
    good = zlib.compress(b"blob 5\0good\n")
    place = ours.checkout / ".git/objects" / blob[:2] / blob[2:]
    place.chmod(0o644)
    place.write_bytes(good)
    assert ours.push().returncode != 0
    assert ours.branch not in ours.door.branches()


def test_a_policy_that_is_not_the_deployed_one(ours: Cycle) -> None:
    ours.commit()
    policy = Path(ours.door.config["policy_file"])
    text = policy.read_text()
    try:
        policy.write_text(text.replace("20", "2000"))
        assert "is not the one that was deployed" in ours.refused()
        policy.rename(policy.with_name("away"))
        assert "there is no policy at" in ours.refused()
    finally:
        policy.with_name("away").unlink(missing_ok=True)
        policy.write_text(text)
        policy.chmod(0o644)
    assert ours.push().returncode == 0


def test_no_base_to_compare_with(ours: Cycle) -> None:
    (clone,) = [one for one in receive.pristine.clones(ours.door.config) if one.dest == "app"]
    ref = Path(clone.path, "packed-refs")
    text = ref.read_text()
    ours.commit()
    loose = Path(clone.path, "refs/heads/main")
    tip = loose.read_text() if loose.exists() else ""
    try:
        ref.write_text("# pack-refs with: peeled fully-peeled sorted \n")
        loose.unlink(missing_ok=True)
        before = ours.door.branches()
        done = ours.push()
        assert done.returncode and "the gateway has no main of AS215932/app to compare with" in done.stderr
        assert ours.door.branches() == before
    finally:
        ref.write_text(text)
        if tip:
            loose.write_text(tip)


def noise(size: int) -> str:
    """So much text that git cannot make half of it."""
    return "".join(f"{os.urandom(30).hex()}\n" for _unused in range(size // 61))


def test_a_large_page_is_looked_at_twice_and_published(ours: Cycle) -> None:
    text = noise(900_000)
    ours.commit(text=text)
    ours.commit("docs/c.md", text="text\n")
    assert ours.push().returncode == 0
    assert ours.git("show", f"origin/{ours.branch}:docs/b.md") == text.strip()


def test_more_words_in_commits_than_a_change_may_have(ours: Cycle) -> None:
    ours.commit()
    ours.git("commit", "--amend", "-q", "-F", "-", stdin="Page\n\n" + "word\n" * 250_000)
    reason = ours.refused()
    assert re.search(r"the commits: are 125\d{4} letters, allowed: 1048576", reason), reason


@pytest.mark.parametrize(
    ("name", "most", "reason"),
    [
        ("MAX_OBJECTS", 8, "more than 7 objects were received"),
        ("MAX_LISTED", 9028, "9028 bytes would be taken away, allowed: 9027"),
    ],
)
def test_what_is_bounded_before_git_writes_it_out(
    forge: Running, monkeypatch: pytest.MonkeyPatch, name: str, most: int, reason: str
) -> None:
    """Two commits, eight objects: a page comes, and goes; so small a push is looked at twice here."""
    monkeypatch.setattr(judge, "SMALL", 0)
    for bound in (most, most - 1):
        monkeypatch.setattr(judge, name, bound)
        with door(forge) as gate, gate.cycle(gate.issue()) as ours:
            ours.commit(text=noise(9028))
            ours.commit(text="")
            if bound == most:
                assert ours.push().returncode == 0
            else:
                assert reason in ours.refused()
            gate.close_all()


def test_allowed_paths_are_those_of_the_checkout(forge: Running) -> None:
    with door(forge, allowed_paths={"app": ["src"], "other": ["docs"]}) as gate:
        try:
            with gate.cycle(gate.issue()) as ours:
                ours.commit()
                assert "docs/b.md: outside of what may be changed (src)" in ours.refused()
        finally:
            gate.close_all()
