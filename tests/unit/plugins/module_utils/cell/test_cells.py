# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cells: made whole or not at all, closed by one chmod, kept, swapped, let go; whatever a cycle has left in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import cells, memory
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell.cells import Cell
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user
from celled import GATE, LOOP, NAME, NEEDS_ROOT, Box, box, exchanging, gid, give, shape, uid, write

pytestmark = NEEDS_ROOT
DAY = 86400.0


@pytest.fixture
def host() -> Iterator[Box]:
    with box() as found:
        yield found


def mode(path: Path | str) -> int:
    return os.lstat(path).st_mode & 0o7777


def may(user: str, path: Path | str, how: int = os.R_OK | os.W_OK | os.X_OK) -> bool:
    return bool(as_user(user, lambda: os.access(path, how)))


def written(cell: Cell) -> Any:
    return json.loads(Path(cell.path, cells.MANIFEST).read_text())


# --- making


def test_a_fresh_cell(host: Box) -> None:
    host.remember({"lessons.md": "be brief\n", "a/b.md": "b\n"})
    cell = host.cell()
    assert sorted(os.listdir(cell.path)) == sorted([*cells.PARTS, cells.MANIFEST])
    status = os.lstat(cell.path)
    assert (status.st_uid, mode(cell.path)) == (0, 0o755)
    assert not may(LOOP, cell.path, os.W_OK) and not may(LOOP, f"{cell.path}/{cells.MANIFEST}", os.R_OK)
    for part in cells.PARTS:
        assert (os.lstat(cell.part(part)).st_uid, mode(cell.part(part))) == (uid(LOOP), 0o700)
        assert may(LOOP, cell.part(part)) and not may(GATE, cell.part(part), os.R_OK)
    assert shape(cell.part("memory")) == {"lessons.md": "be brief\n", "a/b.md": "b\n"}
    assert {shape(cell.part(part)) == {} for part in cells.PARTS if part != "memory"} == {True}
    manifest = cells.manifest_of(cell)
    assert (manifest.kind, manifest.outcome, manifest.agents) == ("cycle", "running", 0)
    assert written(cell) == {
        "agents": 0, "engine": "e" * 40, "id": NAME, "invocation": "i" * 32, "kind": "cycle", "made": manifest.made,
        "outcome": "running", "trigger": "manual",
    }  # fmt: skip
    assert mode(f"{cell.path}/{cells.MANIFEST}") == 0o600
    assert os.listdir(host.runs) == [NAME]


def test_one_that_exists_already_is_left_alone(host: Box) -> None:
    for make in (lambda path: path.mkdir(), lambda path: path.symlink_to("/"), lambda path: path.touch()):
        make(host.runs / NAME)
        before = os.lstat(host.runs / NAME)
        with pytest.raises(LoopError, match=f"the cell {host.runs}/{NAME} exists already: move it away"):
            host.cell()
        assert os.lstat(host.runs / NAME) == before and os.listdir(host.runs) == [NAME]
        subprocess.run(["rm", "-rf", host.runs / NAME], check=True)


