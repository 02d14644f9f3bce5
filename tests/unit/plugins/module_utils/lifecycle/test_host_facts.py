# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host is: read from what is there, and never a crash over what is not."""

from __future__ import annotations

import json
import os
import platform
import pwd
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import cells, records
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import host_facts
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import pause
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import agents
from celled import NEEDS_ROOT
from deployed import SHA, Host
from disks import on_a_disk_of_its_own
from worlds import World


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_the_system() -> None:
    system = host_facts.system()
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    assert system["id"] == release["ID"].strip('"')
    assert system["python"] == platform.python_version()
    assert system["systemd"] == Path("/run/systemd/system").is_dir()
    assert system["root"] == (os.geteuid() == 0)
    assert abs(system["clock"] - time.time()) < 60


@NEEDS_ROOT
@pytest.mark.parametrize("options", ["size=2m", "size=50m,nr_inodes=400"])
def test_a_disk_that_is_full(tmp_path: Path, options: str) -> None:
    def work(world: World) -> None:
        wanted = [f"{world.root}/not/yet", str(world.root), "/"]
        assert host_facts.full(wanted) == []
        for number in range(300):
            (world.root / str(number)).write_bytes(b"x" * 4096)
        assert host_facts.full(wanted) == [str(world.root)]

    on_a_disk_of_its_own(tmp_path, options, work)


def test_an_interrupted_dpkg_is_seen_by_its_journal(tmp_path: Path) -> None:
    assert host_facts.packages_interrupted(str(tmp_path / "none")) is False
    (tmp_path / "tmp.i").touch()
    assert host_facts.packages_interrupted(str(tmp_path)) is False
    (tmp_path / "0003").touch()
    assert host_facts.packages_interrupted(str(tmp_path)) is True


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert host_facts.missing_packages([]) == []
    assert host_facts.missing_packages(["no-such-b", "dpkg", "no-such-a"]) == ["no-such-a", "no-such-b"]
    kind = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()
    assert host_facts.missing_packages([f"libc6:{kind}", "awk", "libc6:none"]) == ["libc6:none"]
    monkeypatch.setenv("PATH", "/nowhere")  # not a Debian at all
    assert host_facts.missing_packages(["git", "dpkg"]) == ["dpkg", "git"]


