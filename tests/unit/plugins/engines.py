# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A tiny but real Python project: fetched by git, locked and installed by uv, for the tests of releases."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import store
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release.wanted_version import Wanted
from commands import sh

UV = str(Path(sys.executable).parent / "uv")


PYTHON = os.path.realpath(sys.executable)


# A build backend in the tree itself: an editable install that needs no network.
BACKEND = """
import os, zipfile
NAME, INFO = "engine-1.0-py3-none-any.whl", "engine-1.0.dist-info/"
FILES = {
    "engine.pth": os.path.join(os.getcwd(), "src"),
    INFO + "METADATA": "Metadata-Version: 2.1\\nName: engine\\nVersion: 1.0\\n",
    INFO + "WHEEL": "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    INFO + "entry_points.txt": "[console_scripts]\\nengine = engine:main\\n",
}
def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(os.path.join(wheel_directory, NAME), "w") as wheel:
        for name, text in FILES.items():
            wheel.writestr(name, text)
        wheel.writestr(INFO + "RECORD", "".join(f"{name},,\\n" for name in [*FILES, INFO + "RECORD"]))
    return NAME
build_wheel = build_editable
"""


PROJECT = """
[project]
name = "engine"
version = "1.0"
requires-python = ">=3.11"
[project.scripts]
engine = "engine:main"
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


ENGINE = """
import pathlib
def main():
    print((pathlib.Path(__file__).resolve().parents[2] / "skills" / "one.md").read_text())
"""


class Source:
    """The engine's repository, with a commit per release."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "src/engine").mkdir(parents=True)
        (path / "skills").mkdir()
        self.write("backend.py", BACKEND)
        self.write("pyproject.toml", PROJECT)
        self.write("src/engine/__init__.py", ENGINE)
        self.write(".gitattributes", "skills export-ignore\n")
        sh(path, "git", "init", "-q", "-b", "main")
        sh(path, UV, "lock", "-q", "--offline", "--python", PYTHON)

    def write(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)

    def commit(self, text: str, **files: str) -> str:
        self.write("skills/one.md", text)
        for name, content in files.items():
            self.write(name.replace("__", "."), content)
        sh(self.path, "git", "add", "-A")
        sh(self.path, "git", "commit", "-q", "--allow-empty", "-m", text)
        return sh(self.path, "git", "rev-parse", "HEAD")


@contextlib.contextmanager
def memory() -> Iterator[Path]:
    """A directory in memory: a build waits for its disk, which the machine may be busy with."""
    shared = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as path:
        yield Path(path)


def now_active(wanted: Wanted) -> str:
    found = store.active(wanted.install_dir)
    return found["sha"] if found else ""


def says(wanted: Wanted) -> str:
    return sh(Path("/"), f"{wanted.install_dir}/current/.venv/bin/engine")


def mine(wanted: Wanted) -> set[str]:
    return set(os.listdir(f"{wanted.install_dir}/releases"))


def wait_for(condition: Callable[[], object], of: subprocess.Popen[bytes], seconds: float = 60.0) -> None:
    """Until what a process is to do is seen. AssertionError with its last words where it has ended without it."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert of.poll() is None or of.returncode < 0, of.communicate()[1].decode()
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
