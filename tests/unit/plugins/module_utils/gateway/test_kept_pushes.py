# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the gateway keeps of refused pushes and of branches that made room, and how a person gets it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import kept_time
from ansible_collections.as215932.engineering_loop.plugins.module_utils.gateway import (
    kept_pushes,
    receive,
)
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user
from celled import GATE, NEEDS_ROOT, git
from gated import REPO, Cycle, Door

pytestmark = NEEDS_ROOT


def kept_of(gate: Door) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = as_user(GATE, lambda: kept_pushes.listing(gate.config))
    return found


def test_what_was_refused_is_kept_and_given_back(ours: Cycle) -> None:
    sha = ours.commit("src/x.py", "precious\n")
    reason = ours.refused()
    name = ours.entries("push")[-1]["kept"]
    one = next(one for one in kept_of(ours.door) if one["id"] == name)
    assert (one["repo"], one["branch"], one["commit"]) == (REPO, ours.branch, sha)
    assert (one["cycle"], one["why"]) == (ours.name, reason)
    before = kept_pushes.restore(ours.door.config, name, "rescue/it", check=True)
    (place,) = before["brought"]
    assert before["changed"] and not os.path.exists(place["path"])
    assert kept_pushes.restore(ours.door.config, name, "rescue/it") == before
    there = Path(place["path"])
    assert (there / "src/x.py").read_text() == "precious\n" and os.lstat(there / "src/x.py").st_uid == 0
    assert git(there, "rev-parse", "HEAD") == sha and git(there, "branch", "--show-current") == "rescue/it"
    assert git(there, "remote", "get-url", "origin").endswith("/AS215932/app.git")
    assert not (there / ".git/objects/info/alternates").exists() and git(there, "fsck") == ""
    with pytest.raises(LoopError, match="is there already: move it away"):
        kept_pushes.restore(ours.door.config, name, "rescue/it")
    with pytest.raises(LoopError, match="check-ref-format"):
        kept_pushes.restore(ours.door.config, name, "rescue..it")
    subprocess.run(["rm", "-r", there.parent], check=True)
    for check in (True, False):
        with pytest.raises(LoopError, match=r"^main/it cannot be a branch where main is one: choose another name$"):
            kept_pushes.restore(ours.door.config, name, "main/it", check=check)
    with pytest.raises(LoopError, match=r"keeps nothing as \.\./x"):
        kept_pushes.restore(ours.door.config, "../x", "rescue/it")


def test_of_one_cycle_only_so_much_is_kept_and_the_same_work_once(ours: Cycle) -> None:
    names = []
    for number in range(receive.KEPT_PER_CYCLE + 1):
        ours.commit(f"src/{number}.py")
        ours.refused()
        names.append(ours.entries("push")[-1]["kept"])
    assert all(names[:-1]) and len(set(names)) == len(names) and names[-1] == ""
    ours.git("reset", "-q", "--hard", f"HEAD~{receive.KEPT_PER_CYCLE}")
    ours.refused()
    assert ours.entries("push")[-1]["kept"] == names[0]


def test_a_branch_of_an_earlier_cycle_is_kept_and_makes_room(gate: Door) -> None:
    number = gate.issue()
    with gate.cycle(number) as first:
        old = first.commit()
        assert first.push().returncode == 0 and first.open().returncode == 0
    (pull,) = gate.pulls(first.branch)
    pull["state"] = "closed"
    with gate.cycle(number) as second:  # a person closed it: it is offered again
        new = second.commit("docs/c.md")
        done = second.push(options=("--force",))
        assert done.returncode == 0, done.stderr
        assert gate.branches()[second.branch] == new
        (told,) = second.entries("replaced")
        assert told["old"] == old
    one = next(one for one in kept_of(gate) if one["id"] == told["kept"])
    assert one["commit"] == old and "an earlier cycle published it" in one["why"]
    assert kept_pushes.restore(gate.config, one["id"], "old")["changed"]


def test_what_is_not_kept_by_us_is_passed_over(gate: Door) -> None:
    place = Path(gate.config["gate_dir"], "kept")
    before = kept_of(gate)
    for name, text in {"a.git": "[", "b.git": "{}", "c.git": '{"a":' * 50 + "1" + "}" * 50}.items():
        (place / name).mkdir()
        (place / name / "kept.json").write_text(text)
    (place / "d.git").mkdir()
    (place / "d.git/kept.json").symlink_to("/etc/passwd")
    (place / "e.git").mkdir()
    os.mkfifo(place / "e.git/kept.json")
    (place / "f.git").symlink_to("/")
    assert kept_pushes.listing(gate.config) == before
    for name in "abcdef":
        subprocess.run(["rm", "-rf", place / f"{name}.git"], check=True)


def test_what_was_kept_long_enough_goes(ours: Cycle) -> None:
    ours.commit("src/x.py")
    ours.refused()
    name = ours.entries("push")[-1]["kept"]
    half = Path(ours.door.config["gate_dir"], "inbox", "half.git")
    as_user(GATE, half.mkdir)
    config = Settings(ours.door.config, quarantine_keep={"age": "90d"})
    as_user(GATE, lambda: kept_pushes.tidy(config))
    assert not half.exists() and name in [one["id"] for one in kept_of(ours.door)]
    old = Path(next(one["path"] for one in kept_of(ours.door) if one["id"] == name))
    old.rename(old.with_name("20200101T000000Z-0a0b0c0d.git"))
    clock = Path(kept_time.path_of(config))
    clock.write_text('{"seen": 1577836800.0, "leaps": []}')  # the start of 2020: the clock jumped since
    as_user(GATE, lambda: kept_pushes.tidy(config))
    assert old.with_name("20200101T000000Z-0a0b0c0d.git").exists()
    clock.unlink()
    as_user(GATE, lambda: kept_pushes.tidy(config))
    assert not old.with_name("20200101T000000Z-0a0b0c0d.git").exists()


def test_what_is_kept_goes_for_its_size_but_not_while_it_is_young(ours: Cycle) -> None:
    ours.commit("src/x.py")
    ours.refused()
    name = ours.entries("push")[-1]["kept"]
    young = Path(next(one["path"] for one in kept_of(ours.door) if one["id"] == name))
    old = young.with_name("20200101T000000Z-0a0b0c0d.git")
    subprocess.run(["cp", "-a", young, old], check=True)
    Path(kept_time.path_of(ours.door.config)).unlink(missing_ok=True)
    config = Settings(ours.door.config, quarantine_keep={"size": "1", "min_age": "7d"})
    as_user(GATE, lambda: kept_pushes.tidy(config))
    assert young.exists() and not old.exists()
    config = Settings(ours.door.config, quarantine_keep={"size": "1", "min_age": ""})
    as_user(GATE, lambda: kept_pushes.tidy(config))
    assert not young.exists()
