# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Give every reader of what others wrote many inputs: a quarter built by hypothesis, the rest found by atheris.

Arguments: how many in all for each target (200,000), and which (all). Shows the end of each part's output; 1 where
one found something.
"""

from __future__ import annotations

import concurrent.futures
import subprocess
import sys
import time
from pathlib import Path

TARGETS = ("policy", "diff", "told", "manifest", "lock", "admin", "record", "report", "claim", "cell")
HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".cache" / "fuzz"
SHARES = {"generated": 4, "guided": 4 / 3}  # one input in so many, of one target


def part(kind: str, target: str, count: int) -> bool:
    """One fuzzer on one target; whether it went through without a finding."""
    log = CACHE / f"{kind}-{target}.log"
    began = time.monotonic()
    command = [sys.executable, str(HERE / f"{kind}.py"), target, str(count)]
    with log.open("wb") as output:
        code = subprocess.run(
            command, cwd=CACHE, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False
        ).returncode
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    done = [line for line in lines if line.startswith(("Done ", "Done: "))]
    good = code == 0 and bool(done)
    says = "; ".join(done) if good else "\n".join(["FOUND", *(line[:300] for line in lines[-40:]), f"see {log}"])
    print(f"{kind:9} {target:9} {time.monotonic() - began:6.0f} s  {says}", flush=True)
    return good


def main(inputs: int, names: list[str]) -> int:
    CACHE.mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        parts = [
            pool.submit(part, kind, target, max(round(inputs / share), 1))
            for target in names or TARGETS
            for kind, share in SHARES.items()
        ]
    return 0 if all(each.result() for each in parts) else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000, sys.argv[2:]))
