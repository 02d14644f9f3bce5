# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host of the older layout becomes ours: what is found, where it goes, and that nothing is lost on the way."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.files import flocked
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cycle import handover
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import privileges
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import host_facts
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.layout import Layout
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.older_layout import plan
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.takeover import prepare, take
from older_host import ME, OTHER, ROOT, SECRET, content, everything_is_there, killed_at, put, top_of

# --- nothing to do


def test_a_fresh_host_and_one_of_ours_have_nothing_to_take(layout: Layout) -> None:
    empty = top_of(layout) / "empty"
    fresh = replace(
        layout, install_dir=str(empty), lib_dir=str(empty), key_file="", legacy_memory_dir="", unit_dir=str(empty),
        state_dir="",
    )  # fmt: skip
    assert plan(fresh) == []
    assert take(fresh)["changed"] is False
    empty.mkdir()
    put(empty / "loop.service", "# Written by the role as215932.engineering_loop.engineering_loop\n")
    put(empty / "git-askpass", "exec /usr/local/lib/engineering-loop/loop askpass\n")
    put(empty / ".env", SECRET)
    assert plan(fresh) == []
    assert prepare(fresh)["changed"] is False


# --- the whole


def test_a_host_is_taken_over_and_nothing_is_lost(layout: Layout, systemd: list[tuple[str, ...]]) -> None:
    top = top_of(layout)
    before = content(top)
    told = take(layout, check=True)
    assert content(top) == before
    assert not [asked for asked in systemd if asked[0] != "show"]
    done = take(layout)
    everything_is_there(before, layout)
    assert [item["path"] for item in told["items"]] == [item["path"] for item in done["items"]]
    (cell,) = (top / "var/runs").iterdir()
    time_of = os.path.basename(done["aside"])
    assert [line.replace("<time>", time_of).replace("<id>", cell.name) for line in told["lines"]] == done["lines"]
    assert sorted(os.listdir(layout.install_dir)) == ["taken-over"]
    assert sorted(os.listdir(layout.unit_dir)) == ["ssh.service"]
    assert os.listdir(layout.lib_dir) == []
    assert (top / "etc/env").read_text() == SECRET
    assert (top / "etc/env").stat().st_mode & 0o7777 == 0o600
    assert (top / "etc/key.pem").stat().st_mode & 0o7777 == 0o600
    assert (top / "var/memory/2026/one.md").read_text() == "one\n"
    assert not Path(layout.legacy_memory_dir).exists()
    assert Path(done["aside"]).parent.stat().st_mode & 0o7777 == 0o700
    assert ("stop", "loop.timer") in systemd
    assert ("disable", "--now", "loop.timer") in systemd
    head = subprocess.run(
        ["git", "-C", f"{done['aside']}/checkout", "-c", "safe.directory=*", "rev-parse", "HEAD"],
        check=True, capture_output=True, text=True, env={**os.environ, "GIT_DIR": f"{done['aside']}/checkout/.git"},
    ).stdout.strip()  # fmt: skip
    assert any(f"{layout.install_dir} at {head}, " in line for line in done["lines"])
    assert any("LOCAL CHANGES" in line for line in done["lines"])
    assert any("AGENT CONFIGURATION" in line and "(.pi)" in line for line in done["lines"])
    assert any("1 checkout, 1 run, 1 quarantined thing" in line for line in done["lines"])
    assert (cell / "runs/.quarantine/one/tree/file").read_text() == "kept\n"
    assert any("THE TIMER loop.timer WAS ON" in line for line in done["lines"])
    assert not any(SECRET.strip() in line for line in done["lines"])
    assert (plan(layout), take(layout)["changed"]) == ([], False)


def test_the_release_is_built_beside_the_old_engine_which_stays_whole(layout: Layout) -> None:
    before = content(top_of(layout))
    assert prepare(layout, check=True) == {"changed": True, "beside": True, "env_file": f"{layout.install_dir}/.env"}
    assert content(top_of(layout)) == before
    assert prepare(layout)["changed"]
    assert os.stat(layout.install_dir).st_uid == os.geteuid()
    assert before.items() <= content(top_of(layout)).items()
    assert prepare(layout)["changed"] is False
    put(Path(layout.install_dir) / "releases/abc/engine", "ours\n")
    put(Path(layout.install_dir) / "anything-new", "ours\n")
    take(layout)
    everything_is_there(before, layout)
    assert {"releases", "anything-new"} <= set(os.listdir(layout.install_dir))


