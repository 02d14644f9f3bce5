# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host is given back: what goes always, what goes as asked, and what nobody touches."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import (
    apply_run,
    privileges,
    renderers,
    systemd,
    telling,
    trust,
)
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.managed_files import Entry, apply
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import (
    core_files,
    leave,
    leave_collected,
)
from changing import Changing
from disks import on_a_disk_of_its_own
from older_host import killed_at

ROOT = os.geteuid() == 0
# Work belongs to the loop's user, who is not root.
LOOP = pwd.getpwnam("nobody").pw_uid if ROOT else os.geteuid()
GID = pwd.getpwnam("nobody").pw_gid if ROOT else os.getegid()
SHA = "a" * 40
ALL = [name for name in leave.REMOVABLE if name != "user"]
MARK = "# Written by the role as215932.engineering_loop.engineering_loop\n"


class Host:
    """The files of a host where the loop is deployed and has worked."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.config = Changing(
            {
                "user": "no-such-user-here",
                "gate_user": "",  # an older layout, where cycles have no cells
                "pristine_dir": "",
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
        )
        self.put("systemd/loop.timer", MARK)
        self.put("systemd/loop.service", MARK)
        self.put("systemd/loop.service.d/own.conf", "[Service]\n")
        self.put("systemd/looper.service", "[Service]\n# somebody else's\n")
        for name in ("policy.yml", "env", "key.pem"):
            self.put(f"etc/{name}", name)
        self.put("etc/loop.json", json.dumps(dict(self.config)))
        self.put(f"opt/releases/{SHA}/.release.json", json.dumps({"sha": SHA}))
        (top / "opt/current").symlink_to(f"releases/{SHA}")
        self.put("opt/releases.json", "{}")
        self.put("opt/budget.json", "{}")
        self.put("opt/attempts.json", "{}")
        self.put("opt/paused.json", "{}")
        self.put("opt/uv-1.0/bin/uv", "uv")
        (top / "opt/uv").symlink_to("uv-1.0")
        self.put("opt/receipts/one.json", "{}")
        self.put("opt/taken-over/then/manifest.json", "{}")
        (top / "lib").mkdir()
        for entry in core_files.entries(str(top / "lib")):
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
    from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.managed_files import Change

    return Change(path, "created")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What systemd was asked; it has a timer that runs until it is stopped."""
    asked: list[tuple[str, ...]] = []

    def systemctl(*arguments: str) -> str:
        asked.append(arguments)
        state = "active" if arguments[-1] == "loop.timer" else "inactive"
        return f"ActiveState={state}\nUnitFileState=enabled\n" if arguments[0] == "show" else ""

    monkeypatch.setattr(systemd, "systemctl", systemctl)
    monkeypatch.setattr(systemd, "active", lambda unit: unit == "loop.timer" and ("stop", unit) not in asked)
    monkeypatch.setattr(leave, "STAMP", "/nonexistent/{unit}")
    return asked


CELL = "20260102T030405Z-0123abcd"


