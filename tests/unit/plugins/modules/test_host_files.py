# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `host_files`: what a task shows of it."""

from __future__ import annotations

import grp
import json
import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import systemd as units
from ansible_collections.as215932.engineering_loop.plugins.modules import host_files

ROOT = os.geteuid() == 0
CHECKOUT = Path(__file__).resolve().parents[4]
MINE = {"owner": pwd.getpwuid(os.geteuid()).pw_name, "group": grp.getgrgid(os.getegid()).gr_name}


@pytest.fixture
def run(task: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    def run(*entries: dict[str, Any], **options: Any) -> dict[str, Any]:
        return task(host_files, entries=[{**MINE, **entry} for entry in entries], **options)

    return run


def test_check_mode_foretells_and_a_second_run_is_idle(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    entries: list[dict[str, Any]] = [
        {"path": f"{tmp_path}/d", "state": "directory", "mode": "0750"},
        {"path": f"{tmp_path}/d/f", "content": "one\n"},
        {"path": f"{tmp_path}/d/none", "state": "absent"},
    ]
    foretold = run(*entries, _ansible_check_mode=True)
    assert os.listdir(tmp_path) == []
    done = run(*entries)
    assert done == foretold
    assert (done["changed"], done["changed_paths"]) == (True, [f"{tmp_path}/d", f"{tmp_path}/d/f"])
    assert done["diff"][0] == {"prepared": f"{tmp_path}/d: directory created\n"}
    assert (done["diff"][1]["before"], done["diff"][1]["after"]) == ("", "one\n")
    again = run(*entries)
    assert (again["changed"], again["changed_paths"], again["diff"]) == (False, [], [])


SERVICE = "[Service]\nType=oneshot\nExecStart=/bin/true\n# its_limit: 4G or 80%\nMemoryMax={0}\n"


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Its units stand in a directory of the test; what is asked of it, beside the real systemd-analyze."""
    asked: list[tuple[str, ...]] = []

    def systemctl(*arguments: str) -> str:
        asked.append(arguments)
        return "NeedDaemonReload=yes\n" if (tmp_path / "stale").exists() else "NeedDaemonReload=no\n"

    monkeypatch.setattr(units, "UNIT_DIR", str(tmp_path / "units"))
    monkeypatch.setattr(units, "systemctl", systemctl)
    (tmp_path / "units").mkdir()
    return asked


def test_a_unit_that_systemd_would_not_take_stops_the_whole_set(
    run: Callable[..., dict[str, Any]], tmp_path: Path, systemd: list[tuple[str, ...]]
) -> None:
    other = {"path": str(tmp_path / "other"), "content": "one\n"}
    for check in (True, False):
        answer = run(
            other, {"path": f"{tmp_path}/units/t.service", "content": SERVICE.format("lots")}, _ansible_check_mode=check
        )
        assert answer["failed"]
        assert answer["msg"].startswith("its_limit: systemd does not take MemoryMax=lots in t.service (")
    assert not (tmp_path / "other").exists() and systemd == []
    # Elsewhere it is a file like any other.
    assert run({"path": f"{tmp_path}/t.service", "content": SERVICE.format("lots")})["changed"]


def test_units_are_read_anew_where_they_changed_or_an_earlier_run_did_not_come_to_it(
    run: Callable[..., dict[str, Any]], tmp_path: Path, systemd: list[tuple[str, ...]]
) -> None:
    unit = {"path": f"{tmp_path}/units/t.service", "content": SERVICE.format("2G")}
    assert run(unit, _ansible_check_mode=True)["changed"] and systemd == []
    assert run(unit)["changed"] and systemd == [("daemon-reload",)]
    systemd.clear()
    assert not run(unit)["changed"] and ("daemon-reload",) not in systemd
    (tmp_path / "stale").touch()
    assert run(unit, _ansible_check_mode=True)["changed"] and ("daemon-reload",) not in systemd
    again = run(unit)
    assert (again["changed"], again["changed_paths"], systemd[-1]) == (True, [], ("daemon-reload",))
    systemd.clear()
    (tmp_path / "stale").unlink()
    assert run({**unit, "state": "absent"})["changed"] and systemd == [("daemon-reload",)]


def test_the_diff_of_a_change_has_both_sides(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old \xff\n")
    (diff,) = run({"path": str(path), "content": "new\n"})["diff"]
    assert diff == {
        "before_header": str(path), "after_header": str(path), "before": "old \ufffd\n", "after": "new\n",
    }  # fmt: skip
    (diff,) = run({"path": str(path), "content": "new\n", "mode": "0600"})["diff"]
    assert diff == {"prepared": f"{path}: mode 0600\n"}
    (diff,) = run({"path": str(path), "state": "absent"})["diff"]
    assert (diff["before"], diff["after"], path.exists()) == ("new\n", "", False)


def test_secrets_are_roots_and_are_never_shown(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text("GH_TOKEN=old-s3cret\n")
    answer = run(secrets={str(path): "GH_TOKEN=new-s3cret\n"})
    assert "s3cret" not in json.dumps(answer)
    if ROOT:
        assert answer["diff"] == [{"prepared": f"{path}: content (not shown)\n"}]
        assert (path.read_text(), path.stat().st_mode & 0o7777, path.stat().st_uid) == (
            "GH_TOKEN=new-s3cret\n",
            0o600,
            0,
        )
        assert not run(secrets={str(path): "GH_TOKEN=new-s3cret\n"})["changed"]
    else:
        assert answer["failed"]
        assert path.read_text() == "GH_TOKEN=old-s3cret\n"


def test_a_file_without_content_is_a_mistake_and_empties_nothing(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "f").write_text("precious")
    answer = run({"path": f"{tmp_path}/f", "mode": "0600"})
    assert answer["failed"]
    assert "state is file but all of the following are missing: content" in answer["msg"]
    assert (tmp_path / "f").read_text() == "precious"
    assert run({"path": f"{tmp_path}/f", "content": ""})["changed"]
    assert (tmp_path / "f").read_bytes() == b""


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"path": "relative"}, "is not an absolute, plain path"),
        ({"path": "/etc/../etc/passwd"}, "is not an absolute, plain path"),
        ({"path": "/etc/a\0b"}, "is not an absolute, plain path"),
        ({"mode": 420}, "mode '420' is not octal"),
        ({"mode": "rw-r--r--"}, "mode 'rw-r--r--' is not octal"),
        ({"owner": "no-such"}, "there is no user no-such"),
        ({"path": "/etc"}, "/etc is a directory where a file must stand"),
        ({"path": "/etc/passwd/x"}, "cannot be looked at: Not a directory"),
        ({"path": "/proc/none/x"}, "there is no directory /proc/none"),
        ({"path": "/proc/none"}, "/proc/none cannot be written"),
    ],
)
def test_what_is_wrong_is_one_line(
    run: Callable[..., dict[str, Any]], tmp_path: Path, entry: dict[str, Any], reason: str
) -> None:
    answer = run({"path": f"{tmp_path}/f", "content": "x", **entry})
    assert answer["failed"]
    assert reason in answer["msg"]
    assert "\n" not in answer["msg"]
    assert os.listdir(tmp_path) == []


def test_our_code_is_foretold_and_installed_once(task: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    lib = tmp_path / "lib"
    foretold = task(host_files, entries=[], lib_dir=str(lib), _ansible_check_mode=True)
    assert foretold["changed"]
    made = f"{lib}/engineering_loop_core/cycle/engine_run.py: file created (not shown)\n"
    assert {"prepared": made} in foretold["diff"]
    assert not lib.exists()
    done = task(host_files, entries=[], lib_dir=str(lib))
    if ROOT:
        assert done == foretold
        again = task(host_files, entries=[], lib_dir=str(lib))
        assert (again["changed"], again["changed_paths"], again["diff"]) == (False, [], [])
    else:
        assert done["failed"]
        assert done["msg"].startswith(f"{lib} cannot be made: ")


def test_our_code_without_a_parent_is_one_line(task: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    answer = task(host_files, entries=[], lib_dir=f"{tmp_path}/none/lib")
    assert answer["failed"]
    assert answer["msg"] == f"{tmp_path}/none/lib cannot be made: there is no directory {tmp_path}/none"


def test_what_ansible_ships_is_enough_to_run(tmp_path: Path) -> None:
    """A module arrives as an archive with what it imports and nothing else; the host's copy is made from that."""
    lib = tmp_path / "lib"
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible"), "localhost", "-i", "localhost,", "-c", "local",
         "-m", "as215932.engineering_loop.host_files", "-a", json.dumps({"entries": [], "lib_dir": str(lib)})],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / ".collections"),
             "ANSIBLE_PYTHON_INTERPRETER": sys.executable, "ANSIBLE_HOME": str(tmp_path / "ansible"),
             "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal", "ANSIBLE_FORCE_COLOR": "0"},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if not ROOT:
        assert f"{lib} cannot be made: " in done.stdout + done.stderr
        return
    assert json.loads(done.stdout[done.stdout.index("{") :])["changed"]
    core = lib / "engineering_loop_core"
    for path in core.glob("*/*.py"):
        assert path.read_bytes() == (CHECKOUT / "plugins/module_utils" / path.relative_to(core)).read_bytes()
    started = subprocess.run(
        [sys.executable, "-I", lib / "loop", "cycle", f"{tmp_path}/none.json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (started.returncode, started.stderr) == (4, "")
    assert "this host was not deployed yet" in started.stdout
