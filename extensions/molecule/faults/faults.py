# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong while an apply runs, one fault after the other, on a booted host with the forge of the tests.

    python faults.py HOST WORLD [FAULT ...]      a host of tests/loophost.py, and what tests/world/stage.py put up
    FAULTS="two_pins killed" python faults.py ... some of them; LONG=1 all
    KILLS=50 python faults.py HOST WORLD killed  so many applies killed; else one, or three where LONG=1

After each fault the same must hold: what was active is active, nothing half-made stays, and an apply converges.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import requests

TOP = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(TOP / "tests"), str(TOP / "tests" / "world")]
import demo  # noqa: E402
import engine  # noqa: E402
import forge_store  # noqa: E402
import loophost  # noqa: E402
import stage  # noqa: E402
from chapters import LONG  # noqa: E402

OPT, ETC, LIB = "/opt/engineering-loop", "/etc/engineering-loop", "/usr/local/lib/engineering-loop"
STATE = "/var/lib/engineering-loop"
PLAYBOOK = str(Path(sys.executable).with_name("ansible-playbook"))
ALWAYS = {"engineering_loop_timer_enabled": False, "engineering_loop_repos": [demo.CANARY_REPO]}
ONE_AT_A_TIME = "another apply, by .*, began at .* while this one was under way.* run this again if"
DEAD = "http://127.0.0.1:9"
ASKED = os.environ.get("FAULTS", "").split()
SOURCES = engine.sources()
# Whatever an apply runs on the host is in the group of sshd, where the tasks came in; all but this shell goes.
KILL = """
for list in $(find /sys/fs/cgroup \\( -path '*ssh*' -o -path '*user-*' \\) -name cgroup.procs); do
  for pid in $(cat $list); do
    case $pid:$(cat /proc/$pid/comm 2>/dev/null) in $$:*|*:sshd*|*:) ;; *) kill -KILL $pid 2>/dev/null ;; esac
  done
done
"""


class FaultError(Exception):
    """It did not end as it must; the text says what was seen."""


def must(seen: object, what: str) -> None:
    if not seen:
        raise FaultError(what)


