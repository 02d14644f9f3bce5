# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cycle in its cell: the engine's command line and environment, its end, its report, and what is said of it.

A shell script stands in for the engine: the engine is the outside world. The whole cycles at the end are prepared,
watched and settled by root's programs, as the loop's user runs them between.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base import wire
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import budget, cells, records, sandbox
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell.cells import Cell
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cycle import (
    engine_run,
    handover,
    prepare,
    settle,
)
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy import schema
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import engine_options
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release.engine_help import options_of
from celled import LOOP, NEEDS_ROOT, Box, a_while, box, none_left, sleepers
from deployed import OTHER, REPO, SHA, Host, Running, deployed
from forks import PROGRAM
from gated import gateway_of, in_unit

STOPPED = "stopped by signal SIGTERM: systemctl stop, a shutdown or the time-out"
COLLECTIONS = Path(__file__).resolve().parents[5] / ".collections"
HANDED = handover.Handover(environment={"OPENAI_API_KEY": "k"})
HELP = """usage: hyrule-engineering-loop daemon [-h] --once [--repo OWNER/NAME] [--max-runs-per-day=N]
                                      [--max-cost-usd-per-day N]
  --repo OWNER/NAME     repeatable
  --max-runs-per-day N, --runs N
"""


@pytest.fixture
def host(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A deployed host, in the environment that systemd gives a cycle."""
    for name in ("GITHUB_ACTIONS", "TRIGGER_UNIT", "HYRULE_MODEL_POLICY_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("GH_TOKEN", raising=False)
    monkeypatch.setenv("INVOCATION_ID", "0123456789abcdef")
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    host.config["policy_sha256"] = schema.digest(schema.load_file(host.config["policy_file"]))
    host.config["user"] = pwd.getpwuid(os.geteuid()).pw_name
    host.write_config()
    return host


def inside(host: Host) -> dict[str, Any]:
    """The settings as they are in a cell."""
    return cells.settings_in(host.config, Cell(f"{host.config['runs_dir']}/20260131T120000Z-1a2b3c4d"))


def model_policy(release: Path) -> Path:
    """What an engine brings along: without it, it would take its mock for the agent."""
    path = release / "configs/loop/model-policy.production.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("backends: {default: pi}\n")
    return path


def play_engine(host: Host, script: str, help_text: str = HELP) -> None:
    """Have a shell script stand in for the engine; its help is that of an old one."""
    program = host.top / "opt/releases" / SHA / ".venv/bin" / host.config["program"]
    program.parent.mkdir(parents=True, exist_ok=True)
    model_policy(host.top / "opt/releases" / SHA)
    text = f'#!/bin/sh\nif [ "$2" = --help ]; then printf %s {shlex.quote(help_text)}; exit 0; fi\n{script}\n'
    program.write_text(text)
    program.chmod(0o755)


def run_engine(config: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return engine_run.run_engine(config, engine_run.engine_environment(config, HANDED))


# --- the engine's command line


def command(host: Host, help_text: str = HELP, **config: Any) -> list[str]:
    return engine_run.engine_command(Settings(inside(host), **config), "/engine", options_of(help_text))


def test_the_command_line(host: Host) -> None:
    config = inside(host)
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


def test_options_go_to_an_engine_that_names_them(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    options = [["--knowledge-context"], ["--knowledge-learning-dir", "/var/lib/x"], ["--max-iterations-per-run", "3"]]
    newer = HELP + "  --knowledge-context\n  --knowledge-learning-dir DIR\n"
    place = f"{inside(host)['daemon_state_dir']}/learning"
    words = ["--knowledge-context", "--knowledge-learning-dir", place]
    assert command(host, newer, engine_options=options)[-3:] == words
    said = "does not know --max-iterations-per-run (engineering_loop_max_iterations_per_run), so it is run without\n"
    assert said in capsys.readouterr().out
    assert command(host, newer, engine_options=options[:2]) and not capsys.readouterr().out
    assert command(host, engine_options=options) == command(host)


def test_what_variables_say_is_in_the_engines_environment(host: Host) -> None:
    host.config["engine_environment"] = {
        "HYRULE_ENGINEERING_AGENT_CORE_TRACE": "1", handover.TRACE: "/var/lib/trace", "SSL_CERT_FILE": "/ours",
        "REQUESTS_CA_BUNDLE": "/ours",
    }  # fmt: skip
    secrets = {"HYRULE_ENGINEERING_AGENT_CORE_TRACE": "0", "SSL_CERT_FILE": "/theirs"}
    model_policy(host.top / "opt/releases" / SHA)
    handed = handover.for_cycle(host.config, secrets)
    seen = engine_run.engine_environment(Settings(inside(host)), handed)
    assert seen["HYRULE_ENGINEERING_AGENT_CORE_TRACE"] == "1"
    assert (seen["SSL_CERT_FILE"], seen["REQUESTS_CA_BUNDLE"]) == ("/theirs", "/ours")
    assert seen[handover.TRACE] == f"{inside(host)['daemon_state_dir']}/agent-core-trace.jsonl"


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
    handed = replace(HANDED, environment=secrets)
    seen = engine_run.engine_environment(inside(host), handed)
    assert seen["OPENAI_API_KEY"] == "k" and "GH_TOKEN" not in seen
    assert seen["HYRULE_POLICY_FILE"] == host.config["policy_file"]
    assert seen["GIT_AUTHOR_EMAIL"] == seen["GIT_COMMITTER_EMAIL"] == "loop@as215932.net"
    assert seen["ENGINEERING_LOOP_GATEWAY"] == "/run/hyrule-engineering-loop-gate/socket"
    assert seen["GIT_PROXY_COMMAND"] == f"{host.top}/lib/gateway-client" and seen["GIT_ALLOW_PROTOCOL"] == "git"
    assert seen["PATH"].split(":")[0] == f"{host.top}/lib/bin"
    assert seen["PATH"].split(":")[-1] == f"{host.top}/opt/uv/bin"
    assert host.forge.token not in "".join(seen.values())


def test_a_model_policy_that_no_cycle_could_see_and_a_trace_are_in_the_cell(host: Host) -> None:
    config = inside(host)
    Path(config["daemon_state_dir"]).mkdir(parents=True)
    names = {"HYRULE_ENGINEERING_AGENT_CORE_TRACE_PATH": "/var/log/trace", "HYRULE_MODEL_POLICY_FILE": "/etc/mine.yml"}
    for _again in range(2):
        seen = engine_run.engine_environment(config, replace(HANDED, environment=names, model_policy="version: 1\n"))
    policy, state = Path(seen["HYRULE_MODEL_POLICY_FILE"]), config["daemon_state_dir"]
    assert (str(policy.parent), policy.read_text()) == (state, "version: 1\n")
    assert seen["HYRULE_ENGINEERING_AGENT_CORE_TRACE_PATH"] == f"{state}/agent-core-trace.jsonl"


def test_what_lets_somebody_in_at_the_forge_is_hidden_or_nothing_starts(host: Host) -> None:
    file = host.top / "etc/secret"
    file.write_text("x")
    file.chmod(0o644)
    with pytest.raises(LoopError, match=f"{file} can be read by what runs generated code: .*chmod 0600 {file}"):
        engine_run.check_hidden(["/none", str(file)])
    engine_run.check_hidden(["/none"])


def test_whatever_origin_says_git_goes_to_the_gateway(host: Host, tmp_path: Path) -> None:
    seen = {"PATH": os.environ["PATH"], **engine_run.way_out(inside(host))}
    subprocess.run(["git", "init", "-q", str(tmp_path / "r")], check=True)
    for url in (f"{host.forge.url}/{REPO}.git", "https://github.com/x/y.git", "ssh://git@github.com/x", str(tmp_path)):
        words = ["git", "ls-remote", url]
        done = subprocess.run(words, cwd=tmp_path / "r", env=seen, capture_output=True, text=True, check=False)
        assert done.returncode
        if REPO not in url:
            assert "not allowed" in done.stderr, done.stderr
        else:  # there is no program of ours here
            assert "gateway-client" in done.stderr, done.stderr


# --- the engine runs


def test_its_exit_status_and_its_report(host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    play_engine(host, """echo '[step] café'; echo '{"outcome": "idle", "args": "'"$*"'"}'; exit 7""")
    status, report = run_engine(inside(host))
    assert (status, report["outcome"]) == (7, "idle")
    assert report["args"].startswith("daemon --once --repo ")
    assert "[step] café\n" in capfd.readouterr().out


def test_it_stands_in_the_release_that_was_active_at_its_start(host: Host) -> None:
    play_engine(
        host,
        f"""rm {host.top}/opt/current; ln -s other {host.top}/opt/current
        printf '{{"outcome": "%s"}}\n' "$(pwd)" """,
    )
    assert run_engine(inside(host))[1] == {"outcome": str(host.top / "opt/releases" / SHA)}


def test_an_engine_that_does_not_start_is_one_line(host: Host) -> None:
    broken = "does not start; run ansible-playbook"
    model_policy(host.top / "opt/releases" / SHA)
    with pytest.raises(LoopError, match=f"{broken}"):
        run_engine(inside(host))  # there is none
    play_engine(host, "echo never")
    program = host.top / "opt/releases" / SHA / ".venv/bin" / host.config["program"]
    program.write_text("#!/bin/sh\necho 'ModuleNotFoundError: yaml' >&2\nexit 1\n")
    with pytest.raises(LoopError, match=broken):  # and not: it does not know --max-runs-per-day
        run_engine(inside(host))
    program.chmod(0o644)
    with pytest.raises(LoopError, match=broken):
        run_engine(inside(host))


def asked_at_the_apply(host: Host, options: list[str]) -> None:
    told = {SHA: {f"{host.config['program']} daemon": options}}
    Path(engine_options.path_of(str(host.top / "opt"))).write_text(json.dumps(told))


def test_what_the_apply_has_asked_is_not_asked_again(host: Host) -> None:
    play_engine(host, f"""echo $2 >> {host.top}/opt/asked; echo '{{"outcome": "idle"}}'""")
    program = host.top / "opt/releases" / SHA / ".venv/bin" / host.config["program"]
    program.write_text(program.read_text().replace("then", f"then echo help >> {host.top}/opt/asked;"))
    run_engine(inside(host))
    asked_at_the_apply(host, sorted(options_of(HELP)))
    assert run_engine(inside(host)) == (0, {"outcome": "idle"})
    assert (host.top / "opt/asked").read_text().split() == ["help", "--once", "--once"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 3}'])
def test_what_the_apply_has_asked_may_be_gone_or_damaged(host: Host, content: str) -> None:
    play_engine(host, """echo '{"outcome": "idle"}'""")
    Path(engine_options.path_of(str(host.top / "opt"))).write_text(content)
    assert run_engine(inside(host)) == (0, {"outcome": "idle"})


def test_an_engine_that_was_changed_since_the_apply_is_refused(host: Host) -> None:
    asked_at_the_apply(host, ["--max-runs-per-day", "--max-cost-usd-per-day", "--new"])
    play_engine(host, "echo 'unrecognized arguments: --new' >&2; exit 2")
    with pytest.raises(LoopError, match="is not what the last apply has asked for its options; run ansible-playbook"):
        run_engine(Settings(inside(host), engine_options=[["--new"]]))
    program = host.top / "opt/releases" / SHA / ".venv/bin" / host.config["program"]
    program.unlink()
    with pytest.raises(LoopError, match="does not start; run ansible-playbook"):
        run_engine(inside(host))
    asked_at_the_apply(host, sorted(options_of(HELP)))
    play_engine(host, "exit 1")  # it knows what it is passed, and fails by itself
    assert run_engine(inside(host)) == (1, {})


def wait_for(path: Path) -> int:
    """The pid that a process wrote there."""
    for _unused in range(500):
        if path.exists() and path.read_text().endswith("\n"):
            return int(path.read_text())
        time.sleep(0.02)
    raise AssertionError(f"nobody wrote {path}")


def test_what_it_leaves_behind_is_ended_and_not_waited_for(host: Host) -> None:
    """A child that holds the output: one in its process group, and one that has left it."""
    long = a_while()
    play_engine(
        host,
        f"""sleep {long} &
        setsid sh -c 'echo 1 > {host.top}/outside; exec sleep {long}' &
        while ! test -s {host.top}/outside; do sleep 0.01; done
        echo '{{"outcome": "published"}}'""",
    )
    begun = time.monotonic()
    assert run_engine(inside(host)) == (0, {"outcome": "published"})
    assert time.monotonic() - begun < 10
    assert none_left(long)


def test_an_engine_that_closes_its_output_is_waited_for(host: Host) -> None:
    play_engine(host, """echo '{"outcome": "idle"}'; exec >&-; sleep 0.3; exit 5""")
    assert run_engine(inside(host)) == (5, {"outcome": "idle"})


def test_a_flood_of_output_arrives_whole(host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    play_engine(host, f"""yes {"x" * 49} | head -n 40000; echo '{{"outcome": "idle"}}'""")
    assert run_engine(inside(host))[1] == {"outcome": "idle"}
    assert len(capfd.readouterr().out) == 40000 * 50 + len('{"outcome": "idle"}\n')


def test_bytes_that_are_no_text_do_no_harm(host: Host) -> None:
    play_engine(host, """printf '\377\303\n{"outcome": "idle"}\n\303'""")
    assert run_engine(inside(host))[1] == {"outcome": "idle"}


@pytest.mark.parametrize("deaf", ["", "trap '' TERM; "])
def test_a_stop_ends_the_engine_and_all_of_its_group(host: Host, deaf: str) -> None:
    long = a_while()
    play_engine(
        host,
        f"""{deaf}(sleep {long} & echo $! > {host.top}/grandchild; wait) &
        echo $$ > {host.top}/engine; while true; do sleep {long}; done""",
    )
    script = """if True:
        import signal, sys
        from ansible_collections.as215932.engineering_loop.plugins.module_utils.cycle import engine_run, handover
        from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import settings
        signal.signal(signal.SIGTERM, engine_run.stop)
        try:
            config = settings.Settings(settings.load(sys.argv[1]), daemon_state_dir="/s", workspace_dir="/w")
            engine_run.run_engine(config, engine_run.engine_environment(config, handover.Handover()))
        except engine_run.LoopError as error:
            print(error)
    """
    runner = subprocess.Popen(
        [sys.executable, "-c", PROGRAM + script, str(host.config_file)],
        env={**os.environ, "PYTHONPATH": str(COLLECTIONS)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    for name in ("engine", "grandchild"):
        wait_for(host.top / name)
    for _unused in range(250):  # it is a shell until it is a sleep
        if sleepers(long):
            break
        time.sleep(0.02)
    assert sleepers(long)
    runner.terminate()
    assert runner.communicate(timeout=20)[0] == STOPPED + "\n"
    assert none_left(long)


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
    assert engine_run.parse_report(output)["outcome"] == outcome


@pytest.mark.parametrize(
    "output",
    ["", "no report", "{", "}", "null\n", '["outcome"]', '{"outcome": null}', '{"outcome": {"a": 1}}', '{"outcome": 3}',
     ' {"outcome": "indented"}', 'text {"outcome": "in a line"}', '{"outcome": "cut off"', "{'outcome': 'x'}"],
)  # fmt: skip
def test_what_is_no_report_is_none(output: str) -> None:
    assert engine_run.parse_report(output) == {}


def test_many_lines_that_look_like_one_cost_little() -> None:
    output = '{"level": "info", "message": "' + "x" * 200 + '"}\n'
    begun = time.process_time()
    assert engine_run.parse_report(output * 20_000) == {}
    assert time.process_time() - begun < 3


# --- the whole: prepared by root, run as the loop's user, watched and settled


WATCH = """if True:
    import sys
    from ansible_collections.as215932.engineering_loop.plugins.module_utils.base import wire
    from ansible_collections.as215932.engineering_loop.plugins.module_utils.cycle import watch
    place, pid, config = sys.argv[1:]
    wire.place = lambda _config: place
    watch.systemctl = lambda *words: open(pid).read() if words[0] == "show" else ""
    watch.main(config)
"""


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    """A host on which a cycle can be started, with a repository and the watch beside it."""
    with box() as found, contextlib.ExitStack() as stack:
        found.deploy()
        found.repository("app")
        monkeypatch.setattr(wire, "place", lambda _config: f"{found.top}/run/socket")
        for name, value in found.unit().items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HYRULE_MODEL_POLICY_FILE", raising=False)
        gate = stack.enter_context(gateway_of(found))
        assert gate
        (found.top / "run/pid").write_text("0")
        command = [sys.executable, "-c", WATCH, f"{found.top}/run/socket", f"{found.top}/run/pid", found.config_file]
        watch = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(COLLECTIONS)})
        for _unused in range(500):
            if (found.top / "run/socket").exists():
                break
            time.sleep(0.02)
        before = signal.getsignal(signal.SIGTERM)
        yield found
        signal.signal(signal.SIGTERM, before)
        watch.kill()
        watch.wait()


def engine(host: Box, script: str) -> None:
    program = host.release / ".venv/bin" / host.config["program"]
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f'#!/bin/sh\nif [ "$2" = --help ]; then exit 0; fi\n{script}\n')
    program.chmod(0o755)


def whole(host: Box, settled: int = 0) -> tuple[int, dict[str, Any]]:
    """One cycle as the unit runs it; what systemd is told, and the record."""
    assert prepare.main(host.config_file) == 0

    def as_the_unit() -> int:
        (host.top / "run/pid").write_text(str(os.getpid()))
        return engine_run.main(host.config_file)

    (host.top / "run/pid").chmod(0o666)
    (host.top / "run/unit").chmod(0o777)  # systemd gives it to the unit's user
    with in_unit(f"{host.config['unit']}.service"):
        status = int(as_user(LOOP, as_the_unit))
    os.environ.update(EXIT_CODE="exited", EXIT_STATUS=str(status), SERVICE_RESULT="success")
    assert settle.main(host.config_file) == settled
    assert not os.listdir(host.top / "run/unit")
    return status, records.read(host.config["cycles_dir"])[-1]


def can_shut_in() -> bool:
    """Whether this machine's kernel lets bubblewrap work at all."""
    words = ["bwrap", "--unshare-user", "--unshare-pid", "--ro-bind", "/", "/", "--proc", "/proc", "true"]
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


NEEDS_BWRAP = pytest.mark.skipif(not can_shut_in(), reason="bubblewrap cannot run here")


@NEEDS_ROOT
@NEEDS_BWRAP
@pytest.mark.parametrize(
    ("script", "outcome", "status"),
    [
        ("""echo '{"outcome": "idle"}'""", "idle", 10),
        ("""echo '{"outcome": "needs_triage", "detail": "a person"}'""", "needs_triage", 3),
        ("""echo '{"outcome": "refused_ci"}'; exit 1""", "refused_ci", 4),
        ("""echo '{"outcome": "something new"}'""", "error", 1),
        ("""echo '{"outcome": "idle", "issue": "odd", "detail": ["odd"], "pr_url": {}}'""", "idle", 10),
        ("echo no report", "error", 1),
        ("kill -9 $$", "error", 1),
    ],
)
def test_every_end_of_an_engine(
    ready: Box, capfd: pytest.CaptureFixture[str], script: str, outcome: str, status: int
) -> None:
    engine(ready, script)
    seen, record = whole(ready)
    assert (seen, record["outcome"], record["agents"]) == (status, outcome, 0), record
    assert record["cycle"].endswith("Z-01234567") and record["engine"] == {"sha": SHA}
    told = capfd.readouterr().out.splitlines()
    assert [line for line in told if line.startswith(f"cycle {outcome} after ")]
    assert os.path.isdir(f"{ready.runs}/{record['cycle']}") == (outcome not in cells.NOTHING_IN_IT)


@NEEDS_ROOT
@NEEDS_BWRAP
def test_an_engine_that_says_published_and_opened_nothing(ready: Box) -> None:
    engine(ready, """echo '{"outcome": "published", "pr_url": "http://forge/1"}'""")
    status, record = whole(ready, settled=1)
    assert (status, record["outcome"], record["pr_url"]) == (0, "error", "")
    assert record["detail"] == "the engine says published, but no pull request was opened"


# As what stands under the agent's name does.
TELL = """\
import socket, sys
told = socket.socket(socket.AF_UNIX)
told.connect(sys.argv[1])
told.sendall(b'{"what": "agent", "program": "pi"}\\n')
told.recv(99)
"""


@NEEDS_ROOT
@NEEDS_BWRAP
def test_a_cycle_that_publishes(ready: Box, forge: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All of it: an issue is listed and read, work is pushed and a pull request opened, by a gh and a git of ours."""
    deployed(tmp_path, forge)  # a fresh forge
    (ready.top / "etc/env").write_text(f"GH_TOKEN={forge.token}\nOPENAI_API_KEY=k\n")
    ready.config.update(
        unit=f"{ready.config['unit']}-p", git_url=forge.url, api_url=forge.api_url, repos=[REPO],
        workspace_repositories=[{"repo": REPO, "dest": "hyrule-infra"}],
    )  # fmt: skip
    state = "runs/issue_network_operations_235/state"
    (ready.top / "lib/tell.py").write_text(TELL)
    engine(
        ready,
        f"""set -e; cell=$(dirname "$HOME"); mkdir -p "$cell/{state}"
        echo '{{"backend_name": "pi"}}' >"$cell/{state}/ISSUE_NETWORK_OPERATIONS_235.json"
        python3 {ready.top}/lib/tell.py {ready.top}/run/socket
        """
        """cd "$cell/workspace/hyrule-infra"
        gh issue list --repo $R --state open --label loop:approved --json number,title,body,labels,url,updatedAt >&2
        gh issue view 235 --repo $R --json body >&2
        echo page >docs/page.md; git add -A; git commit -qm Page; git push -q origin HEAD:$B >&2
        url=$(gh pr create --repo $R --draft --title Docs --body Why. --head $B --base main)
        printf '{"outcome": "published", "pr_url": "%s", "issue": {"repo": "%s", "number": 235}}' "$url" $R
        """.replace("$R", REPO).replace("$B", "hyrule-feature/ISSUE_NETWORK_OPERATIONS_235/hyrule-infra"),
    )
    with gateway_of(ready):
        status, record = whole(ready)
    assert (status, record["outcome"]) == (0, "published"), record
    assert record["pr_url"].startswith(f"{forge.url}/{REPO}/pull/") and record["issue"]["number"] == 235
    assert [one["allowed"] for one in record["pushes"]] == [True]
    assert (record["agents"], record["programs"], record["backend"]) == (1, ["pi"], "pi")
    assert record["token"]["kind"] == "break-glass" and forge.token not in json.dumps(record)


@NEEDS_ROOT
@NEEDS_BWRAP
def test_what_the_engine_finds(ready: Box) -> None:
    """Its cell, whole and its own, with the checkouts and the day's ledger; and nothing else that it could write."""
    engine(
        ready,
        """cell=$(dirname "$HOME"); cd "$cell/workspace/app" || exit 1
        git log --oneline >"$cell/runs/log"; git status --short >>"$cell/runs/log"
        touch "$cell/x" 2>/dev/null && echo wrote; touch "$cell/cell.json" 2>/dev/null && echo wrote
        touch "$cell"/home/a "$cell"/state/a "$cell"/memory/lesson.md || exit 1
        cat "$cell"/state/ledger-*.json >"$cell/runs/ledger"
        printf '{"outcome": "needs_triage", "detail": "%s"}' "$GH_TOKEN$GITHUB_TOKEN-$OPENAI_API_KEY"
        """,
    )
    status, record = whole(ready)
    assert (status, record["outcome"], record["detail"]) == (3, "needs_triage", "-k")
    cell = Path(ready.runs, record["cycle"])
    assert len((cell / "runs/log").read_text().splitlines()) == 2
    assert json.loads((cell / "runs/ledger").read_text()) == {"runs": 0, "cost_usd": 0, "wall_clock_seconds": 0}
    assert record["memory"]["changed"] and (ready.memory / "lesson.md").exists()
    assert len(budget.today(ready.config)["runs"]) == 1  # it had work in hand, whoever was its agent


@NEEDS_ROOT
@NEEDS_BWRAP
def test_a_second_cycle_meets_nothing_of_the_first(ready: Box) -> None:
    engine(
        ready,
        """cell=$(dirname "$HOME")
        find "$cell/home" "$cell/runs" -mindepth 1 | grep . && exit 1
        mkfifo "$cell/workspace/app/.git/index.lock" "$cell/state/daemon.lock"; rm -rf "$cell/workspace/app/.git/HEAD"
        for name in .gitconfig .bashrc; do echo x >"$cell/home/$name"; done; mkdir -p "$cell/runs/x"
        echo '{"outcome": "error"}'""",
    )
    names = []
    for number in range(2):
        os.environ["INVOCATION_ID"] = f"{number}" * 32
        status, record = whole(ready)
        assert (status, record["outcome"]) == (1, "error"), record
        names.append(record["cycle"])
    assert sorted(os.listdir(ready.runs)) == sorted(names)


@NEEDS_ROOT
@NEEDS_BWRAP
@pytest.mark.parametrize(
    ("change", "secrets", "says"),
    [
        (
            {"agent": {"path": "/nowhere/pi", "program": "pi"}},
            "OPENAI_API_KEY=k\n",
            "engineering_loop_agent.path is /nowhe",
        ),
        ({"agent": {"path": "/bin/sh", "program": "pi"}}, "OPENAI_API_KEY=k\n", "the agent /bin/sh does not start: "),
        ({}, "OTHER=1\n", "the agent pi has no key of its model's provider: put ANTHROPIC_API_KEY or"),
        ({"agent_programs": ["claude"]}, "OPENAI_API_KEY=k\n", "starts pi as the agent, which would not be shut in"),
        ({"agent_probe": True}, "OPENAI_API_KEY=k\n", "the agent pi gets no answer from its model: "),
    ],
)
def test_an_agent_that_could_not_work_costs_no_run(ready: Box, change: dict[str, Any], secrets: str, says: str) -> None:
    engine(ready, f'touch {ready.top}/run/started; echo \'{{"outcome": "idle"}}\'')
    ready.config.update(change)
    ready.write_config()
    (ready.top / "etc/env").write_text(f"GH_TOKEN=t\n{secrets}")
    status, record = whole(ready)
    assert (status, record["outcome"]) == (records.REFUSED, "refused") and says in record["detail"]
    assert not (ready.top / "run/started").exists() and budget.today(ready.config)["runs"] == []


@NEEDS_ROOT
@NEEDS_BWRAP
@pytest.mark.parametrize(("secret", "outcome"), [("OPENAI_API_KEY=k", "idle"), ("OTHER=1", "refused")])
def test_home_files_are_looked_at_where_the_agent_finds_them(ready: Box, secret: str, outcome: str) -> None:
    """Their sources are closed to the cycle, as what lies in the directory of the configuration is."""
    engine(ready, 'echo \'{"outcome": "idle"}\'')
    source = ready.top / "etc/pi/settings.json"
    source.parent.mkdir(mode=0o700)
    source.write_text('{"defaultProvider": "openai"}')
    ready.config["home_files"] = [{"src": str(source), "dest": ".pi/agent/settings.json"}]
    ready.write_config()
    (ready.top / "etc/env").write_text(f"GH_TOKEN=t\n{secret}\n")
    record = whole(ready)[1]
    assert record["outcome"] == outcome and ("put OPENAI_API_KEY into" in record["detail"]) == (outcome == "refused")


@NEEDS_ROOT
@NEEDS_BWRAP
def test_the_timer_asks_the_model_for_nothing(ready: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    engine(ready, 'echo \'{"outcome": "idle"}\'')
    ready.config["agent_probe"] = True
    ready.write_config()
    monkeypatch.setenv("TRIGGER_UNIT", "loop.timer")
    assert whole(ready)[1]["outcome"] == "idle"


@NEEDS_ROOT
def test_an_agent_that_cannot_be_shut_in_is_a_refusal(ready: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    engine(ready, f'touch {ready.top}/run/started; echo \'{{"outcome": "idle"}}\'')
    monkeypatch.setattr(sandbox, "BWRAP", "/nowhere/bwrap")
    status, record = whole(ready)
    assert (status, record["outcome"]) == (4, "refused")
    assert record["detail"] == "/nowhere/bwrap is missing, which shuts the agent in: install Debian's bubblewrap"
    assert os.listdir(ready.runs) == []


@NEEDS_ROOT
def test_without_a_watch_there_is_no_cycle(ready: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    engine(ready, 'echo \'{"outcome": "idle"}\'')
    monkeypatch.setattr(wire, "place", lambda _config: f"{ready.top}/run/nobody")
    monkeypatch.setattr(wire.tell, "__defaults__", (0.3,))
    status, record = whole(ready)
    assert (status, record["outcome"]) == (4, "refused")
    assert record["detail"] == "the cycle refused to start its engine, see the journal"


@NEEDS_ROOT
def test_a_refusal_of_roots_starts_nothing(ready: Box) -> None:
    engine(ready, f"touch {ready.top}/run/started")
    (ready.top / "etc/env").write_text("GH_TOKEN\n")
    status, record = whole(ready)
    assert (status, record["outcome"]) == (4, "refused") and "no KEY=value" in record["detail"]
    (ready.top / "etc/env").write_text("GH_TOKEN=t\n")
    ready.config["max_runs_per_day"] = 0
    ready.write_config()
    status, record = whole(ready)
    assert (status, record["outcome"]) == (10, "over_budget")
    assert os.listdir(ready.runs) == [] and not (ready.top / "run/started").exists()


def test_without_settings_or_secrets_there_is_no_cycle(host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert engine_run.main(f"{host.top}/none.json") == 4
        assert "this host was not deployed yet" in capfd.readouterr().out
        assert engine_run.main(str(host.config_file)) == 4
        assert "cycle refused: a cycle gets its secrets from its unit" in capfd.readouterr().out
    finally:
        signal.signal(signal.SIGTERM, before)
