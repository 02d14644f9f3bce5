# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said of another version before it is switched to: options that came and went, by real releases' help."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import foretell, releases
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release.wanted_version import Wanted
from engines import Source

HELPFUL = """
import argparse
def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    for name, options in {commands!r}.items():
        command = commands.add_parser(name)
        for option in options:
            command.add_argument(option, help="not as --that of old")
    parser.parse_args()
"""
DAEMON = ["--once", "--repo", "--old", "--kept"]
ASKS = [
    {"command": ["engine", "daemon"], "given": ["--old=1", "--kept", "value"]},
    {"command": ["engine", "governor"], "given": []},
    {"command": ["engine", "never"]},
]


def of(source: Source, daemon: Sequence[str], **more: Sequence[str]) -> str:
    source.write("src/engine/__init__.py", HELPFUL.format(commands={"daemon": [*daemon], **more}))
    return source.commit("helpful")


def test_options_that_came_and_went(wanted: Wanted, tmp_path: Path) -> None:
    source = Source(tmp_path / "engine")
    one = of(source, DAEMON, governor=["--limit"])
    two = of(source, ["--repo", "--kept", "--new", "--newer"])
    host = dataclasses.replace(wanted, repo=str(source.path), smoke=[".venv/bin/engine", "daemon", "--help"], asks=ASKS)
    assert releases.present(host, one)["foretell"] == []  # there was none before it
    assert releases.present(host, two, check=True)["foretell"] == [foretell.not_known(two)]
    said = [
        "`engine daemon` of the new engine lost --old, --once, which this host passes to it; it has gained --new,"
        " --newer",
        "the new engine has no `engine governor`, which the one before it had",
    ]
    assert releases.present(host, two)["foretell"] == said
    assert releases.present(host, two)["foretell"] == []  # said once, as it is switched to once
    back = [
        "`engine daemon` of the new engine no longer has --new, --newer; it has gained --old, --once",
        "the new engine has `engine governor`, which the one before it had not",
    ]
    assert releases.present(host, one, check=True)["foretell"] == back  # it is built, so it can be asked
    assert releases.present(host, one)["foretell"] == back
    assert releases.present(dataclasses.replace(host, asks=[]), two)["foretell"] == []


def test_many_options_are_not_all_named() -> None:
    new = "usage: x " + " ".join(f"[--option-{number:02}]" for number in range(20))
    (line,) = foretell._line(["x"], [], "usage: x", new)
    assert line.endswith("--option-11 and 8 more") and "--option-12" not in line