class Scene:
    """The host, the forge and the operator in front of both."""

    def __init__(self, name: str, world: Path) -> None:
        made = loophost.create(name)
        self.stage = json.loads((world / "stage.json").read_text(encoding="utf-8"))
        self.engine_git = world / "forge/git" / f"{stage.ENGINE_REPO}.git"
        self.host = demo.Host(made["ssh"], demo.variables_of(made), sudo=False)
        self.forge = demo.Forge(self.stage["url"], self.stage["token"])
        demo.HOME = world
        self.operator = demo.Operator(self.host, self.forge, self.stage)
        self.inventory = world / "inventory/inventory.yml"
        self.a, self.b = self.stage["from"], self.stage["to"]
        self.born = int(time.time())
        self.latest: subprocess.Popen[str] | None = None

    def commit(self, message: str, files: dict[str, str], branch: str = "main") -> str:
        """Another commit of the engine, where the forge serves it."""
        self.born += 60
        return forge_store.commit_files(self.engine_git, branch, files, message, self.born)

    def start(self, sha: str, variables: dict[str, Any] | None = None, **environment: str) -> subprocess.Popen[str]:
        """An apply of ``sha`` in a process group of its own; ``environment`` is that of its tasks on the host."""
        given = {"engineering_loop_version": sha, **ALWAYS, **(variables or {})}
        playbook = self.inventory.parent / "apply.yml"
        role = {"role": "as215932.engineering_loop.engineering_loop"}
        play = {"hosts": "loop", "gather_facts": False, "environment": environment, "roles": [role]}
        playbook.write_text(json.dumps([{**play, "vars": {"engineering_loop_apply": True}}]), encoding="utf-8")
        self.latest = subprocess.Popen(
            [PLAYBOOK, "-i", str(self.inventory), "-e", json.dumps(given), str(playbook)],
            cwd=TOP, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True, env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_ROLES_PATH": ""},
        )  # fmt: skip
        return self.latest

    def until(self, process: subprocess.Popen[str], moment: str) -> None:
        """Wait while an apply runs until it has come to that moment, which a script on the host sees."""
        while not self.host.sh(f"if {moment}; then echo yes; fi", check=False):
            must(process.poll() is None, "an apply ended before the moment that it was to be met at")
            time.sleep(0.2)

    def apply(self, sha: str, variables: dict[str, Any] | None = None, **environment: str) -> list[str]:
        """Apply, which must succeed; the tasks that changed something."""
        process = self.start(sha, variables, **environment)
        told = process.communicate()[0]
        must(process.returncode == 0, f"an apply failed: {told[-1500:]}")
        found = [
            part.split("]", 1)[0] for part in told.split("\nTASK [") if re.search(r"^changed: \[", part, re.MULTILINE)
        ]
        if re.findall(r"changed=(\d+)", told)[-1] == "0":
            return []
        return found or [told[-3000:]]

    def refused(self, why: str, sha: str, variables: dict[str, Any] | None = None, **environment: str) -> None:
        """Apply, which must fail with one line that matches ``why`` and leave what was active."""
        before = self.active()
        process = self.start(sha, variables, **environment)
        told = " ".join(process.communicate()[0].split())
        must(process.returncode, "an apply succeeded that must not")
        must(re.search(why, told), f"an apply failed, but not with {why!r}: {told[-1500:]}")
        must("Traceback" not in told, f"a traceback: {told[-1500:]}")
        must(self.active() == before, f"{self.active()} is active, it was {before}")

    def active(self) -> str:
        return Path(self.host.sh(f"readlink {OPT}/current || :").strip()).name

    def converged(self, sha: str, variables: dict[str, Any] | None = None) -> None:
        """One apply succeeds, the next has nothing to change, and nothing is there that only a fault leaves."""
        changed = self.apply(sha, variables) and self.apply(sha, variables)
        must(not changed, f"an apply after the apply changed: {'; '.join(changed)}")
        must(self.active() == sha, f"{self.active()} is active, not {sha}")
        stale = self.host.sh(
            f"find {OPT} {ETC} {LIB} /etc/systemd/system -maxdepth 3"
            r" \( -name '.trash-*' -o -name '*.new' -o -name '.index' \) -print;"
            f"find {OPT}/mirror.git {STATE}/pristine -name '*.lock' -print;"
            f"find {STATE} -maxdepth 2 -name '.making-*' -print;"
            f"for one in {OPT}/releases/*; do [ -e $one/.release.json ] || echo $one; done;"
            f"find {OPT}/current/ {OPT}/uv/ ! -user root -print; dpkg --audit"
        )
        must(not stale, f"left over: {stale}")

    def ledger(self) -> list[str]:
        return [one["sha"] for one in json.loads(self.host.sh(f"cat {OPT}/releases.json"))["history"]]

    def account(self) -> dict[str, Any]:
        """Of the last cycle."""
        found: dict[str, Any] = json.loads(self.host.sh(f"ls {STATE}/cycles/*.json | sort | tail -n 1 | xargs cat"))
        return found

    @contextlib.contextmanager
    def cycle(self) -> Iterator[Callable[[], str]]:
        """A cycle whose agent waits to be let go; it must publish, with the engine that it began with."""
        flag = f"{STATE}/runs/.let-go"
        wait = f"for turn in $(seq 6000); do [ -e {flag} ] && break; sleep 0.1; done"
        number = self.forge.approve("Take your time", f"Explain it.\n\n<!-- pi: run {wait} -->\n")
        began = self.active()
        self.host.sh(f"systemctl start --no-block {demo.UNIT}.service")
        self.host.wait_for(f"ls {STATE}/runs/*/state/daemon.lock >/dev/null 2>&1", 60, "the engine's lock")
        yield lambda: str(self.host.sh(f"touch {flag}"))
        state = f"systemctl show --value -p ActiveState {demo.UNIT}.service"  # while it runs it is activating
        self.host.wait_for(f"{state} | grep -qE '^(inactive|failed)$'", 120, "the cycle's end")
        account = self.account()
        must(account["outcome"] == "published", f"the cycle ended {account['outcome']}: {account.get('detail')}")
        must(account["engine"]["sha"] == began, f"the cycle ran {account['engine']['sha']}, began with {began}")
        demo.label(self.forge, number, on=False)


