# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of the host a release sees where it is started before anybody has proven it."""

from __future__ import annotations

import os
from pathlib import Path

from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import shut_in


def test_the_python_that_it_was_made_with_and_no_other_place(tmp_path: Path) -> None:
    real, elsewhere, release = tmp_path / "python/bin", tmp_path / "secrets/bin", tmp_path / "release"
    for directory in (real, elsewhere, release / ".venv/bin"):
        directory.mkdir(parents=True)
    (real / "python3").write_text("")
    os.symlink(real / "python3", release / ".venv/bin/python")
    said = release / ".venv/pyvenv.cfg"
    said.write_text(f"home = {real}\n")
    assert f"{tmp_path}/python/lib" in shut_in.words(str(release))
    # A package can bring a file of that name.
    said.write_bytes(f"home = {elsewhere}\n".encode() + b"\xff")
    words = shut_in.words(str(release))
    assert f"{tmp_path}/python/lib" in words and not any("secrets" in word for word in words)
