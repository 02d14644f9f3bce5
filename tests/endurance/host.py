# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The endurance run on the loop host, as root: a cycle with harm in it, and what is seen afterwards, as JSON.

    host.py cycle NAME HARM SECONDS    the timer starts a cycle; SECONDS into it, or into what is to be killed, the harm
    host.py start                      the timer starts a cycle; its invocation
    host.py look                       what is new since the last look
    host.py tokens                     every sentinel that is in a cell or where the operator works
    host.py prepare | clock ... | small | large | operator     see below
    host.py sampler                    notes the largest memory of each unit until it is ended

It stands beside leftovers.py of the scenario ``cells``, which knows how to kill and where everything is.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import leftovers as known

UNIT, STATE, RUNS, CYCLES = known.UNIT, known.STATE, known.RUNS, known.CYCLES
ATTEMPTS = Path("/opt/engineering-loop/attempts.json")
NOTED, PEAKS = Path("/var/lib/loop-soak.json"), Path("/run/loop-soak-peaks.json")
DROP_INS, CLOCK = Path("/run/systemd/system"), Path("/usr/local/lib/loop-world/clock")
FILL, ASIDE, OPERATOR = STATE / "fill", Path("/srv/loop-soak-aside"), Path("/srv/operator")
# systemd's own word for "this unit is being started".
STARTING = "7d4958e842da4a758f6c1cdc7b36dcc5"
TOKEN = "sentinel-[0-9a-f-]{36}"
LONGEST = 150


def sh(*words: str, seconds: float = 300) -> str:
    return str(known.sh(*words, seconds=seconds).stdout.strip())


# --- a cycle --------------------------------------------------------------------------------------


def start() -> str:
    """As on schedule: the timer itself, whose drop-in has it fire as soon as it is started. The invocation."""
    drop = DROP_INS / f"{UNIT}.timer.d/now.conf"
    if not drop.exists():
        drop.parent.mkdir(parents=True, exist_ok=True)
        drop.write_text("[Timer]\nOnActiveSec=0\nRandomizedDelaySec=0\nAccuracySec=1us\n", encoding="utf-8")
        sh("systemctl", "daemon-reload")
    before = known.show("InvocationID")
    sh("systemctl", "reset-failed", UNIT, f"{UNIT}-watch")
    sh("systemctl", "restart", f"{UNIT}.timer")
    for _turn in range(200):
        if known.show("InvocationID") not in ("", before):
            break
        time.sleep(0.02)
    return str(known.show("InvocationID"))


def hunt(what: str, seconds: float) -> bool:
    """Kill what a cycle consists of, so long after it began; whether it was met."""
    if what not in ("main", "all"):
        while not known.ended() and not found(what):
            time.sleep(0.02)
    time.sleep(seconds)
    return not known.ended() and bool(gateway_killed() if what == "gateway" else known.kill(what))


def found(what: str) -> bool:
    words = {
        "prepare": "loop prepare", "settle": "loop settle", "watch": "loop watch", "gateway": "loop gateway",
        "agent": "^/usr/bin/bwrap", "engine": "daemon --once",
    }[what]  # fmt: skip
    own = str(os.getpid())
    return any(pid != own for pid in sh("pgrep", "-f", words).split())


def gateway_killed() -> bool:
    return bool(known.sh("systemctl", "kill", "-s", "KILL", f"{UNIT}-gate.service").returncode == 0)


def filled(seconds: float) -> bool:
    """Not a byte is left on the file system of the cells, from that moment to the cycle's end."""
    time.sleep(seconds)
    with contextlib.suppress(OSError), FILL.open("wb") as file:
        while True:
            file.write(bytes(1 << 20))
            file.flush()
    with contextlib.suppress(OSError), FILL.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(512))
    return True


def jumped(seconds: float) -> bool:
    """What is noted in CLOCK.next becomes the units' time."""
    time.sleep(seconds)
    Path(f"{CLOCK}.next").replace(CLOCK)
    return True


def waited(_seconds: float) -> bool:
    return True


