# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""``INSTALL_DIR/rollout.json``: which set was in force when, and the rollout that is under way."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from ..base import documents
from ..base.clock import utc_now
from ..base.errors import LoopError
from ..base.files import flocked, read_bytes, write_atomic
from ..release import releases

Json: TypeAlias = dict[str, Any]

NAME = "rollout.json"
HISTORY = 200  # events that are remembered
PROVEN, RETURNED, ROLLED_BACK = "proven", "returned", "rolled back"
BACK = (RETURNED, ROLLED_BACK)


@dataclass(frozen=True)
class Event:
    """A set came into force: its key, its engine, and what was left for it."""

    set: str
    sha: str
    at: str
    why: str
    left: str = ""  # an engine
    left_set: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Return:
    """Where a return is going: to which set, from which engine, and why."""

    set: str
    left: str = ""
    reason: str = ""


@dataclass(frozen=True)
class UnderWay:
    """A rollout that has not ended: what ran before it (the key of a set, or empty), and whether the timer did."""

    began: str
    unit: str = ""
    before: str = field(default="", metadata={"key": "from"})
    timer: bool = False
    back_to: Return | None = None

    def document(self) -> Json:
        """As it is written."""
        written = {"began": self.began, "unit": self.unit, "from": self.before, "timer": self.timer}
        return {**written, "back_to": asdict(self.back_to)} if self.back_to else written


@dataclass(frozen=True)
class Ledger:
    """All that is remembered, the latest event last."""

    under_way: UnderWay | None = field(default=None, metadata={"key": "open"})
    history: tuple[Event, ...] = ()

    @property
    def newest(self) -> Event | None:
        """The last event."""
        return self.history[-1] if self.history else None

    @property
    def back_to(self) -> Return | None:
        """Where a return was going that did not arrive."""
        return self.under_way.back_to if self.under_way else None

    def ended(self, why: str, key: str, sha: str, left: str = "", reason: str = "") -> Ledger:
        """The same once the rollout under way has ended with this set in force."""
        event = Event(key, sha, utc_now(), why, left, self.newest.set if self.newest else "", reason)
        return Ledger(None, (*self.history, event))

    def newest_first(self) -> list[str]:
        """The keys of the sets that were in force, each once."""
        return list(dict.fromkeys(event.set for event in reversed(self.history) if event.set))

    def rejected(self) -> set[str]:
        """Sets and engines that were gone back from, and were not wanted again since."""
        found: set[str] = set()
        for event in self.history:
            found -= {event.set, event.sha}
            if event.why in BACK:
                found |= {event.left} - {"", event.sha}
                found |= {event.left_set} - {"", event.set}
        return found


@contextlib.contextmanager
def locked(install_dir: str, *, check: bool = False) -> Iterator[Ledger]:
    """What is remembered, ours alone for as long as this lasts; ``check`` locks nothing."""
    with contextlib.ExitStack() as stack:
        if not check and os.path.isdir(install_dir):
            stack.enter_context(flocked(os.path.join(install_dir, ".rollout.lock")))
        yield read(install_dir)


def read(install_dir: str) -> Ledger:
    """What is remembered, nothing where there is no ledger yet."""
    path = os.path.join(install_dir, NAME)
    try:
        return documents.load(Ledger, read_bytes(path) or b"{}")
    except LoopError as error:
        raise LoopError(f"{path} cannot be understood ({error}): move it away to start anew") from error


def save(install_dir: str, ledger: Ledger) -> None:
    """Write it anew, without the oldest events."""
    document = {
        "open": ledger.under_way.document() if ledger.under_way else None,
        "history": [asdict(event) for event in ledger.history[-HISTORY:]],
    }
    content = json.dumps(document, indent=2, sort_keys=True) + "\n"
    write_atomic(os.path.join(install_dir, NAME), content.encode(), mode=0o644)


def rejected(install_dir: str) -> dict[str, str]:
    """The engines that were gone back from or failed, and why: an apply that brings one of them again says so."""
    found: dict[str, str] = {}
    for event in read(install_dir).history:
        found.pop(event.sha, None)
        if event.why in BACK and event.left not in ("", event.sha):
            found[event.left] = _told(f"was {event.why} from at {event.at}", event.reason)
    for sha, mark in releases.ledger(install_dir)["marks"].items():
        if mark["verdict"] == "failed":
            found[sha] = _told(f"failed at {mark['at']}", mark["detail"])
    return found


def _told(what: str, why: str) -> str:
    return f"{what} ({why})" if why else what
