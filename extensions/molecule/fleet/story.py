# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet as its operator meets it, by the playbooks themselves: story.py DIRECTORY INVENTORY [CHAPTER...].

Four booted hosts and one forge. What they share stands in group_vars, what each has of its own in host_vars; loop1 is
the canary host.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import requests
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tests/world"))
from chapters import tell

TOP = Path(__file__).resolve().parents[3]
HOME = Path(sys.argv[1])
FLEET = HOME / "fleet"
PIN = FLEET / "group_vars/engineering_loop.yml"
ENGINE = TOP / "tests/world/reference_engine"
CYCLE = "src/reference_loop_engine/cycle.py"
UNIT = "hyrule-engineering-loop"
CANARY = "engineering_loop_canary_run=true"
BIN = Path(sys.executable).parent
# As from an operator's shell: what molecule sets for its own playbooks is not for these.
SHELL = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "MOLECULE_"))}
SHELL.update(ANSIBLE_NOCOLOR="1", PATH=f"{BIN}:{os.environ['PATH']}")
stage = json.loads((HOME / "world/stage.json").read_text(encoding="utf-8"))
booted = yaml.safe_load(Path(sys.argv[2]).read_text(encoding="utf-8"))["all"]["hosts"]
SCOPES = {
    "loop1": ["AS215932/network-operations"],
    "loop2": ["AS215932/hyrule-web"],
    "loop3": ["AS215932/hyrule-mcp", "AS215932/hyrule-cloud"],
    "loop4": ["AS215932/noc-agent"],
}
HOSTS = list(SCOPES)
DIGEST = (
    "find /etc/engineering-loop /opt/engineering-loop/proven /opt/engineering-loop/receipts"
    " /usr/local/lib/engineering-loop /etc/systemd/system -type f | sort | xargs sha256sum | sha256sum"
)


# --- the forge, as a person


def ask(method: str, path: str, body: Any = None) -> Any:
    headers = {"Authorization": f"Bearer {OPERATOR}"}
    answer = requests.request(method, f"{stage['api_url']}/repos/{path}", json=body, headers=headers, timeout=30)
    answer.raise_for_status()
    return answer.json() if answer.content else None


def door(path: str, body: Any) -> Any:
    answer = requests.post(f"{stage['url']}/_forge/{path}", json=body, timeout=30)
    answer.raise_for_status()
    return answer.json()


OPERATOR = door("tokens", {"login": "operator", "role": "admin"})["token"]


def issue(repo: str, title: str, *labels: str) -> int:
    return int(ask("POST", f"{repo}/issues", {"title": title, "body": "Write one page.", "labels": labels})["number"])


def to_prove(repo: str) -> int:
    """The issue of a repository that its canary is about."""
    listed = [one for one in ask("GET", f"{repo}/issues") if one["title"] == "Prove it" and "pull_request" not in one]
    return int(listed[0]["number"]) if listed else issue(repo, "Prove it", "loop:approved")


def pulls(repo: str) -> list[str]:
    """The branches of a repository's open pull requests."""
    return [pull["head"]["ref"] for pull in ask("GET", f"{repo}/pulls?per_page=100")]


# --- the inventory


def bad_engine() -> str:
    """A version that opens its pull requests ready for review, on a branch of its own."""
    text = (ENGINE / CYCLE).read_text(encoding="utf-8")
    worse = text.replace('draft = [] if "ready" in run.orders else ["--draft"]', "draft: list[str] = []")
    assert worse != text
    return str(door("commits", {"repo": "AS215932/engineering-loop", "branch": "bad", "files": {CYCLE: worse}})["sha"])


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")


def inventory(pin: str, **scopes: list[str]) -> None:
    """Write all of it: the pin for all, and what each works on, but for those that are given otherwise."""
    write(
        FLEET / "hosts.yml",
        {"engineering_loop": {"hosts": booted}, "engineering_loop_canary": {"hosts": {"loop1": {}}}},
    )
    write(
        PIN,
        "# What all of them share.\n"
        + yaml.safe_dump(
            {
                "engineering_loop_version": pin,
                "engineering_loop_repo": stage["engine"],
                "engineering_loop_allowed_branches": ["main", "bad"],
                "engineering_loop_git_url": stage["url"],
                "engineering_loop_github_api_url": stage["api_url"],
                "engineering_loop_environment": {"GH_TOKEN": stage["token"], "OPENAI_API_KEY": "played"},
                "engineering_loop_serial": [1, "50%", "100%"],
                "engineering_loop_timer_enabled": True,
                "engineering_loop_timer_on_calendar": "yearly",
                "engineering_loop_max_runs_per_day": 20,
            }
        ),
    )
    for host, repos in {**SCOPES, **scopes}.items():
        canary = {"repo": repos[0], "issue": issues[host]}
        write(
            FLEET / f"host_vars/{host}.yml",
            {"engineering_loop_repos": repos, "engineering_loop_canary": canary},
        )


# --- the operator


