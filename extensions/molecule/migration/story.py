# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A user's own host comes from the in-house role and leaves again: story.py HOST DIRECTORY [STEP...].

HOST is one of tests/loophost.py, DIRECTORY/world what tests/world/stage.py put up. What stands in theirs/ is a user's
repository: inventory, play, roles, a Vault Agent that renders the secrets; the commands are those of its CI. The forge
is a GitHub Enterprise under a CA of its own.

    LONG=1 story.py ...     every way to come, else the first; or MIGRATION=token, the name of one
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import yaml

TOP = Path(__file__).resolve().parents[3]
NAME, HOME = sys.argv[1], Path(sys.argv[2])
sys.path[:0] = [str(TOP / "tests"), str(TOP / "tests" / "world")]
import demo  # noqa: E402
import loophost  # noqa: E402
from chapters import LONG  # noqa: E402

STAGE = HOME / "world" / "stage.json"
THEIRS = HOME / "theirs"
PLAY, OURS = "playbooks/engineering-loop.yml", "as215932.engineering_loop."
# Their CI, word for word.
GATE = (PLAY, "--tags", "validate", "--connection=local", "--limit", "loop")
ROLLOUT = (PLAY, "--tags", "apply", "-e", "engineering_loop_apply=true", "--limit", "loop")
CANARY = f"/repos/{demo.CANARY_REPO}/issues/{demo.CANARY_ISSUE}"
ENV, KEY = "/opt/engineering-loop/.env", "/etc/engineering-loop/github-app.private-key.pem"
RIGHTS = {"contents": "write", "issues": "read", "metadata": "read", "pull_requests": "write"}  # README's, no more
WORLD_PI, OUR_PI = "/etc/loop-world", "/etc/engineering-loop/pi"  # the agent's settings, and where the page puts them
CYCLES, WORKSPACE = "/var/lib/engineering-loop/cycles", "/var/lib/engineering-loop/workspace"
SHELL = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "MOLECULE_"))}
SHELL["PATH"] = os.defpath  # a runner's, with nobody's own Pythons in front
SHELL |= {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_COLLECTIONS_PATH": str(TOP / ".collections")}
stage = json.loads(STAGE.read_text(encoding="utf-8"))
SHELL |= {"GIT_SSL_CAINFO": stage["ca"], "REQUESTS_CA_BUNDLE": stage["ca"]}  # the user's machine trusts their forge


@dataclass(frozen=True)
class Way:
    """One way to come."""

    engine: str  # what the in-house role has deployed
    auth: str  # app | token, as Vault Agent renders it
    bare: bool  # host_vars say only what is not the in-house role's default


WAYS = {"app": Way(stage["from"], "app", bare=False), "token": Way(stage["to"], "token", bare=True)}
ASKED = os.environ.get("MIGRATION") or ("" if LONG else "app")
if ASKED and ASKED not in WAYS:
    sys.exit(f"MIGRATION={ASKED} is no way to come; there is {', '.join(WAYS)}, and LONG=1 has all")
# What nobody writes down whom the default suits.
DEFAULTS = re.compile(
    r"^engineering_loop_(user|group|\w+_(dir|file|path)|git_user\w+|packages|knowledge\w+|allowed_paths): .*\n", re.M
)


class Scene:
    """The user in front of host and forge."""

    def __init__(self, way: Way) -> None:
        self.way = way
        made = loophost.create(NAME)
        self.host = demo.Host(made["ssh"], {}, sudo=False)
        self.forge = demo.Forge(stage["url"], stage["token"])
        self.vault = HOME / "vault.json"
        self.made = made

    @property
    def secrets(self) -> dict[str, str]:
        """What Vault has now."""
        return dict(json.loads(self.vault.read_text(encoding="utf-8")))

    def check_out(self) -> None:
        """Their repository, with the addresses of this world."""
        made, way = self.made, self.way
        shutil.rmtree(THEIRS, ignore_errors=True)
        shutil.copytree(Path(__file__).with_name("theirs"), THEIRS)
        everybody = THEIRS / "inventory/group_vars/all"
        everybody.mkdir(parents=True, exist_ok=True)
        api = f"{stage['tls_url']}/api/v3"
        names = ("noc", "dns", "ntp", "icinga", "logs", "backup", "vault", "knowledge", "loop")
        peers: dict[str, Any] = {
            name: {"ipv4": f"192.0.2.{number}", "ipv6": f"2001:db8::{number}"} for number, name in enumerate(names, 10)
        }
        peers["loop"] |= {"address": made["address"], "port": made["port"]}
        peers["forge"] = {"url": stage["tls_url"], "api": api}
        known = f'-F none -oIdentitiesOnly=yes -oUserKnownHostsFile="{made["known_hosts"]}"'
        variables = {
            "peers": peers,
            "icinga_ca": Path(stage["ca"]).read_text(encoding="utf-8"),
            "loop_auth_mode": way.auth,
            "inhouse_program": str(TOP / "tests/world/inhouse.py"),
            "ansible_port": made["port"],
            "ansible_user": made["user"],
            "ansible_ssh_private_key_file": made["key"],
            "ansible_ssh_common_args": known,
        }
        (everybody / "peers.yml").write_text(yaml.safe_dump(variables), encoding="utf-8")
        if way.bare:
            path = THEIRS / "inventory/host_vars/loop.yml"
            path.write_text(DEFAULTS.sub("", path.read_text(encoding="utf-8")), encoding="utf-8")
        self.edit("inventory/host_vars/loop.yml", "58735fa051d24290f128109b4267e136316cbc86", way.engine)

    def edit(self, file: str, old: str, new: str) -> None:
        """What the user changes in their repository."""
        path = THEIRS / file
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{file} has no {old!r}"
        path.write_text(text.replace(old, new), encoding="utf-8")

    def play(self, *command: str, fails: bool = False) -> str:
        """Run a playbook to its end; what it said, on one line. No secret of theirs is among it."""
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        done = subprocess.run(
            [program, *command], cwd=THEIRS, env=SHELL, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        said = re.sub(r"\s+", " ", done.stdout + done.stderr)
        (HOME / "latest.log").write_text(done.stdout + done.stderr, encoding="utf-8")
        assert (done.returncode != 0) == fails, f"{' '.join(command)}:\n{done.stdout[-6000:]}{done.stderr[-2000:]}"
        shown = [name for name, value in self.secrets.items() if len(value) > 9 and value in done.stdout]
        assert "Traceback" not in said and not shown, f"{' '.join(command)} shows {shown or 'a traceback'}"
        return said

    def sh(self, script: str) -> str:
        return self.host.sh(script).strip()

    def rotate(self) -> None:
        """Vault has other secrets from now on, and the forge takes no older ones; Vault Agent renders them."""
        born = int(self.secrets["born"]) + 1 if self.vault.exists() else 1
        key, known = "", {"app_id": 215, "installation_id": 932}
        if self.way.auth == "app":
            key = door("apps", {**known, "permissions": RIGHTS})["private_key"]
        names = ("icinga_password", "openrouter", "anthropic", "openai", "lhp_secret", "other")
        secrets = {
            **{name: str(number) for name, number in {**known, "born": born}.items()},
            **{name: f"secret-{name}-{born}" for name in names},
            "app_key": key,
            "token": door("tokens", {"login": BOT})["token"],
        }
        self.vault.write_text(json.dumps(secrets), encoding="utf-8")
        self.host.sh(f"umask 077; cat >/srv/vault.new <<'X'\n{json.dumps(secrets)}\nX\n"
                     "mv /srv/vault.new /srv/vault.json")  # fmt: skip

    def rendered(self) -> None:
        """Wait until Vault Agent has rendered what Vault has now, as root:loop 0640."""
        self.host.wait_for(f"grep -q {self.secrets['openrouter']}$ {ENV}", 20, "Vault Agent to render the secrets")
        if self.way.auth == "app":
            line = self.secrets["app_key"].splitlines()[5]
            self.host.wait_for(f"grep -q -F -- '{line}' {KEY}", 20, "Vault Agent to render the App's key")
        assert self.sh(f"stat -c %U:%G:%a {ENV}") == "root:loop:640"

    def cycle(self) -> dict[str, Any]:
        """One cycle by the unit; its record."""
        self.host.sh(f"systemctl start {demo.UNIT}.service", check=False)
        return self.record()

    def record(self) -> dict[str, Any]:
        """The last cycle's record, whose work the agent did: where it is a real one, its own transcript says so."""
        record = dict(json.loads(self.sh(f"ls {CYCLES}/*.json | sort | tail -n 1 | xargs cat")))
        assert record["programs"] == ["pi"] and record["backend"] not in ("", "mock"), record
        if stage["agent"]["engineering_loop_agent"]:
            self.sh(f"find {record['cell']}/home/.pi/agent/sessions -name '*.jsonl' | grep .")
        return record

    def missing(self, *flags: str, file: str = "before") -> dict[str, Any]:
        return dict(json.loads(self.sh(f"python3 /srv/inhouse.py missing /srv/{file}.json {' '.join(flags)}")))


BOT = "hyrule-loop[bot]"


def door(path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = requests.post(f"{stage['url']}/_forge/{path}", json=body, timeout=30)
    answer.raise_for_status()
    return dict(answer.json())


def says(said: str, *words: str) -> None:
    for each in words:
        assert each in said, (each, said[-4000:])


# --- the steps, in the order in which a user takes them ------------------------------------------


def nothing_is_approved(scene: Scene) -> None:
    for issue in scene.forge.ask("GET", f"/repos/{demo.CANARY_REPO}/issues?state=open&labels=loop:approved"):
        demo.label(scene.forge, issue["number"], on=False)


def as_it_is(scene: Scene) -> str:
    """Their play with the in-house role; its loop has worked. Then every file is written down."""
    tidy = [str(TOP / "extensions/molecule/canary/arrange.py"), str(STAGE), '{"approved": false}']
    subprocess.run([sys.executable, *tidy], check=True)
    nothing_is_approved(scene)  # what the way before this one left
    scene.check_out()
    scene.rotate()
    world = {"loop_world_hosts": "loop", "loop_world_stage": str(STAGE)}
    world["loop_world_api_url"] = f"{stage['tls_url']}/api/v3"
    scene.play(str(demo.WORLD / "install.yml"), "-e", json.dumps({**world, "loop_world_programs": ["gh", "pi"]}))
    scene.play(PLAY)
    scene.rendered()
    number = scene.forge.approve("How a router is drained", "Explain the steps.\n")
    scene.host.sh(f"systemctl start {demo.UNIT}.service", check=False)
    run = f"/var/lib/engineering-loop/runs/issue_network_operations_{number}"
    scene.sh(f"test -d {run}")
    demo.label(scene.forge, number, on=False)
    demo.label(scene.forge, demo.CANARY_ISSUE, on=True)
    scene.sh("systemctl is-active hyrule-engineering-loop.timer && python3 /srv/inhouse.py save /srv/before.json")
    return f"{scene.missing()['of']} files, the last run in {run}"


def switched(scene: Scene) -> str:
    """The user's change: one line of the play, a few of host_vars."""
    scene.edit(PLAY, "role: engineering_loop\n", f"role: {OURS}engineering_loop\n")
    with (THEIRS / "inventory/host_vars/loop.yml").open("a", encoding="utf-8") as file:
        file.write(
            '\nengineering_loop_git_url: "{{ peers.forge.url }}"\n'
            'engineering_loop_github_api_url: "{{ peers.forge.api }}"\n'
            f"engineering_loop_canary: {{mode: docs, repo: {demo.CANARY_REPO}, issue: {demo.CANARY_ISSUE}}}\n"
            "engineering_loop_timer_on_calendar: monthly\n"
        )
        file.write(yaml.safe_dump(stage["agent"]).replace(WORLD_PI, OUR_PI))
    if stage["agent"]["engineering_loop_home_files"]:
        scene.sh(f"install -d -m 0755 {OUR_PI} && install -m 0644 {WORLD_PI}/* {OUR_PI}")
    if scene.way.engine != stage["to"]:
        scene.play(f"{OURS}bump", "-l", "loop", "-e", f"to={stage['to']}")
    pins = yaml.safe_load((THEIRS / "inventory/host_vars/loop.yml").read_text(encoding="utf-8"))
    assert pins["engineering_loop_version"] == stage["to"] and str(pins["noc_agent_version"]) == "5" * 40
    return "one line of the play, four of host_vars, the pin"


def gate(scene: Scene) -> str:
    """On a controller that is no loop host: the inputs are asserted, nothing is changed."""
    before = {path: os.path.exists(path) for path in ("/etc/engineering-loop", "/opt/engineering-loop")}
    said = scene.play(*GATE)
    says(said, " changed=0 ")
    says(scene.play(*GATE, "-e", "engineering_loop_version=main", fails=True), 'engineering_loop_version is "main"')
    assert before == {path: os.path.exists(path) for path in before}
    return "inputs asserted on the controller"


def check(scene: Scene) -> str:
    said = scene.play(*ROLLOUT, "--check", "--diff")
    says(said, "It would be taken over like this", "these have no effect, since the loop sets them itself: GIT_ASKPASS")
    lost = scene.missing("--still")
    assert lost["missing"] == [], lost
    return f"{lost['of']} files exactly as they were"


def apply(scene: Scene) -> str:
    said = scene.play(*ROLLOUT)
    says(said, "This was taken over")
    lost = scene.missing()
    assert lost["missing"] == [], lost
    assert demo.timer(scene.host)["active"] is False
    variables = yaml.safe_load((THEIRS / "inventory/host_vars/loop.yml").read_text(encoding="utf-8"))
    specs = yaml.safe_load((TOP / "roles/engineering_loop/meta/argument_specs.yml").read_text(encoding="utf-8"))
    theirs = [name for name in variables if name.startswith("engineering_loop_")]
    idle = [name for name in theirs if name not in specs["argument_specs"]["role"]["options"]]
    says(said, *idle)
    return f"{lost['of']} files still there; {len(theirs) - len(idle)} variables acted on, {len(idle)} named as idle"


def canary(scene: Scene) -> str:
    before = {pull["number"] for pull in scene.forge.pulls()}
    scene.play(f"{OURS}canary", "-l", "loop")
    new = [pull for pull in scene.forge.pulls() if pull["number"] not in before]
    assert len(new) == 1 and new[0]["draft"], new
    files = scene.forge.ask("GET", f"/repos/{demo.CANARY_REPO}/pulls/{new[0]['number']}/files")
    assert files and all(file["filename"].startswith("docs/") for file in files), files
    assert demo.timer(scene.host)["active"]
    assert scene.record()["issue"]["number"] == demo.CANARY_ISSUE
    assert stage["to"] in json.dumps(demo.receipt(scene.host))
    return f"draft #{new[0]['number']}: {files[0]['filename']}; timer on"


def rotation(scene: Scene) -> str:
    """Vault Agent renders other secrets between two cycles, and nobody applies."""
    told = []
    for title in ("How a switch is replaced", "How a link is drained"):
        number = scene.forge.approve(title, "Explain the steps.\n")
        scene.rotate()
        scene.rendered()
        record = scene.cycle()
        assert (record["outcome"], record["issue"]["number"]) == ("published", number), record
        told.append(f"#{number} {record['pr_url'].rsplit('/', 1)[1]}")
    return f"published with new secrets: {', '.join(told)}"


def again(scene: Scene) -> str:
    """Their commands once more change nothing, and neither does the whole play."""
    said = scene.play(*ROLLOUT)
    says(said, " changed=0 ")
    says(scene.play(PLAY, "-e", "engineering_loop_apply=true", "--diff"), " changed=0 ")
    scene.rendered()
    assert demo.timer(scene.host)["active"]
    says(scene.play(f"{OURS}status", "-l", "loop"), " well ", " proven ", "published", "perms = ")
    return "changed=0"


def leave(scene: Scene) -> str:
    cells = scene.sh("ls -d /var/lib/engineering-loop/runs/*-???????? | sort")
    said = scene.play(f"{OURS}leave", "-l", "loop")
    says(said, "kept: ", ENV)
    lost = scene.missing()
    # What Vault has replaced since is there as Vault has it now.
    scene.rendered()
    rotated = {ENV, *([KEY] if scene.way.auth == "app" else [])}
    assert set(lost["missing"]) == rotated, lost
    assert scene.sh("ls -d /var/lib/engineering-loop/runs/*-???????? | sort") == cells
    scene.sh("! systemctl cat hyrule-engineering-loop.timer && ! ls /opt/engineering-loop/current")
    return f"{lost['of']} files, {len(cells.split())} cells still there"


def back(scene: Scene) -> str:
    """To the in-house role again, which finds everything as it was."""
    cells = scene.sh("ls -d /var/lib/engineering-loop/runs/*-???????? | sort")
    way_back = (f"{OURS}leave", "-l", "loop", "-e", "engineering_loop_leave_put_back=true")
    if LONG:
        says(scene.play(*way_back, "--check"), "It would be put back like this")
    says(scene.play(*way_back), "This was put back, with its owners")
    if LONG:
        says(scene.play(*way_back), " changed=0 ", "or it is back already")
    scene.edit(PLAY, f"role: {OURS}engineering_loop\n", "role: engineering_loop\n")
    scene.play(PLAY)
    scene.rendered()
    lost = scene.missing("--still")
    # Vault has replaced its own since; lessons went through each of our cycles, which gave them other modes.
    vault = {ENV, *([KEY] if scene.way.auth == "app" else [])}
    assert {path for path in lost["missing"] if f"{WORKSPACE}/hyrule-infra/memory/" not in path} == vault, lost
    assert set(scene.missing()["missing"]) == vault
    scene.sh(f"! find {WORKSPACE} -not -user loop | grep .")
    assert scene.sh("ls -d /var/lib/engineering-loop/runs/*-???????? | sort") == cells
    scene.sh("systemctl is-active hyrule-engineering-loop.timer hyrule-reliability-governor.timer")
    assert scene.sh("getent passwd loop | cut -d: -f6") == "/var/lib/engineering-loop"
    nothing_is_approved(scene)  # the old engine takes what has a pull request again
    number = scene.forge.approve("How a rack is cooled", "Explain the steps.\n")
    scene.host.sh(f"systemctl start {demo.UNIT}.service", check=False)
    scene.sh(f"test -d /var/lib/engineering-loop/runs/issue_network_operations_{number}")
    return f"{lost['of']} files exactly as they were, {len(cells.split())} cells beside; the old engine took #{number}"


STEPS: tuple[Callable[[Scene], str], ...] = (
    as_it_is, switched, gate, check, apply, canary, rotation, again, leave, back,
)  # fmt: skip


def main() -> None:
    for number, way in enumerate([WAYS[ASKED]] if ASKED else WAYS.values()):
        if number:
            loophost.destroy(NAME)
            (HOME / "vault.json").unlink()
        scene = Scene(way)
        print(f"from {way.engine[:12]} with {way.auth}", flush=True)
        for step in [each for each in STEPS if not sys.argv[3:] or each.__name__ in sys.argv[3:]]:
            began = time.monotonic()
            told = step(scene)
            print(f"{step.__name__.replace('_', ' ')}: {told} ({time.monotonic() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
