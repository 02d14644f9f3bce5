# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Root's watch beside a cycle: who may say what, what it counts, and when it ends it. systemd alone is played."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base import wire
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import budget, cells
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell.cells import Cell
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cycle import watch
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings
from celled import GATE, LOOP, NAME, NEEDS_ROOT, Box, box, exchanging, uid, write

pytestmark = NEEDS_ROOT
CYCLE = 4242


class Systemd(list[tuple[str, ...]]):
    """What is asked of systemctl."""

    def __call__(self, *words: str) -> str:
        self.append(words)
        return f"{CYCLE}\n" if words[0] == "show" else ""


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> Systemd:
    asked = Systemd()
    monkeypatch.setattr(watch, "systemctl", asked)
    return asked


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    with box() as found:
        monkeypatch.setattr(wire, "place", lambda _config: f"{found.top}/run/socket")
        yield found


@pytest.fixture
def cell(host: Box) -> Cell:
    cell = host.cell()
    watch.point_at(host.config, cell)
    return cell


def says(host: Box, message: dict[str, Any], pid: int = CYCLE, user: str = LOOP) -> None:
    watch.heard(host.config, message, wire.Peer(pid, uid(user)))


def test_which_cell_is_the_cycles(host: Box, cell: Cell, capfd: pytest.CaptureFixture[str]) -> None:
    assert watch.current(host.config) == cell
    for content in (b"", b"../x", b"\xff", NAME.encode() + b"/..", b"x" * 99):
        (host.top / "run/cell").write_bytes(content)
        with pytest.raises(LoopError, match="no cycle is running"):
            watch.current(host.config)
    (host.top / "run/cell").unlink()
    with pytest.raises(LoopError, match="no cycle is running"):
        says(host, {"what": "here"})
    (host.top / "run").rmdir()  # there is no watch
    watch.point_at(host.config, cell)
    assert "the watch was not told: " in capfd.readouterr().out


@pytest.mark.parametrize("user", ["root", GATE])
@pytest.mark.parametrize("what", ["here", "agent", "report"])
def test_only_the_loops_user_is_heard(host: Box, cell: Cell, systemd: Systemd, user: str, what: str) -> None:
    with pytest.raises(LoopError, match=f"uid {uid(user)} is not {LOOP}"):
        says(host, {"what": what}, user=user)
    assert cells.manifest_of(cell).agents == 0 and cells.report_of(cell) == {} and not systemd


@pytest.mark.parametrize("what", ["stop", "", None, ["agent"], {"agent": 1}, 3, "agent\n"])
def test_words_that_nobody_knows(host: Box, cell: Cell, what: Any) -> None:
    for message in ({"what": what}, {"agent": 1}, {}):
        with pytest.raises(LoopError, match="nothing that a cycle says"):
            says(host, message)
    assert budget.today(host.config)["runs"] == []


def test_an_agent_counts_once_as_a_run_and_each_time_in_its_cell(host: Box, cell: Cell, systemd: Systemd) -> None:
    says(host, {"what": "here"})
    assert budget.today(host.config)["runs"] == []
    for pid in (1, 2, CYCLE):  # whoever says it: it can only ever add to the count
        says(host, {"what": "agent", "program": "pi"}, pid=pid)
    says(host, {"what": "agent", "program": "\x1b[2J" * 99})
    manifest = cells.manifest_of(cell)
    assert manifest.agents == 4 and manifest.programs[1] == "pi" and len(str(manifest.programs)) < 300
    (run,) = budget.today(host.config)["runs"]
    assert (run["invocation"], run["trigger"]) == ("i" * 32, "manual")
    assert not systemd


def test_a_count_that_cannot_be_kept_lets_no_agent_start(host: Box, cell: Cell) -> None:
    Path(budget.path_of(host.config)).write_text("{")
    with pytest.raises(LoopError, match="cannot be read as the count"):
        says(host, {"what": "agent"})
    assert cells.manifest_of(cell).agents == 0


def test_the_report_is_the_main_processes(host: Box, cell: Cell, systemd: Systemd) -> None:
    for pid in (0, 1, CYCLE + 1):
        with pytest.raises(LoopError, match=rf"process {pid} is not the cycle's own \(4242\)"):
            says(host, {"what": "report", "outcome": "idle"}, pid=pid)
    assert cells.report_of(cell) == {}
    says(host, {"what": "report", "outcome": "idle", "odd": "\udcff"})
    assert cells.report_of(cell) == {"outcome": "idle", "odd": "\udcff"}
    assert systemd[0] == ("show", "-P", "MainPID", f"{host.config['unit']}.service")


def test_a_cell_that_somebody_took_away(host: Box, cell: Cell, systemd: Systemd) -> None:
    cells.remove(cell)
    for what in ("agent", "report"):
        with pytest.raises(LoopError):
            says(host, {"what": what})


