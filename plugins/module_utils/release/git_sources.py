# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the engine's git dependencies may come from, and how: into a mirror each, that commit and no other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any
from urllib.parse import urlsplit

from ..base import progress
from ..base.errors import LoopError, without_passwords
from ..base.files import discard, sha256
from ..base.untrusted import show
from ..git.command import ANY, credentials, git, origin_of
from .git_dependencies import GitDependency, address_refused, in_lock
from .source import NETWORK_SECONDS, file_in_mirror
from .wanted_version import Wanted

VARIABLE = "engineering_loop_git_sources"
KEYS = tuple(field.name for field in fields(GitDependency))
MAX_LISTING = 64 * 1024 * 1024
MAX_FILE = 1024 * 1024


def check(sources: Sequence[str]) -> None:
    """LoopError where one of them is nothing that an address can begin with."""
    for one in sources:
        if why := address_refused(one.rstrip("/")):
            raise LoopError(f"{VARIABLE} holds {show(without_passwords(one))}: {why}; write https://HOST/OWNER")


def allowed(wanted: Wanted) -> list[str]:
    """What addresses must begin with: as the operator says, or who owns the engine's own repository."""
    if wanted.git_sources:
        return [one.rstrip("/") for one in wanted.git_sources]
    owner = wanted.repo.rstrip("/").rpartition("/")[0]
    return [] if address_refused(owner) else [owner]


def judge(wanted: Wanted, dependencies: Iterable[GitDependency]) -> None:
    """LoopError names what comes from elsewhere than is allowed, and what is."""
    begin = allowed(wanted)
    for one in dependencies:
        if not any(_below(one.url, prefix) for prefix in begin):
            raise LoopError(
                f"the engine's dependency {one.name} comes from {one.url}, and {VARIABLE} allows"
                f" {' and '.join(begin) or 'nothing, as the engine does not come from the web'}: add"
                f" {one.url.rpartition('/')[0]} there if its code may run on this host"
            )


def foresee(wanted: Wanted, sha: str, known: Mapping[str, Any] | None) -> None:
    """What can be said of a version's dependencies from what is on this host alone, before anything is done.

    ``known`` is its record where it was built; otherwise the engine may have been fetched already. LoopError as of
    ``judge`` and ``require_bundles``.
    """
    if known is not None:
        judge(wanted, [GitDependency(**{key: one[key] for key in KEYS}) for one in known.get("git_dependencies", [])])
    elif not wanted.sync:
        needed = in_lock(file_in_mirror(wanted, sha, "uv.lock"))
        judge(wanted, needed)
        require_bundles(wanted, needed)


def _below(url: str, prefix: str) -> bool:
    """Whether the address is the other, or leads on from it, by whole names."""
    (one, other) = (urlsplit(each.rstrip("/").removesuffix(".git")) for each in (url, prefix))
    if (one.scheme, one.netloc.lower()) != (other.scheme, other.netloc.lower()):
        return False
    wanted = other.path.split("/")
    return one.path.split("/")[: len(wanted)] == wanted


def bundle_of(wanted: Wanted, dependency: GitDependency) -> str:
    """Where a host without a network has the dependency's repository; empty where it is fetched."""
    return os.path.join(wanted.wheels, f"{dependency.name}.bundle") if wanted.wheels else ""


def require_bundles(wanted: Wanted, dependencies: Iterable[GitDependency]) -> None:
    """LoopError names the bundle that is missing on a host that installs from a directory of wheels."""
    for one in dependencies:
        bundle = bundle_of(wanted, one)
        if bundle and not os.path.isfile(bundle) and not _holds(_mirror(wanted, one), one.commit):
            raise LoopError(
                f"{one.sentence} is to be built, and {bundle} is missing: make it with `git bundle create"
                f" {one.name}.bundle --all` in a `git clone --mirror` of it"
            )


def fetch(wanted: Wanted, dependency: GitDependency) -> str:
    """The mirror that holds the commit, on a branch or tag of its repository. LoopError where that is not so.

    One that was there already is not asked for again: a commit cannot change. A mirror that is broken is made anew.
    """
    mirror = _mirror(wanted, dependency)
    existed = os.path.isdir(mirror)
    try:
        return _fetched(wanted, dependency, mirror)
    except LoopError:
        if not existed or git(mirror, ["fsck", "--connectivity-only"], ok=ANY)[0] == 0:
            raise
    discard(mirror)
    return _fetched(wanted, dependency, mirror)


