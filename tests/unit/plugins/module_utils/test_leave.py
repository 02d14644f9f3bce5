# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host is given back: what goes always, what goes as asked, and what nobody touches."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils import leave, runtime, units
from ansible_collections.as215932.engineering_loop.plugins.module_utils.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.hostfiles import Entry, apply

ROOT = os.geteuid() == 0
# Work belongs to the loop's user, who is not root.
LOOP = pwd.getpwnam("nobody").pw_uid if ROOT else os.geteuid()
SHA = "a" * 40
ALL = [name for name in leave.REMOVABLE if name != "user"]
MARK = "# Written by the role as215932.engineering_loop.engineering_loop\n"


class Host:
    """The files of a host where the loop is deployed and has worked."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.config: dict[str, Any] = {
            "user": "no-such-user-here",
            "group": "no-such-group-here",
            "unit": "loop",
            "install_dir": str(top / "opt"),
            "config_dir": str(top / "etc"),
            "lib_dir": str(top / "lib"),
            "receipts_dir": str(top / "opt/receipts"),
            "policy_file": str(top / "etc/policy.yml"),
            "env_file": str(top / "etc/env"),
            "state_dir": str(top / "var"),
            "daemon_state_dir": str(top / "var/state"),
            **{f"{name}_dir": str(top / "var" / name) for name in ("workspace", "runs", "memory", "cycles")},
        }
        self.put("systemd/loop.timer", MARK)
        self.put("systemd/loop.service", MARK)
        self.put("systemd/loop.service.d/own.conf", "[Service]\n")
        self.put("systemd/looper.service", "[Service]\n# somebody else's\n")
        for name in ("policy.yml", "env", "key.pem"):
            self.put(f"etc/{name}", name)
        self.put("etc/loop.json", json.dumps(self.config))
        self.put(f"opt/releases/{SHA}/.release.json", json.dumps({"sha": SHA}))
        (top / "opt/current").symlink_to(f"releases/{SHA}")
        self.put("opt/releases.json", "{}")
        self.put("opt/budget.json", "{}")
        self.put("opt/uv-1.0/bin/uv", "uv")
        (top / "opt/uv").symlink_to("uv-1.0")
        self.put("opt/receipts/one.json", "{}")
        self.put("opt/taken-over/then/manifest.json", "{}")
        (top / "lib").mkdir()
        for entry in runtime.entries(str(top / "lib")):
            status = top.stat()
            names = {"owner": pwd.getpwuid(status.st_uid).pw_name, "group": _group(status.st_gid)}
            apply(Entry(**{**entry.__dict__, **names}), leave_change(entry.path))
        for name in ("workspace/infra/README", "runs/issue_1/request.md", "memory/lessons", "state/ledger", ".cache/x"):
            self.put(f"var/{name}", name)
        self.put("var/runs/.quarantine/20260101T000000Z-0123abcd-0/manifest.json", '{"what": "tree", "from": "/there"}')
        if ROOT:
            subprocess.run(["chown", "-R", str(LOOP), str(top / "var")], check=True)

    def put(self, name: str, text: str) -> Path:
        path = self.top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def leave(self, *remove: str, **options: Any) -> dict[str, Any]:
        options = {"key_file": str(self.top / "etc/key.pem"), "unit_dir": str(self.top / "systemd"), **options}
        return leave.leave(self.config, remove, **options)

    def files(self) -> set[str]:
        return {
            str(path.relative_to(self.top)) for path in self.top.rglob("*") if path.is_symlink() or not path.is_dir()
        }


def _group(gid: int) -> str:
    import grp

    return grp.getgrgid(gid).gr_name


def leave_change(path: str) -> Any:
    from ansible_collections.as215932.engineering_loop.plugins.module_utils.hostfiles import Change

    return Change(path, "created")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What systemd was asked; it has a timer that runs until it is stopped."""
    asked: list[tuple[str, ...]] = []

    def systemctl(*arguments: str) -> str:
        asked.append(arguments)
        return "ActiveState=active\nUnitFileState=enabled\n" if arguments[0] == "show" else ""

    monkeypatch.setattr(units, "systemctl", systemctl)
    monkeypatch.setattr(units, "active", lambda unit: unit == "loop.timer" and ("stop", unit) not in asked)
    monkeypatch.setattr(leave, "STAMP", "/nonexistent/{unit}")
    return asked


