# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Galaxy would say of an artifact on import: run.py ARTIFACT. It fails at the first thing that it complains of.

ansible-test is left to `make sanity`, which needs no container.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SETTINGS = "[galaxy-importer]\nRUN_ANSIBLE_TEST = False\nCHECK_REQUIRED_TAGS = True\n"
COMPLAINT = re.compile(r"\b(WARNING|ERROR)\b|No role readme|not found|failed|does not", re.IGNORECASE)


def main(artifact: str) -> int:
    packed = Path(artifact).resolve()
    with tempfile.TemporaryDirectory() as place:
        Path(place, "settings.cfg").write_text(SETTINGS, encoding="utf-8")
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "GALAXY_IMPORTER_CONFIG": f"{place}/settings.cfg",
        }
        # It writes importer_result.json where it stands.
        command = [sys.executable, "-m", "galaxy_importer.main", str(packed)]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    said = f"{done.stdout}{done.stderr}".splitlines()
    complaints = [line for line in said if COMPLAINT.search(line)]
    for line in complaints or said[-3:]:
        print(line)
    return 1 if done.returncode or complaints else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("importer: needs the one artifact that make build leaves in .cache/build: remove the older ones there")
    sys.exit(main(sys.argv[1]))
