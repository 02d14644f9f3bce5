# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What it costs to make the checkouts of a cell, for 8 repositories and for 100, beside ``git clone --shared``.

Each repository has 50 files, whose writing is most of it. Both ways take turns in one run.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / ".collections"), str(TOP / "tests")]
import bench  # noqa: E402
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import pristine  # noqa: E402
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings  # noqa: E402

FILES = 50
BOUNDS = {8: 0.5, 100: 5.0}  # seconds


def git(directory: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=directory, check=True, capture_output=True)


def repository(place: Path) -> None:
    """A bare repository with ``FILES`` files on main."""
    work = place.with_suffix(".work")
    work.mkdir(parents=True)
    git(work, "init", "--quiet", "--initial-branch=main")
    for number in range(FILES):
        (work / f"{number}.md").write_text(f"Page {number}\n" * 20, encoding="utf-8")
    git(work, "add", ".")
    git(work, "-c", "user.name=x", "-c", "user.email=x@example.invalid", "commit", "--quiet", "--message=Pages")
    git(work, "clone", "--quiet", "--bare", ".", str(place))
    shutil.rmtree(work)


def ours(config: Settings, workspace: Path) -> None:
    failed = [one for one in pristine.check_out(config, str(workspace)) if one["status"] != "made"]
    assert not failed, failed


def shared_clones(config: Settings, workspace: Path) -> None:
    for one in pristine.clones(config):
        git(workspace, "clone", "--quiet", "--shared", "--no-tags", "--branch=main", one.path, one.dest)


def made(config: Settings, workspace: Path, make: Callable[[Settings, Path], None]) -> float:
    workspace.mkdir()
    took = bench.took(lambda: make(config, workspace))
    shutil.rmtree(workspace)
    return took


def main() -> None:
    rows, seconds = [], {}
    with tempfile.TemporaryDirectory() as directory:
        top = Path(directory)
        for count, bound in BOUNDS.items():
            for number in range(count):
                if not (top / f"r{number}.git").exists():
                    repository(top / f"r{number}.git")
            repositories = [{"repo": f"o/r{number}", "dest": f"r{number}"} for number in range(count)]
            config = Settings(
                {"pristine_dir": directory, "git_url": "https://forge.invalid"},
                workspace_repositories=repositories,
                git_user_name="x",
                git_user_email="x@example.invalid",
            )
            turns: bench.Turns = {"ours": [], "git clone --shared": []}
            for _run in range(bench.RUNS):
                for name, make in (("ours", ours), ("git clone --shared", shared_clones)):
                    turns[name].append(made(config, top / "workspace", make))
            middle = {name: bench.middle(times) for name, times in turns.items()}
            of = f"git clone --shared takes {middle['git clone --shared']:.2f} s"
            rows.append(bench.row(f"checkouts of a cell, {count} repositories", middle["ours"], bound, "s", of))
            seconds[count] = turns
    bench.tell("cells", rows, seconds=seconds)


if __name__ == "__main__":
    bench.run(main)
