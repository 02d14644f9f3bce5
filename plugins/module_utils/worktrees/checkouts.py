# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checkouts that runs start from: each at the tip of its branch, all at once, nobody's work lost.

The engine never fetches, so this runs when the role is applied and before every cycle. All git
work is done as the user whose checkouts they are. What is in the way of a tip (local changes,
commits that were not pushed, something that is no repository) goes to ``ROOT/.quarantine`` or
under ``refs/salvage``, and never stops the other checkouts.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from ..base.clock import fine_stamp
from ..base.errors import Denied, LoopError, without_passwords
from ..base.files import alone_in, inside, lstat_of, remove_tree, write_atomic
from ..base.untrusted import shown
from ..git.command import ANY, available, credentials, git
from ..git.damage import Damaged, check_whole, fetch, flaw, remote_refs
from ..git.locks import lock_holder
from ..git.remotes import remote_of
from ..git.repository import files_below, git_locks, open_repo
from ..host.processes import Running, cycle_in_progress, processes, seen_by_root
from ..host.users import account, as_user
from .owners import LOCK_SECONDS, needs_root
from .whole_moves import move

Json = dict[str, Any]

QUARANTINE = ".quarantine"
NETWORK_SECONDS = 300.0  # how long one word with a remote may take
REFRESH_SECONDS = 900.0  # how long another refresh of the same checkouts is waited for
# What a checkout's own configuration may say. Everything else (filters, hooks, other
# places to fetch from, files to include) would let the agent choose what git does here.
HARMLESS = re.compile(
    r"core\.(repositoryformatversion|filemode|bare|logallrefupdates|ignorecase|symlinks)"
    r"|extensions\.(objectformat|refstorage)|remote\.origin\.(url|fetch)"
    r"|branch\..*\.(remote|merge|rebase)|user\.(name|email)",
    re.DOTALL,
)
# What an interrupted merge, rebase or the like leaves in .git.
UNFINISHED = (
    "MERGE_HEAD", "MERGE_MSG", "MERGE_MODE", "CHERRY_PICK_HEAD", "REVERT_HEAD", "BISECT_LOG", "BISECT_START",
    "rebase-merge", "rebase-apply", "sequencer",
)  # fmt: skip


@dataclass(frozen=True)
class Workspace:
    """What an operator asks for; the options of the module ``workspace``."""

    root: str
    repositories: Sequence[Mapping[str, str]]
    user: str
    git_url: str = "https://github.com"
    jobs: int = 8
    conflicts: str = "quarantine"
    git_user_name: str = ""
    git_user_email: str = ""
    run_lock: str = ""
    token: str = field(default="", repr=False)


@dataclass(frozen=True)
class Checkout:
    """One of them: what it is a checkout of, and where."""

    repo: str
    url: str
    dest: str
    path: str
    version: str


