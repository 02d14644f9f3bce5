# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The variables of the role that users come from: each is taken with its meaning, or named as without one."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import engine_options

ROOT = Path(__file__).resolve().parents[3]
ROLE = ROOT / "roles/engineering_loop"

TAKEN = re.findall(
    r"\w+",
    """
    apply user group install_dir config_dir env_file state_dir workspace_dir runs_dir daemon_state_dir memory_dir
    legacy_memory_dir lib_dir repo version repos workspace_repositories allowed_paths max_runs_per_day
    max_cost_usd_per_day timer_enabled git_user_name git_user_email packages
    """,
)
# Where the old role put things: they are taken over, or they are variables of later versions.
OTHERS = re.findall(
    r"\w+",
    """
    git_askpass_path github_app_token_path daemon_wrapper_path github_app_private_key_file
    knowledge_context_enabled knowledge_mcp_url knowledge_mcp_transport knowledge_context_budget
    knowledge_context_timeout knowledge_learning_dir governor_timer_enabled governor_repos governor_state_dir
    governor_limit governor_wrapper_path governor_timer_calendar noc_lhp_base_url lhp_callback_enabled
    agent_core_trace_enabled agent_core_trace_path agent_core_trace_collector_url insight_records_enabled
    coordinator_enabled coordinator_url icinga_ca_src icinga_ca_dest
    """,
)


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


KNOWN = load(ROLE / "meta/argument_specs.yml")["argument_specs"]["role"]["options"]
VARS = load(ROLE / "vars/main.yml")
IDLE = re.compile(f"({'|'.join(VARS['engineering_loop__not_acted_on'])})\\Z")


def trusted(value: Any) -> Any:
    """Ansible expands only what it was told to trust, as it does with a role's files."""
    if isinstance(value, dict):
        return {key: trusted(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [trusted(inner) for inner in value]
    return trust_as_template(value) if isinstance(value, str) else value


def template(expression: str, **given: Any) -> Any:
    """What the role makes of an expression, with its own defaults and these variables."""
    every = {**load(ROLE / "defaults/main.yml"), **VARS}
    templar = Templar(loader=DataLoader(), variables={**trusted(every), **given})
    return templar.template(trust_as_template(expression))


@pytest.mark.parametrize("name", TAKEN)
def test_it_is_taken(name: str) -> None:
    assert f"engineering_loop_{name}" in KNOWN
    assert not IDLE.match(f"engineering_loop_{name}")


@pytest.mark.parametrize("name", OTHERS)
def test_it_is_taken_or_named(name: str) -> None:
    assert (f"engineering_loop_{name}" in KNOWN) != bool(IDLE.match(f"engineering_loop_{name}"))


def test_every_default_and_every_variable_of_the_example_is_known() -> None:
    example = load(ROOT / "extensions/molecule/takeover/vars/inhouse.yml")
    ours = {name for name in example if name.startswith("engineering_loop_")}
    # What is not in it stands in the scenario's converge.yml.
    world = {"apply", "repo", "version"}
    assert {f"engineering_loop_{name}" for name in [*TAKEN, *OTHERS[:4]] if name not in world} <= ours
    assert len(example) - len(ours) == 40
    for name in [*ours, *load(ROLE / "defaults/main.yml")]:
        assert name in KNOWN or IDLE.match(name), name


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["docs"], {"a": ["docs"], "b": ["docs"]}),
        ([], {"a": [], "b": []}),
        ({"a": ["docs", "src"]}, {"a": ["docs", "src"]}),
        ({}, {}),
    ],
)
def test_allowed_paths_are_a_list_for_all_or_a_dictionary(given: Any, wanted: dict[str, list[str]]) -> None:
    checkouts = [{"repo": "o/a", "dest": "a"}, {"repo": "o/b", "dest": "b"}]
    found = template(
        "{{ engineering_loop__allowed_paths }}",
        engineering_loop_allowed_paths=given,
        engineering_loop_workspace_repositories=checkouts,
    )
    assert found == wanted


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("https://github.com/o/network-operations.git", "o/network-operations"),
        ("https://github.com/o/name", "o/name"),
        ("o/name", "o/name"),
        ("https://example.org/o/name.git", "https://example.org/o/name.git"),
        ("https://github.com/o/as215932.net.git", "o/as215932.net"),
    ],
)
def test_a_url_below_the_git_url_is_its_repository(given: str, wanted: str) -> None:
    found = template(
        "{{ engineering_loop__workspace_repositories }}",
        engineering_loop_workspace_repositories=[{"repo": given, "dest": "x", "version": "main"}],
    )
    assert found == [{"repo": wanted, "dest": "x", "version": "main"}]


