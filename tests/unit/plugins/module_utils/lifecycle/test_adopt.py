# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an older layout left becomes one cell: whole, closed, and true under the paths that it was known by."""

from __future__ import annotations

import grp
import json
import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import cells, memory
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import adopt
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.adopt import plan
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.layout import Layout
from celled import git
from damages import DAMAGES, SETTINGS, left_by_a_killed_git
from disks import on_a_disk_of_its_own

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
LOOP = pwd.getpwnam("nobody")
ID = "20260102T030405Z-0123abcd"


def put(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def top() -> Iterator[Path]:
    """Where the loop's user may come as well."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@pytest.fixture
def layout(top: Path) -> Layout:
    for name in (
        "workspace/infra/.git/HEAD", "workspace/app/README", "runs/issue_1/request.md", "runs/.quarantine/one/tree/a",
        "state/ledger-2026-01-01.json", "cycles/one.json", "memory/lessons.md", "memory/2026/one.md", ".ssh/id",
        ".pi/agent/x",
    ):  # fmt: skip
        put(top / "var" / name, name)
    subprocess.run(["chown", "-R", f"{LOOP.pw_uid}:{LOOP.pw_gid}", str(top / "var")], check=True)
    return layout_in(top / "var")


def layout_in(var: Path) -> Layout:
    dirs = {f"{name}_dir": f"{var}/{name}" for name in ("workspace", "runs", "cycles", "memory")}
    return Layout(
        install_dir="/nowhere/opt", config_dir="/nowhere/etc", lib_dir="/nowhere/lib", env_file="/nowhere/env",
        state_dir=str(var), daemon_state_dir=f"{var}/state", **dirs,
        unit="loop", user="nobody", group=grp.getgrgid(LOOP.pw_gid).gr_name,
    )  # fmt: skip


def mode(path: Path | str) -> tuple[int, int, int]:
    status = os.lstat(path)
    return status.st_uid, status.st_gid, status.st_mode & 0o7777


def files(top: Path) -> set[str]:
    return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()}


def done(layout: Layout) -> list[str]:
    return adopt.adopt(layout, plan(layout), ID)[1]


def test_everything_is_in_the_cell_and_nobody_else_enters(layout: Layout, top: Path) -> None:
    var, cell = top / "var", top / "var/runs" / ID
    assert [part.name for part in plan(layout)] == ["workspace", "state", "cycles", "runs", "memory", "home"]
    assert done(layout) == []
    assert files(cell) == {
        "cell.json", "workspace/infra/.git/HEAD", "workspace/app/README", "runs/issue_1/request.md",
        "runs/.quarantine/one/tree/a", "state/ledger-2026-01-01.json", "cycles/one.json", "memory/lessons.md",
        "memory/2026/one.md", "home/.ssh/id", "home/.pi/agent/x",
    }  # fmt: skip
    assert sorted(os.listdir(var)) == ["cycles", "memory", "runs"] or sorted(os.listdir(var)) == ["memory", "runs"]
    assert files(var / "memory") == {"lessons.md", "2026/one.md"}
    assert mode(var) == (0, 0, 0o755)
    assert mode(var / "runs") == (0, 0, 0o755)
    assert mode(var / "memory") == (0, LOOP.pw_gid, 0o750)
    assert mode(cell) == (0, 0, 0o700)
    assert mode(cell / "cell.json") == (0, 0, 0o600)
    for name in (*cells.PARTS, "cycles"):
        assert mode(cell / name) == (LOOP.pw_uid, LOOP.pw_gid, 0o700), name
    for copied in ("memory/lessons.md", "memory/2026/one.md"):
        assert mode(cell / copied)[0] == LOOP.pw_uid
    manifest = json.loads((cell / "cell.json").read_text())
    assert (manifest["id"], manifest["kind"], manifest["outcome"]) == (ID, "adopted", "adopted")
    assert manifest["made"] == "2026-01-02T03:04:05Z"
    assert manifest["sealed"]
    assert [str(cell / "home"), str(var)] == manifest["binds"][0]  # outermost first
    assert [str(cell / "runs"), str(var / "runs")] in manifest["binds"]
    assert [str(cell / "memory"), str(var / "memory")] in manifest["binds"]
    assert {"workspace", "runs", "state", "memory"} <= set(os.listdir(cell / "home"))  # where they are seen
    assert plan(layout) == []


def test_checkouts_that_are_damaged_are_adopted_as_they_are(layout: Layout, top: Path) -> None:
    """Nothing looks into them: whatever git would say, every file is there afterwards, and none was changed."""
    workspace, remote = top / "var/workspace", top / "remote.git"
    git(top, "init", "-q", "-b", "main", "seed")
    for number in range(2):
        put(top / "seed" / f"{number}.md", f"{number}\n")
        git(top / "seed", "add", "-A")
        git(top / "seed", "commit", "-q", "-m", "Change")
    git(top, "clone", "-q", "--bare", "seed", str(remote))
    for name, spoil in {**DAMAGES, **SETTINGS, "locks": left_by_a_killed_git}.items():
        git(workspace, "clone", "-q", str(remote), name)
        spoil(workspace / name / ".git")
    subprocess.run(["chown", "-R", f"{LOOP.pw_uid}:{LOOP.pw_gid}", str(workspace)], check=True)
    before = listing(workspace)
    done(layout)
    assert not workspace.exists() and listing(top / "var/runs" / ID / "workspace") == before
    assert len({Path(line.split(" ", 4)[4]).parts[0] for line in before}) > len(DAMAGES)


def listing(directory: Path) -> list[str]:
    """Inode, kind, size and time of each file below, which say as well that none was copied."""
    words = ["find", ".", "-mindepth", "1", "-printf", "%i %y %s %T@ %P\n"]
    return sorted(subprocess.run(words, cwd=directory, capture_output=True, text=True, check=True).stdout.splitlines())


def test_a_host_with_cells_has_nothing_to_adopt(top: Path) -> None:
    layout = layout_in(top / "var")
    assert plan(layout) == []
    for name in ("runs", "cycles", "memory", "pristine"):
        (top / "var" / name).mkdir(parents=True)
    put(top / "var/runs" / ID / "cell.json")
    put(top / "var/runs" / f".gone-{ID}" / "x")
    put(top / "var/memory/lessons.md")
    put(top / "var/memory.new/lessons.md")
    put(top / "var/backup-of-an-operator/x")
    os.chown(top / "var/backup-of-an-operator", 12345, -1)
    os.chown(top / "var/memory.new", LOOP.pw_uid, -1)
    os.chown(top / "var/memory/lessons.md", LOOP.pw_uid, -1)
    os.chown(top / "var/pristine", LOOP.pw_uid, -1)
    assert plan(layout) == []


def test_what_is_put_back_from_a_backup_is_adopted_and_roots_own_stays(top: Path) -> None:
    layout = layout_in(top / "var")
    put(top / "var/runs/issue_7/request.md")
    put(top / "var/runs/notes.txt")
    put(top / "var/workspace/app/README")
    os.chown(top / "var/runs/issue_7", LOOP.pw_uid, -1)
    assert [(part.name, part.whole) for part in plan(layout)] == [("workspace", True), ("runs", False)]
    done(layout)
    assert (top / "var/runs/notes.txt").exists()
    assert (top / "var/runs" / ID / "runs/issue_7/request.md").exists()
    assert plan(layout) == []


def test_links_of_the_loops_user_are_not_followed(layout: Layout, top: Path) -> None:
    precious = put(top / "etc/precious")
    for name in ("workspace", "state", "memory"):
        subprocess.run(["rm", "-rf", path_of(layout, name)], check=True)
        os.symlink(precious.parent, path_of(layout, name))
        os.chown(path_of(layout, name), LOOP.pw_uid, -1, follow_symlinks=False)
    os.symlink(precious.parent, top / "var/home-link")
    assert "workspace" not in [part.name for part in plan(layout)]
    done(layout)
    assert precious.exists()
    assert mode(precious.parent)[0] == 0
    assert os.readlink(top / "var/runs" / ID / "home/home-link") == str(precious.parent)


def path_of(layout: Layout, name: str) -> str:
    return {"workspace": layout.workspace_dir, "state": layout.daemon_state_dir, "memory": layout.memory_dir}[name]


def test_roots_link_to_another_place_is_followed(layout: Layout, top: Path) -> None:
    for name in ("runs", "workspace"):
        os.rename(top / "var" / name, top / f"disk-{name}")
        os.symlink(top / f"disk-{name}", top / "var" / name)
    done(layout)
    cell = top / "disk-runs" / ID
    assert (cell / "workspace/app/README").exists()
    binds = json.loads((cell / "cell.json").read_text())["binds"]
    assert [f"{layout.runs_dir}/{ID}/workspace", str(top / "disk-workspace")] in binds
    assert [f"{layout.runs_dir}/{ID}/workspace", layout.workspace_dir] in binds
    assert plan(layout) == []


@pytest.mark.parametrize("name", ["workspace", "runs", "state", "."])
def test_other_file_systems_keep_what_is_theirs_closed(layout: Layout, top: Path, name: str) -> None:
    """A mount point cannot be renamed, and nothing goes from it to another file system but by a copy."""
    path = (top / "var" / name).resolve()

    def work(_world: object) -> None:
        subprocess.run(["cp", "-a", f"{path}/.", str(top / "disk")], check=True)
        subprocess.run(["chown", f"--reference={path}", str(top / "disk")], check=True)
        subprocess.run(["mount", "--bind", str(top / "disk"), str(path)], check=True)
        check_disk(layout, name)

    (top / "disk").mkdir()
    on_a_disk_of_its_own(top / "disk", "size=4m", work)


def check_disk(layout: Layout, name: str) -> None:
    cell = Path(layout.runs_dir) / ID
    assert done(layout) == []
    binds = {seen: actual for actual, seen in json.loads((cell / "cell.json").read_text())["binds"]}
    for seen, kind in {
        layout.workspace_dir: "app/README", layout.runs_dir: "issue_1/request.md", layout.state_dir: ".ssh/id",
        layout.daemon_state_dir: "ledger-2026-01-01.json", layout.memory_dir: "lessons.md",
    }.items():  # fmt: skip
        assert Path(binds[seen], kind).exists(), binds
        assert mode(binds[seen]) == (LOOP.pw_uid, LOOP.pw_gid, 0o700)
    if name == "workspace":
        assert binds[layout.workspace_dir] == f"{layout.workspace_dir}/.adopted-{ID}/workspace"
        assert mode(f"{layout.workspace_dir}/.adopted-{ID}") == (0, 0, 0o700)
    assert plan(layout) == []


def test_what_is_used_as_it_is_stays(layout: Layout) -> None:
    for name, top in (("trace.jsonl", "trace.jsonl"), ("learning/a", "learning")):
        put(Path(layout.state_dir) / name, "x")
        subprocess.run(["chown", "-R", LOOP.pw_name, f"{layout.state_dir}/{top}"], check=True)
    stays = [f"{layout.state_dir}/trace.jsonl", f"{layout.state_dir}/learning"]
    layout = replace(layout, stays=stays)
    done(layout)
    assert all(os.path.lexists(path) for path in stays) and plan(layout) == []


def test_lessons_beyond_all_bounds_are_told_and_stay(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_FILES", 1)
    assert "everything after 1 files" in done(layout)[0]
    assert len(files(Path(layout.memory_dir))) == 2


def test_lessons_that_are_no_files_are_passed_over(layout: Layout, top: Path) -> None:
    secret = put(top / "secret", "root's")
    secret.chmod(0o600)
    os.mkfifo(f"{layout.memory_dir}/pipe")
    os.symlink(secret, f"{layout.memory_dir}/link")
    assert "link, pipe" in done(layout)[0]
    assert files(Path(layout.runs_dir) / ID / "memory") == {"lessons.md", "2026/one.md"}


def test_what_stays_cannot_stand_in_what_goes(layout: Layout) -> None:
    with pytest.raises(LoopError, match=r"workspace/infra/memory stands in .*workspace, which an older layout has"):
        plan(replace(layout, memory_dir=f"{layout.workspace_dir}/infra/memory"))


def test_a_state_that_is_the_home_and_one_in_another_part_go_with_it(layout: Layout, top: Path) -> None:
    given = replace(layout, daemon_state_dir=layout.state_dir)
    assert "state" not in [part.name for part in plan(given)]
    put(top / "var/runs/state/ledger")
    inner = replace(layout, daemon_state_dir=f"{layout.runs_dir}/state")
    done(inner)
    assert (top / "var/runs" / ID / "runs/state/ledger").exists()
    assert (top / "var/runs" / ID / "home/state/ledger-2026-01-01.json").exists()


def test_what_a_person_should_see_is_told(layout: Layout, top: Path) -> None:
    put(top / "var/.claude.json")
    lines = "\n".join(adopt.told(layout, plan(layout), ID))
    for words in (f"the cell {ID}: 2 checkouts, 1 run, 1 quarantined thing, 1 record of cycles", "(.claude.json, .pi)"):
        assert words in lines
    assert adopt.told(layout, [], ID) == []
    some = replace(layout, homed=[".pi/agent/models.json"])
    assert "(.claude.json)" in "\n".join(adopt.told(some, plan(layout), ID))
    all_of_it = replace(layout, homed=[".pi", ".claude.json"])
    assert "AGENT CONFIGURATION" not in "\n".join(adopt.told(all_of_it, plan(layout), ID))
    subprocess.run(["rm", "-rf", f"{layout.runs_dir}/.quarantine", layout.cycles_dir], check=True)
    assert "2 checkouts, 1 run, 0 quarantined things" in adopt.told(layout, plan(layout), ID)[0]


def test_the_install_directory_below_the_state_directory_stays(layout: Layout, top: Path) -> None:
    put(top / "var/opt/current")
    os.chown(top / "var/opt", LOOP.pw_uid, -1)
    done(replace(layout, install_dir=f"{top}/var/opt"))
    assert (top / "var/opt/current").exists()
