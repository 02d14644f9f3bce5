# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Repositories that an engine depends on, served over HTTP from this machine, and engines that are locked to them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

from commands import sh
from engines import BACKEND, PROJECT, PYTHON, UV, Source

OWNER = "hyrule"

# A build backend of an index, as small as one can be. What it is told to leave, or to look at, is in the project.
TOOL = """
import os, pathlib, zipfile
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name, version = pathlib.Path("NAME").read_text().split()
    if os.path.exists("look.py"):
        exec(pathlib.Path("look.py").read_text(), {"out": wheel_directory})
    info = f"{name}-{version}.dist-info"
    file = f"{name}-{version}-py3-none-any.whl"
    files = {
        f"{name}.py": pathlib.Path(f"{name}.py").read_text(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    with zipfile.ZipFile(os.path.join(wheel_directory, file), "w") as wheel:
        for path, text in files.items():
            wheel.writestr(zipfile.ZipInfo(path), text)
        listed = [*files, f"{info}/RECORD"]
        wheel.writestr(zipfile.ZipInfo(f"{info}/RECORD"), "".join(f"{path},,\\n" for path in listed))
    return file
"""


class Forge:
    """Bare repositories below a directory, as a web server shows them."""

    def __init__(self, top: Path) -> None:
        self.top = top
        (top / "www" / OWNER).mkdir(parents=True)
        handler = functools.partial(Quiet, directory=str(top / "www"))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.asked: list[tuple[str, str]] = []
        self.server.asked = self.asked  # type: ignore[attr-defined]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def url(self, name: str) -> str:
        return f"{self.address}/{OWNER}/{name}.git"

    def serve(self, path: Path, name: str) -> None:
        """Show a repository as it is now."""
        bare = self.top / "www" / OWNER / f"{name}.git"
        if not bare.exists():
            sh(path, "git", "clone", "-q", "--mirror", str(path), str(bare))
        sh(path, "git", "push", "-q", "--mirror", str(bare))
        sh(bare, "git", "update-server-info")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization", "")))  # type: ignore[attr-defined]
        super().do_GET()


@contextlib.contextmanager
def forge_in(top: Path) -> Iterator[Forge]:
    forge = Forge(top)
    yield forge
    forge.server.shutdown()
    forge.server.server_close()


class Dependency:
    """A project in a repository of its own."""

    def __init__(self, forge: Forge, name: str, requires: str = "", version: str = "1.0", below: str = "") -> None:
        self.forge, self.name, self.repo = forge, name, forge.top / f"{name}-sources"
        self.path = self.repo / below
        self.path.mkdir(parents=True)
        module = name.replace("-", "_")
        backend = "tinybuild" if requires else "backend"
        self.write("NAME", f"{module} {version}")
        self.write(f"{module}.py", f"WORD = 'from {name} {version}'\n")
        self.write("pyproject.toml", project(name, version, requires, backend))
        if not requires:
            self.write("backend.py", TOOL)
        sh(self.repo, "git", "init", "-q", "-b", "main")
        self.sha = self.commit()

    def write(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)

    def commit(self) -> str:
        sh(self.repo, "git", "add", "-A")
        sh(self.repo, "git", "commit", "-q", "--allow-empty", "-m", self.name)
        self.forge.serve(self.repo, self.name)
        self.sha = sh(self.repo, "git", "rev-parse", "HEAD")
        return self.sha


def project(name: str, version: str, requires: str, backend: str) -> str:
    path = "" if requires else 'backend-path = ["."]\n'
    return (
        f'[project]\nname = "{name}"\nversion = "{version}"\n'
        f'[build-system]\nrequires = [{requires}]\nbuild-backend = "{backend}"\n{path}'
    )


def engine_with(source: Source, *wanted: str, extra: str = "", message: str = "with dependencies") -> str:
    """A commit of the engine that is locked to these requirements and prints what they say."""
    lines = ", ".join(f'"{one}"' for one in wanted)
    source.write(
        "pyproject.toml", PROJECT.replace("[project.scripts]", f"dependencies = [{lines}]\n[project.scripts]") + extra
    )
    names = [one.split(" @ ")[0].replace("-", "_") for one in wanted]
    text = "".join(f"import {name}; print({name}.WORD)\n" for name in names)
    source.write("src/engine/__init__.py", "def main():\n    " + text.replace("\n", "\n    ") + "\n")
    needs = "".join(f"Requires-Dist: {one}\\\\n" for one in wanted)
    source.write("backend.py", BACKEND.replace("Version: 1.0\\\\n", f"Version: 1.0\\\\n{needs}", 1))
    sh(source.path, UV, "lock", "-q", "--python", PYTHON)
    return source.commit(message)


def tool_wheel(directory: Path, name: str = "tinybuild", version: str = "1.5", text: str = TOOL) -> str:
    """A wheel of a build tool; the line that pins it."""
    directory.mkdir(exist_ok=True)
    path = directory / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(zipfile.ZipInfo(f"{name}.py"), text)
        wheel.writestr(
            zipfile.ZipInfo(f"{info}/METADATA"), f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        wheel.writestr(
            zipfile.ZipInfo(f"{info}/WHEEL"),
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        listed = [f"{name}.py", f"{info}/METADATA", f"{info}/WHEEL", f"{info}/RECORD"]
        wheel.writestr(zipfile.ZipInfo(f"{info}/RECORD"), "".join(f"{one},,\n" for one in listed))
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
