# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way back: where ours is gone, all that was taken over stands again where it stood, with its owner and its timers.

Killed anywhere, the next one goes on: what is still aside is what is left to do.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict
from typing import Any

from ..base import progress
from ..base.errors import LoopError, playbook
from ..base.files import read_bytes, remove_tree, write_atomic
from ..host import privileges, systemd
from ..host.processes import cycle_in_progress
from ..host.users import account, as_user
from . import adopt
from .layout import Layout
from .takeover import home_and_shell
from .takeover_manifest import MANIFEST, Manifest, Moved, Owner, listing, read
from .takeover_moves import fill, move

Json = dict[str, Any]


def put_back(layout: Layout, wait: float = 0, *, check: bool = False) -> Json:
    """Bring back what all take-overs of this host moved, the last one first.

    Returns ``changed``, ``items`` and ``lines`` for a person. LoopError where the loop is still deployed, or a run is
    in progress for longer than ``wait`` seconds.
    """
    taken = {aside: read(aside) for aside in reversed(listing(layout.install_dir))}
    items = [(known, item) for known in taken.values() for item in reversed(known.items)]
    moved = [item for _known, item in items if item.path != item.to and os.path.lexists(item.to)]
    lines = [f"{item.to} -> {item.path}" for item in moved]
    result = {"changed": bool(taken), "aside": "", "items": [asdict(item) for item in moved], "lines": lines}
    if check or not taken:
        return result
    if systemd.ours(f"{layout.unit_dir}/{layout.unit}.service"):
        raise LoopError(f"the loop is still deployed, and nothing was put back: {playbook('leave')}")
    systemd.rest(
        lambda: cycle_in_progress(layout.run_lock, layout.unit), [], wait, "nothing was put back",
        lambda: privileges.at_work(layout.user),
    )  # fmt: skip
    for known, item in items:
        progress.step(f"putting back {item.path}")
        lines += _undo(layout, known, item)
    for known in taken.values():
        _own_again(layout, known)
    if any(item.kind == "unit" for _known, item in items):
        systemd.systemctl("daemon-reload")
    for name, was in {name: was for known in taken.values() for name, was in known.timers.items()}.items():
        if was.get("UnitFileState") == "enabled":
            systemd.systemctl("enable", *(["--now"] if was.get("ActiveState") == "active" else []), name)
    for aside in taken:
        lines += _emptied(aside)
    return result


def _undo(layout: Layout, known: Manifest, item: Moved) -> list[str]:
    """Bring one thing back; a line where something else stands there by now."""
    there, back = item.to, item.path
    if there == back or not os.path.lexists(there):
        return []
    if item.kind == "copy":
        write_atomic(back, read_bytes(there) or b"", mode=0o600)
        os.unlink(there)
    elif item.kind == "memory":
        _own_lessons(layout, known, there, back)
        as_user(layout.user, lambda: _lessons_back(there, back, known.owners.get(back)))
    elif os.path.isdir(there) and (os.path.ismount(back) or (item.kind == "work" and os.path.lexists(back))):
        # The old home has room for what is mounted there in its cell.
        rooms = adopt.no_home(layout) if layout.tells_of_work and back == layout.state_dir else set()
        names = sorted(set(os.listdir(there)) - rooms)
        told = [_undo(layout, known, Moved("", f"{back}/{name}", f"{there}/{name}")) for name in names]
        return [line for lines in told for line in lines]
    else:
        os.makedirs(os.path.dirname(back), exist_ok=True)
        now = move(there, back)
        return [f"{back} is there already: what was taken over stands beside it, as {now}"] if now != back else []
    return []


def _lessons_back(there: str, back: str, was: Owner | None) -> None:
    """As the loop's user, whose places these are."""
    os.makedirs(back, exist_ok=True)
    fill(there, back)
    if was:
        os.chmod(back, was.mode)


def _own_lessons(layout: Layout, known: Manifest, memory: str, place: str) -> None:
    """What is in ``memory``, a directory of root's, belongs to whom ``place`` belonged."""
    entry = account(layout.user)
    owner = known.owners.get(place, Owner(entry.pw_uid, entry.pw_gid, 0))
    for directory, names, files in os.walk(memory):
        for name in [*names, *files]:
            os.lchown(f"{directory}/{name}", owner.uid, owner.gid)
    with contextlib.suppress(FileNotFoundError):  # where all of it went back
        os.lchown(memory, owner.uid, owner.gid)


def _own_again(layout: Layout, known: Manifest) -> None:
    """Owners and modes as they were when the host was taken over, and the user's home and shell."""
    if layout.memory_dir in known.owners:
        _own_lessons(layout, known, layout.memory_dir, layout.memory_dir)
    # The innermost first, while the directories that they are in are root's.
    for path, owner in sorted(known.owners.items(), key=lambda each: -len(each[0])):
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.fchown(descriptor, owner.uid, owner.gid)
                os.fchmod(descriptor, owner.mode)
            finally:
                os.close(descriptor)
    if known.account and known.account != home_and_shell(layout.user) != []:
        privileges.give_back(layout.user, *known.account)


def _emptied(aside: str) -> list[str]:
    """Remove the directory of a take-over once nothing is left in it; a line where something is."""
    left = [
        f"{place}/{name}"
        for place, directories, files in os.walk(aside)
        for name in [*files, *(each for each in directories if os.path.islink(f"{place}/{each}"))]
        if name != MANIFEST
    ]
    if left:
        return [f"{aside} stays: it has {', '.join(sorted(left)[:5])}"]
    for name in sorted(os.listdir(aside), key=lambda name: name == MANIFEST):  # what says that it is one goes last
        remove_tree(f"{aside}/{name}")
    os.rmdir(aside)
    home = os.path.dirname(aside)
    if os.listdir(home) == [".lock"]:
        remove_tree(home)
    return []
