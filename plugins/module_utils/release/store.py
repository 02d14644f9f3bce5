# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Engine releases side by side on a host, switched by renaming one link, never half of one and half of another.

``INSTALL_DIR/releases/<sha>`` holds one build each, ``current`` points to the active one and
``releases.json`` remembers what was activated when, and what was proven.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from typing import Any

from ..base.clock import utc_now
from ..base.errors import LoopError
from ..base.files import discard, flocked, read_bytes, sha256, sync_directory, write_atomic
from ..host.processes import cycle_in_progress
from . import frozen
from .build import MANIFEST, RECORD, manifest
from .shut_in import interpreter
from .wanted_version import Wanted, check_version

Json = dict[str, Any]

LEDGER = "releases.json"
HISTORY = 200  # activations remembered
VERDICTS = ("proven", "failed")


# --- what is there ------------------------------------------------------------------------


def active(install_dir: str) -> Json | None:
    """The record of the release that ``current`` leads to, with its ``path``; None where there is none."""
    try:
        target = os.readlink(os.path.join(install_dir, "current"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LoopError(f"{install_dir}/current is not a symbolic link: move it away, it is not ours") from error
    directory, sha = os.path.split(target)
    if os.path.join(install_dir, directory) != os.path.join(install_dir, "releases"):
        raise LoopError(f"{install_dir}/current leads to {target}, not to a release: remove it, it is not ours")
    return record(install_dir, sha)


def require_active(install_dir: str) -> dict[str, str]:
    """``sha`` and ``lock_digest`` of the active release. LoopError says what keeps a cycle from running it."""
    current = os.path.join(install_dir, "current")
    target = os.path.realpath(current)
    path = os.path.join(target, RECORD)
    content = read_bytes(path)
    if content is None:
        raise LoopError(f"no engine is installed: {path} is missing")
    try:
        known = json.loads(content)
        release = {key: str(known[key]) for key in ("sha", "lock_digest")}
    except (ValueError, KeyError, TypeError) as error:
        raise LoopError(f"{path} does not name its sha and lock_digest: build the release again") from error
    if os.path.basename(target) != release["sha"]:
        raise LoopError(f"{current} leads to {target}, which says that it is {release['sha']}")
    return release


def record(install_dir: str, sha: str) -> Json | None:
    """What was recorded of a complete release, with its ``path``; None where it is missing or half built."""
    path = path_of(install_dir, sha)
    try:
        content = read_bytes(os.path.join(path, RECORD))
        known = json.loads(content or b"null")
    except (ValueError, LoopError, NotADirectoryError):
        return None
    if not isinstance(known, dict) or known.get("sha") != sha:
        return None
    return {**known, "path": path}


def releases(install_dir: str) -> list[str]:
    """The commits of all complete releases on this host."""
    return [name for name in _names(install_dir) if record(install_dir, name) is not None]


def damage(install_dir: str, sha: str) -> list[str]:
    """The files of a release that are no longer as they were built, were added or are gone."""
    path = path_of(install_dir, sha)
    known = record(install_dir, sha)
    listed = read_bytes(os.path.join(path, MANIFEST))
    if known is None or listed is None or sha256(listed) != known.get("files_digest"):
        return [MANIFEST]
    wrong = frozen.differences(listed, manifest(path))
    if not wrong and known.get("interpreter", "") != interpreter(path):
        return [".venv/bin/python"]  # the host's Python was replaced by another version
    return wrong


def ledger(install_dir: str) -> Json:
    """``{"history": [{sha, at, by, left}], "marks": {sha: {verdict, at, detail}}}``."""
    path = os.path.join(install_dir, LEDGER)
    try:
        known = json.loads(read_bytes(path) or b"{}")
        return {"history": list(known.get("history", [])), "marks": dict(known.get("marks", {}))}
    except (ValueError, AttributeError, TypeError) as error:
        raise LoopError(f"{path} cannot be understood ({error}): move it away to start anew") from error


def record_verdict(install_dir: str, sha: str, verdict: str, detail: str = "") -> None:
    """Remember that a release was ``proven`` or ``failed``: what ``previous`` may go back to."""
    check_version(sha)
    if verdict not in VERDICTS:
        raise LoopError(f"a release is marked as one of {', '.join(VERDICTS)}, not {verdict!r}")
    with flocked(os.path.join(install_dir, ".ledger.lock")):
        known = ledger(install_dir)
        known["marks"][sha] = {"verdict": verdict, "at": utc_now(), "detail": detail}
        _save(install_dir, known)


def last_proven(install_dir: str) -> str | None:
    """The commit that ``previous`` goes back to: proven, on disk, activated most recently, not active.

    One that somebody went back from is passed over until it is asked for by name again.
    """
    known = ledger(install_dir)
    now = active(install_dir)
    withdrawn: set[str] = set()
    for entry in known["history"]:
        withdrawn.discard(entry["sha"])
        if entry["by"] == "previous":
            withdrawn.add(entry["left"])
    for entry in reversed(known["history"]):
        sha = entry["sha"]
        if sha in withdrawn or (now and sha == now["sha"]) or verdict(known, sha) != "proven":
            continue
        if record(install_dir, sha):
            return str(sha)
    return None


def proven_before(install_dir: str) -> str:
    """The commit to go back to, or the active one where that was done already. LoopError where there is none."""
    now, known = active(install_dir), ledger(install_dir)
    newest = known["history"][-1] if known["history"] else {}
    back_already = now and newest.get("by") == "previous" and newest["sha"] == now["sha"]
    if now and back_already and verdict(known, now["sha"]) != "failed":
        return str(now["sha"])
    if sha := last_proven(install_dir):
        return sha
    on_disk = ", ".join(f"{name} ({verdict(known, name) or 'not judged'})" for name in releases(install_dir))
    raise LoopError(
        f"there is no proven release to go back to in {install_dir}; there are: {on_disk or 'none'};"
        " an apply with engineering_loop_version activates one deliberately"
    )


# --- switching, remembering, forgetting ---------------------------------------------------


def switch(install_dir: str, sha: str) -> None:
    """Point ``current`` elsewhere in one rename: whoever looks sees the old release or the new one."""
    active(install_dir)  # refuses where something that is not ours stands in the way
    link = os.path.join(install_dir, ".current.new")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(link)
    try:
        os.symlink(f"releases/{sha}", link)
        os.rename(link, os.path.join(install_dir, "current"))
    except OSError as error:
        raise LoopError(f"{install_dir}/current cannot be switched: {error.strerror}; it is as it was") from error
    sync_directory(install_dir)


def remember(install_dir: str, sha: str, by: str, left: str | None) -> None:
    """Write down that ``sha`` becomes active, by ``version`` or ``previous``, in the place of ``left``."""
    with flocked(os.path.join(install_dir, ".ledger.lock")):
        known = ledger(install_dir)
        known["history"] = [*known["history"], {"sha": sha, "at": utc_now(), "by": by, "left": left}][-HISTORY:]
        _save(install_dir, known)


def _save(install_dir: str, known: Json) -> None:
    content = json.dumps(known, indent=2, sort_keys=True) + "\n"
    write_atomic(os.path.join(install_dir, LEDGER), content.encode(), mode=0o644)


def verdict(known: Json, sha: str) -> str:
    """How the ledger has a release marked, one of ``VERDICTS``; empty where nobody has judged it."""
    return str(known["marks"].get(sha, {}).get("verdict", ""))


def recover(install_dir: str, *, check: bool = False) -> bool:
    """Clear what killed runs left. A release put aside for a build that never ended comes back. True if any."""
    directory = os.path.join(install_dir, "releases")
    cleared = False
    for parent in (install_dir, directory):
        for name in os.listdir(parent) if os.path.isdir(parent) else []:
            path = os.path.join(parent, name)
            release = parent == directory and re.fullmatch(r"[0-9a-f]{40}", name)
            if (release and not record(install_dir, name)) or name.startswith(".trash-") or name == ".current.new":
                cleared = True
                if not check:
                    discard(path)
            elif release and not check:
                _tidy(path)
    with contextlib.suppress(OSError):
        sha = os.path.basename(os.readlink(os.path.join(install_dir, "current")))
        for _number, name in reversed(aside(install_dir)):
            if name.startswith(f".damaged-{sha}-") and not os.path.lexists(path_of(install_dir, sha)):
                cleared = True
                if check:
                    break
                os.rename(os.path.join(directory, name), path_of(install_dir, sha))
    return cleared


def _tidy(path: str) -> None:
    """End what `write_record` may have been killed in."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(path, f".{RECORD}.new"))
    if stat.S_IMODE(os.lstat(path).st_mode) == 0o755:
        os.chmod(path, 0o555)


def prunable(wanted: Wanted, sha: str, before: str | None) -> list[str]:
    """The releases beyond ``keep``: never the active one, the one before it, or one to go back to."""
    install_dir = wanted.install_dir
    known = ledger(install_dir)
    order = [entry["sha"] for entry in reversed(known["history"])]
    newest = [name for name in dict.fromkeys([sha, *order]) if name != sha]
    proven = [name for name in newest if verdict(known, name) == "proven"][:1]
    kept = [sha, before or (newest or [""])[0], *proven, last_proven(install_dir)]
    kept = list(dict.fromkeys(name for name in kept if name))
    # The rest by activation, newest first; those that never were activated go first.
    rest = sorted(
        (name for name in releases(install_dir) if name not in kept),
        key=lambda name: order.index(name) if name in order else len(order),
    )
    return rest[max(wanted.keep - len(kept), 0) :]


def prune(wanted: Wanted, sha: str) -> list[str]:
    """Remove what is ``prunable`` now that ``sha`` is active, and old copies; none while a cycle runs."""
    if cycle_in_progress(wanted.run_lock, wanted.unit):
        return []  # it may have been started from any of them
    gone = prunable(wanted, sha, None)
    for name in gone:
        discard(path_of(wanted.install_dir, name))
    for _number, name in aside(wanted.install_dir)[: -max(wanted.keep, 1)]:
        discard(path_of(wanted.install_dir, name))
    return gone


def aside(install_dir: str) -> list[tuple[int, str]]:
    """The copies that were put aside, oldest first: by number, as the clock may have been set back between two."""
    found = (re.fullmatch(r"\.damaged-[0-9a-f]{40}-(\d+)", name) for name in os.listdir(path_of(install_dir, "")))
    return sorted((int(match[1]), match[0]) for match in found if match)


# --- small things -------------------------------------------------------------------------


def path_of(install_dir: str, sha: str) -> str:
    """Where a release stands, or would."""
    return os.path.join(install_dir, "releases", sha)


def _names(install_dir: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(path_of(install_dir, "")) if re.fullmatch(r"[0-9a-f]{40}", name))
    except (FileNotFoundError, NotADirectoryError):
        return []