def test_what_was_half_made_is_made_anew_and_goes_with_the_next(host: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed just before the rename: nothing stands under a cell's name."""

    class Killed(BaseException):
        pass

    def killed(_one: str, _other: str) -> None:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(os, "rename", killed)
        cells.make(host.config, NAME, {})
    assert [name for name in os.listdir(host.runs) if not name.startswith(".making-")] == []
    assert cells.listing(str(host.runs)) == []
    making = host.runs / f".making-{NAME}"
    write(making, {"home/left": "x"})
    assert cells.recover(host.config) == [] and os.listdir(host.runs) == []
    write(making, {"home/left": "x"})
    assert shape(host.cell().part("home")) == {}
    assert os.listdir(host.runs) == [NAME]


def test_a_full_disk_leaves_nothing_half_made(host: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    host.config["user"] = "no-such-user"
    with pytest.raises(LoopError, match="there is no user no-such-user"):
        host.cell()
    host.config["user"] = LOOP
    host.config["runs_dir"] = f"{host.top}/nowhere"
    with pytest.raises(LoopError, match=f"no cell can be made in {host.top}/nowhere: .*No such file"):
        host.cell()
    assert not os.path.exists(f"{host.top}/nowhere")


@pytest.mark.parametrize("when", ["home", "memory", "manifest"])
def test_whatever_fails_nothing_half_made_stays(host: Box, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    step = {"home": (cells, "_give_home_files"), "memory": (memory, "copy"), "manifest": (cells, "write_manifest")}[
        when
    ]

    def fail(*_words: Any, **_more: Any) -> None:
        raise LoopError("no space left on device")

    monkeypatch.setattr(*step, fail)
    with pytest.raises(LoopError, match="no space left"):
        host.cell()
    assert os.listdir(host.runs) == []


def test_files_for_the_home(host: Box) -> None:
    write(host.top / "etc", {"auth.json": "{}", "pi.toml": "x"})
    host.config["home_files"] = [
        {"src": f"{host.top}/etc/auth.json", "dest": ".config/pi/auth.json"},
        {"src": f"{host.top}/etc/pi.toml", "dest": ".config/pi/pi.toml"},
        {"src": f"{host.top}/etc/pi.toml", "dest": ".pi"},
    ]
    before = os.umask(0o077)  # a unit's
    try:
        cell = host.cell()
    finally:
        os.umask(before)
    for part in ("home", cells.GIVEN):
        home = cell.part(part)
        assert shape(home) == {".config/pi/auth.json": "{}", ".config/pi/pi.toml": "x", ".pi": "x"}
        for name in (".pi", ".config/pi/auth.json"):
            status = os.lstat(f"{home}/{name}")
            assert (status.st_uid, status.st_gid, mode(f"{home}/{name}")) == (0, gid(LOOP), 0o440)
            assert may(LOOP, f"{home}/{name}", os.R_OK) and not may(LOOP, f"{home}/{name}", os.W_OK)
    assert os.lstat(f"{cell.part('home')}/.config/pi").st_uid == uid(LOOP)  # its programs keep more there
    for name in ("", "/.config", "/.config/pi"):
        assert not may(LOOP, f"{cell.part(cells.GIVEN)}{name}", os.W_OK)  # and here nothing


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.unlink(), "is missing: put it there, or take it out of engineering_loop_home_files"),
        (lambda path: os.chown(path, uid(LOOP), -1), "must be root's, and nobody else's to write"),
        (lambda path: path.chmod(0o664), "must be root's, and nobody else's to write"),
        (lambda path: (path.unlink(), path.symlink_to("/etc/shadow")), "cannot be read"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "is not a regular file"),
        (lambda path: (path.unlink(), path.mkdir()), "is not a regular file"),
    ],
)
def test_a_file_for_the_home_that_is_not_fit(host: Box, spoil: Any, reason: str) -> None:
    path = host.top / "etc" / "auth.json"
    path.write_text("{}")
    spoil(path)
    host.config["home_files"] = [{"src": str(path), "dest": "auth.json"}]
    with pytest.raises(LoopError, match=reason):
        host.cell()
    assert os.listdir(host.runs) == []


def test_where_cells_may_stand(host: Box) -> None:
    cells.check_place(host.config)
    for how in (0o777, 0o731, 0o713):
        host.runs.chmod(how)
        with pytest.raises(LoopError, match="must be a directory of root's that nobody else can write; run ansible"):
            cells.check_place(host.config)
    host.runs.chmod(0o711)
    os.chown(host.runs, uid(LOOP), -1)
    with pytest.raises(LoopError, match="must be a directory of root's"):
        cells.check_place(host.config)
    host.runs.rename(host.top / "elsewhere")
    with pytest.raises(LoopError, match=r"is missing \(No such file or directory\); run ansible-playbook"):
        cells.check_place(host.config)
    host.runs.symlink_to(host.top)
    with pytest.raises(LoopError, match=r"is a link: let engineering_loop_runs_dir name .* itself"):
        cells.check_place(host.config)


def test_the_settings_in_a_cell() -> None:
    config = {"runs_dir": "/r", "memory_dir": "/m", "unit": "u"}
    inside = cells.settings_in(config, Cell("/r/x"))
    assert inside == {
        "unit": "u", "cell": "/r/x", "workspace_dir": "/r/x/workspace", "runs_dir": "/r/x/runs",
        "daemon_state_dir": "/r/x/state", "memory_dir": "/r/x/memory",
    }  # fmt: skip
    assert config["runs_dir"] == "/r"


