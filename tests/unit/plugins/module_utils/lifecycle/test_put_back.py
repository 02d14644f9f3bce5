# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way back: what was taken over stands again where it stood, as it was, and nothing is written over."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import privileges, systemd
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.layout import Layout
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.put_back import _undo, put_back
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.takeover import take
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.takeover_manifest import (
    Manifest,
    Moved,
    listing,
)
from celled import NEEDS_ROOT
from disks import with_mounts_of_its_own
from older_host import killed_at, put, top_of


def exactly(top: Path) -> dict[str, tuple[str, int, int, int]]:
    """Everything below ``top``, directories included: what it holds, mode and owner."""
    found = {}
    for path in [top, *sorted(top.rglob("*"))]:
        status = path.lstat()
        text = os.readlink(path) if path.is_symlink() else path.read_text("latin-1") if path.is_file() else ""
        found[str(path.relative_to(top))] = (text, status.st_mode, status.st_uid, status.st_gid)
    return found


def leave(layout: Layout) -> None:
    """What ours put there in the meantime is gone, but for what a cycle learned."""
    put(Path(layout.memory_dir, "new.md"), "learned by a cycle\n", 0o640)
    put(Path(layout.runs_dir, "20270101T000000Z-0000abcd/cell.json"), "{}\n")


def is_back(before: dict[str, tuple[str, int, int, int]], layout: Layout) -> None:
    now = exactly(top_of(layout))
    lost = {path: (was, now.get(path)) for path, was in before.items() if now.get(path) != was}
    assert lost == {}
    # The lessons of ours are where the old engine looks, as its own; beside them there are cells, closed, and rooms.
    learned = "var/workspace/infra/memory/new.md"
    assert now[learned][0] == "learned by a cycle\n" and now[learned][2] == before["var/state"][2]
    added = {path for path in now if path not in before and not re.match(r"var/runs/[0-9TZ]+-[0-9a-f]+(/|$)", path)}
    assert added <= {learned, "var/memory", "var/cycles", "opt/loop/taken-over", "opt/loop/taken-over/.lock"}, added
    assert not listing(layout.install_dir)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_was_taken_over_is_put_back_as_it_was(
    layout: Layout, elsewhere: bool, systemd: list[tuple[str, ...]]
) -> None:
    layout = replace(layout, env_file=layout.dotenv) if not elsewhere else layout
    os.chmod(layout.install_dir, 0o750)
    before = exactly(top_of(layout))
    take(layout)
    leave(layout)
    systemd.clear()
    told = put_back(layout, check=True)
    assert told["changed"] and systemd == []
    done = put_back(layout)
    assert done["items"] == told["items"] and done["lines"] == told["lines"]
    is_back(before, layout)
    asked = [each for each in systemd if each[0] != "show"]
    assert asked == [("daemon-reload",), ("enable", "--now", "loop.timer"), ("enable", "often.timer")]
    assert put_back(layout) == {"changed": False, "aside": "", "items": [], "lines": []}
    assert take(layout)["changed"]  # and there it goes again


def test_the_way_back_that_is_killed_anywhere_is_gone_on_with(layout: Layout) -> None:
    top = top_of(layout)
    before = exactly(top)
    take(layout)
    leave(layout)
    saved = top.with_name(f"{top.name}-saved")
    subprocess.run(["cp", "-a", str(top), str(saved)], check=True)
    number = 0
    while killed_at(number, lambda: put_back(layout)):
        put_back(layout)
        is_back(before, layout)
        subprocess.run(["rm", "-rf", str(top)], check=True)
        subprocess.run(["cp", "-a", str(saved), str(top)], check=True)
        number += 1
    assert number > 20


@NEEDS_ROOT
def test_memory_that_was_empty_before_wedges_no_way_back(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a user that is not root, and a timer that cannot be enabled the first time."""
    layout = replace(layout, user="nobody", group="nogroup")
    monkeypatch.setattr(privileges, "at_work", lambda *_words: "")
    monkeypatch.setattr(privileges, "quiet", lambda *_words: None)
    os.mkdir(layout.memory_dir)
    for place in (layout.memory_dir, layout.state_dir):
        shutil.chown(place, "nobody", "nogroup")
    take(layout)
    put(Path(layout.memory_dir, "new.md"), "learned\n")
    played = systemd.systemctl

    def failing(*words: str) -> str:
        if words[0] == "enable":
            raise LoopError("the timer cannot be enabled")
        return played(*words)

    monkeypatch.setattr(systemd, "systemctl", failing)
    for _time in range(2):
        with pytest.raises(LoopError, match="cannot be enabled"):
            put_back(layout)
    os.rmdir(layout.memory_dir)  # whoever did that
    monkeypatch.setattr(systemd, "systemctl", played)
    assert put_back(layout)["changed"] and not listing(layout.install_dir)
    assert not put_back(layout)["changed"]


@NEEDS_ROOT
def test_on_a_disk_that_is_mounted_there_by_now_no_two_repositories_become_one(layout: Layout) -> None:
    there, back = top_of(layout) / "aside", top_of(layout) / "disk"

    def work() -> None:
        back.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(back)], check=True)
        for place in (there, back):
            put(place / "app/.git/HEAD", f"{place}\n")
            put(place / "app/.git/same", "same\n")
        put(there / "other", "x")
        told = _undo(layout, Manifest(), Moved("checkout", str(back), str(there)))
        assert told == [f"{back}/app is there already: what was taken over stands beside it, as {back}/app~"]
        assert (back / "app/.git/HEAD").read_text() == f"{back}\n" and (back / "other").read_text() == "x"
        assert (back / "app~/.git/HEAD").read_text() == f"{there}\n" and not os.listdir(there)

    with_mounts_of_its_own(work)


def test_two_wrappers_of_one_name_come_back_each_to_its_place(layout: Layout) -> None:
    other = put(top_of(layout) / "bin/run-daemon", "#!/bin/sh\n# the other\n", 0o755)
    layout = replace(layout, wrappers=[*layout.wrappers, str(other)])
    before = exactly(top_of(layout))
    number = 0
    while killed_at(number, lambda: take(layout)):
        take(layout)
        leave(layout)
        put_back(layout)
        now = exactly(top_of(layout))
        assert {path: now.get(path) for path in before if "run-daemon" in path} == {
            path: was for path, was in before.items() if "run-daemon" in path
        }
        number += 7
    assert number > 7


def test_nothing_is_written_over_on_the_way_back(layout: Layout) -> None:
    take(layout)
    wrapper = put(Path(layout.lib_dir, "run-daemon"), "somebody's\n")
    told = put_back(layout)["lines"]
    assert wrapper.read_text() == "somebody's\n"
    assert Path(f"{wrapper}~").read_text() == "#!/bin/sh\n# run-daemon\n"
    assert f"{wrapper} is there already: what was taken over stands beside it, as {wrapper}~" in told


def test_a_loop_that_is_still_deployed_is_left_first(layout: Layout) -> None:
    take(layout)
    put(Path(layout.unit_dir, "loop.service"), "# Written by the role as215932.engineering_loop.engineering_loop\n")
    before = exactly(top_of(layout))
    with pytest.raises(LoopError, match=r"the loop is still deployed, and nothing was put back: .*\.leave -l"):
        put_back(layout)
    assert exactly(top_of(layout)) == before
