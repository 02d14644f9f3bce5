# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which systems can carry the loop, and what the others lack, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

SUPPORTED = "Debian 13 or later"
NEEDS = "bubblewrap 0.11, in whose overlays an agent finds its repository, systemd 257 and Python 3.11"
# What was looked at, by ID and the beginning of VERSION_ID: what its own packages lack.
LACKING = {
    ("debian", "11"): "its Python is 3.9, its systemd 247, its bubblewrap 0.4",
    ("debian", "12"): "its bubblewrap is 0.8, its systemd 252",
    ("ubuntu", "22.04"): "its Python is 3.10, its systemd 249, its bubblewrap 0.6",
    ("ubuntu", "24.04"): "its bubblewrap is 0.9, its systemd 255",
}


def problem(system: Mapping[str, Any]) -> str:
    """Why this host cannot carry the loop, in one sentence that begins after its name; empty where it can."""
    if not system["systemd"]:
        return "is not run by systemd, which starts each cycle: use a host that systemd boots. Nothing was changed"
    if not system["root"]:
        return "lets us in, but not as root: let ansible_user be root, or set ansible_become. Nothing was changed"
    identity, version = str(system["id"]), str(system["version_id"])
    major = re.match(r"\d+", version)
    if identity == "debian" and (not version or (major and int(major[0]) >= 13)):  # testing has no number
        return ""
    named = system["name"] or "an unknown system"
    why = LACKING.get((identity, version), "nobody has booted and tried the loop there")
    return f"runs {named}, which is not supported: {why}. The loop needs {NEEDS}: use {SUPPORTED}. Nothing was changed"
