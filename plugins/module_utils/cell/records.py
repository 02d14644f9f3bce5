# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What happened in each cycle: one JSON record under ``cycles_dir``, which is root's, kept by age and size.

What the engine claims is in it as its ``report``, cleaned and cut to size; all else is what root saw.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from typing import Any

from ..base.clock import Age, age_of, utc_now
from ..base.errors import LoopError
from ..base.files import read_bytes, write_atomic
from ..base.untrusted import show
from ..host.settings import Settings
from . import cells, egress

NEWEST = 200  # how many are read where nobody says more
MOST = 10_000  # that are kept, whatever their age and size
# What stands beside a record: the log, and what the engine wrote for people.
LOG, FILES = ".log", ".tar.gz"
# ... and what a writer that was killed left of one.
OURS = re.compile(r"\.?(\d{8}T\d{6}Z-[0-9a-z]+)(\.json|\.log|\.tar\.gz)(\.new)?")
RUNNING = "running"
# What an engine calls the backend that stands for an agent where its model policy names none: it makes a stub.
MOCK = "mock"

# What systemd is told. Only what needs a person is a failure: the unit names NOTHING_DONE as a success.
NOTHING_DONE, REFUSED = 10, 4
EXIT_STATUS = {
    "published": 0,
    "idle": NOTHING_DONE,
    "over_budget": NOTHING_DONE,
    "paused": NOTHING_DONE,
    "locked": NOTHING_DONE,
    "needs_triage": 3,
    "refused": REFUSED,
    "refused_ci": REFUSED,
    "error": 1,
    "interrupted": 1,
}
# What a record may hold of what others wrote: an engine's report is not ours to trust.
MAX_TEXT, MAX_ITEMS, MAX_DEPTH, MAX_BYTES = 2000, 100, 6, 256 * 1024


def names(cycles_dir: str) -> list[str]:
    """File names of the records, oldest first; their names begin with the time."""
    try:
        found = os.listdir(cycles_dir)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LoopError(f"{cycles_dir} cannot be read: {error.strerror}") from error
    return sorted(name for name in found if name.endswith(".json") and name[0].isdigit())


def read(cycles_dir: str, last: int = NEWEST) -> list[dict[str, Any]]:
    """The newest ``last`` records, oldest first. A file that is no record is passed over."""
    known = names(cycles_dir)[-last:] if last > 0 else []
    found = (one(cycles_dir, name.removesuffix(".json")) for name in known)
    return [record for record in found if record is not None]


def of_invocation(cycles_dir: str, invocation: str) -> list[dict[str, Any]]:
    """The records of one invocation of the unit, wherever a clock that was wrong has put them among the others."""
    mine = [name.removesuffix(".json") for name in names(cycles_dir) if name.endswith(f"-{invocation[:8]}.json")]
    found = [one(cycles_dir, name) for name in mine]
    return [record for record in found if record and record.get("invocation_id") == invocation]


def one(cycles_dir: str, cycle: str) -> dict[str, Any] | None:
    """The record of that cycle; None where what stands there is none."""
    with contextlib.suppress(LoopError, ValueError, RecursionError):
        record = json.loads(read_bytes(f"{cycles_dir}/{cycle}.json", 4 * MAX_BYTES) or b"null")
        if isinstance(record, dict) and record.get("cycle") == cycle:
            return record
    return None


def bounded(value: Any, depth: int = MAX_DEPTH) -> Any:
    """``value`` with long texts and lists cut, no NaN, nothing nested too deeply, and nothing a terminal obeys."""
    if isinstance(value, str):
        return "\n".join(show(line, MAX_TEXT) for line in value[: MAX_TEXT * 4].split("\n"))[: MAX_TEXT + 3]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # Python writes NaN, which is no JSON, and nobody else could read the record
    if isinstance(value, (dict, list)) and not depth:
        return "..."
    if isinstance(value, dict):
        return {bounded(str(key)): bounded(item, depth - 1) for key, item in list(value.items())[:MAX_ITEMS]}
    if isinstance(value, list):
        return [bounded(item, depth - 1) for item in value[:MAX_ITEMS]]
    return value


