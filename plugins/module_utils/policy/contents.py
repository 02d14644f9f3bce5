# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a change puts into files: text that is denied in them, in their names and in commits.

Searched line by line as the engine does, and only where a match can be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from ..base.untrusted import show
from .change import ODD_ENDS, Change, Violation
from .paths import MAX_PATH
from .patterns import Pattern, prepare
from .schema import Policy


def _patterns(engine: Policy) -> list[Pattern]:
    return [prepare(text) for text in engine.get("denied_content_patterns", [])]


def judge_names(engine: Policy, paths: Iterable[str]) -> list[Violation]:
    """Text that is denied in a file may not stand in its name, nor in a directory's."""
    whose: dict[str, str] = {}
    for path in paths:
        if len(path) <= MAX_PATH:
            for text in (path, *path.split("/")):
                whose.setdefault(text, path)
    return [
        Violation("denied_content_patterns", show(whose[text]), f"has a name denied by {pattern.text}")
        for pattern, text in _matches(_patterns(engine), list(whose))
    ]


def text_judge(engine: Policy, ours: Policy) -> Callable[[Change], list[Violation]]:
    """Searches what a change adds, line by line as the engine does, and only where a match can be."""
    patterns = _patterns(engine)
    longest = ours["max_line_length"]

    def judge(change: Change) -> list[Violation]:
        if not change.added and not change.strays:
            return []
        name = show(change.path)
        found: list[Violation] = []
        lines = _lines(change, longest)
        length = max(map(len, lines))
        if length > longest:
            reason = f"adds a line of {length} characters, allowed: {longest}"
            found.append(Violation("guards.max_line_length", name, reason))
            lines = [line for line in lines if len(line) <= longest]
        denied = dict.fromkeys(pattern.text for pattern, _line in _matches(patterns, lines))
        found += [Violation("denied_content_patterns", name, f"adds text denied by {text}") for text in denied]
        return found

    return judge


def _matches(patterns: Iterable[Pattern], lines: Sequence[str]) -> Iterator[tuple[Pattern, str]]:
    """Each pattern with the lines that it is found in."""
    text = "\n".join(lines)
    low = text.lower() if text.isascii() else ""
    for pattern in patterns:
        whole = low if pattern.fold else text
        known = pattern.literals if whole else ()
        if known and not any(literal in whole for literal in known):
            continue
        for line in lines:
            if known:
                searched = line.lower() if pattern.fold else line
                if not any(literal in searched for literal in known):
                    continue
            if pattern.search(line):
                yield pattern, line


def _lines(change: Change, longest: int) -> list[str]:
    """The texts to search: added lines, their parts where the engine ends lines and git does not, binary pieces."""
    if change.binary:
        return list(_windows("\n".join(change.added), longest))
    lines = [*change.added, *change.strays]
    if ODD_ENDS.search("\n".join(change.added)):
        for line in change.added:
            pieces = line.splitlines()
            lines += [*pieces, *(piece[1:] for piece in pieces[1:] if piece.startswith("+"))]
    return lines


def _windows(text: str, length: int) -> Iterator[str]:
    """A binary file's text in pieces that overlap by half; again without NULs, which is how UTF-16 hides ASCII."""
    for whole in dict.fromkeys((text, text.replace("\0", ""))):
        for start in range(0, max(len(whole), 1), length):
            yield whole[start : start + length]
            yield whole[start + length // 2 : start + length + length // 2]
