# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a take-over writes down of itself: ``INSTALL_DIR/taken-over/<time>/manifest.json``.

It is written before anything moves, so that a take-over which was killed is gone on with, and all is put back from it.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..base.errors import LoopError
from ..base.files import read_bytes, write_atomic
from .adopt import Part

Json = dict[str, Any]

ASIDE = "taken-over"
MANIFEST = "manifest.json"
LATER = ("ended", "cell", "work", "found")  # what is not known yet when it begins


@dataclass(frozen=True)
class Moved:
    """One thing: what it is (see ``older_layout.Item``), the path where it stood, and the path where it stands."""

    kind: str
    path: str
    to: str


@dataclass(frozen=True)
class Owner:
    """To whom a file or directory belonged, and its mode."""

    uid: int
    gid: int
    mode: int


@dataclass(frozen=True)
class Manifest:
    """One take-over. Times are as ``clock.fine_stamp`` writes them; without ``ended`` it has to be gone on with."""

    begun: str = ""
    ended: str = ""
    entries: Sequence[str] = ()  # names in the install directory that belong to the checkout
    timers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # as ``systemd.state`` had them
    head: str = ""  # the checkout's commit
    items: Sequence[Moved] = ()
    owners: Mapping[str, Owner] = field(default_factory=dict)  # by path, of what stays in its place
    account: Sequence[str] = ()  # home and shell of the loop's user
    cell: str = ""  # the id of the cell that the work becomes
    work: Sequence[Part] = ()
    found: Sequence[str] = ()  # what was said of the work

    @property
    def open(self) -> bool:
        return bool(self.begun and not self.ended)

    def moved_from(self, kind: str, path: str) -> Moved | None:
        """What of this kind stood at ``path``, if anything did."""
        return next((item for item in self.items if (item.kind, item.path) == (kind, path)), None)

    def write(self, aside: str) -> None:
        """Into the directory of this take-over."""
        known = asdict(self)
        known["owners"] = {path: [owner.uid, owner.gid, owner.mode] for path, owner in self.owners.items()}
        known["work"] = [[part.name, part.path, part.whole] for part in self.work]
        known = {key: value for key, value in known.items() if value or key not in LATER}
        content = json.dumps(known, indent=2, sort_keys=True)
        write_atomic(f"{aside}/{MANIFEST}", f"{content}\n".encode(), mode=0o600)


def read(aside: str) -> Manifest:
    """The manifest in this directory; one that says nothing where there is none that can be read."""
    with contextlib.suppress(AttributeError, TypeError, ValueError, LoopError):
        known: Json = json.loads(read_bytes(f"{aside}/{MANIFEST}") or b"{}")
        known["items"] = [Moved(**item) for item in known.get("items", [])]
        known["owners"] = {path: Owner(*owner) for path, owner in known.get("owners", {}).items()}
        known["work"] = [Part(*part) for part in known.get("work", [])]
        return Manifest(**known)
    return Manifest()


def listing(install_dir: str) -> list[str]:
    """The directories of all take-overs of this host, oldest first."""
    home = f"{install_dir}/{ASIDE}"
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if is_roots_directory(home):
            return [f"{home}/{name}" for name in sorted(os.listdir(home)) if not name.startswith(".")]
    return []


def unfinished(install_dir: str) -> tuple[str, Manifest]:
    """The take-over that was begun and did not end: its directory and manifest; an empty path where there is none."""
    for aside in listing(install_dir):
        if (known := read(aside)).open:
            return aside, known
    return "", Manifest()


def is_roots_directory(path: str) -> bool:
    """Whether a directory, no link to one, is root's (where we are not root, ours). OSError where nothing is there."""
    status = os.lstat(path)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
