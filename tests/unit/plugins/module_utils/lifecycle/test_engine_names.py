# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an engine may call its things: one line for each that no cycle could work with."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import engine_names
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.engine_names import (
    LABEL,
    PREFIX,
    check_checkouts,
    check_prefixes,
)

OVERLAY = {"defaults": {"protected_branch_prefixes": ["release"]}}
FOLLOWED = [{"repo": "o/a", "dest": "a", "version": "develop/next"}, {"repo": "o/b", "dest": "b"}]


@pytest.mark.parametrize("label", ["loop:approved", "a", "agent go", "team/x: go", "C++", "x" * 50])
def test_labels(label: str) -> None:
    assert re.fullmatch(LABEL, label)


@pytest.mark.parametrize("label", ["", " a", "a ", "a,b", "a\nb", "a\x00", "x" * 51, "--label", "a\u202eb", "{{ x }}"])
def test_no_labels(label: str) -> None:
    assert not re.fullmatch(LABEL, label)


@pytest.mark.parametrize("prefix", ["small", "bots/small", "a.b-c_d", "1"])
def test_beginnings_of_branches(prefix: str) -> None:
    assert re.fullmatch(PREFIX, prefix)
    check_prefixes([prefix], {}, [])


@pytest.mark.parametrize(
    "prefix",
    ["", "/a", "a/", "a//b", "a..b", "-a", "a.lock", "a.lock/b", ".a", "a/.b", "a.", "a b", "a~", "a\n", "a/-b/.."],
)
def test_no_beginnings_of_branches(prefix: str) -> None:
    assert not re.fullmatch(PREFIX, prefix)


@pytest.mark.parametrize(
    ("prefixes", "why"),
    [
        ([], "is empty, but must name one"),
        (["main"], "holds main, but main is protected"),
        (["small", "Production/x"], "holds Production/x, but production is protected"),
        (["release/bots"], "holds release/bots, but release is protected"),
        (["develop"], "holds develop, but work starts from the branch develop/next"),
        (["develop/next/x"], "holds develop/next/x, but work starts from the branch develop/next"),
        (["Develop"], "holds Develop, but work starts from the branch develop/next"),
        (["a/b", "a"], "holds a/b, which lies below a"),
        (["Loop", "loop"], "holds Loop, which lies below loop"),
        (["a", "a"], "names one more than once"),
    ],
)
def test_beginnings_that_no_push_could_have(prefixes: list[str], why: str) -> None:
    with pytest.raises(LoopError, match=why) as refused:
        check_prefixes(prefixes, OVERLAY, FOLLOWED)
    assert str(refused.value).startswith(engine_names.PREFIXES)


@pytest.mark.parametrize(
    "overlay", [{"defaults": ["x"]}, {"defaults": "x"}, {"defaults": {"protected_branch_prefixes": 5}}, {}]
)
def test_an_overlay_that_is_none_is_for_the_policy_to_refuse(overlay: dict[str, Any]) -> None:
    check_prefixes(["small"], overlay, [])


def test_what_only_begins_alike_is_another() -> None:
    check_prefixes(["mainline", "develop/nextone", "a", "ab"], OVERLAY, FOLLOWED)


@pytest.mark.parametrize("names", [{}, {"a": "b"}, {"o/a": "b-c.d", "o/b": "b"}])
def test_checkouts(names: dict[str, str]) -> None:
    check_checkouts(names)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ({"a/b/c": "x"}, 'has the key "a/b/c", but must have names of repositories'),
        ({7: "x"}, "has the key 7, but must"),
        ({"a": "../x"}, 'a is "../x", but must be a name'),
        ({"a": ""}, 'a is "", but must be a name'),
        ({"a": ["x"]}, r"a is \[\"x\"\], but must be a name"),
        ({"a": "x" * 101}, "of at most 100"),
    ],
)
def test_no_checkouts(names: dict[Any, Any], why: str) -> None:
    with pytest.raises(LoopError, match=why) as refused:
        check_checkouts(names)
    assert str(refused.value).startswith(engine_names.CHECKOUTS) and len(str(refused.value)) < 300
