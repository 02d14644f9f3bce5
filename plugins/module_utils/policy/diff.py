# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A unified diff as git writes it, read into changes: what is not understood is refused.

Lines of a hunk are counted, so a line of content cannot pass for a header.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..base.errors import LoopError
from ..base.untrusted import show
from .change import ODD_ENDS, Change, bytes_in

HUNK = re.compile(r"@@ -\d+(?:,(\d{1,9}))? \+\d+(?:,(\d{1,9}))? @@")
BASE85 = re.compile(r"[A-Za-z][0-9A-Za-z!#$%&()*+;<=>?@^_`{|}~-]{5,65}")
ESCAPES = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, '"': 34, "\\": 92}


class DiffReader:
    """A position in the lines of a diff, and the file that is being put together."""

    def __init__(self, content: bytes) -> None:
        text = content.decode("utf-8", "surrogateescape")
        self.lines = text.split("\n")
        self.odd = bool(ODD_ENDS.search(text))
        self.nul = "\0" in text
        self.at = 0

    def refuse(self, reason: str) -> LoopError:
        return LoopError(f"the diff cannot be read: line {self.at + 1}: {reason}")

    def has_nul(self, start: int) -> bool:
        return self.nul and any("\0" in line for line in self.lines[start : self.at])

    def more(self) -> bool:
        return self.at < len(self.lines)

    @property
    def line(self) -> str:
        return self.peek(0)

    def peek(self, ahead: int) -> str:
        return self.lines[self.at + ahead] if self.at + ahead < len(self.lines) else ""


def changes_in_diff(content: bytes) -> list[Change]:
    """The changes in a unified diff as git writes it. LoopError where any part of it is not understood."""
    reader = DiffReader(content)
    changes: list[Change] = []
    while reader.more():
        line = reader.line
        if line.startswith("diff --git ") or (line.startswith("--- ") and reader.peek(1).startswith("+++ ")):
            changes.append(read_file(reader))
        elif line.startswith(("diff --cc ", "diff --combined ", "@@")):
            raise reader.refuse("found a combined diff or a hunk without its file, allowed: a diff of two sides")
        elif changes and line == "-- ":
            break  # the signature of a mailed patch
        elif changes and line:
            raise reader.refuse(f"found {show(line)!r} where a file begins")
        else:
            reader.at += 1
    if not changes and content.strip():
        raise LoopError("the diff cannot be read: found text without a change in it, allowed: a unified diff")
    return changes


def read_file(reader: DiffReader) -> Change:
    """One file: its headers, then its hunks or its binary patch."""
    header: dict[str, str] = {}
    if reader.line.startswith("diff --git "):
        header["git"] = reader.line[11:]
        reader.at += 1
    _read_headers(reader, header)
    old, new = _names(reader, header)
    added: list[str] = []
    strays: list[str] = []
    size = _read_binary_patch(reader) if "patch" in header else 0
    start = reader.at
    while reader.line.startswith("@@"):
        if header.get("---") is None or header.get("+++") is None:
            raise reader.refuse("a hunk without the names of its file")
        _read_hunk(reader, added, strays)
    deleted = new == "" or "deleted file mode" in header
    index = header.get("index", "").split(" ")
    kept = index[1] if len(index) > 1 else ""
    return Change(
        path=new or old,
        origin=old if old and new and old != new else "",
        old_mode=header.get("old mode") or header.get("deleted file mode") or kept,
        mode="" if deleted else header.get("new mode") or header.get("new file mode") or kept,
        deleted=deleted,
        binary="binary" in header or "patch" in header or reader.has_nul(start),
        added=tuple(added),
        strays=tuple(strays),
        size=max(size, bytes_in(added)),
        blob="" if deleted else index[0].rpartition("..")[2],
    )


HEADERS = (
    *("old mode", "new mode", "deleted file mode", "new file mode", "copy from", "copy to", "rename from", "rename to"),
    *("similarity index", "dissimilarity index", "index", "---", "+++"),
)


def _read_headers(reader: DiffReader, header: dict[str, str]) -> None:
    while reader.more():
        line = reader.line
        name = next((name for name in HEADERS if line.startswith(f"{name} ")), "")
        if name:
            if name in header:
                raise reader.refuse(f"{name!r} is there twice for one file")
            if name == "+++" and "---" not in header:
                raise reader.refuse("found '+++' without '---'")
            header[name] = line[len(name) + 1 :]
        elif line.startswith("Binary files ") and line.endswith(" differ"):
            header["binary"] = "yes"
        elif line == "GIT binary patch":
            header["patch"] = "yes"
        else:
            return
        reader.at += 1


