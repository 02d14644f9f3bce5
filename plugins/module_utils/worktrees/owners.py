# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Work is done as the user who owns the repositories; what that user may not move, root moves, who runs no git."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Callable, Sequence
from typing import Any

from ..base.errors import Denied, LoopError
from ..base.files import inside, lstat_of
from ..base.untrusted import opened
from ..host.users import as_user, name_of, whose
from .whole_moves import mounts_below, standing, why_not

DEEPEST = 200
LOCK_SECONDS = 120.0  # how long another heal of the same directory is waited for


def as_owner(repos: Sequence[str], places: Sequence[str], work: Callable[[list[dict[str, Any]]], Any]) -> Any:
    """Run ``work(done)`` as the user who owns ``repos``; where that user may not move a thing, root moves it.

    ``work`` appends to ``done`` what it quarantined, so that nothing goes unreported when it has to
    start again after a root step. ``places``, which the caller named, are the directories below which root may act;
    none of them comes out of a manifest. Root's own repositories are worked in only where all of them are root's.
    """
    uid = owner_of(repos)
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


def owner_of(repos: Sequence[str]) -> int:
    """The uid that all of ``repos`` belong to; LoopError where they have several owners."""
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
            raise LoopError(why_not(source, target, error)) from error


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
