# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cycle: what it refuses before a run is wasted, what it makes of any engine's end, and whole ones in the world.

Where an engine has to misbehave, a shell script stands in for it: the engine is the outside world. The
whole cycles at the end run the reference engine. A policy must be root's, so whoever else runs these
tests can only ever see that refusal: ``as_root`` says what is expected then.
"""

from __future__ import annotations

import json
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "world"))

import engine as reference_engine
from ansible_collections.as215932.engineering_loop.plugins.module_utils import (
    accounts,
    cycle,
    gate_policy,
    handover,
    hostfiles,
    receipts,
    releases,
    runtime,
    settings,
)
from ansible_collections.as215932.engineering_loop.plugins.module_utils.errors import LoopError
from deployed import BOT, ISSUE, OTHER, REPO, SEED, SHA, Host, Running, deployed, running
from forge_client import environment_of

ROOT = os.geteuid() == 0
REFUSED = "must be a regular file that only root can write; run apply.yml"
STOPPED = "stopped by signal SIGTERM: systemctl stop, a shutdown or the time-out"
NOT_ROOTS = "must belong to root"  # said of the file with the secrets, which is looked at first
COLLECTIONS = Path(__file__).resolve().parents[4] / ".collections"
HANDED: dict[str, Any] = {"environment": {}, "token": "t"}
HELP = """usage: hyrule-engineering-loop daemon [-h] --once [--repo OWNER/NAME] [--max-runs-per-day=N]
                                      [--max-cost-usd-per-day N]
  --repo OWNER/NAME     repeatable
  --max-runs-per-day N, --runs N
