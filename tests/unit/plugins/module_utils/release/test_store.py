# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept, what is gone back to, and every kind of change by hand."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import build, releases, store
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release.wanted_version import Wanted
from engines import now_active, says


def test_a_bump_keeps_what_is_there_and_prunes_the_rest(wanted: Wanted, shas: list[str]) -> None:
    wanted = dataclasses.replace(wanted, keep=2)
    for sha in shas[:2]:
        releases.present(wanted, sha)
    assert releases.present(wanted, shas[2], check=True)["pruned"] == [shas[0]]
    assert releases.present(wanted, shas[2])["pruned"] == [shas[0]]
    assert store.releases(wanted.install_dir) == sorted(shas[1:3])


def test_pruning_spares_active_previous_and_last_proven(wanted: Wanted, shas: list[str]) -> None:
    wanted = dataclasses.replace(wanted, keep=1)
    releases.present(wanted, shas[0])
    store.record_verdict(wanted.install_dir, shas[0], "proven")
    for sha in shas[1:4]:
        releases.present(wanted, sha)
    assert store.releases(wanted.install_dir) == sorted([shas[0], shas[2], shas[3]])


def test_two_bad_releases_in_a_row_go_back_to_the_good_one(wanted: Wanted, shas: list[str]) -> None:
    good, bad, worse = shas[:3]
    releases.present(wanted, good)
    store.record_verdict(wanted.install_dir, good, "proven")
    for sha in (bad, worse):
        releases.present(wanted, sha)
        store.record_verdict(wanted.install_dir, sha, "failed", "canary")
    assert releases.previous(wanted, check=True)["release"]["sha"] == good
    assert now_active(wanted) == worse
    done = releases.previous(wanted)
    assert done["activated"] and done["release"]["sha"] == good and says(wanted) == "release 0"
    assert not releases.previous(wanted)["changed"]
    assert now_active(wanted) == good


def test_going_back_never_reaches_what_was_not_judged(wanted: Wanted, shas: list[str]) -> None:
    for sha in shas[:2]:
        releases.present(wanted, sha)
    with pytest.raises(LoopError, match=rf"no proven release.*{shas[0]} .not judged"):
        releases.previous(wanted)
    assert now_active(wanted) == shas[1]


def test_what_was_gone_back_from_counts_again_when_it_is_asked_for(wanted: Wanted, shas: list[str]) -> None:
    first, second, third = shas[:3]
    for sha in (first, second):
        releases.present(wanted, sha)
        store.record_verdict(wanted.install_dir, sha, "proven")
    releases.previous(wanted)
    releases.present(wanted, third)
    assert store.last_proven(wanted.install_dir) == first
    releases.present(wanted, second)
    releases.present(wanted, third)
    assert store.last_proven(wanted.install_dir) == second


def test_a_going_back_that_failed_goes_back_further(wanted: Wanted, shas: list[str]) -> None:
    for sha in shas[:3]:
        releases.present(wanted, sha)
        store.record_verdict(wanted.install_dir, sha, "proven")
    releases.previous(wanted)
    store.record_verdict(wanted.install_dir, shas[1], "failed")
    assert releases.previous(wanted)["release"]["sha"] == shas[0]


def test_a_wrong_mark_is_refused(wanted: Wanted, shas: list[str]) -> None:
    with pytest.raises(LoopError, match="proven, failed"):
        store.record_verdict(wanted.install_dir, shas[0], "fine")


@pytest.mark.parametrize("harm", ["added", "gone", "mode", "link", "record", "directory", "owner", "top", "python"])
def test_every_kind_of_change_is_seen(wanted: Wanted, shas: list[str], harm: str) -> None:
    path = Path(releases.present(wanted, shas[0])["release"]["path"])
    if harm == "added":
        (path / "sitecustomize.py").write_text("")
    elif harm == "gone":
        (path / "skills/one.md").unlink()
    elif harm == "mode":
        (path / "skills/one.md").chmod(0o666)
    elif harm == "link":
        (path / "skills/two.md").symlink_to("/etc/passwd")
    elif harm == "directory":
        (path / "skills").chmod(0o777)
    elif harm == "owner":
        os.chown(path / "skills/one.md", 65534, -1)
    elif harm == "top":
        path.chmod(0o777)
    elif harm == "python":
        known = json.loads((path / build.RECORD).read_text())
        (path / build.RECORD).chmod(0o644)
        (path / build.RECORD).write_text(json.dumps({**known, "interpreter": "/usr/bin/python3.9"}))
    else:
        (path / build.MANIFEST).unlink()
    assert len(store.damage(str(path.parents[1]), shas[0])) == 1