def update(workspace: Workspace, *, check: bool = False) -> Json:
    """Have every repository checked out at its tip.

    Returns ``changed``, ``failed`` (names) and ``repositories``, one
    ``{repo dest path status before after detail removed_config quarantined}`` each, whose status is one of
    cloned, updated, current, restored (something was put aside), left (conflicts=report),
    busy (somebody works in it) or failed.
    """
    checkouts = [_checkout(workspace, given) for given in workspace.repositories]
    names = [one.dest for one in checkouts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise LoopError(f"two repositories have the same dest in {workspace.root}: {', '.join(twice)}")
    if check and not (_has_account(workspace.user) and available()):
        found = [_foretold(one) for one in checkouts]
    else:
        before = seen_by_root()
        found = as_user(workspace.user, lambda: _update_all(workspace, checkouts, before, check))
    return {
        "changed": any(one["status"] in ("cloned", "updated", "restored") or one["removed_config"] for one in found),
        "failed": [one["dest"] for one in found if one["status"] == "failed"],
        "repositories": found,
    }


def _checkout(workspace: Workspace, given: Mapping[str, str]) -> Checkout:
    remote = remote_of(given, workspace.git_url)
    return Checkout(**remote._asdict(), path=os.path.join(workspace.root, remote.dest))


def _foretold(one: Checkout) -> Json:
    """Check mode on a host that lacks what it takes to look."""
    if _vacant(one.path):
        return _outcome(one, "cloned")
    return {**_outcome(one, "updated"), "detail": "it can be looked at when the packages and the user are there"}


def _has_account(user: str) -> bool:
    try:
        account(user)
    except LoopError:
        return False
    return True


def _in_use(workspace: Workspace, checkouts: Sequence[Checkout], before: Running | None) -> dict[str, str]:
    """Who works in which checkout right now; ``before`` is what root saw, who sees all processes."""
    cycle = cycle_in_progress(workspace.run_lock, "")
    if cycle:
        return {one.dest: f"a cycle is in progress: {cycle}" for one in checkouts}
    found: dict[str, str] = {}
    for process in processes(before).processes:
        for one in checkouts:
            if any(inside(place, os.path.realpath(one.path)) for place in process.places[1:2]):  # where it stands
                found[one.dest] = f"process {process.pid} works in it"
    return found


def _update_all(workspace: Workspace, checkouts: Sequence[Checkout], before: Running | None, check: bool) -> list[Json]:
    with contextlib.ExitStack() as stack:
        if not check:
            try:
                os.makedirs(workspace.root, mode=0o750, exist_ok=True)
            except OSError as error:
                raise LoopError(f"{workspace.root} cannot be made by {workspace.user}: {error.strerror}") from error
            stack.enter_context(alone_in(workspace.root, REFRESH_SECONDS))
            for name in os.listdir(workspace.root):
                if name.startswith(".clone-"):  # of a killed run: whoever gets here is alone
                    with contextlib.suppress(LoopError):  # in nobody's way: each clone has a name of its own
                        remove_tree(os.path.join(workspace.root, name))
        in_use = _in_use(workspace, checkouts, before)  # now: whom the lock was waited for is gone
        pool = stack.enter_context(ThreadPoolExecutor(max(1, workspace.jobs)))
        return list(pool.map(lambda one: _update(workspace, one, in_use.get(one.dest, ""), check), checkouts))


def _update(workspace: Workspace, one: Checkout, in_use: str, check: bool) -> Json:
    """One checkout; whatever is wrong with it is its own outcome and no one else's."""
    outcome = _outcome(one, "failed")
    try:
        _bring_up(workspace, one, in_use, check, outcome)
    except Denied as error:
        outcome.update(status="failed", detail=needs_root(error.source))
    except LoopError as error:
        outcome.update(status="failed", detail=without_passwords(str(error)))
    except OSError as error:
        outcome.update(status="failed", detail=f"{error.filename or one.path}: {error.strerror}")
    # Names of branches, files and settings are the agent's to choose.
    return dict(shown(outcome))


def _outcome(one: Checkout, status: str) -> Json:
    return {
        "repo": one.repo, "dest": one.dest, "path": one.path, "status": status, "before": "", "after": "", "detail": "",
        "removed_config": [], "quarantined": "",
    }  # fmt: skip


def _bring_up(workspace: Workspace, one: Checkout, in_use: str, check: bool, outcome: Json) -> None:
    if _vacant(one.path):
        outcome["status"] = "cloned"
        if not check:
            outcome["after"] = _clone(workspace, one)
        return
    if in_use:
        outcome.update(status="busy", detail=f"{in_use}; it was left as it is")
        return
    why = _damage(one.path)
    with contextlib.ExitStack() as stack:
        try:
            if not why:
                if not check:  # a heal of its worktrees takes turns with this
                    stack.enter_context(alone_in(f"{one.path}/.git", LOCK_SECONDS))
                _advance(workspace, one, check, outcome)
                return
        except Damaged as error:
            why = str(error)
        _make_anew(workspace, one, why, check, outcome)


def _advance(workspace: Workspace, one: Checkout, check: bool, outcome: Json) -> None:
    """A checkout that looks sound to its tip. Raises Damaged where it is not sound after all."""
    common = f"{one.path}/.git"
    outcome["removed_config"] = _tidy_config(workspace, one, check)
    if not check:
        _unlock(one.path)
    state = _state(one.path)
    tip = _remote_tip(workspace, one)
    outcome.update(before=state["oid"], after=tip)
    current = state["branch"] == one.version and state["oid"] == tip and not state["dirty"]
    if not current and not check:
        refs = "+refs/heads/*:refs/remotes/origin/*"
        fetch(common, one.url, refs, *_access(workspace, one), NETWORK_SECONDS)
    if current or not check:
        check_whole(common, tip)
    if current:
        outcome["status"] = "current"
        return
    reasons = _in_the_way(one, state, tip)
    replaced = _replaced(one.path, state["oid"], tip)
    if replaced:
        more = f" and {len(replaced) - 3} more" if len(replaced) > 3 else ""
        reasons.append(f"the tip replaces {', '.join(replaced[:3])}{more}, which git ignores in it")
        state["dirty"] = True
    if not reasons:
        outcome["status"] = "updated"
        if not check:
            _git(one.path, ["merge", "--quiet", "--ff-only", tip])
    elif workspace.conflicts == "report":
        outcome.update(status="left", after=state["oid"], detail=f"{', '.join(reasons)}; it was left as it is")
    else:
        outcome.update(status="restored", detail=", ".join(reasons))
        if not check:
            outcome["quarantined"] = _put_aside(workspace, one, state, tip, reasons)
            _git(one.path, ["checkout", "--quiet", "--force", "--no-track", "-B", one.version, tip])


# --- looking ------------------------------------------------------------------------------


def _git(path: str, arguments: Sequence[str], ok: Sequence[int] = (0,)) -> tuple[int, str, str]:
    """git in this checkout and no other, asking nobody else: where it fails, or does not end, it is damaged."""
    try:
        return git(path, arguments, ok=ok, environment={"GIT_DIR": f"{path}/.git"})
    except LoopError as error:
        raise Damaged(str(error)) from error


def _vacant(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode) and not os.listdir(path)
    except FileNotFoundError:
        return True
    except PermissionError:
        return False


def _damage(path: str) -> str:
    """Why what stands at ``path`` is no checkout that git may be run in; empty where it is one. No git is run."""
    common = f"{path}/.git"
    for place in (path, common):
        try:
            if not stat.S_ISDIR(os.lstat(place).st_mode):
                return f"{place} is not what a checkout has there"
        except (FileNotFoundError, NotADirectoryError):
            return f"{place} is missing"
        except OSError as error:
            return f"{place} cannot be looked at: {error.strerror}"
    odd = flaw(common)
    for name in (".gitattributes", ".gitignore", ".gitmodules"):  # git takes a link for none, and waits at a pipe
        status = None if odd else lstat_of(f"{path}/{name}")
        if status and not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode):
            odd = f"{path}/{name} is no file"
    if os.path.lexists(f"{common}/objects/info/alternates"):
        odd = odd or "its objects are those of another repository"
    return odd