"""


def as_root(expected: Any, otherwise: Any) -> Any:
    return expected if ROOT else otherwise


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("forge") / "root", seed=SEED) as forge:
        yield forge


@pytest.fixture
def host(tmp_path: Path, forge: Running, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A deployed host, in the environment that systemd gives a cycle."""
    for name in ("GITHUB_ACTIONS", "TRIGGER_UNIT", "HYRULE_MODEL_POLICY_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("GH_TOKEN", raising=False)
    monkeypatch.setenv("INVOCATION_ID", "0123456789abcdef")
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(receipts, "UNIT_DIR", str(tmp_path / "systemd"))
    host = deployed(tmp_path, forge)
    host.config["policy_sha256"] = gate_policy.digest(gate_policy.load_file(host.config["policy_file"]))
    host.config["user"] = pwd.getpwuid(os.geteuid()).pw_name
    host.write_config()
    return host


def play_engine(host: Host, script: str, help_text: str = HELP) -> None:
    """Have a shell script stand in for the engine; its help is that of an old one."""
    program = host.top / "opt/releases" / SHA / ".venv/bin" / cycle.ENGINE
    program.parent.mkdir(parents=True, exist_ok=True)
    text = f'#!/bin/sh\nif [ "$2" = --help ]; then printf %s {shlex.quote(help_text)}; exit 0; fi\n{script}\n'
    program.write_text(text)
    program.chmod(0o755)


def last_account(host: Host) -> dict[str, Any]:
    return accounts.read(host.config["cycles_dir"])[-1]


# --- before: what is refused


def refusal(host: Host, **environment: str) -> str:
    with pytest.raises(LoopError) as caught:
        cycle.check_host(host.config, environment)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_host_as_the_role_leaves_it_is_fine(host: Host) -> None:
    if ROOT:
        cycle.check_host(host.config, {})
    else:
        assert REFUSED in refusal(host)


def test_it_never_runs_in_ci(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert "never runs on a CI runner" in refusal(host)


def test_a_missing_policy_would_allow_everything(host: Host) -> None:
    Path(host.config["policy_file"]).unlink()
    assert "is missing (the engine would allow everything); run apply.yml" in refusal(host)
    host.config["policy_file"] = f"{host.config_file}/policy.yml"
    assert "cannot be looked at: Not a directory; run apply.yml" in refusal(host)


def test_a_policy_is_a_file_that_only_root_can_write(host: Host) -> None:
    policy = Path(host.config["policy_file"])
    for mode in (0o664, 0o646, 0o666):
        policy.chmod(mode)
        assert REFUSED in refusal(host)
    policy.chmod(0o644)
    real = policy.rename(policy.with_name("real"))
    policy.symlink_to(real)
    assert REFUSED in refusal(host)
    policy.unlink()
    os.mkfifo(policy)
    assert REFUSED in refusal(host)
    policy.unlink()
    policy.mkdir()
    assert REFUSED in refusal(host)
    policy.rmdir()
    shutil.copy(real, policy)
    os.chown(policy, *as_root((65534, -1), (-1, -1)))
    assert REFUSED in refusal(host)


def test_a_policy_is_the_one_that_was_deployed(host: Host) -> None:
    policy = Path(host.config["policy_file"])
    policy.write_text(policy.read_text().replace("max_changed_files: 20", "max_changed_files: 21"))
    assert as_root("is not the one that was deployed; run apply.yml and prove it again", REFUSED) in refusal(host)
    policy.write_text("defaults: [")
    assert as_root(f"{policy}", REFUSED) in refusal(host)


def test_a_policy_whose_digest_nobody_noted_is_not_the_one_that_was_deployed(host: Host) -> None:
    host.config["policy_sha256"] = ""
    assert as_root("is not the one that was deployed", REFUSED) in refusal(host)


def test_a_directory_of_the_policy_where_others_can_put_another(host: Host) -> None:
    folder = Path(host.config["policy_file"]).parent
    for mode in (0o775, 0o757):
        folder.chmod(mode)
        assert as_root("must be one that only root can write; run apply.yml", REFUSED) in refusal(host)
    folder.chmod(0o755)
    real = folder.rename(folder.with_name("real"))
    folder.symlink_to(real)
    assert as_root("must be one that only root can write; run apply.yml", REFUSED) in refusal(host)


def test_a_policy_has_to_admit_the_handoffs(host: Host) -> None:
    host.config["runs_dir"] = f"{host.top}/elsewhere"
    assert as_root(f"does not admit handoffs under {host.top}/elsewhere", REFUSED) in refusal(host)


def test_a_handoff_directory_of_the_environment_has_to_be_admitted(host: Host) -> None:
    inside = Path(host.config["runs_dir"], "handoff")
    inside.symlink_to(host.top)
    for directory in (str(host.top), "handoff", "~/handoff", str(inside)):
        named = f"does not admit handoffs under {directory}, which HYRULE_HANDOFF_DIR names: remove it from"
        assert as_root(named, REFUSED) in refusal(host, HYRULE_HANDOFF_DIR=directory)
    inside.unlink()
    assert as_root("is not a directory that", REFUSED) in refusal(host, HYRULE_HANDOFF_DIR=str(inside))
    inside.mkdir()
    if ROOT:
        cycle.check_host(host.config, {cycle.HANDOFF: str(inside)})


@pytest.mark.parametrize("name", ["runs_dir", "daemon_state_dir", "memory_dir", "workspace_dir"])
def test_a_place_that_cannot_be_written(host: Host, name: str) -> None:
    place = Path(host.config[name])
    place.rmdir()
    assert as_root(f"{place} ({name}) is not a directory that {host.config['user']} can write", REFUSED) in refusal(
        host
    )
    place.write_text("")  # a file stands in its place
    assert as_root(f"{place} ({name}) is not a directory", REFUSED) in refusal(host)


def test_an_engine_is_the_release_that_was_recorded(host: Host) -> None:
    release = host.top / "opt/releases" / SHA
    release.chmod(0o777)
    assert as_root(f"the engine {release} must belong to root, and nobody else may write it", REFUSED) in refusal(host)
    release.rename(release.with_name("0" * 40))
    (host.top / "opt/current").unlink()
    (host.top / "opt/current").symlink_to(release.with_name("0" * 40))
    assert as_root(f"which says that it is {SHA}", REFUSED) in refusal(host)
    (host.top / "opt/current").unlink()
    assert as_root("no engine is installed", REFUSED) in refusal(host)


def test_the_timer_starts_only_what_was_proven(host: Host) -> None:
    cycle.check_proven(host.config, "manual")
    with pytest.raises(LoopError, match="not proven, so not run on the timer: nothing was proven on this host yet"):
        cycle.check_proven(host.config, "timer")
    cycle.check_proven({**host.config, "canary_required": False}, "timer")
    if ROOT:  # only root can write a receipt
        how = {"cycle": "20260101T000000Z-00000000"}
        receipts.write(host.config, "docs", receipts.installed(host.config), how, applied_by="ops", overrides=[])
        cycle.check_proven(host.config, "timer")


# --- the engine's command line


def command(host: Host, help_text: str = HELP, **config: Any) -> list[str]:
    return cycle.engine_command({**host.config, **config}, "/engine", help_text)


def test_the_command_line(host: Host) -> None:
    config = host.config
    assert command(host) == [
        "/engine", "daemon", "--once", "--repo", REPO, "--repo", OTHER,
        "--workspace-root", config["workspace_dir"], "--output-root", config["runs_dir"],
        "--state-dir-path", config["daemon_state_dir"], "--memory-dir", config["memory_dir"],
        "--max-runs-per-day", "2", "--max-cost-usd-per-day=10",
    ]  # fmt: skip


def test_a_flag_that_the_engine_does_not_know_is_named(host: Host) -> None:
    extra = ["--max-runs-per-day", "-1", "--knowledge-context", "--max-iterations-per-run=3"]
    with pytest.raises(
        LoopError, match="does not know --knowledge-context, --max-iterations-per-run; remove it or bump"
    ):
        command(host, daemon_args=extra)
    with pytest.raises(LoopError, match="does not know --max-cost-usd-per-day, --max-runs-per-day"):
        command(host, help_text="")
    newer = HELP + "  --knowledge-context\n  --max-iterations-per-run N\n"
    assert command(host, newer, daemon_args=extra)[-4:] == extra


def test_allowed_paths_go_by_the_checkouts_name(host: Host) -> None:
    allowed = {"hyrule-infra": ["docs", "ansible/roles"], "hyrule-cloud": ["docs"]}
    assert command(host, HELP + "  --allow REPO=PATH_PREFIX\n", allowed_paths=allowed)[-6:] == [
        "--allow", "hyrule-cloud=docs", "--allow", "hyrule-infra=docs", "--allow", "hyrule-infra=ansible/roles",
    ]  # fmt: skip
    assert "--allow" not in command(host, allowed_paths={"hyrule-infra": ["docs"]})  # that is what it does anyway
    wider: list[dict[str, list[str]]] = [allowed, {"hyrule-infra": []}, {"hyrule-infra": ["docs/a"]}]
    for more in wider:
        with pytest.raises(LoopError, match="asks for more than docs, but the installed engine has no --allow"):
            command(host, allowed_paths=more)


def test_the_engines_environment(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {"OPENAI_API_KEY": "k", "HTTPS_PROXY": "http://proxy:3128"}
    handed = {**HANDED, "environment": secrets, "token": host.forge.token}
    seen = cycle.engine_environment(host.config, "/current", handed)
    assert (seen["OPENAI_API_KEY"], seen["GH_TOKEN"]) == ("k", host.forge.token)
    assert seen["HYRULE_POLICY_FILE"] == host.config["policy_file"]
    assert seen["HYRULE_MODEL_POLICY_FILE"] == "/current/configs/loop/model-policy.production.yml"
    assert seen["GIT_AUTHOR_EMAIL"] == seen["GIT_COMMITTER_EMAIL"] == "loop@as215932.net"
    assert seen["ENGINEERING_LOOP_SECRETS"] == "OPENAI_API_KEY"
    assert seen["PATH"].split(":")[0] == f"{host.top}/lib/bin"
    assert seen["PATH"].split(":")[-1] == f"{host.top}/opt/uv/bin"
    assert host.forge.token not in "".join(value for key, value in seen.items() if key != "GH_TOKEN")
    monkeypatch.setenv("HYRULE_MODEL_POLICY_FILE", "/etc/mine.yml")
    assert cycle.engine_environment(host.config, "/current", HANDED)["HYRULE_MODEL_POLICY_FILE"] == "/etc/mine.yml"


# --- the engine runs


def test_its_exit_status_and_its_report(host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    play_engine(host, """echo '[step] café'; echo '{"outcome": "idle", "args": "'"$*"'"}'; exit 7""")
    status, report = cycle.run_engine(host.config, HANDED)
    assert (status, report["outcome"]) == (7, "idle")
    assert report["args"].startswith("daemon --once --repo ")
    assert "[step] café\n" in capfd.readouterr().out


def test_it_stands_in_the_release_that_was_active_at_its_start(host: Host) -> None:
    play_engine(
        host,
        f"""rm {host.top}/opt/current; ln -s other {host.top}/opt/current
        printf '{{"outcome": "%s"}}\n' "$(pwd)" """,
    )
    assert cycle.run_engine(host.config, HANDED)[1] == {"outcome": str(host.top / "opt/releases" / SHA)}


def test_an_engine_that_does_not_start_is_one_line(host: Host) -> None:
    broken = "does not start .*; run apply.yml"
    with pytest.raises(LoopError, match=f"{broken}"):
        cycle.run_engine(host.config, HANDED)  # there is none
    play_engine(host, "echo never")
    program = host.top / "opt/releases" / SHA / ".venv/bin" / cycle.ENGINE
    program.write_text("#!/bin/sh\necho 'ModuleNotFoundError: yaml' >&2\nexit 1\n")
    with pytest.raises(LoopError, match=broken):  # and not: it does not know --max-runs-per-day
        cycle.run_engine(host.config, HANDED)
    program.chmod(0o644)
    with pytest.raises(LoopError, match=broken):
        cycle.run_engine(host.config, HANDED)


def alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def gone(pid: int) -> bool:
    """Whether a process ends: a signal arrives a moment after it was sent."""
    for _unused in range(250):
        if not alive(pid):
            return True
        time.sleep(0.02)
    return False


def wait_for(path: Path) -> int:
    """The pid that a process wrote there."""
    for _unused in range(500):
        if path.exists() and path.read_text().endswith("\n"):
            return int(path.read_text())
        time.sleep(0.02)
    raise AssertionError(f"nobody wrote {path}")


def test_what_it_leaves_behind_is_ended_and_not_waited_for(host: Host) -> None:
    """A child that holds the output: one in its process group, and one that has left it."""
    play_engine(
        host,
        f"""sleep 300 & echo $! > {host.top}/inside
        setsid sh -c 'echo $$ > {host.top}/outside; exec sleep 300' &
        while ! test -s {host.top}/outside; do sleep 0.01; done
        echo '{{"outcome": "published"}}'""",
    )
    begun = time.monotonic()
    assert cycle.run_engine(host.config, HANDED) == (0, {"outcome": "published"})
    assert time.monotonic() - begun < 10
    outside = wait_for(host.top / "outside")
    try:
        assert gone(wait_for(host.top / "inside"))
        assert alive(outside)  # this one is for systemd, which ends whatever the unit started
    finally:
        os.kill(outside, signal.SIGKILL)


def test_an_engine_that_closes_its_output_is_waited_for(host: Host) -> None:
    play_engine(host, """echo '{"outcome": "idle"}'; exec >&-; sleep 0.3; exit 5""")
    assert cycle.run_engine(host.config, HANDED) == (5, {"outcome": "idle"})


def test_a_flood_of_output_arrives_whole(host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    play_engine(host, f"""yes {"x" * 49} | head -n 40000; echo '{{"outcome": "idle"}}'""")
    assert cycle.run_engine(host.config, HANDED)[1] == {"outcome": "idle"}
    assert len(capfd.readouterr().out) == 40000 * 50 + len('{"outcome": "idle"}\n')


def test_bytes_that_are_no_text_do_no_harm(host: Host) -> None:
    play_engine(host, """printf '\377\303\n{"outcome": "idle"}\n\303'""")
    assert cycle.run_engine(host.config, HANDED)[1] == {"outcome": "idle"}


@pytest.mark.parametrize("deaf", ["", "trap '' TERM; "])
def test_a_stop_ends_the_engine_and_all_of_its_group(host: Host, deaf: str) -> None:
    play_engine(
        host,
        f"""{deaf}(sleep 300 & echo $! > {host.top}/grandchild; wait) &
        echo $$ > {host.top}/engine; while true; do sleep 300; done""",
    )
    script = """if True:
        import json, sys
        from ansible_collections.as215932.engineering_loop.plugins.module_utils import cycle
        try:
            cycle.run_engine(json.load(open(sys.argv[1])), {"environment": {}, "token": "t"})
        except cycle.LoopError as error:
            print(error)
    """
    runner = subprocess.Popen(
        [sys.executable, "-c", script, str(host.config_file)],
        env={**os.environ, "PYTHONPATH": str(COLLECTIONS)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    pids = [wait_for(host.top / name) for name in ("engine", "grandchild")]
    assert [alive(pid) for pid in pids] == [True, True]
    runner.terminate()
    assert runner.communicate(timeout=20)[0] == STOPPED + "\n"
    assert [gone(pid) for pid in pids] == [True, True]


# --- the report


@pytest.mark.parametrize(
    ("output", "outcome"),
    [
        ('{"outcome": "idle"}', "idle"),
        ('progress\n{"outcome": "idle"}\n', "idle"),
        ('{"outcome": "first"}\n{"outcome": "last"}\n', "last"),
        ('{\n "outcome": "idle",\n "issue": {\n  "title": "{ \\"outcome\\": 1 }"\n }\n}\n', "idle"),
        ('{"outcome": "idle"} trailing garbage }{\n{ more\n', "idle"),
        ('{"outcome": "idle"}\n{"level": "info"}\n{}\n{broken\n', "idle"),
        ('{"level": "info"}\r\n{"outcome": "idle"}\r\n', "idle"),
        ('{"outcome": "idle"}\n' + '{"a":' * 50_000, "idle"),
        ('{"outcome": "idle", "detail": "\udcff\u2028\\u0000"}\u2028\u0085', "idle"),
    ],
)
def test_the_last_report_is_found(output: str, outcome: str) -> None:
    assert cycle.parse_report(output)["outcome"] == outcome


@pytest.mark.parametrize(
    "output",
    ["", "no report", "{", "}", "null\n", '["outcome"]', '{"outcome": null}', '{"outcome": {"a": 1}}', '{"outcome": 3}',
     ' {"outcome": "indented"}', 'text {"outcome": "in a line"}', '{"outcome": "cut off"', "{'outcome': 'x'}"],
)  # fmt: skip
def test_what_is_no_report_is_none(output: str) -> None:
    assert cycle.parse_report(output) == {}


def test_many_lines_that_look_like_one_cost_little() -> None:
    output = '{"level": "info", "message": "' + "x" * 200 + '"}\n'
    begun = time.monotonic()
    assert cycle.parse_report(output * 20_000) == {}
    assert time.monotonic() - begun < 3


# --- the account and what systemd is told


def whole(host: Host) -> tuple[int, dict[str, Any]]:
    """One cycle as the unit runs it; its exit status and the one account that it leaves."""
    assert handover.prepare(str(host.config_file)) == 0
    status = cycle.main(str(host.config_file))
    assert not os.listdir(host.top / "run")
    return status, last_account(host)


@pytest.mark.parametrize(
    ("script", "outcome", "status"),
    [
        ("""echo '{"outcome": "published", "pr_url": "http://forge/1"}'""", "published", 0),
        ("""echo '{"outcome": "idle"}'""", "idle", 10),
        ("""echo '{"outcome": "over_budget"}'""", "over_budget", 10),
        ("""echo '{"outcome": "locked"}'""", "locked", 10),
        ("""echo '{"outcome": "needs_triage", "detail": "a person"}'""", "needs_triage", 3),
        ("""echo '{"outcome": "refused_ci"}'; exit 1""", "refused_ci", 4),
        ("""echo '{"outcome": "error"}'; exit 1""", "error", 1),
        ("""echo '{"outcome": "something new"}'""", "something new", 1),
        ("""echo '{"outcome": "idle", "issue": "odd", "detail": ["odd"], "pr_url": {}}'""", "idle", 10),
        ("echo no report", "error", 1),
        ("kill -9 $$", "error", 1),
    ],
)
def test_every_end_of_an_engine(
    host: Host, capfd: pytest.CaptureFixture[str], script: str, outcome: str, status: int
) -> None:
    play_engine(host, script)
    assert whole(host)[0] == as_root(status, 4)
    account = last_account(host)
    assert account["outcome"] == as_root(outcome, "refused")
    assert account["cycle"].endswith("Z-01234567")
    assert (account["invocation_id"], account["trigger"]) == ("0123456789abcdef", "manual")
    assert account["engine"] == {"sha": SHA}
    assert account["started"] <= account["ended"]
    last = capfd.readouterr().out.splitlines()[-1]
    assert last.startswith(f"cycle {account['outcome']} after {account['seconds']} s")


def test_an_end_without_a_report_says_how(host: Host) -> None:
    play_engine(host, "kill -9 $$")
    detail = whole(host)[1]["detail"]
    assert as_root("the engine ended with -9 and without a report", NOT_ROOTS) in detail


def test_a_report_without_words_is_still_a_report(host: Host) -> None:
    play_engine(host, """echo '{"outcome": "idle", "detail": ""}'""")
    assert "without a report" not in whole(host)[1]["detail"]


def test_a_refusal_starts_no_engine(
    host: Host, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    play_engine(host, f"touch {host.top}/started")
    monkeypatch.setenv("TRIGGER_UNIT", "hyrule-engineering-loop.timer")
    status, account = whole(host)
    assert (status, account["outcome"], account["trigger"]) == (4, "refused", "timer")
    assert as_root("not proven, so not run on the timer", NOT_ROOTS) in account["detail"]
    assert not (host.top / "started").exists()
    assert capfd.readouterr().out.count("\n") == 1


def test_a_forge_that_refuses_us_starts_no_engine(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    play_engine(host, f"touch {host.top}/started")
    secrets = Path(host.config["env_file"])
    secrets.write_text(secrets.read_text().replace(host.forge.token, "wrong"))
    status, account = whole(host)
    assert (status, account["outcome"]) == (4, "refused")
    assert "wrong" not in account["detail"]
    assert not (host.top / "started").exists()


def test_a_run_in_progress_is_left_alone(host: Host) -> None:
    play_engine(host, f"touch {host.top}/started")
    (Path(host.config["daemon_state_dir"]) / "daemon.lock").write_text(json.dumps({"pid": os.getppid()}))
    status, account = whole(host)
    assert (status, account["outcome"]) == (4, "refused")
    assert as_root(f"held by the living process {os.getppid()}", NOT_ROOTS) in account["detail"]
    assert not (host.top / "started").exists()


def test_what_cannot_be_moved_aside_is_named_and_stops_nothing(host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    play_engine(host, """echo '{"outcome": "idle"}'""")
    busy = Path(host.config["runs_dir"]) / settings.change_id(REPO, ISSUE).lower() / "worktrees" / "busy"
    busy.mkdir(parents=True)
    with subprocess.Popen(["sleep", "600"], cwd=busy) as process:
        account = whole(host)[1]
        process.kill()
    assert account["outcome"] == as_root("idle", "refused")
    if ROOT:
        assert f"in the way, and stays: {busy}: {busy} is in use: process" in capfd.readouterr().out
        assert busy.is_dir()


def test_a_crash_of_our_own_is_in_the_account(host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    play_engine(host, "exit 0")
    host.config["branch_prefixes"] = [5]  # settings that no role would write
    host.write_config()
    status, account = whole(host)
    assert (status, account["outcome"]) == as_root((1, "error"), (4, "refused"))
    assert as_root("Error: ", NOT_ROOTS) in account["detail"]
    assert ("Traceback" in capfd.readouterr().err) == ROOT


@pytest.mark.parametrize("line", ["[]", "{}", "3", '{"allowed": 1, "reason": 2}', "{", "[" * 100_000])
def test_what_an_agent_writes_among_the_verdicts_changes_nothing(host: Host, line: str) -> None:
    verdicts = Path(host.config["cycles_dir"]) / "pushes.jsonl"
    (host.top / "line").write_text(f"{line}\n")
    play_engine(host, f"""cp {host.top}/line {verdicts}; echo '{{"outcome": "published"}}'""")
    status, account = whole(host)
    assert (status, account["outcome"]) == as_root((0, "published"), (4, "refused"))


def test_a_killed_cycle_is_closed_by_the_next(host: Host) -> None:
    accounts.write(host.config["cycles_dir"], {"cycle": "20260101T000000Z-dead", "outcome": "running"})
    cycle.main(str(host.config_file))
    assert accounts.read(host.config["cycles_dir"])[0]["outcome"] == "interrupted"


def test_a_stopped_cycle_says_so_itself(host: Host) -> None:
    play_engine(host, f"echo $$ > {host.top}/engine; while true; do sleep 300; done")
    script = f"import sys; from {cycle.__package__} import cycle; sys.exit(cycle.main(sys.argv[1]))"
    assert handover.prepare(str(host.config_file)) == 0
    runner = subprocess.Popen(
        [sys.executable, "-c", script, str(host.config_file)],
        env={**os.environ, "PYTHONPATH": str(COLLECTIONS)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    if ROOT:
        wait_for(host.top / "engine")
        assert last_account(host)["outcome"] == "running"
        runner.terminate()
    out, _unused = runner.communicate(timeout=60)
    assert runner.returncode == as_root(1, 4)
    assert last_account(host)["outcome"] == as_root("interrupted", "refused")
    assert as_root("stopped by signal SIGTERM", NOT_ROOTS) in out.splitlines()[-1]


def test_without_a_place_for_the_account_there_is_no_cycle(host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(host.config["cycles_dir"])
    assert cycle.main(str(host.config_file)) == 4
    assert capfd.readouterr().out.startswith("cycle refused: ")
    assert cycle.main(f"{host.top}/none.json") == 4
    assert "this host was not deployed yet" in capfd.readouterr().out


def test_the_sentence_is_one_line() -> None:
    report = {"issue": {"repo": "acme/one", "number": 7}, "pr_url": "http://forge/1"}
    account = {"outcome": "published", "seconds": 12.5, "report": report, "detail": "two\nlines"}
    assert cycle.sentence(account) == "cycle published after 12.5 s: acme/one#7 http://forge/1 two lines"
    assert cycle.sentence({"outcome": "idle"}) == "cycle idle after 0 s"


# --- whole cycles: the reference engine, the agent, gh, git and the forge, all of them real


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference engine's later version, built and active as engine_release leaves it."""
    top = tmp_path_factory.mktemp("engine")
    built = reference_engine.build(top / "engine.git")
    uv = str(Path(sys.executable).with_name("uv"))
    releases.present(
        releases.Settings(str(top / "opt"), built["repo"], uv=uv, python=os.path.realpath(sys.executable)), built["b"]
    )
    return top / "opt"


@pytest.fixture
def world(host: Host, release: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """The host with that engine, our own code installed, and gh and pi on its PATH."""
    environment = environment_of(host.forge, host.top)
    for name in ("PATH", "HOME", "LOOP_WORLD_CONFIG"):
        monkeypatch.setenv(name, environment[name])
    shutil.rmtree(host.top / "lib")
    if ROOT:
        hostfiles.converge(runtime.entries(str(host.top / "lib")))
        launcher = host.top / "lib/loop"  # the interpreter that has what Debian's packages bring
        launcher.write_text(launcher.read_text().replace("/usr/bin/python3 -I", f"{sys.executable} -I"))
    (release / "budget.json").unlink(missing_ok=True)  # every test is a day of its own
    host.config.update(install_dir=str(release), allowed_paths={"hyrule-infra": ["docs", "src"]})
    host.write_config()
    return host


def tell(host: Host, *orders: str, state: str = "open") -> None:
    body = "Describe the loop.\n" + "\n".join(f"<!-- {order} -->" for order in orders)
    host.post(f"/repos/{REPO}/issues/{ISSUE}", {"body": body, "state": state}, method="PATCH")


def pulls(host: Host) -> list[dict[str, Any]]:
    found = host.post(f"/repos/{REPO}/pulls?state=all", {}, method="GET")
    return list(found)  # type: ignore[arg-type]


def test_a_crash_is_healed_by_the_next_cycle_and_nothing_is_lost(world: Host) -> None:
    tell(world, "engine: crash-at commit", "pi: write docs/precious.md mine")
    status, account = whole(world)
    if not ROOT:
        assert (status, account["outcome"]) == (4, "refused")
        return
    assert (status, account["outcome"]) == (1, "error")
    assert account["detail"] == "the engine ended with -9 and without a report"
    assert pulls(world) == []

    tell(world, "pi: write src/allowed.py pass")
    status, account = whole(world)
    assert (status, account["outcome"]) == (0, "published"), account
    (kept,) = account["swept"]["quarantined"]
    assert (Path(kept["to"]) / "docs/precious.md").read_text() == "mine\n"
    (pull,) = pulls(world)
    assert (pull["html_url"], pull["draft"], pull["user"]["login"]) == (account["report"]["pr_url"], True, BOT)
    files = world.post(f"/repos/{REPO}/pulls/{pull['number']}/files", {}, method="GET")
    assert "src/allowed.py" in [file["filename"] for file in files]  # type: ignore[index]
    assert world.forge.token not in json.dumps(account)


def test_what_the_agent_commits_itself_does_not_get_out(world: Host) -> None:
    tell(world, "pi: commit elsewhere/x.py")
    status, account = whole(world)
    assert (status, account["outcome"]) == as_root((1, "error"), (4, "refused"))
    assert as_root("elsewhere/x.py", NOT_ROOTS) in account["detail"]
    assert pulls(world) == []
    branches = subprocess.check_output(["git", "ls-remote", "--heads", f"{world.forge.url}/{REPO}.git"], text=True)
    assert [line.split("\t")[1] for line in branches.splitlines()] == ["refs/heads/main"]


def test_work_that_waits_for_a_person_stays_where_it_is(world: Host) -> None:
    tell(world, "engine: needs-triage", "pi: write docs/waiting.md mine")
    status, account = whole(world)
    assert (status, account["outcome"]) == as_root((3, "needs_triage"), (4, "refused"))
    tell(world, state="closed")
    status, account = whole(world)
    assert (status, account["outcome"]) == as_root((10, "idle"), (4, "refused"))
    waiting = list(Path(world.config["runs_dir"]).glob("*/worktrees/*/docs/waiting.md"))
    assert len(waiting) == as_root(1, 0)


def test_an_emptied_workspace_is_filled_again(world: Host) -> None:
    tell(world, state="closed")
    for _unused in range(2):
        shutil.rmtree(world.config["workspace_dir"])
        Path(world.config["workspace_dir"]).mkdir()
        status, account = whole(world)
        assert (status, account["outcome"]) == as_root((10, "idle"), (4, "refused")), account["detail"]
    assert (Path(world.config["workspace_dir"]) / "hyrule-infra/.git").is_dir() == ROOT
