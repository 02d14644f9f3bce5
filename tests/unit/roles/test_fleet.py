# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an inventory says of several loops, as Ansible reads it: who would meet whom, and who comes when.

The rules themselves are tried in full in test_fleet.py of the core. Nothing is reached here: ``--tags validate``
looks at the inventory alone.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
NAME = "as215932.engineering_loop"
COMMON = {"engineering_loop_version": "58735fa0" * 5}
SAME = "would take the same issues, those of"


def scope(*repos: Any, **more: Any) -> dict[str, Any]:
    """What stands in the inventory of one host."""
    return {"engineering_loop_repos": list(repos), **more}


def validate(
    directory: Path,
    hosts: dict[str, Any],
    *arguments: str,
    playbook: str = f"{NAME}.apply",
    group: str = "engineering_loop",
    **groups: Any,
) -> tuple[int, str]:
    """Judge an inventory of these loops, with the variables of each; how it ended and what was said."""
    given: dict[str, Any] = {group: {"hosts": hosts, "vars": COMMON if group != "all" else {}}, **groups}
    (directory / "hosts.yml").write_text(yaml.safe_dump(given), encoding="utf-8")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")), "-i", "hosts.yml", playbook,
            "--tags", "validate", *arguments,
        ],
        cwd=directory, capture_output=True, text=True, check=False,
        env={
            **clean, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        },
    )  # fmt: skip
    said = " ".join((done.stdout + done.stderr).split())
    assert "Traceback" not in said, said
    return done.returncode, said


def test_a_repository_of_two_is_refused_before_any_host_also_where_one_is_asked_for(tmp_path: Path) -> None:
    hosts = {"one": scope("o/a"), "two": scope("o/b", "O/A"), "three": scope("o/c")}
    for arguments in (["-l", "one"], ["-l", "three:two"], []):
        status, said = validate(tmp_path, hosts, *arguments)
        assert status != 0 and f"one and two {SAME} o/a: each repository belongs" in said, said
        assert said.count(f'"msg": "one and two {SAME}') == 1, said
    status, said = validate(tmp_path, hosts, "-l", "three")
    assert status == 0 and SAME not in said, said


def test_what_two_may_share_is_named_by_both_and_recorded(tmp_path: Path) -> None:
    allowed = {"engineering_loop_repos_shared_unsafely": ["o/a"]}
    status, said = validate(tmp_path, {"one": scope("o/a", **allowed), "two": scope("o/a")}, "-l", "one")
    assert status != 0 and SAME in said, said
    status, said = validate(tmp_path, {name: scope("o/a", **allowed) for name in ("one", "two")})
    assert status == 0, said
    wrong = {"engineering_loop_repos_shared_unsafely": ["a"]}
    status, said = validate(tmp_path, {"one": scope("o/a", **wrong)})
    assert status != 0 and 'shared_unsafely[0] is \\"a\\", but must be OWNER/NAME, or * for all' in said, said


def test_the_default_list_of_the_role_counts(tmp_path: Path) -> None:
    status, said = validate(tmp_path, {"one": scope("AS215932/hyrule-web"), "two": {}}, "-l", "one")
    assert status != 0 and f"one and two {SAME} AS215932/hyrule-web" in said, said
    assert "(two has the role's default list, having none of its own)" in said, said


def test_a_host_that_is_given_back_is_no_loop(tmp_path: Path) -> None:
    hosts = {"one": scope("o/a"), "two": scope("o/a", engineering_loop_state="absent")}
    status, said = validate(tmp_path, hosts, "-l", "one")
    assert status == 0, said


def test_what_only_facts_could_tell_is_said_to_be_that(tmp_path: Path) -> None:
    hosts = {"one": scope("o/a"), "two": {"engineering_loop_repos": "{{ ansible_facts.loop_repos }}"}}
    status, said = validate(tmp_path, hosts, "-l", "one")
    assert status != 0 and "engineering_loop_repos of two cannot be made out: " in said, said
    assert "So nobody can tell whether two takes the issues of another loop" in said, said
    hosts["two"]["engineering_loop_repos_shared_unsafely"] = ["*"]
    status, said = validate(tmp_path, hosts, "-l", "one")
    assert status == 0, said


def test_variables_are_those_of_the_host_that_has_them(tmp_path: Path) -> None:
    """A template is made out for each, whether it stands in the inventory or in the play."""
    hosts = {name: {"scope": [f"o/{name}"]} for name in ("one", "two")}
    templated = {name: {**own, "engineering_loop_repos": "{{ scope }}"} for name, own in hosts.items()}
    status, said = validate(tmp_path, templated)
    assert status == 0, said
    role = {"role": f"{NAME}.engineering_loop"}
    for repos, ends in (("{{ scope }}", True), (["o/a"], False), ("{{ scope + ['o/a'] }}", False)):
        own = {
            "hosts": "engineering_loop",
            "gather_facts": False,
            "roles": [role],
            "vars": {"engineering_loop_repos": repos},
        }
        (tmp_path / "own.yml").write_text(yaml.safe_dump([own]), encoding="utf-8")
        status, said = validate(tmp_path, hosts, playbook="own.yml")
        assert (status == 0, f"one and two {SAME} o/a" not in said) == (ends, ends), said


