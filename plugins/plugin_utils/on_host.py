# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host is sent so that it asks the code that an apply put there, and not a copy that came along.

The text of this file is run there as it is. Nothing of the host's is loaded before all of it was found to be ours.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys


def as_sent(package: str, digests: dict[str, str]) -> bool:
    """Whether below ``package`` stand these sources, name to SHA-256, and no other, for nobody but root to change."""
    found = {}
    for base, _rooms, names in os.walk(package):
        for path in (base, *(os.path.join(base, name) for name in names)):
            status = os.lstat(path)
            if status.st_uid or status.st_mode & 0o022 or os.path.islink(path):
                return False
        for name in names:
            if name.endswith(".py"):
                path = os.path.join(base, name)
                with open(path, "rb") as source:
                    found[os.path.relpath(path, package)] = hashlib.sha256(source.read()).hexdigest()
    return found == digests


def main(text: str) -> None:
    """Print what a look at the host finds, as JSON; nothing where our code is not there as it is here."""
    given = json.loads(text)
    if as_sent(given["package"], given["digests"]):
        os.umask(0o022)
        directory, name = os.path.split(given["package"])
        sys.path.insert(0, directory)
        print(importlib.import_module(f"{name}.stages.look").on_host(given["asked"]))