# --- the faults -----------------------------------------------------------------------------


def fresh(scene: Scene) -> None:
    """The first apply of a bare host is killed while packages are installed, then again in the middle of the rest."""
    for moment in ("grep -qsx dpkg /proc/[0-9]*/comm", f"test -d {OPT}/releases"):
        process = scene.start(scene.a)
        scene.until(process, moment)
        kill(scene, process)
    scene.converged(scene.a)


def cycle_in_progress(scene: Scene) -> None:
    """The pin changes while a cycle runs: refused where nobody waits, done at the cycle's end where somebody does."""
    tighter = {"engineering_loop_policy_overlay": {"defaults": {"max_changed_files": 19}}}
    with scene.cycle() as let_go:
        policy = scene.host.sh(f"sha256sum {ETC}/policy.yml")
        nobody = {"engineering_loop_wait_for_cycle": 0}
        scene.refused("a cycle is in progress .* is built but not active", scene.b, {**tighter, **nobody})
        scene.refused(f"a cycle is in progress .*{ETC}/policy.yml is as it was", scene.a, {**tighter, **nobody})
        must(scene.host.sh(f"sha256sum {ETC}/policy.yml") == policy, "the policy changed under a cycle")
        waiting = scene.start(scene.b, tighter)
        scene.until(waiting, f"! flock -n {OPT}/.releases.lock true")
        time.sleep(3)
        must(waiting.poll() is None and scene.active() == scene.a, "the apply did not wait for the cycle's end")
        let_go()
        told = waiting.communicate()[0]
        must(waiting.returncode == 0 and scene.active() == scene.b, f"the engine was not switched: {told[-1500:]}")
    scene.converged(scene.b, tighter)


def told_of(process: subprocess.Popen[str], refusal: str) -> str:
    """What an apply beside another said, on one line: it succeeded, or was refused with a line that says what to do."""
    told = " ".join(process.communicate()[0].split())
    must("Traceback" not in told, f"a traceback: {told[-1500:]}")
    must(process.returncode == 0 or re.search(refusal, told), f"neither done nor refused in a line: {told[-3000:]}")
    return told


def two_applies(scene: Scene) -> None:
    """Two people apply the same at once: the later one goes on, and there is nothing left to do."""
    change = {"engineering_loop_policy_overlay": {"defaults": {"max_changed_files": 17}}}
    sha = scene.b if scene.active() == scene.a else scene.a
    scene.host.sh(f"rm -rf {OPT}/releases/{sha}")
    both = [scene.start(sha, change), scene.start(sha, change)]
    for process in both:
        told_of(process, ONE_AT_A_TIME)
    must(0 in [process.returncode for process in both], "neither of two applies succeeded")
    must(not scene.apply(sha, change), "an apply after two at once had something to change")
    scene.converged(sha, change)


def two_pins(scene: Scene) -> None:
    """Two people roll out different things at once: the host has the one or the other, as a whole."""
    wanted = {
        sha: {"engineering_loop_policy_overlay": {"defaults": {"max_changed_files": number}},
              "engineering_loop_service_timeout": 3000 + number}
        for number, sha in ((11, scene.a), (12, scene.b))
    }  # fmt: skip
    scene.host.sh(f"rm -rf {OPT}/releases/{scene.a if scene.active() == scene.b else scene.b}")
    both = [scene.start(sha, wanted[sha]) for sha in (scene.b, scene.a)]
    for process in both:
        told_of(process, ONE_AT_A_TIME)
    must(0 in [process.returncode for process in both], "neither of two applies succeeded")
    won = scene.active()
    changed = scene.apply(won, wanted[won])
    must(not changed, f"the host had parts of both: {'; '.join(changed)}")
    scene.converged(scene.b)