def _state(path: str) -> Json:
    """Commit, branch and cleanness; Damaged where git cannot say."""
    _status, out, _err = _git(path, ["status", "--porcelain=v2", "--branch", "--untracked-files=normal", "-z"])
    entries = out.split("\0")
    head = dict(entry[2:].split(" ", 1) for entry in entries if entry.startswith("# "))
    unfinished = any(os.path.lexists(f"{path}/.git/{name}") for name in UNFINISHED)
    return {
        "oid": head.get("branch.oid", ""),
        "branch": head.get("branch.head", ""),
        "dirty": unfinished or any(entry and not entry.startswith("# ") for entry in entries),
    }


def _remote_tip(workspace: Workspace, one: Checkout) -> str:
    wanted = f"refs/heads/{one.version}"
    tip = remote_refs(one.url, wanted, *_access(workspace, one), NETWORK_SECONDS).get(wanted)
    if not tip:
        raise LoopError(f"{one.url} has no branch {one.version}")
    return tip


def _in_the_way(one: Checkout, state: Json, tip: str) -> list[str]:
    """Why this is no plain step forward to the tip."""
    reasons = ["it has local changes"] if state["dirty"] else []
    if state["branch"] == "(detached)":
        reasons.append(f"its HEAD is detached at {state['oid'][:12]}")
    elif state["branch"] != one.version:
        reasons.append(f"it is on {state['branch']} instead of {one.version}")
    elif state["oid"] != "(initial)" and not _reached(one.path, state["oid"], tip):
        reasons.append(f"its {one.version} has commits that {one.url} does not have there")
    return reasons


