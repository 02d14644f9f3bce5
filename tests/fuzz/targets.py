# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must hold for any bytes that somebody hands us as a policy, a diff, a manifest, a lock or a part of a worktree.

Each target takes one input and returns, or raises what it found: an exception other than
LoopError, an error that is not one line, a second of processor time (so a busy machine
finds nothing), or a process that has grown over 200 MiB. ``limited`` puts the last two around it.

As a program (argument: TARGET) it takes inputs on stdin, each after its length in four bytes,
and answers each with its finding in the same form, empty where there is none.
"""

from __future__ import annotations

import atexit
import copy
import faulthandler
import functools
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / ".collections"))
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base import untrusted  # noqa: E402
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError  # noqa: E402
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import cells, records  # noqa: E402
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cycle import engine_run, settle  # noqa: E402
from ansible_collections.as215932.engineering_loop.plugins.module_utils.git import worktree_admin  # noqa: E402
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import processes  # noqa: E402
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings  # noqa: E402
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import host_facts  # noqa: E402
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy import compose, rules, schema  # noqa: E402
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.diff import changes_in_diff  # noqa: E402
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees import manifests  # noqa: E402

SECONDS = 1.0
STUCK_SECONDS = 20.0  # of wall time: nothing in Python answers the signal any more
MEBIBYTES = 200
slowest = 0.0  # what one input took at most so far

KEYS = [*schema.DEFAULT_KEYS, *schema.REPO_KEYS, *schema.GUARD_KEYS]
POLICY: dict[str, Any] = {
    "version": 1,
    "defaults": {
        "max_changed_files": 20,
        "max_file_bytes": 1048576,
        "denied_path_globs": [".env", ".env.*", "*.key", "id_*", "secrets/**", "**/secrets/**"],
        "denied_content_patterns": [
            "-----BEGIN [A-Z ]*PRIVATE KEY-----",
            "AKIA[0-9A-Z]{16}",
            r"(?i)(api_key|token|secret)\s*=\s*['\"][^'\"]+['\"]",
        ],
        "allowed_gate_commands": ["python3", "git"],
        "protected_branch_prefixes": ["main"],
        "allowed_pr_remotes": ["origin"],
        "allowed_handoff_dirs": ["/srv/runs"],
    },
    "repos": {},
}


class Finding(Exception):
    """Something that no input may cause."""


def _one_line(error: LoopError, beginning: str) -> None:
    text = str(error)
    if not text.startswith(beginning) or not text.isprintable() or len(text) > 2000:
        raise Finding(f"not one clear line: {text[:500]!r}")


def policy(content: bytes) -> None:
    """A policy is refused in one line, or valid, and then it renders to what means the same."""
    try:
        read = schema.load(content, "fuzz", complete=False)
    except LoopError as error:
        _one_line(error, "fuzz")
        return
    base = copy.deepcopy(POLICY)
    base["defaults"].update(read.get("defaults", {}))
    base["guards"] = read.get("guards", {})
    base["repos"] = read.get("repos", {})
    # Patterns are tried for a second each when they are composed; here only what is read is in question.
    for section in (base["defaults"], *base["repos"].values()):
        if "denied_content_patterns" in section:
            section["denied_content_patterns"] = ["x"]
    compose.compose(base, {})
    schema.digest(read)


def diff(content: bytes) -> None:
    """A diff is refused in one line, or judged, and each reason can be printed."""
    try:
        changes = changes_in_diff(content)
    except LoopError as error:
        _one_line(error, "the diff cannot be read")
        return
    for violation in rules.judge_changes(POLICY, "app", changes, ["docs"]):
        if not str(violation).isprintable():
            raise Finding(f"a reason that cannot be printed: {violation!r}")


def _harmless(text: str) -> None:
    if not text.isprintable():
        raise Finding(f"a terminal would obey this: {text[:500]!r}")
    text.encode()


def _value(content: bytes) -> Any:
    """Any JSON, as far as these bytes are some; else a text that could stand in it."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content.decode("utf-8", "surrogateescape")