def test_a_name_is_when_and_by_whom() -> None:
    for invocation in ("0123456789abcdef", ""):
        assert cells.ID.fullmatch(cells.new_id(invocation))
    assert cells.new_id("0123456789abcdef").endswith("Z-01234567")


# --- the manifest


DAMAGED: dict[str, bytes | None] = {
    "20260101T000001Z-00000001": None,
    "20260101T000002Z-00000002": b"",
    "20260101T000003Z-00000003": b"[]",
    "20260101T000004Z-00000004": b"[" * 200_000,
    "20260101T000005Z-00000005": b"\xff\x00",
    "20260101T000006Z-00000006": b'{"outcome": 1e999}'[:-1],
    "20260101T000007Z-00000007": b"{}",
    "20260101T000008Z-00000008": b'{"outcome": 7, "kind": [], "size": "large"}',
    "20260101T000009Z-00000009": b'{"outcome": "error", "size": 1e999, "files": null, "kind": "cycle", "id": "x"}',
    "20260101T000010Z-0000000a": b'{"outcome": "error", "size": true, "kind": "cycle", "issue": "x", "path": "/etc"}',
}


def test_damaged_manifests_are_listed_and_stop_nothing(host: Box) -> None:
    for name, content in DAMAGED.items():
        (host.runs / name).mkdir()
        if content is not None:
            (host.runs / name / cells.MANIFEST).write_bytes(content)
    (host.runs / "20260101T000011Z-0000000b").mkdir()
    os.mkfifo(host.runs / "20260101T000011Z-0000000b" / cells.MANIFEST)
    (host.runs / "notes").mkdir()
    (host.runs / "20260101T000012Z-0000000g").mkdir()  # no id
    found = cells.listing(str(host.runs))
    assert [cell.path for cell, _manifest in found] == [
        f"{host.runs}/{name}" for name in [*DAMAGED, "20260101T000011Z-0000000b"]
    ]
    assert {manifest.outcome for _cell, manifest in found} == {"damaged"}
    assert all(manifest.detail.isprintable() and manifest.is_kept for _cell, manifest in found)
    assert found[7][1].detail.endswith("cell.json is no manifest of a cell: outcome is not a text")
    assert found[8][1].detail.endswith("cell.json is no manifest of a cell: size is not a whole number")
    assert {manifest.size for _cell, manifest in found if manifest.outcome == "damaged"} == {-1}
    assert cells.recover(host.config) == []
    gone = cells.retire(str(host.runs), 1.0, 0.0, 0.0)
    assert len(gone) == len(found) and {one["stuck"] for one in gone} == {""}
    assert sorted(os.listdir(host.runs)) == ["20260101T000012Z-0000000g", "notes"]


def test_an_id_that_is_no_time_is_old(host: Box) -> None:
    for name in ("99999999T999999Z-00000000", "00000000T000000Z-00000000"):
        cell = host.kept(name)
        cells.update(cell, outcome="error")
    assert cells.retire(str(host.runs), None, None, 7 * DAY) == []
    cells.retire(str(host.runs), DAY, None, 0)


def test_there_is_nothing_to_list_where_nothing_is(host: Box) -> None:
    assert cells.listing(f"{host.top}/none") == []
    with pytest.raises(LoopError, match=r"loop.json cannot be read: Not a directory"):
        cells.listing(host.config_file)


def test_one_is_found_by_a_part_that_fits_it_alone(host: Box) -> None:
    one, other = host.kept(NAME), host.kept(f"{NAME[:-1]}e")
    assert cells.find(host.config, NAME) == one
    assert cells.find(host.config, "3c4e") == other
    for name, words in (
        ("1a2b", "2 cells fit"),
        ("", "there is no such cell"),
        ("../etc", r"\.\./etc: there is no such"),
    ):
        with pytest.raises(LoopError, match=words):
            cells.find(host.config, name)
    with pytest.raises(LoopError) as caught:
        cells.find(host.config, "\x1b[2J\n")
    assert str(caught.value).isprintable()


