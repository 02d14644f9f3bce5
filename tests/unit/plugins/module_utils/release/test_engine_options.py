# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wanted of an engine, and what the installed one names in its help."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import engine_options
from celled import LOOP, NEEDS_ROOT, box

CONTEXT, URL = ["--knowledge-context"], ["--knowledge-mcp-url", "https://mcp.example"]
OLD, NEW = "a" * 40, "b" * 40
HELP = "usage: engine daemon\n\noptions:\n  --once  run\n  --knowledge-context  ask\n"
JOB = {
    "name": "look", "unit": "loop-job-look", "command": ["hyrule-engineering-loop", "look"], "args": [],
    "options": {"--deep": "", "--knowledge-mcp-url": "x"}, "state": "/s", "may": [], "proof": True, "enabled": True,
}  # fmt: skip


@pytest.fixture
def open_path() -> Iterator[Path]:
    with box() as found:
        yield found.top / "opt"


def release(top: Path, sha: str, **helps: str) -> Path:
    """A release whose program answers to these subcommands, and counts how often it was asked."""
    program = top / "releases" / sha / ".venv/bin/hyrule-engineering-loop"
    program.parent.mkdir(parents=True)
    cases = "".join(f"{name}) printf %s {shlex.quote(text)};;\n" for name, text in helps.items())
    program.write_text(f'#!/bin/sh\ncase "$1" in\n{cases}*) exit 2;;\nesac\n')
    program.chmod(0o755)
    return program


def switch(top: Path, sha: str) -> None:
    (top / "current").unlink(missing_ok=True)
    (top / "current").symlink_to(top / "releases" / sha)


def config(top: Path, **more: Any) -> Settings:
    plain: dict[str, Any] = {"install_dir": str(top), "user": LOOP, "daemon_args": [], "jobs": []}
    return Settings({**plain, "engine_options": [CONTEXT, URL], **more})


@pytest.mark.parametrize(
    ("known", "words", "unknown"),
    [
        (set(), [], ["--knowledge-context", "--knowledge-mcp-url"]),
        ({"--knowledge-context"}, CONTEXT, ["--knowledge-mcp-url"]),
        ({"--knowledge-context", "--knowledge-mcp-url"}, [*CONTEXT, *URL], []),
    ],
)
def test_what_fits(known: set[str], words: list[str], unknown: list[str]) -> None:
    assert engine_options.fitting([CONTEXT, URL], known) == (words, unknown)


@pytest.mark.parametrize(
    ("word", "flag"),
    [
        ("--once", "--once"), ("--repo=a/b", "--repo"), ("--state-dir", "--state-dir-path"), ("--mem", "--memory-dir"),
        ("--no-once", "--once"), ("--no-knowledge-context", "--knowledge-context"), ("--no-color", ""),
        ("--knowledge-mcp-url", "--knowledge-mcp-url"), ("--dry-run", ""), ("-v", ""), ("--", ""), ("once", ""),
    ],
)  # fmt: skip
def test_what_the_role_says_itself(word: str, flag: str) -> None:
    assert engine_options.own(word) == flag


def test_each_option_of_a_variable_is_the_roles_own() -> None:
    assert set(engine_options.VARIABLES) < set(engine_options.OWN)


@NEEDS_ROOT
def test_each_release_is_asked_once(open_path: Path) -> None:
    program = release(open_path, OLD, daemon=HELP)
    switch(open_path, OLD)
    wanted = config(open_path, daemon_args=["--once", "--more=1", "x", "--odd"])
    nothing = {"without": [], "refused": []}
    assert engine_options.look(wanted, ask=False) == nothing
    seen = {"without": ["--knowledge-mcp-url"], "refused": ["--more", "--odd"]}
    assert engine_options.look(wanted, keep=False) == seen
    assert not Path(engine_options.path_of(str(open_path))).exists()
    assert engine_options.look(wanted) == seen
    program.write_text("#!/bin/sh\nexit 1\n")
    assert engine_options.look(wanted) == engine_options.look(wanted, ask=False) == seen
    release(open_path, NEW, daemon=HELP + "  --knowledge-mcp-url URL\n  --more N\n")
    switch(open_path, NEW)
    assert engine_options.look(wanted, ask=False) == nothing
    assert engine_options.look(wanted) == {"without": [], "refused": ["--odd"]}
    switch(open_path, OLD)
    assert engine_options.look(wanted, ask=False) == seen
    kept = json.loads(Path(engine_options.path_of(str(open_path))).read_text())
    assert set(kept) == {OLD, NEW}


@NEEDS_ROOT
def test_a_job_that_it_knows_is_asked_as_well(open_path: Path) -> None:
    release(open_path, OLD, daemon=HELP + "  --knowledge-mcp-url URL\n")
    release(open_path, NEW, daemon=HELP + "  --knowledge-mcp-url URL\n", look="  --knowledge-mcp-url URL\n")
    switch(open_path, OLD)
    assert engine_options.look(config(open_path, jobs=[JOB])) == {"without": [], "refused": []}
    switch(open_path, NEW)
    assert engine_options.look(config(open_path, jobs=[JOB])) == {"without": ["--deep"], "refused": []}


@NEEDS_ROOT
def test_no_engine_and_a_file_that_says_nothing(open_path: Path) -> None:
    nothing = {"without": [], "refused": []}
    assert engine_options.look(config(open_path)) == nothing
    release(open_path, OLD, daemon=HELP)
    switch(open_path, OLD)
    for text in ("{", "[]", '{"' + OLD + '": 7}', ""):
        Path(engine_options.path_of(str(open_path))).write_text(text)
        assert engine_options.look(config(open_path), ask=False) == nothing, text


@NEEDS_ROOT
def test_an_engine_that_does_not_answer_is_asked_again(open_path: Path) -> None:
    program = release(open_path, OLD)
    switch(open_path, OLD)
    nothing = {"without": [], "refused": []}
    assert engine_options.look(config(open_path, daemon_args=["--odd"])) == nothing
    program.write_text(f"#!/bin/sh\nprintf %s {shlex.quote(HELP)}\n")
    assert engine_options.look(config(open_path, daemon_args=["--odd"]))["refused"] == ["--odd"]


def test_what_is_told() -> None:
    without, refused = engine_options.sentences({"without": ["--knowledge-mcp-url", "--deep"], "refused": ["--odd"]})
    assert without == (
        "the installed engine does not know --knowledge-mcp-url, --deep (engineering_loop_knowledge_context_enabled,"
        " engineering_loop_jobs), so it is run without"
    )
    assert refused.startswith("the installed engine does not know --odd, so every cycle is refused: take it out of")
    assert engine_options.without(["--deep"]).endswith("--deep (engineering_loop_jobs), so it is run without")
    assert engine_options.sentences({"without": [], "refused": []}) == []
