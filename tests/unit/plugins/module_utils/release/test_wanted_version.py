# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be asked for: full commit ids, and a digest of the lock."""

from __future__ import annotations

import dataclasses
import os

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import releases
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release.wanted_version import Wanted


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("main", "can move"),
        ("v1.2.3", "can move"),
        ("abc1234", "7 of the 40"),
        ("A" * 40, "upper-case letters; write aaaa"),
        ("a" * 40 + "\n", "line break"),
        (" " + "a" * 40, "white space"),
        ("a" * 41, "41 characters"),
        ("a" * 39, "39 of the 40"),
        ("g" * 40, "can move"),
        ("", "empty"),
        ("٣" * 40, "can move"),
    ],
)
def test_only_full_commit_ids_are_versions(wanted: Wanted, version: str, reason: str) -> None:
    with pytest.raises(LoopError, match=reason):
        releases.present(wanted, version)
    assert not os.path.exists(wanted.install_dir)


@pytest.mark.parametrize("digest", ["0" * 63, "A" * 64, "sha256:" + "0" * 64])
def test_a_pinned_lock_is_a_digest(installed: Wanted, shas: list[str], digest: str) -> None:
    with pytest.raises(LoopError, match="is no SHA-256: 64 lower-case"):
        releases.present(dataclasses.replace(installed, lock_sha256=digest), shas[1])