def test_what_a_cycle_says_of_itself_is_kept_beside(host: Box) -> None:
    cell = host.cell()
    assert cells.report_of(cell) == {}
    cells.write_report(cell, {"outcome": "idle", "odd": "\udcff"})
    assert cells.report_of(cell) == {"outcome": "idle", "odd": "\udcff"}
    assert mode(f"{cell.path}/{cells.REPORT}") == 0o600
    for content in (b"", b"[]", b"{", b"[" * 100_000, b'{"a":' * 50 + b"1" + b"}" * 50):
        Path(cell.path, cells.REPORT).write_bytes(content)
        assert cells.report_of(cell) == {}


def test_changes_are_written_one_by_one(host: Box) -> None:
    cell = host.cell()
    cells.update(cell, agents=1)
    assert cells.update(cell, ended_by="x").agents == 1
    assert cells.manifest_of(cell).ended_by == "x"
    with pytest.raises(LoopError, match=r"cell\.json is no manifest of a cell: binds\[0\] is not a pair"):
        cells.update(cell, binds=[["/a"]])
    assert (written(cell)["agents"], written(cell)["ended_by"]) == (1, "x") and "binds" not in written(cell)
    os.unlink(f"{cell.path}/{cells.MANIFEST}")
    with pytest.raises(LoopError, match=r"is no cell: it has no cell\.json"):
        cells.update(cell, agents=2)


# --- closing and what was cut off


def test_closed_nobody_but_root_enters_it(host: Box) -> None:
    cell = host.cell()
    write(Path(cell.part("runs")), {"x/work.md": "work\n" * 1000})
    give(cell.part("runs"), LOOP)
    assert may(LOOP, f"{cell.part('runs')}/x/work.md", os.R_OK)
    before = written(cell)
    whole = cells.close(cell, outcome="error")
    assert mode(cell.path) == 0o700
    for user in (LOOP, GATE):
        assert not may(user, cell.path, os.X_OK) and not may(user, f"{cell.part('runs')}/x/work.md", os.R_OK)
    assert cells.manifest_of(cell) == whole
    sealed = {"outcome": "error", "sealed": written(cell)["sealed"], "size": whole.size, "files": 9, "runs": ["x"]}
    assert written(cell) == {**before, **sealed}
    assert whole.size >= 5000 and whole.files == 9 and sealed["sealed"] >= whole.made
    assert Path(cell.part("runs"), "x/work.md").read_text() == "work\n" * 1000


