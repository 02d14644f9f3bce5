# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cells: the directories of one cycle, made fresh before it and closed after it, however it ended.

``RUNS_DIR/<id>/`` is root's: what is in it (home, workspace, runs, state, memory) the loop's user may write, the
directory itself not, so that one chmod closes all of it; what is given it for the home it can only read. No other cycle
can enter a closed cell. A cell that did not end well is kept as it stands: it is what was called quarantine.
``cell.json`` in it is root's word about it; all below ``PARTS`` is input.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..base import documents, untrusted
from ..base.clock import Age, age_of, stamp, utc_now
from ..base.errors import APPLY, LoopError, playbook
from ..base.files import flocked, locked_directory, read_bytes, remove_tree, write_atomic
from ..base.journal import say
from ..host.settings import Settings
from ..host.users import account
from . import memory

ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
RUN = re.compile(r"[a-z][a-z0-9_.-]{0,100}")
EARLIER = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}-\d+")
PARTS = ("home", "workspace", "runs", "state", "memory")
GIVEN = "given"
MANIFEST = "cell.json"
REPORT = "report.json"
SEEN = ".open"
MAKING, GOING = ".making-", ".gone-"
OPEN, CLOSED = 0o755, 0o700
RUNNING = "running"
MEASURED_AGAIN = 20.0  # seconds, of a cell whose size was not found out when it was closed
# Nothing of anybody's is in a cell that ended so (settle.py sees to that); what was published is on the forge as well.
NOTHING_IN_IT = ("idle", "locked", "over_budget", "paused", "refused", "refused_ci")


@dataclass(frozen=True)
class Cell:
    """Where one cell stands."""

    path: str

    @property
    def id(self) -> str:
        return os.path.basename(self.path)

    def part(self, name: str) -> str:
        """One of ``PARTS``, or ``GIVEN``."""
        return f"{self.path}/{name}"


@dataclass(frozen=True)
class Manifest:
    """Root's word about a cell, as far as anything is decided by it or told of it."""

    outcome: str
    kind: str = "cycle"
    detail: str = ""
    made: str = ""
    trigger: str = ""
    invocation: str = ""
    agents: int = 0  # that were started
    programs: tuple[str, ...] = ()  # and what they were
    ended_by: str = ""  # why root ended the cycle
    issue: dict[str, Any] | None = None
    change_id: str = ""
    runs: tuple[str, ...] = ()
    size: int = 0  # bytes; -1 where that is not known
    files: int = 0
    binds: tuple[tuple[str, str], ...] = ()  # where a part is, and where it was known to be

    @property
    def is_kept(self) -> bool:
        """Whether work is in it that is nowhere else: it is listed, and goes by the rules of what is kept."""
        return self.outcome not in (*NOTHING_IN_IT, "published", RUNNING)


def settings_in(config: Settings, cell: Cell) -> Settings:
    """The host's settings as they are for what runs in ``cell``."""
    return Settings(
        config,
        cell=cell.path,
        workspace_dir=cell.part("workspace"),
        runs_dir=cell.part("runs"),
        daemon_state_dir=cell.part("state"),
        memory_dir=cell.part("memory"),
    )


def new_id(invocation: str) -> str:
    """The name of a cycle, of its record and of its cell: when it began, and systemd's invocation."""
    return f"{stamp()}-{invocation[:8] or os.urandom(4).hex()}"


def enter_command(config: Settings, cell: str) -> str:
    """What root types to look into a cell."""
    return f"{config.lib_dir}/loop enter {cell}"


@contextlib.contextmanager
def alone(config: Settings) -> Iterator[None]:
    """Hold the lock under which cells are made, closed and removed; ``used`` is the one of a single cell."""
    with flocked(f"{config.install_dir}/.cells.lock"):
        yield


# --- making -----------------------------------------------------------------------------------


def check_place(config: Settings) -> None:
    """Refuse a directory of cells that is not root's own, or where nothing could be run."""
    path = config.runs_dir
    try:
        status = os.lstat(path)
    except OSError as error:
        raise LoopError(f"the directory of the cells, {path}, is missing ({error.strerror}); {APPLY}") from error
    if stat.S_ISLNK(status.st_mode):
        raise LoopError(f"{path} is a link: let engineering_loop_runs_dir name {os.path.realpath(path)} itself")
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0 or status.st_mode & 0o022:
        raise LoopError(f"{path} must be a directory of root's that nobody else can write; {APPLY}")
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        raise LoopError(f"{path} is mounted noexec, so no gate command could run there: mount it with exec")


