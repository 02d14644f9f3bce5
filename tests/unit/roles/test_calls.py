# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the role and the playbooks are called: by whom, with which tags and limits, in whose play."""

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
TAGGED = ("apply", "canary")
# Nothing of this can be reached: no Python, nobody to become.
OUT_OF_REACH = "ansible_python_interpreter=/nonexistent ansible_become_exe=/nonexistent"
PIN = f"engineering_loop_version={'58735fa0' * 5}"
TOGETHER = {
    "Take over what the host had",
    "Make the directories, the file with the secrets and the code that runs before every cycle",
    "Build and activate the pinned engine",
    "Write the gate policy",
    "Clone what the loop works on",
    "Write the units and their settings",
}
TIMER = "Enable the timer if it is wanted and what is installed was proven"
THEIRS = f"""\
- name: A play as users of the role before have it
  hosts: loop
  serial: 1
  gather_facts: true
  become: true
  tags: [engineering_loop]
  roles:
    - role: logs
      tags: [logs]
    - role: {NAME}.engineering_loop
      tags: [engineering_loop]
    - role: vault_agent
      vars:
        seen:
          - "{{{{ engineering_loop_env_file }}}}"
          - "{{{{ engineering_loop_github_app_private_key_file }}}}"
          - "{{{{ engineering_loop_lhp_callback_enabled | bool }}}}"
          - "{{{{ engineering_loop_agent_core_trace_path }}}}"
      tags: [vault_agent]
"""


def ansible(
    directory: Path, *arguments: str, inventory: str = f"[linux]\nloop {PIN} {OUT_OF_REACH}\n"
) -> tuple[int, str]:
    """Run ansible-playbook from somewhere else, as where the collection is installed; its end and what it says."""
    (directory / "hosts").write_text(inventory, encoding="utf-8")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "hosts", *arguments],
        cwd=directory, capture_output=True, text=True, check=False,
        env={**clean, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "ANSIBLE_NOCOLOR": "1"},
    )  # fmt: skip
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def tasks(said: str) -> set[str]:
    return set(re.findall(r"engineering_loop : (.*?) TAGS: ", said))


@pytest.fixture
def play(tmp_path: Path) -> str:
    """A play of somebody else's, with other roles before and after."""
    for role, message in (("logs", "logs"), ("vault_agent", "seen {{ seen | join(' ') }}")):
        directory = tmp_path / "roles" / role / "tasks"
        directory.mkdir(parents=True)
        text = f'[{{ansible.builtin.debug: {{msg: "{message}"}}, tags: [apply]}}]'
        (directory / "main.yml").write_text(text, encoding="utf-8")
    (tmp_path / "play.yml").write_text(THEIRS, encoding="utf-8")
    return "play.yml"


# --- on which hosts


def test_every_playbook_asks_for_its_hosts_in_the_same_words() -> None:
    for path in (ROOT / "playbooks").glob("*.yml"):
        for play in yaml.safe_load(path.read_text(encoding="utf-8")):
            doing = ", doing=engineering_loop__doing" if path.stem in TAGGED else ""
            assert play["hosts"] == f"{{{{ query('{NAME}.loop_hosts'{doing}) }}}}", path


@pytest.mark.parametrize(
    ("playbook", "inventory", "arguments", "words"),
    [
        ("status", "box\n", [], "no host matches 'loop'. Name the loop host"),
        ("apply", "loop\nbox\n", ["-l", "box"], "no host matches 'loop' and --limit box"),
        (
            "bump",
            "box\n[engineering_loop]\nloop\n",
            ["-l", "box"],
            "no host matches 'engineering_loop' and --limit box",
        ),
        ("leave", "box\n", ["-e", "engineering_loop_hosts=bix"], "no host matches 'bix'"),
    ],
)
def test_nobody_to_do_it_to_is_an_error(
    tmp_path: Path, playbook: str, inventory: str, arguments: list[str], words: str
) -> None:
    status, said = ansible(tmp_path, f"{NAME}.{playbook}", *arguments, inventory=inventory)
    assert status != 0 and f"Nothing to do: {words}" in said and "-e engineering_loop_hosts=NAME" in said, said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("inventory", "arguments", "hosts"),
    [
        ("loop\n", ["-l", "loop"], "hosts (1): loop"),
        ("box\n", ["-e", "engineering_loop_hosts=box"], "hosts (1): box"),
        ("loop\n[engineering_loop]\nbox\n", [], "hosts (1): box"),
        ("a\nb\nc\n", ["-e", "engineering_loop_hosts=a:b", "-l", "b:c"], "hosts (1): b"),
        ("[engineering_loop:children]\nmore\n[more]\nbox\n", ["-l", "@wanted"], "hosts (1): box"),
    ],
)
def test_the_hosts_are_found_as_ansible_finds_them(
    tmp_path: Path, inventory: str, arguments: list[str], hosts: str
) -> None:
    (tmp_path / "wanted").write_text("box\n", encoding="utf-8")
    status, said = ansible(tmp_path, f"{NAME}.apply", *arguments, "--list-hosts", inventory=inventory)
    assert status == 0 and hosts in said, said