@pytest.mark.parametrize("step", ["chmod", "measure", "write_manifest"])
def test_cut_off_while_it_is_closed_the_next_closes_it(host: Box, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    cell = host.cell()

    class Killed(BaseException):
        pass

    def killed(*_words: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(os if step == "chmod" else cells, step, killed)
        cells.close(cell, outcome="error")
    ((found, manifest),) = cells.recover(host.config)
    assert found == cell and mode(cell.path) == 0o700
    assert manifest.outcome == "interrupted" and "in the middle of it" in manifest.detail and manifest.files == 7
    assert cells.manifest_of(cell) == manifest and manifest.is_kept
    assert cells.recover(host.config) == []


def test_half_gone_is_gone_with_the_next(host: Box) -> None:
    write(host.runs, {".gone-x/a/b": "x", f".making-{NAME}/home/a": "x", ".open": "", "notes": "an operator's"})
    assert cells.recover(host.config) == []
    assert sorted(os.listdir(host.runs)) == [".open", "notes"]


def test_sizes_are_du_s(host: Box) -> None:
    write(host.top / "tree", {"a": "x" * 10_000, "b/c": "x", "-n": "x"})
    (host.top / "tree/link").symlink_to("/usr")
    size, files = cells.measure(str(host.top / "tree"))
    assert 10_000 <= size < 100_000 and files == 6
    for number in range(100):
        os.link(host.top / "tree/a", host.top / f"tree/{number}")  # each name counts, and the bytes once
    now, files = cells.measure(str(host.top / "tree"))
    assert now < size + 100_000 and files == 106
    assert cells.look_through(str(host.top / "tree")) == (now, 106, True)
    assert cells.look_through(str(host.top / "none")) == (0, 0, False)
    assert cells.look_through("/", 0.001) == (-1, -1, False) and cells.measure("/", 0.001) == (-1, -1)


def test_of_a_tree_whose_directories_change_places_something_is_seen_all_the_same(host: Box) -> None:
    tree = host.top / "tree"
    write(tree, {"0": "x" * 10_000})
    with exchanging(tree):
        seen = [cells.look_through(str(tree)) for _unused in range(10)]
    assert not all(whole for _size, _files, whole in seen) and min(seen) > (0, 0)
    assert cells.look_through(str(tree))[2]


def hostile(place: Path) -> None:
    """What rm -rf of a naive kind trips over."""
    script = r"""
    import os, sys
    os.chdir(sys.argv[1])
    for name in (b"\xff\xfe", b"-rf", b" ", b"\n", b"\x1b[2J", b"a" * 255, b"$(touch x)"):
        os.mkdir(name)
        open(os.path.join(name, name[:250]), "w").close()
    os.mkfifo("pipe")
    os.symlink("/", "root")
    os.symlink("loop", "loop")
    os.makedirs("closed/inner")
    open("closed/inner/file", "w").close()
    os.chmod("closed/inner", 0)
    os.chmod("closed", 0)
    for _ in range(3000):
        os.mkdir("d" * 20)
        os.chdir("d" * 20)
    """
    subprocess.run([sys.executable, "-c", "\n".join(line[4:] for line in script.splitlines()), str(place)], check=True)


def test_a_hostile_tree_is_measured_and_goes(host: Box) -> None:
    outside = host.top / "outside"
    write(outside, {"precious": "mine"})
    cell = host.cell()
    hostile(Path(cell.part("runs")))
    Path(cell.part("runs"), "out").symlink_to(outside)
    subprocess.run(["chown", "-hR", LOOP, cell.part("runs")], check=True)
    size, files = cells.measure(cell.path)
    assert files > 3000 and size > 0
    cells.close(cell)
    cells.remove(cell)
    assert os.listdir(host.runs) == [] and shape(outside) == {"precious": "mine"}
    cells.remove_tree(cell.path)  # nothing stands there


def test_what_cannot_be_removed_is_named(host: Box, capfd: pytest.CaptureFixture[str]) -> None:
    cell = host.kept(NAME)
    stuck = Path(cell.part("runs"), "immutable")
    stuck.write_text("x")
    if subprocess.run(["chattr", "+i", stuck], capture_output=True, check=False).returncode:
        subprocess.run(["mount", "--bind", host.top / "etc", cell.part("home")], check=True)
    try:
        (one,) = cells.retire(str(host.runs), 1.0, None, 0)
        assert "cannot be removed" in one["stuck"] and one["stuck"].isprintable()
        assert host.config_file and os.path.exists(host.config_file)
        assert cells.recover(host.config) == []  # and stops no cycle
        assert "cannot be removed" in capfd.readouterr().out
    finally:
        for gone in host.runs.glob(".gone-*"):
            subprocess.run(["chattr", "-i", gone / "runs/immutable"], capture_output=True, check=False)
            subprocess.run(["umount", gone / "home"], capture_output=True, check=False)
    assert cells.recover(host.config) == [] and os.listdir(host.runs) == []


# --- retention


def at(days: float, number: int = 0) -> str:
    """The name of a cell that was made so many days ago."""
    moment = time.gmtime(time.time() - days * DAY)
    return f"{time.strftime('%Y%m%dT%H%M%SZ', moment)}-{number:08x}"


def listed(host: Box) -> list[str]:
    return [cell.id for cell, _manifest in cells.listing(str(host.runs))]


def went(
    host: Box, age: float | None, size: float | None, min_age: float, check: bool = False
) -> list[tuple[str, str]]:
    gone = cells.retire(str(host.runs), age, size, min_age, check=check)
    return [(one["id"], one["why"]) for one in gone]


def test_old_ones_go_and_young_ones_stay(host: Box) -> None:
    old, young = host.kept(at(100)), host.kept(at(10))
    assert went(host, 90 * DAY, None, 7 * DAY, check=True) == [(old.id, "older than its time")]
    assert os.path.isdir(old.path)
    assert went(host, 90 * DAY, None, 7 * DAY) == [(old.id, "older than its time")]
    assert listed(host) == [young.id]
    assert went(host, None, None, 0) == []


def test_the_oldest_go_while_all_are_too_large_but_not_the_young(host: Box) -> None:
    names = [at(days) for days in (40, 30, 20, 1)]
    for name in names:
        host.kept(name, size=100)
    large = "all that is kept is larger than allowed"
    assert went(host, None, 250, 7 * DAY) == [(names[0], large), (names[1], large)]
    assert went(host, None, 0, 7 * DAY) == [(names[2], large)]
    assert listed(host) == [names[3]]


def test_a_size_that_nobody_knows_is_measured_before_anything_goes_for_it(
    host: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, unknown, damaged, last = (host.kept(at(days), size=1000) for days in (20, 30, 40, 10))
    cells.update(unknown, size=-1)
    for cell in (unknown, damaged):
        write(Path(cell.part("runs")), {"large": "x" * 100_000})
    Path(damaged.path, cells.MANIFEST).write_text("{")
    large = "all that is kept is larger than allowed"
    for check in (True, False):  # the oldest alone is enough
        assert went(host, None, 200_000, 7 * DAY, check) == [(damaged.id, large)]
        assert (cells.manifest_of(unknown).size > 100_000) is not check
    assert went(host, None, 200_000, 7 * DAY) == []
    cells.update(unknown, size=-1)
    monkeypatch.setattr(cells, "MEASURED_AGAIN", 0.0001)  # not in that time: it would go for nothing
    assert went(host, None, 1500, 7 * DAY) == [(known.id, large)]
    assert listed(host) == [unknown.id, last.id]


def test_what_is_published_goes_before_all_others(host: Box) -> None:
    crashed, published, fresh = host.kept(at(30)), host.kept(at(20), "published"), host.kept(at(1), "published")
    assert went(host, None, 2500, 7 * DAY) == [(published.id, "published, and as old as anything is kept for")]
    large = "all that is kept is larger than allowed"
    assert went(host, None, 1500, 7 * DAY) == [(fresh.id, large)]  # its work is on the forge
    assert listed(host) == [crashed.id]


def test_what_is_opened_after_retention_looked_stays(host: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks at all of them first, and comes to the last of them minutes later."""
    opened = host.kept(at(100))
    monkeypatch.setattr(cells, "in_use", lambda _cell: False)
    with cells.used(opened):
        (told,) = cells.retire(str(host.runs), 1.0, None, 0)
        assert told["stuck"] == f"somebody has {opened.id} open already" and os.path.isdir(opened.path)
    assert went(host, 1.0, None, 0) == [(opened.id, "older than its time")]


def test_what_runs_and_what_somebody_has_open_never_goes(host: Box) -> None:
    running, opened = host.cell(at(200)), host.kept(at(100))
    with cells.used(opened):
        assert cells.in_use(opened) and not cells.in_use(running)
        assert went(host, 1.0, 0, 0) == []
        with pytest.raises(LoopError, match=f"somebody has {opened.id} open already"), cells.used(opened):
            raise AssertionError
    assert not cells.in_use(opened)
    assert [name for name, _why in went(host, 1.0, 0, 0)] == [opened.id]
    assert os.path.isdir(running.path)


def test_one_at_a_time(host: Box) -> None:
    script = """if True:
        import fcntl, os, sys
        held = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
        fcntl.flock(held, fcntl.LOCK_EX)
        print("held", flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", script, f"{host.top}/opt/.cells.lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin and other.stdout and other.stdout.readline() == "held\n"
        began = time.monotonic()
        subprocess.Popen(["sh", "-c", "sleep 0.4; exec >&-"], stdout=other.stdin).wait()
        other.stdin.close()
        with cells.alone(host.config):
            assert time.monotonic() - began >= 0.3


def test_a_manifest_is_whole_or_the_one_before(host: Box) -> None:
    cell = host.cell()
    before = written(cell)
    with pytest.raises(TypeError):
        cells.update(cell, odd={1, 2})
    assert written(cell) == before
