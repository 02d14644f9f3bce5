# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory: copied with bounds, followed nowhere, taken back whole or not at all."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import cells, memory
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell.cells import Cell
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user
from celled import LOOP, NEEDS_ROOT, Box, box, gid, give, shape, uid, write

pytestmark = NEEDS_ROOT


@pytest.fixture
def host() -> Iterator[Box]:
    with box() as found:
        yield found


def mode(path: Path | str) -> int:
    return os.lstat(path).st_mode & 0o7777


def may(user: str, path: Path | str, how: int) -> bool:
    return bool(as_user(user, lambda: os.access(path, how)))


def test_memory_is_copied_with_bounds_and_follows_nothing(host: Box) -> None:
    outside = host.top / "etc" / "secret"
    outside.write_text("root's")
    outside.chmod(0o644)
    host.remember({"plain.md": "plain\n", "d/e/f.md": "f\n"})
    there = host.memory
    (there / "link.md").symlink_to(outside)
    (there / "linked").symlink_to(host.top / "etc")
    os.mkfifo(there / "pipe")
    (there / "closed").write_text("root's own")
    (there / "closed").chmod(0o600)
    (there / "\x1b[2J").symlink_to("x")
    os.utime(there / "plain.md", (1e9, 1e9))
    (there / "large.bin").touch()
    os.truncate(there / "large.bin", memory.MAX_BYTES + 1)
    deep = there
    for _unused in range(memory.MAX_DEPTH + 3):
        deep = deep / "x"
    write(deep, {"deep.md": "deep"})
    target = host.top / "target"
    target.mkdir()
    give(target, LOOP)
    os.chown(there / "closed", uid(LOOP), -1)
    told = memory.copy(LOOP, str(there), str(target))
    assert shape(target) == {"plain.md": "plain\n", "d/e/f.md": "f\n", "closed": "root's own"}
    assert os.stat(target / "plain.md").st_mtime == 1e9
    assert sorted(told["left_out"]) == ["\\x1b[2J", "large.bin", "link.md", "linked", "pipe", "/".join("x" * 9)]
    assert told["bytes"] == len("plain\nf\nroot's own")
    assert {os.lstat(base).st_uid for base, _folders, _names in os.walk(target)} == {uid(LOOP)}


def test_who_is_already_that_user_copies_the_same(host: Box) -> None:
    host.config.update(user="root", group="root")
    write(host.memory, {"a.md": "a\n", "b/c.md": "c\n"})
    (host.memory / "link").symlink_to("a.md")
    os.mkfifo(host.memory / "pipe")
    cell = host.cell()
    assert shape(cell.part("memory")) == {"a.md": "a\n", "b/c.md": "c\n"}
    for name in ("link", "pipe"):
        (host.memory / name).unlink()
    write(Path(cell.part("memory")), {"a.md": "new\n"})
    told = memory.take_back(host.config, cell.part("memory"))
    assert told == {"changed": True, "files": 3, "bytes": 6, "left_out": []}
    assert shape(host.memory) == {"a.md": "new\n", "b/c.md": "c\n"}


