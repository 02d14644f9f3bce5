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
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .admins import Admin, admins_of, check_outside, last_commit, read_admin
from .alive import check_run_lock, lock_holder, processes
from .errors import LoopError
from .files import alone_in, read_bytes, size_of, write_atomic
from .gitrepo import (
    Denied,
    Repo,
    check_branch,
    check_path,
    commits,
    files_below,
    filters_off,
    inside,
    open_repo,
    read_small,
    refs_below,
)
from .users import as_user

SALVAGE = "refs/loop-salvage"
HELD = "loop-quarantine"
MARK = "quarantined-as"  # in an admin directory: the id that a pass gave it
ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}-\d+")
LOCK_SECONDS = 120.0


def new_id(number: int = 0) -> str:
    """A name that sorts by time and that no other pass uses."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(4)}-{number}"


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
    start again after a root step. ``places`` are the directories below which root may act.
    """
    uid = _owner(repos)
    if os.geteuid() not in (0, uid):
        raise LoopError(f"{repos[0]} belongs to {_name(uid)}: run this as {_name(uid)} or as root")
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
        answer = child() if uid == os.geteuid() else as_user(_name(uid), child)
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
        try:
            owners[os.stat(repo).st_uid] = repo
        except OSError as error:
            raise LoopError(f"{repo} cannot be read: {error.strerror}") from error
    if len(owners) != 1:
        raise LoopError(f"repositories of different owners in one call: {', '.join(sorted(owners.values()))}")
    return next(iter(owners))


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError as error:
        raise LoopError(f"uid {uid} owns the repository but has no account on this host") from error


def needs_root(source: str) -> str:
    """The sentence for what this user may not move."""
    try:
        owner = _name(os.lstat(source).st_uid)
    except (OSError, LoopError):
        owner = "another user"
    if owner == _name(os.geteuid()):
        owner = f"{owner}, but something in or above it does not"
    return f"{source} belongs to {owner} and {_name(os.geteuid())} may not move it: run the heal as root"


def _root_step(source: str, target: str, uid: int, places: Sequence[str]) -> None:
    """As root, without git and without following any symlink: make way for the user ``uid``.

    Directories that root left behind below the user's own are given to the user (a directory
    cannot be hard-linked or forged, a file could be); the thing itself is renamed as it is.
    """
    if not any(source == place or source.startswith(place.rstrip("/") + "/") for place in places):
        raise LoopError(f"{source} belongs to another user and lies outside of what a heal may touch")
    gid = pwd.getpwuid(uid).pw_gid
    if not target:
        if mounts_below(source):
            raise LoopError(f"{mounts_below(source)[0]} is mounted in {source}: unmount it first")
        with open_directory(source, (uid, gid)) as top:
            for _root, _directories, _files, descriptor in os.fwalk(".", dir_fd=top, follow_symlinks=False):
                if os.fstat(descriptor).st_uid == 0:
                    os.fchown(descriptor, uid, gid)
        return
    with (
        open_directory(os.path.dirname(source), (uid, gid)) as old,
        open_directory(os.path.dirname(target), (uid, gid)) as new,
    ):
        if os.fstat(new).st_uid != uid:
            raise LoopError(f"{os.path.dirname(target)} does not belong to {_name(uid)}: choose another quarantine")
        try:
            os.rename(os.path.basename(source), os.path.basename(target), src_dir_fd=old, dst_dir_fd=new)
        except OSError as error:
            raise LoopError(_why_not(source, target, error)) from error