def _replaced(path: str, commit: str, tip: str) -> list[str]:
    """What git would replace by files that the tip brings, without a word, since the checkout has it ignored.

    In check mode a tip that was not fetched replaces nothing.
    """
    if _git(path, ["cat-file", "-e", f"{tip}^{{commit}}"], ok=ANY)[0]:
        return []
    ignored = _names(path, ["ls-files", "--others", "--ignored", "--exclude-standard", "--directory", "-z"])
    if not ignored:
        return []
    known = ["ls-tree"] if commit == "(initial)" else ["diff-tree", "--diff-filter=A", commit]
    brought = _names(path, [*known, "-r", "--name-only", "-z", tip])
    found = set[str]()
    for name in brought:
        above = [name[:at] for at, letter in enumerate(name) if letter == "/"]
        inside = any(f"{place}/" in ignored for place in above) and os.path.lexists(f"{path}/{name}")
        found |= {name} if inside or {name, f"{name}/"} & ignored else set(above) & ignored
    return sorted(found)


def _names(path: str, arguments: Sequence[str]) -> set[str]:
    """The names that git prints, each ended by a NUL."""
    return {name for name in _git(path, arguments)[1].split("\0") if name}


def _reached(path: str, commit: str, tip: str) -> bool:
    """Whether ``commit`` is part of ``tip``. In check mode a tip that was not fetched counts as a step forward."""
    if _git(path, ["cat-file", "-e", f"{tip}^{{commit}}"], ok=ANY)[0]:
        return True
    return _git(path, ["merge-base", "--is-ancestor", commit, tip], ok=ANY)[0] == 0


# --- doing --------------------------------------------------------------------------------


def _access(workspace: Workspace, one: Checkout) -> tuple[dict[str, str], dict[str, str]]:
    environment, config = credentials(one.url, workspace.token, workspace.git_url)
    return environment, {**config, "http.lowSpeedLimit": "1000", "http.lowSpeedTime": "30"}


def _clone(workspace: Workspace, one: Checkout, instead: Callable[[], None] = lambda: None) -> str:
    """Beside its place, then renamed into it, so that a killed clone is never taken for a checkout.

    ``instead`` is called when the clone is complete: it makes the place free.
    """
    environment, config = _access(workspace, one)
    aside = tempfile.mkdtemp(prefix=f".clone-{one.dest}-", dir=workspace.root)
    try:
        git(
            workspace.root,
            ["clone", "--quiet", "--no-tags", "--template=", "--branch", one.version, "--", one.url, aside],
            environment=environment, config=config, timeout=NETWORK_SECONDS,
        )  # fmt: skip
        placed = replace(one, path=aside)
        _tidy_config(workspace, placed, check=False)
        os.chmod(aside, 0o750)
        commit = git(aside, ["rev-parse", "HEAD"])[1].strip()
        instead()
        os.rename(aside, one.path)
    except LoopError as error:
        raise LoopError(f"{one.url} cannot be cloned: {error}") from error
    finally:
        with contextlib.suppress(LoopError):
            remove_tree(aside)
    return commit


def _tidy_config(workspace: Workspace, one: Checkout, check: bool) -> list[str]:
    """The checkout's configuration as it should be; the names of what was wrong in it or is set anew.

    What decides over our own git calls is removed before the first of them looks at it.
    """
    place = f"{one.path}/.git/config"
    status, out, _err = git("/", ["config", "--file", place, "--no-includes", "--list", "-z"], ok=ANY)
    if status:
        raise Damaged(f"git cannot read {place}")
    given = [(key, value) for key, *value in (entry.split("\n", 1) for entry in out.split("\0") if entry)]
    foreign = sorted({key for key, _value in given if not HARMLESS.fullmatch(key)})
    wanted = {
        "remote.origin.url": one.url,
        "remote.origin.fetch": "+refs/heads/*:refs/remotes/origin/*",
        "user.name": workspace.git_user_name,
        "user.email": workspace.git_user_email,
    }
    differing = [name for name, text in wanted.items() if text and [v for k, v in given if k == name] != [[text]]]
    if not check and (foreign or differing):
        gone = {*foreign, *differing}
        kept = [(key, value) for key, value in given if key not in gone]
        text = _config_text([*kept, *((key, [wanted[key]]) for key in differing)])
        write_atomic(place, text.encode("utf-8", "surrogateescape"))
    return [*foreign, *differing]


