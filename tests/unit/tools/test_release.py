# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A release comes of the fragments in one command, and a tag that does not fit it is refused by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def release(top: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tests/tools/release.py"), *words]
    where = {**os.environ, "RELEASE_ROOT": str(top)}
    return subprocess.run(command, cwd=top, env=where, capture_output=True, text=True, check=False)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    top = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--depth=1", f"file://{ROOT}", top], check=True)
    return top


def test_the_fragments_become_the_changelog_of_the_version_that_is_named(clone: Path) -> None:
    done = release(clone, "prepare", "0.99.0")
    assert done.returncode == 0, done.stderr
    assert "git tag -s v0.99.0" in done.stdout
    assert "version: 0.99.0\n" in (clone / "galaxy.yml").read_text(encoding="utf-8")
    assert "as215932-engineering_loop-0.99.0.tar.gz" in (clone / "README.md").read_text(encoding="utf-8")
    assert not list((clone / "changelogs/fragments").glob("*.yml"))
    assert release(clone, "check", "v0.99.0").returncode == 0
    notes = release(clone, "notes", "v0.99.0").stdout
    assert "Major changes" in notes
    again = release(clone, "prepare", "0.99.0")
    assert again.returncode == 1
    assert "CHANGELOG.md has 0.99.0 already" in again.stderr


def test_what_does_not_fit_is_refused_and_changes_nothing(clone: Path) -> None:
    refused = {
        ("prepare", "next"): "'next' is no version, as in 1.2.3",
        ("check", "1.2.3"): "1.2.3 is no tag of a release",
        ("check", "v9.9.9"): "the tag is v9.9.9: make release V=9.9.9 first",
    }
    for words, said in refused.items():
        done = release(clone, *words)
        assert done.returncode == 1
        assert said in done.stderr
    (clone / "new").write_text("not committed\n", encoding="utf-8")
    done = release(clone, "prepare", "9.9.9")
    assert "not committed: commit or stash" in done.stderr
    status = subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True)
    assert status.stdout == "?? new\n"