@pytest.fixture
def host(tmp_path: Path, asked: list[tuple[str, ...]]) -> Host:
    return Host(tmp_path)


def test_what_we_brought_goes_and_what_came_of_it_stays(host: Host, asked: list[tuple[str, ...]]) -> None:
    before = host.files()
    told = host.leave(check=True)
    assert host.files() == before
    assert not [words for words in asked if words[0] != "show"]
    done = host.leave()
    assert done == told
    gone = {name.split("/")[0] + "/" + name.split("/")[1] for name in before - host.files()}
    assert gone == {
        "systemd/loop.timer", "systemd/loop.service", "opt/releases", "opt/current", "opt/releases.json", "opt/uv",
        "opt/uv-1.0", "lib/loop", "lib/git-askpass", "lib/hooks", "lib/bin", "lib/engineering_loop_core",
    }  # fmt: skip
    assert not (host.top / "lib").exists()
    assert asked.index(("stop", "loop.timer")) < asked.index(("disable", "--now", "loop.timer"))
    assert ("daemon-reload",) in asked
    kept = "\n".join(done["kept"])
    for what in ("(work)", "1 thing in", "(secrets)", "(receipts)", "(taken_over)", "(config)", "somebody's own"):
        assert what in kept
    again = host.leave()
    assert (again["changed"], again["removed"]) == (False, [])


def test_all_that_is_asked_goes_and_is_named(host: Host) -> None:
    told = host.leave(*ALL, check=True)
    done = host.leave(*ALL)
    assert done == told
    assert host.files() == {"systemd/loop.service.d/own.conf", "systemd/looper.service"}
    lines = "\n".join(done["removed"])
    for what in ("20260101T000000Z-0123abcd-0, tree from /there", "runs/issue_1 (", "workspace/infra (", "etc/key.pem"):
        assert what in lines
    assert sorted(os.listdir(host.top)) == ["systemd"], list(host.top.rglob("*"))
    assert not host.leave(*ALL)["changed"]


@pytest.mark.parametrize("name", ALL)
def test_one_thing_is_asked_for_and_the_others_stay(host: Host, name: str) -> None:
    own = {
        "work": ("var/", "opt/budget.json"),
        "config": ("etc/loop.json", "etc/policy.yml"),
        "secrets": ("etc/env", "etc/key.pem"),
        "receipts": "opt/receipts",
        "taken_over": "opt/taken-over",
    }
    host.leave()
    before = host.files()
    host.leave(name)
    assert before - host.files() == {path for path in before if path.startswith(own[name])}


def test_a_host_where_nothing_is_deployed_and_one_of_the_older_layout_are_left_alone(
    tmp_path: Path, asked: list[tuple[str, ...]]
) -> None:
    host = Host(tmp_path / "other")
    host.top = tmp_path
    host.config = {key: value.replace("/other", "") for key, value in host.config.items()}
    assert host.leave() == {"changed": False, "removed": [], "kept": []}
    host.put("lib/git-askpass", '#!/bin/sh\necho "$GH_TOKEN"\n')
    host.put("lib/run-daemon", "#!/bin/sh\n")
    host.put("systemd/loop.service", "[Service]\nExecStart=/usr/local/lib/run-daemon\n")
    done = host.leave()
    assert not done["changed"]
    assert any("the role did not write it" in line for line in done["kept"])
    assert not asked


