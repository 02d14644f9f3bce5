# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Times and sizes as an operator writes them."""

from __future__ import annotations

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.sizes import duration, limits_of, number_of


@pytest.mark.parametrize(
    ("text", "what", "number"),
    [
        ("12h", "age", 43200), ("2d", "age", 172800), ("1w", "min_age", 604800), ("30", "age", 30), (90, "age", 90),
        ("1.5m", "age", 90), ("0s", "age", 0), ("10G", "size", 10 * 1024**3), ("512K", "size", 512 * 1024),
        ("1.5M", "size", 1.5 * 1024**2), (" 7T ", "size", 7 * 1024**4), ("100", "size", 100), (2.5, "size", 2.5),
    ],
)  # fmt: skip
def test_numbers(text: str | float, what: str, number: float) -> None:
    assert number_of(text, what) == number


@pytest.mark.parametrize(
    ("text", "what", "example"),
    [
        ("soon", "age", "a time such as 2d"), ("10G", "age", "a time such as 2d"), ("2d", "size", "a size such as 10G"),
        ("", "size", "a size such as 10G"), ("-1d", "age", "a time such as 2d"), ("1e9", "size", "a size such as 10G"),
        ("10 G", "size", "a size such as 10G"), ("1x", "age", "a time such as 2d"),
        ("9" * 16, "size", "a size such as 10G"),
        ("nan", "size", "a size such as 10G"), ("1d\n1", "age", "a time such as 2d"), ("\u0665d\x1b", "age", "a time"),
    ],
)  # fmt: skip
def test_what_is_none_is_refused_in_one_line(text: str, what: str, example: str) -> None:
    with pytest.raises(LoopError) as caught:
        number_of(text, what)
    assert str(caught.value).startswith(f"{what} ") and example in str(caught.value)
    assert str(caught.value).isprintable()


def test_what_is_empty_is_no_limit() -> None:
    assert limits_of({"age": "", "size": None, "min_age": "1d"}) == {"age": None, "size": None, "min_age": 86400}
    assert limits_of({"age": 0}) == {"age": 0}


@pytest.mark.parametrize(("text", "seconds"), [("", None), ("90s", 90), ("15m", 900), ("12h", 43200), ("2w", 1209600)])
def test_durations(text: str, seconds: float | None) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["0d", "30", "d", "-1d", "1.5h", "30 d", "1y", "٣d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(LoopError, match="is not an age"):
        duration(text)
