# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done to a loop while it works, with how it is undone. A function makes a cycle with its fault."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

import demo
import loophost
import requests

from endurance import oom
from endurance.scene import BOT, BUDGET, SETTINGS_FILE, TOP, Scene

# A cycle takes so long when nothing is wrong.
CYCLE = 2.5
# ... and a forge is ill for so long at most.
ILL = 12
ZONE = "Europe/Berlin"
HEALER = "as215932.engineering_loop.git_worktree_sweep"


class Fault(NamedTuple):
    """A kind of trouble: how often it comes, what makes a cycle with it, how it ends."""

    name: str
    weight: int
    make: Callable[[Scene], object]
    undone: str
    unrecorded: bool = False  # a cycle may be ended by it before it has a record


def peace(scene: Scene) -> None:
    scene.cycle()


def killed(what: str, most: float) -> Callable[[Scene], object]:
    return lambda scene: scene.cycle(f"kill-{what}", scene.chance.uniform(0, most))


def out_of_memory(scene: Scene) -> None:
    """The agent takes more than there is, in a group of the kernel's that has little."""
    orders = ["pi: run echo sentinel-$(cat /proc/sys/kernel/random/uuid) >docs/note-oom.md; echo one >>$HOME/started",
              f"pi: run python3 -c 'x = bytearray({oom.WANTED}); import time; time.sleep(5)'"]  # fmt: skip
    body = "\n".join(["Explain.", "", *(f"<!-- {order} -->" for order in orders)])
    number = scene.forge.approve("Out of memory", body)
    scene.forge.ask("POST", f"/repos/{demo.CANARY_REPO}/issues/{number}/labels", labels=["security"])  # the first to go
    scene.kinds[number] = "out of memory"
    scene.seen.issues.add(number)
    with oom.little(loophost, scene.name) as note:
        scene.cycle()
    scene.notes_of_oom.append(note[0] if note else "not met")
    scene.forge.ask("PATCH", f"/repos/{demo.CANARY_REPO}/issues/{number}", body="Explain.\n\n<!-- pi: sleep 0 -->")


def disk_full(scene: Scene) -> None:
    scene.ask("small", 800)  # the gateway receives nothing where less than 512 MiB are free
    try:
        scene.cycle("fill", scene.chance.uniform(0, CYCLE))
        scene.approve_enough()
        scene.cycle()  # with room again
    finally:
        scene.ask("large")


def forge(scene: Scene) -> None:
    """Errors, connections that end before or in an answer, slow answers, refused connections; some pass, some stay."""
    kind = scene.chance.choice(("down", "drop", "half", "slow", "closed", "rate_limit"))
    told: dict[str, object] = {"kind": kind}
    if kind in ("down", "drop", "half"):
        told["times"] = scene.chance.choice((1, 3, 1000))
        told["path"] = scene.chance.choice(("", "/pulls", "/issues", "receive-pack", "upload-pack", "info/refs"))
    if kind == "down":
        told["status"] = scene.chance.choice((500, 502, 503))
    if kind == "slow":
        told.update(seconds=scene.chance.choice((1, 5)), times=6)
    if kind == "closed":
        told["seconds"] = scene.chance.choice((1, 4))
    if kind == "rate_limit":
        told.update(retry_after=2, times=1)
    scene.says = f"forge: {kind}"
    with for_a_while(scene):
        scene.cycle(seconds=scene.chance.uniform(0, CYCLE), meanwhile=lambda: scene.arrange(**told))
    scene.says = "forge"


@contextlib.contextmanager
def for_a_while(scene: Scene) -> Iterator[None]:
    """A forge that stays ill is well again some seconds later, in the middle of whatever waits for it."""
    well = threading.Timer(ILL, scene.peace_at_the_forge)
    well.start()
    try:
        yield
    finally:
        well.cancel()
        well.join()
        scene.peace_at_the_forge()


def clock_jumps(scene: Scene) -> None:
    """Hours forwards or backwards, in the middle of a cycle; the cycle after it lives in the new time as well."""
    before = scene.chance.choice((0, 0, -7200, 7200))
    after = before + scene.chance.choice((-1, 1)) * scene.chance.choice((30, 3600, 7 * 3600, 25 * 3600))
    in_another_time(scene, before, after)


