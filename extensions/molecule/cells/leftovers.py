# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a cycle can leave behind, and what is left of that for the next one: run as root on a loop host of the tests.

    leftovers.py [NAME...]        everything, or only what is named
    KILLS=200 leftovers.py killed

The agent runs attacks.py in real cycles. After each, whatever it left: the next cycle publishes, records are true,
nothing of the loop's user is outside of the cells, nothing of it runs, and what was there before is untouched.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import requests

UNIT = "hyrule-engineering-loop"
STATE, ETC = Path("/var/lib/engineering-loop"), Path("/etc/engineering-loop")
RUNS, CYCLES, PRISTINE, MEMORY = STATE / "runs", STATE / "cycles", STATE / "pristine", STATE / "memory"
SETTINGS, BUDGET = ETC / "loop.json", Path("/opt/engineering-loop/budget.json")
LIB = Path("/usr/local/lib/engineering-loop")
LOOP, DOOR = LIB / "loop", LIB / "bin/pi"
ATTACKS = Path("/usr/local/lib/loop-world/attacks.py")
KEPT = Path("/var/lib/loop-world-kept")
REPO = "AS215932/network-operations"
WORLD = json.loads(Path("/etc/loop-world.json").read_text(encoding="utf-8"))
API = WORLD["api_url"]
FORGE = API.removesuffix("/api/v3")
KILLS = int(os.environ.get("KILLS", "6"))
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
LINES: list[str] = []
TIMES: list[float] = []
LONGEST = 180


class Wrong(Exception):
    """Something is not as it must be."""


def must(holds: object, what: object) -> None:
    if not holds:
        raise Wrong(what)


def sh(*command: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False)


def ask(method: str, url: str, body: dict[str, Any]) -> Any:
    login = requests.post(f"{FORGE}/_forge/tokens", json={"login": "operator", "role": "admin"}, timeout=30).json()
    answer = requests.request(
        method, url, json=body or None, headers={"Authorization": f"Bearer {login['token']}"}, timeout=30
    )
    answer.raise_for_status()
    return answer.json()


# --- cycles ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def approved(title: str, *orders: str, repo: str = REPO) -> Iterator[int]:
    body = "\n".join(["Explain.", "", *(f"<!-- {order} -->" for order in orders)])
    asked = {"repo": repo, "title": title, "body": body, "labels": ["loop:approved"]}
    number = ask("POST", f"{FORGE}/_forge/issues", asked)["number"]
    try:
        yield number
    finally:
        ask("PATCH", f"{API}/repos/{repo}/issues/{number}", {"state": "closed"})


def records() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(CYCLES.glob("[0-9]*.json"))}


def start() -> dict[str, Any]:
    """Start a cycle and wait for its end; its record."""
    known, memory = records(), fingerprint(MEMORY)
    sh("systemctl", "reset-failed", UNIT, f"{UNIT}-watch")
    began = time.monotonic()
    try:
        sh("systemctl", "start", UNIT, seconds=LONGEST)
    except subprocess.TimeoutExpired:
        sh("systemctl", "stop", UNIT)
        raise Wrong(f"the cycle lasts longer than {LONGEST} s") from None
    wait("the end of the unit", ended, LONGEST)  # where it was stopped, start returns before that
    TIMES.append(round(time.monotonic() - began, 1))
    sh("systemctl", "reset-failed", UNIT, f"{UNIT}-watch")
    now = records()
    must(known.keys() <= now.keys(), "records were lost")
    fresh = now.keys() - known.keys()
    must(len(fresh) == 1, f"{len(fresh)} records instead of one")
    record = now[fresh.pop()]
    must(
        memory in (fingerprint(MEMORY), fingerprint(Path(f"{MEMORY}.previous"))),
        "the memory of before is neither here nor kept",
    )
    must(
        not CONTROL.search(json.dumps(record, ensure_ascii=False).replace("\n", "")),
        "a record holds what a terminal obeys",
    )
    must(not CONTROL.search(journal_sentence()), "the journal's sentence holds what a terminal obeys")
    return record


