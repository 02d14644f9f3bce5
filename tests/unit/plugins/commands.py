# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A command, run by somebody whom git knows."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def sh(directory: Path | str, *command: str) -> str:
    """What it prints; CalledProcessError where it fails."""
    identity = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    for who in ("AUTHOR", "COMMITTER"):
        identity |= {f"GIT_{who}_NAME": "Someone", f"GIT_{who}_EMAIL": "someone@example.org"}
    done = subprocess.run(
        command, cwd=directory, env={**os.environ, **identity}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
