# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The artifact that ansible-galaxy installs, the same to the last bit whoever builds it: build.py [FOLDER]

ansible-galaxy packs whatever lies in the folder, in the order that the file system gives it, with the time of day. So
it is given a copy of what git knows alone, and what it made is packed again: by name, with the time of the last commit
(or SOURCE_DATE_EPOCH, as the Reproducible Builds project has it).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MANIFEST, LISTING = "MANIFEST.json", "FILES.json"  # ansible-galaxy reads them first


def git(top: Path, *command: str) -> str:
    return subprocess.run(["git", *command], cwd=top, capture_output=True, text=True, check=True).stdout


def made_at(top: Path) -> int:
    """The time that everything in the artifact bears, in seconds since 1970."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or git(top, "log", "-1", "--format=%ct"))


def copy(top: Path, target: Path) -> None:
    """What git tracks in ``top``, or would at the next ``git add``, but for the link that leads back to it."""
    for name in git(top, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        source = top / name
        if name and not name.startswith(".collections/") and os.path.lexists(source):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name, follow_symlinks=False)


def normalized(artifact: bytes, stamp: int) -> bytes:
    """The same artifact with its files by name and one time; its own list of them has the same order."""
    with tarfile.open(fileobj=io.BytesIO(artifact), mode="r:gz") as packed:
        members = [(one, packed.extractfile(one) if one.isfile() else None) for one in packed.getmembers()]
        contents = {one.name: (one, stream.read() if stream else b"") for one, stream in members}
    listing = json.loads(contents[LISTING][1])
    listing["files"].sort(key=lambda entry: entry["name"])
    manifest = json.loads(contents[MANIFEST][1])
    told = json.dumps(listing, indent=True).encode()
    manifest["file_manifest_file"]["chksum_sha256"] = hashlib.sha256(told).hexdigest()
    contents[LISTING] = (contents[LISTING][0], told)
    contents[MANIFEST] = (contents[MANIFEST][0], json.dumps(manifest, indent=True).encode())
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as packing:
        for name in [MANIFEST, LISTING, *sorted(set(contents) - {MANIFEST, LISTING})]:
            about, content = contents[name]
            about.mtime, about.size, about.pax_headers = stamp, len(content), {}
            packing.addfile(about, io.BytesIO(content) if about.isfile() else None)
    return gzip.compress(plain.getvalue(), mtime=stamp)


def build(top: Path, folder: Path) -> Path:
    """Build the collection that stands in ``top``; the artifact in ``folder``."""
    program = Path(sys.executable).with_name("ansible-galaxy")
    with tempfile.TemporaryDirectory() as place:
        checkout, made = Path(place, "checkout"), Path(place, "made")
        copy(top, checkout)
        command = [str(program), "collection", "build", "--output-path", str(made), str(checkout)]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"build: {done.stderr.strip()}")
        (found,) = made.glob("*.tar.gz")
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / found.name
        target.write_bytes(normalized(found.read_bytes(), made_at(top)))
    return target


def main(words: list[str]) -> int:
    target = build(ROOT, Path(*words[:1]) if words else ROOT / ".cache" / "build")
    shown = target.relative_to(ROOT) if target.is_relative_to(ROOT) else target
    print(f"{hashlib.sha256(target.read_bytes()).hexdigest()}  {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