def cut_off(scene: Scene) -> None:
    """A cycle was killed; the next one, which closes it, begins in the middle of an apply."""
    sha = scene.b if scene.active() == scene.a else scene.a
    number = scene.forge.approve("Be killed", "Explain it.\n\n<!-- pi: sleep 600 -->\n")
    scene.host.sh(f"systemctl start --no-block {demo.UNIT}.service")
    scene.host.wait_for(f"ls {STATE}/runs/*/state/daemon.lock >/dev/null 2>&1", 60, "the engine's lock")
    scene.host.sh(f"systemctl kill --signal=KILL {demo.UNIT}.service")
    scene.host.wait_for(f"! systemctl is-active --quiet {demo.UNIT}.service", 60, "the cycle's end")
    demo.label(scene.forge, number, on=False)
    work = scene.forge.approve("Go on meanwhile", "Explain it.\n")
    change = {"engineering_loop_policy_overlay": {"defaults": {"max_changed_files": 16}}}
    applying = scene.start(sha, change)
    scene.until(applying, f"! flock -n {OPT}/.releases.lock true")
    scene.host.sh(f"systemctl start {demo.UNIT}.service; true")
    told_of(applying, "a cycle is in progress")
    must(applying.returncode == 0, "the apply beside a cycle failed")
    account = scene.account()
    must(account["outcome"] in ("published", "refused"), f"{account['outcome']}: {account.get('detail')}")
    must(account["outcome"] == "published" or "apply" in account["detail"], account["detail"])
    kept = json.loads(scene.host.sh(f"cat $(ls {STATE}/cycles/*.json | sort | tail -n 2 | head -n 1)"))
    must(kept["outcome"] != "running" and kept["kept"], f"the killed cycle: {kept['outcome']}, kept: {kept['kept']}")
    must(scene.host.sh(f"test -d {kept['cell']} && echo there", check=False), "the killed cycle's work is gone")
    demo.label(scene.forge, work, on=False)
    scene.converged(sha, change)


def canary_beside_a_cycle(scene: Scene) -> None:
    """Where a cycle runs, none is started to prove anything: one line, and nothing changed."""
    try:
        with scene.cycle() as let_go:
            demo.label(scene.forge, demo.CANARY_ISSUE, on=True)
            why = "a cycle is running already .*: wait for its end"
            scene.refused(why, scene.active(), {"engineering_loop_canary_run": True})
            let_go()
    finally:
        demo.label(scene.forge, demo.CANARY_ISSUE, on=False)
    scene.converged(scene.active())


def index_unreachable(scene: Scene) -> None:
    """The sources arrive and the packages do not."""
    scene.host.sh(f"rm -rf {OPT}/cache {OPT}/releases/{scene.a}")
    why = "could not be built: .*(connect|tunnel|proxy).*stays active"
    scene.refused(why, scene.a, https_proxy=DEAD, UV_HTTP_RETRIES="0")
    scene.converged(scene.a)


def disk_full(scene: Scene) -> None:
    """The disk runs full in the middle of a build; with room again, the build succeeds."""
    scene.host.sh(f"rm -rf {OPT}/releases/{scene.b}")
    small = f"cp -a {OPT} /run/full && mount -t tmpfs -o mode=755,size=1g full {OPT} && cp -a /run/full/. {OPT}/"
    scene.host.sh(f"{small} && rm -rf /run/full")
    try:
        scene.host.sh(f"mount -o remount,size=$(( $(df --output=used {OPT} | tail -n 1) + 1500 ))k {OPT}")
        scene.refused("(No space left on device|Out of diskspace).*stays active", scene.b)
        scene.host.sh(f"dd if=/dev/zero of={OPT}/full bs=4k 2>/dev/null || :")  # now there is no room for anything
        scene.refused(f"No space left on the disk of {OPT}", scene.b)
        scene.host.sh(f"rm {OPT}/full; mount -o remount,size=1g {OPT}")
        scene.converged(scene.b)
    finally:
        scene.host.sh(f"cp -a {OPT} /srv/full && umount {OPT} && cp -a /srv/full/. {OPT}/ && rm -rf /srv/full")


