# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run prove.yml as an operator does, and look at when each line appears: watch.py INVENTORY.

The agent of this cycle works for some seconds. Its journal must be seen before, not with, the end.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SECONDS = 5.0

playbook = str(Path(sys.executable).with_name("ansible-playbook"))
play = subprocess.Popen(
    [playbook, "-i", sys.argv[1], str(HERE / "prove.yml")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
)
began, seen = time.monotonic(), {}
for line in play.stdout or ():
    moment = time.monotonic() - began
    print(f"{moment:5.1f} {line}", end="")
    for word in ("Starting hyrule-engineering-loop.service", "[worktree] done", "[pr] done", "ok: draft: open draft"):
        if word in line:
            seen[word] = moment
if play.wait() or len(seen) != 4:
    sys.exit(f"the canary failed, or not all was shown: {seen}")
if seen["[worktree] done"] > seen["[pr] done"] - SECONDS:
    sys.exit(f"shown too late: {seen}")