# --- by which tags


@pytest.mark.parametrize(
    ("playbook", "arguments"),
    [
        ("apply", ["--tags", "nonsense"]),
        ("apply", ["--skip-tags", "apply"]),
        ("apply", ["--tags", "release", "--skip-tags", "policy"]),
        ("canary", ["--tags", "canary", "--skip-tags", "canary"]),
        ("rollback", ["--tags", "apply"]),
    ],
)
def test_nothing_left_to_do_is_an_error(tmp_path: Path, playbook: str, arguments: list[str]) -> None:
    status, said = ansible(tmp_path, f"{NAME}.{playbook}", *arguments)
    assert status != 0 and f"Nothing to do: {arguments[0]}" in said.replace("--tags all ", ""), said
    assert "Traceback" not in said


@pytest.mark.parametrize("tag", ["apply", "identity", "policy", "workspace", "service"])
def test_a_tag_brings_what_belongs_together(tmp_path: Path, tag: str) -> None:
    status, said = ansible(tmp_path, f"{NAME}.apply", "--tags", tag, "--list-tasks")
    assert status == 0 and {*TOGETHER, TIMER, "Install the missing packages"} <= tasks(said), said
    assert ("Run one cycle and prove it" in said) == (tag == "apply")


@pytest.mark.parametrize(("tag", "more"), [("packages", "Install the missing packages"), ("canary", "Run one cycle")])
def test_the_others_stand_alone(tmp_path: Path, tag: str, more: str) -> None:
    status, said = ansible(tmp_path, f"{NAME}.apply", "--tags", tag, "--list-tasks")
    assert status == 0 and more in said and TIMER in tasks(said) and not TOGETHER & tasks(said), said


# --- in whose play


def test_the_inputs_are_judged_where_no_loop_host_is(tmp_path: Path, play: str) -> None:
    for name in (play, f"{NAME}.apply"):
        command = [name, "--tags", "validate", "--connection=local", "-l", "loop", "-e", "engineering_loop_apply=true"]
        status, said = ansible(tmp_path, *command)
        assert status == 0 and " changed=0 unreachable=0 failed=0 " in said, said
        assert "Refuse variables that no host could bear] *" in said
        status, said = ansible(tmp_path, *command, "-e", "engineering_loop_version=main")
        assert status != 0 and "engineering_loop_version is" in said, said
        status, said = ansible(tmp_path, *command, "-e", "engineering_loop_state_dir=var/lib")
        assert status != 0 and "engineering_loop_state_dir" in said, said


def test_tags_of_other_roles_leave_the_host_alone(tmp_path: Path, play: str) -> None:
    status, said = ansible(tmp_path, play, "--tags", "logs")
    assert status == 0 and '"msg": "logs"' in said and " failed=0 " in said, said


def test_their_tags_ask_for_all_of_it(tmp_path: Path, play: str) -> None:
    for arguments in (["--tags", "apply", "-e", "engineering_loop_apply=true"], ["--tags", "engineering_loop"], []):
        status, said = ansible(tmp_path, play, *arguments, "--list-tasks")
        assert status == 0 and {*TOGETHER, TIMER, "Run one cycle and prove it"} <= tasks(said), said


def test_later_roles_see_what_they_saw_before(tmp_path: Path, play: str) -> None:
    status, said = ansible(tmp_path, play, "--tags", "vault_agent")
    assert status == 0, said
    assert (
        "seen /opt/engineering-loop/.env /etc/engineering-loop/github-app.private-key.pem False"
        " /var/lib/engineering-loop/agent-core-trace.jsonl"
    ) in said, said