def _config_text(entries: Iterable[tuple[str, list[str]]]) -> str:
    """A git configuration file: written whole, for to remove thousands of settings one by one takes hours."""
    lines = []
    for key, value in entries:
        section, _dot, rest = key.partition(".")
        below, _dot, name = rest.rpartition(".")
        lines.append(f'[{section} "{_quoted(below)}"]' if below else f"[{section}]")
        quoted = "".join(value).translate({10: "\\n", 9: "\\t", 8: "\\b", 34: '\\"', 92: "\\\\"})
        lines.append(f'\t{name} = "{quoted}"' if value else f"\t{name}")
    return "".join(f"{line}\n" for line in lines)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _unlock(path: str) -> None:
    """Remove what a git that was killed left of its locks, by name; Damaged where one is no file."""
    refs = [name for name in files_below(f"{path}/.git/refs") if name.endswith(".lock")]
    locks = [*git_locks(f"{path}/.git"), *refs]
    running = processes() if locks else None
    for lock in locks:
        holder = lock_holder(lock, open_repo(path), running) if running else None
        if holder:
            raise LoopError(f"{lock} is held by {holder}: wait for it to end")
        try:
            os.unlink(lock)
        except OSError as error:
            raise Damaged(f"{lock} cannot be removed: {error.strerror}") from error


def _put_aside(workspace: Workspace, one: Checkout, state: Json, tip: str, reasons: list[str]) -> str:
    """Keep what would be gone at the tip: commits under refs/salvage, the whole working tree by renames.

    The repository itself stays: worktrees of runs that wait for a person hang on it.
    """
    stamp = _stamp()
    manifest: Json = {"why": reasons, "branch": state["branch"], "salvaged": {}}
    branch = _git(one.path, ["rev-parse", "--verify", "--quiet", f"refs/heads/{one.version}"], ok=ANY)[1].strip()
    for name, commit in (("HEAD", state["oid"]), (one.version, branch)):
        if re.fullmatch(r"[0-9a-f]{40,64}", commit) and not _reached(one.path, commit, tip):
            _git(one.path, ["update-ref", f"refs/salvage/{stamp}/{name}", commit])
            manifest["salvaged"][f"refs/salvage/{stamp}/{name}"] = commit
    manifest["restore"] = f"git -C {one.path} checkout --detach {state['oid']}"
    if state["dirty"]:
        manifest["restore"] += f" && rsync -a --delete --exclude=.git {{this directory}}/tree/ {one.path}/"
    place = _new_place(workspace, one, stamp, manifest)
    if state["dirty"]:
        os.makedirs(f"{place}/tree")
        os.makedirs(f"{place}/git")
        if os.path.exists(f"{one.path}/.git/index"):
            shutil.copyfile(f"{one.path}/.git/index", f"{place}/git/index")
        for name in os.listdir(one.path):
            if name != ".git":
                os.rename(f"{one.path}/{name}", f"{place}/tree/{name}")
        for name in UNFINISHED:
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{one.path}/.git/{name}", f"{place}/git/{name}")
    return place


def _make_anew(workspace: Workspace, one: Checkout, why: str, check: bool, outcome: Json) -> None:
    """Something that is no checkout stands in its place: it is moved aside whole, and cloned anew."""
    if workspace.conflicts == "report":
        outcome.update(status="left", detail=f"{why}; it was left as it is")
        return
    outcome.update(status="restored", detail=why)
    if check:
        return
    stamp = _stamp()

    def make_way() -> None:
        restore = f"mv {{this directory}}/whole {one.path}"
        place = _new_place(workspace, one, stamp, {"why": [why], "restore": restore})
        move(one.path, f"{place}/whole")
        outcome["quarantined"] = place

    outcome["after"] = _clone(workspace, one, make_way)


def _new_place(workspace: Workspace, one: Checkout, stamp: str, manifest: Json) -> str:
    """A directory in quarantine with the manifest in it, written before anything is moved there."""
    place = os.path.join(workspace.root, QUARANTINE, f"{one.dest}-{stamp}")
    os.makedirs(place, mode=0o750)
    whole = {"checkout": one.path, "repo": one.repo, "at": stamp, **manifest}
    text = json.dumps(whole, indent=2, sort_keys=True).replace("{this directory}", place)
    write_atomic(f"{place}/manifest.json", f"{text}\n".encode(), mode=0o640)
    return place


def _stamp() -> str:
    return f"{fine_stamp()}-{threading.get_native_id()}"
