# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway's audit log: what it was asked in each cycle and what it answered, the one word on what left the host.

The gateway, as its own user, writes down each request under the cycle's name, in ``gate_dir/records/<cycle>.jsonl``,
before anybody hears of it. Nothing that a cycle says is in here but what it asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..base import untrusted
from ..base.clock import utc_now
from ..base.errors import LoopError
from ..base.files import flocked
from ..cell.cells import ID
from ..host.settings import Settings

Json: TypeAlias = dict[str, Any]

KEEP = 200
# One cycle asks some hundred things; whoever asks more often is not one.
MAX_ENTRIES, MAX_BYTES = 5000, 4 * 1024 * 1024
# What has reached the forge is written down also where all else finds no room any more.
SPARE, DONE = 256 * 1024, ("push", "open", "job-comment", "job-label")


def path_of(config: Settings, cycle: str) -> str:
    """The file of one cycle's requests, one JSON object a line."""
    if not ID.fullmatch(cycle):
        raise LoopError(f"{untrusted.show(cycle)} is not the name of a cycle")
    return f"{config.gate_dir}/records/{cycle}.jsonl"


def append(config: Settings, cycle: str, entry: Mapping[str, Any]) -> None:
    """As the gateway: write one entry down before anybody hears of it. LoopError where that cannot be done."""
    path = path_of(config, cycle)
    line = json.dumps({"at": utc_now(), **entry}) + "\n"
    try:
        with flocked(f"{config.gate_dir}/.records.lock"):
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "r+b", buffering=0) as handle:
                size = os.fstat(descriptor).st_size
                if size + len(line) > MAX_BYTES - SPARE * (entry["what"] not in DONE):
                    raise LoopError("this cycle has asked for too much: it is answered no more")
                # A line that a full disk or a kill cut short must not swallow the next one.
                broken = size and os.pread(descriptor, 1, size - 1) != b"\n"
                handle.write(b"\n" * bool(broken) + line.encode())
    except OSError as error:
        raise LoopError(f"{path} cannot be written: {error.strerror}") from error


def read(config: Settings, cycle: str) -> list[Json]:
    """All entries of a cycle, oldest first; a line that is no entry is passed over."""
    content, found = untrusted.read(path_of(config, cycle), config.gate_dir, 2 * MAX_BYTES), []
    for line in (content or b"").splitlines():
        with contextlib.suppress(LoopError):
            entry = untrusted.parse(line, "an entry", depth=6)
            if isinstance(entry.get("what"), str):
                found.append(entry)
    return found


def cycles(config: Settings) -> list[str]:
    """Names of the cycles that have a record, oldest first."""
    with contextlib.suppress(OSError):
        names = [name.removesuffix(".jsonl") for name in os.listdir(f"{config.gate_dir}/records")]
        return sorted(name for name in names if ID.fullmatch(name))
    return []


def forget_old(config: Settings) -> None:
    """As the gateway: keep the records of the newest cycles only, and as many of jobs, which may run more often."""
    known = cycles(config)
    if len(known) <= KEEP:
        return
    kinds: dict[bool, list[str]] = {True: [], False: []}
    for name in known:
        kinds[_is_of_job(config, name)].append(name)
    for names in kinds.values():
        for old in names[:-KEEP]:
            with contextlib.suppress(OSError):
                os.unlink(path_of(config, old))


def _is_of_job(config: Settings, name: str) -> bool:
    """Told without reading it as JSON, since a cycle waits for this; in a text of JSON no quotation mark is bare."""
    with contextlib.suppress(LoopError):
        return b'"what": "job-' in (untrusted.read(path_of(config, name), config.gate_dir, 2 * MAX_BYTES) or b"")
    return False


# --- what follows from it -----------------------------------------------------------------------


@dataclass
class Story:
    """What a cycle did at the gateway, as its record tells it."""

    offered: list[tuple[str, int]] = field(default_factory=list)
    titles: dict[str, str] = field(default_factory=dict)  # by "REPO#N"
    digests: dict[str, str] = field(default_factory=dict)  # of what was offered, by the same
    released: dict[str, str] = field(default_factory=dict)  # whose count begins anew, and the digest that it was of
    taken: tuple[str, int] | None = None
    tips: dict[str, str] = field(default_factory=dict)  # dest -> the base branch's commit when the cycle began
    pushes: list[Json] = field(default_factory=list)
    forwarded: dict[str, Json] = field(default_factory=dict)  # branch -> the last push that the forge took
    opened: list[Json] = field(default_factory=list)
    held: list[Json] = field(default_factory=list)  # approved, and not offered: {repo number why}
    refusals: list[str] = field(default_factory=list)  # of questions, not of pushes
    entries: int = 0

    @property
    def issue(self) -> str:
        """The issue that it took, as a person writes it; empty where it took none."""
        return f"{self.taken[0]}#{self.taken[1]}" if self.taken else ""

    @property
    def own_pull(self) -> Json:
        """The pull request for its own work; empty where it opened none."""
        return next((one for one in self.opened if not one.get("finished")), {})


def story(entries: list[Json]) -> Story:
    """Read a record. The issue is the last whose body was asked for before anything was pushed."""
    told, begun = Story(entries=len(entries)), False
    for entry in entries:
        what = entry["what"]
        begun = begun or what in ("forward", "push")
        with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
            if what == "list":
                for one in entry["offered"]:
                    told.offered.append((str(entry["repo"]), int(one["number"])))
                    told.titles[f"{entry['repo']}#{one['number']}"] = str(one.get("title", ""))
                    told.digests[f"{entry['repo']}#{one['number']}"] = str(one.get("digest", ""))
                for one in entry.get("released", []):
                    told.released[f"{entry['repo']}#{one['number']}"] = str(one["digest"])
                told.held += [{"repo": entry["repo"], **one} for one in entry["held"]]
            elif what == "view" and entry.get("body") and not begun:
                told.taken = (str(entry["repo"]), int(entry["number"]))
            elif what == "refresh":
                told.tips.update({str(dest): str(tip) for dest, tip in entry["tips"].items()})
            elif what == "push":
                told.pushes.append(entry)
                if entry.get("allowed"):
                    told.forwarded[str(entry["branch"])] = entry
            elif what == "open":
                told.opened.append(entry)
            elif what == "refused":
                told.refusals.append(str(entry["why"]))
    return told
