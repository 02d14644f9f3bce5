# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be wrong with a clone, beside what stands in the place of a file: each by real git, or as it leaves it.

Each gets the git directory and makes it so; ``cut`` clones anew in an operator's way, everything else spoils.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from celled import git, give

Spoil = Callable[[Path], None]


def cut(*options: str) -> Spoil:
    """A clone by somebody who wanted to save time or room."""

    def spoil(common: Path) -> None:
        bare = common.name != ".git"
        path = common if bare else common.parent
        url = git(common, f"--git-dir={common}", "config", "remote.origin.url")
        owner = Path(url).owner()
        give(url, Path(path.anchor).owner())  # git serves nobody else's
        git(Path(url), "config", "uploadpack.allowFilter", "true")
        shutil.rmtree(path)
        git(path.parent, "clone", "-q", *(["--bare"] if bare else []), *options, f"file://{url}", str(path))
        give(url, owner)

    return spoil


def ref(name: str, content: str) -> Spoil:
    def spoil(common: Path) -> None:
        (common / name).parent.mkdir(parents=True, exist_ok=True)
        (common / name).write_text(content)

    return spoil


def pipe_for_a_ref(common: Path) -> None:
    os.mkfifo(common / "refs/heads/x")


def loose(common: Path) -> Path:
    """The file of an object that only history has, after everything was taken out of the packs."""
    for pack in list((common / "objects/pack").glob("*.pack")):
        moved = pack.rename(common / "moved")
        pack.with_suffix(".idx").unlink()
        with moved.open("rb") as stdin:
            words = ["git", "-c", "safe.directory=*", f"--git-dir={common}", "unpack-objects", "-q"]
            subprocess.run(words, stdin=stdin, check=True, capture_output=True)
        moved.unlink()
    name = git(common, f"--git-dir={common}", "rev-parse", "main~1^{tree}")
    return common / "objects" / name[:2] / name[2:]


def empty_object(common: Path) -> None:
    place = loose(common)
    place.unlink()  # where it has other names, they stay as they are
    place.write_bytes(b"")


def zeros_for_an_object(common: Path) -> None:
    """Of the tip, in the length that it had: as some file systems bring it back after a power cut."""
    loose(common)
    name = git(common, f"--git-dir={common}", "rev-parse", "main^{tree}")
    place = common / "objects" / name[:2] / name[2:]
    size = place.stat().st_size
    place.unlink()
    place.write_bytes(bytes(size))


def empty_pack(common: Path) -> None:
    git(common, f"--git-dir={common}", "repack", "-a", "-d", "-q")
    (pack,) = (common / "objects/pack").glob("*.pack")
    pack.chmod(0o644)
    pack.write_bytes(b"")


def no_head(common: Path) -> None:
    (common / "HEAD").unlink()


def setting(name: str, value: str) -> Spoil:
    def spoil(common: Path) -> None:
        with (common / "config").open("a") as handle:
            handle.write(f"[core]\n\trepositoryformatversion = 1\n[{name.split('.')[0]}]\n\t")
            handle.write(f"{name.split('.')[1]} = {value.replace('BARE', str(common.name == '.git').lower())}\n")

    return spoil


DAMAGES: dict[str, Spoil] = {
    "shallow": cut("--depth=1"),
    "without blobs": cut("--filter=blob:none"),
    "without trees": cut("--filter=tree:0"),
    "an empty ref": ref("refs/heads/other", ""),
    "an empty ref of somebody's": ref("refs/sessions/1/turn/7", ""),
    "a dangling ref": ref("refs/tags/x", "1" * 40 + "\n"),
    "a ref that is no ref": ref("refs/heads/other", "hello\n"),
    "a pipe for a ref": pipe_for_a_ref,
    "an empty object": empty_object,
    "zeros for an object": zeros_for_an_object,
    "an empty pack": empty_pack,
    "no HEAD": no_head,
    "an empty HEAD": ref("HEAD", ""),
    "a format of the future": setting("core.repositoryformatversion", "99"),
}
# These are damage where nobody puts the configuration right first.
SETTINGS: dict[str, Spoil] = {
    "an extension of a newer git": setting("extensions.ofTheFuture", "true"),
    "a newer git's relative worktrees": setting("extensions.relativeWorktrees", "true"),
    "not what it was": setting("core.bare", "BARE"),
}


def left_by_a_killed_git(common: Path) -> list[Path]:
    """Locks and half-written files; no damage, and gone with the next refresh."""
    names = ("packed-refs.lock", "packed-refs.new", "refs/heads/main.lock", "config.lock")
    for name in names:
        (common / name).write_bytes(b"")
    return [common / name for name in names]