def _fetched(wanted: Wanted, dependency: GitDependency, mirror: str) -> str:
    if not _holds(mirror, dependency.commit):
        progress.step(f"fetching {dependency.sentence}")
        _ask(wanted, dependency, mirror)
        if not _holds(mirror, dependency.commit):
            raise LoopError(
                f"{dependency.url} has no commit {dependency.commit} on any branch or tag, but the engine's uv.lock"
                f" has {dependency.name} from there: was it pushed, was its branch deleted?"
            )
    if submodules := _submodules(mirror, dependency.commit):
        raise LoopError(f"{dependency.sentence} has the submodule {show(submodules[0])}: those are not fetched")
    return mirror


def _mirror(wanted: Wanted, dependency: GitDependency) -> str:
    place = sha256(dependency.url.encode())[:16]
    return os.path.join(wanted.install_dir, "cache", "git", f"{dependency.name}-{place}.git")


def _holds(mirror: str, commit: str) -> bool:
    """Whether one of the repository's own branches or tags has it: of a fork's commit, say, none has."""
    if not os.path.isdir(mirror):
        return False
    status, listing, _said = git(mirror, ["for-each-ref", "--count=1", "--contains", commit], ok=ANY)
    return status == 0 and bool(listing)


def _ask(wanted: Wanted, dependency: GitDependency, mirror: str) -> None:
    """Fetch every branch and tag, each object checked on its way in. Nobody is followed elsewhere."""
    if not os.path.isdir(mirror):
        os.makedirs(os.path.dirname(mirror), mode=0o700, exist_ok=True)
        git(os.path.dirname(mirror), ["init", "--quiet", "--bare", "--template=", mirror])
    bundle = bundle_of(wanted, dependency)
    url = bundle or dependency.url
    forge = wanted.git_url or wanted.repo
    environment, config = credentials(url, wanted.token if origin_of(forge) else "", forge)
    environment["GIT_ALLOW_PROTOCOL"] = "file" if bundle else urlsplit(url).scheme
    config |= {"fetch.fsckObjects": "true", "http.followRedirects": "false"}
    config |= {"http.lowSpeedLimit": "1000", "http.lowSpeedTime": "30"}
    refs = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
    words = ["fetch", "--quiet", "--prune", "--no-tags", "--no-write-fetch-head", "--", url, *refs]
    try:
        require_bundles(wanted, [dependency])
        git(mirror, words, environment=environment, config=config, timeout=NETWORK_SECONDS)
    except LoopError as error:
        raise LoopError(f"{dependency.sentence} cannot be fetched: {without_passwords(str(error))}") from error


def _submodules(mirror: str, commit: str) -> list[str]:
    listing = git(mirror, ["ls-tree", "-r", "-z", "--full-tree", commit], most=MAX_LISTING)[1]
    return [row.partition("\t")[2] for row in listing.split("\0") if row.startswith("160000 ")]


def file_of(mirror: str, dependency: GitDependency, name: str) -> str:
    """A file in the dependency's own directory, as the commit has it. LoopError where there is none."""
    place = f"{dependency.subdirectory}/{name}" if dependency.subdirectory else name
    try:
        return git(mirror, ["cat-file", "blob", f"{dependency.commit}:{place}"], most=MAX_FILE)[1]
    except LoopError as error:
        raise LoopError(f"{dependency.sentence} has no {place} that can be read, so it cannot be built") from error


def check_out(mirror: str, dependency: GitDependency, path: str) -> int:
    """Check the commit out into ``path``, which this makes; the moment at which it was made."""
    os.mkdir(path, 0o755)
    index = {"GIT_DIR": mirror, "GIT_WORK_TREE": path, "GIT_INDEX_FILE": f"{path}.index"}
    git(path, ["read-tree", dependency.commit], environment=index)
    git(path, ["checkout-index", "--all"], environment=index)
    os.unlink(index["GIT_INDEX_FILE"])
    return int(git(mirror, ["show", "--no-patch", "--format=%ct", dependency.commit])[1].split()[0])
