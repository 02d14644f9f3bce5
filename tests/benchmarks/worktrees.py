# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What healing costs beside the obvious fix, which loses the work: remove --force, branch -D, rmtree, prune.

Leftovers are registered worktrees of a repository of 100 files, each with a commit and a new file,
on a RAM disk. All take turns:

one_by_one      600 heals, one call each, as a ratio to the fix
sweep           600 in one pass, as a ratio to the fix
growth          one pass over 600 beside one over 100
growth_one      600 heals beside 100, one call each: each reads two small files of every worktree
growth_fix      600 of the obvious fix beside 100: each of its commands reads every worktree as well
files           a leftover of 3,000 files beside one of 100
memory_mib      the most that a pass over 2,000 needs, Python itself included
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / ".collections"), str(TOP / "tests")]
import bench  # noqa: E402
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.heal import Worktree, absent  # noqa: E402
from ansible_collections.as215932.engineering_loop.plugins.module_utils.worktrees.sweep import Scope, sweep  # noqa: E402

BOUNDS = {
    "sweep": ("healing 600 worktrees in one pass, against removing them", 0.05, "x"),
    "growth": ("growth of that from 100 to 600", 7.0, "x"),
    "growth_one": ("healing one by one, growth from 100 to 600", 9.0, "x"),
    "files": ("healing one of 3,000 files, against one of 100", 2.0, "x"),
    "memory_mib": ("memory of a pass over 2,000", 100.0, "MiB"),
}


class Stage:
    """A repository with leftovers below ``top``, laid again for each run from a copy kept beside it."""

    def __init__(self, top: Path, count: int, files: int = 100) -> None:
        self.live, self.kept, self.count = top / "live", top / f"kept-{count}-{files}", count
        self.repo = self.live / "app"
        shutil.rmtree(self.live, ignore_errors=True)
        self.repo.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.name", "bench")
        self.git("config", "user.email", "bench@example.invalid")
        for number in range(files):
            (self.repo / f"file-{number}").write_text(f"{number}\n")
        self.git("add", ".")
        self.git("commit", "-qm", "base")
        tree = self.git("rev-parse", "HEAD^{tree}")
        for path, branch in self.leftovers():
            self.git("worktree", "add", "-q", "-b", branch, path)
            self.git("update-ref", f"refs/heads/{branch}", self.git("commit-tree", tree, "-p", "main", "-m", branch))
            Path(path, "new").write_text("work\n")
        self.live.rename(self.kept)

    def git(self, *arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=self.repo, check=True, capture_output=True, text=True).stdout.strip()

    def leftovers(self) -> list[tuple[str, str]]:
        runs = self.live / "runs"
        names = [f"ISSUE_{number}" for number in range(self.count)]
        return [(f"{runs}/{name.lower()}/worktrees/app", f"hyrule-loop/{name}/app") for name in names]

    def seconds(self, work: Callable[[Stage], None]) -> float:
        if self.live.exists():
            shutil.rmtree(self.live)
        subprocess.run(["cp", "-a", self.kept, self.live], check=True)
        start = time.perf_counter()
        work(self)
        return time.perf_counter() - start


def fix(stage: Stage) -> None:
    for path, branch in stage.leftovers():
        for arguments in (["worktree", "remove", "--force", path], ["branch", "-q", "-D", branch]):
            subprocess.run(["git", *arguments], cwd=stage.repo, check=True)
        shutil.rmtree(path, ignore_errors=True)
        subprocess.run(["git", "worktree", "prune"], cwd=stage.repo, check=True)


def one_by_one(stage: Stage) -> None:
    for path, branch in stage.leftovers():
        absent(Worktree(str(stage.repo), path, branch, quarantine=f"{stage.live}/runs/.quarantine"))


def in_one_pass(stage: Stage) -> None:
    answer = sweep(Scope(f"{stage.live}/runs", ["hyrule-loop"], [str(stage.repo)]))
    if len(answer["removed"]) != stage.count:
        raise SystemExit(f"the sweep took {len(answer['removed'])} of {stage.count} leftovers: {answer['kept'][:3]}")


def medians(stage: Stage, *works: Callable[[Stage], None]) -> list[float]:
    rounds = [[stage.seconds(work) for work in works] for _run in range(bench.RUNS)]
    return [bench.middle(times) for times in zip(*rounds, strict=True)]


def memory(stage: Stage) -> float:
    """MiB that a process of its own needs for one pass."""

    def child() -> None:
        in_one_pass(stage)
        os.write(writer, str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss).encode())

    stage.seconds(lambda _stage: None)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            child()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    return int(os.read(reader, 64)) / 1024


def main() -> None:
    ram = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=ram) as name:
        top = Path(name)
        many, fewer = Stage(top, 600), Stage(top, 100)
        seed, single, swept = medians(many, fix, one_by_one, in_one_pass)
        seed_fewer, single_fewer, swept_fewer = medians(fewer, fix, one_by_one, in_one_pass)
        big, small = Stage(top, 20, 3000), Stage(top, 20)
        (heavy,), (light,) = medians(big, one_by_one), medians(small, one_by_one)
        found = {
            "one_by_one": single / seed,
            "sweep": swept / seed,
            "growth": swept / swept_fewer,
            "growth_one": single / single_fewer,
            "growth_fix": seed / seed_fewer,
            "files": heavy / light,
            "memory_mib": memory(Stage(top, 2000, 1)),
        }
    rows = [bench.row(what, found[key], most, unit) for key, (what, most, unit) in BOUNDS.items()]
    git_version = subprocess.run(["git", "--version"], check=True, capture_output=True, text=True).stdout.strip()
    bench.tell("worktrees", rows, **found, fix_seconds=seed, git=git_version)


if __name__ == "__main__":
    bench.run(main)