def record(content: bytes) -> None:
    """Whatever is in a record, it fits, can be written, and is told in one harmless line."""
    value = _value(content)
    given = value if isinstance(value, dict) else {"report": value, "detail": value, "numbers": value}
    for limit in (records.MAX_BYTES, 2000):
        whole = records.fitting({**given, "cycle": "c", "outcome": "error"}, limit)
        text = json.dumps(whole, indent=2, sort_keys=True)
        text.encode()
        if len(text) > 4 * records.MAX_BYTES:
            raise Finding(f"a record of {len(text)} bytes")
    root = {"agents": 1, "budget": {"runs_today": 1, "max_runs": 2}, "kept": True, "seconds": 1.5}
    for told in ({**given, **root}, {**whole, **root}):
        _harmless(records.sentence(Settings({"lib_dir": "/lib"}), {**told, "cycle": "c", "outcome": "error"}))


def report(content: bytes) -> None:
    """An engine's output has a report or none."""
    found = engine_run.parse_report(content.decode("utf-8", "replace"))
    if found and not isinstance(found["outcome"], str):
        raise Finding(f"no report: {found!r}"[:500])


def claim(content: bytes) -> None:
    """Whatever a cycle claims, it has an outcome that is known, and numbers that are some."""
    value = _value(content)
    given = value if isinstance(value, dict) else dict.fromkeys(("outcome", "detail", "report", "pushes"), value)
    taken = settle.claimed(given)
    config = Settings({"cycles_dir": "/"})
    for agents in (0, 1):
        for code, status in (("", ""), ("exited", "4"), ("killed", "KILL")):
            systemd = {"EXIT_CODE": code, "EXIT_STATUS": status}
            outcome, detail = settle.judge(cells.Manifest("running", agents=agents), taken, systemd)
            if outcome not in records.EXIT_STATUS or (agents and outcome in cells.NOTHING_IN_IT):
                raise Finding(f"{outcome!r} after {agents} agents")
            budget = {"runs_today": 0, "started_today": 1, "max_runs": 2}
            begun = {"cycle": "c", "seconds": 1.0, "agents": agents, "budget": budget, "outcome": outcome,
                     "pushed": 1, "pushes_refused": 0}  # fmt: skip
            ended = {**begun, **taken, "outcome": outcome, "detail": detail}
            _harmless(records.sentence(config, ended))
            counted = settle.numbers(config, begun, taken, cells.Manifest("error"))
            if not all(isinstance(one, (int, float)) and 0 <= one < 1e18 for one in counted.values()):
                raise Finding(f"no numbers: {counted!r}")
            json.dumps(records.fitting(ended)).encode()


@functools.cache
def cell(content: bytes) -> None:
    """Whatever stands in a manifest, cells are listed, kept or let go, and told harmlessly."""
    runs = str(_directory())
    place = f"{runs}/20260131T120000Z-1a2b3c4d"
    os.makedirs(place, exist_ok=True)
    Path(place, cells.MANIFEST).write_bytes(content)
    ((found, _manifest),) = cells.listing(runs)
    if found.path != place:
        raise Finding(f"listed as {found.path!r}")
    for age, size in ((1.0, None), (None, 0.0), (None, None)):
        cells.retire(runs, age, size, 0.0, check=True)
    for one in host_facts.kept(runs):
        _harmless(one["what"])
        _harmless(one["title"])
        _harmless(str(one["detail"]))


def told(content: bytes) -> None:
    """What another user wrote is an object or refused in one line, and whatever it holds can be shown."""
    whole = untrusted.show(content.decode("utf-8", "surrogateescape"))
    if not whole.isprintable() or len(whole) > untrusted.MAX_SHOWN + 3:
        raise Finding(f"cannot be shown: {whole!r}")
    try:
        found = untrusted.parse(content, "fuzz")
    except LoopError as error:
        _one_line(error, "fuzz")
        return
    json.dumps(untrusted.shown(found), ensure_ascii=False).encode()


