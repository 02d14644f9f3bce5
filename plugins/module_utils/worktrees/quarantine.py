# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the healer takes out of the way: moved whole, described, restored, and let go after a time.

One quarantined thing has one id. Its parts are ``<quarantine>/<id>/tree`` (the directory or file as
it stood), ``<quarantine>/<id>/manifest.json``, ``<git dir>/loop-quarantine/<id>/…`` (what lay inside
the repository's git directory, under the same relative path) and ``refs/loop-salvage/<id>/…`` (every
commit that would have become unreachable). Nothing is ever copied: a part moves by one ``rename``.
"""

from __future__ import annotations

import calendar
import contextlib
import errno
import json
import os
import pwd
import re
import secrets
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..base.clock import stamp
from ..base.errors import Denied, LoopError
from ..base.files import alone_in, inside, lstat_of, remove_tree, size_of, write_atomic
from ..base.untrusted import opened, parse, read, show, shown
from ..git.command import rows
from ..git.locks import lock_holder
from ..git.repository import (
    OBJECT,
    Repo,
    check_branch,
    check_path,
    commits,
    files_below,
    filters_off,
    open_repo,
    read_small,
    refs_below,
)
from ..git.worktree_admin import Admin, admins_of, check_outside, last_commit, read_admin
from ..host.processes import check_run_lock, processes
from ..host.users import as_user, name_of, whose

SALVAGE = "refs/loop-salvage"
HELD = "loop-quarantine"
MARK = "quarantined-as"  # in an admin directory: the id that a pass gave it
ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}-\d+")
LOCK_SECONDS = 120.0
DEEPEST = 200


def new_id(number: int = 0) -> str:
    """A name that sorts by time and that no other pass uses."""
    return f"{stamp()}-{secrets.token_hex(4)}-{number}"


# --- moving -----------------------------------------------------------------------------------


def move(source: str, target: str) -> None:
    """Rename ``source`` to ``target`` (which must be free), or raise: never a copy, never half.

    Raises Denied where another user's ownership forbids it, LoopError for everything else.
    """
    try:
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        if os.path.lexists(target):
            raise LoopError(f"{target} is taken: {source} stays where it is")
        _rename(source, target)
    except PermissionError as error:
        if error.errno == errno.EPERM and os.geteuid() == 0:
            raise LoopError(f"{source} cannot be moved, not even by root: is it immutable (lsattr)?") from error
        raise Denied(source, target) from error
    except OSError as error:
        raise LoopError(_why_not(source, target, error)) from error


def _rename(source: str, target: str) -> None:
    try:
        os.rename(source, target)
    except PermissionError:
        # A directory that changes its parent must be writable itself: its '..' changes.
        status = os.lstat(source)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o700 == 0o700:
            raise
        os.chmod(source, status.st_mode | 0o700)
        try:
            os.rename(source, target)
        except OSError:
            os.chmod(source, stat.S_IMODE(status.st_mode))
            raise
        os.chmod(target, stat.S_IMODE(status.st_mode))


def standing(path: str) -> str:
    """The nearest directory at or above ``path`` that exists."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def check_apart(path: str, root: str, quarantine: str) -> None:
    """LoopError where a worktree's ``path``, its repository and the quarantine are not beside each other."""
    if root and (inside(root, path) or inside(path, root)):
        raise LoopError(f"path {path} and the repository {root} lie one inside the other: choose a place beside it")
    if inside(quarantine, path) or inside(path, quarantine):
        raise LoopError(f"path {path} and the quarantine {quarantine} lie one inside the other")


def hold(repo: Repo, name: str, places: Iterable[str]) -> None:
    """Move files of the git directory aside, to the same relative place below the id ``name``."""
    for place in places:
        if os.path.lexists(place):
            target = f"{repo.common}/{HELD}/{name}/{os.path.relpath(place, repo.common)}"
            while os.path.lexists(target):
                target += "~"
            move(place, target)


def unlock(repo: Repo, name: str) -> None:
    """Drop what a killed pass left of its locks on the salvage refs of the id ``name``: nobody else makes them."""
    for lock in files_below(f"{repo.common}/{SALVAGE}/{name}"):
        if lock.endswith(".lock"):
            holder = lock_holder(lock, repo, processes())
            if holder:
                raise LoopError(f"{lock} is held by {holder}: wait for it to end")
            os.unlink(lock)


def _why_not(source: str, target: str, error: OSError) -> str:
    if error.errno == errno.EXDEV:
        return other_file_system(source, os.path.dirname(target))
    if error.errno == errno.EBUSY:
        return f"{source} is a mount point: unmount it first"
    return f"{source} cannot be moved to {target}: {error.strerror}"


def mounts_below(path: str) -> list[str]:
    """What is mounted below ``path``: a rename takes it along, but whoever deletes must not go there."""
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    places = (re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), line.split(b" ")[4]) for line in lines)
    return [place for place in map(os.fsdecode, places) if place.startswith(f"{path}/")]


