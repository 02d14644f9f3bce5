# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an engine's help offers, and how a release is asked for it."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import engine_help, releases
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release.wanted_version import Wanted
from engines import ENGINE, PYTHON, Source, memory

ARGPARSE = """\
usage: engine daemon [-h] [--once] [--repo REPO] --workspace-root WORKSPACE_ROOT [--knowledge-context | --no-knowledge-context]
                     [--allow REPO=PREFIX]

Run what --nobody knows.

options:
  -h, --help            show this help message and exit
  --once                one cycle, as with --count=1 of old
  -r, --repo REPO       which one; see
                        --elsewhere for more
  --workspace-root WORKSPACE_ROOT
  --knowledge-context, --no-knowledge-context
  --allow REPO=PREFIX  like --deny
"""  # noqa: E501

CLICK = """\
Usage: engine daemon [OPTIONS]

  Runs one; --prose is none.

Options:
  --repo TEXT           Which one.
  --cache / --no-cache  Whether --thing is kept.
  -v, --verbose         Say more.
  --help                Show this message and exit.
"""

BOXES = """\
╭─ Options ───────────────────────────────╮
│ --repo    -r      TEXT  Which --one.     │
│ --help                  Show this.       │
╰──────────────────────────────────────────╯
"""


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (
            ARGPARSE,
            {
                "--help", "--once", "--repo", "--workspace-root", "--knowledge-context", "--no-knowledge-context",
                "--allow",
            },
        ),
        (CLICK, {"--repo", "--cache", "--no-cache", "--verbose", "--help"}),
        (BOXES, {"--repo", "--help"}),
        ("  --[no-]color=WHEN  colours\n", {"--color"}),
        ("usage: x [--a] [--b=B]\n", {"--a", "--b"}),
        ("", set()),
        ("no options at all, not --one", set()),
        ("---\n-- x\n--\x00\n", set()),
    ],
)  # fmt: skip
def test_the_options_of_a_help(text: str, options: set[str]) -> None:
    assert engine_help.options_of(text) == options


def test_what_argparse_makes_of_any_width(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = argparse.ArgumentParser(prog="engine daemon")
    names = {f"--option-{number}-{'long' * (number % 7)}" for number in range(30)}
    for name in names:
        parser.add_argument(name, help=f"as {name} of old, or --another: " + "words and " * 20)
    for width in ("60", "80", "200", "2000"):
        monkeypatch.setenv("COLUMNS", width)
        assert engine_help.options_of(parser.format_help()) == {"--help", *names}


def test_it_is_asked_as_the_one_who_will_run_it() -> None:
    with memory() as top:  # which others may enter, as they may not what is pytest's
        release = top / "release"
        (release / ".venv/bin").mkdir(parents=True)
        (release / ".venv/bin/engine").write_text('#!/bin/sh\necho "  --uid-$(id -u)"\n')
        for path in (top, release, release / ".venv", release / ".venv/bin", release / ".venv/bin/engine"):
            path.chmod(0o755)
        text = engine_help.help_of(str(release), ["engine"], "nobody")
    assert engine_help.options_of(text or "") == {f"--uid-{65534 if os.geteuid() == 0 else os.geteuid()}"}


HELPFUL = """
import os, pathlib, sys
def main():
    if sys.argv[1] == "loud":
        while True: print("--more" * 1000)
    if sys.argv[1] != "daemon":
        sys.exit(2)
    print(f"usage: engine [--once] [--columns-{os.environ['COLUMNS']}]\\n")
    print(f"  --secrets-{len(os.environ.get('SECRET', ''))}  {sys.argv}")
    print("  --sees-etc" if os.path.exists("/etc/hostname") else "  --sees-nothing")
    try:
        pathlib.Path(__file__).with_name("left").write_text("x")
    except OSError:
        print("  --writes-nothing")
"""


def test_a_release_is_asked_shut_in(anywhere: Wanted, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "12345")
    source.write("src/engine/__init__.py", HELPFUL)
    sha = source.commit("helpful")
    source.write("src/engine/__init__.py", ENGINE)
    source.commit("as before")
    wanted = dataclasses.replace(anywhere, smoke=[".venv/bin/python", "-c", "import engine"])
    path = releases.present(wanted, sha)["release"]["path"]
    text = engine_help.help_of(path, ["engine", "daemon"])
    assert text is not None and "['" + path + "/.venv/bin/engine', 'daemon', '--help']" in text
    assert engine_help.options_of(text) == {
        "--once", "--columns-200", "--secrets-0", "--sees-nothing", "--writes-nothing",
    }  # fmt: skip
    assert engine_help.help_of(path, ["engine", "governor"]) is None
    assert engine_help.help_of(path, ["engine", "loud"]) is None
    assert engine_help.help_of(path, ["no-such-program"]) is None
    assert not (Path(path) / "src/engine/left").exists()


def test_one_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_help, "SECONDS", 0.5)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(PYTHON)
    program = tmp_path / ".venv/bin/engine"
    program.write_text("#!/bin/sh\nsleep 60\n")
    program.chmod(0o755)
    assert engine_help.help_of(str(tmp_path), ["engine", "daemon"]) is None