def journal_sentence() -> str:
    sh("journalctl", "--sync")  # the last words may still be on their way
    said = sh("journalctl", "-o", "cat", "-n", "400", "-u", UNIT).stdout.splitlines()
    return next((line for line in reversed(said) if line.startswith("cycle ")), "")


def show(name: str) -> str:
    return sh("systemctl", "show", UNIT, "-P", name).stdout.strip()


def ended() -> bool:
    return show("ActiveState") in ("inactive", "failed")


def wait(what: str, holds: Callable[[], object], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not holds():
        must(time.monotonic() < end, f"waited in vain for {what}")
        time.sleep(0.1)


def counted() -> int:
    days = json.loads(BUDGET.read_text(encoding="utf-8")) if BUDGET.exists() else {}
    return sum(len(day["runs"]) for day in days.values())


def published(title: str = "An ordinary page") -> dict[str, Any]:
    """What must always go: the next ordinary cycle."""
    before = counted()
    with approved(title) as number:
        record = start()
    must(record["outcome"] == "published", f"the next cycle: {record['outcome']}: {record['detail']}")
    must(record["report"]["issue"]["number"] == number, f"it took {record['report']['issue']}")
    must((record["agents"], counted()) == (1, before + 1), f"{record['agents']} agents, {counted() - before} counted")
    pull = ask("GET", f"{API}/repos/{REPO}/pulls/{record['report']['pr_url'].rsplit('/', 1)[-1]}/files", {})
    must(all(one["filename"].startswith("docs/") for one in pull), f"published {[one['filename'] for one in pull]}")
    return record


@contextlib.contextmanager
def settings(**changed: Any) -> Iterator[None]:
    before = SETTINGS.read_text(encoding="utf-8")
    SETTINGS.write_text(json.dumps({**json.loads(before), **changed}), encoding="utf-8")
    try:
        yield
    finally:
        SETTINGS.write_text(before, encoding="utf-8")


# --- what must hold whatever was left ------------------------------------------------------------


def outside() -> list[str]:
    """Files of the loop's user that lie in no cell; and the sign of a payload that ran out of its sandbox."""
    places = ["/", "/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run", "/run/lock", "/run/user"]
    known = [
        "(",
        "-path",
        str(RUNS),
        "-o",
        "-path",
        str(MEMORY),
        "-o",
        "-path",
        f"{MEMORY}.previous",
        "-o",
        "-path",
        "/proc",
        ")",
        "-prune",
    ]
    found: list[str] = []
    for place in places:
        if os.path.isdir(place):
            words = [
                "find",
                place,
                "-xdev",
                *known,
                "-o",
                "(",
                "-user",
                "loop",
                "-o",
                "-name",
                "PWNED*",
                "-o",
                "-name",
                "*planted*",
                ")",
                "-print",
            ]
            found += sh(*words).stdout.splitlines()
    found += [line for line in sh("ipcs", "-a").stdout.splitlines() if " loop " in line or "0x00001267" in line]
    found += [path.name for path in Path("/var/lib/systemd/linger").glob("loop*")]
    return sorted(set(found))


def of_the_loop() -> str:
    return sh("pgrep", "-u", "loop", "-a").stdout.strip()


def fingerprint(top: Path) -> str:
    """Names, kinds, modes and owners of all that is below; sizes and times of files: Python leaves its own beside."""
    command = ["find", str(top), "-mindepth", "1", "-name", "__pycache__", "-prune"]
    command += ["-o", "-type", "d", "-printf", "%P %m %U\\0", "-o", "-printf", "%P %y %m %U %s %T@\\0"]
    listed = subprocess.run(command, capture_output=True, check=False).stdout
    return hashlib.sha256(b"\0".join(sorted(listed.split(b"\0")))).hexdigest()


@contextlib.contextmanager
def nothing_else_changes() -> Iterator[None]:
    """Cells that are closed, records that were written, pristine clones and host stay as they are."""
    cells = {path: fingerprint(path) for path in RUNS.glob("2*")}
    written = {path: path.read_bytes() for path in CYCLES.glob("*.json")}
    roots = [ETC, Path("/usr/local"), Path("/opt/engineering-loop/current/")]
    hosts = {path: fingerprint(path) for path in roots}
    yield
    for path, before in cells.items():
        must(path.exists(), f"{path} is gone")
        must(fingerprint(path) == before, f"{path} was touched")
    for path, content in written.items():
        must(path.read_bytes() == content, f"{path} was touched")
    for path, before in hosts.items():
        must(fingerprint(path) == before, f"{path} was touched")
    must(of_the_loop() == "", f"still runs: {of_the_loop()}")
    must(not outside(), f"outside of the cells: {outside()[:10]}")
    left = [path.name for path in RUNS.iterdir() if path.name.startswith((".making", ".gone"))]
    must(not left, left)


def kept(record: dict[str, Any], *, opens: bool = True) -> Path:
    """The cell of a cycle that did not end well: whole, listed, closed, and it opens again in the sandbox."""
    cell = Path(record["cell"])
    manifest = json.loads((cell / "cell.json").read_text(encoding="utf-8"))
    must((cell.stat().st_mode & 0o777, cell.stat().st_uid) == (0o700, 0), f"{cell} is not closed")
    must(manifest["outcome"] == record["outcome"] and record["kept"], (manifest["outcome"], record.get("kept")))
    must(sh("runuser", "-u", "loop", "--", "ls", str(cell)).returncode != 0, f"loop enters {cell}")
    if opens:
        began = time.monotonic()
        done = sh(
            str(LOOP),
            "enter",
            cell.name,
            "--",
            "sh",
            "-c",
            "ls -la ../home ../workspace >/dev/null; git -C ../workspace/hyrule-cloud status >/dev/null; id -un",
        )
        must(
            done.returncode == 0 and done.stdout.split()[:1] == ["loop"],
            f"enter: {done.returncode} {done.stdout} {done.stderr}"[-500:],
        )
        must(time.monotonic() - began < 60, "enter hangs")
    return cell


def said(cell: Path) -> dict[str, str]:
    """What attacks.py tells of itself; nothing of it may have worked."""
    file = cell / "home/said.json"
    must(file.exists(), f"the agent said nothing: {[path.name for path in (cell / 'home').iterdir()][:5]}")
    told: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    for name, words in told.items():
        LINES.append(
            f"    {'FAIL' if words.startswith('ESCAPED') else 'ok'}: {name.replace('_', ' ')}: {words[:160]!r}"
        )
    escaped = [name for name, words in told.items() if words.startswith("ESCAPED")]
    must(not escaped, f"worked: {escaped}")
    return told


def attack(groups: str) -> str:
    return f"pi: run python3 {ATTACKS} {groups} $HOME/said.json {sshd_port()}"


def sshd_port() -> str:
    found = re.findall(r"^port (\d+)", sh("sshd", "-T").stdout, re.MULTILINE)
    return found[0] if found else "22"


@contextlib.contextmanager
def bubblewrap_broken() -> Iterator[None]:
    """The agent runs beside the engine, in the unit's sandbox alone: as by a hole in bubblewrap, or a bad engine."""
    before, times = DOOR.read_text(encoding="utf-8"), (DOOR.stat().st_atime_ns, DOOR.stat().st_mtime_ns)
    DOOR.write_text(
        f"#!/usr/bin/python3 -I\nimport os, sys\nsys.path.insert(0, {str(LIB)!r})\n"
        "from engineering_loop_core.base import wire\nfrom engineering_loop_core.host import settings\n"
        "wire.tell(settings.load().unit, {'what': 'agent', 'program': 'pi'})\n"
        "cell = os.environ['HOME'].rpartition('/')[0]\nos.environ['HOME'] = cell + '/home'\n"
        f"os.environ['PATH'] = os.environ['PATH'].replace({str(LIB)!r} + '/bin:', '')\n"
        "os.execv('/usr/local/bin/pi', ['pi', *sys.argv[1:]])\n",
        encoding="utf-8",
    )
    try:
        yield
    finally:
        DOOR.write_text(before, encoding="utf-8")
        os.utime(DOOR, ns=times)


# --- what is tried --------------------------------------------------------------------------------


def nothing_gets_out() -> None:
    """All that an agent tries from where it is shut in; it ends well, and what it did to the repository is gone."""
    with nothing_else_changes():
        before = counted()
        with approved("A page by one that tries the doors", attack("shut")):
            record = start()
        must(record["outcome"] == "published", (record["outcome"], record["detail"]))
        must((record["agents"], counted()) == (1, before + 1), "it was not counted")
        cell = Path(record["cell"])
        said(cell)
        git = cell / "workspace/hyrule-infra/.git"
        for name in ("bent", "commondir", "shallow", "hooks/pre-push", "index.lock"):
            must(not (git / name).exists(), f"{name} is in the checkout")
        must(len((git / "config").read_text(encoding="utf-8")) < 2000, "the configuration was bent")
        published()


def what_an_agent_leaves() -> None:
    """Files of every kind in home and worktree; it crashes, is kept, is listed and opened."""
    with nothing_else_changes():
        with approved("A page and much besides", attack("home"), "pi: crash"):
            record = start()
        must(record["outcome"] in ("needs_triage", "error"), (record["outcome"], record["detail"]))
        said(Path(record["cell"]))
        kept(record)
        published()
    listed_and_brought(record)


def listed_and_brought(record: dict[str, Any]) -> None:
    with KEPT.open("a", encoding="utf-8") as file:
        file.write(f"{record['cycle']}\n")
    """``restore -e to=BRANCH`` is done by verify.yml; here what runs inside is asked for worktrees."""
    done = sh(str(LOOP), "enter", record["cycle"], "--", str(LOOP), "worktrees", str(SETTINGS))
    must(done.returncode == 0 and not CONTROL.search(done.stdout), f"{done.returncode} {done.stderr[-300:]}")
    must("hyrule-infra" in done.stdout, f"no worktree is listed: {done.stdout!r}")
    must(not outside(), outside())


def what_a_broken_sandbox_leaves() -> None:
    """Workspace, state, runs and memory are full of traps, the watch is busy, the engine dies with a report of idle."""
    before = counted()
    with nothing_else_changes():
        with bubblewrap_broken(), approved("A page beside the engine", attack("loose,last")):
            record = start()
        # one more by the message that it forged: that can only ever add
        must(
            (record["agents"], counted()) == (2, before + 1), f"{record['agents']} agents, {counted() - before} counted"
        )
        must(
            record["outcome"] not in ("idle", "published", "locked", "over_budget"),
            (record["outcome"], record["detail"]),
        )
        said(Path(record["cell"]))
        cell = kept(record)
        with KEPT.open("a", encoding="utf-8") as file:
            file.write(f"{cell.name}\n")
        must(not list(MEMORY.rglob("link-*")) and not list(MEMORY.rglob("pipe")), "links or pipes are in memory")
        must(sum(1 for _path in MEMORY.rglob("*")) <= 2_000, "memory has more files than allowed")
        must(not [path for path in MEMORY.rglob("*") if path.stat().st_mode & 0o6022], "memory has modes of its own")
        published()
        published("The day after")


def work_of_a_forged_end_is_kept() -> None:
    """Idle said by a dying engine, without an agent program of ours: the cell must not be thrown away."""
    with (
        bubblewrap_broken(),
        approved(
            "A page that is disowned", f"pi: run echo precious > $HOME/precious; python3 {ATTACKS} last $HOME/said.json"
        ),
    ):
        record = start()
    must((Path(record["cell"]) / "home/precious").exists(), "the work is gone")
    published()


def a_gate_command_is_shut_in() -> None:
    """Of the public engine: it starts gate commands with its own interpreter, and in the worktree first on the path."""
    spy = (
        "import os, sys, json; open(os.environ['HOME'] + '/gate.json', 'w').write(json.dumps({'env': dict(os.environ),"
        " 'processes': [open('/proc/' + pid + '/cmdline').read() for pid in os.listdir('/proc') if pid.isdigit()]}))"
    )
    with nothing_else_changes():
        with approved("A page and a program", f'pi: run echo "{spy}" > compileall.py; cp compileall.py pathlib.py'):
            record = start()
        must(record["outcome"] != "published", "a program was published")
        seen = [*Path(record["cell"]).glob("home/gate.json"), *Path(record["cell"]).glob("state/gate.json")]
        if not seen:
            LINES.append("    this engine's gate command runs no program of the worktree")
            return
        told = json.loads(seen[0].read_text(encoding="utf-8"))
        foreign = [
            name
            for name in told["env"]
            if re.match(r"HYRULE_|ENGINEERING_LOOP_|GIT_CONFIG_|.*(TOKEN|API_KEY|PASSWORD)", name)
        ]
        must(not foreign and str(LIB) not in told["env"]["PATH"], f"{foreign} {told['env'].get('PATH')}")
        must(not any("daemon\0--once" in one for one in told["processes"]), "it sees the engine")


def a_cell_has_a_size() -> None:
    with settings(cell_max_files=8000), nothing_else_changes():
        with approved("Files without end", attack("grow")):
            record = start()
        must(
            record["outcome"] == "interrupted" and "cell_max_files" in record["detail"],
            (record["outcome"], record["detail"]),
        )
        kept(record)
    with settings(cell_max_size="60M"), nothing_else_changes():
        with approved(
            "Bytes without end",
            "pi: run for n in 1 2 3 4 5 6; do dd if=/dev/zero of=$HOME/$n bs=1M count=30; done; sleep 60",
        ):
            record = start()
        must(
            record["outcome"] == "interrupted" and "cell_max_size" in record["detail"],
            (record["outcome"], record["detail"]),
        )
        published()


def bad_input() -> None:
    """What is wrong with a host: the cycle is refused with a reason, nothing is left, and the next one goes."""

    def refused(reason: str) -> None:
        with approved("Refused"):
            record = start()
        must(
            record["outcome"] == "refused" and re.search(reason, record["detail"]),
            (record["outcome"], record["detail"]),
        )
        must(not [path for path in RUNS.iterdir() if path.name.startswith(".making")], "half a cell is left")

    known = json.loads(SETTINGS.read_text(encoding="utf-8"))
    home = ETC / "agent.conf"
    home.unlink(missing_ok=True)
    wanted = {"home_files": [{"src": str(home), "dest": ".config/agent.conf"}]}
    with settings(min_free="100000T"):
        refused("are free in")
    with settings(**wanted):
        refused("is missing")
        home.write_text("x", encoding="utf-8")
        os.chown(home, int(sh("id", "-u", "loop").stdout), 0)
        refused("must be root's")
        os.chown(home, 0, 0)
        home.chmod(0o640)
        published("With a home file")
        home.unlink()
        home.mkdir()
        refused("agent.conf")
        home.rmdir()
        os.mkfifo(home)
        refused("agent.conf")
        home.unlink()
    sh("mount", "-t", "tmpfs", "-o", "noexec,mode=0755", "tmpfs", str(RUNS))
    try:
        refused("noexec")
    finally:
        sh("umount", str(RUNS))
    os.chmod(RUNS, 0o777)
    refused("nobody else can write")
    os.chmod(RUNS, 0o755)
    # cells whose manifests are damaged stand beside the good ones
    for number, content in enumerate(
        (b"", b"[]", b"[" * 200_000, b'{"outcome": {}}', b'{"outcome": "running"}', b'{"size": "x"}', None)
    ):
        bad = RUNS / f"20200101T00000{number}Z-0000000{number}"
        bad.mkdir()
        if content is not None:
            (bad / "cell.json").write_bytes(content)
    try:
        published("Beside damaged cells")
    finally:
        for bad in RUNS.glob("20200101T*"):
            sh("rm", "-rf", str(bad))
    # a repository without commits is told and stops nothing
    empty = f"AS215932/empty-{time.time_ns()}"
    requests.post(f"{FORGE}/_forge/repos", json={"repo": empty, "empty": True}, timeout=30)
    more = [*known["workspace_repositories"], {"repo": empty, "dest": "empty", "version": "nothing"}]
    with settings(workspace_repositories=more):
        record = published("Beside a repository without commits")
        must(
            [one for one in record["clones"] if one["dest"] == "empty" and one["status"] == "failed"], record["clones"]
        )
    sh("rm", "-rf", str(PRISTINE / "empty.git"))


def damaged_clones() -> None:
    """By hand, each in another way, all before one cycle: they are made anew and the cycle publishes."""
    ways = {
        "objects deleted": "find objects -type f -delete",
        "HEAD and refs garbage": "echo x > HEAD; rm -f packed-refs; mkdir -p refs/heads; printf x > refs/heads/main",
        "replaced by a file": "d=$PWD; cd ..; rm -rf $d; echo x > $d",
        "a pipe where packed-refs stands": "rm -f packed-refs; mkfifo packed-refs",
        "a pipe where the configuration stands": "rm -f config; mkfifo config",
        "packs cut short": "for p in objects/pack/*.pack; do chmod u+w $p; truncate -s 40 $p; done",
        "locks of git": "touch HEAD.lock packed-refs.lock config.lock shallow.lock refs/heads/main.lock",
    }
    clones = sorted(PRISTINE.glob("[!.]*.git"))
    must(len(clones) >= len(ways), clones)
    harmed = dict(zip(ways, clones, strict=False))
    for name, command in ways.items():
        done = sh("runuser", "-u", "loop-gate", "--", "sh", "-ec", f"cd {harmed[name]} && {command}")
        must(done.returncode == 0, f"{name}: {done.stderr}")
    for turn in ("first", "second"):  # and once more beside what was put aside
        record = published(f"Clones that are damaged, {turn}")
        told = {one["dest"]: one["status"] for one in record["clones"]}
        for name in list(ways)[:-1] if turn == "first" else []:
            must(told.get(harmed[name].stem) in ("replaced", "updated"), f"{name}: {told}")
        must("failed" not in told.values() and TIMES[-1] < 45, f"{told} in {TIMES[-1]} s")


def two_starts_at_once() -> None:
    with approved("Started twice"):
        known = records()
        both = [subprocess.Popen(["systemctl", "start", UNIT]) for _number in range(2)]
        by_hand = sh(str(LOOP), "cycle", str(SETTINGS))
        must(by_hand.returncode != 0, "a cycle was started past its unit")
        for one in both:
            one.wait(600)
        fresh = records().keys() - known.keys()
        must(len(fresh) == 1 and records()[fresh.pop()]["outcome"] == "published", "two cycles, or none that published")


def killed() -> None:
    """At random moments: the next cycle goes, the work of the killed one is kept or nothing had begun."""
    seen: dict[str, int] = {}
    lasts = 4.0
    rng = random.Random(int(os.environ.get("SEED", "0")) or None)
    for number in range(KILLS):
        before, known = counted(), records()
        with approved(f"Killed {number}", "pi: write docs/precious.md mine", "pi: sleep 0.3"):
            began = time.monotonic()
            sh("systemctl", "start", "--no-block", UNIT)
            what = rng.choice(("main", "all", "prepare", "settle", "watch", "agent", "engine"))
            time.sleep(rng.uniform(0, lasts))
            hit = kill(what)
            wait(f"{number}: the end of the unit after {what}", ended, 180)
            lasts = max(3.0, min(12.0, (lasts * 3 + time.monotonic() - began) / 4))
        must(of_the_loop() == "", f"{number}: {of_the_loop()}")
        now = records()
        must(known.keys() <= now.keys(), f"{number}: records were lost")
        key = f"{what}{'' if hit else ' (missed)'}"
        seen[key] = seen.get(key, 0) + 1
        if number % 5 == 4 or number == KILLS - 1:
            published(f"After {number} kills")
            after_kills(before, known)
    LINES.append(f"    {KILLS} kills: {dict(sorted(seen.items()))}")


def after_kills(before: int, known: dict[str, Any]) -> None:
    now = records()
    must(not [one for one in now.values() if one["outcome"] == "running"], "a record still says running")
    for name in now.keys() - known.keys():
        record = now[name]
        if record.get("agents"):
            must((RUNS / name / "cell.json").exists(), f"the cell of {name} is gone: {record['outcome']}")
    for path in RUNS.glob("2*"):
        manifest = json.loads((path / "cell.json").read_text(encoding="utf-8"))
        must(manifest["outcome"] != "running" and path.stat().st_mode & 0o777 == 0o700, f"{path.name} is open")
        must(path.name in now or len(now) >= 200, f"{path.name} has no record")
    days = json.loads(BUDGET.read_text(encoding="utf-8"))
    runs = {run["invocation"] for day in days.values() for run in day["runs"]}
    for name, record in now.items():
        if record.get("agents"):
            must(record["invocation_id"] in runs, f"{name} was not counted")
    must(not outside(), outside())
    must(MEMORY.is_dir(), "memory is gone")
    must(counted() > before, "nothing was counted")


def kill(what: str) -> bool:
    if what == "all":
        return sh("systemctl", "kill", "-s", "KILL", "--kill-whom=all", UNIT).returncode == 0
    if what == "main":
        return sh("systemctl", "kill", "-s", "KILL", "--kill-whom=main", UNIT).returncode == 0
    if what == "watch":
        return sh("systemctl", "kill", "-s", "KILL", f"{UNIT}-watch").returncode == 0
    words = {
        "prepare": f"{LOOP} prepare",
        "settle": f"{LOOP} settle",
        "agent": "^/usr/bin/bwrap",
        "engine": "daemon --once",
    }[what]
    found = sh("pgrep", "-f", words).stdout.split()
    own = str(os.getpid())
    for pid in found:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it may have ended meanwhile
            if pid != own and UNIT in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8"):
                os.kill(int(pid), 9)
    return bool(found)


def of_all_this() -> None:
    """After the playbooks: nothing ran outside of the sandbox."""
    must(not outside(), outside())
    must(of_the_loop() == "", of_the_loop())
    published("The last page")


TRIED = [
    nothing_gets_out,
    what_an_agent_leaves,
    what_a_broken_sandbox_leaves,
    work_of_a_forged_end_is_kept,
    a_gate_command_is_shut_in,
    a_cell_has_a_size,
    bad_input,
    damaged_clones,
    two_starts_at_once,
    killed,
    of_all_this,
]


def main() -> int:
    for issue in ask("GET", f"{API}/repos/{REPO}/issues?state=open&per_page=100", {}):
        ask("PATCH", f"{API}/repos/{REPO}/issues/{issue['number']}", {"state": "closed"})
    failed = 0
    with settings(
        max_runs_per_day=100_000, daemon_args=["--max-runs-per-day", "100000", "--max-cost-usd-per-day", "10"]
    ):
        for one in TRIED:
            if sys.argv[1:] and one.__name__ not in sys.argv[1:]:
                continue
            began = time.monotonic()
            LINES.clear()
            TIMES.clear()
            try:
                one()
                problem = ""
            except Exception as error:  # noqa: BLE001 - the next is tried all the same
                problem = f"{'' if isinstance(error, Wrong) else type(error).__name__} {error}"[:2000]
                failed += 1
            print("\n".join(LINES))
            print(
                f"{'FAIL' if problem else 'ok'}: {one.__name__.replace('_', ' ')}"
                f" ({time.monotonic() - began:.1f} s, cycles {TIMES}) {problem}",
                flush=True,
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