def run(words: list[str], fails: bool = False) -> str:
    done = subprocess.run(
        words, cwd=TOP, env=SHELL, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    said = re.sub(r"\s+", " ", done.stdout + done.stderr)
    assert (done.returncode != 0) == fails, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Traceback" not in said and stage["token"] not in said
    return said


def play(playbook: str, *arguments: str, fails: bool = False) -> str:
    return run(["ansible-playbook", "-i", str(FLEET), str(TOP / "playbooks" / playbook), *arguments], fails)


def on(hosts: str, script: str) -> dict[str, str]:
    """What each of the hosts says to a command."""
    said = {}
    words = ["ansible", hosts, "-i", str(FLEET), "-o", "-m", "ansible.builtin.shell", "-a", script]
    done = subprocess.run(words, cwd=TOP, env=SHELL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for line in done.stdout.splitlines():
        if found := re.match(r"(\w+) \| CHANGED \| rc=0 \| \(stdout\) ?(.*)", line):
            said[found[1]] = found[2].replace("\\n", "\n").strip()
    return said


def touched(hosts: str) -> dict[str, bool]:
    return {host: text != "" for host, text in on(hosts, "ls -d /opt/engineering-loop 2>/dev/null; true").items()}


def engines() -> dict[str, tuple[str, str]]:
    """The active engine of each host, and whether its timer is on."""
    script = (
        f"basename $(readlink /opt/engineering-loop/current || echo none) | tr '\\n' ' ';"
        f" systemctl is-active {UNIT}.timer; true"
    )
    return {host: (words[0], words[1]) for host, text in on("all", script).items() if (words := text.split())}


# --- the story


def two_take_one_repository() -> None:
    """Refused with both names, whichever of them is asked for, and before anything is changed."""
    inventory(GOOD, loop3=["AS215932/hyrule-mcp", "as215932/Hyrule-Web"])
    for arguments in ([], ["-l", "loop3"], ["-l", "loop2", "--check"]):
        said = play("apply.yml", *arguments, "-e", CANARY, fails=True)
        words = "loop2 and loop3 would take the same issues, those of AS215932/hyrule-web: each repository belongs to"
        assert words in said and "Take it out of engineering_loop_repos" in said, said[-3000:]
    play("apply.yml", "-l", "loop4", "--tags", "validate")  # it is none of its business
    assert touched("all") == dict.fromkeys(HOSTS, False)


def the_canary_host_fails() -> None:
    """Nobody else is begun."""
    inventory(BAD)
    said = play("apply.yml", "-e", CANARY, fails=True)
    assert "- 1. loop1 - 2. loop2, loop3 - 3. loop4" in said, said[:2000]
    assert "the docs canary failed at outcome: expected published" in said, said[-3000:]
    assert "done: none failed: loop1 left alone: loop2, loop3, loop4" in said, said[-2000:]
    assert touched("all") == {"loop1": True, "loop2": False, "loop3": False, "loop4": False}
    (repo,) = SCOPES["loop1"]
    for branch in ask("GET", f"{repo}/branches?per_page=100"):
        if branch["name"] != "main":
            ask("DELETE", f"{repo}/git/refs/heads/{branch['name']}")


def the_canary_host_is_not_proven() -> None:
    """Without a canary in the same run nothing proves it, so the others wait."""
    inventory(GOOD)
    said = play("apply.yml", fails=True)
    assert "Nothing proves what loop1 has now" in said and "-e engineering_loop_canary_run=true" in said, said[-3000:]
    assert "done: none failed: loop1" in said, said[-2000:]
    assert touched("all") == {"loop1": True, "loop2": False, "loop3": False, "loop4": False}


def one_of_a_batch_fails() -> None:
    """The other one is carried to its end, the next batch is not begun, and what is told to type goes on from there."""
    inventory(GOOD)
    ask("DELETE", f"{SCOPES['loop3'][0]}/issues/{issues['loop3']}/labels/loop:approved")
    said = play("apply.yml", "-e", CANARY, fails=True)
    assert "does not have the label loop:approved" in said, said[-3000:]
    assert "done: loop1, loop2 failed: loop3 left alone: loop4" in said, said[-2000:]
    assert {host: one for host, one in engines().items() if one[1] == "active"}.keys() == {"loop1", "loop2"}
    assert touched("loop4") == {"loop4": False}
    ask("POST", f"{SCOPES['loop3'][0]}/issues/{issues['loop3']}/labels", {"labels": ["loop:approved"]})
    told = re.findall(
        r"goes on with those that are not done: (ansible-playbook [^']* -l loop3,loop4 -e \S+?=true)", said
    )
    assert len(told) == 1, said[-2000:]
    run(shlex.split(told[0]))
    assert engines() == dict.fromkeys(HOSTS, (GOOD, "active"))


def one_cannot_be_reached() -> None:
    """It is told with the others how far they have come."""
    own = FLEET / "host_vars/loop2.yml"
    write(own, {**yaml.safe_load(own.read_text(encoding="utf-8")), "ansible_port": 9})
    said = play("apply.yml", "-l", "loop1,loop2,loop4", "-e", "engineering_loop_serial=1", fails=True)
    inventory(GOOD)
    assert "loop2 cannot be reached; nothing was changed there." in said, said[-3000:]
    assert "done: loop1 failed: loop2 left alone: loop4" in said, said[-2000:]


def nothing_is_left_to_do() -> None:
    said = play("apply.yml", "-e", CANARY)
    assert len(re.findall(r"loop\d : ok=\d+ changed=0 unreachable=0 failed=0", said)) == len(HOSTS), said[-1000:]
    assert engines() == dict.fromkeys(HOSTS, (GOOD, "active"))


def each_issue_is_taken_once() -> None:
    """Four hosts have a cycle at the same time, and each finds work of its own."""
    repos = [repo for scope in SCOPES.values() for repo in scope]
    assert sorted(len(pulls(repo)) for repo in repos) == [0, 1, 1, 1, 1], [pulls(repo) for repo in repos]
    for host, scope in SCOPES.items():
        ask("PATCH", f"{scope[0]}/issues/{issues[host]}", {"state": "closed"})
    before = {repo: pulls(repo) for repo in repos}
    work = {scope[-1]: issue(scope[-1], f"Describe {host}", "loop:approved") for host, scope in SCOPES.items()}
    on("all", f"systemctl start {UNIT}.service")
    for repo in repos:
        new = [branch for branch in pulls(repo) if branch not in before[repo]]
        assert len(new) == (repo in work), (repo, new)
        assert all(f"_{work[repo]}/" in branch for branch in new), (repo, new)


def lend(state_of: str, to: str) -> None:
    """Have one host's state directory be another's as well, as if both had it from one file server."""
    program = """
import ctypes, os, sys
libc, (owner, other), place = ctypes.CDLL(None, use_errno=True), sys.argv[1:3], b"/var/lib/engineering-loop"
OPEN_TREE, MOVE_MOUNT, HERE = 428, 429, -100
def enter(pid):
    assert libc.setns(os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY), 0) == 0, os.strerror(ctypes.get_errno())
there = os.open(f"/proc/{other}/ns/mnt", os.O_RDONLY)
enter(owner)
tree = libc.syscall(OPEN_TREE, HERE, place, 0x8001)  # a clone of it, and of what is mounted in it
assert tree >= 0, os.strerror(ctypes.get_errno())
assert libc.setns(there, 0) == 0, os.strerror(ctypes.get_errno())
assert libc.syscall(MOVE_MOUNT, tree, b"", HERE, place, 4) == 0, os.strerror(ctypes.get_errno())
"""
    inside = {host: on(host, "readlink /proc/1/ns/mnt")[host] for host in (state_of, to)}
    pids: dict[str, str] = {}
    for link in Path("/proc").glob("[0-9]*/ns/mnt"):
        with contextlib.suppress(OSError):
            pids.setdefault(os.readlink(link), link.parts[2])  # the eldest, which stays
    subprocess.run([sys.executable, "-c", program, pids[inside[state_of]], pids[inside[to]]], check=True)


def two_share_a_state_directory() -> None:
    """Refused before anything is changed, and so is a cycle there; afterwards nothing is left to do."""
    before = on("loop4", DIGEST)
    lend("loop3", to="loop4")
    try:
        for words in (["--check"], ["-e", CANARY]):
            said = play("apply.yml", "-l", "loop4", *words, fails=True)
            assert "/var/lib/engineering-loop holds the state of the loop on another host, " in said, said[-3000:]
            assert "engineering_loop_state_dir" in said and "Nothing was changed" in said, said[-3000:]
        on("loop4", f"! systemctl start {UNIT}.service")
        told = on("loop3", "cat $(ls /var/lib/engineering-loop/cycles/*.json | tail -n 1)")["loop3"]
        assert json.loads(told)["outcome"] == "refused" and "on another host" in told, told
    finally:
        on("loop4", "umount /var/lib/engineering-loop")
    assert on("loop4", DIGEST) == before
    nothing_is_left_to_do()


def one_pin_for_all() -> None:
    """A bump moves it once, in the file that all read, and keeps what else stands there."""
    before = PIN.read_text(encoding="utf-8")
    said = play("bump.yml", "-e", f"to={NEXT}")
    assert PIN.read_text(encoding="utf-8") == before.replace(GOOD, NEXT) and GOOD in before, PIN.read_text(
        encoding="utf-8"
    )
    assert len(re.findall(r"loop\d : ok=\d+ changed=1", said)) == 1, said[-1000:]


GOOD, NEXT, BAD = stage["from"], stage["to"], bad_engine()
issues = {host: 235 if host == "loop1" else to_prove(scope[0]) for host, scope in SCOPES.items()}
CHAPTERS = (
    two_take_one_repository,
    the_canary_host_fails,
    the_canary_host_is_not_proven,
    one_of_a_batch_fails,
    one_cannot_be_reached,
    nothing_is_left_to_do,
    each_issue_is_taken_once,
    two_share_a_state_directory,
    one_pin_for_all,
)
tell(CHAPTERS)
