# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A tree that nobody writes any more, and the list of its files that says whether that is still so."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import stat
from collections.abc import Sequence

from ..base.files import sha256


def freeze(path: str) -> None:
    """Everybody reads, nobody writes. Links are left alone: they may lead out of the release."""
    for directory, directories, files in os.walk(path, topdown=False):
        for name in [*files, *directories]:
            entry = os.path.join(directory, name)
            mode = os.lstat(entry).st_mode
            if os.geteuid() == 0:
                os.lchown(entry, 0, 0)
            if stat.S_ISDIR(mode) or (stat.S_ISREG(mode) and mode & 0o100):
                os.chmod(entry, 0o555)
            elif stat.S_ISREG(mode):
                os.chmod(entry, 0o444)
    os.chmod(path, 0o555)


def flush(path: str) -> None:
    """Have what was written to this file system on its disk; the host's other disks are not waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        ctypes.CDLL(None).syncfs(descriptor)
    finally:
        os.close(descriptor)


def manifest(path: str, beside: Sequence[str]) -> bytes:
    """One line per file, link and directory: mode and owner, digest, name. Those in ``beside`` are left out."""
    lines: list[str] = []
    for directory, directories, files in os.walk(path):
        below = directory[len(path) + 1 :]
        for name in [*files, *directories, *([] if below else ["."])]:
            shown = os.path.join(below, name)
            if shown in beside:
                continue
            entry = os.path.join(directory, name)
            status = os.lstat(entry)
            digest = "-"
            if stat.S_ISLNK(status.st_mode):
                digest = sha256(os.fsencode(os.readlink(entry)))
            elif stat.S_ISREG(status.st_mode):
                with open(entry, "rb", buffering=0) as handle:
                    digest = hashlib.file_digest(handle, "sha256").hexdigest()
            lines.append(f"{status.st_mode:o}:{status.st_uid}:{status.st_gid} {digest} {json.dumps(shown)}")
    return ("\n".join(sorted(lines)) + "\n").encode("utf-8", "surrogateescape")


def differences(one: bytes, other: bytes) -> list[str]:
    """The names that two manifests do not have alike."""
    listed, found = _lines(one), _lines(other)
    return [name for name in sorted(listed.keys() | found.keys()) if listed.get(name) != found.get(name)]


def _lines(listing: bytes) -> dict[str, str]:
    split = (line.split(" ", 2) for line in listing.decode("utf-8", "surrogateescape").splitlines())
    return {json.loads(name): f"{kind} {digest}" for kind, digest, name in split}
