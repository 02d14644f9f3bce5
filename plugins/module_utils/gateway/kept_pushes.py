# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the gateway keeps for a person, in ``gate_dir/kept``: pushes that were refused, and branches that made room."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from typing import Any, TypeAlias

from ..base import untrusted
from ..base.clock import stamp, utc_now
from ..base.errors import LoopError, playbook
from ..base.files import remove_tree, write_atomic
from ..base.sizes import limits_of
from ..base.untrusted import show
from ..cell import kept_time, pristine
from ..cell.pristine import HEADS, Clone
from ..host.settings import Settings
from . import inbox, sessions
from .asking import Asking

Json: TypeAlias = dict[str, Any]


def keep(asking: Asking, clone: Clone, branch: str, commit: str, why: str, packs: Sequence[str]) -> str:
    """A small repository in ``kept`` with this commit as its branch ``kept``; the name of what is kept."""
    config = asking.config
    name = f"{stamp()}-{os.urandom(4).hex()}"
    making = inbox.make(config, clone)
    try:
        for path in packs:
            os.link(path, f"{making.home}/objects/pack/{os.path.basename(path)}")
            with open(path, "rb") as handle:
                os.fsync(handle)
        making.git(["update-ref", f"{HEADS}kept", commit])
        told = {
            "id": name, "at": utc_now(), "cycle": asking.cycle, "repo": clone.repo, "dest": clone.dest,
            "branch": show(branch), "commit": commit, "why": show(why, 1000),
        }  # fmt: skip
        write_atomic(f"{making.home}/kept.json", (json.dumps(told, indent=1) + "\n").encode(), 0o600)
        os.rename(making.home, f"{config.gate_dir}/kept/{name}.git")
    except (LoopError, OSError):
        shutil.rmtree(making.home, ignore_errors=True)
        raise
    return name


def listing(config: Settings) -> list[Json]:
    """What is kept, oldest first: ``{id at cycle repo dest branch commit why path}``."""
    place = f"{config.gate_dir}/kept"
    found: list[Json] = []
    for name in sorted(os.listdir(place)) if os.path.isdir(place) else []:
        with contextlib.suppress(LoopError):
            content = untrusted.read(f"{place}/{name}/kept.json", config.gate_dir, 65536) or b""
            one = untrusted.parse(content, name)
            if {"at", "cycle", "repo", "dest", "branch", "commit", "why"} <= one.keys():
                found.append({**one, "id": name.removesuffix(".git"), "path": f"{place}/{name}"})
    return found


def restore(config: Settings, name: str, branch: str, *, check: bool = False) -> Json:
    """As root: what is kept under this name as ``branch`` of a fresh clone for a person; ``{path branch ...}``."""
    one = next((one for one in listing(config) if one["id"] == name), None)
    if one is None:
        raise LoopError(f"the gateway keeps nothing as {show(name)}: {playbook('restore')} lists it")
    clone = next((clone for clone in pristine.clones(config) if clone.dest == one["dest"]), None)
    if clone is None:
        raise LoopError(f"{name} is of {show(str(one['dest']))}, which is no repository of this loop any more")
    place, commit = f"{pristine.place_for(config, name, branch)}/{clone.dest}", str(one["commit"])
    pristine.check_branch(config, one["path"], branch)
    if not check:
        pristine.hand_out(config, clone, pristine.Rescue(name, place, branch), lambda _making: commit, one["path"])
    return {"changed": True, "brought": [{"checkout": clone.dest, "path": place, "branch": branch, "left_out": []}]}


def tidy(config: Settings) -> None:
    """As the gateway, before a cycle: half-received pushes go, and what was kept long enough."""
    with sessions.turn(config):
        for name in os.listdir(f"{config.gate_dir}/inbox"):
            remove_tree(f"{config.gate_dir}/inbox/{name}")
    limits = limits_of(config.quarantine_keep)
    age, room, least = limits.get("age"), limits.get("size"), limits.get("min_age") or 0.0
    age_of = kept_time.passed(config).age_of
    for one in reversed(listing(config)):  # the newest first
        size = sum(os.lstat(f"{top}/{name}").st_size for top, _names, files in os.walk(one["path"]) for name in files)
        room = None if room is None else room - size
        old = age_of(one["id"])
        if (age is not None and old > age) or (room is not None and room < 0 and old >= least):
            remove_tree(one["path"])
