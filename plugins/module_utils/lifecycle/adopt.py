# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an older layout left of the loop's work becomes one kept cell: nothing is lost, nothing meets a new cycle.

There workspace, runs, state, records and home belong to the loop's user and all cycles share them. They are
renamed, never copied and never walked, into ``RUNS_DIR/<id>/``, a directory of root's that nobody else enters;
``binds`` in its ``cell.json`` say under which absolute paths its parts were known, so that these are true again
where the cell is opened. What another file system holds is closed where it is, below ``.adopted-<id>``. The
lessons stay in their place, and the cell has a copy. Killed anywhere, the next one goes on.

Nothing of the loop's user may run meanwhile: see ``takeover``, which calls this.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..base import untrusted
from ..base.clock import utc_now
from ..base.errors import LoopError
from ..base.files import inside, remove_tree
from ..cell import cells
from ..cell.cells import ID, PARTS, Cell
from ..cell.memory import copy as copy_memory
from .layout import Layout

Json = dict[str, Any]

OURS_IN_RUNS = re.compile(rf"(\.(making|gone|adopted)-)?{ID.pattern}|lost\+found")
# Where agents keep their configuration, in a home.
AGENTS = (".aider.conf.yml", ".claude", ".claude.json", ".codex", ".config", ".gemini", ".gitconfig", ".pi")
MEASURED = 20.0  # seconds to learn the size of a cell


@dataclass(frozen=True)
class Part:
    name: str  # as in the cell
    path: str  # where it stood
    whole: bool = True  # all that stands there; else what belongs to the loop's user


# --- looking ------------------------------------------------------------------------------


def plan(layout: Layout, begun: Sequence[Part] = ()) -> list[Part]:
    """The parts that an older layout left; none on a host where cycles have cells.

    ``begun`` are those whose moving was begun, so that directories which are root's already are theirs as well.
    """
    every = {
        "workspace": layout.workspace_dir, "state": layout.daemon_state_dir, "cycles": layout.cycles_dir,
        "runs": layout.runs_dir, "memory": layout.memory_dir, "home": layout.state_dir,
    }  # fmt: skip
    known = {part.name: part for part in begun}
    found = [
        part
        for name, path in every.items()
        if (part := _pending(layout, known.get(name) or Part(name, path, _whole(name, path)), name in known))
    ]
    # What stands in another part goes with it.
    outer = [part.path for part in found if part.name != "home"]
    inner = [part for part in found if part.path == layout.state_dir or any(_below(part.path, path) for path in outer)]
    if found:
        _check_nesting(layout)
    return [part for part in found if part.name == "home" or part not in inner]


def _whole(name: str, path: str) -> bool:
    return name in ("workspace", "state") or bool((real := _real(path)) and not _mine(os.lstat(real)))


def _pending(layout: Layout, part: Part, begun: bool) -> Part | None:
    path = _real(part.path)
    if not path:
        return None
    if _mine(os.lstat(path)):
        if part.name == "memory" or (part.name == "cycles" and not begun):
            return None  # root's, and what is in it is known
        if not any(_goes(layout, part, entry) for entry in _entries(path)):
            return None
    return part


def _goes(layout: Layout, part: Part, entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a part's directory is of the older layout."""
    if part.name == "home" and entry.name in no_home(layout):
        return False
    status = entry.stat(follow_symlinks=False)
    if not part.whole:
        return status.st_uid == _uid(layout.user)
    return not (_mine(status) and OURS_IN_RUNS.fullmatch(entry.name))


def no_home(layout: Layout) -> set[str]:
    """The names in the state directory that are no part of a home."""
    memory = layout.memory_dir
    paths = [layout.workspace_dir, layout.runs_dir, layout.daemon_state_dir, layout.cycles_dir, memory]
    paths += [memory + beside for beside in ("-legacy", ".previous", ".new", ".swap")]
    paths += [f"{layout.state_dir}/{name}" for name in ("pristine", "gate")]
    paths += layout.job_states.values()
    paths += [stay + beside for stay in layout.stays for beside in ("", ".previous", ".new", ".swap")]
    paths += [layout.install_dir, layout.config_dir, layout.lib_dir, layout.env_file, layout.key_file]
    return {os.path.relpath(path, layout.state_dir).split("/")[0] for path in paths if _below(path, layout.state_dir)}


def _check_nesting(layout: Layout) -> None:
    """What stays cannot stand in what is moved away."""
    for path in (layout.runs_dir, layout.cycles_dir, layout.memory_dir, layout.state_dir):
        for moved in (layout.workspace_dir, layout.daemon_state_dir):
            if moved != layout.state_dir and inside(path, moved):
                raise LoopError(
                    f"{path} stands in {moved}, which an older layout has and which becomes a kept cell: name another"
                    " directory (lessons come along with engineering_loop_legacy_memory_dir)"
                )


def _real(path: str) -> str:
    """The directory itself where ``path`` is one, or root's link to one; else nothing."""
    with contextlib.suppress(OSError):
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode) and _mine(status):
            path = os.path.realpath(path)
            status = os.lstat(path)
        return path if stat.S_ISDIR(status.st_mode) else ""
    return ""