def daylight_saving(scene: Scene) -> None:
    """An hour is left out, or comes twice, in the time of the units, a second after their cycle began."""
    change = next_change(datetime.now(UTC), scene.chance.randrange(2))
    begins = int((change - datetime.now(UTC)).total_seconds()) - 2
    in_another_time(scene, begins, begins, ZONE)


def next_change(after: datetime, skip: int) -> datetime:
    """The hour at which local time and UTC will differ otherwise than before, or the one after that."""
    zone, hour = ZoneInfo(ZONE), after.replace(minute=0, second=0, microsecond=0)
    for _hour in range(24 * 400):
        before, hour = hour.astimezone(zone).utcoffset(), hour + timedelta(hours=1)
        if hour.astimezone(zone).utcoffset() != before:
            if not skip:
                return hour
            skip -= 1
    raise ValueError(f"{ZONE} has no such change")


def in_another_time(scene: Scene, before: int, after: int, zone: str = "UTC") -> None:
    scene.ask("clock", before, after, zone)
    try:
        scene.cycle("jump", scene.chance.uniform(0, CYCLE))
        scene.approve_enough()
        scene.cycle()
    finally:
        scene.ask("clock")


def reboot(scene: Scene) -> None:
    """As a power cut: nothing is told to stop."""
    invocation = scene.ask("start")
    scene.seen.starts[invocation] = scene.says
    time.sleep(scene.chance.uniform(0, CYCLE))
    scene.host.sh("systemctl reboot --force --force", check=False)
    time.sleep(1)
    scene.host.wait_for("systemctl is-system-running --wait | grep -q running", 90, "the host to boot")
    scene.ask("prepare")
    scene.cycle()  # which closes what was cut off


def token_rotated(scene: Scene) -> None:
    """The old one is revoked in the middle of a cycle, the new one comes a moment later, with no apply."""

    def rotate() -> None:
        scene.arrange(kind="expire_token")
        time.sleep(scene.chance.uniform(0, 2))
        made = requests.post(f"{scene.forge.url}/_forge/tokens", json={"login": BOT}, timeout=30).json()["token"]
        old, scene.token = scene.token, made
        scene.host.sh(f"sed -i 's/{old}/{made}/' /etc/engineering-loop/env")
        scene.settings()

    scene.cycle(seconds=scene.chance.uniform(0, CYCLE), meanwhile=rotate)


def applied(scene: Scene) -> None:
    """An apply with nothing to do, begun in the middle of a cycle; cycles go on meanwhile."""
    begun_in_a_cycle(scene, "playbooks/apply.yml")


def bumped(scene: Scene) -> None:
    """The other engine, which is proven already."""
    versions = (scene.stage["from"], scene.stage["to"])
    now = scene.host.sh("basename $(readlink /opt/engineering-loop/current)").strip()
    scene.settings(versions[0] if now == versions[1] else versions[1])
    begun_in_a_cycle(scene, "playbooks/apply.yml")


def begun_in_a_cycle(scene: Scene, playbook: str) -> None:
    begun: list[subprocess.Popen[bytes]] = []
    scene.cycle(
        seconds=scene.chance.uniform(0, CYCLE),
        meanwhile=lambda: begun.append(scene.background(str(TOP / playbook), "-l", "loop")),
    )
    scene.until_done(begun[0], playbook)


def apply_killed(scene: Scene) -> None:
    """The operator's side is gone at a random moment; what it had begun on the host goes on or ends there."""
    process = scene.background(str(TOP / "playbooks/apply.yml"), "-l", "loop")
    time.sleep(scene.chance.uniform(0.5, 10))
    scene.cycle()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    scene.until_done(scene.background(str(TOP / "playbooks/apply.yml"), "-l", "loop"), "the apply after it")


def healed(scene: Scene) -> None:
    """The operator's own leftovers are put out of the way beside a cycle; half of the time the healer is killed."""
    told = scene.ask("operator")
    scene.seen.planted.update(dict.fromkeys(told, "the operator's worktree"))
    dies = scene.chance.random() < 0.5

    def heal() -> None:
        process = sweep(scene)
        if dies:
            scene.host.sh(
                f"for n in $(seq 200); do pgrep -f 'AnsiballZ_git_worktree_sweep' >/dev/null && break;"
                f" sleep 0.02; done; sleep {scene.chance.uniform(0, 0.4):.2f};"
                f" pkill -KILL -f 'AnsiballZ_git_worktree_sweep'",
                check=False,
            )
        process.wait()

    scene.cycle(seconds=scene.chance.uniform(0, CYCLE), meanwhile=heal)
    if sweep(scene).wait():
        scene.notes.append("the heal after it failed, see background logs")


