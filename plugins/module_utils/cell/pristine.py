# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pristine clones: what the checkouts of every cell are made from, owned by a user that runs nothing else.

``PRISTINE_DIR/<dest>.git`` is bare, belongs to the gate's user, and the loop's user can read it and not write it. A
cell borrows its objects, so none is removed while one may: not by fetching, not by packing, not by making a damaged
clone anew.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

from ..base import progress
from ..base.clock import age_of, stamp
from ..base.errors import LoopError, without_passwords
from ..base.files import flocked, inside, read_bytes, remove_tree, write_atomic
from ..git.command import ANY, credentials, git, rows
from ..git.damage import Damaged, ask, check_whole, fetch, flaw, remote_refs
from ..git.remotes import remote_of
from ..git.repository import files_below, git_locks
from ..host.settings import Settings
from ..host.users import as_user

Json: TypeAlias = dict[str, Any]

JOBS = 8
NETWORK_SECONDS = 300.0
REFRESH_SECONDS = 900.0  # for all of them before a cycle: a remote that hangs must not cost the cycle its time
CHECKOUT_SECONDS = 600.0
PACKS = 40  # this many packs, and they are put together
SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
HEADS = "refs/heads/"
REPLACED = re.compile(r"\.replaced-(.+)-(\d{8}T\d{6}Z)(?:\.\d+)?")
REBUILD, REBUILDS = "rebuild", 3
LENDERS_ARE_MUTE = {"core.alternateRefsCommand": "true"}


@dataclass(frozen=True)
class Clone:
    """One of them: what it is a clone of, where it stands, and the branch that work starts from."""

    repo: str
    url: str
    dest: str
    path: str
    version: str
    forge: str = ""  # whose token it is fetched with, where it is one of that forge's


@dataclass(frozen=True)
class Limits:
    """How long all of them together may take with the network, and since when."""

    seconds: float = REFRESH_SECONDS
    began: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        rest = self.began + self.seconds - time.monotonic()
        if rest <= 0:
            raise LoopError(f"no time was left for it: all of them together may take {self.seconds:g} s")
        return min(rest, NETWORK_SECONDS)