def _names(reader: DiffReader, header: Mapping[str, str]) -> tuple[str, str]:
    """The old and the new name, '' for a side that does not exist, from whichever headers name them."""
    sides: list[str | None] = [None, None]
    for number, marker in enumerate(("---", "+++")):
        if marker in header:
            sides[number] = _side(reader, header[marker], "ab"[number])
    for number, words in enumerate((("rename from", "copy from"), ("rename to", "copy to"))):
        for word in words:
            if word in header:
                name = _unquote(reader, header[word])
                if sides[number] not in (None, name):
                    raise reader.refuse(f"{word!r} and the file's header name different files")
                sides[number] = name
    if "git" in header:
        pair = _git_header(header["git"], reader)
        for number, name in enumerate(pair or ()):
            if sides[number] is None:
                sides[number] = name
            elif sides[number] not in ("", name):
                raise reader.refuse("the headers of one file name different files")
    if sides[0] is None or sides[1] is None or sides == ["", ""]:
        raise reader.refuse("the file's name cannot be told; let git write the diff with a/ and b/ before the names")
    old = "" if "new file mode" in header else sides[0]
    new = "" if "deleted file mode" in header else sides[1]
    return old, new


def _side(reader: DiffReader, text: str, prefix: str) -> str:
    """The name after --- or +++, without a/ or b/ and what some tools put after a tab; '' for /dev/null."""
    text = text[: text.rindex('"') + 1] if text.startswith('"') else text.split("\t", 1)[0]
    name = _unquote(reader, text)
    if name == "/dev/null":
        return ""
    if not name.startswith(f"{prefix}/"):
        raise reader.refuse(f"found the name {show(name)!r}, allowed: one that begins with {prefix}/")
    return name[2:]


def _git_header(text: str, reader: DiffReader) -> tuple[str, str] | None:
    """Both names from ``a/x b/x``. With spaces in them that is unambiguous only where they are the same."""
    if text.startswith('"') or text.endswith('"'):
        quoted = r'"(?:[^"\\]|\\.)*"'
        match = re.fullmatch(rf"({quoted}|\S.*?) ({quoted}|\S.*)", text, re.DOTALL)
        if not match:
            raise reader.refuse("a quoted name has no end")
        left, right = (_unquote(reader, side) for side in match.groups())
    else:
        half = len(text) // 2
        left, right = text[:half], text[half + 1 :]
        if left[2:] != right[2:] or text[half : half + 1] != " ":
            return None
    if not left.startswith("a/") or not right.startswith("b/"):
        raise reader.refuse("found names without a/ and b/ before them")
    return left[2:], right[2:]


def _unquote(reader: DiffReader, text: str) -> str:
    """A name that git has put in quotes, with its C escapes undone; any other as it is."""
    if not text.startswith('"'):
        return text
    if len(text) < 2 or not text.endswith('"'):
        raise reader.refuse("a quoted name has no end")

    def undo(match: re.Match[bytes]) -> bytes:
        code = match[1].decode("latin-1")
        if code in ESCAPES:
            return bytes([ESCAPES[code]])
        if len(code) == 3 and int(code, 8) < 256:
            return bytes([int(code, 8)])
        raise reader.refuse("a quoted name has an escape that git does not write")

    raw = text[1:-1].encode("utf-8", "surrogateescape")
    name = re.sub(rb"\\([0-7]{3}|.?)", undo, raw, flags=re.DOTALL)
    return name.decode("utf-8", "surrogateescape")


def _read_hunk(reader: DiffReader, added: list[str], strays: list[str]) -> None:
    """Collect the added lines of one hunk, as many as its header announces."""
    match = HUNK.match(reader.lines[reader.at])
    if not match:
        raise reader.refuse("the head of a hunk is not one")
    old, new = (int(count) if count else 1 if count is None else 0 for count in match.groups())
    lines, total = reader.lines, len(reader.lines)
    at = reader.at + 1
    while old > 0 or new > 0:
        line = lines[at] if at < total else "?"
        mark = line[:1]
        if mark == "+":
            added.append(line[1:])
            new -= 1
        elif mark == "-":
            old -= 1
        elif mark in (" ", ""):
            old -= 1
            new -= 1
        elif mark != "\\":
            reader.at = at
            raise reader.refuse("a hunk is shorter than its head says")
        if reader.odd and mark != "+":
            strays.extend(piece[1:] for piece in line.splitlines()[1:] if piece.startswith("+"))
        at += 1
    if old < 0 or new < 0:
        reader.at = at
        raise reader.refuse("a hunk is longer than its head says")
    if at < total and lines[at].startswith("\\"):
        at += 1
    reader.at = at


def _read_binary_patch(reader: DiffReader) -> int:
    """Skip both halves of a git binary patch; the new file's size where it is given whole."""
    size = 0
    for half in range(2):
        match = re.fullmatch(r"(literal|delta) (\d{1,15})", reader.line)
        if not match:
            if half == 0:
                raise reader.refuse("a binary patch without its content")
            break
        if half == 0:
            size = int(match[2])
        reader.at += 1
        while BASE85.fullmatch(reader.line):
            reader.at += 1
        if reader.more() and not reader.line:
            reader.at += 1
    return size
