# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role refuses before it looks at the host: run by Ansible, one host of an inventory for each value.

Every variable of the argument specification is given one value that is wrong. Which values are, is tried in full where
the rules are, in test_variables.py of the core.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
ROLE = "as215932.engineering_loop.engineering_loop"
(ENTRY,) = yaml.safe_load((ROOT / "roles/engineering_loop/meta/argument_specs.yml").read_text(encoding="utf-8"))[
    "argument_specs"
].values()
OPTIONS: dict[str, Any] = ENTRY["options"]
SHORT = {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_CALLBACK_FORMAT_PRETTY": "0", "ANSIBLE_NOCOLOR": "1"}
# By type, what is none of it; and what cannot be made out, whatever it is for.
WRONG: dict[str, list[Any]] = {
    "bool": ["maybe", {"a": 1}, ""],
    "int": ["many", [1], "", -1],
    "float": ["nan", [1], ""],
    "str": [["a"], {"a": 1}, "a\nb", "a\u202eb", "x" * 100_001],
    "path": [["/a"], {"a": 1}, "/a\n/b", "/a\x07b"],
    "list": ["a", {"a": 1}, 7, ["x" * 100_001]],
    "dict": ["a", ["a"], 7],
    "raw": [None, "a\nb", ["a\x07b"]],
}
BROKEN = {
    "{{ nope }}/x": "'nope' is undefined",
    "{{ nope.a }}": "'nope' is undefined",
    "{{ 1 + }}": "Syntax error in template",
    "{{ lookup('ansible.builtin.file', '/nonexistent') }}": "/nonexistent",
}


def test_a_wrong_value_is_one_line_with_its_variable_and_nothing_else_is_done(tmp_path: Path) -> None:
    wrong = {kind: itertools.cycle(values) for kind, values in WRONG.items()}
    told = refused(tmp_path, {name: {name: next(wrong[option["type"]])} for name, option in OPTIONS.items()})
    for name, line in told.items():
        assert re.match(rf"{name}\b.*, but m(ust|ay) ", line), line
        assert "\n" not in line and len(line) < 400, line


def test_a_template_that_cannot_be_made_out_names_its_variable(tmp_path: Path) -> None:
    first = {option["type"]: name for name, option in reversed(OPTIONS.items())}  # of each type
    broken = itertools.cycle(BROKEN)
    given = {name: {name: next(broken)} for name in [*first.values(), "engineering_loop_version"]}
    told = refused(tmp_path, given)
    for name, line in told.items():
        why = BROKEN[given[name][name]]
        assert line.startswith(f"{name} cannot be made out: ") and why in line, line
        assert "\n" not in line and len(line) < 400, line


def test_each_of_several_is_told_in_a_line_of_its_own(tmp_path: Path) -> None:
    given = {
        "engineering_loop_keep_releases": "many",
        "engineering_loop_env_file": "{{ nope }}/x",
        "engineering_loop_frob": 1,
        "engineering_loop_repos": 7,  # from which the checkouts are made
        "engineering_loop_knowledge_mcp_url": "{{ neither }}",
    }
    lockfile = {"package": "a", "version": "1.0.0", "integrity": f"sha512-{'A' * 86}==", "program": "a"}
    told = refused(
        tmp_path, {"many": given, "lock": {"engineering_loop_agent": {**lockfile, "lockfile": "/nonexistent.json"}}}
    )
    assert re.fullmatch(
        "engineering_loop_frob is a variable that nobody knows: .*\n"
        'engineering_loop_keep_releases is "many", but must be a whole number, 1 or more\n'
        "engineering_loop_repos is 7, but must be a list of OWNER/NAME\n"
        "engineering_loop_env_file cannot be made out: 'nope' is undefined\n"
        "engineering_loop_knowledge_mcp_url cannot be made out: 'neither' is undefined",
        told["many"],
    ), told["many"]
    assert told["lock"].startswith("engineering_loop_agent.lockfile cannot be made out: "), told["lock"]
    assert "/nonexistent.json" in told["lock"]


def test_what_is_right_is_let_pass_as_text_of_the_command_line_and_from_a_vault(tmp_path: Path) -> None:
    (tmp_path / "word").write_text("secret", encoding="utf-8")
    command = [
        Path(sys.executable).with_name("ansible-vault"),
        "encrypt_string",
        "--vault-password-file=word",
        "s3cret",
    ]
    closed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    secrets = tmp_path / "secrets.yml"
    secrets.write_text(
        f"engineering_loop_environment:\n  GH_TOKEN: {closed}".replace("\n      ", "\n        "), "utf-8"
    )
    words = ["engineering_loop_keep_releases=5", "engineering_loop_canary_run=yes", "@secrets.yml"]
    only = ("--vault-password-file=word", "--tags=validate")
    said = played(tmp_path, {"right": {}}, *only, *(f"-e{word}" for word in words))
    assert "ok=1 " in said and "failed=0" in said, said
    said = played(tmp_path, {"wrong": {}}, *only, "-e@secrets.yml", "-eengineering_loop_user=a/b")
    assert "s3cret" not in said and "failed=1" in said, said


def test_the_specification_is_what_ansible_shows_of_the_role() -> None:
    command = [Path(sys.executable).with_name("ansible-doc"), "-t", "role", "--json", ROLE]
    shown = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    (entry,) = shown[ROLE]["entry_points"].values()
    assert entry["options"].keys() == OPTIONS.keys()


def played(tmp_path: Path, given: dict[str, dict[str, Any]], *more: str) -> str:
    """What the role's play says, with a host for each of ``given``."""
    known = {"ansible_connection": "local", "engineering_loop_version": "0" * 40}
    hosts = {name: {**known, **values} for name, values in given.items()}
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts}}), encoding="utf-8")
    play = {"hosts": "all", "gather_facts": False, "roles": [ROLE]}
    (tmp_path / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "hosts.json", "play.yml", *more], cwd=tmp_path,
        env={**os.environ, **SHORT, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


def refused(tmp_path: Path, given: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Why each host is refused, by its name, which is all that is done."""
    said = played(tmp_path, given)
    failed = re.findall(r"^fatal: \[(\w+)\]: FAILED! => (.*)", said, re.MULTILINE)
    told = {name: str(json.loads(result)["msg"]) for name, result in failed}
    assert told.keys() == given.keys()
    assert len(re.findall(" ok=0 +changed=0 +unreachable=0 +failed=1 ", said)) == len(given)
    assert said.count("\nTASK [") == 1
    return told