def other_file_system(source: str, quarantine: str) -> str:
    """The sentence that says what a copy would cost."""
    return (
        f"{source} and the quarantine {quarantine} are on different file systems: it would have to copy "
        f"{size_of(source)} bytes; name a quarantine on the file system of {source}"
    )


# --- as whom ----------------------------------------------------------------------------------


def as_owner(repos: Sequence[str], places: Sequence[str], work: Callable[[list[dict[str, Any]]], Any]) -> Any:
    """Run ``work(done)`` as the user who owns ``repos``; where that user may not move a thing, root moves it.

    ``work`` appends to ``done`` what it quarantined, so that nothing goes unreported when it has to
    start again after a root step. ``places``, which the caller named, are the directories below which root may act;
    none of them comes out of a manifest. Root's own repositories are worked in only where all of them are root's.
    """
    uid = _owner(repos)
    if os.geteuid() not in (0, uid):
        raise LoopError(f"{repos[0]} belongs to {name_of(uid)}: run this as {name_of(uid)} or as root")
    for place in places if uid == 0 else ():
        if whose(standing(place))[1] != 0:
            raise LoopError(f"{place} is not root's, {repos[0]} is: root works in its own places only")
    done: list[dict[str, Any]] = []

    def child() -> dict[str, Any]:
        mine: list[dict[str, Any]] = []
        try:
            return {"result": work(mine), "done": mine}
        except Denied as denied:
            return {"denied": [denied.source, denied.target], "done": mine}
        except OSError as error:
            raise LoopError(f"{error.filename or repos[0]}: {error.strerror}; what was done so far is kept") from error

    seen: list[list[str]] = []
    while True:
        answer = child() if uid == os.geteuid() else as_user(name_of(uid), child)
        known = {entry["manifest"] for entry in answer["done"]}
        done = [entry for entry in done if entry["manifest"] not in known and _happened(entry)]
        if "denied" not in answer:
            return {**answer["result"], "quarantined": done + answer["done"]}
        done += answer["done"]
        source, target = answer["denied"]
        if os.geteuid() != 0:
            raise LoopError(needs_root(source))
        if uid == 0 or source in [pair[0] for pair in seen]:
            raise LoopError(
                f"{source} cannot be moved, not even with root's help: look who owns what is in it (ls -la)"
            )
        seen.append(answer["denied"])
        _root_step(source, target, uid, places)


def _happened(entry: dict[str, Any]) -> bool:
    """Did a pass that had to start again get as far as moving this thing?"""
    if entry["to"].endswith("/tree"):
        return os.path.lexists(entry["to"])
    return entry["from"].startswith("/") and not os.path.lexists(entry["from"])


def _owner(repos: Sequence[str]) -> int:
    owners = {}
    for repo in repos:
        owners[whose(repo)[1]] = repo
        inner = lstat_of(f"{repo}/.git")
        if inner and inner.st_uid != 0 and whose(repo)[1] == 0 and os.geteuid() == 0:
            owners[inner.st_uid] = f"{repo}/.git"
    if len(owners) != 1:
        raise LoopError(f"repositories of different owners in one call: {', '.join(sorted(owners.values()))}")
    return next(iter(owners))


def needs_root(source: str) -> str:
    """The sentence for what this user may not move."""
    try:
        owner = name_of(os.lstat(source).st_uid)
    except (OSError, LoopError):
        owner = "another user"
    if owner == name_of(os.geteuid()):
        owner = f"{owner}, but something in or above it does not"
    return f"{source} belongs to {owner} and {name_of(os.geteuid())} may not move it: run the heal as root"


def _root_step(source: str, target: str, uid: int, places: Sequence[str]) -> None:
    """As root, without git and without following any symlink: make way for the user ``uid``.

    Directories that root left behind below the user's own are given to the user (a directory
    cannot be hard-linked or forged, a file could be); the thing itself is renamed as it is.
    """
    for place in [source, target] if target else [source]:
        if not any(inside(place, each) for each in places):
            raise LoopError(f"{place} lies outside of what root may touch here")
    gid = pwd.getpwuid(uid).pw_gid
    if not target:
        if mounts_below(source):
            raise LoopError(f"{mounts_below(source)[0]} is mounted in {source}: unmount it first")
        with opened(source, each=_giver(uid, gid)) as top:
            _check_given(top, source, uid)
            _give_below(top, uid, gid)
        return
    before, after = os.path.dirname(source), os.path.dirname(target)
    with opened(before, each=_giver(uid, gid)) as old, opened(after, each=_giver(uid, gid)) as new:
        _check_given(old, before, uid)
        _check_given(new, after, uid)
        try:
            owner = os.stat(os.path.basename(source), dir_fd=old, follow_symlinks=False).st_uid
            if owner not in (0, uid):
                raise LoopError(f"{source} belongs to uid {owner}: give it to {name_of(uid)} (chown)")
            os.rename(os.path.basename(source), os.path.basename(target), src_dir_fd=old, dst_dir_fd=new)
        except OSError as error:
            raise LoopError(_why_not(source, target, error)) from error