def test_a_cycle_in_progress_is_waited_for_and_then_told(host: Host, asked: list[tuple[str, ...]]) -> None:
    host.put("var/state/daemon.lock", json.dumps({"pid": os.getppid(), "started_at": time.time()}))
    before = host.files()
    with pytest.raises(LoopError, match=r"a run is in progress .*: nothing was removed"):
        host.leave("work", wait=0.1)
    assert host.files() == before
    assert ("stop", "loop.timer") not in asked


def test_what_is_to_stay_does_not_go_with_the_work(host: Host) -> None:
    host.config["env_file"] = str(host.put("var/env", "GH_TOKEN=x\n"))
    before = host.files()
    with pytest.raises(LoopError, match=r"var/env \(env_file\) stands in .*var, which is to be removed"):
        host.leave("work")
    assert host.files() == before
    host.leave("work", "secrets")
    assert not (host.top / "var").exists()


def test_roots_own_directories_are_no_work(host: Host) -> None:
    host.config["memory_dir"] = "/usr/share"
    told = host.leave("work", check=True)
    assert any(line.startswith("/usr/share: ") for line in told["kept"])
    assert not any(line.startswith("/usr/share") for line in told["removed"])


def test_a_user_goes_only_with_its_files(host: Host) -> None:
    host.config["user"] = "nobody"
    with pytest.raises(LoopError, match="a later user may get its number"):
        host.leave("user")
    told = host.leave("user", "work", check=True)
    assert any("no system user of the role's making" in line for line in told["kept"])


def test_work_on_another_disk_goes_with_its_link(host: Host, tmp_path: Path) -> None:
    elsewhere = tmp_path / "disk"
    os.rename(host.config["runs_dir"], elsewhere)
    os.symlink(elsewhere, host.config["runs_dir"])
    host.leave("work")
    assert elsewhere.exists()  # a link inside a tree is not followed
    os.makedirs(host.top / "big")
    host.put("big/runs/x", "x")
    if ROOT:
        os.chown(host.top / "big", LOOP, -1)
    os.symlink(host.top / "big", host.config["state_dir"])
    host.leave("work")
    assert not (host.top / "big").exists()
    assert not os.path.lexists(host.config["state_dir"])


def test_killed_anywhere_the_next_one_ends_it(host: Host) -> None:
    saved = host.top.with_name(f"{host.top.name}-saved")
    subprocess.run(["cp", "-a", str(host.top), str(saved)], check=True)
    number = 0
    while _killed_at(number, host):
        host.leave(*ALL)
        assert host.files() == {"systemd/loop.service.d/own.conf", "systemd/looper.service"}
        assert sorted(os.listdir(host.top)) == ["systemd"]
        assert not host.leave(*ALL)["changed"]
        subprocess.run(["rm", "-rf", str(host.top)], check=True)
        subprocess.run(["cp", "-a", str(saved), str(host.top)], check=True)
        number += 2
    assert number > 20


def _killed_at(number: int, host: Host) -> bool:
    """Leave in a process that is killed at its n-th change of the disk; False where it ended before."""
    child = os.fork()
    if child == 0:
        left = number

        def counted(real: Any) -> Any:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)

            return call

        for name in ("rename", "unlink", "rmdir"):
            setattr(os, name, counted(getattr(os, name)))
        try:
            host.leave(*ALL)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_the_host_says_where_things_are_and_the_role_where_it_is_silent(host: Host) -> None:
    given = {**host.config, "unit": "other", "runs_dir": "/elsewhere"}
    assert leave.deployed(f"{host.top}/etc/loop.json", given)["unit"] == "loop"
    assert leave.deployed(f"{host.top}/none", given)["runs_dir"] == "/elsewhere"
    host.put("etc/loop.json", "{broken")
    assert leave.deployed(f"{host.top}/etc/loop.json", given)["unit"] == "other"
    for bad in ("", "relative", "/", "/a/../b"):
        with pytest.raises(LoopError, match="state_dir"):
            leave.deployed(f"{host.top}/none", {**given, "state_dir": bad})
    with pytest.raises(LoopError, match="remove names everything; it can name work"):
        host.leave("everything")
