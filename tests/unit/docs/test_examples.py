# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each example is put to what it is for: the role and the policy check it, the secrets are read, a builder reads it."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cycle import agent_check
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import secrets_file
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy import compose, schema
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import engine_help
from tools import build, survey

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples"
BIN = Path(sys.executable).parent
POLICY = ROOT / "tests/world/reference_engine/engineering-loop-policy.yml"


def run(*words: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    where = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "ANSIBLE_NOCOLOR": "1"}
    return subprocess.run([*map(str, words)], cwd=cwd, env=where, capture_output=True, text=True, check=False)


def load(name: str) -> Any:
    return yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8"))


def validate(inventory: str, *more: str) -> subprocess.CompletedProcess[str]:
    """What the role says of all hosts of an inventory, on this machine and with nothing done."""
    asked = ("--tags", "validate", "--connection", "local", *more)
    return run(BIN / "ansible-playbook", "-i", EXAMPLES / inventory, "playbooks/apply.yml", *asked)


@pytest.mark.parametrize(
    ("inventory", "hosts", "more"),
    [
        ("one-host/inventory.yml", ["loop"], ("-e", f"@{EXAMPLES}/policy-overlay.yml")),
        ("fleet/inventory.yml", ["loop1", "loop2", "loop3"], ()),
    ],
)
def test_the_role_takes_an_inventory_as_it_is(inventory: str, hosts: list[str], more: tuple[str, ...]) -> None:
    done = validate(inventory, *more)
    assert done.returncode == 0, done.stdout
    assert re.findall(r"(?m)^(\S+) +: ok=", done.stdout) == hosts


def test_a_mistake_in_an_inventory_is_found_that_way() -> None:
    done = validate("fleet/inventory.yml", "-e", '{"engineering_loop_repos": ["https://example.org/all"]}')
    assert done.returncode == 2
    assert "engineering_loop_repos" in done.stdout


def test_no_repository_of_the_fleet_has_two_hosts_and_the_canary_host_is_the_first() -> None:
    listed = json.loads(run(BIN / "ansible-inventory", "-i", EXAMPLES / "fleet/inventory.yml", "--list").stdout)
    hosts = listed["_meta"]["hostvars"]
    assert listed["engineering_loop"]["hosts"] == ["loop1", "loop2", "loop3"]
    assert listed["engineering_loop_canary"]["hosts"] == ["loop1"]
    repos = [repo for host in hosts.values() for repo in host["engineering_loop_repos"]]
    assert len(repos) == len(set(repos)) == 4
    assert [name for name in hosts if (EXAMPLES / f"fleet/host_vars/{name}.yml").read_text().count("_version:")] == [
        "loop1"
    ]


def test_the_policy_overlay_composes_and_widens_just_what_it_names() -> None:
    given = load("policy-overlay.yml")
    base = schema.load(POLICY.read_bytes(), "the release's")
    overlay, widen = given["engineering_loop_policy_overlay"], given["engineering_loop_policy_widen"]
    made = compose.compose(base, overlay, ["/var/lib/engineering-loop/runs"], widen)
    assert made.widened == widen
    assert {"defaults.max_changed_files", "defaults.denied_path_globs"} <= set(made.tightened)
    with pytest.raises(Exception, match="would let more pass than its base"):
        compose.compose(base, overlay, ["/var/lib/engineering-loop/runs"], [])


@pytest.mark.parametrize("webhook", ["https://discord.example/hook", ""])
def test_what_vault_agent_renders_is_a_file_with_secrets(webhook: str, tmp_path: Path) -> None:
    secret = {"github_token": "github_pat_a", "openrouter_api_key": "sk-or-b", "discord_webhook": webhook}
    target = tmp_path / "env"
    target.write_text(rendered((EXAMPLES / "vault-agent/engineering-loop.env.ctmpl").read_text(), secret))
    target.chmod(0o600)
    expected = {"GH_TOKEN": "github_pat_a", "OPENROUTER_API_KEY": "sk-or-b"}
    assert secrets_file.read(str(target)) == expected | ({"HYRULE_DISCORD_WEBHOOK": webhook} if webhook else {})


def rendered(template: str, secret: dict[str, str]) -> str:
    """What Go's text/template makes of the few actions that the example has; an action beside them is an error."""
    text = re.sub(r"\s*\{\{-", "{{", re.sub(r"-\}\}\s*", "}}", template))
    stack: list[bool] = []
    made: list[str] = []
    for piece in re.split(r"(\{\{.*?\}\})", text):
        action = piece.removeprefix("{{").removesuffix("}}").split() if piece.startswith("{{") else None
        if action is None:
            made += [piece] * all(stack)
        elif action == ["end"]:
            stack.pop()
        elif action[:2] == ["with", "secret"]:
            assert re.fullmatch(r'"\w+/data/[\w-]+"', action[2])
            stack.append(True)
        else:
            word = action[-1].removeprefix(".Data.data.")
            assert action[-1].startswith(".Data.data.")
            assert action[:-1] in ([], ["if"])
            if len(action) == 1:
                made += [secret[word]] * all(stack)
            else:
                stack.append(bool(secret[word]))
    assert stack == []
    return "".join(made)


def test_vault_agent_writes_where_the_role_reads_and_for_root_alone() -> None:
    text = (EXAMPLES / "vault-agent/engineering-loop.hcl").read_text(encoding="utf-8")
    said = dict(re.findall(r'(?m)^ +(\w+) += "?([^"\n]+?)"?(?: #.*)?$', text))
    assert said["destination"] == load("one-host/host_vars/loop.yml")["engineering_loop_env_file"]
    assert said["perms"] == "0600"
    assert (EXAMPLES / "vault-agent" / Path(said["source"]).name).is_file()
    assert text.count("{") == text.count("}") == 5


