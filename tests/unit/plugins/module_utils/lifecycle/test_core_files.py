# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The core as it is installed on the host: the same files, root's, and a launcher that runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.managed_files import Change, converge
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import core_files

ROOT = os.geteuid() == 0
CORE = Path(__file__).resolve().parents[5] / "plugins" / "module_utils"


def install(lib_dir: str, check: bool = False) -> list[Change]:
    return converge(core_files.entries(lib_dir), check=check)


def test_its_version_is_the_collections() -> None:
    galaxy = (CORE.parents[1] / "galaxy.yml").read_text(encoding="utf-8")
    assert f"\nversion: {core_files.VERSION}\n" in galaxy


def test_every_file_of_the_core_is_shipped_as_it_is() -> None:
    assert core_files.sources() == {
        "__init__.py": b"",
        **{str(path.relative_to(CORE)): path.read_bytes() for path in CORE.glob("*/*.py")},
    }


def test_it_is_installed_once_and_runs(tmp_path: Path) -> None:
    lib = tmp_path / "it's a lib"
    foretold = install(str(lib), check=True)
    assert not lib.exists()
    if not ROOT:
        with pytest.raises(LoopError, match="it's a lib cannot be made: "):  # it must be root's
            install(str(lib))
        return
    assert install(str(lib)) == foretold
    assert install(str(lib)) == []
    assert {(path.stat().st_uid, path.stat().st_mode & 0o022) for path in lib.rglob("*")} == {(0, 0)}

    def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-I", str(lib / "loop"), *arguments], cwd="/", capture_output=True, text=True, check=False
        )

    done = launch("cycle", f"{tmp_path}/none.json")
    assert (done.returncode, done.stderr) == (4, "")
    assert done.stdout.startswith(f"cycle refused: {tmp_path}/none.json is missing: this host was not deployed yet")
    for wrong in (
        (), ("heal",), ("alone",), *((name, "a", "b") for name in ("cycle", "cycles", "prepare", "settle", "watch")),
        ("inside", "a"), ("worktrees",), ("pack", "a", "b"), ("gateway", "a", "b"), ("access", "a", "b"),
    ):  # fmt: skip
        assert launch(*wrong).returncode == 1
        assert launch(*wrong).stderr.startswith("usage: loop enter [--as-engine] CELL [-- COMMAND...]")
    assert launch("enter").returncode == 2
    assert launch("enter").stderr == "usage: loop enter [--as-engine] CELL [-- COMMAND...]\n"
    assert launch("cycles").stderr.startswith("loop: /etc/engineering-loop/loop.json is missing: ")
    done = launch("enter", "20260131")
    assert (done.returncode, done.stderr[:44]) == (1, "loop: /etc/engineering-loop/loop.json is mis")
    assert launch("settle", f"{tmp_path}/none.json").returncode == 1


def test_each_program_that_runs_generated_code_is_shut_in(tmp_path: Path) -> None:
    lib = tmp_path / "it's a lib"
    programs = ["pi", "/opt/x/make", "git", "gh"]  # gh is the gateway's, whoever asks for it
    entries = {entry.path: entry for entry in core_files.entries(str(lib), programs)}
    doors = {os.path.basename(path): entry for path, entry in entries.items() if os.path.dirname(path) == f"{lib}/bin"}
    assert set(doors) == {*core_files.GATE_COMMANDS, "pi", "make", "git", "gh"}
    assert doors["git"].content == doors["pi"].content != doors["gh"].content
    (lib / "bin").mkdir(parents=True)
    (lib / "loop").write_text('#!/bin/sh\nprintf "%s|" "$@"\n')  # stands in for the launcher
    (lib / "loop").chmod(0o755)
    for name in ("pi", "make", "python3"):
        door = lib / "bin" / name
        door.write_bytes(doors[name].content)
        door.chmod(doors[name].mode)
        environment = {"PATH": f"{lib}/bin:/usr/bin:/bin"}
        words = ["sh", "-c", f'{name} -m "a b" "$(printf "\\n")x"']
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == f"alone|{name}|-m|a b|x|"


def test_a_door_that_nobody_asks_for_any_more_goes(tmp_path: Path) -> None:
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    (bin_dir / "gone").write_text("#!/bin/sh\n")
    (bin_dir / "pytest").write_text("#!/bin/sh\n")
    changes = {change.path: change.what for change in converge(core_files.entries(str(tmp_path), ["pi"]), check=True)}
    assert changes[f"{bin_dir}/gone"] == "removed"
    assert changes[f"{bin_dir}/pytest"] == "content"


def test_what_was_changed_or_is_no_longer_ours_is_put_right(tmp_path: Path) -> None:
    lib = tmp_path / "lib"
    package = lib / core_files.PACKAGE
    (package / "base").mkdir(parents=True)
    (package / "files.py").write_text("of a version that had no rooms")
    (package / "base/gone.py").write_text("old")
    (package / "notes.txt").write_text("an operator's")
    (package / "base/files.py").write_text("changed by hand")
    changes = {change.path: change.what for change in install(str(lib), check=True)}
    assert changes[f"{package}/files.py"] == changes[f"{package}/base/gone.py"] == "removed"
    assert changes[f"{package}/base/files.py"] == "content"
    if ROOT:
        install(str(lib))
        assert not (package / "files.py").exists() and not (package / "base/gone.py").exists()
        assert (package / "base/files.py").read_bytes() == (CORE / "base/files.py").read_bytes()
        assert (package / "notes.txt").read_text() == "an operator's"


def test_the_gateways_client_is_a_program_of_its_own(tmp_path: Path) -> None:
    """As gh and as what git reaches out with: it needs nothing of the core, and says where it found nobody."""
    lib = tmp_path / "it's a lib"
    entries = {entry.path: entry for entry in core_files.entries(str(lib), ["make"])}
    (lib / "bin").mkdir(parents=True)
    for name in ("bin/gh", "gateway-client"):
        entry = entries[f"{lib}/{name}"]
        Path(entry.path).write_bytes(entry.content)
        Path(entry.path).chmod(entry.mode)
        seen = {"ENGINEERING_LOOP_GATEWAY": "/none", "PATH": "/usr/bin:/bin"}
        words = [entry.path, "issue", "list"]
        done = subprocess.run(words, env=seen, cwd="/", capture_output=True, text=True, check=False)
        assert done.returncode == 1 and done.stdout == ""
        assert done.stderr.startswith("the gateway to the forge does not answer at /none (No such file or directory)")


def test_a_file_where_the_package_must_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / core_files.PACKAGE).write_text("")
    with pytest.raises(LoopError, match=f"{core_files.PACKAGE} is in the way"):
        install(str(tmp_path))