def test_many_files_of_memory_are_cut(host: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_FILES", 20)
    host.remember({f"{number:03}": "x" for number in range(30)})
    told = memory.copy(LOOP, str(host.memory), host.cell().part("home"))
    assert (told["files"], told["bytes"]) == (20, 20)
    assert told["left_out"] == ["everything after 20 files"]


def test_all_of_memory_together_is_bounded(host: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_BYTES", 100)
    host.remember({"a": "x" * 60, "b": "x" * 60, "c": "x" * 40})
    told = memory.copy(LOOP, str(host.memory), host.cell().part("home"))
    assert (told["bytes"], told["left_out"]) == (100, ["b"])


def test_a_file_that_the_loops_user_cannot_read_stops_nothing(host: Box) -> None:
    host.remember({"mine.md": "mine\n", "roots.md": "root's\n"})
    os.chown(host.memory / "roots.md", 0, 0)
    (host.memory / "roots.md").chmod(0o600)
    cell = host.cell()
    assert shape(cell.part("memory")) == {"mine.md": "mine\n"}


@pytest.mark.parametrize("how", ["closed", "link", "many"])
def test_what_no_cell_was_given_is_not_lost_by_what_another_learned(
    host: Box, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    host.remember({"a.md": "a", "restored/b.md": "b"})
    if how == "closed":  # a backup that was restored as root
        os.chown(host.memory / "restored", 0, 0)
        (host.memory / "restored").chmod(0o700)
    elif how == "link":
        (host.memory / "c.md").symlink_to("a.md")
    else:
        monkeypatch.setattr(memory, "MAX_FILES", 2)
    before = shape(host.memory)
    for number in range(2):
        cell = host.cell(f"2026010{number + 1}T000000Z-00000000")
        learned(cell, {"learned.md": "new"})
        with pytest.raises(LoopError, match=r"cannot read or what is too much .*: a change of it would lose that"):
            memory.take_back(host.config, cell.part("memory"))
        assert shape(host.memory) == before and not Path(f"{host.memory}.new").exists()


def test_without_a_memory_a_cell_begins_with_none(host: Box) -> None:
    host.memory.rmdir()
    assert shape(host.cell().part("memory")) == {}
    assert memory.copy(LOOP, str(host.memory), "/nowhere") == {"files": 0, "bytes": 0, "left_out": []}


def learned(cell: Cell, files: dict[str, str]) -> None:
    write(Path(cell.part("memory")), files)
    give(cell.part("memory"), LOOP)


def test_what_was_learned_is_the_next_ones_memory(host: Box) -> None:
    host.remember({"a.md": "old\n"})
    cell = host.cell()
    assert memory.take_back(host.config, cell.part("memory"))["changed"] is False
    assert not os.path.exists(f"{host.memory}.previous")
    learned(cell, {"a.md": "new\n", "b/c.md": "c\n"})
    assert memory.take_back(host.config, cell.part("memory")) == {
        "changed": True,
        "files": 3,
        "bytes": 6,
        "left_out": [],
    }
    assert shape(host.memory) == {"a.md": "new\n", "b/c.md": "c\n"}
    assert shape(f"{host.memory}.previous") == {"a.md": "old\n"}
    assert (os.lstat(host.memory).st_uid, os.lstat(host.memory).st_gid, mode(host.memory)) == (0, gid(LOOP), 0o750)
    assert not may(LOOP, host.memory, os.W_OK) and may(LOOP, host.memory, os.R_OK | os.X_OK)
    # Unchanged, so the one before the last change stays to be had.
    assert memory.take_back(host.config, host.cell("20260131T120001Z-1a2b3c4d").part("memory"))["changed"] is False
    assert shape(f"{host.memory}.previous") == {"a.md": "old\n"}
    assert sorted(os.listdir(host.memory.parent)) == ["cycles", "gate", "memory", "memory.previous", "pristine", "runs"]


@pytest.mark.parametrize("how", ["many", "large", "moved", "closed", "deep"])
def test_what_is_left_out_of_what_was_learned_costs_no_lesson(
    host: Box, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(memory, "MAX_FILES", 20)
    monkeypatch.setattr(memory, "MAX_BYTES", 1000)
    host.remember({"journal": "x" * 900, **{f"lessons/{number:02}": "x" for number in range(10)}})
    cell = host.cell()
    there = Path(cell.part("memory"))
    if how == "many":  # before the others by name, so the others do not fit any more
        write(there, {f"a/{number:02}": "x" for number in range(15)})
    elif how == "large":
        write(there, {"journal": "x" * 1001, "new": "n"})
    elif how == "moved":
        (there / "journal").unlink()
        write(there, {"archive/journal": "x" * 1001})
    elif how == "deep":
        deep = there / Path(*"abcdefgh")
        deep.mkdir(parents=True)
        (there / "lessons").rename(deep / "lessons")
    give(there, LOOP)
    if how == "closed":
        (there / "lessons").chmod(0)
    before = shape(host.memory)
    for _unused in range(2):
        with pytest.raises(LoopError, match=r" would be lost, and nothing of it is taken; remove from .*/memory "):
            memory.take_back(host.config, cell.part("memory"))
        assert shape(host.memory) == before
    assert sorted(os.listdir(host.memory.parent)) == ["cycles", "gate", "memory", "pristine", "runs"]
    assert shape(host.cell("20260131T120001Z-1a2b3c4d").part("memory")) == before


def test_what_fits_is_taken_and_the_rest_is_said(
    host: Box, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "MAX_FILES", 6)
    host.remember({"lessons/1": "1", "lessons/2": "2"})
    for turn in range(3):  # at the bound nothing grows, and nothing goes
        cell = host.cell(f"2026010{turn + 1}T000000Z-00000000")
        learned(cell, {f"z/{turn}{number}": "z" for number in range(5)})
        told = memory.take_back(host.config, cell.part("memory"))
        assert told == {"changed": turn == 0, "files": 6, "bytes": 4, "left_out": ["everything after 6 files"]}
        assert sorted(shape(host.memory)) == ["lessons/1", "lessons/2", "z/00", "z/01"]
        said = f"of {cell.part('memory')} was not taken: everything after 6 files\n"
        assert capfd.readouterr().out == said
    small = host.cell("20260131T120001Z-1a2b3c4d")
    subprocess.run(["rm", "-r", f"{small.part('memory')}/z"], check=True)
    learned(small, {"lessons/1": "more"})  # whole, so what is gone is gone
    assert memory.take_back(host.config, small.part("memory"))["changed"]
    assert shape(host.memory) == {"lessons/1": "more", "lessons/2": "2"} and capfd.readouterr().out == ""


def test_a_directory_with_very_many_names_is_not_read_to_its_end(host: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_BYTES", 1000)  # so much is asked for at once
    many = Path(host.cell().part("memory"), "many")
    many.mkdir()
    (many / "first").touch()
    for number in range(30_000):
        os.link(many / "first", many / f"{number:0100}")
    tracemalloc.start()
    try:
        told = memory._copy_bounded(str(many), "")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20  # all of them are more than 15 MiB
    finally:
        tracemalloc.stop()
    assert told == {"files": memory.MAX_FILES, "bytes": 0, "left_out": [f"everything after {memory.MAX_FILES} files"]}


def test_a_hostile_memory_brings_no_link_and_no_pipe(host: Box) -> None:
    cell = host.cell()
    there = Path(cell.part("memory"))
    (there / "passwd").symlink_to("/etc/shadow")
    (there / "up").symlink_to(host.top)
    os.mkfifo(there / "pipe")
    (there / "sh").write_text("#!/bin/sh\n")
    (there / "sh").chmod(0o6777)
    give(there, LOOP)
    (there / "sh").chmod(0o6777)
    told = memory.take_back(host.config, cell.part("memory"))
    assert sorted(told["left_out"]) == ["passwd", "pipe", "up"]
    assert shape(host.memory) == {"sh": "#!/bin/sh\n"}
    assert mode(host.memory / "sh") & 0o7111 == 0


@pytest.mark.parametrize("how", ["link", "file", "closed", "gone", "pipe"])
def test_a_memory_that_is_no_directory_keeps_the_one_before(host: Box, how: str) -> None:
    host.remember({"a.md": "old\n"})
    cell = host.cell()
    there = Path(cell.part("memory"))
    subprocess.run(["rm", "-rf", there], check=True)
    if how == "link":
        there.symlink_to(host.top / "etc")
    elif how == "file":
        there.write_text("x")
    elif how == "pipe":
        os.mkfifo(there)
    elif how == "closed":
        there.mkdir(mode=0)
        os.chown(there, uid(LOOP), -1)
        there.chmod(0)
    if how == "closed":
        with pytest.raises(LoopError, match=r"memory is no directory to enter .Permission denied."):
            memory.take_back(host.config, cell.part("memory"))
    else:
        with pytest.raises(LoopError, match="memory is no directory any more"):
            memory.take_back(host.config, cell.part("memory"))
    assert shape(host.memory) == {"a.md": "old\n"}


def test_memory_is_swapped_and_swapped_back(host: Box) -> None:
    with pytest.raises(LoopError, match=r"there is no earlier memory: .*memory.previous is missing"):
        memory.swap(host.config)
    host.remember({"a.md": "old\n"})
    cell = host.cell()
    learned(cell, {"a.md": "new\n"})
    memory.take_back(host.config, cell.part("memory"))
    assert "is the memory of before again" in memory.swap(host.config)
    assert (shape(host.memory), shape(f"{host.memory}.previous")) == ({"a.md": "old\n"}, {"a.md": "new\n"})
    memory.swap(host.config)
    assert (shape(host.memory), shape(f"{host.memory}.previous")) == ({"a.md": "new\n"}, {"a.md": "old\n"})


def test_memory_that_cannot_be_swapped_is_one_line(host: Box) -> None:
    os.mkdir(f"{host.memory}.previous")
    Path(f"{host.memory}.swap").write_text("in its way")
    with pytest.raises(LoopError, match=r"/memory cannot become .*/memory\.swap: Not a directory"):
        memory.swap(host.config)


@pytest.mark.parametrize("renames", range(3))
@pytest.mark.parametrize("what", ["take", "swap"])
def test_killed_between_two_renames_no_memory_is_lost(
    host: Box, monkeypatch: pytest.MonkeyPatch, what: str, renames: int
) -> None:
    host.remember({"a.md": "1\n"})
    first = host.cell()
    learned(first, {"a.md": "2\n"})
    memory.take_back(host.config, first.part("memory"))
    second = host.cell("20260131T120001Z-1a2b3c4d")
    learned(second, {"a.md": "3\n"})
    real, done = os.rename, 0

    class Killed(BaseException):
        pass

    def rename(one: str, other: str, **more: Any) -> None:
        nonlocal done
        if done == renames:
            raise Killed
        done += 1
        real(one, other, **more)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", rename)
        with contextlib.suppress(Killed):
            memory.take_back(host.config, second.part("memory")) if what == "take" else memory.swap(host.config)
    cells.recover(host.config)
    now, before = shape(host.memory).get("a.md"), shape(f"{host.memory}.previous").get("a.md")
    assert now in ("1\n", "2\n", "3\n")
    assert not os.path.exists(f"{host.memory}.swap")
    if what == "swap":
        assert {now, before} == {"1\n", "2\n"}
    third = host.cell("20260131T120002Z-1a2b3c4d")
    learned(third, {"a.md": "4\n"})
    assert memory.take_back(host.config, third.part("memory"))["changed"]
    assert (shape(host.memory), shape(f"{host.memory}.previous")) == ({"a.md": "4\n"}, {"a.md": now})