@pytest.mark.parametrize(
    ("name", "program"),
    [("pi", "pi"), ("claude-code", "claude"), ("codex", "codex"), ("opencode", "opencode"), ("aider", "aider")],
)
def test_a_model_policy_starts_its_agent_whatever_the_tier(name: str, program: str) -> None:
    found = agent_check.commands(str(EXAMPLES / f"model-policies/{name}.yml"))
    assert {words[0] for words in found} == {program}
    assert all("{prompt}" in words for words in found)
    # As the public engine has them: under another name it would play its mock, or hand no key on.
    assert load(f"model-policies/{name}.yml")["backends"]["default"] == "pi"


@pytest.mark.parametrize("path", sorted((EXAMPLES / "agents").glob("*.yml")), ids=lambda path: path.stem)
def test_the_variables_of_an_agent_are_right_and_fit_its_model_policy(path: Path) -> None:
    agent = load(f"agents/{path.name}")["engineering_loop_agent"]
    (program,) = {words[0] for words in agent_check.commands(str(EXAMPLES / f"model-policies/{path.name}"))}
    assert agent.get("program", Path(agent.get("path", "")).name) == program
    known = {f"{path.stem.replace('-', '_')}_integrity": f"sha512-{'A' * 86}=="}
    done = validate("one-host/inventory.yml", "-e", f"@{path}", "-e", json.dumps(known))
    assert done.returncode == 0, done.stdout


def test_a_host_that_pulls_is_told_the_same_by_the_page_and_by_the_unit() -> None:
    unit = configparser.RawConfigParser(delimiters="=", strict=True)
    unit.read(EXAMPLES / "pull/loop-pull.service")
    started = shlex.split(unit["Service"]["ExecStart"].replace("\\\n", " "))
    page = (ROOT / "docs/fleet.md").read_text(encoding="utf-8").replace("\\\n", " ")
    assert started in [
        shlex.split(line) for line in page.splitlines() if line.startswith("/opt/ansible/bin/ansible-pull")
    ]
    assert started[-1] == "apply.yml"
    (play,) = load("pull/apply.yml")
    assert (ROOT / "playbooks" / f"{play['import_playbook'].split('.')[-1]}.yml").is_file()


def test_the_requirements_name_this_repository() -> None:
    (only,) = load("requirements.yml")["collections"]
    ours = yaml.safe_load((ROOT / "galaxy.yml").read_text(encoding="utf-8"))
    assert only["name"].removesuffix(".git") == ours["repository"]


def test_ansible_builder_finds_what_the_artifact_needs_on_a_controller(tmp_path: Path) -> None:
    made = build.build(ROOT, tmp_path / "made")
    done = run(
        BIN / "ansible-galaxy",
        "collection",
        "install",
        "--force",
        "--offline",
        "-p",
        tmp_path / "there",
        made,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = yaml.safe_load(run(BIN / "ansible-builder", "introspect", tmp_path / "there").stdout)
    assert [line.split()[0] for line in found["python"]] == ["requests>=2.31"]
    assert {line.split()[0] for line in found["system"]} == {"git", "openssh-client", "openssh-clients"}
    assert (tmp_path / "there/ansible_collections/as215932/engineering_loop/examples/one-host/inventory.yml").is_file()


def test_the_engine_keeps_to_its_contract() -> None:
    engine = EXAMPLES / "engine"
    done = run(
        sys.executable, "-B", "-c", "import small_engine; small_engine.main()", "daemon", "--help", cwd=engine / "src"
    )
    asked = engine_help.options_of(done.stdout)
    contract = (ROOT / "docs/engine-contract.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"(?s)```text\n(PROGRAM daemon .*?)```", contract)
    assert done.returncode == 0 and engine_help.options_of(command) - {"--allow"} <= asked, done.stdout
    model_policy = engine / "configs/loop/model-policy.production.yml"
    assert agent_check.commands(str(model_policy)) == [["pi", "--print", "{prompt}"]]
    base = schema.load((engine / "engineering-loop-policy.yml").read_bytes(), "the example's")
    assert compose.compose(base, {}, ["/var/lib/engineering-loop/runs"], [])
    assert not re.search(r"hyrule-|loop:approved", (engine / "src/small_engine.py").read_text(encoding="utf-8"))
    locked = tomllib.loads((engine / "uv.lock").read_text(encoding="utf-8"))
    project = tomllib.loads((engine / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [(one["name"], one["version"]) for one in locked["package"]] == [(project["name"], project["version"])]


def test_the_contract_names_the_defaults() -> None:
    defaults = yaml.safe_load((ROOT / "roles/engineering_loop/defaults/main.yml").read_text(encoding="utf-8"))
    rows = (ROOT / "docs/engine-contract.md").read_text(encoding="utf-8").splitlines()
    for name in ("program", "label", "branch_prefixes", "checkout_names", "unit", "agent_programs"):
        (row,) = [line for line in rows if line.startswith(f"| `engineering_loop_{name}` |")]
        value = defaults[f"engineering_loop_{name}"]
        parts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else [value]
        assert [part for part in parts if f"`{part}`" not in row.rsplit("|", 2)[1]] == [], row


@pytest.mark.parametrize("playbook", sorted(survey.ASKED))
def test_a_survey_asks_what_the_role_knows_and_leaves_nothing_empty(playbook: str) -> None:
    spec = survey.survey(playbook)["spec"]
    assert [question["variable"] for question in spec] == list(survey.ASKED[playbook])
    for question in spec:
        assert question["required"]
        assert question["default"] != ""
        assert question["type"] != "multiplechoice" or question["default"] in question["choices"]