def disk_full_elsewhere(scene: Scene) -> None:
    """No room for the settings, or for the work: found before anything is changed."""
    other = {"engineering_loop_policy_overlay": {"defaults": {"max_changed_files": 18}}}
    for place in (ETC, STATE):
        before = scene.host.sh(f"sha256sum {ETC}/*")
        aside = f"cp -a {place} /srv/full && mount -t tmpfs -o mode=$(stat -c %a {place}) full {place}"
        scene.host.sh(f"{aside} && cp -a /srv/full/. {place}/ && rm -rf /srv/full")
        try:
            size = f"$(( $(df --output=used {place} | tail -n 1) + 500 ))k"
            scene.host.sh(f"mount -o remount,size={size} {place}")
            scene.refused(f"No space left on the disk of {place}.* Nothing was changed", scene.a, other)
            must(scene.host.sh(f"sha256sum {ETC}/*") == before, "policy or settings changed")
        finally:
            scene.host.sh(f"umount {place}")
    scene.converged(scene.active())


def lock_mismatch(scene: Scene) -> None:
    """A lock that does not belong to its pyproject.toml, and one that is not the pinned one."""
    project = SOURCES["pyproject.toml"]
    wrong = scene.commit("One more", {"pyproject.toml": project.replace('"pyyaml>=6.0"', '"pyyaml>=6.0", "packaging"')})
    scene.commit("One less", {"pyproject.toml": project})
    scene.refused("uv lock --check.*needs to be updated.*stays active", wrong)
    pinned = {"engineering_loop_lock_sha256": "0" * 64}
    scene.refused(f"uv.lock of {scene.b} has the SHA-256 [0-9a-f]{{64}}, not 0000", scene.b, pinned)
    right = scene.host.sh(f"sha256sum {OPT}/current/uv.lock").split()[0]
    scene.converged(scene.b, {"engineering_loop_lock_sha256": right})


def smoke_fails(scene: Scene) -> None:
    """An engine that does not start is never active."""
    cli = "src/reference_loop_engine/cli.py"
    bad = scene.commit("Bad", {cli: "raise SystemExit('no start')\n"})
    scene.commit("Good", {cli: SOURCES[cli]})
    scene.refused("could not be built: .*no start.*stays active", bad)
    scene.converged(scene.b)


def not_merged(scene: Scene) -> None:
    """A commit on a branch that nobody allowed."""
    sha = scene.commit("Not merged", {"README.md": "Not merged\n"}, branch="feature/one")
    scene.refused(f"commit {sha} is not on main of .*only on feature/one", sha)
    scene.apply(sha, {"engineering_loop_allowed_branches": ["feature/*"]})
    must(scene.active() == sha, f"{scene.active()} is active, not {sha}")
    scene.converged(scene.b)


def tampered(scene: Scene) -> None:
    """A hot fix on the host is noticed, said, kept aside, and the release is built again."""
    page = f"{OPT}/current/src/reference_loop_engine/cli.py"
    scene.host.sh(f"chmod u+w {page} && echo '# hot fix' >> {page} && chown loop {OPT}/current/README.md")
    process = scene.start(scene.b)
    told = " ".join(process.communicate()[0].split())
    must(process.returncode == 0 and "2 files of the release had been changed by hand" in told, told)
    kept = scene.host.sh(f"grep -l 'hot fix' {OPT}/releases/.damaged-*/src/reference_loop_engine/cli.py")
    must(kept, "the hot fix is gone")
    must("hot fix" not in scene.host.sh(f"cat {page}"), "the hot fix is still active")
    scene.converged(scene.b)


