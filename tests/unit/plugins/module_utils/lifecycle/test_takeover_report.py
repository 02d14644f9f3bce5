# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person is told of a take-over."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.layout import Layout
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.takeover import take
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.takeover_report import changes
from older_host import put

# --- what was set by default

DAEMON = """#!/bin/sh
exec /opt/engineering-loop/.venv/bin/hyrule-engineering-loop daemon --once \\
    --repo A/b \\
    --workspace-root /w --allow infra=docs \\
    --knowledge-context \\
    --knowledge-mcp-url=http://127.0.0.1:8767/mcp \\
    --max-runs-per-day 20 \\
    --max-cost-usd-per-day 10
echo --not-a-flag-of-it
"""
GOVERNOR = "exec x reliability-governor --once --limit 20\n"


def test_what_the_old_role_set_by_default_and_ours_does_not_is_told(layout: Layout) -> None:
    put(Path(layout.lib_dir) / "run-daemon", DAEMON)
    put(Path(layout.lib_dir) / "run-reliability-governor", GOVERNOR)
    put(
        Path(layout.state_dir) / ".gitconfig",
        '[core]\n\tx = y\n[user]\n\tname = "old[bot]"\n\temail = old@x\n[z]\nname = z\n',
    )
    given = replace(
        layout, daemon_args=["--max-runs-per-day", "2", "--max-cost-usd-per-day", "10"], author="new[bot] <new@x>"
    )
    told = changes(given)
    assert told == [
        "the old loop gave its engine --knowledge-context, ours does not",
        "the old loop gave its engine --knowledge-mcp-url http://127.0.0.1:8767/mcp, ours does not",
        "the old loop gave its engine --max-runs-per-day 20, ours gives 2",
        "the old loop's commits were by old[bot] <old@x>, ours are by new[bot] <new@x>: engineering_loop_git_user_name"
        " and engineering_loop_git_user_email say whose",
    ]
    assert set(told) <= set(take(given, check=True)["lines"]) and set(told) <= set(take(given)["lines"])
    assert changes(given) == []  # they are told once


@pytest.mark.parametrize(
    "text", ["", "[user]\n", "[user]\nname = a\n", "[user\nname = a\nemail = b\n", "\0", "\x1b" * 9]
)
def test_whose_commits_it_made_is_input(layout: Layout, text: str) -> None:
    put(Path(layout.state_dir) / ".gitconfig", text)
    assert changes(replace(layout, author="new <new@x>")) == []
    os.unlink(Path(layout.state_dir) / ".gitconfig")
    os.symlink("/etc/passwd", Path(layout.state_dir) / ".gitconfig")
    assert changes(replace(layout, author="new <new@x>")) == []
