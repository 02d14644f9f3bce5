# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files: whole or not at all, whatever stands in the way and whoever is killed; locks that die with their holder."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base import files
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.files import (
    alone_in,
    discard,
    flocked,
    read_bytes,
    remove_tree,
    sha256,
    size_of,
    write_atomic,
)

COLLECTIONS = Path(__file__).resolve().parents[5] / ".collections"
IMPORT = f"from {write_atomic.__module__} import flocked, write_atomic\n"


def python(script: str, *arguments: str | Path, **options: object) -> subprocess.Popen[str]:
    """Another process that has the functions under test."""
    return subprocess.Popen(
        [*options.pop("before", ()), sys.executable, "-c", IMPORT + script, *map(str, arguments)],  # type: ignore[misc]
        env={**os.environ, "PYTHONPATH": str(COLLECTIONS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told(process: subprocess.Popen[str]) -> str:
    """What a process said until its end."""
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    return out.strip()


# --- reading


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert read_bytes(str(path)) is None
    for content in (b"", b"one\n", bytes(range(256)) * 5000):
        write_atomic(str(path), content, mode=0o640)
        assert read_bytes(str(path)) == content
        assert path.stat().st_mode & 0o7777 == 0o640
    assert os.listdir(tmp_path) == ["file"]


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("content")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("nothing")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    for name in ("link", "dangling", "fifo", "socket", ".", "real/below"):
        with pytest.raises(LoopError, match=rf"{name} (cannot be read: .|is not a regular file)"):
            read_bytes(f"{tmp_path}/{name}")
    with pytest.raises(LoopError, match="is not a regular file"):
        read_bytes("/dev/zero")


def test_a_file_larger_than_expected_is_refused(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 11)
    assert read_bytes(str(tmp_path / "big"), limit=11) == b"x" * 11
    with pytest.raises(LoopError, match="has 11 bytes, more than the 10 that are allowed"):
        read_bytes(str(tmp_path / "big"), limit=10)


# --- writing


def test_a_link_is_replaced_and_its_target_left_alone(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("somebody's")
    (tmp_path / "link").symlink_to("target")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo"):
        write_atomic(str(tmp_path / name), b"ours")
        assert not (tmp_path / name).is_symlink()
        assert (tmp_path / name).read_text() == "ours"
    assert (tmp_path / "target").read_text() == "somebody's"


def test_what_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_text("old")
    for path in (
        f"{tmp_path}/directory",
        f"{tmp_path}/none/x",
        f"{tmp_path}/file/x",
        "/proc/x",
        f"{tmp_path}/{'x' * 300}",
    ):
        with pytest.raises(LoopError, match="cannot be written: ") as caught:
            write_atomic(path, b"new")
        assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["directory", "file"]
    assert (tmp_path / "file").read_text() == "old"


def test_a_path_without_a_directory_is_beside_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_atomic("plain", b"x")
    assert (tmp_path / "plain").read_bytes() == b"x"


def test_set_user_id_survives_the_change_of_owner(tmp_path: Path) -> None:
    path = tmp_path / "program"
    write_atomic(str(path), b"#!/bin/sh\n", mode=0o4750, uid=os.getuid(), gid=os.getgid())
    assert path.stat().st_mode & 0o7777 == 0o4750


def test_a_directory_that_may_be_written_but_not_read_is_enough(tmp_path: Path) -> None:
    (tmp_path / "drop").mkdir(mode=0o300)
    write_atomic(str(tmp_path / "drop" / "file"), b"x")
    (tmp_path / "drop").chmod(0o700)
    assert os.listdir(tmp_path / "drop") == ["file"]


def test_a_file_size_limit_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(LoopError, match="cannot be written: File too large"):
            write_atomic(str(path), b"new" * 8192)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_text() == "old"


def test_a_full_disk_leaves_the_old_content(tmp_path: Path) -> None:
    """On a small file system in a mount namespace of its own, which needs nobody's permission."""
    script = """if True:
        import os, subprocess, sys
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", sys.argv[1]], check=True)
        path = sys.argv[1] + "/file"
        write_atomic(path, b"old")
        try:
            write_atomic(path, b"new" * 65536)
        except Exception as error:
            print(f"{type(error).__name__}: {error}")
        print(open(path).read(), os.listdir(sys.argv[1]))
    """
    out = told(python(script, tmp_path, before=["unshare", "--user", "--map-root-user", "--mount"]))
    assert out.splitlines() == [
        f"LoopError: {tmp_path}/file cannot be written: No space left on device",
        "old ['file']",
    ]


def test_a_writer_killed_at_any_moment_leaves_one_whole_version(tmp_path: Path) -> None:
    path = tmp_path / "file"
    script = """if True:
        import sys
        print("ready", flush=True)
        while True:
            for letter in (b"a", b"b"):
                write_atomic(sys.argv[1], letter * 3_000_000)
    """
    for delay in (0.001, 0.007, 0.013, 0.029, 0.05):
        writer = python(script, path)
        assert writer.stdout is not None
        writer.stdout.readline()
        while not path.exists():
            time.sleep(0.001)
        time.sleep(delay)
        writer.kill()
        writer.communicate()
        content = path.read_bytes()
        assert content in (b"a" * 3_000_000, b"b" * 3_000_000)
    # What the dead left beside it is in nobody's way, and gone with the next write.
    assert set(os.listdir(tmp_path)) <= {"file", ".file.new"}
    write_atomic(str(path), b"next")
    assert path.read_bytes() == b"next"
    assert os.listdir(tmp_path) == ["file"]


def test_what_stands_at_the_name_beside_it_is_never_followed(tmp_path: Path) -> None:
    path, beside, other = tmp_path / "file", tmp_path / ".file.new", tmp_path / "other"
    other.write_text("somebody's")
    for plant in (
        lambda: beside.symlink_to("other"),
        lambda: os.mkfifo(beside),
        lambda: os.link(other, beside),
        lambda: beside.write_text("of a killed writer"),
        lambda: (beside.write_text("not ours"), os.chown(beside, 65534, 65534)),
    ):
        plant()
        write_atomic(str(path), b"ours")
        assert path.read_text() == "ours" and other.read_text() == "somebody's"
        assert sorted(os.listdir(tmp_path)) == ["file", "other"]
    beside.mkdir()
    with pytest.raises(LoopError, match=r"file cannot be written: Is a directory"):
        write_atomic(str(path), b"new")


def test_writers_at_once_wait_for_each_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    script = """if True:
        import sys
        for turn in range(200):
            write_atomic(sys.argv[1], sys.argv[2].encode() * 10_000)
    """
    for writer in [python(script, path, letter) for letter in "abcd"]:
        told(writer)
    assert path.read_text() in {letter * 10_000 for letter in "abcd"}
    assert os.listdir(tmp_path) == ["file"]


def test_the_digest_is_the_usual_one() -> None:
    assert sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# --- locks

HOLD = """if True:
    import sys, time
    with flocked(sys.argv[1]) as held:
        print(held, flush=True)
        time.sleep(60)
"""


def test_a_lock_is_held_by_the_living_and_dropped_by_the_dead(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    holder = python(HOLD, lock)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    with flocked(str(lock), wait=False) as held:
        assert held is False
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with flocked(str(lock), wait=False) as held:
        assert held is True
    assert lock.stat().st_mode & 0o777 & ~0o640 == 0


def test_who_waits_for_a_lock_gets_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    script = "import sys\nwith flocked(sys.argv[1]) as held: print(held)"
    with flocked(str(lock)):
        waiting = python(script, lock)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(timeout=0.5)
    assert told(waiting) == "True"


def test_a_lock_is_dropped_by_an_error(tmp_path: Path) -> None:
    lock = str(tmp_path / "lock")
    with pytest.raises(KeyError), flocked(lock):
        raise KeyError
    with flocked(lock, wait=False) as held:
        assert held


def test_a_lock_is_no_link_and_no_directory(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("elsewhere")
    for path in (tmp_path / "link", tmp_path, tmp_path / "none" / "lock"):
        with pytest.raises(LoopError, match="cannot be opened"), flocked(str(path)):
            pytest.fail("it was held")
    assert not (tmp_path / "elsewhere").exists()


def test_a_lock_is_no_pipe_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(LoopError, match="is no regular file"), flocked(str(tmp_path / "lock")):
        raise AssertionError("a pipe was locked")


def test_a_directory_is_locked_itself_also_where_it_is_moved_away(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with alone_in(str(place), 1):
        with pytest.raises(LoopError, match="another process has held the lock"), alone_in(str(place), 0.1):
            raise AssertionError("two held it")
        place.rename(tmp_path / "away")
        place.mkdir()
        with alone_in(str(place), 1):  # another one
            pass
    with pytest.raises(KeyError), alone_in(str(place), 1):
        raise KeyError
    with alone_in(str(place), 0):
        assert list(place.iterdir()) == []
    with pytest.raises(LoopError, match="cannot be locked"), alone_in(str(tmp_path / "none"), 1):
        raise AssertionError("nothing was locked")


def test_a_tree_is_removed_whatever_it_is(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/note").write_text("kept")
    for name in ("link", "-rf", "fifo"):
        place = tmp_path / name
        place.symlink_to("kept") if name == "link" else os.mkfifo(place)
        remove_tree(str(place))
    (tmp_path / "tree/closed").mkdir(parents=True)
    (tmp_path / "tree/closed/link").symlink_to(tmp_path / "kept")
    (tmp_path / "tree/closed").chmod(0)
    assert size_of(str(tmp_path / "tree")) > 0 and size_of(str(tmp_path / "none")) == 0
    remove_tree(str(tmp_path / "tree"))
    remove_tree(str(tmp_path / "tree"))
    assert [each.name for each in tmp_path.iterdir()] == ["kept"] and (tmp_path / "kept/note").read_text() == "kept"


def test_what_is_discarded_is_out_of_sight_before_it_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tree/below").mkdir(parents=True)
    (tmp_path / "tree/below").chmod(0o555)
    (tmp_path / "link").symlink_to("tree")
    with monkeypatch.context() as patched:
        patched.setattr(files, "remove_tree", lambda _path: None)  # killed before it begins
        discard(str(tmp_path / "tree"))
    (left,) = [each.name for each in tmp_path.iterdir() if each.name != "link"]
    assert left.startswith(".trash-")
    for name in ("link", left, "nothing"):
        discard(str(tmp_path / name))
    assert list(tmp_path.iterdir()) == []
