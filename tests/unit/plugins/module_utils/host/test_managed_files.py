# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A set of files and directories: what is compared, what is refused before anything changed, what is made."""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.managed_files import (
    Change,
    Entry,
    apply,
    compare,
    converge,
    entry_from,
)

ROOT = os.geteuid() == 0
NEEDS_ROOT = pytest.mark.skipif(not ROOT, reason="needs root")
ME = pwd.getpwuid(os.geteuid()).pw_name
GROUP = grp.getgrgid(os.getegid()).gr_name


def file(path: Path | str, content: bytes = b"new\n", mode: int = 0o644, **options: Any) -> Entry:
    return Entry(str(path), "file", content, **{"owner": ME, "group": GROUP, **options}, mode=mode)


def directory(path: Path, mode: int = 0o755, **options: Any) -> Entry:
    return Entry(str(path), "directory", **{"owner": ME, "group": GROUP, **options}, mode=mode)


def absent(path: Path) -> Entry:
    return Entry(str(path), "absent")


def whats(changes: list[Change]) -> list[str]:
    return [change.what for change in changes]


def test_a_set_is_made_in_order_and_once(tmp_path: Path) -> None:
    entries = [
        directory(tmp_path / "a", 0o750), directory(tmp_path / "a/b", 0o2700), file(tmp_path / "a/b/c", mode=0o600),
        file(tmp_path / "a/empty", b""), absent(tmp_path / "a/none"), absent(tmp_path / "none/none"),
    ]  # fmt: skip
    wanted = ["directory created", "directory created", "file created", "file created"]
    assert whats(converge(entries, check=True)) == wanted
    assert os.listdir(tmp_path) == []
    assert whats(converge(entries)) == wanted
    modes = {name: (tmp_path / name).stat().st_mode & 0o7777 for name in ("a", "a/b", "a/b/c", "a/empty")}
    assert modes == {"a": 0o750, "a/b": 0o2700, "a/b/c": 0o600, "a/empty": 0o644}
    assert converge(entries) == []


def test_the_umask_has_no_say(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        converge([directory(tmp_path / "d"), file(tmp_path / "d/f", mode=0o666)])
    finally:
        os.umask(old)
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "d/f").stat().st_mode & 0o777 == 0o666


def test_what_differs_is_told_with_both_contents(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old\n")
    path.chmod(0o600)
    assert compare(file(path)) == Change(str(path), "content", b"old\n", b"new\n")
    path.write_bytes(b"new\n")
    assert whats(converge([file(path)])) == ["mode 0644"]
    assert path.stat().st_mode & 0o777 == 0o644
    assert compare(file(path)) is None


def test_a_wrong_owner_is_seen_and_put_right(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"new\n")
    (tmp_path / "d").mkdir()
    entries = [file(tmp_path / "f", owner="nobody"), directory(tmp_path / "d", owner="nobody")]
    assert whats(converge(entries, check=True)) == [f"owner nobody:{GROUP}"] * 2
    if ROOT:
        converge(entries)
        nobody = pwd.getpwnam("nobody").pw_uid
        assert [(tmp_path / name).stat().st_uid for name in "fd"] == [nobody] * 2
        assert converge(entries) == []
    else:
        with pytest.raises(LoopError, match="f cannot be written: "):
            converge(entries)


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o1644])
def test_special_bits_stay(tmp_path: Path, mode: int) -> None:
    converge([file(tmp_path / "f", mode=mode)])
    assert converge([file(tmp_path / "f", mode=mode)]) == []


# --- what stands in the way


def test_a_file_takes_the_place_of_a_link_or_a_fifo(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("somebody's")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "same").write_bytes(b"new\n")
    (tmp_path / "to-same").symlink_to("same")
    os.mkfifo(tmp_path / "fifo")
    names = ("link", "to-same", "fifo")
    assert whats(converge([file(tmp_path / name) for name in names])) == ["content"] * 3
    for name in names:
        assert not (tmp_path / name).is_symlink()
        assert (tmp_path / name).read_bytes() == b"new\n"
    assert (tmp_path / "target").read_text() == "somebody's"


def test_only_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    (tmp_path / "dangling").symlink_to("none")
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to("d")
    os.mkfifo(tmp_path / "fifo")
    changes = converge([absent(tmp_path / name) for name in ("f", "dangling", "link", "fifo")])
    assert [(change.what, change.before) for change in changes] == [("removed", b"old"), *[("removed", None)] * 3]
    assert os.listdir(tmp_path) == ["d"]
    with pytest.raises(LoopError, match="d is a directory; only files are removed"):
        converge([absent(tmp_path / "d")])


