# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Patterns that stall are refused, and those that people use are not."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy import patterns
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.change import Change
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.compose import (
    compose,
)
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.rules import judge_changes
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.schema import (
    try_patterns,
)
from judged import BASE, POLICY


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+$", r"\s*\s*\s*$", "(a|a)*$", "(?:.*a){12}$", "(x+x+)+y", r"(?i)(\w+\s?)*:", r"([a-z]+)*\d", "(a|ab|b)*c$"],
)
def test_a_pattern_that_stalls_is_refused_by_its_key(pattern: str) -> None:
    began = time.process_time()
    overlay = {"defaults": {"denied_content_patterns": {"add": [pattern]}}}
    with pytest.raises(LoopError, match=r"defaults\.denied_content_patterns\[2\]: found .* quick"):
        compose(BASE, overlay)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?i)(api_key|token|secret)\s*=\s*['\"][^'\"]+['\"]",
        r"^(\w+\.)+com$",
        "gh[pousr]_[A-Za-z0-9]{36}",
        r"(?m)^x+$",
        "",
    ],
)
def test_a_pattern_that_people_use_is_not(pattern: str) -> None:
    try_patterns({"defaults": {"denied_content_patterns": [pattern or "x"]}}, "x")


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"token|\d{6}", "123456"),
        (r"token|\d{6}", "a token"),
        (r"(?i)(secret|[0-9a-f]{8})=?", "00ff00ff"),
        ("(key|)x", "x"),
        ("(?:key)?x", "x"),
    ],
)
def test_a_text_that_has_none_of_a_patterns_words_is_searched_all_the_same(pattern: str, text: str) -> None:
    policy = {**POLICY, "defaults": {**POLICY["defaults"], "denied_content_patterns": [pattern]}}
    found = judge_changes(policy, "app", [Change("docs/a.md", added=(text,))])
    assert [violation.rule for violation in found] == ["denied_content_patterns"]


def test_a_busy_host_makes_no_pattern_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    def starved(_pattern: str) -> Iterator[str]:
        time.sleep(0.3)  # as long as others have the processor
        yield "x"

    monkeypatch.setattr(patterns, "PATTERN_SECONDS", 0.1)
    monkeypatch.setattr(patterns, "hostile_texts", starved)
    patterns.try_pattern("x", "refused")