def test_a_name_that_releases_need_in_the_checkout_is_no_place_to_build(layout: Layout) -> None:
    theirs = put(Path(layout.install_dir) / "cache/x", "theirs\n").parent
    if ROOT:
        os.chown(theirs, OTHER, -1)
    before = content(top_of(layout))
    assert prepare(layout)["beside"] is not ROOT
    take(layout)
    everything_is_there(before, layout)
    assert theirs.exists() is not ROOT


def test_a_checkout_with_a_directory_of_our_name_is_no_trap(layout: Layout) -> None:
    put(Path(layout.install_dir) / "taken-over/manifest.json", "theirs\n")
    if ROOT:
        subprocess.run(["chown", "-R", str(OTHER), f"{layout.install_dir}/taken-over"], check=True)
        done = take(layout)
        assert Path(done["aside"], "checkout/taken-over-found/manifest.json").read_text() == "theirs\n"
    else:
        take(layout)
        assert Path(layout.install_dir, "taken-over/manifest.json").read_text() == "theirs\n"


# --- secrets, key, policy


def test_an_env_file_that_is_the_checkouts_stays_and_becomes_roots(layout: Layout) -> None:
    given = replace(layout, env_file=layout.dotenv)
    take(given)
    assert Path(layout.dotenv).read_text() == SECRET
    assert Path(layout.dotenv).stat().st_mode & 0o7777 == 0o600
    assert plan(given) == []


def test_an_env_file_that_the_role_writes_is_kept_aside_first(layout: Layout) -> None:
    done = take(replace(layout, env_file=layout.dotenv, env_rendered=True))
    assert Path(done["aside"], "secrets/.env").read_text() == SECRET
    done = take(replace(layout, env_file=layout.dotenv, env_rendered=True))
    assert not done["changed"]


def test_an_env_file_that_is_there_is_not_written_over(layout: Layout) -> None:
    put(Path(layout.env_file), "GH_TOKEN=newer\n", 0o600)
    assert prepare(layout)["env_file"] == layout.env_file
    done = take(layout)
    assert Path(layout.env_file).read_text() == "GH_TOKEN=newer\n"
    assert Path(done["aside"], "checkout/.env").read_text() == SECRET


def test_a_policy_that_ours_will_replace_is_kept_aside(layout: Layout) -> None:
    put(Path(layout.config_dir) / "policy.yml", "version: 1\n")
    done = take(layout)
    assert Path(done["aside"], "config/policy.yml").read_text() == "version: 1\n"
    assert Path(layout.config_dir, "policy.yml").read_text() == "version: 1\n"


def test_links_are_not_followed_and_are_told(layout: Layout) -> None:
    outside = put(top_of(layout) / "outside", SECRET, 0o644)
    for path in (layout.dotenv, layout.key_file):
        os.unlink(path)
        os.symlink(outside, path)
    done = take(replace(layout, env_file=layout.dotenv))
    assert os.readlink(layout.dotenv) == str(outside)
    assert outside.stat().st_mode & 0o7777 == 0o644
    assert len([line for line in done["lines"] if "is a link and was left alone" in line]) == 2


def test_who_renders_the_secrets_hears_where_they_are_read(layout: Layout) -> None:
    unit = Path(layout.unit_dir) / "vault-agent.service"
    put(unit, f"[Service]\nUser=vault\nExecStart=/usr/bin/vault agent -env={layout.dotenv}\n")
    assert any("set engineering_loop_env_file" in line for line in take(layout, check=True)["lines"])
    put(Path(layout.config_dir) / "loop.json", "{}")
    done = take(replace(layout, env_file=layout.dotenv))
    assert any("vault-agent.service (its command) runs as vault, who cannot write" in line for line in done["lines"])
    assert unit.exists()


def test_secrets_that_nobody_reads_are_told_at_every_apply(layout: Layout) -> None:
    take(layout)
    put(Path(layout.config_dir) / "loop.json", "{}")
    put(Path(layout.dotenv), SECRET)
    assert [item.kind for item in plan(layout)] == ["unread"]
    told = take(layout)
    assert (told["changed"], told["items"]) == (False, [])
    assert "something writes" in told["lines"][0]


def test_a_key_that_is_rendered_again_is_no_take_over_and_one_that_others_can_write_is(layout: Layout) -> None:
    take(layout)
    os.chmod(layout.key_file, 0o640)
    assert plan(layout) == []
    os.chmod(layout.key_file, 0o660)
    assert [item.kind for item in plan(layout)] == ["private"]
    assert take(layout)["changed"]
    assert plan(layout) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("GH_TOKEN=x\nVAULT_TOKEN=hidden\n", r"holds VAULT_TOKEN, which must not be where generated code runs"),
        ("no value\n", "line 1"),
    ],
)
def test_secrets_that_a_cycle_would_refuse_stop_everything(layout: Layout, text: str, said: str) -> None:
    put(Path(layout.dotenv), text)
    before = content(top_of(layout))
    guarded = replace(layout, forbidden_environment=["vault_*"])
    for act in (prepare, take):
        with pytest.raises(LoopError, match=said) as error:
            act(guarded)
        assert "hidden" not in str(error.value)
    assert content(top_of(layout)) == before
    assert take(replace(guarded, env_rendered=True))["changed"]