def harm_of(name: str) -> Callable[[float], bool]:
    if name.startswith("kill-"):
        return lambda seconds: hunt(name.removeprefix("kill-"), seconds)
    return {"fill": filled, "jump": jumped, "none": waited}[name]


def cycle(name: str, harm: str, seconds: str) -> dict[str, Any]:
    """One cycle to its end, however that comes."""
    began = time.monotonic()
    invocation = start()
    met = harm_of(harm)(float(seconds))
    end, stuck = time.monotonic() + LONGEST, ""
    while not known.ended():
        time.sleep(0.05)
        if time.monotonic() > end:
            stuck = f"{name}: {known.show('ActiveState')} {known.show('SubState')} after {LONGEST} s"
            sh("systemctl", "kill", "-s", "KILL", "--kill-whom=all", UNIT)
            sh("systemctl", "stop", UNIT)
            break
    took = time.monotonic() - began
    FILL.unlink(missing_ok=True)
    return {"invocation": invocation, "met": met, "stuck": stuck, "seconds": round(took, 2), **look()}


# --- what is seen ---------------------------------------------------------------------------------


def tokens_in(*places: Path) -> list[str]:
    there = [str(place) for place in places if place.exists()]
    return sorted(set(sh("grep", "-raohE", TOKEN, *there).split())) if there else []


def looked_at(cell: Path) -> dict[str, Any]:
    """Of a cell after its cycle: the agents that began in it, their work, and a note that an operator leaves there."""
    manifest = json.loads((cell / "cell.json").read_text(encoding="utf-8"))
    started = cell / "home/started"
    agents = len(started.read_text(encoding="utf-8").split()) if started.exists() else 0
    if manifest.get("outcome") not in ("published", "running") and (cell / "home").is_dir():
        note = cell / "home/operator-note"
        if not note.exists():
            identity = Path("/proc/sys/kernel/random/uuid").read_text(encoding="utf-8").strip()
            note.write_text(f"sentinel-{identity}\n", encoding="utf-8")
    places = [*cell.glob("runs/*/worktrees"), cell / "home/operator-note"]
    return {
        "invocation": manifest["invocation"], "agents": agents, "outcome": manifest.get("outcome"),
        "tokens": tokens_in(*places),
    }  # fmt: skip


def left_running() -> str:
    """Processes of the loop's user, but for those of an apply that is under way: they come from sshd."""
    return "\n".join(line for line in known.of_the_loop().splitlines() if not from_sshd(line.split()[0]))


def from_sshd(pid: str) -> bool:
    """Whether it or what started it is of sshd's; also of one that has ended meanwhile."""
    while pid not in ("0", "1"):
        try:
            name, _bracket, rest = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")
        except OSError:
            return True
        if "(sshd" in name:
            return True
        pid = rest.split()[1]
    return False


def look() -> dict[str, Any]:
    """Records and cells that are new or have changed since the last look; the counts; a sample of what may grow."""
    before = json.loads(NOTED.read_text(encoding="utf-8")) if NOTED.exists() else {"records": {}, "cells": []}
    records = known.records()
    stamps = {name: one["outcome"] for name, one in records.items()}
    fresh = {name: slim(one) for name, one in records.items() if before["records"].get(name) != one["outcome"]}
    cells, closed = {}, list(before["cells"])
    for path in sorted(RUNS.glob("2*")):
        if path.name not in closed:
            with contextlib.suppress(OSError, ValueError):
                cells[path.name] = looked_at(path)
                if cells[path.name]["outcome"] != "running":
                    closed.append(path.name)
    NOTED.write_text(json.dumps({"records": stamps, "cells": closed}), encoding="utf-8")
    return {
        "records": fresh, "cells": cells, "alive": left_running(), "sample": sample(), "now": time.time(),
        "ledger": ledger(), "attempts": attempts(), "starts": starts(),
    }  # fmt: skip


def slim(record: dict[str, Any]) -> dict[str, Any]:
    issue = record.get("issue") or {}
    return {
        "invocation": record.get("invocation_id", ""), "outcome": record["outcome"], "issue": issue.get("number", 0),
        "agents": record.get("agents", 0), "detail": str(record.get("detail", ""))[:200],
        "trigger": record.get("trigger", ""),
    }  # fmt: skip


