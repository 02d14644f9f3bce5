# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Text that is denied, wherever it stands."""

from __future__ import annotations

import copy
import re
import time

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy import rules
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.change import Change
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.diff import changes_in_diff
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.rules import (
    judge_changes,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from judged import KEY, POLICY, new_file, violations, with_guards


def test_a_binary_file_that_is_left_alone_is_still_searched() -> None:
    wide = "\0".join(KEY)
    off = with_guards(binaries=False)
    assert violations(new_file("docs/utf16.txt", wide), off) == {("docs/utf16.txt", "denied_content_patterns")}
    assert violations(new_file("docs/x.bin", "\0" + "x" * 70_000 + KEY), off) == {
        ("docs/x.bin", "denied_content_patterns")
    }


def test_a_name_that_goes_is_not_searched_for_denied_text() -> None:
    assert judge_changes(POLICY, "app", [Change("docs/AKIA0123456789ABCDEF.md", deleted=True)]) == []


def test_a_denied_text_that_is_a_whole_name() -> None:
    policy = copy.deepcopy(POLICY)
    policy["defaults"]["denied_content_patterns"] = ["^hush$"]
    changes = [Change("docs/hush/a.md"), Change("docs/hush/b.md"), Change("docs/hushed.md")]
    found = judge_changes(policy, "app", changes)
    assert [(v.subject, v.rule) for v in found] == [("docs/hush/a.md", "denied_content_patterns")]  # told once


def test_a_line_that_nobody_can_search_in_time_is_refused_unsearched() -> None:
    hostile = "-----BEGIN " * 80_000
    began = time.process_time()
    found = violations(new_file("docs/a", hostile), with_guards(max_patch_bytes=10**7))
    assert found == {("docs/a", "guards.max_line_length"), ("docs/a", "max_file_bytes")}
    assert time.process_time() - began < 1


def test_judging_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "JUDGE_SECONDS", 0.2)
    policy = copy.deepcopy(POLICY)
    policy["defaults"]["denied_content_patterns"] = ["(a+)+$"]
    with pytest.raises(LoopError, match="took longer"):
        violations(new_file("docs/a", "a" * 40 + "b"), policy)


@pytest.mark.parametrize("end", ["\r", "\f", "\v", "\x1c", "\x85", "\u2028"])
def test_an_odd_line_end_hides_nothing(end: str) -> None:
    assert violations(new_file("docs/a", f"text{end}AKIA0123456789ABCDEF")) == {("docs/a", "denied_content_patterns")}


@pytest.mark.parametrize(
    "pattern",
    [
        "(?i)kelvin",
        "(?i:\u017fecret)",
        "(?i)straße|x9",
        "a(?:bc|de)+f",
        "[k]ey",
        "(?!x)lit",
        "(?:abc)?d",
        "(?<=a)bc",
        "(?x) a b c",
        "ab|",
    ],
)
@given(st.text(st.sampled_from("kK\u212aelvi\u0131n\u017fsSecrtßaxbcdfy9 é"), max_size=12))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_looking_for_a_part_first_changes_no_verdict(pattern: str, line: str) -> None:
    policy = copy.deepcopy(POLICY)
    policy["defaults"]["denied_content_patterns"] = [pattern]
    found = judge_changes(policy, "app", [Change("0", added=(line,))])
    assert bool(found) == bool(re.search(pattern, line))


def test_judging_grows_no_faster_than_the_diff() -> None:
    def seconds(files: int) -> float:
        diff = "".join(new_file(f"docs/f{number}.md", *["some token of text"] * 40) for number in range(files)).encode()
        policy = with_guards(max_patch_bytes=10**8)
        began = time.process_time()
        judge_changes(policy, "app", changes_in_diff(diff))
        return time.process_time() - began

    seconds(100)
    assert min(seconds(2000) for _unused in range(2)) < 10 * max(min(seconds(400) for _unused in range(3)), 0.01)
