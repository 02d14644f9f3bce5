# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check and test the alert rules with promtool, which Debian has in its package prometheus.

The package is only unpacked, in .cache: installed, it would start a server.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / ".cache" / "promtool" / "promtool"
RULES, TESTS = "examples/prometheus/alerts.yml", "tests/prometheus/alerts_test.yml"


def promtool() -> str:
    """The program: this machine's own, else the one of Debian's package."""
    if found := shutil.which("promtool"):
        return found
    if not KEPT.exists():
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=KEPT.parent) as place:
            # apt's own user, which it downloads as, must not be closed out.
            Path(place).chmod(0o755)
            for command in (
                ["apt-get", "-qq", "download", "prometheus"],
                ["sh", "-c", "dpkg-deb -x prometheus_*.deb ."],
            ):
                done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(f"promtool cannot be had: {' '.join(command)}: {done.stderr.strip()}")
            (Path(place) / "usr/bin/promtool").rename(KEPT)
    return str(KEPT)


def main() -> int:
    program = promtool()
    for words in (["check", "rules", RULES], ["test", "rules", TESTS]):
        done = subprocess.run([program, *words], cwd=ROOT, check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
