# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What another user wrote: bounded, without links, never blocking, and fit to be shown."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils import gate_check, untrusted
from ansible_collections.as215932.engineering_loop.plugins.module_utils.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.untrusted import (
    opened,
    parse,
    read,
    show,
    shown,
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("plain ü", "plain ü"),
        ("a\nb\x1b[31m", "a\\nb\\x1b[31m"),
        ("caf\udce9", "caf\\xe9"),
        ("\ud800", "\\ud800"),
        ("\u2028", "\\u2028"),
        ("x" * 300, "x" * 200 + "..."),
        (7, "7"),
    ],
)
def test_anything_can_be_shown(text: object, said: str) -> None:
    assert show(text) == said
    assert gate_check.show is untrusted.show


def test_plain_data_is_shown_in_depth() -> None:
    found = shown({"a\ud800": ["\udcff", ("b", 1, None, True)]})
    assert found == {"a\\ud800": ["\\xff", ["b", 1, None, True]]}
    json.dumps(found, ensure_ascii=False).encode()


DEEP = b'{"a":' * 40 + b"1" + b"}" * 40


@pytest.mark.parametrize("content", [b"", b"[1]", b"[" * 200_000, DEEP, b"\xff", b"1" * 5000])
def test_what_is_no_object_is_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(LoopError, match=r"^it ") as caught:
        parse(content, "it")
    assert str(caught.value).isprintable()


def test_no_link_is_followed_and_nothing_blocks(tmp_path: Path) -> None:
    (tmp_path / "in/..dots").mkdir(parents=True)
    (tmp_path / "in/file").write_bytes(b"x" * 10)
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "in/link").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    top = str(tmp_path)
    assert read(f"{top}/in/file", top) == b"x" * 10 and read(f"{top}/none/file", top) is None
    seen: list[int] = []
    with opened(f"{top}/in/..dots", top, each=seen.append):
        assert len(seen) == 2
    for path in ("link/file", "in/link", "fifo", "in", "../etc/passwd", "a\0b/c"):
        with pytest.raises(LoopError):
            read(f"{top}/{path}", top)
    with pytest.raises(LoopError, match="more than the 5"):
        read(f"{top}/in/file", top, limit=5)
