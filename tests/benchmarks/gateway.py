# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a push costs that is received, judged and sent on, beside a plain one to the same forge.

Boots a host, applies the reference engine and runs host/gateway.py there. Writes .cache/bench/gateway.json. A push
of one page may take 2 times as long as a plain one; of 10,000 files and 20 MB 3 times as long as to read and search
them once; all processes of the gateway together may have 120 MiB.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests"))
import bench  # noqa: E402

BOUNDS = {"push_ratio": 2.0, "large_ratio": 3.0, "memory_mib": 120}
PROGRAM = "/opt/bench-gateway.py"


def main() -> int:
    program = (TOP / "tests" / "benchmarks" / "host" / "gateway.py").read_bytes()
    content = base64.b64encode(program).decode()
    with bench.deployed() as (host, _operator):
        host.sh(f"echo {content} | base64 -d > {PROGRAM} && chmod 755 {PROGRAM}")
        result = json.loads(host.sh(f"python3 {PROGRAM}").splitlines()[-1])
    bench.tell("gateway", result)
    worse = [f"{name} {result[name]} (bound {bound})" for name, bound in BOUNDS.items() if result[name] > bound]
    if worse:
        print(f"above its bound: {', '.join(worse)}")
    return int(bool(worse))


if __name__ == "__main__":
    bench.run(main)