def _check_given(descriptor: int, path: str, uid: int) -> None:
    if os.fstat(descriptor).st_uid != uid:
        raise LoopError(f"{path} does not belong to {name_of(uid)}: choose another place")


def _giver(uid: int, gid: int) -> Callable[[int], None]:
    """For each directory on a way: root's own go to the user as soon as one of the user's has been passed."""
    below = False

    def each(descriptor: int) -> None:
        nonlocal below
        owner = os.fstat(descriptor).st_uid
        if below and owner == 0:
            os.fchown(descriptor, uid, gid)
        below = below or owner == uid

    return each


def _give_below(top: int, uid: int, gid: int) -> None:
    """Give root's directories below the open directory ``top`` to the user, each by its own descriptor."""
    waiting = [(os.dup(top), os.listdir(top))]
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    device = os.fstat(top).st_dev
    try:
        while waiting:
            descriptor, names = waiting[-1]
            if not names or len(waiting) > DEEPEST:  # deeper is nothing of git's or ours
                os.close(waiting.pop()[0])
                continue
            with contextlib.suppress(OSError):  # a file, or gone
                inner = os.open(names.pop(), flags, dir_fd=descriptor)
                status = os.fstat(inner)
                waiting.append((inner, os.listdir(inner) if status.st_dev == device else []))
                if status.st_uid == 0 and status.st_dev == device:
                    os.fchown(inner, uid, gid)
    finally:
        for descriptor, _names in waiting:
            os.close(descriptor)


