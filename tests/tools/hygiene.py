# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What no other linter asks of the files we publish: a license each, and nothing of the machine they were made on.

A named package index or mirror would bypass the one that the user has set up, and a path of
one machine is wrong on every other.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

FORBIDDEN = {
    "names a package index or mirror": re.compile(
        r"\b(pypi\.org|pythonhosted\.org|registry\.npmjs|npmjs\.org|registry\.yarnpkg|deb\.debian\.org|"
        r"security\.debian\.org|galaxy\.ansible\.com/api|proxy\.golang\.org|crates\.io|docker\.io)\b"
    ),
    "names a path of one machine": re.compile(r"(?<![\w.}])/(?:home/\w+|Users/\w+|work|root(?!/\.ssh))/"),
}


def tracked() -> list[str]:
    """Files that git tracks, or would at the next ``git add``."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return [name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def licensed_elsewhere() -> list[str]:
    """Patterns of the files that cannot carry a license line, from REUSE.toml."""
    declared = tomllib.loads((ROOT / "REUSE.toml").read_text(encoding="utf-8"))
    return [pattern for entry in declared["annotations"] for pattern in entry["path"]]


def complaints(name: str, exempt: list[str]) -> list[str]:
    """What is wrong with one file, as ``file:line: what``."""
    text = (ROOT / name).read_bytes().decode("utf-8", "replace")
    found = []
    if not any(fnmatchcase(name, pattern) for pattern in exempt) and "SPDX-License-Identifier: " not in text[:1000]:
        found.append(f"{name}:1: has no SPDX-License-Identifier line and is not in REUSE.toml")
    if name != "LICENSE":
        for number, line in enumerate(text.splitlines(), 1):
            found += [f"{name}:{number}: {what}" for what, pattern in FORBIDDEN.items() if pattern.search(line)]
    return found


def lost_files(name: str) -> list[str]:
    """Files of the core, and of its tests, that a page names by room, and that are not there (any more)."""
    named = re.findall(r"`([a-z]+/[a-z_]+\.py)`", (ROOT / name).read_text(encoding="utf-8"))
    core = ROOT / "plugins" / "module_utils"
    rooms = {path.name for path in core.iterdir() if path.is_dir()}
    tests = ROOT / "tests" / "unit" / "plugins" / "module_utils"
    gone = [
        path
        for path in dict.fromkeys(named)
        if path.split("/")[0] in rooms and not (core / path).is_file() and not (tests / path).is_file()
    ]
    return [f"{name}: names {path}, which is not there" for path in gone]


def main() -> int:
    exempt = licensed_elsewhere()
    found = [complaint for name in tracked() for complaint in complaints(name, exempt)]
    found += [complaint for name in tracked() if name.endswith(".md") for complaint in lost_files(name)]
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