def dpkg_knows(script: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What dpkg says of packages is what this script says."""
    (directory / "dpkg-query").write_text(f"#!/bin/sh\n{script}\n")
    (directory / "dpkg-query").chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("state", "half"), [("half-installed", True), ("installed", False), ("unpacked", False), ("", False)]
)
def test_half_of_what_installs_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, half: bool
) -> None:
    dpkg_knows(f"printf '%s' '{state}'", tmp_path, monkeypatch)
    assert host_facts.python_apt_half() is half


def test_debians_node_and_npm_are_missing_where_no_programs_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What dpkg knows, by a program that says so: nothing of either, at first.
    states = tmp_path / "states"
    states.write_text("dpkg all installed\n")
    dpkg_knows(f"cat {states}", tmp_path, monkeypatch)
    monkeypatch.setattr(agents, "PATH", str(tmp_path))
    wanted = ["dpkg", "nodejs", "npm"]
    assert host_facts.missing_packages(wanted) == ["nodejs", "npm"]
    (tmp_path / "node").write_text("#!/bin/sh\n")
    (tmp_path / "node").chmod(0o755)
    assert host_facts.missing_packages(wanted) == ["nodejs", "npm"]
    shutil.copy(tmp_path / "node", tmp_path / "npm")
    assert host_facts.missing_packages(wanted) == []
    # NodeSource's, after Debian's.
    states.write_text("dpkg all installed\nnodejs all installed\nnpm all config-files\n")
    assert host_facts.missing_packages(wanted) == []
    # A killed installation of Debian's.
    states.write_text("dpkg all installed\nnodejs all installed\nnpm all half-configured\n")
    assert host_facts.missing_packages(wanted) == ["npm"]


def test_the_version_of_uv(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    real = str(Path(sys.executable).with_name("uv"))
    assert host_facts.uv_version(real).count(".") == 2
    assert host_facts.uv_version(program(tmp_path / "good", "echo 'uv 1.2.3 (abc 2026-01-01)'")) == "1.2.3"
    for text in ("exit 3", "echo uv", "printf '\\377'", "kill $$"):
        assert host_facts.uv_version(program(tmp_path / "bad", text)) == ""
    (tmp_path / "plain").write_text("")
    for path in (tmp_path / "none", tmp_path, tmp_path / "plain"):
        assert host_facts.uv_version(str(path)) == ""
    tmp_path.chmod(0o700)  # as root with the umask 077 would have made it: what it holds is nobody else's to run
    assert host_facts.uv_version(str(tmp_path / "good")) == ""


def test_users() -> None:
    assert host_facts.user_exists(pwd.getpwuid(os.geteuid()).pw_name)
    assert not host_facts.user_exists("no-such-user")


def test_a_host_where_nothing_was_deployed(tmp_path: Path) -> None:
    assert host_facts.loop(str(tmp_path / "none.json")) is None


def test_a_deployed_host(host: Host) -> None:
    for number in range(3):
        records.write(host.config["cycles_dir"], {"cycle": f"20260101T00000{number}Z-a", "outcome": "idle"})
    seen = host_facts.loop(str(host.config_file), last=2)
    assert seen is not None
    assert seen["settings"] == host.config
    assert seen["engine"] == seen["installed"]["engine_sha"] == SHA
    assert seen["proof"]["matches"] is False
    assert "nothing was proven on this host yet" in seen["proof"]["reason"]
    assert [record["cycle"][14] for record in seen["cycles"]] == ["1", "2"]
    assert (seen["kept"], seen["timer"]["active"]) == ([], False)
    assert json.loads(json.dumps(seen)) == seen


def test_a_host_that_lacks_a_part_is_told_and_not_a_crash(host: Host) -> None:
    (host.top / "opt/current").unlink()
    seen = host_facts.loop(str(host.config_file))
    assert seen is not None
    assert (seen["engine"], seen["installed"], seen["proof"]["matches"]) == ("", {}, False)
    assert "no engine is installed" in seen["proof"]["reason"]


def test_kept_cells_are_told_with_what_is_harmless_to_a_terminal(host: Host) -> None:
    runs = Path(host.config["runs_dir"])
    issue = {"repo": "o/r", "number": 7, "title": "\x1b]0;pwned\x07"}
    wanted: dict[str, dict[str, Any] | None] = {
        "20260101T000001Z-00000001": {"outcome": "error", "issue": issue, "size": 5, "files": 2, "kind": "cycle"},
        "20260101T000002Z-00000002": {"outcome": "published", "kind": "cycle"},
        "20260101T000003Z-00000003": {"outcome": "idle", "kind": "cycle"},
        "20260101T000004Z-00000004": {"outcome": "running", "kind": "cycle"},
        "20260101T000005Z-00000005": {"outcome": "adopted", "kind": "adopted", "detail": "\x1b[2J\u202e"},
        "20260101T000006Z-00000006": None,
    }
    for name, manifest in wanted.items():
        (runs / name).mkdir()
        if manifest:
            cells.write_manifest(cells.Cell(f"{runs}/{name}"), manifest)
    seen = host_facts.loop(str(host.config_file))
    assert seen is not None
    assert [(one["id"][-1], one["what"], one["outcome"]) for one in seen["kept"]] == [
        ("1", "o/r#7", "error"), ("5", "what an older layout left", "adopted"), ("6", "", "damaged"),
    ]  # fmt: skip
    assert seen["kept"][0]["title"] == "\\x1b]0;pwned\\x07"
    assert seen["kept"][1]["detail"] == "\\x1b[2J\\u202e"
    assert (seen["kept"][0]["size"], seen["kept"][0]["files"]) == (5, 2)
    assert "it has no cell.json" in seen["kept"][2]["detail"]


def test_broken_settings_are_one_line(host: Host) -> None:
    host.config_file.write_text("{")
    with pytest.raises(LoopError, match="is not JSON"):
        host_facts.loop(str(host.config_file))


def test_a_pause_is_told_wherever_a_loop_is(host: Host, tmp_path: Path) -> None:
    config = str(host.config_file)
    assert host_facts.paused(config) == host_facts.paused(str(tmp_path / "none.json")) == ""
    made, _changed = pause.put(host.config, "the forge moves", "ann")
    assert host_facts.paused(config) == made.sentence
    host.config_file.write_text("[")
    assert host_facts.paused(config) == ""
