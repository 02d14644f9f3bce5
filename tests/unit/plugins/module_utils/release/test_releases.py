# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases that are built, killed, tampered with, switched and removed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import build, releases, store
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release.wanted_version import Wanted
from commands import sh
from engines import Source, mine, now_active, says, wait_for

REFERENCE = Path(__file__).resolve().parents[4] / "world/reference_engine"


def test_a_release_is_built_activated_recorded_and_then_left_alone(wanted: Wanted, shas: list[str]) -> None:
    foretold = releases.present(wanted, shas[0], check=True)
    assert not os.path.exists(wanted.install_dir)
    assert foretold["changed"] and foretold["built"] and foretold["activated"]
    done = releases.present(wanted, shas[0])
    assert {key: done[key] for key in ("changed", "built", "activated", "pruned", "previous")} == {
        "changed": True, "built": True, "activated": True, "pruned": [], "previous": None,
    }  # fmt: skip
    release = done["release"]
    assert release["sha"] == shas[0] and release["branch"] == "main" and release["source"] == wanted.repo
    assert len(release["lock_digest"]) == 64 and release["uv"].startswith("uv ") and release["python"].startswith("3.")
    assert os.readlink(f"{wanted.install_dir}/current") == f"releases/{shas[0]}"
    assert says(wanted) == "release 0"  # its data beside its sources, export-ignore or not
    again = releases.present(wanted, shas[0])
    assert not again["changed"] and not again["built"] and again["previous"]["sha"] == shas[0]
    assert not releases.present(wanted, shas[0], check=True)["changed"]


KILLED = """
import sys, json
sys.path[:0] = json.loads(sys.argv[1])
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import releases
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release.wanted_version import Wanted
releases.present(Wanted(**json.loads(sys.argv[2])), sys.argv[3])
"""


def started(wanted: Wanted, sha: str, **changed: object) -> subprocess.Popen[bytes]:
    given = json.dumps({**dataclasses.asdict(wanted), **changed})
    return subprocess.Popen([sys.executable, "-c", KILLED, json.dumps(sys.path), given, sha], stderr=subprocess.PIPE)


def test_a_build_that_was_killed_is_no_release_and_its_tools_end_with_it(wanted: Wanted, shas: list[str]) -> None:
    releases.present(wanted, shas[0])
    slow = ["sh", "-c", "echo $$ > pid; exec sleep 60"]
    process = started(wanted, shas[1], sync=slow)
    pid_file = Path(wanted.install_dir, "releases", shas[1], "pid")
    wait_for(lambda: pid_file.exists() and pid_file.read_text().strip(), process)
    with pytest.raises(LoopError, match="another run is working"):
        releases.present(wanted, shas[1])
    process.kill()
    process.communicate()
    wait_for(lambda: not os.path.exists(f"/proc/{pid_file.read_text().strip()}/exe"), process)
    assert store.record(wanted.install_dir, shas[1]) is None and says(wanted) == "release 0"
    assert not releases.present(wanted, shas[0])["built"]
    assert mine(wanted) == {shas[0]}
    assert releases.present(wanted, shas[1])["built"] and says(wanted) == "release 1"


@pytest.mark.parametrize("moment", [0.2, 0.35, 0.5, 0.65, 0.9])
def test_killed_at_any_moment_the_next_run_converges(wanted: Wanted, shas: list[str], moment: float) -> None:
    releases.present(wanted, shas[0])
    process = started(wanted, shas[1])
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert says(wanted) in ("release 0", "release 1")
    releases.present(wanted, shas[1])
    assert says(wanted) == "release 1" and mine(wanted) == set(shas[:2])
    assert store.damage(wanted.install_dir, shas[1]) == []
    assert not [name for name in os.listdir(wanted.install_dir) if name.startswith((".trash", ".current"))]