def fitting(record: dict[str, Any], limit: int = MAX_BYTES) -> dict[str, Any]:
    """The record as ``bounded`` makes it; where it is larger than ``limit`` bytes, without what makes it so.

    What the engine says goes first: it must not push out what was pushed.
    """
    whole: dict[str, Any] = bounded(record)
    sizes = {key: len(json.dumps({key: value}, indent=2)) for key, value in whole.items()}
    room, left_out = sum(sizes.values()) - limit, []
    large = [key for key, value in whole.items() if isinstance(value, (dict, list)) and key != "numbers"]
    for key in sorted(large, key=lambda key: (key != "report", -sizes[key])):
        if room > 0:
            room -= sizes[key]
            left_out.append(key)
            del whole[key]
    return {**whole, "left_out": sorted(left_out)} if left_out else whole


def write(cycles_dir: str, record: dict[str, Any]) -> None:
    """Write or replace a record; its ``cycle`` names the file."""
    content = json.dumps(fitting(record), indent=2, sort_keys=True) + "\n"
    write_atomic(f"{cycles_dir}/{record['cycle']}.json", content.encode(), mode=0o644)


def retire(cycles_dir: str, age: float | None, size: float | None, most: int = MOST, age_of: Age = age_of) -> list[str]:
    """Let records go that are older than ``age`` seconds or not among the newest ``most``, and what stands beside them.

    While all of it is larger than ``size`` bytes the oldest logs and files go, and then the oldest records. The newest
    cycle stays whole. Returns the names of what went.
    """
    found: dict[str, dict[str, int]] = {}
    for name in sorted(os.listdir(cycles_dir)):
        if ours := OURS.fullmatch(name):
            with contextlib.suppress(FileNotFoundError):
                found.setdefault(ours[1], {})[name] = os.lstat(f"{cycles_dir}/{name}").st_size
    cycles = sorted(found)
    old = [cycle for cycle in cycles if age is not None and age_of(cycle) > age]
    going = {*cycles[:-most], *old, *(cycle for cycle in cycles if f"{cycle}.json" not in found[cycle])}
    gone = [name for cycle in cycles[:-1] if cycle in going for name in found[cycle]]
    rest = [cycle for cycle in cycles[:-1] if cycle not in going]
    sizes = {name: length for parts in found.values() for name, length in parts.items() if name not in gone}
    total = sum(sizes.values())
    beside = [name for cycle in rest for name in found[cycle] if not name.endswith(".json")]
    for name in (*beside, *(f"{cycle}.json" for cycle in rest)):
        if size is not None and total > size:
            total -= sizes[name]
            gone.append(name)
    return [name for name in gone if _unlinked(f"{cycles_dir}/{name}")]


def _unlinked(path: str) -> bool:
    try:
        os.unlink(path)
    except OSError:
        return False
    return True


def running(cycles_dir: str) -> list[dict[str, Any]]:
    """Records of cycles whose end was not written down yet."""
    return [record for record in read(cycles_dir) if record.get("outcome") == RUNNING]


def ended(record: dict[str, Any], outcome: str, detail: str) -> dict[str, Any]:
    """The record with its end in it."""
    return {**record, "outcome": outcome, "detail": detail, "ended": utc_now()}


def sentence(config: Settings, record: dict[str, Any]) -> str:
    """The cycle in one line, for the journal."""
    issue = record.get("issue")
    words = [f"cycle {record['outcome']} after {record.get('seconds', 0)} s"]
    if isinstance(issue, dict) and issue:
        words.append(f"{issue.get('repo')}#{issue.get('number')}")
    words += [str(text) for text in (record.get("pr_url"), record.get("detail")) if text]
    network = record.get("network")
    if isinstance(network, dict) and EXIT_STATUS.get(record["outcome"]) not in (0, NOTHING_DONE):
        words += [f"({advice})" for advice in (egress.advice(network.get("refused", [])),) if advice]
    if record.get("agents") and record.get("budget"):
        words.append(f"(run {record['budget']['runs_today']} of {record['budget']['max_runs']} today)")
    attempt = record.get("attempt")
    if isinstance(attempt, dict) and attempt.get("max"):
        words.append(
            f"(attempt {attempt.get('n')} of {attempt['max']}{', it is held now' * bool(attempt.get('held'))})"
        )
    told = ": ".join([words[0], " ".join(words[1:])] if words[1:] else words)
    kept = f"; its cell is kept: sudo {cells.enter_command(config, record['cycle'])}" if record.get("kept") else ""
    return show(" ".join(told.split()), MAX_TEXT) + kept