@contextlib.contextmanager
def open_directory(path: str, give_to: tuple[int, int] | None = None) -> Iterator[int]:
    """A descriptor of the directory ``path``, reached from / without following a symlink.

    ``give_to``: root's directories below one of this user's are chowned to (uid, gid) on the way.
    """
    descriptor = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        below = False
        for part in [part for part in path.split("/") if part]:
            try:
                deeper = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
            except OSError as error:
                raise LoopError(f"{path}: {part} is not a directory that can be entered ({error.strerror})") from error
            os.close(descriptor)
            descriptor = deeper
            owner = os.fstat(descriptor).st_uid
            if give_to and below and owner == 0:
                os.fchown(descriptor, *give_to)
            below = below or bool(give_to and owner == give_to[0])
        yield descriptor
    finally:
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
        earlier = load_manifest(directory) if os.path.lexists(path) else {}
        whole = {**earlier, **{key: value for key, value in manifest.items() if value or key not in earlier}}
        temporary = path + ".new"
        Path(temporary).write_text(json.dumps(whole, indent=1), encoding="utf-8")
        os.rename(temporary, path)
    except PermissionError as error:
        raise Denied(directory, "") from error
    except OSError as error:
        raise LoopError(f"the quarantine {directory} cannot be written: {error.strerror}") from error
    return path