def manifest(content: bytes) -> None:
    """A manifest is listed whatever is in it, what it names is of its kind, and what was read can be written again."""
    place = _directory() / "20260102T030405Z-1a2b3c4d-0"
    place.mkdir(exist_ok=True)
    (place / "manifest.json").write_bytes(content)
    listed = manifests.listing(str(place.parent))
    json.dumps(listed, ensure_ascii=False).encode()
    if [one["id"] for one in listed] != [place.name] or not all(isinstance(one["what"], str) for one in listed):
        raise Finding(f"listed as {listed!r}")
    found = manifests.Manifest.read(str(place))
    for path in filter(None, (found.path, found.repo, found.restored_to)):
        if os.path.normpath(os.path.join("/", path)) != path:
            raise Finding(f"a path is {path!r}")
    if not found.damaged:
        manifests.write_manifest(str(place), {"size": 1})
        if manifests.Manifest.read(str(place)).size != 1:
            raise Finding("what was read could not be written")


def lock(content: bytes) -> None:
    """The engine's lock names a process that there can be, or none."""
    pid, _started = processes.named_in(content)
    if pid is not None:
        if not 0 < pid < 2**31:
            raise Finding(f"the process {pid}")
        place = _directory() / "daemon.lock"
        place.write_bytes(content)
        processes.run_holder(str(place))


PARTS = ("gitdir", "HEAD", "commondir", "index", "head-log", "head-name")


def admin(content: bytes) -> None:
    """The files of a worktree's directory in ``.git``, one after the other, each ended by the bytes ff fe."""
    place = _directory() / "admin"
    place.mkdir(exist_ok=True)
    for name, part in itertools.zip_longest(PARTS, content.split(b"\xff\xfe", len(PARTS) - 1), fillvalue=b""):
        (place / str(name)).write_bytes(bytes(part))
    read = worktree_admin.read_admin(str(place))
    if read.target and (not read.target.startswith("/") or "\0" in read.target):
        raise Finding(f"a worktree at {read.target!r}")
    worktree_admin.mentioned(str(place))
    worktree_admin.index_tree(read)
    worktree_admin.last_commit(read)


@functools.cache
def _directory() -> Path:
    place = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


TARGETS: dict[str, Callable[[bytes], None]] = {
    "policy": policy, "diff": diff, "told": told, "manifest": manifest, "lock": lock, "admin": admin,
    "record": record, "report": report, "claim": claim, "cell": cell,
}  # fmt: skip


def limited(target: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """``target`` with a bound on its time, and on the memory of the whole process. Main thread only."""

    def expire(_number: int, _frame: object) -> None:
        raise Finding(f"took more than {SECONDS} s")

    signal.signal(signal.SIGPROF, expire)

    def one(content: bytes) -> None:
        global slowest
        began = time.process_time()
        faulthandler.dump_traceback_later(STUCK_SECONDS, exit=True)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            target(content)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            faulthandler.cancel_dump_traceback_later()
        slowest = max(slowest, time.process_time() - began)
        if peak_mebibytes() > MEBIBYTES:
            raise Finding(f"the process has grown to {peak_mebibytes():.0f} MiB, allowed: {MEBIBYTES}")

    return one


def peak_mebibytes() -> float:
    """The most memory that this program has had; getrusage would count what its parent had before exec."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def costs() -> str:
    """What the inputs of this process have taken at most."""
    return f"at most {slowest * 1000:.0f} ms for one input and {peak_mebibytes():.0f} MiB in all"


def send(stream: IO[bytes], content: bytes) -> None:
    """Write one message."""
    stream.write(len(content).to_bytes(4, "big") + content)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes | None:
    """The next message; None where the other side has ended."""
    head = stream.read(4)
    return stream.read(int.from_bytes(head, "big")) if len(head) == 4 else None


def main(name: str) -> None:
    target = limited(TARGETS[name])
    while (content := receive(sys.stdin.buffer)) is not None:
        try:
            target(content)
        except Exception:  # noqa: BLE001 - any at all is what we are here for
            send(sys.stdout.buffer, traceback.format_exc().encode("utf-8", "backslashreplace"))
        else:
            send(sys.stdout.buffer, b"")
    print(costs(), file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1])
