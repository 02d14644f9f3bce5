# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a push costs that is received, judged and sent on, beside a plain one to the same forge.

Boots a host, applies the engine and runs host/gateway.py there.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import bench


def main() -> None:
    with bench.deployed() as (_world, host, _operator):
        told = bench.on_host(host, "gateway.py")
    small = f"{told['push_gateway_seconds']:.2f} s against {told['push_plain_seconds']:.2f} s"
    large = f"{told['large_seconds']:.2f} s against {told['search_seconds']:.2f} s"
    rows = [
        bench.row("push of one page by the gateway, against a plain one", told["push_ratio"], 2.0, of=small),
        bench.row("push of 10,000 files, against reading and searching them", told["large_ratio"], 3.0, of=large),
        bench.row("memory of all processes of the gateway", told["memory_mib"], 120, "MiB"),
    ]
    bench.tell("gateway", rows, **told)


if __name__ == "__main__":
    bench.run(main)