def test_over_a_real_socket(host: Box, cell: Cell, systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says that it is this process: root's, so it is refused, until this is the loop's user."""
    server = watch._Server(host.config)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        with pytest.raises(LoopError, match=f"says: uid 0 is not {LOOP}"):
            wire.tell(host.config.unit, {"what": "here"})
        host.config["user"] = "root"
        assert wire.tell(host.config.unit, {"what": "agent"})["ok"]
        with pytest.raises(LoopError, match=rf"process {os.getpid()} is not the cycle's own"):
            wire.tell(host.config.unit, {"what": "report"})
        with socket.socket(socket.AF_UNIX) as rude:
            rude.connect(f"{host.top}/run/socket")
            rude.sendall(b"nonsense\n")
            assert json.loads(rude.recv(1000)) == {"ok": False, "why": "a message is not JSON"}
        silent = [socket.socket(socket.AF_UNIX) for _unused in range(20)]
        for one in silent:
            one.connect(f"{host.top}/run/socket")
        began = time.monotonic()
        assert wire.tell(host.config.unit, {"what": "here"})["ok"]  # who says nothing keeps nobody waiting
        assert time.monotonic() - began < 5
        for one in silent:
            one.close()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert cells.manifest_of(cell).agents == 1


# --- how large it is


def test_the_room_on_the_disk(host: Box) -> None:
    assert watch.too_little_room(host.config) == ""
    told = watch.too_little_room(Settings(host.config, min_free="900T"))
    assert "MiB are left on the disk of" in told and told.endswith(
        "less than a quarter of engineering_loop_min_free (900T)"
    )
    disk = os.statvfs(host.runs)
    free = disk.f_bavail * disk.f_frsize
    assert watch.too_little_room(Settings(host.config, min_free=str(2 * free))) == ""  # more than a quarter is left


def test_the_inodes_on_the_disk(host: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MIN_INODES", 10**15)
    told = watch.too_little_room(host.config)
    assert told == "" if not os.statvfs(host.runs).f_files else "inodes are left on the disk" in told


def test_the_size_of_the_cell(host: Box, cell: Cell) -> None:
    assert watch.too_large(host.config, *cells.measure(cell.path)) == ""
    write(Path(cell.part("workspace")), {f"{number}": "x" * 5000 for number in range(300)})
    found = cells.measure(cell.path)
    assert watch.too_large(Settings(host.config, cell_max_size="1M"), *found).endswith(
        "MiB, more than engineering_loop_cell_max_size (1M)"
    )
    assert watch.too_large(Settings(host.config, cell_max_files=300), *found) == (
        "its cell has 307 files, more than engineering_loop_cell_max_files (300)"
    )


def test_one_that_is_too_large_is_ended_once_and_says_so(
    host: Box, cell: Cell, systemd: Systemd, capfd: pytest.CaptureFixture[str]
) -> None:
    host.config["cell_max_files"] = 3
    keeper = watch._Keeper(host.config)
    keeper.look()
    keeper.look()
    assert systemd == [("stop", "--no-block", f"{host.config['unit']}.service")]
    assert cells.manifest_of(cell).ended_by.startswith("its cell has 7 files")
    assert capfd.readouterr().out.count("the cycle is ended: its cell has 7 files") == 1
    after = host.cell("20260131T120001Z-1a2b3c4d")
    watch.point_at(host.config, after)
    keeper.due = 0.0
    keeper.look()
    assert len(systemd) == 2


def test_a_damaged_cell_is_ended_all_the_same(host: Box, cell: Cell, systemd: Systemd) -> None:
    host.config["cell_max_files"] = 3
    Path(cell.path, cells.MANIFEST).write_text("{")
    watch._Keeper(host.config).look()
    assert len(systemd) == 1


def test_looking_through_costs_little(host: Box, cell: Cell, monkeypatch: pytest.MonkeyPatch, systemd: Systemd) -> None:
    looked = 0

    def slow(_path: str) -> tuple[int, int, bool]:
        nonlocal looked
        looked += 1
        time.sleep(0.2)
        return 1, 1, True

    monkeypatch.setattr(cells, "look_through", slow)
    keeper = watch._Keeper(host.config)
    for _unused in range(50):
        keeper.look()
    assert looked == 1 and keeper.due > time.monotonic() + 3.5
    assert not systemd


def test_what_takes_long_to_look_through_is_looked_through_now_and_then(
    host: Box, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOKING", 1e-9)
    keeper = watch._Keeper(host.config)
    keeper.look()
    assert 0 < keeper.due - time.monotonic() <= watch.SELDOM


def looks(keeper: watch._Keeper, times: int) -> None:
    for _unused in range(times):
        keeper.due = 0.0
        keeper.look()


def test_moving_directories_about_switches_no_bound_off(
    host: Box, cell: Cell, systemd: Systemd, capfd: pytest.CaptureFixture[str]
) -> None:
    host.config["cell_max_size"] = "100M"
    keeper, deadline = watch._Keeper(host.config), time.monotonic() + 120
    with exchanging(cell.part("workspace")):
        with open(f"{cell.part('workspace')}/large", "wb") as large:
            os.posix_fallocate(large.fileno(), 0, 200 << 20)
        while not systemd and time.monotonic() < deadline:
            looks(keeper, 1)
    assert systemd == [("stop", "--no-block", f"{host.config['unit']}.service")]
    why = cells.manifest_of(cell).ended_by
    assert "more than engineering_loop_cell_max_size (100M)" in why or "could not be looked through 5 times" in why


def test_a_cell_that_is_seen_now_and_then_goes_on(
    host: Box, cell: Cell, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper, unseen = watch._Keeper(host.config), iter([*[False] * 4, True, *[False] * 5])
    monkeypatch.setattr(cells, "look_through", lambda _path: (-1, -1, next(unseen)))
    looks(keeper, 9)
    assert not systemd
    looks(keeper, 1)
    assert len(systemd) == 1
    assert cells.manifest_of(cell).ended_by.startswith("its cell could not be looked through 5 times in a row (its dir")


def test_where_no_cycle_runs_there_is_nothing_to_look_at(host: Box, systemd: Systemd) -> None:
    keeper = watch._Keeper(Settings(host.config, min_free="900T"))
    keeper.look()
    host.config["runs_dir"] = f"{host.top}/none"
    keeper.look()
    assert not systemd


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_systemd_hears_that_it_is_ready(host: Box, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    watch._ready()
    name = f"{host.top}/run/notify" if kind == "path" else f"@loop-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name.replace("@", "\0", 1))
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        watch._ready()
        systemd.settimeout(5)
        assert systemd.recv(100) == b"READY=1"