def clones(config: Settings) -> list[Clone]:
    """What ``workspace_repositories`` asks for. LoopError where an entry is no repository, branch or plain name."""
    found = [_clone_of(config, entry) for entry in config.workspace_repositories]
    names = [one.dest for one in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise LoopError(f"two repositories have the same dest: {', '.join(twice)}")
    return found


def _clone_of(config: Settings, given: Mapping[str, str]) -> Clone:
    remote = remote_of(given, config.git_url)
    path = f"{config.pristine_dir}/{remote.dest}.git"
    return Clone(remote.repo, remote.url, remote.dest, path, remote.version, str(config.git_url))


# --- refreshing, as the gate's user -----------------------------------------------------------


def refresh(config: Settings, token: str = "", *, seconds: float = REFRESH_SECONDS, check: bool = False) -> list[Json]:
    """Bring all clones to what their remotes have, at once; one that fails stops no other.

    Returns one ``{repo dest path status before after detail}`` each, with a status of cloned, updated, current,
    replaced (it was damaged) or failed. Work is done as the gate's user.
    """
    wanted = clones(config)
    limits = Limits(seconds)
    left = {one.dest: one.repo for one in wanted}
    progress.step("waiting until no other run changes the clones")

    def each(one: Clone) -> Json:
        outcome = _refresh(one, token, limits, check)
        left.pop(one.dest)
        progress.step(f"fetched {one.repo}; not yet there: {', '.join(left.values()) or 'none'}")
        return outcome

    def work() -> list[Json]:
        with contextlib.nullcontext() if check else alone(config), ThreadPoolExecutor(JOBS) as pool:
            progress.step(f"fetching {', '.join(left.values())}")
            return list(pool.map(each, wanted))

    found: list[Json] = as_user(config.gate_user, work)
    return found


def refresh_one(config: Settings, one: Clone, token: str) -> Json:
    """The same for one of them, as the gate's user that we are."""
    with alone(config):
        return _refresh(one, token, Limits(), False)


@contextlib.contextmanager
def alone(config: Settings) -> Iterator[None]:
    """Hold the lock under which clones are changed. Where cycles read the clones, they cannot reach it."""
    place = f"{config.pristine_dir}/.private"
    try:
        os.makedirs(place, mode=0o700, exist_ok=True)
    except OSError as error:
        raise LoopError(f"{place} cannot be made: {error.strerror}") from error
    with flocked(f"{place}/lock"):
        yield


def _refresh(one: Clone, token: str, limits: Limits, check: bool) -> Json:
    outcome: Json = {
        "repo": one.repo, "dest": one.dest, "path": one.path, "status": "failed", "before": "", "after": "",
        "detail": "",
    }  # fmt: skip
    status, why, after = "cloned", "", ""
    try:
        if os.path.lexists(one.path):
            try:
                before = outcome["before"] = _look(one)
                after = _foreseen(one, token, limits, before) if check else _advance(one, token, limits, before)
                status = "current" if before == after else "updated"
            except Damaged as error:
                status, why = "replaced", str(error)
        if status in ("cloned", "replaced") and not check:
            _clone(one, token, limits)
        if status in ("current", "updated") or not check:
            outcome["after"] = after or _tip(one)
        outcome.update(status=status, detail=without_passwords(why))
    except LoopError as error:
        detail = f"{why}; it cannot be cloned anew: {error}" if why else str(error)
        outcome.update(status="failed", detail=without_passwords(detail))
    except OSError as error:
        outcome.update(status="failed", detail=f"{error.filename or one.path}: {error.strerror}")
    return outcome


def _look(one: Clone) -> str:
    """The branch's commit before anything is done, or nothing. Damaged where the clone itself shows that it is."""
    odd = flaw(one.path) or ("a checkout could not be made from it" if os.path.lexists(f"{one.path}/{REBUILD}") else "")
    if odd:
        raise Damaged(odd)
    _status, out, err = ask(one.path, ["rev-parse", "--is-bare-repository", f"{HEADS}{one.version}^{{commit}}"], ANY)
    bare, *told = rows(out) or [""]
    if bare != "true":
        raise Damaged("it is not bare" if bare == "false" else f"git cannot read it: {' '.join(err.split())}")
    return next(filter(SHA.fullmatch, told), "")


def _advance(one: Clone, token: str, limits: Limits, before: str) -> str:
    """Fetch what the remote has; the branch's commit after that. Damaged where the clone is not whole then."""
    home = os.path.dirname(one.path)
    _unlock(one.path)
    _lend(home, one.dest, one.path)
    environment, config = _access(one, token)
    try:
        fetch(one.path, one.url, f"+{HEADS}*:{HEADS}*", environment, config, limits.left())
    except Damaged as error:
        # It may not help to begin anew, and each that was replaced stays for a while.
        if (tried := len(_lenders(home, one.dest))) >= REBUILDS:
            raise LoopError(f"{error}; it was made anew {tried} times, and that is enough") from error
        raise
    tip = _checked(one, _tip(one), before)
    _pack(one.path)
    return tip


def _foreseen(one: Clone, token: str, limits: Limits, before: str) -> str:
    """The commit that the branch would have after a fetch, as the remote tells it."""
    _checked(one, before, before)
    name = HEADS + one.version
    tip = remote_refs(one.url, name, *_access(one, token), limits.left()).get(name, "")
    return tip or _no_branch(one)


def _checked(one: Clone, tip: str, before: str) -> str:
    check_whole(one.path, tip, history=tip != before)
    return tip


def _tip(one: Clone) -> str:
    return read_tip(one.path, one.version) or _no_branch(one)


def _no_branch(one: Clone) -> NoReturn:
    raise LoopError(f"{without_passwords(one.url)} has no branch {one.version}")


def _unlock(path: str) -> None:
    """Locks and half-written packs that a killed git left. Nobody else works here: we hold the lock of the clones."""
    packs = f"{path}/objects/pack"
    left = [place for place in files_below(f"{path}/refs") if place.endswith(".lock")] + git_locks(path)
    left += [f"{packs}/{name}" for name in os.listdir(packs) if name.startswith("tmp_")] if os.path.isdir(packs) else []
    for place in left:
        with contextlib.suppress(OSError):
            os.unlink(place)


def mark_damaged(config: Settings, dest: str) -> None:
    """Have the clone made anew by the next refresh: no checkout could be made from it.

    Not again and again: what was replaced stays, since kept cells borrow from it. LoopError where it was tried often.
    """
    wanted = [one for one in clones(config) if one.dest == dest and os.path.isdir(one.path)]

    def work() -> None:
        for one in wanted:
            home = os.path.dirname(one.path)
            if (tried := len(_lenders(home, one.dest))) >= REBUILDS:
                raise LoopError(f"it was made anew {tried} times (see {home}/.replaced-{dest}-*), and that is enough")
            write_atomic(f"{one.path}/{REBUILD}", b"", 0o640)

    as_user(config.gate_user, work)


def read_tip(path: str, branch: str) -> str:
    """The commit of the branch, read as git keeps it, which takes no git. Empty where it has none."""
    name = HEADS + branch
    found = ""
    with contextlib.suppress(LoopError):  # a directory: other branches lie below this name
        found = (read_bytes(f"{path}/{name}", 100) or b"").decode("ascii", "replace").strip()
    if not found:
        for row in rows((read_bytes(f"{path}/packed-refs") or b"").decode("utf-8", "surrogateescape")):
            commit, _space, ref = row.partition(" ")
            found = commit if ref == name else found
    return found if SHA.fullmatch(found) else ""


def _access(one: Clone, token: str) -> tuple[dict[str, str], dict[str, str]]:
    environment, config = credentials(one.url, token, forge=one.forge)
    # Damaged clones lend their objects still; nobody asks what refs they have, which may never be answered.
    told = {**LENDERS_ARE_MUTE, "fetch.unpackLimit": "1"}
    return environment, {**config, **told, "http.lowSpeedLimit": "1000", "http.lowSpeedTime": "30"}


def _clone(one: Clone, token: str, limits: Limits) -> None:
    """Beside its place, then renamed into it. What stood there stays beside it, and lends its objects as before."""
    home = os.path.dirname(one.path)
    aside, old = f"{home}/.cloning-{one.dest}", f"{home}/.replaced-{one.dest}-{stamp()}"
    shutil.rmtree(aside, ignore_errors=True)
    environment, config = _access(one, token)
    number = 0
    while os.path.lexists(old):
        number += 1
        old = f"{home}/.replaced-{one.dest}-{stamp()}.{number}"
    # Not by links to the files of a repository on this host, which have the modes of their owner.
    words = ["clone", "--quiet", "--bare", "--no-local", "--no-tags", "--template="]
    words += ["--config", "core.sharedRepository=0640"]
    try:
        git(home, [*words, "--", one.url, aside], environment=environment, config=config, timeout=limits.left())
        if os.path.lexists(one.path):
            os.rename(one.path, old)
        _lend(home, one.dest, aside)
        os.rename(aside, one.path)
    except LoopError as error:
        raise LoopError(f"{without_passwords(one.url)} cannot be cloned: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _lenders(home: str, dest: str) -> list[str]:
    """The earlier clones of the same, which cells may still borrow from."""
    found = ((name, REPLACED.fullmatch(name)) for name in sorted(os.listdir(home)))
    return [name for name, match in found if match and match[1] == dest and os.path.isdir(f"{home}/{name}/objects")]


def _lend(home: str, dest: str, path: str) -> None:
    """Have the clone at ``path`` borrow from the earlier ones that are there, from nothing else; these from none."""
    lenders = _lenders(home, dest)
    for name in lenders:
        if not os.path.islink(f"{home}/{name}"):
            with contextlib.suppress(OSError):
                os.unlink(f"{home}/{name}/objects/info/alternates")
    place, wanted = f"{path}/objects/info/alternates", "".join(f"{home}/{name}/objects\n" for name in lenders)
    if (read_bytes(place) or b"") != wanted.encode():
        os.makedirs(os.path.dirname(place), exist_ok=True)
        write_atomic(place, wanted.encode(), 0o640)


def let_go(config: Settings, borrowed: float, min_age: float) -> list[str]:
    """Remove what was replaced longer ago than ``min_age`` seconds and before the oldest borrower, ``borrowed`` old.

    What the clone has from there it gets first. Returns the names of what went.
    """
    home = config.pristine_dir
    names = sorted(os.listdir(home)) if os.path.isdir(home) else []
    old = [name for name in names if (found := REPLACED.fullmatch(name)) and age_of(found[2]) > max(borrowed, min_age)]
    left = [name for name in names if name.startswith(".gone-")]  # by one that was killed

    def work() -> list[str]:
        with alone(config):
            for name in left:
                with contextlib.suppress(LoopError):
                    remove_tree(f"{home}/{name}")
            return [name for name in old if _let_go(home, name)]

    gone: list[str] = as_user(config.gate_user, work) if old or left else []
    return gone


def _let_go(home: str, name: str) -> bool:
    dest = name.removeprefix(".replaced-").rpartition("-")[0]
    path, aside = f"{home}/{dest}.git", f"{home}/.gone-{name}"
    try:
        if os.path.isdir(path):
            _lend(home, dest, path)
            if _repack(path):
                return False  # the next refresh finds out why
        os.rename(f"{home}/{name}", aside)
        if os.path.isdir(path):
            _lend(home, dest, path)
        remove_tree(aside)
    except (LoopError, OSError):
        return False  # it is tried again
    return True


def _pack(path: str) -> None:
    """Put many packs together now and then. What no branch reaches any more stays: a cell may borrow it."""
    with contextlib.suppress(OSError):
        if sum(name.endswith(".pack") for name in os.listdir(f"{path}/objects/pack")) < PACKS:
            return
        _repack(path)


def _repack(path: str) -> int:
    words = ["repack", "--quiet", "-a", "-d", "--keep-unreachable"]
    return git(path, words, environment={"GIT_DIR": path}, config=LENDERS_ARE_MUTE, ok=ANY, timeout=REFRESH_SECONDS)[0]


# --- a cell's checkout, as the loop's user ----------------------------------------------------


def check_out(config: Settings, workspace: str) -> list[Json]:
    """Make the checkouts of a cell in ``workspace``; ``{dest status detail}`` each, made or failed."""
    wanted = clones(config)
    with ThreadPoolExecutor(JOBS) as pool:
        return list(pool.map(lambda one: _check_out(config, one, f"{workspace}/{one.dest}"), wanted))


def _check_out(config: Settings, one: Clone, path: str) -> Json:
    try:
        _skeleton(config, one, path)
        git(path, ["reset", "--hard", "--quiet"], timeout=CHECKOUT_SECONDS)
    except (LoopError, OSError) as error:
        shutil.rmtree(path, ignore_errors=True)
        return {"dest": one.dest, "status": "failed", "detail": str(error)}
    return {"dest": one.dest, "status": "made", "detail": ""}


def _skeleton(config: Settings, one: Clone, path: str) -> None:
    """A repository that borrows all objects of the clone: what ``git clone --shared`` makes, without its second git.

    git would not read the clone as another user without being told to trust it, and would not hand that on.
    """
    trust = {"safe.directory": one.path}
    listed = ["for-each-ref", "--format=%(objectname) %(refname)", HEADS]
    refs = git(one.path, listed, environment={"GIT_DIR": one.path}, config=trust)[1]
    branches = {name.removeprefix(HEADS): commit for commit, name in (row.split(" ", 1) for row in rows(refs))}
    tip = branches.get(one.version)
    if tip is None:
        raise LoopError(f"{without_passwords(one.url)} has no branch {one.version}")
    settings = [
        "\tfilemode = true", "\tbare = false", "\tlogallrefupdates = true",
        '[remote "origin"]', f"\turl = {one.url}", "\tfetch = +refs/heads/*:refs/remotes/origin/*",
        f'[branch "{one.version}"]', "\tremote = origin", f"\tmerge = {HEADS}{one.version}",
        "[user]", f"\tname = {_quoted(config.git_user_name)}", f"\temail = {_quoted(config.git_user_email)}",
    ]  # fmt: skip
    found = {f"refs/remotes/origin/{name}": commit for name, commit in branches.items()}
    lay_out(f"{path}/.git", one, {f"{HEADS}{one.version}": tip, **found}, settings)


def lay_out(home: str, one: Clone, refs: Mapping[str, str], settings: Sequence[str]) -> None:
    """The files of a repository at ``home`` that borrows all objects of the clone and has these refs (name: commit).

    ``settings`` are lines of its configuration, the first ones of [core].
    """
    for directory in ("info", "objects/info", "objects/pack", "refs/heads", "refs/tags"):
        os.makedirs(f"{home}/{directory}", mode=0o750)
    sha256 = any(len(commit) == 64 for commit in refs.values())
    extensions = ["[extensions]", "\tobjectformat = sha256"] if sha256 else []
    # git wants the refs sorted by name: it looks names up by halves.
    files = {
        "objects/info/alternates": [f"{one.path}/objects"],
        "packed-refs": ["# pack-refs with: sorted ", *(f"{refs[name]} {name}" for name in sorted(refs))],
        "config": [*extensions, "[core]", f"\trepositoryformatversion = {int(sha256)}", *settings],
        "HEAD": [f"ref: {HEADS}{one.version}"],
    }
    for name, lines in files.items():
        with open(f"{home}/{name}", "w", encoding="utf-8", errors="surrogateescape") as handle:
            handle.writelines(f"{line}\n" for line in lines)


def _quoted(value: str) -> str:
    """A value for git's configuration file."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return f'"{escaped}"'


# --- a clone for a person, as root --------------------------------------------------------------


def place_for(config: Settings, name: str, branch: str) -> str:
    """Where what is brought to a person under this name will stand.

    LoopError where something stands there already, or where ``branch`` is no name of one.
    """
    git("/", ["check-ref-format", "--branch", branch], timeout=60)
    home = f"{config.state_dir}/restored/{name}"
    if os.path.lexists(home):
        raise LoopError(f"{home} is there already: move it away")
    return home


def check_branch(config: Settings, source: str, branch: str) -> None:
    """Refuse a branch that a clone of ``source`` cannot have beside the one that it begins with: a ref is a file."""

    def begins_with() -> str:
        head = (read_bytes(f"{source}/HEAD") or b"").decode("utf-8", "surrogateescape").strip()
        name = head.removeprefix(f"ref: {HEADS}")
        return name if read_tip(source, name) else ""

    first = as_user(config.gate_user, begins_with)
    if first and first != branch and (inside(branch, first) or inside(first, branch)):
        raise LoopError(f"{branch} cannot be a branch where {first} is one: choose another name")


@dataclass(frozen=True)
class Rescue:
    """What is brought out for a person: under which name it was kept, and where it will stand as which branch."""

    name: str
    place: str
    branch: str


def hand_out(config: Settings, one: Clone, rescue: Rescue, fill: Callable[[str], str], source: str = "") -> None:
    """A clone of ``source`` (by default of ``one`` itself) at the rescue's place, root's, which borrows from nothing.

    The gate's user makes it; ``fill`` gets its path and names the commit that is checked out as the rescue's branch.
    """
    making, branch = f"{config.pristine_dir}/.bringing-{rescue.name}", rescue.branch

    def work() -> None:
        words = ["clone", "--quiet", "--no-hardlinks", "--dissociate", "--no-tags", "--template=", "--no-checkout"]
        words += ["--", source or one.path, making]
        git("/", words, config=LENDERS_ARE_MUTE, timeout=CHECKOUT_SECONDS)
        git(making, ["remote", "set-url", "origin", one.url])
        git(making, ["update-ref", f"{HEADS}{branch}", fill(making)])
        git(making, ["checkout", "--quiet", branch], timeout=CHECKOUT_SECONDS)

    try:
        remove_tree(making)
        as_user(config.gate_user, work)
        os.makedirs(os.path.dirname(rescue.place), mode=0o750, exist_ok=True)
        subprocess.run(["chown", "-hR", "root:root", making], check=True)
        os.rename(making, rescue.place)
    finally:
        remove_tree(making)
