# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whoever builds the artifact gets the same bits, and only what git knows."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from tools import build

GALAXY = """\
namespace: a
name: b
version: 1.0.0
readme: README.md
authors: [Somebody]
"""


def checkout(top: Path, names: list[str], stamp: int) -> Path:
    """A collection in a repository, whose files came in this order and at this time."""
    top.mkdir()
    for name in names:
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(GALAXY if name == "galaxy.yml" else f"{name}\n", encoding="utf-8")
        path.chmod(0o755 if name.endswith(".sh") else 0o600 if stamp % 2 else 0o664)
        os.utime(path, (stamp, stamp))
    author = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    dated = {**os.environ, "GIT_AUTHOR_DATE": "1700000000 +0000", "GIT_COMMITTER_DATE": "1700000000 +0000"}
    for words in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "All"]):
        subprocess.run(["git", *words], cwd=top, env=dated, check=True)
    return top


def test_two_builds_in_two_folders_are_the_same_to_the_last_bit(tmp_path: Path) -> None:
    names = ["galaxy.yml", "README.md", "plugins/modules/z.py", "plugins/modules/a.py", "docs/run.sh"]
    one = checkout(tmp_path / "one", names, 1_000_000_001)
    other = checkout(tmp_path / "elsewhere", names[::-1], 1_600_000_000)
    made = [build.build(top, tmp_path / f"made-{top.name}") for top in (one, other)]
    assert made[0].read_bytes() == made[1].read_bytes()
    with tarfile.open(made[0]) as packed:
        assert {member.mtime for member in packed} == {1_700_000_000}
        assert packed.getmember("docs/run.sh").mode == 0o755
        assert packed.getmember("README.md").mode == 0o644


def test_it_bears_the_time_that_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = checkout(tmp_path / "one", ["galaxy.yml", "README.md"], 1_000_000_000)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1234567890")
    with tarfile.open(build.build(top, tmp_path / "made")) as packed:
        assert {member.mtime for member in packed} == {1_234_567_890}


def test_what_git_does_not_know_stays_out_and_what_was_changed_comes_in(tmp_path: Path) -> None:
    top = checkout(tmp_path / "one", ["galaxy.yml", "README.md", ".gitignore"], 1_000_000_000)
    (top / ".gitignore").write_text("*.secret\n", encoding="utf-8")
    (top / "token.secret").write_text("ignored\n", encoding="utf-8")
    (top / "README.md").write_text("changed\n", encoding="utf-8")
    with tarfile.open(build.build(top, tmp_path / "made")) as packed:
        assert "token.secret" not in packed.getnames()
        changed = packed.extractfile("README.md")
        assert changed is not None
        assert changed.read() == b"changed\n"


def test_ansible_finds_every_checksum_right(tmp_path: Path) -> None:
    top = checkout(tmp_path / "one", ["galaxy.yml", "README.md", "plugins/modules/a.py"], 1_000_000_000)
    made = build.build(top, tmp_path / "made")
    galaxy = [str(Path(sys.executable).with_name("ansible-galaxy")), "collection"]
    where = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "there")}
    for words in (["install", "--offline", "-p", str(tmp_path / "there"), str(made)], ["verify", "--offline", "a.b"]):
        done = subprocess.run([*galaxy, *words], env=where, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "internally consistent" in done.stdout