def load_manifest(directory: str) -> dict[str, Any]:
    """The manifest in ``directory``; empty where it is missing or unreadable."""
    try:
        found = json.loads(read_bytes(os.path.join(directory, "manifest.json")) or b"{}")
    except (LoopError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def listing(quarantine: str) -> list[dict[str, Any]]:
    """Every quarantined thing below ``quarantine``, oldest first: its manifest with ``id`` and ``to``."""
    try:
        names = sorted(name for name in os.listdir(quarantine) if ID.fullmatch(name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LoopError(f"the quarantine {quarantine} cannot be read: {error.strerror}") from error
    things = []
    for name in names:
        directory = os.path.join(quarantine, name)
        things.append({**load_manifest(directory), "id": name, "to": directory})
    return things


# --- restoring --------------------------------------------------------------------------------


def restore(
    quarantine: str,
    what: str,
    repo: str | None = None,
    path: str | None = None,
    branch: str | None = None,
    run_lock: str | None = None,
    check: bool = False,
) -> dict[str, Any]:
    """Put the quarantined thing ``what`` (its id, or one of its salvage refs) back, byte for byte.

    The tree returns to ``path``: by default to where it stood if that is free, else beside it with
    the id in its name. The branch gets its old name if that is free, else ``loop-restored/<id>/<name>``;
    HEAD, index, reflog and a rebase in progress are as they were. A branch that had no tree gets a
    new worktree. ``repo`` is needed only where the manifest does not name it. What was restored and
    still stands where it was put is unchanged.

    Returns ``id path branch head registered plan[] changed``: ``registered`` is whether git knows it
    as a worktree (what no repository knew before is only moved back).
    """
    found = ID.search(what)
    if not found:
        raise LoopError(f"{what!r} is neither the id of a quarantined thing nor a ref below {SALVAGE}/")
    quarantine, name = check_path(quarantine, "quarantine"), found[0]
    place = os.path.join(quarantine, name)
    manifest = load_manifest(place)
    if repo and not os.path.isabs(repo):
        raise LoopError(f"repo {repo!r} must be absolute")
    root = os.path.realpath(repo or manifest.get("repo") or "") if repo or manifest.get("repo") else ""
    if not root and not manifest.get("tree"):
        raise LoopError(f"{place} has no manifest: name the repository that holds {SALVAGE}/{name}")
    path = check_path(path) if path else None
    if branch:
        check_branch(branch)
    standing_there = _restored_before(manifest)
    if standing_there:
        if path not in (None, standing_there["path"]) or branch not in (None, standing_there["branch"]):
            raise LoopError(f"{name} was restored before, it stands at {standing_there['path']}")
        return {"id": name, **standing_there}
    if path:
        _check_aim(path, root, quarantine, os.path.join(place, "tree"))
    check_run_lock(run_lock)

    def work(done: list[dict[str, Any]]) -> dict[str, Any]:
        opened = open_repo(root) if root else None
        with alone([opened.common if opened else quarantine]):
            told = load_manifest(place)  # again: it may go on after a step of root's
            if told.get("restored") and told.get("restored_to") == manifest.get("restored_to"):
                # whole, once, and taken away since: only its commits are left to give
                told = {key: value for key, value in told.items() if key not in ("restored_to", "restored_as")}
            if opened:
                check_outside(path or told.get("path") or "/", admins_of(opened))
                answer = _restore(opened, told, place, path, branch, check)
            else:
                answer = _put_tree_back(told, place, path or _free_place(told, name), check)
            if not check:
                kept = {key: answer[key] for key in ("branch", "head", "registered")}
                write_manifest(place, {"restored": {**kept, "inode": os.lstat(answer["path"]).st_ino}})
        return answer

    aim = os.path.dirname(path or manifest.get("path") or quarantine)
    # Whoever may write a manifest must not choose as whom it is acted on.
    owners = [root] if repo else [root or quarantine, quarantine]
    answer: dict[str, Any] = as_owner(owners, [aim, quarantine, *([root] if root else [])], work)
    answer.pop("quarantined")
    return {"id": name, **answer}


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


def _restored_before(manifest: dict[str, Any]) -> dict[str, Any] | None:
    """The answer of the restore that put the thing where it still stands; None where it has to be done."""
    known, path = manifest.get("restored"), manifest.get("restored_to") or ""
    if not isinstance(known, dict) or not os.path.lexists(path) or os.lstat(path).st_ino != known.pop("inode", None):
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
    refs = {ref.removeprefix(prefix): commit for commit, ref in (line.split(" ", 1) for line in out.splitlines())}
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
    for directory, deeper, names in os.walk(f"{admin}/modules"):
        if "config" not in names or "HEAD" not in names:
            continue
        deeper[:] = [name for name in deeper if name == "modules"]
        part = os.path.relpath(directory, admin)
        _status, value, _err = repo.git(["config", "--file", f"{directory}/config", "core.worktree"], ok=(0, 1))
        tree = os.path.relpath(os.path.normpath(os.path.join(before[0], part, value.strip())), before[1])
        link = os.path.join(after[1], tree, ".git")
        if value.strip() and not tree.startswith("..") and os.path.isfile(link) and not os.path.islink(link):
            repo.git(["config", "--file", f"{directory}/config", "core.worktree", os.path.join(after[1], tree)])
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

UNITS = {
    "": 1,
    "s": 1,
    "m": 60,
    "h": 3600,
    "d": 86400,
    "w": 604800,
    "K": 1024,
    "M": 1024**2,
    "G": 1024**3,
    "T": 1024**4,
}


def limits_of(given: Mapping[str, str | float | None]) -> dict[str, float | None]:
    """``age``, ``size`` and ``min_age`` in seconds and bytes, as ``purge`` takes them; what is empty is no limit."""
    return {key: number_of(value, key) if value not in ("", None) else None for key, value in given.items()}


def number_of(text: str | float, what: str) -> float:
    """Seconds of '12h' or '2d', bytes of '10G'; LoopError where ``text`` is neither."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)([a-zA-Z]?)", str(text).strip())
    if not found or found[2] not in UNITS or (bool(found[2]) and (found[2] in "KMGT") != (what == "size")):
        example = "a size such as 10G" if what == "size" else "a time such as 2d"
        raise LoopError(f"{what} {str(text)!r} is not {example}")
    return float(found[1]) * UNITS[found[2]]


def purge(
    quarantine: str,
    age: float | None = None,
    size: float | None = None,
    min_age: float | None = 86400,
    check: bool = False,
) -> dict[str, Any]:
    """Let go, for good, what is older than ``age`` seconds, then the oldest while the whole exceeds ``size`` bytes.

    Never what is younger than ``min_age`` seconds. Runs as the quarantine's owner.
    Returns ``purged[]{id,from,size,age,why} stuck[]{id,from,why} left size``: ``stuck`` would have gone, but cannot.
    """
    if not os.path.isdir(quarantine):
        return {"purged": [], "stuck": [], "left": 0, "size": 0}
    quarantine, root = os.path.realpath(quarantine), os.geteuid() == 0

    def work(done: list[dict[str, Any]]) -> dict[str, Any]:
        with alone([quarantine]):
            return _purge(quarantine, age, size, min_age or 0, check, root)

    answer: dict[str, Any] = as_owner([quarantine], [quarantine], work)
    answer.pop("quarantined")
    return answer


def _purge(
    quarantine: str, age: float | None, size: float | None, min_age: float, check: bool, root: bool
) -> dict[str, Any]:
    things = listing(quarantine)
    for thing in things:
        thing["age"] = time.time() - _when(thing["id"])
        known = thing.get("size")
        thing["size"] = size_of(thing["to"]) + (size_of(_held(thing)) if thing.get("repo") else 0)
        if known is None and "what" in thing and not check:
            with contextlib.suppress(LoopError, Denied):  # a full disk is what this is to help with
                write_manifest(thing["to"], {"size": thing["size"]})
    total, purged, stuck = sum(thing["size"] for thing in things), [], []
    for thing in things:
        why = "older than its time" if age is not None and thing["age"] > age else ""
        if not why and size is not None and total > size:
            why = "the quarantine is larger than allowed"
        if not why or thing["age"] < min_age:
            continue
        try:
            _check_ours(thing["to"], root)
            if not check:
                _let_go(thing)
        except LoopError as error:
            stuck.append({"id": thing["id"], "from": thing.get("from", ""), "why": str(error)})
            continue
        total -= thing["size"]
        purged.append(
            {
                "id": thing["id"],
                "from": thing.get("from", ""),
                "size": thing["size"],
                "age": int(thing["age"]),
                "why": why,
            }
        )
    return {"purged": purged, "stuck": stuck, "left": len(things) - len(purged), "size": total}


def _when(name: str) -> int:
    """The moment in an id. (time.strptime imports more, which a child that gave root up may not be able to read.)"""
    numbers = [int(name[at : at + 2]) for at in (0, 2, 4, 6, 9, 11, 13)]
    return calendar.timegm((numbers[0] * 100 + numbers[1], *numbers[2:]))


def _check_ours(place: str, root: bool) -> None:
    """LoopError where not all of a thing can be let go: it goes whole or not at all."""
    mounted = mounts_below(place)
    if mounted:
        raise LoopError(f"{mounted[0]} is mounted in it: unmount it first")
    for directory, _deeper, _files in os.walk(place):
        owner = os.lstat(directory).st_uid
        if owner == 0 and os.geteuid() != 0 and not root:
            raise LoopError(f"{directory} belongs to root: let root purge it, by playbooks/heal.yml -e heal_purge=true")
        if owner not in (0, os.geteuid()) and os.geteuid() != 0:
            raise LoopError(f"{directory} belongs to uid {owner}: give it to {_name(os.geteuid())} (chown)")


def _held(thing: dict[str, Any]) -> str:
    return os.path.join(open_repo(thing["repo"]).common, HELD, thing["id"]) if os.path.isdir(thing["repo"]) else ""


def _let_go(thing: dict[str, Any]) -> None:
    """First the refs, then what is on disk, the manifest last: cut off anywhere, the next purge goes on."""
    if thing.get("repo") and os.path.isdir(thing["repo"]):
        repo = open_repo(thing["repo"])
        unlock(repo, thing["id"])
        _status, out, _err = repo.git(["for-each-ref", "--format=%(refname)", f"{SALVAGE}/{thing['id']}"])
        if out:
            lines = "".join(f"delete {ref}\0\0" for ref in out.split())
            repo.git(["update-ref", "--stdin", "-z"], stdin=lines.encode())
        _delete(_held(thing))
    _delete(os.path.join(thing["to"], "tree"))
    _delete(thing["to"])


def _delete(path: str) -> None:
    """Remove a tree of ours; a directory without permissions first gets them. Follows no symlink."""
    if not os.path.lexists(path):
        return
    if os.path.islink(path) or not os.path.isdir(path):
        os.unlink(path)
        return
    for root, directories, _files in os.walk(path):
        for name in [root, *(os.path.join(root, each) for each in directories)]:
            with contextlib.suppress(OSError):
                if not os.path.islink(name):
                    os.chmod(name, 0o700)
    try:
        shutil.rmtree(path)
    except PermissionError as error:
        raise Denied(path, "") from error
    except OSError as error:
        raise LoopError(f"{path} cannot be purged: {error.strerror}") from error
