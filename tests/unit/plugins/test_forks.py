# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What children run is counted, each way in which they end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

WORK = """
def forked(work):
    import os
    if child := os.fork():
        return os.waitpid(child, 0)[1]
    work()
    os._exit(0)

def work(left):
    if left == 0:
        return "tests"
    if left == 1:
        return "child"
    if left == 2:
        return "child of a child"
    if left == 3:
        return "other user"
    if left == 4:
        return "becomes another program"
    if left == 5:
        return "a program"
    if left == 6:
        return "killed"
    return "nobody"
"""
SCRIPT = """
import os, signal, subprocess, sys
import coverage
tests = coverage.Coverage(data_file=None, config_file=False, branch=True, include=[sys.argv[1] + "/*"])
tests.start()
from forks import counted
from work import forked, work

def ended(child):
    return os.waitpid(child, 0)[1]

with counted():
    work(0)
    assert forked(lambda: work(1)) == 0
    if not (child := os.fork()):
        work(1)
        if not (grandchild := os.fork()):
            work(2)
            os._exit(3)
        os._exit(4 if os.WEXITSTATUS(ended(grandchild)) == 3 else 1)
    assert os.WEXITSTATUS(ended(child)) == 4
    if not (child := os.fork()):
        os.setresuid(65534, 65534, 65534)
        os.chdir("/proc")
        work(3)
        os._exit(0)
    assert ended(child) == 0
    if not (child := os.fork()):
        work(4)
        os.execv("/bin/true", ["true"])
    assert ended(child) == 0
    program = "import forks, sys; forks.SOURCE = sys.argv[1]; forks.program(); from work import work; work(5)"
    subprocess.run([sys.executable, "-c", program, sys.argv[1]], check=True)
    if not (child := os.fork()):
        work(6)
        os.kill(os.getpid(), signal.SIGKILL)
    assert ended(child) == signal.SIGKILL
tests.stop()
assert os._exit.__module__ == "posix"
print(*tests.analysis2(sys.modules["work"])[3])
"""


def test_what_children_run_counts_however_they_end_but_killed(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(WORK)
    (tmp_path / "link").symlink_to(".")  # as the collection is imported
    path = f"{Path(__file__).parent}{os.pathsep}{tmp_path}/link"
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = WORK.splitlines()
    missed = [lines[int(number) - 1].strip() for number in done.stdout.split()]
    assert missed == ["if left == 6:", 'return "killed"', 'return "nobody"']
