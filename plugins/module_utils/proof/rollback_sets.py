# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets: what was proven is kept whole, a copy of every file that a receipt covers.

They stand below ``INSTALL_DIR/proven/<sha>-<digest>``: ``files`` has policy, settings, units and our code under their
own paths, ``set.json`` tells of them; the engine itself stays in ``releases/``. A set counts only while a genuine
receipt covers it.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from ..base import documents
from ..base.clock import utc_now
from ..base.errors import LoopError
from ..base.files import read_bytes, remove_tree, write_atomic
from ..host import settings
from ..host.managed_files import Entry
from ..host.settings import Settings
from ..release import agents, store
from . import installed, timer_hold
from .installed import Installed

Json: TypeAlias = dict[str, Any]

DIRECTORY = "proven"
KEPT = 10  # sets
DAMAGED = (LoopError, OSError, KeyError, TypeError, ValueError)


@dataclass(frozen=True)
class About:
    """``set.json``: what was proven, and which of its files has the settings."""

    proven: Installed
    config: str
    kept_at: str = ""


@dataclass(frozen=True)
class KeptSet:
    """A set that counts: its engine and settings, and since when it is proven."""

    key: str
    proven: Installed
    path: str
    config_file: str
    config: Settings
    proved_at: str

    @property
    def sha(self) -> str:
        """Its engine."""
        return self.proven.engine_sha

    @property
    def root(self) -> str:
        """Below it the files stand under their own paths."""
        return f"{self.path}/files"

    def shown(self) -> Json:
        """What an operator is told of it."""
        return {"sha": self.sha, "proved_at": self.proved_at, "kept_at": self.path}

    def under(self, config: Settings) -> Settings:
        """Its settings as they are in force on a host of these: guards, limits and retention are the host's."""
        return Settings(installed.under(config, self.config))

    def entries(self, config: Settings) -> list[Entry]:
        """What must stand where for the set to be in force on a host of these settings; what joined it since goes."""
        entries: dict[str, Entry] = {}
        settled = dict(self.under(config))
        for path in installed.files(self.config_file, self.config, self.root):
            if installed.shared(path, self.config):
                continue  # it is of other units as well
            for parent in _missing_parents(path, entries):
                entries[parent] = Entry(parent, "directory", mode=0o755)
            content, status = installed.content(self.root + path), os.lstat(self.root + path)
            if os.path.islink(path) and os.path.isfile(path) and installed.content(path) == content:
                continue  # somebody's link, which leads to what was proven
            if path == self.config_file and settled != dict(self.config):
                content = (json.dumps(settled, indent=2, sort_keys=True) + "\n").encode()
            owner, group = _names(status, path)
            entries[path] = Entry(path, "file", content, owner, group, stat.S_IMODE(status.st_mode))
        with contextlib.suppress(LoopError):  # no unit there: nothing joined it
            for path in installed.unit_files(config):
                if not installed.shared(path, config):
                    entries.setdefault(path, Entry(path, "absent"))
        return list(entries.values())


def _names(status: os.stat_result, path: str) -> tuple[str, str]:
    """Owner and group of a copy, by name; of the file itself where that account was made anew since, else root."""
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(status.st_uid).pw_name, grp.getgrgid(status.st_gid).gr_name
    with contextlib.suppress(KeyError, OSError):
        status = os.lstat(path)
        return pwd.getpwuid(status.st_uid).pw_name, grp.getgrgid(status.st_gid).gr_name
    return "root", "root"


def _missing_parents(path: str, known: dict[str, Entry]) -> list[str]:
    missing: list[str] = []
    parent = os.path.dirname(path)
    while parent not in known and not os.path.isdir(parent):
        missing.insert(0, parent)
        parent = os.path.dirname(parent)
    return missing


# --- writing