def test_checkouts_have_the_names_that_the_engine_looks_for() -> None:
    found = template("{{ engineering_loop__workspace_repositories }}")
    assert {entry["repo"]: entry["dest"] for entry in found}["AS215932/network-operations"] == "hyrule-infra"
    assert {entry["repo"]: entry["dest"] for entry in found}["AS215932/noc-agent"] == "hyrule-noc-agent"
    assert len(found) == 8


def test_what_our_code_needs_is_installed_whatever_is_listed() -> None:
    found = template("{{ engineering_loop__packages }}", engineering_loop_packages=["curl"])
    assert {"curl", "git", "python3-requests", "python3-yaml", "python3-venv"} <= set(found)


def test_wrapper_scripts_elsewhere_are_taken_over() -> None:
    found = template("{{ engineering_loop__layout }}", engineering_loop_daemon_wrapper_path="/usr/local/sbin/run")
    assert found["wrappers"] == ["/usr/local/sbin/run"]
    assert found["legacy_memory_dir"] == "/var/lib/engineering-loop/workspace/hyrule-infra/memory"
    assert found["env_rendered"] is False


NOTHING_TOLD = (
    "{{ [engineering_loop__engine_options, engineering_loop__engine_environment, engineering_loop__trace_file] }}"
)


def test_an_engine_is_told_nothing_that_nobody_asked_for() -> None:
    assert template(NOTHING_TOLD) == [[], {}, ""]
    assert template("{{ engineering_loop__governor.options }}") == {}


def test_what_the_engine_is_told() -> None:
    given = {
        "knowledge_context_enabled": "yes", "knowledge_mcp_url": "http://m/mcp", "knowledge_learning_dir": "/v/learned",
        "max_iterations_per_run": 3, "require_reliability_decision": True, "noc_lhp_base_url": "http://n",
        "lhp_callback_enabled": True, "agent_core_trace_enabled": True, "agent_core_trace_collector_url": "http://c",
        "insight_records_enabled": True, "icinga_ca_src": "ca.crt", "daemon_args": ["--dry-run"],
        "agent_environment": {"N": 7},
    }  # fmt: skip
    named = {f"engineering_loop_{name}": value for name, value in given.items()}
    knowledge = [
        ["--knowledge-context"], ["--knowledge-mcp-url", "http://m/mcp"],
        ["--knowledge-mcp-transport", "streamable-http"],
        ["--knowledge-context-budget", "6000"], ["--knowledge-context-timeout", "20"],
    ]  # fmt: skip
    others = [["--knowledge-learning-dir", "/v/learned"], ["--max-iterations-per-run", "3"]]
    seen = template("{{ engineering_loop__engine_options }}", **named)
    assert seen == [*knowledge, *others, ["--require-reliability-decision"]]
    assert template("{{ engineering_loop__governor.options }}", **named) == {
        one[0]: one[1] if one[1:] else "" for one in knowledge
    }
    trace, trust = "/var/lib/engineering-loop/agent-core-trace.jsonl", "/etc/ssl/certs/ca-certificates.crt"
    assert template("{{ engineering_loop__engine_environment }}", **named) == {
        "ENGINEERING_LOOP_NOC_LHP_BASE_URL": "http://n", "ENGINEERING_LOOP_LHP_CALLBACK_ENABLED": "1",
        "HYRULE_ENGINEERING_AGENT_CORE_TRACE": "1", "HYRULE_ENGINEERING_AGENT_CORE_TRACE_PATH": trace,
        "HYRULE_ENGINEERING_AGENT_CORE_TRACE_COLLECTOR_URL": "http://c", "HYRULE_ENGINEERING_INSIGHT_RECORDS": "1",
        "SSL_CERT_FILE": trust, "REQUESTS_CA_BUNDLE": trust,
    }  # fmt: skip
    layout = template("{{ engineering_loop__layout }}", **named)
    assert layout["stays"] == [trace, "/v/learned"] and layout["daemon_args"][4:6] == [
        "--dry-run",
        "--knowledge-context",
    ]
    assert template("{{ engineering_loop__agent_environment }}", **named) == {"N": "7"}
    assert "logrotate" in template("{{ engineering_loop__packages }}", **named)


