# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's secrets, looked at; what root hands to a cycle, which goes over once; and the count of the day's runs."""

from __future__ import annotations

import json
import os
import pwd
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import budget
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cycle import handover
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import renderers
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings
from celled import LOOP, NEEDS_ROOT, Box, box, gid, uid, write
from changing import Changing

HANDED = handover.Handover(environment={"A": "caf\u00e9"}, cell="/c")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for name in ("run", "opt"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    me = pwd.getpwuid(os.geteuid()).pw_name
    return Changing({"user": me, "unit": "u", "install_dir": str(tmp_path / "opt"), "max_runs_per_day": 2})


def test_it_goes_over_once(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    handover.give(config, HANDED)
    file = Path(handover.place(config))
    assert stat.S_IMODE(file.stat().st_mode) == 0o400
    assert handover.take(config) == HANDED
    assert not file.exists()
    with pytest.raises(LoopError, match="start it with systemctl start u"):
        handover.take(config)
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    assert handover.place(config) == "/run/u/handover.json"


def test_what_stands_in_its_place_is_not_followed(config: dict[str, Any], tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    Path(handover.place(config)).symlink_to(precious)
    handover.give(config, HANDED)
    assert precious.read_text() == "mine" and handover.take(config) == HANDED
    Path(handover.place(config)).symlink_to(precious)
    with pytest.raises(LoopError, match="cannot be read"):
        handover.take(config)


def test_without_a_place_it_is_one_line(config: dict[str, Any], tmp_path: Path) -> None:
    Path(handover.place(config)).mkdir()
    with pytest.raises(LoopError, match=r"handover.json cannot be written: Is a directory"):
        handover.give(config, HANDED)
    Path(handover.place(config)).rmdir()
    (tmp_path / "run").rmdir()
    with pytest.raises(LoopError, match=r"handover.json cannot be written: No such file"):
        handover.give(config, HANDED)


# --- the secrets of the host

# In the order of the template that is in use out there.
THEIRS = """\
ENGINEERING_LOOP_GITHUB_AUTH_MODE=app
ENGINEERING_LOOP_GITHUB_APP_ID=77
ENGINEERING_LOOP_GITHUB_APP_INSTALLATION_ID=88
ENGINEERING_LOOP_GITHUB_APP_PRIVATE_KEY_FILE=TOP/etc/key.pem
HYRULE_CREATE_GITHUB_PR=1
HYRULE_DISCORD_WEBHOOK=https://discord.example/hook
HYRULE_ICINGA_URL=https://icinga.example
HYRULE_ICINGA_USER=u
HYRULE_ICINGA_PASSWORD=hunter2
HYRULE_ICINGA_CHECK=noc!engineering-loop
OPENROUTER_API_KEY=hunter2
ANTHROPIC_API_KEY=hunter2
OPENAI_API_KEY=hunter2
GIT_ASKPASS=/usr/local/lib/engineering-loop/git-askpass
GIT_TERMINAL_PROMPT=0
HYRULE_MODEL_POLICY_FILE=TOP/opt/configs/loop/model-policy.production.yml
ENGINEERING_LOOP_NOC_LHP_SECRET=hunter2
ENGINEERING_LOOP_NOC_LHP_BASE_URL=https://noc.example
ENGINEERING_LOOP_LHP_CALLBACK_ENABLED=1
HYRULE_ENGINEERING_AGENT_CORE_TRACE=1
HYRULE_ENGINEERING_AGENT_CORE_TRACE_PATH=/var/log/trace.jsonl
HYRULE_ENGINEERING_AGENT_CORE_TRACE_COLLECTOR_URL=https://traces.example
HYRULE_ENGINEERING_INSIGHT_RECORDS=1
"""
WRITER = "vault-agent-engineering-loop.service (its command)"
OVERRIDDEN = ["GIT_ASKPASS", "GIT_TERMINAL_PROMPT", handover.MODEL_POLICY, handover.TRACE]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    monkeypatch.setattr(handover, "NOT_THERE", ("/home", "/nowhere"))  # the tests' hosts are all below /tmp
    with box() as found:
        monkeypatch.setattr(renderers, "UNIT_DIRS", (f"{found.top}/systemd",))
        reads = f"[Service]\nExecStart=/bin/vault agent -env={found.top}/etc/env -key={found.top}/etc/key.pem\n"
        write(found.top, {"systemd/vault-agent-engineering-loop.service": reads})
        found.deploy()
        yield found


def render(host: Box, text: str, *, mode: int = 0o640) -> None:
    """As Vault Agent does: root's, readable by the loop's group, by a rename."""
    made = host.top / "etc/.new"
    made.write_text(text.replace("TOP", str(host.top)))
    os.chown(made, 0, gid(LOOP))
    made.chmod(mode)
    made.rename(host.top / "etc/env")


def key(host: Box, mode: int = 0o640) -> Path:
    path = host.top / "etc/key.pem"
    made = subprocess.run(["openssl", "genrsa", "2048"], capture_output=True, text=True, check=True)
    path.write_text(made.stdout)
    os.chown(path, 0, gid(LOOP))
    path.chmod(mode)
    return path


def problem(host: Box, text: str) -> str:
    """What a look says, and a cycle as well."""
    render(host, text)
    said = str(handover.look(host.config)["problem"])
    assert said and "hunter2" not in said and "\n" not in said
    return said


@NEEDS_ROOT
def test_all_of_their_variables_at_once_are_acted_on_or_named(host: Box) -> None:
    key(host)
    render(host, THEIRS)
    seen = handover.look(host.config)
    assert seen["problem"] == "" and "hunter2" not in json.dumps(seen)
    told, (env, pem) = seen["notes"][-1], seen["notes"][:-1]
    assert told.endswith(f"have no effect, since the loop sets them itself: {', '.join(sorted(OVERRIDDEN))}")
    for path, note in ((f"{host.top}/etc/env", env), (f"{host.top}/etc/key.pem", pem)):
        assert note.startswith(f"{path} can be read by others than root (mode 0640), as {WRITER} writes it. No cycle")
        assert f"chown root:root {path}; chmod 0600 {path}" in note
    handed = handover.for_cycle(host.config, handover.secrets(host.config))
    policy = f"{host.release}/{handover.OWN_POLICY}"
    assert (handed.environment[handover.MODEL_POLICY], handed.model_policy) == (policy, "")
    names = {line.split("=")[0] for line in THEIRS.splitlines()}
    gone = {name for name in names if name.startswith(("GIT_", "ENGINEERING_LOOP_GITHUB_"))}
    assert set(handed.environment) == names - gone
    assert handed.hidden == [f"{host.top}/etc/env", f"{host.top}/etc/key.pem"]


@NEEDS_ROOT
def test_what_no_vault_agent_renders_again_is_closed_by_an_apply(host: Box) -> None:
    (host.top / "systemd/vault-agent-engineering-loop.service").unlink()
    render(host, "GH_TOKEN=t\n")
    path = f"{host.top}/etc/env"
    note = f"{path} can be read by others than root (mode 0640), until an apply closes it"
    assert handover.look(host.config) == {"problem": "", "notes": [note], "loose": [path]}


@NEEDS_ROOT
def test_secrets_that_are_as_they_should_be_say_nothing(host: Box) -> None:
    render(host, "GH_TOKEN=t\nOPENAI_API_KEY=k\n", mode=0o600)
    assert handover.look(host.config) == {"problem": "", "notes": [], "loose": []}


@NEEDS_ROOT
def test_what_a_variable_says_goes_before_the_secrets_and_that_is_said(host: Box) -> None:
    render(
        host,
        "GH_TOKEN=t\nOPENAI_API_KEY=k\nENGINEERING_LOOP_LHP_CALLBACK_ENABLED=0\nSSL_CERT_FILE=/etc/hosts\n",
        mode=0o600,
    )
    told = {"ENGINEERING_LOOP_LHP_CALLBACK_ENABLED": "1", "SSL_CERT_FILE": "/x", "REQUESTS_CA_BUNDLE": "/x"}
    host.config["engine_environment"] = told
    (note,) = handover.look(host.config)["notes"]
    env = host.config["env_file"]
    assert note == f"variables of the role go before these of {env}: ENGINEERING_LOOP_LHP_CALLBACK_ENABLED"
    seen = handover.for_cycle(host.config, handover.secrets(host.config)).environment
    assert (seen["ENGINEERING_LOOP_LHP_CALLBACK_ENABLED"], seen["SSL_CERT_FILE"]) == ("1", "/etc/hosts")
    assert seen["REQUESTS_CA_BUNDLE"] == "/x"


@NEEDS_ROOT
def test_those_that_the_role_will_write_are_looked_at_without_a_file(host: Box) -> None:
    os.unlink(host.config["env_file"])
    assert handover.look(host.config, {"GH_TOKEN": "x", "OPENAI_API_KEY": "x"}) == {
        "problem": "",
        "notes": [],
        "loose": [],
    }
    assert "no forge token: put GH_TOKEN" in handover.look(host.config, {"OPENAI_API_KEY": "x"})["problem"]
    assert (
        "engineering_loop_environment holds VAULT_TOKEN" in handover.look(host.config, {"VAULT_TOKEN": "x"})["problem"]
    )
    given = {"GH_TOKEN": "x", "HTTPS_PROXY": "http://127.0.0.1:3128"}
    closed = "HTTPS_PROXY names a proxy on this host, which is closed to cycles: add its port (3128)"
    assert closed in handover.look(host.config, given)["problem"]
    assert handover.look(Settings(host.config, egress_local=[3128]), given)["problem"] == ""
    (note,) = handover.look(host.config, {"GH_TOKEN": "x", "PATH": "/x"})["notes"]
    assert note == "of engineering_loop_environment these have no effect, since the loop sets them itself: PATH"


@NEEDS_ROOT
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("OPENAI_API_KEY=hunter2\n", "no forge token: put GH_TOKEN into"),
        ("ENGINEERING_LOOP_GITHUB_AUTH_MODE=token\nENGINEERING_LOOP_GITHUB_APP_ID=7\n", "no forge token"),
        ("ENGINEERING_LOOP_GITHUB_AUTH_MODE=app\n", "the GitHub App lacks its id"),
        ("ENGINEERING_LOOP_GITHUB_AUTH_MODE=hunter2\n", "ENGINEERING_LOOP_GITHUB_AUTH_MODE among the secrets must be"),
        (THEIRS, "etc/key.pem, is missing (engineering_loop_github_app_private_key_file names it). On the host,"),
        ("GH_TOKEN=t\nREQUESTS_CA_BUNDLE=/none/ca.pem\n", "names /none/ca.pem, where nothing is: put it there"),
        ("GH_TOKEN=t\nSSL_CERT_DIR=/etc:/none\n", "SSL_CERT_DIR among the secrets"),
        ("GH_TOKEN=t\nGIT_SSL_CAINFO=TOP/etc/policy.yml\n", "which a cycle does not see: put a copy below /etc/ssl"),
        ("GH_TOKEN=t\nHYRULE_X_FILE=TOP/secret\n", f"/secret, which {LOOP} cannot read: chmod a+r"),
        ("GH_TOKEN=t\nHYRULE_MODEL_POLICY_FILE=/etc/none.yml\n", "/etc/none.yml, where nothing is: the engine would"),
        ("GH_TOKEN=t\nHYRULE_MODEL_POLICY_FILE=TOP/opt/mine.yml\n", "opt/mine.yml, where nothing is: the engine would"),
    ],
)  # fmt: skip
def test_what_every_cycle_would_refuse(host: Box, text: str, reason: str) -> None:
    write(host.top, {"secret": "x"})
    (host.top / "secret").chmod(0o600)
    assert reason in problem(host, text)


@NEEDS_ROOT
def test_a_file_or_key_that_is_missing_or_anothers(host: Box) -> None:
    pem = key(host)
    pem.write_text("hunter2\n")
    assert "key.pem is not an RSA private key in PEM" in problem(host, THEIRS)
    os.chown(key(host), uid(LOOP), -1)
    assert f"the private key of the GitHub App, {pem} belongs to uid {uid(LOOP)} and must belong to root" in problem(
        host, THEIRS
    )
    assert handover.look(host.config, comes_right=[str(pem)])["problem"] == ""  # by the take-over
    os.unlink(host.config["env_file"])
    assert handover.look(host.config)["problem"].startswith(f"{host.top}/etc/env is missing: it must hold the secrets")


@NEEDS_ROOT
def test_who_should_have_written_a_missing_file_is_told(
    host: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.unlink(host.config["env_file"])
    monkeypatch.setattr(renderers, "UNIT_DIRS", (str(tmp_path / "units"),))
    told = handover.look(host.config)["problem"]
    assert told.endswith(
        "(engineering_loop_env_file names it, or set engineering_loop_environment). On the host, nothing is known"
        " to write it: have Vault Agent or the like do so; then run this again"
    )
    (tmp_path / "units").mkdir()
    command = f"[Service]\nExecStart=/usr/bin/vault agent --to {host.config['env_file']}\n"
    (tmp_path / "units/vault-agent.service").write_text(command)
    told = handover.look(host.config)["problem"]
    assert told.endswith(
        "On the host, vault-agent.service (its command) writes it: systemctl restart vault-agent.service; then run"
        " this again"
    )


@NEEDS_ROOT
def test_where_the_app_fails_and_there_is_a_token_that_is_said(host: Box) -> None:
    render(host, f"{THEIRS}GH_TOKEN=hunter2\n", mode=0o600)
    seen = handover.look(host.config)
    assert seen["problem"] == ""
    assert seen["notes"][0].startswith(
        "the break-glass token would be used, not the GitHub App: the private key of the"
    )


@NEEDS_ROOT
def test_a_secret_that_a_cycle_could_read_is_refused_wherever_it_is_rendered(host: Box) -> None:
    """Its directory is not hidden from a cycle, so one that is rendered anew meanwhile would be there to be read."""
    open_to_all = host.top / "rendered"
    open_to_all.mkdir()
    host.config["env_file"] = str(open_to_all / "env")
    write(open_to_all, {"env": "GH_TOKEN=hunter2\n"})
    (open_to_all / "env").chmod(0o644)
    said = handover.look(host.config)["problem"]
    assert f"rendered/env can be read by {LOOP}, who runs generated code, and lies where a cycle sees it" in said
    with pytest.raises(LoopError, match="who runs generated code"):
        handover.secrets(host.config)
    (open_to_all / "env").chmod(0o600)
    assert handover.look(host.config) == {"problem": "", "notes": [], "loose": []}
    (open_to_all / "env").chmod(0o644)
    (host.top / "etc/env").unlink()
    (host.top / "etc/env").symlink_to(open_to_all / "env")  # a hidden name does not hide what it leads to
    host.config["env_file"] = str(host.top / "etc/env")
    assert "who runs generated code" in handover.look(host.config)["problem"]


@NEEDS_ROOT
def test_a_model_policy_of_the_hosts_own_goes_over_as_it_is(host: Box) -> None:
    write(host.top, {"mine.yml": "version: 1\n"})
    render(host, "GH_TOKEN=t\nHYRULE_MODEL_POLICY_FILE=TOP/mine.yml\n", mode=0o600)
    assert handover.look(host.config) == {"problem": "", "notes": [], "loose": []}
    handed = handover.for_cycle(host.config, handover.secrets(host.config))
    assert handed.model_policy == "version: 1\n"
    for inner in ("current", f"releases/{'0' * 40}"):  # what is meant is the release of today
        told = {handover.MODEL_POLICY: f"{host.top}/opt/{inner}/{handover.OWN_POLICY}"}
        assert handover.model_policy(host.config, told) == f"{host.release}/{handover.OWN_POLICY}"
    (host.release / handover.OWN_POLICY).unlink()
    with pytest.raises(LoopError, match=r"the release has no model policy .*: the engine would play its mock"):
        handover.model_policy(host.config, {})


# --- the count


def test_a_cycle_is_counted_once_and_nothing_gives_it_back(config: dict[str, Any]) -> None:
    budget.start(config)
    assert budget.figures(config) == {"runs_today": 0, "started_today": 1, "max_runs": 2}
    for _unused in range(3):
        budget.take(config, "a", "timer")
    budget.take(config, "b", "manual")
    assert budget.figures(config) == {"runs_today": 2, "started_today": 1, "max_runs": 2}
    assert not hasattr(budget, "give_back")


def test_the_day_is_used_up(config: dict[str, Any]) -> None:
    assert budget.exhausted(config) == ""
    for invocation, trigger in (("a", "timer"), ("b", "manual")):
        budget.take(config, invocation, trigger)
    told = budget.exhausted(config)
    assert told.startswith("2 of 2 runs were started today (UTC: ")
    assert "timer, " in told and told.endswith("or raise engineering_loop_max_runs_per_day")
    config["max_runs_per_day"] = 3
    assert budget.exhausted(config) == ""
    config["max_runs_per_day"] = 0
    assert budget.exhausted(config)


def test_a_day_is_a_day_and_a_month_is_kept(config: dict[str, Any]) -> None:
    run = {"invocation": "x", "trigger": "timer", "at": "2026-01-01T00:00:00Z"}
    days = {f"2026-01-{day:02}": {"started": 1, "runs": [run]} for day in range(1, 32)}
    Path(budget.path_of(config)).write_text(json.dumps(days))
    assert budget.exhausted(config) == ""
    budget.take(config, "a", "timer")
    kept = json.loads(Path(budget.path_of(config)).read_text())
    assert (len(kept), min(kept)) == (31, "2026-01-02")
    assert [run["invocation"] for run in budget.today(config)["runs"]] == ["a"]


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"2026-01-01": 1}', '{"2026-01-01": {"started": 1, "runs": [{}]}}', "[" * 99999,
     '{"2026-01-01": {"started": 1e999, "runs": []}}'],
    ids=["cut", "list", "number", "run", "deep", "infinite"],
)  # fmt: skip
def test_a_count_that_cannot_be_read_is_a_refusal(config: dict[str, Any], content: str) -> None:
    Path(budget.path_of(config)).write_text(content)
    calls = (budget.exhausted, budget.start, budget.figures, lambda given: budget.take(given, "a", "timer"))
    for call in calls:
        with pytest.raises(LoopError, match=r"budget\.json cannot be read as the count of the day's runs"):
            call(config)
    assert Path(budget.path_of(config)).read_text() == content


def test_the_engines_ledger_is_made_of_the_count_and_of_todays_records(config: dict[str, Any]) -> None:
    budget.take(config, "a", "timer")
    now = f"{budget.this_day()}T00:00:01Z"
    records: list[dict[str, Any]] = [
        {"started": now, "agents": 1, "numbers": {"cost_usd": 1.5, "seconds": 60}},
        {"started": now, "agents": 0, "numbers": {"cost_usd": 0.5, "seconds": 9}},
        {"started": "2020-01-01T00:00:00Z", "agents": 1, "numbers": {"cost_usd": 99, "seconds": 99}},
        {"started": now, "agents": 1, "numbers": None}, {"started": None, "numbers": {"cost_usd": 7}},
        {"started": now, "numbers": {"cost_usd": -1}}, {"started": now, "numbers": {"cost_usd": "much"}},
    ]  # fmt: skip
    assert budget.ledger(config, records) == {"runs": 1, "cost_usd": 2.0, "wall_clock_seconds": 60.0}