# What of each stage is changed by hand, and what tells that it is as it was. A release is the affair of `tampered`.
BY_HAND = {
    "packages": ("dpkg --purge --force-depends bubblewrap >/dev/null 2>&1", "bwrap --version"),
    # As dpkg leaves it that is killed between two of its files: Ansible's apt cannot be loaded then.
    "half of python3-apt": (
        "rm -f /usr/lib/python3/dist-packages/apt/{,__pycache__/}debfile.*; sed -i '/^Package: python3-apt$/,/^$/"
        "s/^Status: .*/Status: install reinstreq half-installed/' /var/lib/dpkg/status",
        "python3 -c 'import apt.debfile'; dpkg-query -W -f '${db:Status-Abbrev}' python3-apt",
    ),
    "identity": (
        f"echo '# by hand' >> {LIB}/engineering_loop_core/base/errors.py",
        f"sha256sum {LIB}/*/base/errors.py",
    ),
    "owner": (f"chown loop {LIB}/engineering_loop_core", f"stat -c %U {LIB}/engineering_loop_core"),
    "policy": (f"echo '# by hand' >> {ETC}/policy.yml", f"sha256sum {ETC}/policy.yml"),
    "settings": (f"sed -i 's/max_runs/min_runs/' {ETC}/loop.json", f"sha256sum {ETC}/loop.json"),
    "workspace": (f"rm -rf {STATE}/pristine/*", f"ls {STATE}/pristine"),
    "service": (
        f"echo '# by hand' >> /etc/systemd/system/{demo.UNIT}.service",
        f"sha256sum /etc/systemd/system/{demo.UNIT}.service; systemctl show -P NeedDaemonReload {demo.UNIT}.service",
    ),
    "timer": (f"systemctl enable -q --now {demo.UNIT}.timer", f"systemctl is-enabled {demo.UNIT}.timer || :"),
}


def by_hand(scene: Scene) -> None:
    """Whatever stage's thing was changed by hand: the look finds it, and the apply brings it back."""
    for stage_name, (change, tell) in BY_HAND.items():
        before = scene.host.sh(tell)
        scene.host.sh(change)
        must(scene.host.sh(f"{{ {tell}; }} 2>&1 || :") != before, f"{stage_name}: it was not changed")
        must(scene.apply(scene.b), f"{stage_name}: an apply had nothing to do where it was changed by hand")
        must(scene.host.sh(tell) == before, f"{stage_name}: it is not as it was")
    scene.converged(scene.b)


def wrong_clock(scene: Scene) -> None:
    """A clock that is days off is told; of one that is hours off the order of things is not taken."""
    scene.host.sh("apt-get install -qq --no-install-recommends libfaketime >/dev/null")
    library = scene.host.sh("ls /usr/lib/*/faketime/libfaketime.so.1").strip()
    before = scene.ledger()
    wrong = {"LD_PRELOAD": library, "FAKETIME_DONT_RESET": "1"}
    for when in ("2001", "2036"):
        told = f"The clock of loop says {when}-01-01, the one here 20.*timedatectl.* Nothing was changed"
        scene.refused(told, scene.a, FAKETIME=f"@{when}-01-01 12:00:00", **wrong)
    for sha, off in ((scene.a, "-23"), (scene.b, "+23")):
        scene.host.sh(f"touch -d '{off} hours' {OPT}/current/. {OPT}/releases.json")
        scene.apply(sha, None, FAKETIME=f"{off}h", **wrong)
        must(scene.active() == sha, f"{scene.active()} is active, not {sha}")
    must(scene.ledger() == [*before, scene.a, scene.b], f"the history is {scene.ledger()}")
    scene.converged(scene.b)


def no_network(scene: Scene) -> None:
    """A bundle and a directory of wheels on the host are enough for uv and the engine."""
    bundle = "git -C /srv/git bundle create -q /srv/bundle HEAD main"
    scene.host.sh(
        f"git clone -q --bare {scene.stage['engine']} /srv/git && {bundle};"
        f"{OPT}/uv/bin/uv export -q --directory {OPT}/current --frozen --no-dev --no-emit-project -o /srv/locked;"
        "python3 -m venv /srv/pip && /srv/pip/bin/pip download -q -d /srv/wheels -r /srv/locked && "
        f"/srv/pip/bin/pip download -q -d /srv/wheels hatchling editables uv==$(readlink {OPT}/uv | cut -d- -f2)"
    )
    scene.host.sh(f"rm -rf {OPT}/cache {OPT}/mirror.git {OPT}/uv {OPT}/uv-* {OPT}/releases/{scene.a}")
    given = {"engineering_loop_repo": "/srv/bundle", "engineering_loop_wheels": "/srv/wheels"}
    scene.apply(scene.a, given, https_proxy=DEAD)
    must(scene.active() == scene.a, f"{scene.active()} is active")
    scene.converged(scene.a, given)


