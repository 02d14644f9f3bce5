# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The code on a host is asked only where all of it is this collection's, and nobody but root could change it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.managed_files import converge
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import core_files
from ansible_collections.as215932.engineering_loop.plugins.plugin_utils import installed, on_host
from celled import NEEDS_ROOT

pytestmark = NEEDS_ROOT  # what is installed is root's


@pytest.fixture
def package(tmp_path: Path) -> Path:
    converge(core_files.entries(f"{tmp_path}/lib"))
    return tmp_path / "lib" / core_files.PACKAGE


def test_what_an_apply_installed_is_ours(package: Path) -> None:
    assert on_host.as_sent(str(package), installed.digests())
    assert not on_host.as_sent(f"{package}/none", installed.digests())


@pytest.mark.parametrize(
    "change",
    [
        lambda package: (package / "base/errors.py").write_text("pass\n", encoding="utf-8"),
        lambda package: (package / "base/errors.py").unlink(),
        lambda package: (package / "base/more.py").write_text("", encoding="utf-8"),
        lambda package: (package / "base/errors.py").chmod(0o664),
        lambda package: (package / "base").chmod(0o777),
        lambda package: os.chown(package / "base/errors.py", 12345, 0),
        lambda package: (package / "base/link").symlink_to("/etc/hostname"),
    ],
    ids=["changed", "gone", "more", "a group's", "everybody's", "a user's", "a link"],
)
def test_what_was_changed_behind_its_back_is_not(package: Path, change: Callable[[Path], object]) -> None:
    change(package)
    assert not on_host.as_sent(str(package), installed.digests())