def refused(entries: list[Entry], reason: str, top: Path) -> None:
    """Nothing changes, in one line."""
    before = sorted(path.name for path in top.rglob("*"))
    with pytest.raises(LoopError, match=reason) as caught:
        converge(entries)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in top.rglob("*")) == before


def test_a_path_in_the_way_stops_the_set_before_anything_changed(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    (tmp_path / "d").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    first = file(tmp_path / "first")
    refused([first, directory(tmp_path / "f")], "f is in the way: a directory must stand there", tmp_path)
    refused([first, file(tmp_path / "d")], "d is a directory where a file must stand", tmp_path)
    refused([first, file(tmp_path / "f/below")], "f/below cannot be looked at: Not a directory", tmp_path)
    refused([first, directory(tmp_path / "f/below")], "f/below cannot be looked at: Not a directory", tmp_path)
    refused([first, file(tmp_path / "loop/below")], "cannot be looked at: Too many levels", tmp_path)
    refused([first, file(tmp_path / ("x" * 300))], "cannot be looked at: File name too long", tmp_path)


def test_a_parent_that_nobody_makes_stops_the_set(tmp_path: Path) -> None:
    late = [file(tmp_path / "first"), file(tmp_path / "d/f"), directory(tmp_path / "d")]
    refused(late, "d/f cannot be made: there is no directory", tmp_path)
    converge([late[0], late[2], late[1]])
    assert (tmp_path / "d/f").exists()


def test_an_unknown_account_stops_the_set_but_not_a_check(tmp_path: Path) -> None:
    second = file(tmp_path / "second")
    for lost, who in ((replace(second, owner="no-such"), "user"), (replace(second, group="no-such"), "group")):
        entries = [file(tmp_path / "first"), lost]
        refused(entries, f"second: there is no {who} no-such on this host", tmp_path)
        assert whats(converge(entries, check=True)) == ["file created"] * 2


def test_a_directory_link_is_followed_only_where_it_is_roots(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir(mode=0o700)
    (tmp_path / "disk").chmod(0o700)
    (tmp_path / "link").symlink_to("disk")
    (tmp_path / "dangling").symlink_to("none")
    refused([directory(tmp_path / "dangling")], "dangling is in the way", tmp_path)
    if ROOT:
        converge([directory(tmp_path / "link")])
        assert (tmp_path / "disk").stat().st_mode & 0o777 == 0o755
        assert (tmp_path / "link").is_symlink()
        os.lchown(tmp_path / "link", pwd.getpwnam("nobody").pw_uid, -1)
    refused([directory(tmp_path / "link", 0o711)], "link is in the way", tmp_path)


@pytest.mark.parametrize("path", ["relative", "./x", "/a/../b", "/a//b", "/a/", "", "/a/./b", "/a\0b", "//a/../b"])
def test_only_plain_absolute_paths(path: str) -> None:
    for state in ("file", "directory", "absent"):
        with pytest.raises(LoopError, match="is not an absolute, plain path"):
            compare(Entry(path, state))


def test_a_path_is_asked_for_once(tmp_path: Path) -> None:
    refused([file(tmp_path / "f", b"1"), file(tmp_path / "f", b"2")], "f is asked for twice", tmp_path)


def test_what_cannot_be_removed_is_one_line() -> None:
    with pytest.raises(LoopError, match="/proc/version cannot be removed: "):
        converge([absent(Path("/proc/version"))])


# --- options


def option(**changes: Any) -> dict[str, Any]:
    return {"path": "/a", "state": "file", "content": "x", "owner": "o", "group": "g", "mode": "0640", **changes}


def test_an_entry_from_a_modules_options() -> None:
    assert entry_from(option()) == Entry("/a", "file", b"x", "o", "g", 0o640)
    assert entry_from(option(content=None, state="directory", mode="01777")).mode == 0o1777
    assert entry_from(option(content="caf\u00e9")).content == b"caf\xc3\xa9"


# 420 is what an unquoted 0644 becomes.
@pytest.mark.parametrize(
    "mode", ["420", "644", "0o644", "u=rw", "0999", "-0644", "0_644", " 0644", "0644\n", "", "00", "0177777"]
)
def test_a_mode_is_octal_and_says_so(mode: str) -> None:
    with pytest.raises(LoopError, match=r"/a: mode .* is not octal such as '0644', quoted"):
        entry_from(option(mode=mode))


# --- a directory that another user can write


NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A directory of another user's, with two levels below, and one of root's beside it."""
    for name in ("theirs", "theirs/one", "theirs/one/two"):
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, NOBODY.pw_uid, NOBODY.pw_gid)
    (tmp_path / "precious").mkdir(mode=0o700)
    (tmp_path / "precious/two").mkdir(mode=0o700)
    (tmp_path / "precious/two/secret").write_text("root's")
    (tmp_path / "precious/two/secret").chmod(0o600)
    return tmp_path / "theirs"


def precious(theirs: Path) -> list[tuple[str, int, int]]:
    top = theirs.parent / "precious"
    return [(str(each), each.lstat().st_uid, each.lstat().st_mode) for each in [top, *sorted(top.rglob("*"))]]


@NEEDS_ROOT
@pytest.mark.parametrize("state", ["directory", "file", "absent", "kept"])
@pytest.mark.parametrize("swapped", ["one", "one/two"])
def test_a_directory_swapped_for_a_link_after_it_was_compared_leads_nowhere(
    theirs: Path, state: str, swapped: str
) -> None:
    before = precious(theirs)
    (theirs / "one/two/secret").write_text("theirs")
    path = str(theirs / "one/two") if state == "directory" else str(theirs / "one/two/secret")
    entry = Entry(path, state, content=b"ours", owner="nobody", group="nogroup", mode=0o750)

    def swap(_paths: list[str]) -> None:
        (theirs / swapped).rename(theirs / "away")
        target = theirs.parent / "precious"
        (theirs / swapped).symlink_to(target if swapped == "one" else target / "two")

    with pytest.raises(LoopError) as caught:
        converge([entry], before=swap)
    assert "\n" not in str(caught.value) and "/proc/" not in str(caught.value)
    assert precious(theirs) == before


@NEEDS_ROOT
def test_a_directory_that_is_swapped_all_the_time_leads_nowhere(theirs: Path) -> None:
    before = precious(theirs)
    (theirs / "link").symlink_to(theirs.parent / "precious")
    over = threading.Event()
    libc = ctypes.CDLL(None)

    def swap() -> None:
        names = os.fsencode(theirs / "one"), os.fsencode(theirs / "link")
        while not over.is_set():
            libc.renameat2(-100, names[0], -100, names[1], 2)  # RENAME_EXCHANGE

    swapping = threading.Thread(target=swap)
    swapping.start()
    refused = 0
    try:
        for number in range(600):
            mode = 0o750 if number % 2 else 0o700
            try:
                converge([Entry(str(theirs / "one/two"), "directory", owner="nobody", group="nogroup", mode=mode)])
                converge([Entry(str(theirs / "one/two/new"), content=b"%d" % number, owner="nobody", group="nogroup")])
            except LoopError:
                refused += 1
    finally:
        over.set()
        swapping.join()
    assert refused and precious(theirs) == before


@NEEDS_ROOT
def test_what_is_roots_in_another_users_directory_is_not_given_away(theirs: Path) -> None:
    (theirs / "roots").mkdir()
    (theirs / "roots/secret").write_text("root's")
    (theirs / "roots/new").mkdir()
    with pytest.raises(LoopError, match="belongs to uid 0 in another user's directory"):
        converge([Entry(str(theirs / "roots"), "directory", owner="nobody", group="nogroup", mode=0o750)])
    assert (theirs / "roots").stat().st_uid == 0
    os.chown(theirs / "roots", NOBODY.pw_uid, NOBODY.pw_gid)
    new = Entry(str(theirs / "roots/new"), "directory", owner="nobody", group="nogroup", mode=0o750)
    converge([new])  # as one of ours that was cut off leaves it
    os.link(theirs / "roots/secret", theirs / "roots/kept")
    os.chown(theirs / "roots/secret", NOBODY.pw_uid, -1)
    with pytest.raises(LoopError, match="hard link"):
        converge([Entry(str(theirs / "roots/kept"), "kept", mode=0o600)])


def test_a_link_of_ours_that_begins_at_the_top_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    entry = Entry(f"{tmp_path}/link/one", content=b"1", owner=ME, group=GROUP)
    assert [change.path for change in converge([entry])] == [entry.path]
    assert (tmp_path / "real/one").read_bytes() == b"1"


def test_what_is_to_be_kept_is_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LoopError, match="is not a regular file; put the file itself there"):
        compare(Entry(f"{tmp_path}/pipe", "kept", owner=ME, group=GROUP))


def test_a_parent_that_went_away_meanwhile_is_told(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    entry = Entry(f"{tmp_path}/gone/one", content=b"1", owner=ME, group=GROUP)
    change = compare(entry)
    (tmp_path / "gone").rmdir()
    assert change
    with pytest.raises(LoopError, match="gone/one cannot be made: No such file or directory"):
        apply(entry, change)