@contextlib.contextmanager
def alone(places: Sequence[str], seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the healers' lock, which is on the directory, in each of ``places``: two heals of one take turns."""
    with contextlib.ExitStack() as stack:
        for place in sorted(set(places)):
            stack.enter_context(alone_in(place, seconds))
        yield


# --- manifests --------------------------------------------------------------------------------


def write_manifest(directory: str, manifest: dict[str, Any]) -> str:
    """Describe the quarantined thing in ``directory``; what an earlier, cut-off pass knew stays known."""
    path = os.path.join(directory, "manifest.json")
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        earlier = load_manifest(directory)
        if "damaged" in earlier:
            earlier = {}
            if os.path.isdir(path) and not os.path.islink(path):
                move(path, f"{path}.{secrets.token_hex(4)}")
        whole = {**earlier, **{key: value for key, value in manifest.items() if value or key not in earlier}}
        write_atomic(path, json.dumps(whole, indent=1).encode(), mode=0o600)
    except PermissionError as error:
        raise Denied(directory, "") from error
    except OSError as error:
        raise LoopError(f"the quarantine {directory} cannot be written: {error.strerror}") from error
    except LoopError as error:
        if isinstance(error.__cause__, PermissionError):
            raise Denied(directory, "") from error
        raise LoopError(f"the quarantine {directory} cannot be written: {error}") from error
    return path


def load_manifest(directory: str) -> dict[str, Any]:
    """The manifest in ``directory``, whose every known field is of its kind; empty where there is none.

    Where there is one that is not so it is ``{"damaged": why}``. It is input all the same: whoever could
    write to the quarantine may have said anything in it.
    """
    try:
        content = read(os.path.join(directory, "manifest.json"), os.path.dirname(directory))
        if content is None:
            return {}
        found = {key: value for key, value in parse(content, "the manifest").items() if key != "damaged"}
        wrong = next((key for key, good in FIELDS.items() if key in found and not good(found[key])), "")
        if wrong:
            raise LoopError(f"the manifest has a wrong {wrong}")
    except LoopError as error:
        return {"damaged": str(error)}
    return found


def _text(value: object) -> bool:
    """A text that can be a part of a path: whole bytes, and none of them 0."""
    if not isinstance(value, str) or "\0" in value:
        return False
    with contextlib.suppress(UnicodeEncodeError):
        return len(os.fsencode(value)) < 4096
    return False


def _place(value: object) -> bool:
    return value == "" or (
        isinstance(value, str) and _text(value) and value[0] == "/" and os.path.normpath(value) == value
    )


def _name(value: object) -> bool:
    return value == "" or (isinstance(value, str) and _text(value) and not {"", ".", ".."} & set(value.split("/")))


def _object(value: object) -> bool:
    return value == "" or (isinstance(value, str) and OBJECT.fullmatch(value) is not None)


def _restored(value: object) -> bool:
    known = {"branch": _name, "head": _object, "registered": lambda each: isinstance(each, bool), "inode": _number}
    return isinstance(value, dict) and set(value) == set(known) and all(known[key](value[key]) for key in known)


def _number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


FIELDS: dict[str, Callable[[object], bool]] = {
    **dict.fromkeys(("id", "what", "why", "when", "from", "change_id", "restore"), _text),
    **dict.fromkeys(("path", "repo", "restored_to"), _place),
    **dict.fromkeys(("branch", "restored_as"), _name),
    **dict.fromkeys(("tip", "head"), _object),
    "admin": lambda value: _name(value) and "/" not in str(value),
    "restored": _restored,
    "size": lambda value: value is None or _number(value),
}


def listing(quarantine: str) -> list[dict[str, Any]]:
    """Every quarantined thing below ``quarantine``, oldest first, for people: its manifest with ``id`` and ``to``.

    One whose manifest is missing or cannot be believed is ``damaged``, and ``why`` says what is wrong with it.
    """
    found = []
    for thing in _things(quarantine):
        if "what" not in thing:
            why = thing.get("damaged", "it has no manifest")
            thing = {"what": "damaged", "from": "", "why": why, **{key: thing[key] for key in ("id", "to")}}
        found.append(shown(thing))
    return found


def _things(quarantine: str) -> list[dict[str, Any]]:
    try:
        names = sorted(name for name in os.listdir(quarantine) if ID.fullmatch(name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LoopError(f"the quarantine {quarantine} cannot be read: {error.strerror}") from error
    places = [os.path.join(quarantine, name) for name in names]
    return [{**load_manifest(place), "id": os.path.basename(place), "to": place} for place in places]


# --- restoring --------------------------------------------------------------------------------


def restore(
    quarantine: str,
    what: str,
    repo: str | None = None,
    path: str | None = None,
    branch: str | None = None,
    run_lock: str | None = None,
    check: bool = False,
    within: Sequence[str] = (),
) -> dict[str, Any]:
    """Put the quarantined thing ``what`` (its id, or one of its salvage refs) back, byte for byte.

    The tree returns to ``path``: by default to where it stood if that is free, else beside it with
    the id in its name. The branch gets its old name if that is free, else ``loop-restored/<id>/<name>``;
    HEAD, index, reflog and a rebase in progress are as they were. A branch that had no tree gets a
    new worktree. ``repo`` is needed only where the manifest does not name it. What was restored and
    still stands where it was put is unchanged.

    What the manifest says is input: a place that it names must lie beside the quarantine or in one of ``within``, or
    the caller names it, and a repository that it names must belong to the quarantine's owner (and lie in one of
    ``within``, where any are given). Root acts in what the caller named only.

    Returns ``id path branch head registered plan[] changed``: ``registered`` is whether git knows it
    as a worktree (what no repository knew before is only moved back).
    """
    found = ID.search(what)
    if not found:
        raise LoopError(f"{what!r} is neither the id of a quarantined thing nor a ref below {SALVAGE}/")
    check_path(quarantine, "quarantine")
    name = found[0]
    if os.path.lexists(quarantine):
        quarantine = whose(quarantine)[0]
    place = os.path.join(quarantine, name)
    manifest = load_manifest(place)
    if repo and not os.path.isabs(repo):
        raise LoopError(f"repo {repo!r} must be absolute")
    others = [whose(each)[0] for each in within]
    root = whose(repo)[0] if repo else _told_repo(manifest, name, others)
    if not root and not manifest.get("tree"):
        lacks = f"a damaged manifest ({manifest['damaged']})" if "damaged" in manifest else "no manifest"
        raise LoopError(f"{place} has {lacks}: name the repository that holds {SALVAGE}/{name}")
    path = check_path(path) if path else None
    if branch:
        check_branch(branch)
    owners = [root, quarantine] if root else [quarantine]
    named = [os.path.dirname(quarantine), quarantine, *others]
    places = [*named, *([root] if repo else []), *([os.path.dirname(path)] if path else [])]
    uid = _owner(owners)  # whoever may write a manifest must not choose as whom it is acted on
    standing_there = _restored_before(manifest, named, uid)
    if standing_there:
        if path not in (None, standing_there["path"]) or branch not in (None, standing_there["branch"]):
            raise LoopError(f"{name} was restored before, it stands at {show(standing_there['path'])}")
        return {"id": name, **shown(standing_there)}
    if path:
        _check_aim(path, root, quarantine, os.path.join(place, "tree"))
    check_run_lock(run_lock)

    def work(done: list[dict[str, Any]]) -> dict[str, Any]:
        repository = open_repo(root) if root else None
        with alone([repository.common if repository else quarantine]):
            told = _told_again(place, manifest, named if path is None else None, uid)
            if repository:
                check_outside(path or told.get("path") or "/", admins_of(repository))
                answer = _restore(repository, told, place, path, branch, check)
            else:
                answer = _put_tree_back(told, place, path or _free_place(told, name), check)
            if not check:
                kept = {key: answer[key] for key in ("branch", "head", "registered")}
                write_manifest(place, {"restored": {**kept, "inode": os.lstat(answer["path"]).st_ino}})
        return answer

    answer: dict[str, Any] = as_owner(owners, places, work)
    answer.pop("quarantined")
    return {"id": name, **shown(answer)}


def _told_again(place: str, before: dict[str, Any], named: Sequence[str] | None, uid: int) -> dict[str, Any]:
    """The manifest, which a step of root's may have to be gone on from, without places that it may not choose."""
    told = load_manifest(place)
    if told.get("restored") and told.get("restored_to") == before.get("restored_to"):
        # whole, once, and taken away since: only its commits are left to give
        told = {key: value for key, value in told.items() if key not in ("restored_to", "restored_as")}
    if named is None:  # the caller has chosen one
        return {key: value for key, value in told.items() if key not in ("path", "restored_to")}
    refused = next(
        (told[key] for key in ("path", "restored_to") if told.get(key) and not _admitted(told[key], named, uid)), ""
    )
    if refused:
        raise LoopError(
            f"{place}/manifest.json says {show(refused)}, which does not lie in {' or '.join(named)}: name a path"
        )
    return told


def _told_repo(manifest: dict[str, Any], name: str, others: Sequence[str]) -> str:
    """The repository that a manifest names, if it names one, where that is no link and lies in one of ``others``."""
    told: str = manifest.get("repo", "")
    if told and (whose(told)[0] != told or (others and not any(inside(told, each) for each in others))):
        where = f"outside of {', '.join(others)}" if others else "behind a link"
        raise LoopError(f"the manifest of {name} names a repository {where}: name the repository yourself")
    return told


def _admitted(path: str, named: Sequence[str], uid: int) -> bool:
    """May a thing go to this place that a manifest names: no link, in a place of the caller's, and the user's?"""
    above = standing(os.path.dirname(path))
    if os.path.realpath(above) != above or os.lstat(above).st_uid not in (0, uid):
        return False
    return any(each != "/" and inside(path, each) and path != each for each in named)


def _check_aim(path: str, root: str, quarantine: str, tree: str) -> None:
    """LoopError where the tree cannot go to ``path``."""
    if os.path.lexists(path):
        raise LoopError(f"{path} is taken: choose another path")
    check_apart(path, root, quarantine)
    if os.path.lexists(tree) and os.lstat(tree).st_dev != os.stat(standing(os.path.dirname(path))).st_dev:
        raise LoopError(
            f"{path} is on another file system than {tree}: it would have to copy {size_of(tree)} bytes; "
            f"choose a path on the file system of {quarantine}"
        )


def _restored_before(manifest: dict[str, Any], named: Sequence[str], uid: int) -> dict[str, Any] | None:
    """The answer of the restore that put the thing where it still stands; None where it has to be done."""
    known, path = dict(manifest.get("restored") or {}), manifest.get("restored_to") or ""
    if not known or not path or not _admitted(path, named, uid) or not os.path.lexists(path):
        return None
    if os.lstat(path).st_ino != known.pop("inode"):
        return None
    return {"path": path, **known, "plan": [], "changed": False}


def _free_place(manifest: dict[str, Any], name: str) -> str:
    """Where the thing goes: on after a restore that was cut off, back to its place, or beside it."""
    places = [manifest.get("restored_to") or "", manifest.get("path") or ""]
    free = next((place for place in places if place and not os.path.lexists(place)), "")
    if not free and not places[1]:
        raise LoopError(f"the manifest of {name} does not say where it stood: name a path")
    return free or f"{places[1]}.{name}"


def _put_tree_back(manifest: dict[str, Any], place: str, path: str, check: bool) -> dict[str, Any]:
    tree = os.path.join(place, "tree")
    if not os.path.lexists(tree):
        raise LoopError(f"{tree} is gone: it was restored to {manifest.get('restored_to') or 'nowhere'} or purged")
    if not check:
        write_manifest(place, {"restored_to": path})
        move(tree, path)
        link = (read_small(f"{path}/.git") or "").strip()
        admin = os.path.join(path, link.removeprefix("gitdir:").strip())
        if link.startswith("gitdir:") and os.path.isdir(admin) and read_admin(admin).target != path:
            # It would speak for another worktree's branch and index.
            move(f"{path}/.git", os.path.join(place, "dot-git"))
    plan = [f"move {tree} to {path}"]
    return {"path": path, "branch": "", "head": "", "registered": False, "plan": plan, "changed": True}


def _restore(
    repo: Repo, manifest: dict[str, Any], place: str, path: str | None, branch: str | None, check: bool
) -> dict[str, Any]:
    name = os.path.basename(place)
    tree, held = os.path.join(place, "tree"), f"{repo.common}/{HELD}/{name}"
    admin = f"{held}/worktrees/{manifest.get('admin') or '-'}"
    halfway = manifest.get("restored_to") if not os.path.lexists(tree) else None
    if halfway and os.path.isdir(f"{halfway}/.git"):
        raise LoopError(f"{show(halfway)} is a repository of its own and not what was restored as {name}: name a path")
    has_tree, has_admin = os.path.lexists(tree) or bool(halfway and os.path.lexists(halfway)), os.path.isdir(admin)
    old, tip = _branch_to_restore(repo, manifest, name)
    if has_admin and old and not tip:  # its branch was broken, or somebody else's: it may have moved on
        last = last_commit(read_admin(admin))
        now_at, known = commits(repo, [f"refs/heads/{old}", last or "-"])
        tip = known if now_at != known else ""
    if not has_tree and not has_admin and not tip:
        raise LoopError(f"nothing of {name} is left in {place} or {repo.common}: it was restored or purged")
    if has_tree and not has_admin and (not tip or os.path.islink(tree) or not os.path.isdir(tree)):
        return _put_tree_back(manifest, place, path or _free_place(manifest, name), check)
    path = path or (halfway if halfway and has_tree and has_admin else None) or _free_place(manifest, name)
    # A branch of somebody else's was left where it was, and so is the HEAD that names it.
    new = branch or manifest.get("restored_as") or (_free_branch(repo, old, name) if tip else old) if old else ""
    plan = [f"branch {new} at {tip}"] if new and tip else []
    plan.append(f"move {tree} to {path}" if has_tree else f"add worktree {path}")
    answer = {
        "path": path,
        "branch": new,
        "head": tip or manifest.get("head", ""),
        "registered": True,
        "plan": plan,
        "changed": True,
    }
    if check:
        return answer
    write_manifest(place, {**manifest, "restored_to": path, "restored_as": new})
    if new and tip and new not in refs_below(repo, [new]):
        repo.git(["update-ref", f"refs/heads/{new}", tip, "0" * len(tip)])
        log = f"{held}/logs/refs/heads/{old}"
        if os.path.isfile(log):
            os.makedirs(os.path.dirname(f"{repo.common}/logs/refs/heads/{new}"), exist_ok=True)
            os.rename(log, f"{repo.common}/logs/refs/heads/{new}")
    if has_admin:
        if os.path.lexists(tree):
            move(tree, path)
        _register(repo, admin, place, path, (old, new), has_tree, tip)
    else:
        _register_anew(repo, tree if has_tree else "", place, path, new or tip)
    return answer


def _branch_to_restore(repo: Repo, manifest: dict[str, Any], name: str) -> tuple[str, str]:
    """The branch's name and commit: from the manifest, or from the salvage refs alone."""
    prefix = f"{SALVAGE}/{name}/"
    _status, out, _err = repo.git(["for-each-ref", "--format=%(objectname) %(refname)", prefix])
    refs = {ref.removeprefix(prefix): commit for commit, ref in (row.split(" ", 1) for row in rows(out))}
    for ref, commit in refs.items():
        if ref.startswith("heads/"):
            return ref.removeprefix("heads/"), commit
    branch, tip = manifest.get("branch", ""), manifest.get("tip", "")
    if tip and commits(repo, [tip]) == [tip]:
        return branch, tip
    return branch, "" if manifest.get("head") else refs.get("HEAD", "")


def _free_branch(repo: Repo, name: str, thing: str) -> str:
    """``name`` where no branch is called so, above it or below it; else a name of the restore's own."""
    parts = name.split("/")
    ways = ["/".join(parts[:count]) for count in range(1, len(parts))]
    above = any(commits(repo, [f"refs/heads/{way}" for way in ways]))
    return f"loop-restored/{thing}/{name}" if above or refs_below(repo, [name]) else name


def _register(repo: Repo, admin: str, place: str, path: str, branch: tuple[str, str], has_tree: bool, tip: str) -> None:
    """Give the tree at ``path`` its admin directory back; only what names the place or the branch changes."""
    home = f"{repo.common}/worktrees/{os.path.basename(admin)}"
    final = next(each for each in [home, *(f"{home}-{count}" for count in range(1, 9999))] if not os.path.lexists(each))
    known, (old, new) = read_admin(admin), branch
    _mend(admin, known, old, new, tip)
    if not has_tree:  # it was gone before: the files come back from the branch, the index as it was
        _register_anew(repo, "", place, path, new or tip or known.head)
        fresh = (read_small(f"{path}/.git") or "").strip().removeprefix("gitdir: ")
        if os.path.isfile(f"{admin}/index"):
            os.rename(f"{admin}/index", f"{fresh}/index")
        return
    was = (read_small(f"{admin}/gitdir") or "").strip().removesuffix("/.git")
    _content(f"{admin}/gitdir", f"{path}/.git\n")
    if (read_small(f"{path}/.git") or "").strip() != f"gitdir: {final}":
        if os.path.lexists(f"{path}/.git"):
            move(f"{path}/.git", os.path.join(place, "dot-git"))
        write_atomic(f"{path}/.git", os.fsencode(f"gitdir: {final}\n"))
    if (was, home) != (path, final):
        _move_submodules(repo, admin, (home, was), (final, path))
    move(admin, final)


def _mend(admin: str, known: Admin, old: str, new: str, tip: str) -> None:
    """Let the admin directory name the branch as it is called now, and make whole what was broken."""
    if not (read_small(f"{admin}/commondir") or "").strip():
        _content(f"{admin}/commondir", "../..\n")
    head = (read_small(f"{admin}/HEAD") or "").strip()
    broken = not known.head and not head.startswith("ref: refs/")
    if (new != old and head == f"ref: refs/heads/{old}") or broken:
        _content(f"{admin}/HEAD", f"ref: refs/heads/{new}\n" if new else f"{tip or last_commit(known)}\n")
    for state in ("rebase-merge/head-name", "rebase-apply/head-name", "BISECT_START"):
        waiting = (read_small(f"{admin}/{state}") or "").strip()
        if new and waiting.removeprefix("refs/heads/") == old:
            _content(f"{admin}/{state}", waiting.removesuffix(old) + f"{new}\n")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{admin}/{MARK}")


def _move_submodules(repo: Repo, admin: str, before: tuple[str, str], after: tuple[str, str]) -> None:
    """Submodules name their git directory and their tree by relative paths: write both anew."""
    for config in files_below(f"{admin}/modules"):
        directory, name = os.path.split(config)
        if name != "config" or not os.path.isfile(f"{directory}/HEAD"):
            continue
        part = os.path.relpath(directory, admin)
        _status, value, _err = repo.git(["config", "--file", config, "core.worktree"], ok=(0, 1))
        tree = os.path.relpath(os.path.normpath(os.path.join(before[0], part, value.strip())), before[1])
        link = os.path.join(after[1], tree, ".git")
        if value.strip() and not tree.startswith("..") and os.path.isfile(link) and not os.path.islink(link):
            repo.git(["config", "--file", config, "core.worktree", os.path.join(after[1], tree)])
            _content(link, f"gitdir: {after[0]}/{part}\n")


def _content(path: str, text: str) -> None:
    if read_small(path) != text:
        if os.path.lexists(path) and not os.path.isfile(path):
            move(path, f"{path}.found")
        write_atomic(path, os.fsencode(text))


def _register_anew(repo: Repo, tree: str, place: str, path: str, commit: str) -> None:
    """A new admin directory for ``tree`` (or for a new checkout) on ``commit`` or a branch."""
    if not commit:
        raise LoopError(f"no commit of it is left: only its files can be had, in {tree}")
    os.makedirs(os.path.dirname(path), mode=0o750, exist_ok=True)
    how = ["--no-checkout"] if tree else []
    repo.git(["worktree", "add", "--quiet", *how, "--", path, commit], config=filters_off(repo))
    if not tree:
        return
    link = read_small(f"{path}/.git") or ""
    os.unlink(f"{path}/.git")
    os.rmdir(path)
    move(tree, path)
    if os.path.lexists(f"{path}/.git"):
        move(f"{path}/.git", os.path.join(place, "dot-git"))
    _content(f"{path}/.git", link)
    where = {"GIT_DIR": link.strip().removeprefix("gitdir: "), "GIT_WORK_TREE": path}
    repo.git(["read-tree", "HEAD"], environment=where)


# --- retention --------------------------------------------------------------------------------


def purge(
    quarantine: str,
    age: float | None = None,
    size: float | None = None,
    min_age: float | None = 86400,
    check: bool = False,
    within: Sequence[str] = (),
) -> dict[str, Any]:
    """Let go, for good, what is older than ``age`` seconds, then the oldest while the whole exceeds ``size`` bytes.

    Never what is younger than ``min_age`` seconds. Runs as the quarantine's owner. Of a repository that a manifest
    names only what has the thing's id goes, and only if it is the owner's (and lies in one of ``within``, if given).
    Returns ``purged[]{id,from,size,age,why} stuck[]{id,from,why} left size``: ``stuck`` would have gone, but cannot.
    """
    if not os.path.isdir(quarantine):
        return {"purged": [], "stuck": [], "left": 0, "size": 0}
    quarantine, root = whose(quarantine)[0], os.geteuid() == 0
    places = [whose(each)[0] for each in within]

    def work(done: list[dict[str, Any]]) -> dict[str, Any]:
        with alone([quarantine]):
            return _purge(quarantine, age, size, min_age or 0, check, root, places)

    answer: dict[str, Any] = as_owner([quarantine], [quarantine], work)
    answer.pop("quarantined")
    for gone in [each for each in answer["purged"] if each.pop("root") and not check]:
        try:
            _delete_as_root(quarantine, gone["id"])
        except LoopError as error:
            answer["purged"].remove(gone)
            answer["stuck"].append({"id": gone["id"], "from": gone["from"], "why": str(error)})
    return shown(answer)  # type: ignore[no-any-return]


def _purge(
    quarantine: str,
    age: float | None,
    size: float | None,
    min_age: float,
    check: bool,
    root: bool,
    places: Sequence[str],
) -> dict[str, Any]:
    things = _things(quarantine)
    for thing in things:
        thing["age"] = time.time() - _when(thing["id"])
        known = thing.get("size")
        thing["in"] = _repo_of(thing, places)
        thing["size"] = size_of(thing["to"]) + (size_of(_held(thing)) if thing["in"] else 0)
        if known is None and "what" in thing and not check:
            with contextlib.suppress(LoopError, Denied):  # a full disk is what this is to help with
                write_manifest(thing["to"], {"size": thing["size"]})
    total, purged, stuck = sum(thing["size"] for thing in things), [], []
    broken: dict[str, str] = {}  # repositories in which git does not work: each is tried once
    for thing in things:
        why = "older than its time" if age is not None and thing["age"] > age else ""
        if not why and size is not None and total > size:
            why = "the quarantine is larger than allowed"
        if not why or thing["age"] < min_age:
            continue
        told = {"id": thing["id"], "from": thing.get("from", "")}
        try:
            roots = _check_ours(thing["to"], root)
            if not check:
                _let_go(thing, broken, roots)
        except (LoopError, OSError, Denied) as error:
            stuck.append({**told, "why": needs_root(error.source) if isinstance(error, Denied) else str(error)})
            continue
        total -= thing["size"]
        purged.append({**told, "size": thing["size"], "age": int(thing["age"]), "why": why, "root": roots})
    return {"purged": purged, "stuck": stuck, "left": len(things) - len(purged), "size": total}


def _when(name: str) -> int:
    """The moment in an id. (time.strptime imports more, which a child that gave root up may not be able to read.)"""
    numbers = [int(name[at : at + 2]) for at in (0, 2, 4, 6, 9, 11, 13)]
    try:
        return calendar.timegm((numbers[0] * 100 + numbers[1], *numbers[2:]))
    except ValueError:  # a month 99
        return 0


def _check_ours(place: str, root: bool) -> bool:
    """LoopError where not all of a thing can be let go: it goes whole or not at all. Whether root has to do it."""
    mounted = mounts_below(place)
    if mounted:
        raise LoopError(f"{mounted[0]} is mounted in it: unmount it first")
    if os.geteuid() == 0:
        return False
    roots = False
    for owner in _owners_below(place) - {os.geteuid()}:
        if owner:
            raise LoopError(f"something in {place} belongs to uid {owner}: give it to {name_of(os.geteuid())} (chown)")
        if not root:
            raise LoopError(f"something in {place} is root's: let root purge it (git_worktree_sweep as root)")
        roots = True
    return roots


def _owners_below(place: str) -> set[int]:
    """Whose the directories in ``place`` are (find knows no depth at which it ends)."""
    command = ["find", place, "-xdev", "-type", "d", "!", "-uid", str(os.geteuid()), "-printf", "%U\n"]
    found = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, cwd="/").stdout
    return {int(each) for each in found.split() if each.isdigit()}


def _repo_of(thing: dict[str, Any], places: Sequence[str]) -> Repo | None:
    """The repository that the manifest names, where it is one of this user's and lies where it may lie."""
    told: str = thing.get("repo", "")
    try:
        if not told or os.path.realpath(told) != told or (places and not any(inside(told, each) for each in places)):
            return None
        repo = open_repo(told)
        return repo if {os.lstat(each).st_uid for each in (told, repo.common)} == {os.geteuid()} else None
    except (LoopError, OSError):
        return None


def _held(thing: dict[str, Any]) -> str:
    return os.path.join(thing["in"].common, HELD, thing["id"])


def _let_go(thing: dict[str, Any], broken: dict[str, str], roots: bool) -> None:
    """First the refs, then what is on disk, the manifest last: cut off anywhere, the next purge goes on."""
    repo: Repo | None = thing["in"]
    if repo:
        if repo.path in broken:
            raise LoopError(broken[repo.path])
        try:
            unlock(repo, thing["id"])
            _status, out, _err = repo.git(["for-each-ref", "--format=%(refname)", f"{SALVAGE}/{thing['id']}"])
            if out:
                lines = "".join(f"delete {ref}\0\0" for ref in rows(out))
                repo.git(["update-ref", "--stdin", "-z"], stdin=os.fsencode(lines))
        except LoopError as error:
            broken[repo.path] = str(error)
            raise
        _check_way(repo.common, HELD)
        remove_tree(_held(thing))
    if not roots:  # else root does it, when all else is gone
        remove_tree(os.path.join(thing["to"], "tree"))
        remove_tree(thing["to"])


def _check_way(directory: str, name: str) -> None:
    if os.path.islink(os.path.join(directory, name)):
        raise LoopError(f"{directory}/{name} is a link: remove it")


def _delete_as_root(quarantine: str, name: str) -> None:
    """Delete what lies in the user's quarantine as root: from its open directory on, where rm follows no link."""
    if not ID.fullmatch(name):
        raise LoopError(f"{show(name)} is no id")
    with opened(quarantine) as top:
        done = subprocess.run(
            ["rm", "-rf", "--one-file-system", "--", name], cwd=f"/proc/self/fd/{top}", pass_fds=[top],
            stdin=subprocess.DEVNULL, capture_output=True, check=False,
        )  # fmt: skip
    if done.returncode:
        told = done.stderr.decode("utf-8", "surrogateescape").splitlines() or ["no message"]
        raise LoopError(f"{quarantine}/{name} cannot be removed: {show(told[0])}")