def make(config: Settings, name: str, told: Mapping[str, Any]) -> Cell:
    """A fresh cell with the memory of before and root's files for the home; its manifest has ``told`` as well.

    It appears under its name when it is whole. LoopError where it exists already or cannot be made.
    """
    cell, making = Cell(f"{config.runs_dir}/{name}"), f"{config.runs_dir}/{MAKING}{name}"
    if os.path.lexists(cell.path):
        raise LoopError(f"the cell {cell.path} exists already: move it away")
    user = account(config.user)
    remove_tree(making)
    try:
        os.mkdir(making, 0o700)
        for part in PARTS:
            os.mkdir(f"{making}/{part}", 0o700)
            os.chown(f"{making}/{part}", user.pw_uid, user.pw_gid)
        os.chmod(making, OPEN)
        _give_home_files(config, Cell(making))
        memory.copy(config.user, config.memory_dir, f"{making}/memory")
        write_manifest(Cell(making), {"id": name, "kind": "cycle", "made": utc_now(), "outcome": RUNNING, **told})
        os.rename(making, cell.path)
    except (LoopError, OSError) as error:
        remove_tree(making)
        if isinstance(error, LoopError):
            raise
        raise LoopError(f"no cell can be made in {config.runs_dir}: {error.filename}: {error.strerror}") from error
    return cell


def _give_home_files(config: Settings, cell: Cell) -> None:
    """Copies of root's files, which the loop's user can read and not change.

    In the home, whose directories are the loop's user's: its programs keep more there, and may move them away. So each
    program that is shut in finds there what is in ``GIVEN``, where nothing is moved.
    """
    user = account(config.user)
    for wanted in config.home_files:
        content = home_file(wanted)
        for part, uid, gid, mode in ((GIVEN, 0, 0, 0o755), ("home", user.pw_uid, user.pw_gid, 0o700)):
            place = f"{cell.part(part)}/{wanted['dest']}"
            _make_way(cell.path, place, uid, gid, mode)
            write_atomic(place, content, mode=0o440, uid=0, gid=user.pw_gid)


def _make_way(top: str, place: str, uid: int, gid: int, mode: int) -> None:
    """Make the directories from ``top`` to ``place`` that are missing."""
    at = os.path.dirname(place)
    if at == top or os.path.isdir(at):
        return
    _make_way(top, at, uid, gid, mode)
    os.mkdir(at)
    os.chmod(at, mode)  # whatever the umask is
    os.chown(at, uid, gid)


def home_file(wanted: Mapping[str, str]) -> bytes:
    """The content of one of root's files for the home; LoopError where it is missing or not root's."""
    path = wanted["src"]
    content = read_bytes(path)
    if content is None:
        raise LoopError(f"the home file {path} is missing: put it there, or take it out of engineering_loop_home_files")
    status = os.lstat(path)
    if status.st_uid != 0 or status.st_mode & 0o022:
        raise LoopError(f"the home file {path} must be root's, and nobody else's to write: chown root, chmod 0640")
    return content


def check_given(home_files: Sequence[Mapping[str, str]], caches: Sequence[Mapping[str, str]]) -> None:
    """Refuse what no cell could be given: LoopError names the first of root's files or directories that is not fit."""
    for wanted in home_files:
        home_file(wanted)
    for seed in caches:
        if not os.path.isdir(seed["src"]) or os.lstat(seed["src"]).st_mode & 0o022:
            raise LoopError(
                f"the cache {seed['src']} must be a directory that only its owner can write: make it so, or take it out"
                " of engineering_loop_caches"
            )


# --- the manifest -----------------------------------------------------------------------------


def write_manifest(cell: Cell, document: Mapping[str, Any]) -> None:
    """Root's word about the cell."""
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    write_atomic(f"{cell.path}/{MANIFEST}", text.encode(), mode=0o600)


def manifest_of(cell: Cell) -> Manifest:
    """What root wrote about the cell; LoopError where it cannot be read."""
    return _parsed(cell, _document(cell))


def _document(cell: Cell) -> dict[str, Any]:
    content = read_bytes(f"{cell.path}/{MANIFEST}")
    if content is None:
        raise LoopError(f"{cell.path} is no cell: it has no {MANIFEST}")
    return untrusted.parse(content, f"{cell.path}/{MANIFEST}")


def _parsed(cell: Cell, document: dict[str, Any]) -> Manifest:
    try:
        return documents.parse(Manifest, document)
    except LoopError as error:
        raise LoopError(f"{cell.path}/{MANIFEST} is no manifest of a cell: {error}") from error


def update(cell: Cell, **changed: Any) -> Manifest:
    """Write the manifest anew with what changed; all else in it stays."""
    document = {"kind": "cycle", **_document(cell), **changed}
    manifest = _parsed(cell, document)
    write_manifest(cell, document)
    return manifest


