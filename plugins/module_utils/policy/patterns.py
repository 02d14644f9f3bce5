# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Regular expressions that somebody else wrote: never slow, and searched fast.

The engine searches with Python's re, so a linear engine here would only hide from us
what stalls it. Instead a pattern is tried on texts made to hurt it before it is
installed, and every search of ours has a deadline. Time is the processor's: a busy host
makes no pattern slow.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import re
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ..base.errors import LoopError

PATTERN_SECONDS = 1.0
PUMPED = 4096

# Only the parser knows what a pattern may match. It is private to re, and the same from Python 3.11 on.
PARSER: Any = importlib.import_module("re._parser")
REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")


@contextlib.contextmanager
def deadline(seconds: float, message: str) -> Iterator[None]:
    """Raise LoopError(message) if the block takes more of the processor's time. Main thread only.

    Python's re looks for signals while it backtracks, so an alarm ends a search too.
    """
    if threading.current_thread() is not threading.main_thread():
        raise LoopError("patterns are bounded in time by an alarm, and that needs the main thread")

    def expire(_number: int, _frame: object) -> None:
        raise LoopError(message)

    previous = signal.signal(signal.SIGVTALRM, expire)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)


def try_pattern(pattern: str, message: str) -> None:
    """Raise LoopError(message) if ``pattern`` needs more than a second for 4 KiB texts made to hurt it."""
    with deadline(PATTERN_SECONDS, f"{message} (it took over {PATTERN_SECONDS} s on {PUMPED} characters)"):
        compiled = re.compile(pattern)
        for text in hostile_texts(pattern):
            compiled.search(text)


def hostile_texts(pattern: str) -> Iterator[str]:
    """Texts that make a backtracking search try again and again: pieces of the pattern, repeated, then a misfit."""
    tree = PARSER.parse(pattern)
    pumps = dict.fromkeys(pump for pump in _pumps(tree) if pump)
    heads = dict.fromkeys(["", *_heads(tree)])
    for pump in list(pumps)[:32]:
        repeated = pump * (PUMPED // len(pump))
        for head in list(heads)[:16]:
            yield f"{head}{repeated}\0"
            yield f"{head}{repeated}"


def _sample(tree: Any) -> str:
    """A short text that a parsed pattern matches, or nearly."""
    return "".join(_sample_one(str(operation), argument) for operation, argument in tree)


def _sample_one(operation: str, argument: Any) -> str:
    if operation == "LITERAL":
        return chr(argument)
    if operation == "NOT_LITERAL":
        return "a" if argument != ord("a") else "b"
    if operation == "ANY":
        return "a"
    if operation == "IN":
        return _member(argument)
    inner = _children(operation, argument)
    if not inner or operation in ("ASSERT", "ASSERT_NOT"):
        return ""
    return _sample(inner[0]) * (min(max(argument[0], 1), 64) if operation in REPEATS else 1)


CATEGORY = {"CATEGORY_DIGIT": "0", "CATEGORY_SPACE": " ", "CATEGORY_WORD": "a"}


def _member(members: Any) -> str:
    """A character of a class; of a negated one, the first of a few that it does not name."""
    if members and str(members[0][0]) == "NEGATE":
        named = {chr(value) for kind, value in members if str(kind) == "LITERAL"}
        return next((char for char in "a =0-b" if char not in named), "\u00e9")
    kind, value = members[0]
    if str(kind) in ("LITERAL", "RANGE"):
        return chr(value if isinstance(value, int) else value[0])
    return CATEGORY.get(str(value), "-")


def _children(operation: str, argument: Any) -> list[Any]:
    if operation == "BRANCH":
        return list(argument[1])
    if operation in ("SUBPATTERN", "ASSERT", "ASSERT_NOT"):
        return [argument[-1]]
    if operation == "ATOMIC_GROUP":
        return [argument]
    if operation in REPEATS:
        return [argument[2]]
    return []


def _pumps(tree: Any) -> Iterator[str]:
    """What may be repeated: the whole match, and whatever stands below it, outermost first."""
    yield _sample(tree)
    for operation, argument in tree:
        if str(operation) not in ("AT", "GROUPREF"):
            yield _sample_one(str(operation), argument)
        for child in _children(str(operation), argument):
            yield from _pumps(child)


def _heads(tree: Any) -> Iterator[str]:
    """What leads up to each piece, so that the search gets as far as the piece that can be pumped."""
    for number in range(1, len(tree)):
        yield _sample(tree[:number])
    for operation, argument in tree:
        for child in _children(str(operation), argument):
            yield from _heads(child)


class Pattern(NamedTuple):
    text: str
    search: Callable[[str], Any]
    literals: tuple[str, ...]  # one of them is in every match; none where that cannot be told
    fold: bool


@functools.lru_cache(maxsize=1024)
def prepare(text: str) -> Pattern:
    """A pattern ready to search with, and what can be looked for first because it is so much faster."""
    fold = re.search(r"\(\?[a-zA-Z]*i", text) is not None
    literals = _required(PARSER.parse(text))
    if any(not literal.isascii() for literal in literals):
        literals = ()
    return Pattern(text, re.compile(text).search, tuple(part.lower() for part in literals) if fold else literals, fold)


def _required(tree: Any) -> tuple[str, ...]:
    """Texts of which every match contains one: the longest that the pattern cannot do without."""
    best: tuple[str, ...] = ()
    run = ""

    def better(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
        return max(one, other, key=lambda texts: min(map(len, texts), default=0))

    for operation, argument in [*tree, (None, None)]:
        name = str(operation)
        if name == "LITERAL":
            run += chr(argument)
            continue
        best, run = better(best, (run,) if run else ()), ""
        if name in ("SUBPATTERN", "ATOMIC_GROUP") or (name in REPEATS and argument[0] > 0):
            best = better(best, _required(_children(name, argument)[0]))
        elif name == "BRANCH":
            each = [_required(branch) for branch in argument[1]]
            if all(each):
                best = better(best, tuple(text for texts in each for text in texts))
    return best
