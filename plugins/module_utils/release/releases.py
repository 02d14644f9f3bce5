# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be asked of a host's releases: have this version active, go back, remove them all.

Never half of one and half of another, one run at a time, and never under a cycle in progress.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..base import progress
from ..base.errors import LoopError
from ..base.files import discard, flocked, read_bytes
from ..host.processes import wait_until_idle
from . import foretell, git_sources, source, store
from .build import build, require_program, write_record
from .wanted_version import Wanted, check_version

Json = dict[str, Any]

# The last two are the rollout's.
OURS = ("current", "releases", "agents", "mirror.git", "cache", store.LEDGER, "proven", "rollout.json")


def present(wanted: Wanted, version: str, *, check: bool = False) -> Json:
    """Have ``version`` built, proven to start, and active. Returns the module's result."""
    sha = check_version(version)
    wanted.check_source()
    return _have(wanted, lambda: sha, "version", check)


def previous(wanted: Wanted, *, check: bool = False) -> Json:
    """Go back to the release that was proven last. Where that was done already, nothing changes."""
    return _have(wanted, lambda: store.proven_before(wanted.install_dir), "previous", check)


def back_to(wanted: Wanted, sha: str) -> Json:
    """Go back to that very release, which is on this host."""
    return _have(wanted, lambda: sha, "previous", check=False)


def absent(wanted: Wanted, *, check: bool = False) -> Json:
    """Remove every release and what belongs to them; other files in the directory stay."""
    install_dir = wanted.install_dir
    ours = [name for name in OURS if _stands(install_dir, name)]
    result = _result(store.active(install_dir), None, pruned=store.releases(install_dir), changed=bool(ours))
    if check or not ours:
        return result
    with _alone(wanted):
        _wait_until_idle(wanted, "nothing was removed")
        progress.step(f"removing the releases in {install_dir}")
        for name in OURS:  # to be alone makes some of them
            discard(os.path.join(install_dir, name))
    for name in (".releases.lock", ".ledger.lock", ".budget.lock", ".attempts.lock", ".rollout.lock", ".canary.lock"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(install_dir, name))
    with contextlib.suppress(OSError):
        os.rmdir(install_dir)  # only where nothing else is in it
    return result


@dataclass(frozen=True)
class _Found:
    """A release that is to be active, and what it takes."""

    sha: str
    before: Json | None  # what is active now
    known: Json | None  # its record, if it was built
    damaged: list[str]
    unverified: bool  # built, but by other demands on where it comes from

    @property
    def builds(self) -> bool:
        return self.known is None or bool(self.damaged)

    @property
    def switches(self) -> bool:
        return self.before is None or self.before["sha"] != self.sha


def _look(wanted: Wanted, sha: str, by: str) -> _Found:
    known = store.record(wanted.install_dir, sha)
    damaged = store.damage(wanted.install_dir, sha) if known else []
    if by == "version":
        git_sources.foresee(wanted, sha, None if damaged else known)
    judged = known and not damaged and by == "version"  # who goes back asks no repository
    unverified = bool(judged) and source.provenance(wanted) != (known or {}).get("provenance")
    return _Found(sha, store.active(wanted.install_dir), known, damaged, unverified)


def _have(wanted: Wanted, choose: Callable[[], str], by: str, check: bool) -> Json:
    """Have the chosen release active; the module's result. In check mode what would be done, read from files alone."""
    install_dir = wanted.install_dir
    exposed = _exposed(install_dir)
    with contextlib.nullcontext() if check else _alone(wanted):
        recovered = store.recover(install_dir, check=check)
        found = _look(wanted, choose(), by)
        sha = found.sha
        if by == "version" and found.known and not found.builds and wanted.smoke:
            require_program(store.path_of(install_dir, sha), wanted.smoke[0])  # another may be asked for than before
        told: list[str] = []
        if check:
            told = _foretell(wanted, found)
            if found.switches and not found.builds:
                _check_policy(wanted, sha)
            pruned = store.prunable(wanted, sha, found.before["sha"] if found.before and found.switches else None)
            release: Json | None = found.known or {"sha": sha, "path": store.path_of(install_dir, sha)}
        else:
            if found.builds:
                _build(wanted, sha)
            elif found.unverified:
                _verify_again(wanted, sha)
            told = _foretell(wanted, found)
            for line in told:
                progress.step(line)
            if found.switches:
                _activate(wanted, found, by)
            pruned = store.prune(wanted, sha)
            release = store.record(install_dir, sha)
    changed = exposed or recovered or found.builds or found.switches or found.unverified or bool(pruned)
    done = {"built": found.builds, "activated": found.switches, "damaged": found.damaged, "foretell": told}
    return _result(found.before, release, pruned=pruned, changed=changed, **done)


def _result(before: Json | None, release: Json | None, **done: Any) -> Json:
    previous = {"sha": before["sha"], "path": before["path"]} if before else None
    return {
        "release": release,
        "previous": previous,
        "activated": False,
        "built": False,
        "damaged": [],
        "foretell": [],
        **done,
    }


def _foretell(wanted: Wanted, found: _Found) -> list[str]:
    """What is to be said of another version before it is switched to."""
    if not (found.switches and found.before and wanted.asks):
        return []
    path = store.path_of(wanted.install_dir, found.sha)
    if store.record(wanted.install_dir, found.sha) is None:
        return [foretell.not_known(found.sha)]
    return foretell.between(str(found.before["path"]), path, wanted.asks, wanted.user)


