# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""JSON documents as dataclasses: what is missing or of another kind is named by its path."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base import documents
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError


@dataclass(frozen=True)
class Inner:
    name: str
    count: int = 0


@dataclass(frozen=True)
class Outer:
    on: bool
    began: str = field(default="", metadata={"key": "from"})
    first: Inner | None = None
    rest: tuple[Inner, ...] = ()
    more: dict[str, str] = field(default_factory=dict)
    pairs: tuple[tuple[str, str], ...] = ()


def test_a_document_with_all_in_it() -> None:
    content = b'{"on": true, "from": "x", "first": null, "rest": [{"name": "a", "count": 2}], "more": {}, "new": 1}'
    assert documents.load(Outer, content) == Outer(True, "x", None, (Inner("a", 2),), {})
    assert documents.load(Outer, b'{"on": true, "pairs": [["a", "b"]]}') == Outer(True, pairs=(("a", "b"),))
    assert documents.load(Outer, b'{"on": false, "first": {"name": "b"}}') == Outer(False, first=Inner("b"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "it is not JSON: "),
        (b"[" * 200_000, "it is not JSON: "),
        (b"[1]", "it is not an object"),
        (b"{}", "on is missing"),
        (b'{"on": 1}', "on is not true or false"),
        (b'{"on": true, "from": null}', "from is not a text"),
        (b'{"on": true, "first": {}}', "first.name is missing"),
        (b'{"on": true, "rest": {}}', "rest is not a list"),
        (b'{"on": true, "rest": [{"name": "a"}, {"name": "b", "count": true}]}', "rest[1].count is not a whole number"),
        (b'{"on": true, "more": []}', "more is not an object"),
        (b'{"on": true, "pairs": [["a", "b"], ["c"]]}', "pairs[1] is not a pair"),
        (b'{"on": true, "pairs": [["a", 1]]}', "pairs[0][1] is not a text"),
    ],
)
def test_what_is_wrong_is_named(content: bytes, words: str) -> None:
    with pytest.raises(LoopError) as error:
        documents.load(Outer, content)
    assert str(error.value).startswith(words)
