# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worktree has that is not committed: everything that would be published if it were added now."""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Mapping

from ..base.files import read_bytes
from .change import LINK, MODULE, PROGRAM, Change, encoded
from .commits import DIFF_OPTIONS, BoundedGit, complete
from .diff import changes_in_diff

MAX_READ = 64 * 1024 * 1024  # bytes of one file


def changes_in_worktree(directory: str) -> list[Change]:
    """What is not committed: everything that ``git add -A`` would take, whatever the repository hides.

    Only the tree's own .gitignore files count. Files are compared by content, so neither
    ``assume-unchanged`` nor a stale index hides one, and no filter is run.
    """
    git = BoundedGit(directory)
    tree: dict[str, tuple[str, str]] = {}
    for entry in git("ls-tree", "-r", "-z", "--full-tree", "HEAD").split("\0")[:-1]:
        meta, _tab, path = entry.partition("\t")
        mode, _kind, blob = meta.split(" ")
        tree[path] = (mode, blob)
    with tempfile.TemporaryDirectory(prefix="gate-") as scratch:
        objects = git("rev-parse", "--path-format=absolute", "--git-path", "objects").rstrip("\n")
        os.mkdir(f"{scratch}/objects")
        aside = {
            "GIT_INDEX_FILE": f"{scratch}/index",
            "GIT_OBJECT_DIRECTORY": f"{scratch}/objects",
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": f'"{objects}"',
        }
        staged = git("ls-files", "-z")
        git = BoundedGit(directory, aside)
        others = git("ls-files", "-z", "-o", "--exclude-per-directory=.gitignore")
        names = {name.rstrip("/") for name in (others + staged).split("\0") if name} | set(tree)
        index, too_big = _differing(git, sorted(names), tree)
        if not index:
            return too_big
        git("read-tree", "HEAD")
        lines = "".join(f"{mode} {blob}\t{path}\0" for mode, blob, path in sorted(index))
        git("update-index", "-z", "--index-info", stdin=encoded(lines))
        text = git("diff-index", "--cached", *DIFF_OPTIONS, "HEAD")
        return too_big + complete(git, changes_in_diff(encoded(text))).changes


def _differing(
    git: BoundedGit, names: Iterable[str], tree: Mapping[str, tuple[str, str]]
) -> tuple[list[tuple[str, str, str]], list[Change]]:
    """Index entries (mode, blob, path) for each file that is not as in ``tree``, and files too big to be read."""
    root = os.path.realpath(git.directory)

    @functools.cache
    def real(folder: str) -> bool:
        return os.path.realpath(folder) == folder

    index: list[tuple[str, str, str]] = []
    too_big: list[Change] = []
    for name in names:
        full = f"{root}/{name}"
        status = os.lstat(full) if os.path.lexists(full) and real(os.path.dirname(full)) else None
        mode = _git_mode(status, full)
        known_mode, known_blob = tree.get(name, ("", ""))
        if not mode:
            index += [("0", "0" * len(known_blob), name)] if known_mode else []
        elif mode == MODULE:
            blob = known_blob if known_mode == MODULE and not os.path.lexists(f"{full}/.git") else _module_head(full)
            index += [(mode, blob, name)] if (mode, blob) != (known_mode, known_blob) else []
        elif status and status.st_size > MAX_READ:
            too_big.append(Change(name, old_mode=known_mode, mode=mode, binary=True, size=status.st_size))
        else:
            content = os.fsencode(os.readlink(full)) if mode == LINK else read_bytes(full, MAX_READ) or b""
            if mode != known_mode or known_blob not in _blob_ids(content, len(known_blob)):
                blob = git("hash-object", "-w", "--stdin", stdin=content).strip()
                index.append((mode, blob, name))
    return index, too_big


def _git_mode(status: os.stat_result | None, path: str) -> str:
    """The mode that git would record; '' for what it would not record at all."""
    if status is None:
        return ""
    if stat.S_ISLNK(status.st_mode):
        return LINK
    if stat.S_ISDIR(status.st_mode):
        return MODULE if os.path.lexists(f"{path}/.git") or not os.listdir(path) else ""
    if stat.S_ISREG(status.st_mode):
        return PROGRAM if status.st_mode & 0o100 else "100644"
    return ""


def _module_head(path: str) -> str:
    """The commit of a repository inside the worktree; zeros but for a one where it has none."""
    status, out = BoundedGit(path).run("rev-parse", "--verify", "--quiet", "HEAD", ok=range(256))
    return out.strip() if status == 0 else f"{'0' * 39}1"


def _blob_ids(content: bytes, digits: int) -> list[str]:
    """git's names for the content as it stands, and as it is where a checkout turned line ends to CRLF."""
    algorithm = hashlib.sha256 if digits == 64 else hashlib.sha1
    both = (content, content.replace(b"\r\n", b"\n"))
    return [algorithm(b"blob %d\0" % len(text) + text).hexdigest() for text in both]