APP = (
    "ENGINEERING_LOOP_GITHUB_AUTH_MODE=app\nENGINEERING_LOOP_GITHUB_APP_ID=77\n"
    "ENGINEERING_LOOP_GITHUB_APP_INSTALLATION_ID=88\nGIT_ASKPASS=/x\n"
)


@pytest.mark.skipif(not ROOT, reason="what comes right is who owns it")
@pytest.mark.parametrize("same", [True, False])
def test_what_is_said_of_the_secrets_before_a_take_over_is_what_is_true_after_it(layout: Layout, same: bool) -> None:
    key = subprocess.run(["openssl", "genrsa", "2048"], capture_output=True, text=True, check=True).stdout
    layout = replace(layout, env_file=layout.dotenv) if same else layout
    config = Settings({
        "env_file": layout.env_file, "forbidden_environment": ["VAULT_*"], "api_url": "http://forge", "user": ME,
        "gate_user": ME, "github_app": {"private_key_file": layout.key_file}, "install_dir": layout.install_dir,
        "config_dir": layout.config_dir,
    })  # fmt: skip

    def said() -> dict[str, Any]:
        return host_facts.secrets(config, None, layout)

    assert "no forge token" in host_facts.secrets(config, {"OTHER": "x"}, layout)["problem"]
    put(Path(layout.dotenv), APP)
    assert "key.pem is not an RSA private key in PEM" in said()["problem"]
    put(Path(layout.key_file), key, 0o640)
    os.chown(layout.key_file, 0, OTHER)
    os.chown(layout.dotenv, 0, OTHER)  # in a directory that is still the loop's own
    before = said()
    take(layout)
    after = handover.look(config)
    assert before["problem"] == after["problem"] == ""
    (told,), (true,) = before["notes"], after["notes"]
    assert told.endswith("have no effect, since the loop sets them itself: GIT_ASKPASS")
    assert told.partition(" these ")[2] == true.partition(" these ")[2]
    os.chown(layout.key_file, 0, OTHER)  # it is rendered again
    os.chmod(layout.key_file, 0o640)
    assert plan(layout) == [] and "key.pem can be read by others than root" in handover.look(config)["notes"][0]


# --- memory


def test_lessons_go_beside_those_that_are_there_and_only_once(layout: Layout) -> None:
    put(Path(layout.memory_dir) / "lessons.md", "newer\n")
    before = content(top_of(layout))
    take(layout)
    everything_is_there(before, layout)
    assert Path(layout.memory_dir, "lessons.md").read_text() == "newer\n"
    assert Path(f"{layout.memory_dir}-legacy/lessons.md").read_text() == "learned\n"
    put(Path(layout.legacy_memory_dir) / "lessons.md", "git has put it there again\n")
    assert [item.kind for item in plan(layout)] == ["work"]


# --- a loop of ours whose cycles had no cells


@pytest.fixture
def celless(layout: Layout) -> Layout:
    """It has its releases where they belong, units of the role, and a lock that names the first process."""
    top = top_of(layout)
    subprocess.run(["rm", "-rf", layout.install_dir, layout.unit_dir, layout.lib_dir], check=True)
    put(Path(layout.install_dir) / "releases/abc/engine", "ours\n")
    for name in ("loop.service", "loop.timer"):
        put(Path(layout.unit_dir) / name, "# Written by the role as215932.engineering_loop.engineering_loop\n")
    put(top / "etc/loop.json", json.dumps({"unit": "loop"}))
    put(top / "etc/env", SECRET, 0o600)
    os.chmod(layout.key_file, 0o600)
    put(top / "var/state/daemon.lock", '{"pid": 1}')
    return replace(layout, run_lock="", legacy_memory_dir="")


@pytest.mark.skipif(not ROOT, reason="its work must be another's")
def test_its_work_becomes_a_cell_once_the_release_is_built(celless: Layout, systemd: list[tuple[str, ...]]) -> None:
    before = content(top_of(celless))
    assert {item.kind for item in plan(celless)} == {"work"}
    ready = prepare(celless)
    assert (ready["changed"], ready["beside"], ready["env_file"]) == (False, True, celless.env_file)
    assert content(top_of(celless)) == before
    told, done = take(celless, check=True), take(celless)
    everything_is_there(before, celless)
    assert told["lines"][0].startswith("THE TIMER loop.timer WAS ON AND IS STOPPED: it runs again only when")
    assert len(told["lines"]) == len(done["lines"])
    assert ("disable", "--now", "loop.timer") in systemd
    assert (plan(celless), take(celless)["changed"], prepare(celless)["beside"]) == ([], False, False)