def kill(scene: Scene, process: subprocess.Popen[str], host: bool = True) -> None:
    """SIGKILL an apply: what runs on the host, and the operator's ansible-playbook."""
    if host:
        scene.host.sh(KILL, check=False)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def module_killed(scene: Scene) -> None:
    """A module is killed and nothing else: its task is named, and the command that goes on where it ended."""
    told_before = "/run/engineering-loop-*.progress"  # by those that other faults have killed
    scene.host.sh(f"rm -rf {OPT}/releases/{scene.b} {STATE}/pristine/*.git {told_before}")
    change = {"engineering_loop_service_timeout": 2999}
    process = scene.start(scene.b, {**change, "ansible_pipelining": False})  # which makes no difference
    building = "grep -qs 'building the engine' /run/engineering-loop-*.progress"
    scene.until(process, f"{building} && pkill -KILL -f '^/usr/bin/python3 -I -$'")
    told = " ".join(process.communicate()[0].split())
    again = f"the same again goes on where this ended: ansible-playbook -i {scene.inventory} "
    must("was ended on the host before it could answer" in told and again in told, told[-1500:])
    scene.converged(scene.b, change)


def killed(scene: Scene) -> None:
    """SIGKILL at random moments of an apply that has to do everything; the next one converges."""
    wanted, seconds = int(os.environ.get("KILLS") or (3 if LONG else 1)), 20.0
    seed = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    print(f"SEED={seed}", flush=True)
    for number in range(wanted):
        sha = scene.b if scene.active() == scene.a else scene.a
        # All that an apply can do for a host is to do: build, switch, policy, checkout, unit.
        variables = {
            "engineering_loop_policy_overlay": {"defaults": {"max_changed_files": 10 + number % 10}},
            "engineering_loop_service_timeout": 3000 + number,
        }
        scene.host.sh(f"rm -rf {OPT}/releases/{sha} {STATE}/pristine/hyrule-infra.git")
        moment, host = chance.uniform(0.5, seconds), chance.random() < 0.7
        process = scene.start(sha, variables)
        time.sleep(moment)
        ended = process.poll() is not None
        kill(scene, process, host)
        began = time.monotonic()
        scene.converged(sha, variables)
        if ended:
            seconds = moment
        where = "over already" if ended else "killed on the host" if host else "the operator's side killed"
        took = f"converged in {time.monotonic() - began:.1f} s"
        print(f"  {number + 1} of {wanted}: {moment:.2f} s, {where}, {took}", flush=True)


FAULTS: list[Callable[[Scene], None]] = [
    fresh, cycle_in_progress, two_applies, two_pins, cut_off, canary_beside_a_cycle, index_unreachable, disk_full,
    disk_full_elsewhere, lock_mismatch, smoke_fails, not_merged, tampered, by_hand, wrong_clock, no_network,
    module_killed, killed,
]  # fmt: skip


# The short form: those that each change of ours could bring about.
FEW = (fresh, index_unreachable, disk_full, tampered, module_killed, killed)


def main(name: str, world: str, *only: str) -> int:
    scene = Scene(name, Path(world))
    with contextlib.suppress(requests.HTTPError):  # it has no part in this, and may be out of the queue
        demo.label(scene.forge, demo.CANARY_ISSUE, on=False)
    failed = 0
    known = [fault.__name__ for fault in FAULTS]
    wanted = only or ASKED or (known if LONG else [fault.__name__ for fault in FEW])
    if unknown := {*wanted} - {*known}:
        sys.exit(f"there is no fault {', '.join(sorted(unknown))}; there is {', '.join(known)}")
    for fault in FAULTS:
        if fault.__name__ not in wanted:
            continue
        began = time.monotonic()
        try:
            fault(scene)
            outcome = "as it must"
        except (FaultError, demo.DemoError) as problem:
            outcome, failed = f"FAILED: {problem}", failed + 1
            if scene.latest and scene.latest.poll() is None:  # it must not reach into the next one
                kill(scene, scene.latest)
        print(f"{fault.__name__}: {outcome} ({time.monotonic() - began:.0f} s)", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