def sweep(scene: Scene) -> subprocess.Popen[bytes]:
    asked = {"repos": ["/srv/operator/checkout"], "worktree_root": "/srv/operator/runs", "branch_prefixes": ["loop"]}
    command = [
        str(Path(sys.executable).with_name("ansible")), "loop",
        "-i", str(scene.operator.directory / "inventory.yml"), "-m", HEALER, "-a", json.dumps(asked),
        "-e", json.dumps({"ansible_pipelining": False}),
    ]  # fmt: skip
    with (scene.world / "sweep.log").open("wb") as log:
        return subprocess.Popen(command, cwd=TOP, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)


def paused(scene: Scene) -> None:
    """Paused in the middle of a cycle, which is ended at once or goes on; the next does nothing; resumed."""
    words = ["-e", "now=true"] if scene.chance.random() < 0.5 else []
    scene.cycle(
        seconds=scene.chance.uniform(0, CYCLE),
        meanwhile=lambda: scene.operator.play("playbooks/pause.yml", "-l", "loop", *words),
    )
    scene.cycle()
    if scene.outcomes[-1] != "paused":
        scene.notes.append(f"a cycle ended {scene.outcomes[-1]} while the loop was paused")
    scene.operator.play("playbooks/resume.yml", "-l", "loop")


def day_used_up(scene: Scene) -> None:
    """One more run is allowed today and three would be tried, one of them killed."""
    before = scene.host.sh(f"cat {SETTINGS_FILE}")
    counted = runs_today(scene)
    scene.write(SETTINGS_FILE, json.dumps({**json.loads(before), "max_runs_per_day": counted + 1}))
    try:
        for what in ("kill-engine", "none", "none"):
            scene.approve_enough()
            scene.cycle(what, 0.3)
        if runs_today(scene) > counted + 1:
            scene.notes.append(f"{runs_today(scene) - counted} runs where one was left of the day")
    finally:
        scene.write(SETTINGS_FILE, before)


def runs_today(scene: Scene) -> int:
    days = json.loads(scene.host.sh(f"cat {BUDGET}"))
    return len(days.get(datetime.now(UTC).strftime("%Y-%m-%d"), {"runs": []})["runs"])


FAULTS = (
    Fault("none", 70, peace, "nothing to undo"),
    Fault("engine killed", 10, killed("engine", 0.6), "nothing to undo"),
    Fault("agent killed", 10, killed("agent", 0.3), "nothing to undo"),
    Fault("gateway killed", 10, killed("gateway", 0.8), "nothing to undo"),
    Fault("prepare killed", 5, killed("prepare", 0.3), "nothing to undo", unrecorded=True),
    Fault("settle killed", 6, killed("settle", 0.4), "nothing to undo"),
    Fault("watch killed", 5, killed("watch", 0.5), "systemd restarts it"),
    Fault("cycle killed", 5, killed("main", CYCLE), "nothing to undo"),
    Fault("all killed", 6, killed("all", CYCLE), "nothing to undo", unrecorded=True),
    Fault("out of memory", 4, out_of_memory, "the group's limit goes"),
    Fault("disk full", 5, disk_full, "room is made, and the state moves back", unrecorded=True),
    Fault("forge", 16, forge, "after the cycle, or 12 s"),
    Fault("clock jumps", 6, clock_jumps, "the units live in the host's time again"),
    Fault("daylight saving", 3, daylight_saving, "the units live in the host's time again"),
    Fault("reboot", 3, reboot, "it boots", unrecorded=True),
    Fault("token rotated", 5, token_rotated, "the new token is there"),
    Fault("apply", 3, applied, "it ends"),
    Fault("bump", 2, bumped, "it ends"),
    Fault("apply killed", 2, apply_killed, "another apply ends"),
    Fault("heal", 4, healed, "another heal ends"),
    Fault("pause", 4, paused, "it is resumed"),
    Fault("day used up", 2, day_used_up, "the day has as many runs as before"),
)