def ledger() -> dict[str, list[str]]:
    days = json.loads(known.BUDGET.read_text(encoding="utf-8")) if known.BUDGET.exists() else {}
    return {day: [run["invocation"] for run in one["runs"]] for day, one in days.items()}


def attempts() -> dict[str, int]:
    told = json.loads(ATTEMPTS.read_text(encoding="utf-8")) if ATTEMPTS.exists() else {"issues": {}}
    return {str(one["number"]): one["attempts"] for one in told["issues"].values()}


def starts() -> list[str]:
    """The invocations that systemd says it began, in the last minutes; whatever began them."""
    said = sh("journalctl", "-u", f"{UNIT}.service", "-o", "json", "--since=-10min", f"MESSAGE_ID={STARTING}")
    return [json.loads(line)["INVOCATION_ID"] for line in said.splitlines() if '"INVOCATION_ID"' in line]


def sample() -> dict[str, float]:
    """Kilobytes, files and processes: of what is kept, and of what lives longer than a cycle."""
    places = {name: STATE / name for name in ("runs", "cycles", "gate", "pristine", "memory")}
    places["install"] = Path("/opt/engineering-loop")
    out = {
        f"{name} KiB": float(sh("du", "-sk", str(path)).split()[0]) for name, path in places.items() if path.exists()
    }
    out["cells"] = len(list(RUNS.glob("2*")))
    out["records"] = len(list(CYCLES.glob("*.json")))
    out["files in cycles"] = len(list(CYCLES.iterdir()))
    out["units known"] = len(sh("systemctl", "list-units", "--all", "--plain", "--no-legend").splitlines())
    out["mounts"] = len(Path("/proc/1/mounts").read_text(encoding="utf-8").splitlines())
    for pid, name in long_lived():
        with contextlib.suppress(OSError):
            out[f"{name} files"] = len(os.listdir(f"/proc/{pid}/fd"))
            out[f"{name} KiB"] = float(status_of(pid).get("VmRSS", "0").split()[0])
    with contextlib.suppress(OSError, ValueError):
        out.update({f"{name} peak KiB": peak for name, peak in json.loads(PEAKS.read_text(encoding="utf-8")).items()})
        PEAKS.unlink()
    return out


def long_lived() -> list[tuple[str, str]]:
    """The processes that carry cycles and do not end with one."""
    names = {"systemd": "1", **{name: sh("pgrep", "-xo", name) for name in ("systemd-journal", "dbus-daemon")}}
    return [(pid, name) for name, pid in names.items() if pid]


def status_of(pid: str) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return {key: value.strip() for key, _colon, value in (line.partition(":") for line in lines)}


def sampler() -> None:
    """The sum of what the processes of each of our units have in memory; the largest since somebody took the file."""
    while True:
        units: dict[str, float] = {}
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                unit = re.search(rf"/({UNIT}[^/\s]*\.service)", (place / "cgroup").read_text(encoding="utf-8"))
                if unit:
                    size = float(status_of(place.name).get("VmRSS", "0").split()[0])
                    units[unit[1]] = units.get(unit[1], 0.0) + size
        if units:
            before = {}
            with contextlib.suppress(OSError, ValueError):
                before = json.loads(PEAKS.read_text(encoding="utf-8"))
            peaks = {name: max(size, before.get(name, 0.0)) for name, size in units.items()} | {
                name: size for name, size in before.items() if name not in units
            }
            fresh = PEAKS.with_suffix(".new")
            fresh.write_text(json.dumps(peaks), encoding="utf-8")
            fresh.replace(PEAKS)
        time.sleep(0.25)


# --- what is arranged -----------------------------------------------------------------------------


def prepare() -> None:
    """After every boot: what samples."""
    sh("systemctl", "stop", "loop-soak")
    sh("systemd-run", "--unit=loop-soak", "--collect", "/usr/bin/python3", os.path.abspath(__file__), "sampler")