def names_in(tasks: list[dict[str, Any]]) -> set[str]:
    """The variables that these tasks set or register, and those that hold for one of them alone."""
    found: set[str] = set()
    for task in tasks:
        found |= {*task.get("vars", {}), *task.get("ansible.builtin.set_fact", {}), task.get("register", "")}
        for part in ("block", "rescue", "always"):
            found |= names_in(task.get(part, []))
    return found - {""}


def test_no_name_of_a_users_play_is_one_of_the_roles() -> None:
    """What a play has registered, or set as a fact, wins over a variable of a task of ours."""
    role = ROOT / "roles/engineering_loop"
    for path in [*role.glob("tasks/*"), *role.glob("handlers/*")]:
        names = names_in(yaml.safe_load(path.read_text(encoding="utf-8")))
        assert {name for name in names if not re.match("engineering_loop_|ansible_", name)} == set(), path.name


def test_no_file_of_a_users_play_is_one_of_the_roles(tmp_path: Path, play: str) -> None:
    before = ansible(tmp_path, play, "--list-tasks")
    (tmp_path / "tasks").mkdir()
    for path in (ROOT / "roles/engineering_loop/tasks").iterdir():
        (tmp_path / "tasks" / path.name).write_text("[{name: Theirs, ansible.builtin.debug: {}}]", encoding="utf-8")
    assert ansible(tmp_path, play, "--list-tasks") == before


# --- what is to be typed next


def test_this_run_can_be_typed_again_without_what_could_be_a_secret(tmp_path: Path) -> None:
    task = {"debug": {"msg": f"{{{{ lookup('{NAME}.playbook') }}}}."}, "tags": ["apply"]}
    own = [{"hosts": "loop", "gather_facts": False, "tasks": [task]}]
    (tmp_path / "own.yml").write_text(yaml.safe_dump(own), encoding="utf-8")
    (tmp_path / "more.yml").write_text("{}", encoding="utf-8")
    plain = ["--tags", "apply", "-e", "engineering_loop_apply=true", "-e", "@more.yml"]
    again = f"ansible-playbook -i {tmp_path}/hosts own.yml --tags apply -l loop -e engineering_loop_apply=true -e @"
    status, said = ansible(tmp_path, "own.yml", *plain)
    assert status == 0 and re.search(rf"{re.escape(again)}(/\S+/)?more.yml\.\"", said), said
    status, said = ansible(
        tmp_path, "own.yml", *plain, "-e", '{"engineering_loop_environment": {"GH_TOKEN": "s3cret"}}'
    )
    assert status == 0 and 'more.yml and what else was given by -e."' in said and "s3cret" not in said, said


def test_a_bump_says_what_to_type_and_names_other_files_only_where_there_are_some(tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    words = ["-c", "user.name=x", "-c", "user.email=x@localhost", "commit", "-q", "--allow-empty", "-m", "one"]
    for command in (["init", "-q", "-b", "main"], words):
        engine.mkdir(exist_ok=True)
        subprocess.run(["git", *command], cwd=engine, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=engine, check=True, capture_output=True, text=True).stdout
    (tmp_path / "host_vars").mkdir()
    pin = tmp_path / "host_vars/loop.yml"
    for others in (False, True):
        pin.write_text(f"engineering_loop_version: {'0' * 40}\n", encoding="utf-8")
        if others:
            (tmp_path / "group_vars").mkdir()
            (tmp_path / "group_vars/all.yml").write_text(f"engineering_loop_version: {'1' * 40}\n", encoding="utf-8")
        more = ["-e", f"engineering_loop_repo={engine}", "-e", "allow_downgrade=true"]
        status, said = ansible(tmp_path, f"{NAME}.bump", "-l", "loop", *more, inventory="loop\n")
        assert status == 0 and head.strip() in pin.read_text(encoding="utf-8"), said
        assert f"ansible-playbook -i {tmp_path}/hosts {NAME}.apply -l loop --check --diff" in said, said
        assert "With a play of your own that has the role: the same options" in said
        assert ("pinned_without_effect_in" in said) == ("group_vars/all.yml" in said) == others, said
