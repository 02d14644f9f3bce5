# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one reader for what the loop's user wrote: bounded, following no link, never waiting, and harmless to show."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base import untrusted
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError

ROOT = os.geteuid() == 0


def read(top: Path, path: str = "a/b/file", limit: int = 100) -> bytes | None:
    began = time.monotonic()
    try:
        return untrusted.read(f"{top}/{path}", str(top), limit)
    finally:
        assert time.monotonic() - began < 2


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "top/a/b").mkdir(parents=True)
    (tmp_path / "top/a/b/file").write_bytes(b"content")
    (tmp_path / "secret").write_bytes(b"secret")
    return tmp_path / "top"


def test_a_file_is_read(top: Path) -> None:
    assert read(top) == b"content"
    assert read(top, "a/b/none") is None
    assert read(top, "a/none/file") is None
    assert untrusted.read(f"{top}/none/x", f"{top}/none") is None
    assert read(top, "a/b/file", 7) == b"content"


def test_a_bound_is_a_bound(top: Path) -> None:
    with pytest.raises(LoopError, match="has 7 bytes, more than the 6 that are read"):
        read(top, limit=6)
    os.truncate(top / "a/b/file", 10**12)  # a hole
    with pytest.raises(LoopError, match="has 1000000000000 bytes"):
        read(top)


def test_of_a_large_one_both_ends_are_read_and_nothing_between(top: Path) -> None:
    path = top / "a/b/file"
    assert untrusted.ends(str(path), str(top), 7) == (b"content", b"", 0)
    assert untrusted.ends(str(path), str(top), 4) == (b"co", b"nt", 3)
    assert untrusted.ends(f"{top}/a/b/none", str(top), 4) is None
    with path.open("r+b") as hole:
        hole.truncate(10**12)
        hole.seek(10**12 - 3)
        hole.write(b"end")
    began = time.monotonic()
    assert untrusted.ends(str(path), str(top), 6) == (b"con", b"end", 10**12 - 6)
    assert time.monotonic() - began < 2
    path.unlink()
    for make, told in ((os.mkfifo, "no regular file"), (lambda at: os.symlink("/etc/passwd", at), "cannot be read")):
        make(str(path))
        with pytest.raises(LoopError, match=told):
            untrusted.ends(str(path), str(top), 6)
        path.unlink()


def test_one_that_grows_meanwhile_is_read_up_to_the_bound(top: Path) -> None:
    path = top / "a/b/file"
    path.write_bytes(b"")
    stop = threading.Event()

    def grow() -> None:
        with path.open("ab", buffering=0) as handle:
            while not stop.is_set():
                handle.write(b"x" * 10_000)
                if handle.tell() > 10**8:
                    return

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        for _unused in range(200):
            try:
                content = untrusted.read(str(path), str(top), 50_000)
            except LoopError as error:
                assert "more than the 50000 that are read" in str(error)
                break
            assert content is not None and len(content) <= 50_000
    finally:
        stop.set()
        writer.join()


def socket_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        before = os.getcwd()
        os.chdir(path.parent)
        try:
            server.bind(path.name)
        finally:
            os.chdir(before)


def device(path: Path) -> None:
    if not ROOT:
        pytest.skip("only root can make a device")
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # zero


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Path.mkdir, "is no regular file"),
        (os.mkfifo, "is no regular file"),
        (lambda path: path.symlink_to("../../../secret"), "cannot be read"),
        (lambda path: path.symlink_to("file"), "cannot be read"),
        (lambda path: path.symlink_to("/proc/self/mem"), "cannot be read"),
        (socket_at, "cannot be read"),
        (device, "is no regular file"),
    ],
)
def test_whatever_else_stands_there_is_refused_at_once(top: Path, make: Callable[[Path], Any], reason: str) -> None:
    (top / "a/b/file").unlink()
    make(top / "a/b/file")
    with pytest.raises(LoopError, match=reason):
        read(top)


@pytest.mark.parametrize("part", ["a", "a/b"])
@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.symlink_to(path.with_name("real")),
        lambda path: path.symlink_to("/"),
        lambda path: path.symlink_to(str(path)),
        lambda path: path.write_text("x"),
        os.mkfifo,
    ],
)
def test_what_is_no_directory_is_not_passed(top: Path, part: str, make: Callable[[Path], Any]) -> None:
    (top / part).rename((top / part).with_name("real"))
    make(top / part)
    with pytest.raises(LoopError, match=f"{part.split('/')[-1]} is no directory to enter"):
        read(top)


