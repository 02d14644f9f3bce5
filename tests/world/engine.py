# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the reference engine's git repository: `python tests/world/engine.py build DEST.git`.

Two commits on `main`: A, the sources here, and B, the next version, whose `daemon --help` has one flag more.
The lock file names package hosts, so it is made where the repository is and never kept with the sources;
with the same lock, the same sources give the same SHAs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from forge_store import ForgeError, commit_files, git

SOURCES = Path(__file__).resolve().parent / "reference_engine"
VERSION_FILE = "src/reference_loop_engine/__init__.py"
BORN = 1767225600


def sources() -> dict[str, str]:
    """The engine's files by path, without what running it leaves behind."""
    files = (file for file in sorted(SOURCES.rglob("*")) if file.is_file() and "__pycache__" not in file.parts)
    return {str(file.relative_to(SOURCES)): file.read_text(encoding="utf-8") for file in files}


def lock(files: dict[str, str]) -> str:
    """What `uv lock` makes of the sources here and now."""
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        raise ForgeError("uv is not installed: pip install uv")
    with tempfile.TemporaryDirectory() as directory:
        for path, text in files.items():
            file = Path(directory) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        done = subprocess.run(
            [uv, "lock", "--quiet", "--python", sys.executable],
            cwd=directory,
            env={"UV_SYSTEM_CERTS": "1", **os.environ},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ForgeError(f"uv lock failed: {done.stderr.strip()}")
        return (Path(directory) / "uv.lock").read_text(encoding="utf-8")


def build(destination: Path) -> dict[str, str]:
    """Make the repository, unless the one there is of the same sources; returns its path and the two commits."""
    files = sources()
    key = hashlib.sha256(json.dumps(files).encode()).hexdigest()
    marker = destination / "reference-engine.json"
    if marker.exists():
        known: dict[str, str] = json.loads(marker.read_text(encoding="utf-8"))
        if known.pop("key") == key:
            return known
    locked = {**files, "uv.lock": lock(files)}
    shutil.rmtree(destination, ignore_errors=True)
    destination.mkdir(parents=True)
    git(destination, "init", "--quiet", "--bare", "--initial-branch=main", ".")
    later = {VERSION_FILE: files[VERSION_FILE].replace('"0.1.0"', '"0.2.0"')}
    built = {
        "repo": str(destination.resolve()),
        "a": commit_files(destination, "main", locked, "Reference engine 0.1.0", BORN),
        "b": commit_files(destination, "main", later, "Reference engine 0.2.0: allow paths per repository", BORN + 60),
    }
    marker.write_text(json.dumps({**built, "key": key}), encoding="utf-8")
    return built


def main() -> int:
    parser = argparse.ArgumentParser(prog="engine.py", description="The reference engine's git repository.")
    building = parser.add_subparsers(dest="command", required=True).add_parser("build")
    building.add_argument("destination", type=Path, metavar="DEST.git")
    try:
        print(json.dumps(build(parser.parse_args().destination)))
    except ForgeError as problem:
        print(f"engine: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