def write_report(cell: Cell, report: Mapping[str, Any]) -> None:
    """What the cycle says of itself, as it came."""
    write_atomic(f"{cell.path}/{REPORT}", json.dumps(report).encode(), mode=0o600)


def report_of(cell: Cell) -> dict[str, Any]:
    """What the cycle said of itself; empty where it said nothing."""
    with contextlib.suppress(LoopError):
        return untrusted.parse(read_bytes(f"{cell.path}/{REPORT}") or b"{}", REPORT)
    return {}


def listing(runs_dir: str) -> list[tuple[Cell, Manifest]]:
    """Every cell and its manifest, oldest first. One that cannot be read is ``damaged``; its detail says why."""
    try:
        names = sorted(name for name in os.listdir(runs_dir) if ID.fullmatch(name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LoopError(f"{runs_dir} cannot be read: {error.strerror}") from error
    found = []
    for name in names:
        cell = Cell(f"{runs_dir}/{name}")
        try:
            found.append((cell, manifest_of(cell)))
        except LoopError as error:
            found.append((cell, Manifest("damaged", detail=str(error), size=-1)))
    return found


def find(config: Settings, name: str) -> Cell:
    """The cell of that name, or of the one name that begins so. LoopError where there is none or more than one."""
    names = [cell.id for cell, _manifest in listing(config.runs_dir)]
    fitting = [known for known in names if known == name] or [known for known in names if name and name in known]
    if len(fitting) != 1:
        told = f"{len(fitting)} cells fit" if fitting else "there is no such cell"
        raise LoopError(f"{untrusted.show(name)}: {told}; {playbook('restore')} lists them")
    return Cell(f"{config.runs_dir}/{fitting[0]}")


def earlier(manifest: Manifest) -> list[tuple[str, str]]:
    """What an older layout had in its own quarantine, of an adopted cell: (id, where that layout had its runs) each."""
    found = []
    for actual, seen in manifest.binds:
        with contextlib.suppress(LoopError, OSError), untrusted.opened(f"{actual}/.quarantine", actual) as place:
            found += [(name, seen) for name in sorted(os.listdir(place)) if EARLIER.fullmatch(name)]
    return found


# --- closing ----------------------------------------------------------------------------------


def close(cell: Cell, **changed: Any) -> Manifest:
    """Nobody but root enters it from now on. The first step is the chmod: all others only tell of it."""
    os.chmod(cell.path, CLOSED)
    size, files = measure(cell.path)
    return update(cell, **changed, sealed=utc_now(), size=size, files=files, runs=runs_in(cell))


def runs_in(cell: Cell) -> list[str]:
    """The names of the runs that were begun in it, which say of which issue: all that is known of a killed one."""
    with contextlib.suppress(LoopError, OSError), untrusted.opened(cell.part("runs"), cell.path) as directory:
        names = (entry.name for entry in itertools.islice(os.scandir(directory), 1000))
        return sorted(name for name in names if RUN.fullmatch(name))[:10]
    return []


def worktrees_in(cell: Cell) -> list[str]:
    """The runs in it that have something where their worktrees stand, whatever it is."""
    found = []
    with contextlib.suppress(LoopError, OSError), untrusted.opened(cell.part("runs"), cell.path) as directory:
        for run in sorted(filter(RUN.fullmatch, os.listdir(directory))):
            place = f"{cell.part('runs')}/{run}/worktrees"
            with contextlib.suppress(LoopError, OSError), untrusted.opened(place, cell.path) as worktrees:
                found += [run] * bool(os.listdir(worktrees))
    return found


def recover(config: Settings) -> list[tuple[Cell, Manifest]]:
    """Cells whose cycle was cut off (a power cut, a killed root): closed now. And what was half made or half gone goes.

    Called with the lock held, when no cycle runs.
    """
    runs = config.runs_dir
    for place in filter(None, (config.memory_dir, config.learning_dir)):
        memory.recover(place)
    clear_away(runs)
    detail = "the host stopped, or was stopped, in the middle of it"
    cut_off = [cell for cell, manifest in listing(runs) if manifest.outcome == RUNNING]
    return [(cell, close(cell, outcome="interrupted", detail=detail)) for cell in cut_off]


def clear_away(runs_dir: str) -> None:
    """Remove what was half made or half gone. Called with the lock held, when no cycle runs."""
    for name in sorted(os.listdir(runs_dir)):
        if name.startswith((MAKING, GOING)):
            try:
                remove_tree(f"{runs_dir}/{name}")
            except LoopError as error:  # something is mounted there: it is in nobody's way
                say(f"{error}\n")


# --- sizes and the end --------------------------------------------------------------------------


def measure(path: str, seconds: float = 120.0) -> tuple[int, int]:
    """Bytes on disk and number of names below ``path``, as far as ``look_through`` sees them."""
    size, files, _whole = look_through(path, seconds)
    return size, files


def look_through(path: str, seconds: float = 120.0) -> tuple[int, int, bool]:
    """As ``measure``, and whether all of it was seen: there is at least so much where it was not.

    -1 is what could not be found out within ``seconds``. A file counts with each of its names, and once for its size.
    """
    size, sized = _du(path, "--block-size=1", seconds=seconds)
    files, counted = _du(path, "--inodes", "--count-links", seconds=seconds)
    return size, files, sized and counted


def _du(path: str, *what: str, seconds: float) -> tuple[int, bool]:
    """What du sums up, which follows no link, stays on the file system and copes with any depth and any name.

    It gives up where a directory that it is in is moved elsewhere. The grand total tells what it saw until then; the
    line of ``path`` itself is missing.
    """
    command = ["du", "--summarize", "--total", "--one-file-system", *what, "--", path]
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, check=False)
        *of_path, total = done.stdout.splitlines()
        return int(total.split(b"\t", 1)[0]), bool(of_path)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return -1, False


def remove(cell: Cell) -> None:
    """For good: out of its place by one rename, then gone; before that, what an adopted one has on other disks.

    LoopError where a person has it open: asked now, since what was looked at before may have been opened meanwhile.
    """
    gone = f"{os.path.dirname(cell.path)}/{GOING}{cell.id}"
    with used(cell):
        with contextlib.suppress(LoopError):  # a damaged manifest names nothing
            for actual, _seen in manifest_of(cell).binds:
                aside = os.path.dirname(actual)
                if os.path.basename(aside) == f".adopted-{cell.id}":
                    remove_tree(aside)
        remove_tree(gone)
        os.rename(cell.path, gone)
        remove_tree(gone)


# --- retention ----------------------------------------------------------------------------------


def retire(
    runs_dir: str, age: float | None, size: float | None, min_age: float, *, age_of: Age = age_of, check: bool = False,
    lacks_room: Callable[[], bool] = lambda: False,
) -> list[dict[str, Any]]:  # fmt: skip
    """Let go what was kept for longer than ``age`` seconds, then the oldest while all exceed ``size`` bytes.

    The oldest goes as well while ``lacks_room``, which is asked anew before each: what a cell takes its manifest may
    not know. Never what a person has open. Nothing that holds work goes before ``min_age`` seconds; a published cell
    may, then before all others: its work is on the forge. Returns ``id, age, size, why, stuck`` of each.
    """
    things = [one for one in listing(runs_dir) if one[1].outcome != RUNNING and not in_use(one[0])]
    sizes = {cell.id: _size(cell, manifest, check) if size is not None else manifest.size for cell, manifest in things}
    total = sum(max(0, one) for one in sizes.values())
    gone = []
    for cell, manifest in sorted(things, key=lambda one: (one[1].is_kept, one[0].id)):
        kept, old, mine = manifest.is_kept, age_of(cell.id), sizes[cell.id]
        if kept and old < min_age:
            continue
        why = "older than its time" if age is not None and old > age else ""
        why = why or ("published, and as old as anything is kept for" if not kept and old > min_age else "")
        # What is not known to have any size would go for nothing.
        large = size is not None and total > size and mine > 0
        why = why or ("all that is kept is larger than allowed" if large else "")
        why = why or ("a cycle has no room to start" if lacks_room() else "")
        if not why:
            continue
        told = {"id": cell.id, "age": int(old), "size": mine, "why": why, "stuck": ""}
        try:
            if not check:
                remove(cell)
        except (LoopError, OSError) as error:
            gone.append({**told, "stuck": str(error)})
            continue
        total -= max(0, mine)
        gone.append(told)
    return gone


def _size(cell: Cell, manifest: Manifest, check: bool) -> int:
    """Its bytes; measured where its manifest does not know, and written down there for the next time."""
    if manifest.size >= 0:
        return manifest.size
    size, files = measure(cell.path, MEASURED_AGAIN)
    if size >= 0 and not check:
        with contextlib.suppress(LoopError):  # a damaged one, a full disk
            update(cell, size=size, files=files)
    return size


@contextlib.contextmanager
def used(cell: Cell) -> Iterator[None]:
    """Hold a closed cell, so that nothing removes it and nobody else opens it meanwhile.

    By a lock on the directory itself: what is removed on a full disk can have no file made in it.
    """
    descriptor = locked_directory(cell.path)
    if descriptor is None:
        raise LoopError(f"somebody has {cell.id} open already")
    try:
        yield
    finally:
        os.close(descriptor)


def in_use(cell: Cell) -> bool:
    """Whether a person has it open, or it is being removed."""
    try:
        with used(cell):
            return False
    except LoopError:
        return True
