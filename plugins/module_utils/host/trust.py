# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Authorities that the host trusts because the inventory names them, in Debian's own place for that.

Each file of ours says so in its first line, which whoever reads certificates passes over. One without that is somebody
else's: it is used where it holds the same, and never removed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Mapping

from ..base.errors import LoopError
from ..base.files import read_bytes
from .managed_files import Entry

DIRECTORY = "/usr/local/share/ca-certificates"
LINKS = "/etc/ssl/certs"
BUNDLE = "ca-certificates.crt"  # all of them in one, in that directory
MARK = b"# Installed by the role as215932.engineering_loop.engineering_loop, which removes it again.\n"
LIMIT = 1 << 20


def ours(directory: str = DIRECTORY) -> list[str]:
    """The certificates that we have put there."""
    try:
        names = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path for name in names if name.endswith(".crt") and _has_mark(path := f"{directory}/{name}")]


def entries(wanted: Mapping[str, str], directory: str = DIRECTORY) -> list[Entry]:
    """What makes these certificates, path to content, the only ones of ours."""
    found = []
    for path, text in wanted.items():
        content = text.strip().encode() + b"\n"
        theirs = _content(path)
        if theirs is None or theirs.strip() + b"\n" != content:
            found.append(Entry(path, content=MARK + content))
    return found + [Entry(path, "absent") for path in ours(directory) if path not in wanted]


def stale(wanted: Mapping[str, str], links: str = LINKS, directory: str = DIRECTORY) -> bool:
    """Whether certificates that stand there are not in force yet, or some that went still are."""
    bundle = read_bytes(os.path.realpath(f"{links}/{BUNDLE}")) or b""
    return any(text.strip().encode() not in bundle for text in wanted.values()) or bool(_orphans(links, directory))


def refresh(links: str = LINKS, directory: str = DIRECTORY) -> None:
    """Bring into force what stands in the directory, and no more. LoopError where that fails."""
    try:
        done = subprocess.run(["update-ca-certificates"], capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LoopError(f"the host's trust cannot be renewed (update-ca-certificates): {error}") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines() or [f"status {done.returncode}"]
        raise LoopError(f"the host's trust cannot be renewed (update-ca-certificates): {said[-1]}")
    for link in _orphans(links, directory):  # it lets them stay where nothing was added
        with contextlib.suppress(FileNotFoundError):
            os.unlink(link)


def remove(path: str) -> None:
    """A certificate of ours, and what it brought into force."""
    if os.path.lexists(path):
        os.unlink(path)
        refresh()


def _orphans(links: str, directory: str) -> list[str]:
    """Links to certificates that stand there no more: until they are gone, these may be in force."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(links) as found:
        paths = [one.path for one in found if one.is_symlink()]
        return [one for one in paths if os.path.dirname(os.readlink(one)) == directory and not os.path.exists(one)]
    return []


def _has_mark(path: str) -> bool:
    content = _content(path)
    return content is not None and content.startswith(MARK)


def _content(path: str) -> bytes | None:
    if os.path.islink(path) or not os.path.isfile(path):
        return None
    return read_bytes(path, LIMIT)
