# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a repository is whole: all that a fetch into it, a worktree of its tip and a push from it need is there.

Looked at in two steps, both cheap enough for a host with nothing to do: ``flaw`` without git, which waits at a pipe and
goes wherever a link leads, and ``check_whole`` by git. The network is to blame where the remote does not answer outside
of the repository either; else a fetch that fails is the repository's fault, whatever git makes of it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence

from ..base.errors import Denied, LoopError, TimedOut
from .command import ANY, SECONDS, git, told_refs
from .repository import in_reftable, odd_part

NEEDED = ("HEAD", "config", "objects", "refs")
CUT_OFF = (("shallow", "its history is cut off"), ("commondir", "its git directory is that of another repository"))
OBJECT = re.compile(r"[0-9a-f]{38}|[0-9a-f]{62}|pack-.*\.(pack|idx)")
WALK_SECONDS = 600.0  # for a history of a million commits on a slow disk
# Nothing is fetched on the way: what is missing is missing.
OFFLINE = {"GIT_NO_LAZY_FETCH": "1"}
DEAF = {"protocol.allow": "never"}
FETCH = ("fetch", "--quiet", "--prune", "--force", "--no-tags", "--no-write-fetch-head", "--recurse-submodules=no")
REMOTE = "--upload-pack=git-upload-pack"


class Damaged(LoopError):
    """The repository does not do what git needs of it: it is put aside whole and made anew."""


def flaw(common: str) -> str:
    """What is wrong with the git directory ``common`` as far as files tell; empty for nothing."""
    try:
        odd = odd_part(common)
        missing = [name for name in NEEDED if not os.path.lexists(f"{common}/{name}")]
        told = [f"{common}/{missing[0]} is missing"] if missing else []
        told += [why for name, why in CUT_OFF if os.path.lexists(f"{common}/{name}")]
        found = odd or (told or [""])[0] or _strange_ref(f"{common}/refs") or _strange_object(f"{common}/objects")
    except Denied as error:
        return f"{error.source} cannot be looked at"
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    return found or ("its refs are kept in a reftable" if in_reftable(common) else "")


def _strange_ref(directory: str) -> str:
    waiting = [directory]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif not entry.is_file(follow_symlinks=False):
                    return f"{entry.path} is no file"
    return ""


def _strange_object(objects: str) -> str:
    """What a partial clone has among its objects, and what a power cut leaves there."""
    for name in os.listdir(objects):
        if name != "pack" and not re.fullmatch("[0-9a-f]{2}", name):
            continue
        with os.scandir(f"{objects}/{name}") as entries:
            for entry in entries:
                if entry.name.endswith(".promisor"):
                    return "it is a partial clone"
                if OBJECT.fullmatch(entry.name):
                    status = entry.stat(follow_symlinks=False)
                    if not stat.S_ISREG(status.st_mode) or not status.st_size:
                        return f"{entry.path} is empty or no file"
    return ""


def ask(
    common: str, arguments: Sequence[str], ok: Sequence[int] = (0,), timeout: float = SECONDS
) -> tuple[int, str, str]:
    """git in this repository and no other, with nobody else; Damaged where it fails or does not end in its time."""
    try:
        own = {"GIT_DIR": common, **OFFLINE}
        return git(common, arguments, ok=ok, environment=own, config=DEAF, timeout=timeout)
    except LoopError as error:
        raise Damaged(str(error)) from error


def check_whole(common: str, tip: str, *, history: bool = True) -> None:
    """Damaged unless every ref names what is there, with all commits before it, and ``tip``, if any, has all its files.

    Without ``history``, which takes its time, what comes before the refs is believed.
    """
    walk = ["rev-list", "--quiet", *([] if history else ["--no-walk"]), "--all", *filter(None, [tip])]
    ask(common, walk, timeout=WALK_SECONDS)
    if not tip:
        return
    listed = ask(common, ["ls-tree", "-r", "-z", "--full-tree", tip])[1].split("\0")
    blobs = {entry.split(" ", 3)[2].partition("\t")[0] for entry in listed if entry[7:11] == "blob"}
    told = git(
        common, ["cat-file", "--batch-check"], stdin="".join(f"{name}\n" for name in blobs).encode(), ok=ANY,
        environment={"GIT_DIR": common, **OFFLINE}, config=DEAF,
    )  # fmt: skip
    missing = [line for line in told[1].splitlines() if not re.fullmatch(r"[0-9a-f]+ [a-z]+ \d+", line)]
    if told[0] or missing:
        raise Damaged(f"objects are missing or broken: {', '.join((missing or told[2].splitlines())[:3])}")


def fetch(
    common: str, url: str, refs: str, environment: Mapping[str, str], config: Mapping[str, str], seconds: float
) -> None:
    """Fetch ``refs`` by URL: what "origin" means is in a file that others may write.

    Damaged where that fails although the remote answers elsewhere, LoopError where it does not.
    """
    given = {**environment, "GIT_DIR": common}
    try:
        git(common, [*FETCH, REMOTE, "--", url, refs], environment=given, config=config, timeout=seconds)
    except TimedOut as error:
        raise LoopError(f"{url} cannot be reached: {error}") from error
    except LoopError as error:
        remote_refs(url, refs.partition(":")[0].lstrip("+"), environment, config, seconds)
        raise Damaged(f"the remote answers, and yet: {error}") from error


def remote_refs(
    url: str, wanted: str, environment: Mapping[str, str], config: Mapping[str, str], seconds: float
) -> dict[str, str]:
    """The commits of the remote's refs of this name, asked for where no repository is that could be the reason."""
    try:
        asked = ["ls-remote", REMOTE, "--", url, wanted]
        return told_refs(git("/", asked, environment=environment, config=config, timeout=seconds)[1])
    except LoopError as error:
        raise LoopError(f"{url} cannot be reached: {error}") from error