@pytest.mark.parametrize(
    ("url", "ports", "found"),
    [
        ("http://127.0.0.1:8767/mcp", [], True), ("http://127.0.0.1:8767/mcp", ["8767"], False),
        ("http://[::1]:8767/mcp", [80], True), ("http://localhost/mcp", [], True), ("http://localhost", [80], False),
        ("http://[2001:db8::7]:8767/mcp", [], False), ("https://localhost.example/mcp", [], False),
    ],
)  # fmt: skip
def test_what_is_on_the_host_itself_is_said(url: str, ports: list[Any], found: bool) -> None:
    given = {"engineering_loop_knowledge_mcp_url": url, "engineering_loop_egress_local": ports}
    assert template("{{ engineering_loop__unreached }}", **given) == []
    seen = template("{{ engineering_loop__unreached }}", engineering_loop_knowledge_context_enabled=True, **given)
    assert seen == [url] * found


def test_each_option_is_one_of_a_variable() -> None:
    """What the core says of a flag names the variable that asks for it."""
    assert all(f"engineering_loop_{name}" in KNOWN for name in engine_options.VARIABLES.values())
    assert all(f"engineering_loop_{name}" in KNOWN for name in engine_options.OWN.values() if name)


def test_the_agent_as_the_settings_have_it() -> None:
    package = {"package": "@a/b", "version": "1.0.0", "integrity": "i", "program": "claude"}
    lock = hashlib.sha256(b"{}\n").hexdigest()
    for given, wanted in (
        ({}, {}),
        ({"path": "/usr/bin/pi"}, {"path": "/usr/bin/pi", "program": "pi"}),
        ({"path": "/opt/pi/cli", "program": "pi"}, {"path": "/opt/pi/cli", "program": "pi"}),
        ({**package, "lockfile": "agent-lock.json"}, {**package, "lock": lock}),
    ):
        found = template(
            "{{ engineering_loop__agent }}", engineering_loop_agent=given, engineering_loop__lockfile="{}\n"
        )
        assert found == wanted
    assert template("{{ engineering_loop__agent }}", engineering_loop_agent=package) == {**package, "lock": ""}
    found = template(
        "{{ [engineering_loop__agent_programs, engineering_loop__packages] }}", engineering_loop_agent=package
    )
    assert found[0] == ["pi", "claude"] and {"nodejs", "npm"} <= set(found[1])
    assert not {"nodejs", "npm"} & set(template("{{ engineering_loop__packages }}"))


@pytest.mark.parametrize("no", ["no", "false", "off", False, 0])
def test_what_means_no_is_no_in_a_job(no: Any) -> None:
    job = {"name": "look", "command": ["engine"], "proof": no, "enabled": no, "network": no}
    (found,) = template("{{ engineering_loop__jobs }}", engineering_loop_jobs=[job])
    assert (found["proof"], found["enabled"], found["network"]) == (False, False, False)
    (usual,) = template("{{ engineering_loop__jobs }}", engineering_loop_jobs=[{"name": "look", "command": ["engine"]}])
    assert (usual["proof"], usual["enabled"], usual["network"]) == (True, True, False)