class Celled(Host):
    """The same where each cycle has a cell of its own."""

    def __init__(self, top: Path) -> None:
        super().__init__(top)
        subprocess.run(["rm", "-rf", str(top / "var")], check=True)
        self.config.update(gate_user="no-such-gate-here", group=_group(GID))
        self.config.update(pristine_dir=str(top / "var/pristine"), workspace_dir="", daemon_state_dir="")
        self.cell(CELL, "needs_triage", change_id="ISSUE_X_1")
        self.cell("20260102T040405Z-0123abcd", "published")
        beside = top / "disk/.adopted-20260102T050405Z-0123abcd/state"
        binds = [[str(beside), str(top / "disk")], [str(top / "disk/own"), "/x"]]
        self.cell("20260102T050405Z-0123abcd", "adopted", kind="adopted", binds=binds)
        for name in (f"{beside}/ledger", "disk/own/file"):
            self.put(name, "x")
        self.put(f"var/runs/{CELL}/workspace/app/README", "generated")
        self.put(f"var/runs/.gone-{CELL[:-1]}e/x", "x")
        self.put(f"var/cycles/{CELL}.json", "{}")
        for name in ("memory", "memory.previous"):
            self.put(f"var/{name}/lessons", "learned")
            (top / "var" / name).chmod(0o750)
            os.chown(top / "var" / name, -1, GID)
        self.put("var/pristine/app.git/HEAD", "ref")
        if ROOT:
            subprocess.run(["chown", "-R", str(LOOP), str(top / "var/pristine")], check=True)
        self.put("etc/loop.json", json.dumps(dict(self.config)))

    def cell(self, ident: str, outcome: str, **more: Any) -> None:
        self.put(f"var/runs/{ident}/cell.json", json.dumps({"id": ident, "outcome": outcome, "kind": "cycle", **more}))


@pytest.fixture
def celled(tmp_path: Path, asked: list[tuple[str, ...]]) -> Celled:
    return Celled(tmp_path)


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
        "opt/uv-1.0", "opt/paused.json", "lib/loop", "lib/gateway-client", "lib/bin", "lib/engine",
        "lib/engineering_loop_core",
    }  # fmt: skip
    assert not (host.top / "lib").exists()
    assert asked.index(("stop", "loop.timer")) < asked.index(("disable", "--now", "loop.timer"))
    assert ("daemon-reload",) in asked
    kept = "\n".join(done["kept"])
    for what in ("(work)", "1 thing in", "(secrets)", "(receipts)", "(taken_over)", "(config)", "somebody's own"):
        assert what in kept
    again = host.leave()
    assert (again["changed"], again["removed"]) == (False, [])


def test_what_tells_goes_and_who_was_told_is_a_secret(host: Host, asked: list[tuple[str, ...]]) -> None:
    units = [f"systemd/loop-tell{kind}" for kind in (".path", ".service", ".timer")]
    ours = ["opt/told.json", "opt/.told.lock", f"prom/{telling.METRICS}"]
    for name in units:
        host.put(name, MARK)
    for name in (*ours, "prom/others.prom", "etc/notify"):
        host.put(name, "x")
    host.config.update(metrics_dir=str(host.top / "prom"))
    told = host.leave()
    assert not {*units, *ours} & host.files() and {"prom/others.prom", "etc/notify"} <= host.files()
    assert f"{host.top}/etc/notify (secrets)" in told["kept"]
    assert not [line for line in told["kept"] if "told" in line]
    assert ("disable", "--now", "loop-tell.path") in asked and ("disable", "--now", "loop-tell.timer") in asked
    assert f"{host.top}/etc/notify" in host.leave("secrets")["removed"] and "etc/notify" not in host.files()