def test_killed_between_what_is_remembered_and_the_switch_it_goes_back_once(
    wanted: Wanted, shas: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for sha in shas[:2]:
        releases.present(wanted, sha)
        store.record_verdict(wanted.install_dir, sha, "proven")
    releases.present(wanted, shas[2])
    with monkeypatch.context() as patched:
        patched.setattr(store, "switch", lambda *_arguments: os.kill(os.getpid(), signal.SIGKILL))
        child = os.fork()
        if not child:
            releases.previous(wanted)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert now_active(wanted) == shas[2]
    assert releases.previous(wanted)["release"]["sha"] == shas[1]
    assert not releases.previous(wanted)["changed"] and now_active(wanted) == shas[1]


def test_what_a_killed_writer_left_in_a_release_is_not_taken_for_a_change_by_hand(
    wanted: Wanted, shas: list[str]
) -> None:
    path = Path(releases.present(wanted, shas[0])["release"]["path"])
    path.chmod(0o755)
    (path / f".{build.RECORD}.new").write_text("{")
    Path(wanted.install_dir, ".current.new").symlink_to("releases/nothing")
    assert releases.present(wanted, shas[0])["built"] is False
    assert store.damage(wanted.install_dir, shas[0]) == []
    assert not os.path.lexists(f"{wanted.install_dir}/.current.new")


def edit(wanted: Wanted, sha: str) -> Path:
    path = Path(wanted.install_dir, "releases", sha, "skills/one.md")
    path.chmod(0o644)
    path.write_text("hot fix")
    return path


def test_a_change_by_hand_is_noticed_put_aside_and_built_again(wanted: Wanted, shas: list[str]) -> None:
    releases.present(wanted, shas[0])
    edit(wanted, shas[0])
    assert store.damage(wanted.install_dir, shas[0]) == ["skills/one.md"]
    assert releases.present(wanted, shas[0], check=True)["built"]
    done = releases.present(wanted, shas[0])
    assert done["built"] and done["damaged"] == ["skills/one.md"] and done["changed"] and not done["activated"]
    assert says(wanted) == "release 0"
    aside = [name for name in mine(wanted) if name.startswith(".damaged-")]
    assert Path(wanted.install_dir, "releases", aside[0], "skills/one.md").read_text() == "hot fix"


def test_a_rebuild_that_fails_or_is_killed_gives_back_what_was_active(wanted: Wanted, shas: list[str]) -> None:
    releases.present(wanted, shas[0])
    edit(wanted, shas[0])
    with pytest.raises(LoopError, match="stays active"):
        releases.present(dataclasses.replace(wanted, sync=["false"]), shas[0])
    assert says(wanted) == "hot fix"
    process = started(wanted, shas[0], sync=["sh", "-c", "touch ready; sleep 60"])
    wait_for(Path(wanted.install_dir, "releases", shas[0], "ready").exists, process)
    process.kill()
    process.communicate()
    releases.present(wanted, shas[1])
    assert says(wanted) == "release 1"
    assert Path(wanted.install_dir, "releases", shas[0], "skills/one.md").read_text() == "hot fix"


def test_a_refused_policy_is_found_before_the_switch(anywhere: Wanted, source: Source, shas: list[str]) -> None:
    wanted = anywhere
    releases.present(wanted, shas[0])
    sh(source.path, "git", "checkout", "-q", "-b", "policed")
    shipped = (REFERENCE / "engineering-loop-policy.yml").read_text()
    bare = sh(source.path, "git", "rev-parse", "HEAD")
    sha = source.commit("policed", **{"engineering-loop-policy__yml": shipped})
    sh(source.path, "git", "checkout", "-q", "main")
    name = "engineering-loop-policy.yml"
    wide = dataclasses.replace(wanted, policy={"base": name, "overlay": {"defaults": {"max_changed_files": 40}}})
    for check in (False, True):
        with pytest.raises(LoopError, match=rf"{sha} is built but not active.*max_changed_files"):
            releases.present(wide, sha, check=check)
    assert says(wanted) == "release 0" and store.record(wanted.install_dir, sha)
    assert store.ledger(wanted.install_dir)["history"][-1]["sha"] == shas[0]
    with pytest.raises(LoopError, match=f"{bare} is built but not active.*there is no policy at"):
        releases.present(dataclasses.replace(wanted, policy={"base": name}), bare)
    done = releases.present(dataclasses.replace(wanted, policy={"base": name, "handoff_dirs": ["/srv/runs"]}), sha)
    assert done["activated"] and not done["built"] and says(wanted) == "policed"


@pytest.fixture
def cycle(tmp_path: Path) -> Iterator[Path]:
    process = subprocess.Popen(["sleep", "60"])
    lock = tmp_path / "daemon.lock"
    lock.write_text(json.dumps({"pid": process.pid, "started_at": time.time()}))
    yield lock
    process.kill()
    process.wait()


def test_nothing_is_switched_under_a_cycle(wanted: Wanted, shas: list[str], cycle: Path) -> None:
    releases.present(wanted, shas[0])
    running = dataclasses.replace(wanted, run_lock=str(cycle))
    with pytest.raises(LoopError, match=f"a cycle is in progress.*{shas[1]} is built but not active"):
        releases.present(running, shas[1])
    assert says(wanted) == "release 0" and store.record(wanted.install_dir, shas[1])
    with pytest.raises(LoopError, match="nothing was removed"):
        releases.absent(running)
    timer = threading.Timer(0.5, cycle.unlink)
    timer.start()
    done = releases.present(dataclasses.replace(running, wait=20), shas[1])
    assert done["activated"] and not done["built"]


def test_a_cycle_that_began_before_the_timer_was_held_is_waited_for(
    wanted: Wanted, shas: list[str], cycle: Path
) -> None:
    releases.present(wanted, shas[0])
    lock = cycle.with_name("begins.lock")
    held = dataclasses.replace(wanted, run_lock=str(lock), before_switch=lambda: cycle.rename(lock))
    with pytest.raises(LoopError, match=f"a cycle is in progress.*{shas[1]} is built but not active"):
        releases.present(held, shas[1])
    assert says(wanted) == "release 0"


def test_what_else_is_in_the_directory_is_left_alone(wanted: Wanted, shas: list[str]) -> None:
    install_dir = Path(wanted.install_dir)
    (install_dir / ".venv").mkdir(parents=True)
    (install_dir / ".env").write_text("SECRET=1")
    os.chown(install_dir, 65534, 65534)
    os.chown(install_dir / ".env", 65534, 65534)
    releases.present(wanted, shas[0])
    assert install_dir.stat().st_uid == 0 and (install_dir / ".env").stat().st_uid == 65534
    assert releases.absent(wanted, check=True)["changed"] and store.active(wanted.install_dir)
    assert releases.absent(wanted)["pruned"] == [shas[0]]
    assert sorted(os.listdir(install_dir)) == [".env", ".venv"]
    assert not releases.absent(wanted)["changed"]
    shutil.rmtree(install_dir)
    assert not releases.absent(wanted)["changed"]


def test_what_is_not_ours_is_never_replaced(wanted: Wanted, shas: list[str]) -> None:
    current = Path(wanted.install_dir, "current")
    current.mkdir(parents=True)
    with pytest.raises(LoopError, match="not ours"):
        releases.present(wanted, shas[0])
    assert current.is_dir()
    current.rmdir()
    Path(wanted.install_dir, "releases").rename(f"{wanted.install_dir}/elsewhere")
    Path(wanted.install_dir, "releases").symlink_to("elsewhere")
    with pytest.raises(LoopError, match="is not a directory"):
        releases.present(wanted, shas[0])