@pytest.mark.skipif(not ROOT, reason="its work must be another's")
def test_what_works_there_as_its_user_is_waited_for(celless: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privileges, "at_work", lambda user, programs: f"process 7 of {user} in x.service")
    before = content(top_of(celless))
    assert any("it would be waited for" in line for line in take(celless, check=True)["lines"])
    with pytest.raises(LoopError, match=r"process 7 of .* in x.service.* was not over within 0.1 s"):
        take(celless, 0.1)
    assert content(top_of(celless)) == before


# --- what goes wrong


def test_a_run_in_progress_is_waited_for_and_then_told(layout: Layout, systemd: list[tuple[str, ...]]) -> None:
    put(Path(layout.run_lock), json.dumps({"pid": os.getppid(), "started_at": time.time()}))
    before = content(top_of(layout))
    assert any("it would be waited for" in line for line in take(layout, check=True)["lines"])
    for act in (take, prepare):
        with pytest.raises(LoopError, match=r"a run is in progress .* was not over within 0.1 s"):
            act(layout, 0.1)
    assert content(top_of(layout)) == before
    assert ("stop", "loop.timer") not in systemd
    sleeper = subprocess.Popen(["sleep", "1"])
    put(Path(layout.run_lock), json.dumps({"pid": sleeper.pid, "started_at": time.time()}))
    # Who is not waited for stays a process for everybody who looks.
    threading.Thread(target=sleeper.wait, daemon=True).start()
    assert take(layout, 30)["changed"]


def test_the_timer_runs_again_where_a_stray_process_does_not_end(
    layout: Layout, systemd: list[tuple[str, ...]]
) -> None:
    engine = put(Path(layout.install_dir) / ".venv/bin/sleeper", "#!/bin/sh\necho up\nsleep 60 &\nwait\n", 0o755)
    with subprocess.Popen([str(engine)], start_new_session=True, stdout=subprocess.PIPE) as stray:
        assert stray.stdout and stray.stdout.readline() == b"up\n"  # before that it is not the engine yet
        try:
            with pytest.raises(LoopError, match=rf"process {stray.pid}: .*nothing of it was touched"):
                take(layout, 0.1)
        finally:
            os.killpg(stray.pid, signal.SIGKILL)
    assert systemd.index(("stop", "loop.timer")) < systemd.index(("start", "loop.timer"))
    assert Path(layout.install_dir, ".git").exists()


def test_two_at_once_do_not_meet(layout: Layout) -> None:
    prepare(layout)
    with flocked(f"{layout.install_dir}/taken-over/.lock"), pytest.raises(LoopError, match="somebody else"):
        take(layout)
    assert take(layout)["changed"]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_killed_anywhere_the_next_one_ends_it(layout: Layout, elsewhere: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where what is moved comes from another file system."""
    if elsewhere:
        real = os.rename

        def rename(source: str, target: str) -> None:
            if not target.startswith(f"{os.path.dirname(source)}/"):
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            real(source, target)

        monkeypatch.setattr(os, "rename", rename)
    top = top_of(layout)
    saved = top.with_name(f"{top.name}-saved")
    subprocess.run(["cp", "-a", str(top), str(saved)], check=True)
    before = content(top)
    number, step = 0, 7 if elsewhere else 1
    while killed_at(number, lambda: take(layout)):
        take(layout)
        everything_is_there(before, layout)
        assert plan(layout) == []
        assert Path(layout.env_file).read_text() == SECRET
        (cell,) = Path(layout.runs_dir).iterdir()
        assert json.loads((cell / "cell.json").read_text())["sealed"]
        assert cell.stat().st_mode & 0o7777 == 0o700
        lessons = {"2026/one.md": ("one\n", 0o644), "lessons.md": ("learned\n", 0o600)}
        assert lessons.items() <= content(Path(layout.memory_dir)).items()
        subprocess.run(["rm", "-rf", str(top)], check=True)
        subprocess.run(["cp", "-a", str(saved), str(top)], check=True)
        number += step
    assert number > 20


def test_a_mount_point_in_the_checkout_is_one_line(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.rename

    def rename(source: str, target: str) -> None:
        if source.endswith(".venv"):
            raise OSError(errno.EBUSY, "Device or resource busy")
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(LoopError, match=r"\.venv is a mount point: unmount it"):
        take(layout)
    monkeypatch.undo()
    assert plan(layout)[0].path.endswith(".venv")