@pytest.mark.skipif(not ROOT, reason="only root can give files away")
def test_what_was_collected_is_work_and_what_it_took_goes(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.put("opt/engine-options.json", "{}")
    for name in ("trace.jsonl", "trace.jsonl.1", "trace.jsonl.2.gz", "learning/a", "learning.previous/a"):
        host.put(f"log/{name}", "x")
    rotation, mine = host.top / "logrotate/loop-trace", host.top / "ca/ours.crt"
    host.put("logrotate/loop-trace", "x")
    host.put("logrotate/loop-tracer", "x")
    host.put("ca/theirs.crt", "x")
    host.put("ca/ours.crt", trust.MARK.decode())
    renewed: list[bool] = []
    monkeypatch.setattr(trust, "refresh", lambda: renewed.append(mine.exists()))
    monkeypatch.setattr(leave_collected, "LOGROTATE", str(rotation.parent))
    monkeypatch.setattr(trust, "DIRECTORY", str(mine.parent))
    host.config.update(trace_file=str(host.top / "log/trace.jsonl"), learning_dir=str(host.top / "log/learning"))
    host.config.update(group="daemon")  # as the role makes them
    for name in ("learning", "learning.previous"):
        shutil.chown(host.top / "log" / name, group="daemon")
    told = host.leave()
    assert {str(rotation), f"{mine}, and the trust in it", f"{host.top}/opt/engine-options.json"} <= {*told["removed"]}
    assert renewed == [False] and {"ca/theirs.crt", "logrotate/loop-tracer"} <= host.files()
    assert f"{host.top}/log/trace.jsonl.2.gz (work)" in told["kept"] and "log/learning/a" in host.files()
    host.leave("work")
    assert not [name for name in host.files() if "trace.jsonl" in name or "learning" in name]


def test_what_was_noted_of_applies_goes(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply_run, "DIRECTORY", str(host.top / "run"))
    apply_run.still_wanted({"id": "1", "file": str(host.put("run/loop.applies", "[]"))})
    host.put("run/loops.applies", "[]")
    assert {*apply_run.files("loop")} <= {*host.leave()["removed"]}
    assert [name for name in host.files() if name.startswith("run/")] == ["run/loops.applies"]


@pytest.mark.skipif(not ROOT, reason="only root can give files away")
def test_an_engine_that_is_checked_out_there_is_left_alone(host: Host) -> None:
    host.leave()
    theirs = {
        str(host.put(f"opt/{name}", "theirs")) for name in ("uv.lock", "agents/one.md", "cache/x", "releases.json")
    }
    for name in ("uv.lock", "agents", "cache", "releases.json"):
        os.lchown(host.top / "opt" / name, LOOP, -1)
    told = host.leave()
    assert told["removed"] == [] and all(os.path.isfile(path) for path in theirs)


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
        "work": ("var/", "opt/budget.json", "opt/attempts.json"),
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
    host.config = Changing({key: value.replace("/other", "") for key, value in host.config.items()})
    assert host.leave() == {"changed": False, "removed": [], "kept": []}
    host.put("lib/git-askpass", '#!/bin/sh\necho "$GH_TOKEN"\n')
    host.put("lib/run-daemon", "#!/bin/sh\n")
    host.put("systemd/loop.service", "[Service]\nExecStart=/usr/local/lib/run-daemon\n")
    done = host.leave()
    assert not done["changed"]
    assert any("the role did not write it" in line for line in done["kept"])
    assert not asked


def test_a_cycle_in_progress_is_waited_for_and_then_told(
    host: Host, asked: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leave, "cycle_in_progress", lambda lock, unit: f"{unit} is active" if not lock else "")
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


def test_cells_stay_and_it_is_said_how_they_are_opened(celled: Celled) -> None:
    told = celled.leave()
    kept = "\n".join(told["kept"])
    assert f"2 kept cells in {celled.top}/var/runs (work): where the role is applied again" in kept
    for name in ("runs", "cycles", "memory", "memory.previous", "pristine"):
        assert f"{celled.top}/var/{name} (work)" in kept
    assert (celled.top / f"var/runs/{CELL}/workspace/app/README").exists()


def test_cells_go_by_name_and_what_is_not_ours_stays(celled: Celled) -> None:
    notes = celled.put("var/notes/of-an-operator", "x").parent
    if ROOT:
        os.chown(notes, 12345, -1)
    told = celled.leave(*ALL, check=True)
    done = celled.leave(*ALL)
    assert done == told
    lines = "\n".join(done["removed"])
    assert f"for good: the kept cell {CELL}: needs_triage, ISSUE_X_1" in lines
    assert "for good: the kept cell 20260102T050405Z-0123abcd: adopted" in lines
    assert "040405Z-0123abcd: published" not in lines
    assert f"{celled.top}/var/notes: not ours" in done["kept"]
    assert sorted(os.listdir(celled.top / "var")) == ["notes"]
    assert sorted(os.listdir(celled.top / "disk")) == ["own"]
    assert not celled.leave(*ALL)["changed"]
    subprocess.run(["rm", "-rf", str(celled.top / "var/notes")], check=True)
    celled.leave(*ALL)
    assert not (celled.top / "var").exists()


def test_roots_directories_that_the_role_did_not_make_stay(celled: Celled) -> None:
    for name in ("runs", "memory"):
        celled.config[f"{name}_dir"] = str(celled.put(f"precious/{name}/x", "x").parent)
    celled.config["cycles_dir"] = str(celled.put("precious/cycles/x", "x").parent)
    celled.config["state_dir"] = str(celled.top / "precious")
    done = celled.leave("work")
    assert sum("nothing in it says that it is the loop's" in line for line in done["kept"]) == 3
    assert len(list((celled.top / "precious").rglob("x"))) == 3


def test_a_lock_in_a_cell_stops_nobody(celled: Celled) -> None:
    celled.put("var/state/daemon.lock", json.dumps({"pid": os.getppid(), "started_at": time.time()}))
    assert celled.leave()["changed"]


def test_trees_of_a_hostile_agent_go(celled: Celled) -> None:
    cell = f"{celled.top}/var/runs/{CELL}/workspace"
    here = os.open(cell, os.O_RDONLY)
    for _level in range(3000):
        os.mkdir("deep", dir_fd=here)
        below = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    Path(cell, "-rf\n*").touch()
    Path(cell, os.fsdecode(b"\xff\xfe")).touch()
    Path(cell, "closed").mkdir(mode=0)
    celled.leave("work")
    assert not (celled.top / "var").exists()


@pytest.mark.skipif(not ROOT, reason="makes users, in an /etc of its own")
def test_both_users_go_with_what_they_had(celled: Celled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(_world: object) -> None:
        subprocess.run(["cp", "-a", "/etc/.", str(tmp_path / "etc-of-its-own")], check=True)
        subprocess.run(["mount", "--bind", str(tmp_path / "etc-of-its-own"), "/etc"], check=True)
        for name in ("LINGER", "CRONTABS"):
            monkeypatch.setattr(privileges, name, str(celled.put(f"{name}/loop-gone", "x").parent))
        # Numbers that nobody is given: those below 999 are the users of test hosts, with processes of this machine.
        for number, name in ((311, "loop-gone"), (312, "gate-gone")):
            subprocess.run(["useradd", "--system", "--uid", str(number), "--user-group", name], check=True)
        celled.config.update(user="loop-gone", group="loop-gone", gate_user="gate-gone")
        for name in ("memory", "memory.previous"):
            shutil.chown(celled.top / "var" / name, group="loop-gone")
        with pytest.raises(LoopError, match="the user loop-gone cannot go while its files stay"):
            celled.leave("user")
        assert "the user gate-gone (user)" in celled.leave(check=True)["kept"]
        done = celled.leave("user", "work")
        accounts = Path("/etc/passwd").read_text() + Path("/etc/group").read_text()
        assert "loop-gone" not in accounts and "gate-gone" not in accounts
        assert not list(tmp_path.glob("*/loop-gone"))
        assert any("CRONTABS/loop-gone, which" in line for line in done["removed"])

    (tmp_path / "etc-of-its-own").mkdir()
    on_a_disk_of_its_own(tmp_path / "etc-of-its-own", "size=64m", work)


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


@pytest.mark.skipif(not ROOT, reason="only root can give files away")
@pytest.mark.parametrize("name", ["memory-legacy", "workspace", "state/../memory"])
def test_a_link_of_the_loop_s_user_leads_nowhere(host: Host, name: str) -> None:
    """An older layout's directory of state is the user's, who may have put a link to anything there."""
    theirs, link = host.put("home/alice/thesis", "years").parent, Path(os.path.normpath(host.top / "var" / name))
    subprocess.run(["rm", "-rf", str(link)], check=True)
    link.symlink_to(theirs)
    os.lchown(link, LOOP, -1)
    os.chown(host.top / "var", 0, 0)  # taken over by now
    told = host.leave("work", check=True)
    assert host.leave("work") == told and (theirs / "thesis").read_text() == "years"
    assert not os.path.lexists(link) and f"{link}, the link alone" in told["removed"]
    assert f"{theirs}: {link} leads there, a link that is not root's" in told["kept"]
    link.symlink_to(host.top)  # where the secrets are, which stay
    os.lchown(link, LOOP, -1)
    host.leave("work")
    assert not os.path.lexists(link) and "etc/env" in host.files()


@pytest.mark.skipif(not ROOT, reason="only root can give files away")
@pytest.mark.parametrize("way", ["its end", "above it", "a job's"])
def test_a_link_of_roots_leads_no_further_than_root_said(host: Host, way: str) -> None:
    theirs = host.put("home/alice/state/thesis", "years").parents[1]
    (host.top / "disk").mkdir()
    os.rename(host.top / "var/workspace", host.top / "aside")
    os.chown(host.top / "var", 0, 0)
    if way == "its end":
        (host.top / "disk/work").symlink_to(theirs)
        (host.top / "var/workspace").symlink_to(host.top / "disk/work")
    elif way == "above it":
        (host.top / "disk/work").symlink_to(theirs)
        (host.top / "var/workspace").symlink_to(host.top / "disk/work/state")
    else:
        (host.top / "disk/work").symlink_to(theirs)
        host.config["jobs"] = [{"state": f"{host.top}/disk/work/state"}]
    os.lchown(host.top / "disk/work", LOOP, -1)
    told = host.leave("work", check=True)
    assert host.leave("work") == told and (theirs / "state/thesis").read_text() == "years"
    assert any("is a link that root does not follow" in line and "remove it yourself" in line for line in told["kept"])
    with pytest.raises(LoopError, match="cannot go while its files stay"):
        leave._leave_user(leave.Leaving(), Settings(host.config, user="nobody"), work_goes=True)


@pytest.mark.skipif(not ROOT, reason="only root can give files away")
def test_links_of_roots_are_followed_to_their_end(host: Host) -> None:
    (host.top / "mnt").mkdir()
    os.rename(host.top / "var/workspace", host.top / "mnt/ws")
    (host.top / "data").symlink_to("mnt")
    (host.top / "second").symlink_to("data/ws")
    os.chown(host.top / "var", 0, 0)
    (host.top / "var/workspace").symlink_to("../second")
    host.leave("work")
    assert not (host.top / "mnt/ws").exists() and not os.path.lexists(host.top / "var/workspace")


@pytest.mark.skipif(not ROOT, reason="only root can give files away")
def test_what_a_killed_removal_behind_a_link_left_goes_with_the_next(host: Host) -> None:
    os.rename(host.top / "var/workspace", host.top / ".ws.leaving")
    os.chown(host.top / "var", 0, 0)
    (host.top / "var/workspace").symlink_to(host.top / "ws")
    told = host.leave("work")
    assert f"{host.top}/.ws.leaving" in told["removed"] and not (host.top / ".ws.leaving").exists()


@pytest.mark.skipif(not ROOT, reason="only root can give files away")
def test_no_user_goes_whose_files_stay_behind_a_link(host: Host) -> None:
    os.rename(host.top / "var/workspace", host.top / "big")
    os.chown(host.top / "var", 0, 0)
    (host.top / "var/workspace").symlink_to(host.top / "big")
    os.lchown(host.top / "var/workspace", LOOP, -1)
    with pytest.raises(LoopError, match="cannot go while its files stay"):
        leave._leave_user(leave.Leaving(), Settings(host.config, user="nobody"), work_goes=True)


@pytest.mark.skipif(not ROOT, reason="only root can give files away")
def test_a_checkout_of_roots_where_nothing_is_deployed_is_whole_afterwards(tmp_path: Path, asked: list[Any]) -> None:
    host = Host(tmp_path)
    subprocess.run(["rm", "-rf", str(host.top / "opt")], check=True)
    names = {"opt/uv.lock", "opt/uv.toml", "opt/uvicorn.py", "opt/paused.json.md", "opt/.uvrc"}
    for name in names:
        host.put(name, "theirs")
    told = host.leave()
    assert names <= host.files() and not [line for line in told["removed"] if "/opt/" in line]


@pytest.mark.skipif(not ROOT, reason="only root can give files away")
def test_what_the_jobs_have_is_work_and_no_user_goes_before_it(celled: Celled) -> None:
    outside = celled.put("governor/state.json", "{}").parent
    celled.config["jobs"] = [{"name": "governor", "state": str(outside)}, {"state": "relative"}, "none"]
    celled.put("var/jobs/governor/20260102T030405Z-0123abcd.json", "{}")
    celled.put("var/jobs/7-days/20260102T030405Z-0123abcd.json", "{}")
    celled.put("var/jobs/governor/state/x", "{}")
    os.chown(outside, -1, GID)
    celled.config["user"] = "nobody"
    kept = celled.leave(check=True)["kept"]
    assert {f"{celled.top}/var/jobs (work)", f"{outside} (work)"} <= {*kept}
    with pytest.raises(LoopError, match=rf"cannot go while its files stay: .*{outside}"):
        celled.leave("user", check=True)
    celled.config["user"] = "no-such-user-here"
    told = celled.leave("work")
    assert not outside.exists() and not (celled.top / "var/jobs").exists()
    assert not [line for line in told["kept"] if "not ours" in line and "jobs" in line]


def test_the_jobs_are_as_the_settings_on_the_host_have_them(host: Host) -> None:
    jobs = [{"name": "governor", "state": "/srv/governor"}]
    path = host.put("etc/loop.json", json.dumps({**dict(host.config), "jobs": jobs}))
    assert leave.deployed(str(path), {})["jobs"] == jobs
    path.write_text(json.dumps({**dict(host.config), "jobs": "odd"}))
    assert leave.deployed(str(path), {})["jobs"] == []


@pytest.mark.skipif(not ROOT, reason="chattr needs root")
def test_what_cannot_be_unlinked_is_one_line_and_a_directory_is_no_secret(host: Host) -> None:
    host.put("opt/.env/bin/python", "a virtual environment")
    told = host.leave("secrets", check=True)
    assert f"{host.top}/opt/.env: not ours" in told["kept"]
    (host.top / "etc/env").unlink()
    subprocess.run(["mount", "--bind", str(host.top / "etc/key.pem"), str(host.top / "etc/key.pem")], check=True)
    try:
        with pytest.raises(LoopError, match=r"etc/key\.pem cannot be removed: Device or resource busy"):
            host.leave("secrets")
    finally:
        subprocess.run(["umount", str(host.top / "etc/key.pem")], check=True)
    assert "opt/.env/bin/python" in host.files() and host.leave("secrets")["changed"]


def test_killed_anywhere_the_next_one_ends_it(host: Host) -> None:
    saved = host.top.with_name(f"{host.top.name}-saved")
    subprocess.run(["cp", "-a", str(host.top), str(saved)], check=True)
    number = 0
    while killed_at(number, lambda: host.leave(*ALL)):
        host.leave(*ALL)
        assert host.files() == {"systemd/loop.service.d/own.conf", "systemd/looper.service"}
        assert sorted(os.listdir(host.top)) == ["systemd"]
        assert not host.leave(*ALL)["changed"]
        subprocess.run(["rm", "-rf", str(host.top)], check=True)
        subprocess.run(["cp", "-a", str(saved), str(host.top)], check=True)
        number += 1
    assert number > 20


def test_the_host_says_where_things_are_and_the_role_where_it_is_silent(host: Host) -> None:
    given = {**host.config, "unit": "other", "runs_dir": "/elsewhere"}
    assert leave.deployed(f"{host.top}/etc/loop.json", given)["unit"] == "loop"
    assert leave.deployed(f"{host.top}/none", given)["runs_dir"] == "/elsewhere"
    celled = {**given, "gate_user": "gate", "pristine_dir": "/pristine", "workspace_dir": ""}
    assert leave.deployed(f"{host.top}/none", celled)["gate_user"] == "gate"
    older = {key: value for key, value in host.config.items() if key not in leave.CELLED}
    host.put("etc/loop.json", json.dumps(older))
    known = leave.deployed(f"{host.top}/etc/loop.json", celled)
    assert (known["gate_user"], known["workspace_dir"]) == ("", host.config["workspace_dir"])
    host.put("etc/loop.json", "{broken")
    assert leave.deployed(f"{host.top}/etc/loop.json", given)["unit"] == "other"
    for bad in ("", "relative", "/", "/a/../b"):
        with pytest.raises(LoopError, match="state_dir"):
            leave.deployed(f"{host.top}/none", {**given, "state_dir": bad})
    with pytest.raises(LoopError, match="engineering_loop_leave_remove names everything; it can name work"):
        host.leave("everything")


VAULT = """\
[Service]
User=loop
EnvironmentFile=-/etc/default/vault-agent
ExecStart=/usr/bin/vault agent \\
    -config={config}
"""


def test_what_a_renderer_writes_again_is_told_with_its_name_and_removed_as_asked(host: Host) -> None:
    """After a take-over Vault Agent goes on with what it wrote before, and with a file that nobody told us of."""
    config = host.put("vault/loop.hcl", "")
    units_dir = host.top / "systemd"
    unit = host.put("systemd/vault-agent-engineering-loop.service", "")
    texts = {unit: VAULT.format(config=config), config: f'destination = "{host.top}/opt/.env"\n'}
    texts[config] += f"destination = {host.top}/opt/more.env\n# {host.top}/etc/envelope\n"
    for path, text in texts.items():
        path.write_text(text)
    for name in ("opt/.env", "opt/more.env", "opt/notes.txt"):
        host.put(name, "GH_TOKEN=x\n")
    before = renderers.CONFIGURATION
    renderers.CONFIGURATION = re.compile(
        rb"%s/[^\s]+" % re.escape(os.fsencode(config.parent))
    )  # not this machine's /etc
    try:
        writer = f"vault-agent-engineering-loop.service ({config})"
        assert [*map(str, renderers.renderers_of(f"{host.top}/opt/.env", [str(units_dir)]))] == [writer]
        assert renderers.renderers_of(f"{host.top}/etc/env", [str(units_dir)]) == []
        kept = host.leave(check=True)["kept"]
        told = host.leave("secrets")
        again = host.leave("secrets")["kept"]
    finally:
        renderers.CONFIGURATION = before
    for name in ("opt/.env", "opt/more.env"):
        assert f"{host.top}/{name} (secrets), written by {writer}" in kept
        assert f"{host.top}/{name}; {writer} writes it again until you stop that" in told["removed"]
        assert not (host.top / name).exists()
    assert f"{host.top}/etc/env (secrets)" in kept and f"{host.top}/opt/notes.txt: not ours" in kept
    assert f"{host.top}/opt/.env is not there, and comes as soon as {writer} writes it" in again
    assert (host.top / "opt/notes.txt").exists() and unit.exists() and config.exists()


def test_a_dotenv_that_nobody_is_known_to_write(host: Host) -> None:
    host.put("opt/.env", "GH_TOKEN=x\n")
    assert f"{host.top}/opt/.env (secrets)" in host.leave(check=True)["kept"]
    assert f"{host.top}/opt/.env" in host.leave("secrets")["removed"]
    assert not (host.top / "opt/.env").exists()