def told(layout: Layout, parts: Sequence[Part], cell: str) -> list[str]:
    """What is worth a person's eye about what is adopted, a line each."""
    lines, names = [], {part.name for part in parts}
    if names - {"memory"}:
        counts = [
            _count(len(_names(layout.workspace_dir, hidden=False)), "checkout") if "workspace" in names else "",
            _count(len([name for name in _names(layout.runs_dir) if not name.startswith(".")]), "run")
            if "runs" in names
            else "",
            _count(len(_names(f"{layout.runs_dir}/.quarantine", hidden=False)), "quarantined thing"),
            _count(len(_names(layout.cycles_dir)), "record") + " of cycles" if "cycles" in names else "",
        ]
        what = ", ".join(filter(None, counts)) or "state"
        lines.append(f"what the older layout worked on is kept as the cell {cell}: {what}")
        lines.append(
            "local changes in its checkouts are kept with them and were not looked at: what the loop's user wrote is"
            " opened in the sandbox only"
        )
    if "home" in names:
        homed = {path.split("/")[0] for path in layout.homed}
        found = [name for name in AGENTS if name not in homed and os.path.lexists(f"{layout.state_dir}/{name}")]
        if found:
            lines.append(
                f"AGENT CONFIGURATION in the old home {layout.state_dir} ({', '.join(found)}): it is not brought into"
                " cells, so name what agents need in engineering_loop_home_files"
            )
    if "memory" in names:
        lines.append(f"the lessons in {layout.memory_dir} stay, and every cycle gets a copy of them")
    return lines


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _names(path: str, *, hidden: bool = True) -> list[str]:
    """The names in a directory that the loop's user may have made; none where there is no such directory."""
    if not (real := _real(path)):
        return []
    with contextlib.suppress(LoopError, OSError), untrusted.opened(real, os.path.dirname(real)) as directory:
        return [name for name in os.listdir(directory) if hidden or not name.startswith(".")]
    return []


# --- doing --------------------------------------------------------------------------------


def adopt(layout: Layout, begun: Sequence[Part], ident: str) -> tuple[list[list[str]], list[str]]:
    """Move what is left of the parts into the cell ``ident`` and seal it.

    Returns its ``binds``, and lines about what could not be moved.
    """
    parts, lines, cell = plan(layout, begun), [], f"{layout.runs_dir}/{ident}"
    if _real(layout.state_dir):
        _own(_real(layout.state_dir), 0o755)  # from now on nobody else puts or renames anything there
    _make(layout, ident)
    for part in parts:
        if part.name == "memory":
            lines += _copy_memory(layout, f"{cell}/memory")
        elif path := _real(part.path):
            lines += _move(layout, part, path, cell, ident)
    known = {part.name for part in begun}
    return _seal(layout, [*begun, *(part for part in parts if part.name not in known)], ident), lines


def _make(layout: Layout, ident: str) -> None:
    """The cell appears with what says of it that it is one."""
    os.makedirs(layout.runs_dir, mode=cells.OPEN, exist_ok=True)
    runs = _real(layout.runs_dir)
    if not runs:
        raise LoopError(f"{layout.runs_dir} is no directory and no link of root's to one: move it away and run again")
    _own(runs, cells.OPEN)
    if os.path.lexists(f"{runs}/{ident}"):
        return
    making = f"{runs}/.making-{ident}"
    with contextlib.suppress(FileExistsError):
        os.mkdir(making, 0o700)
    cells.write_manifest(Cell(making), _manifest(ident, [], ""))
    os.rename(making, f"{runs}/{ident}")


def _manifest(ident: str, binds: list[list[str]], sealed: str) -> Json:
    made = f"{ident[:4]}-{ident[4:6]}-{ident[6:8]}T{ident[9:11]}:{ident[11:13]}:{ident[13:15]}Z"
    return {
        "id": ident, "made": made, "engine": "", "trigger": "", "invocation": "", "outcome": "adopted",
        "detail": "what an older layout of the loop had", "issue": None, "change_id": "", "sealed": sealed,
        "size": 0, "files": 0, "opened": "", "binds": binds, "kind": "adopted",
    }  # fmt: skip


def _move(layout: Layout, part: Part, path: str, cell: str, ident: str) -> list[str]:
    """Whole by one rename where that can be, else entry by entry. Lines about what stays."""
    target = f"{cell}/{part.name}"
    if part.name not in ("runs", "home") and path == part.path and not os.path.lexists(target):
        try:
            os.rename(path, target)
            return []
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EBUSY):
                raise LoopError(f"{path} cannot be moved to {target}: {error.strerror}") from error
    modes = {"runs": cells.OPEN, "home": 0o755, "cycles": 0o755}
    _own(path, modes.get(part.name, 0o700))
    told = []
    for entry in _entries(path):
        if _goes(layout, part, entry):
            told += _move_entry(path, entry.name, target, f"{path}/.adopted-{ident}/{part.name}")
    if part.name not in ("runs", "home", "cycles"):
        with contextlib.suppress(OSError):  # a mount point stays, and what is closed in it
            os.rmdir(path)
    return told