def keep(config_file: str, config: Settings, now: Installed) -> None:
    """Copy what is installed, unless that very set is kept already and as it was. Whole, or not at all."""
    place = place_of(config.install_dir, now.key)
    if whole(config.install_dir, now.key):
        return
    os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
    fresh = os.path.join(os.path.dirname(place), f".new-{now.key}")
    remove_tree(fresh)
    try:
        for path in installed.files(config_file, config):
            content, status = installed.content(path), os.stat(path)
            copy = f"{fresh}/files{path}"
            os.makedirs(os.path.dirname(copy), mode=0o700, exist_ok=True)
            write_atomic(copy, content, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
        about = asdict(About(now, config_file, utc_now()))
        write_atomic(os.path.join(fresh, "set.json"), (json.dumps(about, indent=2) + "\n").encode(), mode=0o600)
        remove_tree(place)  # where it was damaged
        os.rename(fresh, place)
    except OSError as error:
        raise LoopError(f"what is proven cannot be kept in {place}: {error.strerror}") from error


def prune(install_dir: str, order: Iterable[str]) -> None:
    """Remove the sets whose release is gone, and all but the first ``KEPT`` of ``order``, their keys."""
    newest = list(dict.fromkeys(order))[:KEPT]
    for key in keys(install_dir):
        if key not in newest or store.record(install_dir, key[:40]) is None:
            with contextlib.suppress(LoopError):  # one that stays is in nobody's way
                remove_tree(place_of(install_dir, key))


# --- reading


def place_of(install_dir: str, key: str) -> str:
    """Where the set stands, or would."""
    return os.path.join(install_dir, DIRECTORY, key)


def keys(install_dir: str) -> list[str]:
    """The names of all sets, whether they count or not."""
    with contextlib.suppress(FileNotFoundError):
        names = os.listdir(os.path.join(install_dir, DIRECTORY))
        return [name for name in sorted(names) if re.fullmatch(r"[0-9a-f]{40}-\w+", name)]
    return []


def whole(install_dir: str, key: str) -> bool:
    """Whether the set is kept, and its files are those that it is named after."""
    with contextlib.suppress(*DAMAGED):
        about, config = _about(install_dir, key)
        proven, root = about.proven, f"{place_of(install_dir, key)}/files"
        return installed.of(config, proven.engine_sha, proven.lock_digest, root).key == key
    return False


def load(install_dir: str, key: str, *, despite: bool = False) -> KeptSet | None:
    """The set, if it counts: whole, its engine on disk and not failed, and covered by a genuine receipt.

    ``despite`` also takes an engine that failed: somebody names it.
    """
    try:
        about, config = _about(install_dir, key)
        sha, path = about.proven.engine_sha, place_of(install_dir, key)
        release = store.record(install_dir, sha)
        if release is None or config.install_dir != install_dir or _outlived(config):
            return None
        found = installed.of(config, sha, release["lock_digest"], f"{path}/files")
        receipt = timer_hold.covering(config, found, mode=timer_hold.wanted_mode(config)).receipt
    except DAMAGED:
        return None
    failed = store.verdict(store.ledger(install_dir), sha) == "failed"
    if receipt is None or (failed and not despite):
        return None
    return KeptSet(key, found, path, about.config, config, receipt.proved_at)


def _about(install_dir: str, key: str) -> tuple[About, Settings]:
    place = place_of(install_dir, key)
    about = documents.load(About, read_bytes(os.path.join(place, "set.json")) or b"null")
    return about, settings.load(f"{place}/files{about.config}", keys=settings.LASTING)


def _outlived(config: Settings) -> bool:
    """Whether a set is of an older layout than the host has: its cycles have no cells, and nowhere to work any more."""
    if settings.celled(config):
        return False
    try:
        return os.stat(config.get("runs_dir", "")).st_uid == 0
    except OSError:
        return True


def agents_in_use(install_dir: str) -> list[str]:
    """Where the agents stand that belong to what is kept as proven; what is in force is, once it was proven."""
    kept = [config.get("agent") for _key, config in _readable(install_dir)]
    return [agents.place(install_dir, agent) for agent in kept if agent]


def outlived(install_dir: str) -> str:
    """In words, what was proven and cannot be gone back to since it is of an older layout; empty where nothing is."""
    shas = ", ".join(dict.fromkeys(key[:40] for key, config in _readable(install_dir) if _outlived(config)))
    if not shas:
        return ""
    return f"; {shas} ran where cycles had no cells, which this host has left: pin it and apply to have it proven anew"


def _readable(install_dir: str) -> Iterator[tuple[str, Settings]]:
    """The keys and settings of the sets that can be read."""
    for key in keys(install_dir):
        with contextlib.suppress(*DAMAGED):
            yield key, _about(install_dir, key)[1]
