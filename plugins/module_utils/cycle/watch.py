# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Beside a cycle, as root: hear that an agent starts, count the run, take the report, and end what grows too large.

Run by ``UNIT-watch.service``, which lives as long as its cycle. What is said here is believed as far as the kernel
says who speaks: the report comes from the unit's main process alone, and that an agent starts can only ever add to a
count.
"""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import threading
import time
from collections.abc import Mapping
from typing import Any

from ..base import untrusted, wire
from ..base.errors import LoopError
from ..base.files import read_bytes, write_atomic
from ..base.journal import say
from ..base.sizes import number_of
from ..cell import budget, cells
from ..cell.cells import Cell
from ..host import settings
from ..host.settings import Settings
from ..host.systemd import systemctl
from ..host.users import account

TICK = 0.5
# A cycle is ended when no more than this part of what it needs to start is left free on the disk.
FREE_PART = 4
MIN_INODES = 2_000
MOST_PROGRAMS = 20  # whatever a cycle claims to start
# Looking through a cell may take this part of the time at most, as long as it is looked through every ten minutes.
LOOKING, SELDOM = 0.05, 600.0
# A cycle is ended when its cell could not be looked through to its end so many times in a row.
UNSEEN = 5


def main(config_path: str = settings.DEFAULT_PATH) -> int:
    """Watch until we are stopped."""
    config = settings.load(config_path)
    server = _Server(config)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _ready()
    keeper = _Keeper(config)
    while True:
        time.sleep(TICK)
        keeper.look()


# --- which cell -------------------------------------------------------------------------------


def _pointer(config: Settings) -> str:
    return f"{os.path.dirname(wire.place(config.unit))}/cell"


def point_at(config: Settings, cell: Cell) -> None:
    """Tell the watch which cell is the cycle's."""
    try:
        write_atomic(_pointer(config), cell.id.encode(), mode=0o600)
    except LoopError as error:  # no watch, no directory of its: the cycle finds that out and refuses
        say(f"the watch was not told: {error}\n")


def current(config: Settings) -> Cell:
    """The cell of the running cycle."""
    name = (read_bytes(_pointer(config), 100) or b"").decode(errors="replace")
    if not cells.ID.fullmatch(name):
        raise LoopError("no cycle is running")
    return Cell(f"{config.runs_dir}/{name}")


# --- what is said -----------------------------------------------------------------------------


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def __init__(self, config: Settings) -> None:
        super().__init__(wire.place(config.unit), socketserver.BaseRequestHandler, bind_and_activate=False)
        self.config = config
        self.socket.close()
        self.socket = wire.listen(wire.place(config.unit))

    def finish_request(self, request: Any, client_address: Any) -> None:
        wire.answer(request, lambda message: heard(self.config, message, wire.peer_of(request)))

    def handle_error(self, request: Any, client_address: Any) -> None:
        say(f"a message could not be answered: {type(request).__name__}\n")


def heard(config: Settings, message: Mapping[str, Any], peer: wire.Peer) -> None:
    """Act on one message. LoopError where it may not be said, or by somebody else."""
    if peer.uid != account(config.user).pw_uid:
        raise LoopError(f"uid {peer.uid} is not {config.user}")
    cell = current(config)
    what = message.get("what")
    if what == "here":
        return
    if what == "agent":
        with cells.alone(config):
            manifest = cells.manifest_of(cell)
            budget.take(config, manifest.invocation, manifest.trigger)
            programs = {*manifest.programs, untrusted.show(message.get("program"), 50)}
            cells.update(cell, agents=manifest.agents + 1, programs=sorted(programs)[:MOST_PROGRAMS])
    elif what == "report":
        main_pid = systemctl("show", "-P", "MainPID", f"{config.unit}.service").strip()
        if main_pid != str(peer.pid):
            raise LoopError(f"process {peer.pid} is not the cycle's own ({main_pid})")
        cells.write_report(cell, {key: value for key, value in message.items() if key != "what"})
    else:
        raise LoopError("nothing that a cycle says")


# --- how large it is --------------------------------------------------------------------------


class _Keeper:
    """Looks at the disk all the time, and through the cell as often as it costs little."""

    def __init__(self, config: Settings) -> None:
        self.config = config
        self.due = 0.0
        self.ended = ""
        self.unseen = 0  # in a row

    def look(self) -> None:
        try:
            cell = current(self.config)
            why = "" if self.ended == cell.id else too_little_room(self.config) or self._too_large(cell)
        except (LoopError, OSError):
            return
        if why:
            self.ended = cell.id
            say(f"the cycle is ended: {why}\n")
            with contextlib.suppress(LoopError), cells.alone(self.config):
                cells.update(cell, ended_by=why)
            systemctl("stop", "--no-block", f"{self.config.unit}.service")

    def _too_large(self, cell: Cell) -> str:
        if time.monotonic() < self.due:
            return ""
        began = time.monotonic()
        size, files, whole = cells.look_through(cell.path)
        self.due = time.monotonic() + min(max(2.0, (time.monotonic() - began) / LOOKING), SELDOM)
        self.unseen = 0 if whole else self.unseen + 1
        return too_large(self.config, size, files) or never_seen(self.unseen)


def too_little_room(config: Settings) -> str:
    """Why the disk is about to be full; empty while it is not."""
    disk = os.statvfs(config.runs_dir)
    free, least = disk.f_bavail * disk.f_frsize, number_of(config.min_free, "size") / FREE_PART
    if free < least:
        return f"only {free >> 20} MiB are left on the disk of {config.runs_dir}, less than a quarter of" + (
            f" engineering_loop_min_free ({config.min_free})"
        )
    if disk.f_files and disk.f_favail < MIN_INODES:
        return f"only {disk.f_favail} inodes are left on the disk of {config.runs_dir}"
    return ""


def too_large(config: Settings, size: int, files: int) -> str:
    """Why a cell of that size may grow no further; empty while it may."""
    if size > number_of(config.cell_max_size, "size"):
        return f"its cell has {size >> 20} MiB, more than engineering_loop_cell_max_size ({config.cell_max_size})"
    if files > config.cell_max_files:
        return f"its cell has {files} files, more than engineering_loop_cell_max_files ({config.cell_max_files})"
    return ""


def never_seen(times: int) -> str:
    """Why a cycle is ended whose cell was not seen as a whole so many times in a row; empty while it may go on.

    Whoever moves its directories about all the time, or makes more of them than can be looked through, would be free of
    the bounds otherwise. A program that is at work moves some now and then.
    """
    if times < UNSEEN:
        return ""
    return (
        f"its cell could not be looked through {times} times in a row (its directories are moved, or too many), so"
        " nobody knows whether it keeps to engineering_loop_cell_max_size and engineering_loop_cell_max_files"
    )


def _ready() -> None:
    """Tell systemd that the socket is there."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
            notify.sendall(b"READY=1")