def test_one_machine_is_seen_by_its_address_and_the_way_there(tmp_path: Path) -> None:
    def told(**second: Any) -> str:
        hosts = {
            "one": scope("o/a", ansible_host="10.0.0.1"),
            "two": scope("o/b", ansible_host="10.0.0.1", ansible_port=22, **second),
        }
        return validate(tmp_path, hosts, "-l", "one")[1]

    assert "one and two are one machine, 10.0.0.1, and one loop under two names" in told()
    assert "must not have the same engineering_loop_install_dir" in told(engineering_loop_state_dir="/srv/loop")
    assert "failed=0" in told(ansible_ssh_common_args="-J jump")


def test_without_the_group_the_loops_are_known_by_their_variables(tmp_path: Path) -> None:
    hosts = {"loop": {**COMMON, **scope("o/a")}, "web": {}, "second": {**COMMON, **scope("o/a")}}
    status, said = validate(tmp_path, hosts, "-l", "loop", group="all")
    assert status != 0 and f"loop and second {SAME} o/a" in said, said
    del hosts["web"]  # what every host has says nothing of any
    status, said = validate(tmp_path, hosts, "-l", "loop", group="all")
    assert status == 0, said


# --- who comes when


FOUR = {name: scope(f"o/{name}") for name in ("a", "b", "c", "d")}


@pytest.mark.parametrize(
    ("common", "arguments", "order"),
    [
        ({}, [], "1. a 2. b 3. c 4. d"),
        ({"engineering_loop_serial": [1, "100%"]}, [], "1. a 2. b, c, d"),
        ({"engineering_loop_serial": "100%", "engineering_loop_fleet_first": "c"}, [], "1. c 2. a, b, d"),
        ({"engineering_loop_fleet_first": ["d", "b"]}, ["-l", "a:b:d"], "1. b 2. d 3. a"),
        ({"engineering_loop_fleet_first": "c"}, ["-e", "engineering_loop_serial=2,100%", "-l", "a:b"], "1. a, b"),
    ],
)
def test_the_order_is_told_and_kept(tmp_path: Path, common: dict[str, Any], arguments: list[str], order: str) -> None:
    status, said = validate(tmp_path, FOUR, *arguments, fleet={"children": {"engineering_loop": {}}, "vars": common})
    told = " ".join(re.findall(r'"(\d+\. [a-d, ]+)"', said))
    assert status == 0 and told == order, said
    taken = re.findall(r"Refuse variables that no host could bear\] \*+ ((?:ok: \[\w\] ?)+)", said)
    assert [sorted(re.findall(r"\[(\w)\]", batch)) for batch in taken] == [
        batch.split(", ") for batch in re.findall(r"\d+\. ([a-d, ]+?)(?= \d|$)", order)
    ], said


def test_the_canary_group_comes_first(tmp_path: Path) -> None:
    status, said = validate(tmp_path, FOUR, engineering_loop_canary={"hosts": {"b": {}}})
    assert status == 0 and '"1. b", "2. a"' in said, said


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (
            {"a": {"engineering_loop_serial": 2}},
            "engineering_loop_serial is 2 for a and not set for b, but a run has one",
        ),
        (
            {"a": {}, "all": {"engineering_loop_serial": "some"}},
            "engineering_loop_serial is some, but must be a number of",
        ),
        (
            {"a": {}, "all": {"engineering_loop_fleet_first": "e"}},
            "engineering_loop_fleet_first names e, which is no host",
        ),
    ],
)
def test_an_order_that_is_none_is_refused(tmp_path: Path, own: dict[str, Any], words: str) -> None:
    hosts = {name: {**FOUR[name], **(own.get(name, {}))} for name in FOUR}
    status, said = validate(tmp_path, hosts, fleet={"children": {"engineering_loop": {}}, "vars": own.get("all", {})})
    assert status != 0 and words in said and "Refuse variables" not in said, said


@pytest.mark.parametrize(
    ("serial", "done", "failed", "left"),
    [("1,2,1", "a, b", "c", "d"), ("2", "a, b", "c, d", "none"), ("1", "a, b", "c", "d")],
)
def test_how_far_the_hosts_have_come_is_told_once_with_the_command_for_the_rest(
    tmp_path: Path, serial: str, done: str, failed: str, left: str
) -> None:
    wrong = {name: scope(f"o/{name}", engineering_loop_version="main") for name in failed.split(", ")}
    status, said = validate(tmp_path, {**FOUR, **wrong}, "-e", f"engineering_loop_serial={serial}")
    assert status != 0 and f'"done": "{done}", "failed": "{failed}", "left alone": "{left}"' in said, said
    assert said.count('"done":') == 1, said
    assert f"{NAME}.apply --tags validate -l c,d -e engineering_loop_serial={serial}" in said, said