def clock(offset: str = "", then: str = "", zone: str = "UTC") -> None:
    """The units of a cycle live ``offset`` seconds from now, after ``jump`` ``then`` seconds; else as the host does."""
    for unit in (UNIT, f"{UNIT}-watch", f"{UNIT}-gate"):
        drop = DROP_INS / f"{unit}.service.d/clock.conf"
        if not offset:
            drop.unlink(missing_ok=True)
            continue
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
        drop.parent.mkdir(parents=True, exist_ok=True)
        drop.write_text(
            f"[Service]\nEnvironment=LD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE={CLOCK} FAKETIME_NO_CACHE=1"
            f" FAKETIME_DISABLE_SHM=1 FAKETIME_DONT_FAKE_MONOTONIC=1 TZ={zone}\n",
            encoding="utf-8",
        )
    if offset:
        CLOCK.write_text(f"{int(offset):+d}\n", encoding="utf-8")
        Path(f"{CLOCK}.next").write_text(f"{int(then):+d}\n", encoding="utf-8")
    sh("systemctl", "daemon-reload")


def small(mebibytes: str) -> None:
    """The state moves to a file system of its own with so much room beside what is there."""
    used = int(sh("du", "-sm", str(STATE)).split()[0])
    script = (
        f"cp -a {STATE} {ASIDE} && mount -t tmpfs -o mode=755,size={used + int(mebibytes)}m soak {STATE}"
        f" && cp -a {ASIDE}/. {STATE}/ && rm -rf {ASIDE}"
    )
    known.must(known.sh("sh", "-ec", script).returncode == 0, "the state was not moved")


def large() -> None:
    """And back."""
    script = (
        f"cp -a {STATE} {ASIDE} && umount {STATE} && find {STATE} -mindepth 1 -delete"
        f" && cp -a {ASIDE}/. {STATE}/ && rm -rf {ASIDE}"
    )
    known.must(known.sh("sh", "-ec", script).returncode == 0, "the state was not moved back")


def operator() -> list[str]:
    """An operator's checkout, and one more run of theirs: a worktree with work that nobody committed. Its sentinel."""
    checkout, number = OPERATOR / "checkout", len(list((OPERATOR / "begun").glob("*")))
    git = f"git -C {checkout} -c user.name=o -c user.email=o@example.invalid"
    if not checkout.exists():
        sh("mkdir", "-p", f"{OPERATOR}/runs", f"{OPERATOR}/begun")
        sh("sh", "-ec", f"git init -q -b main {checkout}; {git} commit -q --allow-empty -m one")
    run = OPERATOR / f"runs/run-{number}"
    identity = Path("/proc/sys/kernel/random/uuid").read_text(encoding="utf-8").strip()
    sh("sh", "-ec", f"mkdir -p {run}/worktrees; {git} worktree add -q -b loop/run-{number} {run}/worktrees/one")
    (run / "worktrees/one/draft.md").write_text(f"sentinel-{identity}\n", encoding="utf-8")
    (OPERATOR / f"begun/{number}").touch()
    return [f"sentinel-{identity}"]


def tokens() -> list[str]:
    """In cells, kept pushes being git's own; and below the operator's directory, whose quarantine is there as well."""
    cells = [
        place for cell in RUNS.glob("2*") for place in (*cell.glob("runs/*/worktrees"), cell / "home/operator-note")
    ]
    return sorted({*tokens_in(*cells), *tokens_in(OPERATOR)})


COMMANDS: dict[str, Callable[..., Any]] = {
    "cycle": cycle, "start": start, "look": look, "tokens": tokens, "prepare": prepare, "clock": clock,
    "small": small, "large": large, "operator": operator, "sampler": sampler, "outside": known.outside,
}  # fmt: skip


if __name__ == "__main__":
    try:
        print(json.dumps(COMMANDS[sys.argv[1]](*sys.argv[2:])))
    except (known.Wrong, subprocess.SubprocessError, OSError, ValueError) as error:
        sys.exit(f"{sys.argv[1]}: {type(error).__name__}: {error}")