def _move_entry(directory: str, name: str, target: str, beside: str) -> list[str]:
    """Into the cell; where that is on another file system, below a closed directory on its own; else closed itself."""
    source = f"{directory}/{name}"
    for place in (target, beside):
        try:
            _closed(place)
            os.rename(source, _free(f"{place}/{name}"))
            return []
        except OSError as error:
            if error.errno == errno.EBUSY:
                break
            if error.errno != errno.EXDEV:
                raise LoopError(f"{untrusted.show(source)} cannot be moved: {error.strerror}") from error
    if stat.S_ISDIR(os.lstat(source).st_mode):
        _own(source, 0o700)
    return [f"{untrusted.show(source)} is a mount point and stays, closed to all but root"]


def _closed(place: str) -> None:
    """A directory for moved things, below one that only root enters."""
    parent = os.path.dirname(place)
    for path in (parent, place):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)


def _free(path: str) -> str:
    while os.path.lexists(path):
        path += "~"
    return path


def _seal(layout: Layout, parts: Sequence[Part], ident: str) -> list[list[str]]:
    """Everything is in its place: the parts belong to the loop's user, the cell to root, and its manifest is true."""
    cell = f"{layout.runs_dir}/{ident}"
    binds = []
    for part in sorted(parts, key=lambda part: part.path):
        beside = f"{_real(part.path) or part.path}/.adopted-{ident}/{part.name}"
        actual = beside if _real(beside) and os.listdir(beside) else f"{cell}/{part.name}"
        if os.path.isdir(actual):
            seen = dict.fromkeys([part.path, os.path.realpath(part.path)])
            binds += [[actual, path] for path in seen]
    with contextlib.suppress(KeyError):  # a user that is gone: the number of its files is all there is
        entry = pwd.getpwnam(layout.user)
        for path in {*(f"{cell}/{name}" for name in PARTS), *(actual for actual, _seen in binds)}:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
            _own(path, 0o700, entry.pw_uid, _gid(layout.group, entry.pw_gid))
        _make_room(f"{cell}/home", [seen for _actual, seen in binds], layout.state_dir, entry)
    _own(cell, 0o700)
    size, files = cells.measure(cell, MEASURED)
    cells.write_manifest(Cell(cell), {**_manifest(ident, binds, utc_now()), "size": size, "files": files})
    return binds


def _make_room(home: str, seen: Sequence[str], top: str, entry: pwd.struct_passwd) -> None:
    """Directories in the old home for the parts to be seen at, as they were."""
    for path in seen:
        if not _below(path, top):
            continue
        descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for name in os.path.relpath(path, top).split("/"):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=descriptor)
                    os.chown(name, entry.pw_uid, entry.pw_gid, dir_fd=descriptor, follow_symlinks=False)
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                deeper = os.open(name, flags, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = deeper
        except OSError:
            continue  # something else of that name was there
        finally:
            os.close(descriptor)


# --- lessons ------------------------------------------------------------------------------


def _copy_memory(layout: Layout, target: str) -> list[str]:
    """A copy for the cell, made by the loop's user, and the lessons in a directory of root's."""
    memory, lines = _real(layout.memory_dir), []
    if not memory:
        return []
    remove_tree(target)
    with contextlib.suppress(KeyError):
        entry = pwd.getpwnam(layout.user)
        os.mkdir(target, 0o700)
        _own(target, 0o700, entry.pw_uid, _gid(layout.group, entry.pw_gid))
        os.chmod(os.path.dirname(target), cells.OPEN)  # nothing else of that user runs
        try:
            left_out = copy_memory(layout.user, memory, target)["left_out"]
        finally:
            os.chmod(os.path.dirname(target), cells.CLOSED)
        if left_out:
            lines.append(f"of the lessons in {layout.memory_dir} the cell has no copy of {', '.join(left_out)}")
    _own(memory, 0o750, 0, _gid(layout.group, 0))
    legacy = f"{layout.memory_dir}-legacy"
    if _real(legacy) and not _mine(os.lstat(_real(legacy))):
        _own(_real(legacy), 0o750, 0, _gid(layout.group, 0))
    return lines


# --- small things -------------------------------------------------------------------------


def _own(path: str, mode: int, uid: int = 0, gid: int = 0) -> None:
    """Owner and mode of a directory; where we are not root it stays ours."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.geteuid() == 0:
            os.fchown(descriptor, uid, gid)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _uid(name: str) -> int:
    """The number of the loop's user, where that is not us; no file has the one that stands for nobody."""
    with contextlib.suppress(KeyError):
        uid = pwd.getpwnam(name).pw_uid
        return uid if uid != os.geteuid() else -1
    return -1


def _gid(group: str, otherwise: int) -> int:
    with contextlib.suppress(KeyError):
        return grp.getgrnam(group).gr_gid
    return otherwise


def _mine(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid()


def _entries(path: str) -> list[os.DirEntry[str]]:
    with os.scandir(path) as found:
        return list(found)


def _below(path: str, directory: str) -> bool:
    return path != directory and inside(path, directory)