def _verify_again(wanted: Wanted, sha: str) -> None:
    """The release is built, but repo, branches or signers are others than it was judged by."""
    known = store.record(wanted.install_dir, sha) or {}
    if wanted.lock_sha256 not in ("", known["lock_digest"]):
        raise LoopError(f"uv.lock of {sha} has the SHA-256 {known['lock_digest']}, not {wanted.lock_sha256}")
    branch = source.verify_provenance(wanted, sha)
    path = known.pop("path")
    write_record(path, {**known, "source": wanted.repo, "branch": branch, "provenance": source.provenance(wanted)})


def _activate(wanted: Wanted, found: _Found, by: str) -> None:
    """Switch to a release that is built, once its policy is taken and no cycle runs."""
    _check_policy(wanted, found.sha)
    _wait_until_idle(wanted, f"{found.sha} is built but not active", wanted.before_switch)
    progress.step(f"switching to {found.sha}")
    # Remembered first: who is killed between the two, or has no room to write, must not go back twice.
    store.remember(wanted.install_dir, found.sha, by, found.before["sha"] if found.before else None)
    store.switch(wanted.install_dir, found.sha)


def _build(wanted: Wanted, sha: str) -> None:
    """Make the release at its path. Whatever goes wrong, nothing half-made stays."""
    install_dir, path = wanted.install_dir, store.path_of(wanted.install_dir, sha)
    aside = ""
    if os.path.lexists(path):
        now = store.active(install_dir)
        if now and now["sha"] == sha:
            why = f"{path} was changed by hand and has to be built again"
            _wait_until_idle(wanted, why, wanted.before_switch)
        # A change by hand may be somebody's work: it is put aside, not deleted.
        number = max((number for number, _name in store.aside(install_dir)), default=0) + 1
        aside = os.path.join(install_dir, "releases", f".damaged-{sha}-{number}")
        os.rename(path, aside)
    try:
        build(wanted, sha, path)
    except BaseException as error:
        with contextlib.suppress(OSError, LoopError):
            discard(path)
        if aside:
            os.rename(aside, path)
        if isinstance(error, (OSError, LoopError)):
            what = f"{error.strerror}: {error.filename or install_dir}" if isinstance(error, OSError) else error
            raise LoopError(f"release {sha} could not be built: {what}; what was active stays active") from error
        raise


def _check_policy(wanted: Wanted, sha: str) -> None:
    """Compose the policy that will judge this release, before it is switched to: a refused one must cost nothing."""
    if wanted.policy is None:
        return
    from ..policy import compose, schema  # here: it needs PyYAML, which a fresh host lacks

    policy = {"overlay": {}, "handoff_dirs": (), "widen": (), **wanted.policy}
    path = os.path.join(store.path_of(wanted.install_dir, sha), policy["base"])
    try:
        base = read_bytes(path, schema.MAX_BYTES)
        if base is None:
            raise LoopError(f"there is no policy at {path}")
        compose.compose(
            schema.load(base, path, complete=False), policy["overlay"], policy["handoff_dirs"], policy["widen"]
        )
    except LoopError as error:
        raise LoopError(f"{sha} is built but not active, for its gate policy is refused: {error}") from error


# --- one at a time, never under a cycle ---------------------------------------------------


@contextlib.contextmanager
def _alone(wanted: Wanted) -> Iterator[None]:
    """Own the install directory: root's, ours alone, for as long as this lasts."""
    install_dir = wanted.install_dir
    try:
        os.makedirs(os.path.join(install_dir, "releases"), mode=0o755, exist_ok=True)
        # uv leaves lock files in its cache that anybody may write; nobody but root gets that far.
        os.makedirs(os.path.join(install_dir, "cache"), mode=0o700, exist_ok=True)
        os.chmod(os.path.join(install_dir, "cache"), 0o700)
    except OSError as error:
        raise LoopError(f"{install_dir}/releases cannot be made: {error.strerror}") from error
    _take_ownership(install_dir)
    deadline = time.monotonic() + wanted.wait
    while True:
        with flocked(os.path.join(install_dir, ".releases.lock"), wait=False) as held:
            if held:
                yield
                return
        if time.monotonic() >= deadline:
            raise LoopError(
                f"another run is working on the releases in {install_dir}: wait for it"
                " (engineering_loop_wait_for_cycle says how long)"
            )
        progress.step(f"waiting for another run that works on the releases, {wanted.wait:g} s at most")
        time.sleep(0.2)


def _exposed(install_dir: str) -> bool:
    """Whether somebody else could replace what is in the install directory, or the loop's user not reach a release."""
    with contextlib.suppress(FileNotFoundError):
        for path in (install_dir, os.path.join(install_dir, "releases")):
            status = os.lstat(path)
            closed = path != install_dir and status.st_mode & 0o055 != 0o055
            if status.st_uid != os.geteuid() or status.st_mode & 0o022 or closed:
                return True
    return False


def _take_ownership(install_dir: str) -> None:
    """The two directories become ours, never what else is in them: an older layout may live there."""
    for path in (install_dir, os.path.join(install_dir, "releases")):
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise LoopError(f"{path} is not a directory: move it away, releases are kept there")
    if _exposed(install_dir):
        for path in (install_dir, os.path.join(install_dir, "releases")):
            try:
                os.chown(path, os.geteuid(), os.getegid())
                os.chmod(path, 0o755)
            except OSError as error:
                raise LoopError(f"{path} must belong to whoever installs the engine: {error.strerror}") from error


def _wait_until_idle(wanted: Wanted, otherwise: str, hold: Callable[[], object] | None = None) -> None:
    wait_until_idle(wanted.run_lock, wanted.unit, wanted.wait, otherwise, hold)


def _stands(install_dir: str, name: str) -> bool:
    """Whether it is there and is ours: of that name there may be something in an engine that was checked out."""
    with contextlib.suppress(FileNotFoundError):
        return os.lstat(os.path.join(install_dir, name)).st_uid == os.geteuid()
    return False