def test_only_what_lies_below_its_top(top: Path) -> None:
    for path in ("../secret", "a/../../secret", "a/b/../../../secret"):
        with pytest.raises(LoopError, match=r"does not lie in|is no directory"):
            read(top, path)
    with (
        pytest.raises(LoopError, match="secret is no directory to enter"),
        untrusted.opened(f"{top.parent}/secret", f"{top.parent}/secret"),
    ):
        raise AssertionError
    with untrusted.opened(str(top), str(top)) as directory:
        assert os.listdir(directory) == ["a"]


def test_without_a_top_every_part_is_looked_at(top: Path) -> None:
    real = os.path.realpath(top)
    with untrusted.opened(f"{real}/a") as directory:
        assert os.listdir(directory) == ["b"]
    (top / "link").symlink_to("a")
    with pytest.raises(LoopError, match="link is no directory to enter"), untrusted.opened(f"{real}/link/b"):
        raise AssertionError


def test_no_descriptor_stays_open(top: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in ("a/b/file", "a/none/x", "a/b/none", "a/b", "a/b/file/x", "../x"):
        with contextlib.suppress(LoopError):
            read(top, path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_deep_and_long_names(top: Path) -> None:
    with pytest.raises(LoopError, match=r"cannot be read|no directory to enter"):
        read(top, "x" * 300)
    with pytest.raises(LoopError) as caught:
        read(top, "/".join("x" * 300 for _unused in range(100)))
    assert len(str(caught.value)) < 700
    assert read(top, "/".join(["x"] * 3000)) is None
    for path in ("a\0b", "a\0b/c"):
        with pytest.raises(LoopError, match=r"does not lie in|no name"):
            read(top, path)


# --- JSON


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "x is not JSON"), (b"{", "x is not JSON"), (b"\xff{}", "x is not JSON"),
        (b"[" * 500_000, "x is not JSON"),
        (b'{"a":' * 100_000, "x is not JSON"), (b"[]", "x is no JSON object"), (b"null", "x is no JSON object"),
        (b"1" * 10_000, "x is not JSON"), (b'"text"', "x is no JSON object"), (b"{}{}", "x is not JSON"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "x is nested deeper than 32 levels"),
        (b'{"a":' + b"[" * 40 + b"]" * 40 + b"}", "x is nested deeper than 32 levels"),
    ],
)  # fmt: skip
def test_what_is_no_object_of_json(content: bytes, reason: str) -> None:
    with pytest.raises(LoopError) as caught:
        untrusted.parse(content, "x")
    assert str(caught.value) == reason


def test_what_is_one() -> None:
    assert untrusted.parse(b'{"a": [{"b": []}], "c": "\\ud800"}', "x") == {"a": [{"b": []}], "c": "\ud800"}
    assert untrusted.parse(b'{"a":' * 32 + b"1" + b"}" * 32, "x")
    assert untrusted.parse(b'{"a": {"b": 1}}', "x", depth=2)
    with pytest.raises(LoopError, match="deeper than 1 levels"):
        untrusted.parse(b'{"a": {"b": 1}}', "x", depth=1)


# --- showing


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain caf\u00e9", "plain caf\u00e9"), ("", ""), ("\x1b[2J", "\\x1b[2J"), ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\u202egnp", "\\u202egnp"), ("\udcff\udc80", "\\xff\\x80"), ("\ud800", "\\ud800"), ("\x9b31m", "\\x9b31m"),
        ("\u2028\u2029\u0085", "\\u2028\\u2029\\x85"), ("\0", "\\x00"), ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 200 + "..."),
    ],
)  # fmt: skip
def test_a_name_is_shown_so_that_nothing_obeys_it(text: str, shown: str) -> None:
    assert untrusted.show(text) == shown
    assert untrusted.show(text).isprintable()
    untrusted.show(text).encode()
    assert len(untrusted.show(text, 10)) <= 13


HOSTILE = {
    "escapes": "\x1b[2J\x1b]0;owned\x07\x9b31m",
    "bidi": "a\u202eb\u2066c\u200fd",
    "lines": "a\nb\rc\u2028d\x85e",
    "no text": "\udcff\ud800\0",
    "much": "\x1b" * 65536,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_whatever_is_in_an_error_can_be_printed(text: str) -> None:
    once = LoopError(f"the issue {text} is wrong")
    again = LoopError(f"not done: {once}")
    for error in (once, again):
        assert str(error).isprintable() and len(str(error)) <= 10_003
        str(error).encode()
    assert str(once).startswith("the issue ") and str(again) == f"not done: {once}"[:10_000] + "..." * (len(text) > 999)
    assert untrusted.show(text, 500).isprintable() and len(untrusted.show(text, 500)) <= 503


def test_plain_data_is_shown_in_depth() -> None:
    found = untrusted.shown({"a\ud800": ["\udcff", ("b", 1, None, True)]})
    assert found == {"a\\ud800": ["\\xff", ["b", 1, None, True]]}
    json.dumps(found, ensure_ascii=False).encode()
