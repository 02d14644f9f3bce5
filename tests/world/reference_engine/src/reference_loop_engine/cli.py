# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line, and what a service manager is told by the exit status."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from reference_loop_engine import __version__, extras
from reference_loop_engine.cycle import Options, run_cycle
from reference_loop_engine.governor import govern

# Only these fail the service: a run that stops for a person has done its work.
FAILURES = ("error", "refused_ci")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="hyrule-engineering-loop")
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True)
    daemon = commands.add_parser("daemon", help="run one cycle")
    daemon.add_argument("--once", action="store_true", required=True)
    daemon.add_argument("--repo", action="append", required=True, metavar="OWNER/NAME")
    daemon.add_argument("--workspace-root", type=Path, required=True)
    daemon.add_argument("--output-root", type=Path, required=True)
    daemon.add_argument("--state-dir-path", type=Path, required=True)
    daemon.add_argument("--memory-dir", type=Path)
    daemon.add_argument("--max-runs-per-day", type=int, default=2)
    daemon.add_argument("--max-cost-usd-per-day", type=float, default=10.0)
    daemon.set_defaults(allow=[])
    if __version__ != "0.1.0":  # the next version brings a flag, so that a deployer has to ask what its engine accepts
        daemon.add_argument("--allow", action="append", metavar="REPO=PATH_PREFIX")
        extras.knowledge(daemon)
        extras.limits(daemon)
        # ... and a second job, that an older engine cannot be asked for.
        governor = commands.add_parser("reliability-governor", help="say of each open issue what may be done about it")
        governor.add_argument("--once", action="store_true", required=True)
        governor.add_argument("--repo", action="append", required=True, metavar="OWNER/NAME")
        governor.add_argument("--registry", type=Path, required=True)
        governor.add_argument("--state-dir-path", type=Path, required=True)
        governor.add_argument("--limit", type=int, default=20)
        extras.knowledge(governor)
    return top


def allowed_paths(pairs: Sequence[str]) -> dict[str, list[str]]:
    allowed: dict[str, list[str]] = {}
    for pair in pairs:
        checkout, separator, prefix = pair.partition("=")
        if not (separator and checkout and prefix):
            raise SystemExit(f"--allow wants REPO=PATH_PREFIX, not {pair}")
        allowed.setdefault(checkout, []).append(prefix)
    return allowed


def main(argv: Sequence[str] | None = None) -> None:
    asked = parser().parse_args(argv)
    if __version__ != "0.1.0":
        extras.note(asked)
    if asked.command == "reliability-governor":
        govern(asked.repo, asked.registry, asked.state_dir_path, asked.limit)
        return
    report = run_cycle(
        Options(
            repos=asked.repo,
            workspace=asked.workspace_root.resolve(),
            runs=asked.output_root.resolve(),
            state=asked.state_dir_path.resolve(),
            memory=asked.memory_dir and asked.memory_dir.resolve(),
            max_runs=asked.max_runs_per_day,
            max_cost=asked.max_cost_usd_per_day,
            allowed=allowed_paths(asked.allow),
        )
    )
    print(json.dumps(report, indent=2, sort_keys=True))
    sys.exit(1 if report["outcome"] in FAILURES else 0)
