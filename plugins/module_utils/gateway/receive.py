# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A push of the cycle: received into a repository of the gateway's own, judged there, and only then sent on.

git's index-pack takes in what is sent: every object is hashed and checked. What is judged is what was received, and
exactly that is forwarded, against the exact old value. What is refused is kept in ``gate_dir/kept``, where a person
finds it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from ..base import journal, untrusted, wire
from ..base.clock import age_of, stamp, utc_now
from ..base.errors import LoopError, playbook
from ..base.files import remove_tree, write_atomic
from ..base.sizes import limits_of
from ..base.untrusted import show
from ..cell import pristine
from ..cell.pristine import Clone
from ..git.command import ANY, git, helpers, rows
from ..host.settings import Settings, change_id
from ..policy import document, gate
from ..policy.gate import Violation
from . import audit
from .forward import Forwarding
from .requests import HEADS, Asking, deployed_policy

Json: TypeAlias = dict[str, Any]
# One for each line that may be shown to the engine while its push waits.
Say: TypeAlias = Callable[[str], None]

DEFAULT_PREFIXES = ["docs"]  # the engine's own
REASONS_TOLD = 3
NONE = re.compile(r"0{40}|0{64}")
BRANCH = re.compile(r"[!-~]{1,200}")
MAX_INPUT = 256 * 1024 * 1024  # of a pack, as it comes
# What is in it, when unpacked, may be this many times what a change may add; more is no change but a bomb.
BOMB = 8
# A pack up to this size is not looked into before: what git says of it is bounded, and so is its memory.
SMALL = 65_536
MAX_OBJECTS = 200_000
MAX_LISTED = 64 * 1024 * 1024  # of the names of what changes
# Of what is refused, so much of one cycle is kept: whoever pushes on and on fills no disk.
KEPT_PER_CYCLE, KEPT_BYTES = 5, 64 * 1024 * 1024
RECEIVE_SECONDS = 600.0
# What the client may use, in git's words.
ABILITIES = "report-status side-band-64k ofs-delta delete-refs atomic object-format={}"
UPDATE = re.compile(r"(shallow|[0-9a-f]{40,64}) ([0-9a-f]{40,64})(?: (.*))?", re.DOTALL)
MAX_REFS, MAX_ASKED, MAX_SENT = 1000, 5000, 65_000
# Only what is kept has to outlive a crash.
RECEIVING = {"core.bigFileThreshold": "16m", "pack.threads": "1", "core.fsync": "none"}


class Update(NamedTuple):
    """A ref that is to be changed; or, without a ref, where the client's history is cut off."""

    old: str
    new: str
    ref: str

    @property
    def shallow(self) -> bool:
        return self.old == "shallow"


class NotAllowed(LoopError):
    """The judge, or the forge, said no to what was received."""


# --- receiving ----------------------------------------------------------------------------------


def receive(asking: Asking, clone: Clone, connection: socket.socket) -> None:
    """Serve one ``git push`` on the connection, from the greeting to the report: gitprotocol-pack(5)."""
    config = asking.config
    disk = os.statvfs(config.gate_dir)
    if disk.f_bavail * disk.f_frsize < 2 * MAX_INPUT:
        raise LoopError(f"less than {2 * MAX_INPUT >> 20} MiB are free in {config.gate_dir}: nothing is received")
    with asking.turn():
        story = asking.story()
        asking.note("receive", repo=clone.repo, dest=clone.dest)  # the forge is asked each time
        home = make_inbox(config, clone, story.tips.get(clone.dest, ""))
        try:
            with Forwarding(clone, asking.token(), home) as way:
                connection.sendall(_greeting(home))
                updates = _asked_for(connection)
                if not updates or updates[0].shallow:  # the client sees that all is here already
                    return
                said: list[str] = []
                whole = _received(asking, clone, connection, home, updates, said.append)
                allowed = whole and decide(asking, clone, home, updates, said.append, way)
                _report(connection, updates, said, whole, allowed)
        finally:
            remove_tree(home)


def _greeting(home: str) -> bytes:
    """What is shown to the client, and what it may use."""
    refs = _refs(home)
    able = ABILITIES.format("sha256" if len(refs[0][0]) == 64 else "sha1")
    lines = [f"{' '.join(refs[0])}\0{able}", *map(" ".join, refs[1:])]
    return b"".join(wire.packet(f"{line}\n".encode()) for line in lines) + b"0000"


def _asked_for(connection: socket.socket) -> list[Update]:
    """What the client wants to be changed, and last, where its history is cut off; what is sent for that follows."""
    updates: list[Update] = []
    ends = time.monotonic() + RECEIVE_SECONDS
    connection.settimeout(RECEIVE_SECONDS)
    while line := wire.unpacked(connection, most=MAX_ASKED, seconds=ends - time.monotonic()):
        words = UPDATE.fullmatch(line.split(b"\0")[0].decode("utf-8", "surrogateescape").rstrip("\n"))
        if not words or len(updates) >= MAX_REFS:
            raise LoopError("nothing that git asks for in a push")
        updates.append(Update(*words.groups("")))
    return sorted(updates, key=lambda update: update.shallow)


def _received(
    asking: Asking, clone: Clone, connection: socket.socket, home: str, updates: Sequence[Update], say: Say
) -> bool:
    """Take in what is sent: each object hashed and checked, and all that it names is there."""
    if all(update.shallow or NONE.fullmatch(update.new) for update in updates):
        return True  # then nothing is
    connection.settimeout(None)
    words = ["index-pack", "--stdin", "--fix-thin", "--strict", f"--max-input-size={MAX_INPUT}"]
    try:
        git(
            home, words, stdin=connection.fileno(), environment={"GIT_DIR": home}, config=RECEIVING,
            timeout=RECEIVE_SECONDS, most=2 * MAX_INPUT,
        )  # fmt: skip
    except LoopError as error:
        why = f"it was not received whole: {show(str(error).replace(home, 'the gateway'), 1000)}"
        asking.note("refused", asked=f"push to {clone.repo}", why=why)
        say(f"push refused: {why}; nothing was published")
        return False
    return True


def _report(
    connection: socket.socket, updates: Sequence[Update], said: Sequence[str], whole: bool, allowed: bool
) -> None:
    """How each ref fared, and what a person has to know of it."""
    fared = [f"ok {one.ref}" if allowed else f"ng {one.ref} refused by the gateway" for one in updates if one.ref]
    lines = [f"unpack {'ok' if whole else 'index-pack failed'}\n", *(f"{line}\n" for line in fared)]
    report = b"".join(wire.packet(line.encode("utf-8", "surrogateescape")) for line in lines) + b"0000"
    told = "".join(f"{show(line, 2000)}\n" for line in said).encode()
    connection.settimeout(wire.SECONDS)
    with contextlib.suppress(OSError):  # who has gone hears nothing
        for band, content in ((b"\2", told), (b"\1", report)):
            for at in range(0, len(content), MAX_SENT):
                connection.sendall(wire.packet(band + content[at : at + MAX_SENT]))
        connection.sendall(b"0000")
        if not whole:
            wire.hear_out(connection)
        connection.shutdown(socket.SHUT_RDWR)  # nobody has to wait for what follows


def make_inbox(config: Settings, clone: Clone, start: str) -> str:
    """A bare repository for one push, which borrows from the clone and shows the client where work starts from.

    ``start`` is the base's commit when the cycle began: the client has that one, whatever the forge has by now.
    """
    home = f"{config.gate_dir}/inbox/{stamp()}-{os.urandom(4).hex()}.git"
    tip = pristine.read_tip(clone.path, clone.version)
    if not tip:
        raise LoopError(f"the gateway has no {clone.version} of {clone.repo} to compare with")
    refs = {f"{HEADS}{clone.version}": tip}
    if start and start != tip:
        refs["refs/start"] = start
    for name in ("objects/info", "refs"):
        os.makedirs(f"{home}/{name}", mode=0o700)
    sha256 = len(tip) == 64
    _put(f"{home}/HEAD", f"ref: {HEADS}{clone.version}\n")
    _put(f"{home}/objects/info/alternates", f"{clone.path}/objects\n")
    _put(
        f"{home}/packed-refs",
        "# pack-refs with: sorted \n" + "".join(f"{refs[name]} {name}\n" for name in sorted(refs)),
    )
    _put(
        f"{home}/config",
        f"[core]\n\trepositoryformatversion = {int(sha256)}\n\tbare = true\n"
        + "[extensions]\n\tobjectformat = sha256\n" * sha256,
    )
    return home


def _put(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as handle:
        handle.write(text)


# --- deciding -----------------------------------------------------------------------------------


def decide(asking: Asking, clone: Clone, home: str, updates: Sequence[Update], say: Say, way: Forwarding) -> bool:
    """Judge what was received and send it on; whether the forge has it now. Every answer is in the record."""
    began = time.monotonic()
    first = updates[0]
    entry: Json = {
        "dest": clone.dest, "repo": clone.repo, "branch": show(first.ref.removeprefix(HEADS)), "new": first.new,
    }  # fmt: skip
    try:
        _check_asked(asking, clone, updates)
        found, commits = judge(asking.config, clone, home, first)
        entry["judged"] = round(time.monotonic() - began, 3)
        if found:
            raise NotAllowed(_told(found))
        _forward(asking, clone, home, first, commits, entry, way)
    except (LoopError, OSError, MemoryError, ValueError) as error:
        if isinstance(error, MemoryError):
            error = NotAllowed("it needs more memory to be judged than any change does")
        reason = f"push refused: {error}"
        kept = _keep(asking, clone, home, first, reason)
        asking.note(
            "push", **entry, allowed=False, reason=show(reason, 2000), kept=kept,
            seconds=round(time.monotonic() - began, 3),
        )  # fmt: skip
        told = f"{reason}; nothing was published" + (f", the gateway keeps it as {kept}" if kept else "")
        say(told)
        journal.say(f"{clone.repo}: {show(told, 2000)}\n")
        return False
    asking.note("push", **entry, allowed=True, reason="", seconds=round(time.monotonic() - began, 3))
    return True


def _check_asked(asking: Asking, clone: Clone, updates: Sequence[Update]) -> None:
    """Refuse what is not this cycle's to push, before anybody looks into it."""
    if any(update.shallow for update in updates):
        raise NotAllowed("it comes from a clone whose history is cut off: git fetch --unshallow")
    if len(updates) != 1:
        names = ", ".join(show(update.ref) for update in updates[:3])
        raise NotAllowed(f"one branch is published at a time, not {len(updates)} refs ({names})")
    update = updates[0]
    if NONE.fullmatch(update.new):
        raise NotAllowed(f"{show(update.ref)} would be deleted")
    if not update.ref.startswith(HEADS):
        raise NotAllowed(f"{show(update.ref)} is no branch")
    branch, story = update.ref.removeprefix(HEADS), asking.story()
    if not BRANCH.fullmatch(branch):
        raise NotAllowed(f"{show(branch)} is no name that a person can read, allowed: at most 200 letters of ASCII")
    prefixes = asking.config.branch_prefixes
    own = next((prefix for prefix in prefixes if branch.startswith(f"{prefix}/")), None)
    if own is None:
        raise NotAllowed(f"{show(branch)} is not the loop's own, allowed: below {', '.join(prefixes)}")
    change = branch.removeprefix(f"{own}/").split("/")[0]
    if asking.bound:
        if story.taken is None:
            raise NotAllowed("this cycle has taken no issue, so it has nothing to publish")
        if clone.repo != story.taken[0]:
            raise NotAllowed(f"this cycle took {story.issue}, so it publishes nothing to {clone.repo}")
        wanted = change_id(*story.taken)
        if change != wanted:
            raise NotAllowed(f"{show(branch)} is not of the issue that this cycle took, allowed: {own}/{wanted}/...")
        other = next((one for one in story.forwarded if one != branch), None)
        if other:
            raise NotAllowed(f"this cycle has published {other} already, and publishes one branch")


def judge(config: Settings, clone: Clone, home: str, update: Update) -> tuple[list[Violation], Sequence[str]]:
    """Every reason why what was received may not be published, none lets it through; and the commits that it has."""
    policy = deployed_policy(config)
    found = gate.judge_branch(policy, update.ref.removeprefix(HEADS), clone.dest)
    if found:
        return found, ()
    base = base_of(home, clone)
    if sum(os.path.getsize(path) for path in _packs(home)) > SMALL:
        _check_size(policy, clone, home, update.new, base)
    try:
        work = gate.work_between(home, base, update.new, {"GIT_DIR": home})
    except LoopError:  # of a small pack that is large after all: say what is
        _check_size(policy, clone, home, update.new, base)
        raise
    if update.new not in work.names:
        raise NotAllowed(f"{update.new[:12]} is no commit on top of what {clone.repo} has")
    found += gate.judge_changes(policy, clone.dest, work.changes, _allowed(config, clone))
    found += gate.judge_text(policy, clone.dest, "a commit", work.commits)
    most = int(document.guards(policy, clone.dest)["max_patch_bytes"])
    if len(work.commits) > most:
        reason = f"are {len(work.commits)} letters, allowed: {most}"
        found.append(Violation("guards.max_patch_bytes", "the commits", reason))
    return found, work.names


def _refs(home: str) -> list[list[str]]:
    """What the client was shown: (commit, name)."""
    with open(f"{home}/packed-refs", encoding="utf-8") as handle:
        return [line.rstrip("\n").split(" ", 1) for line in handle if not line.startswith("#")]


def ready(config: Settings) -> None:
    """Read the policy, compile its patterns and look for git once, before there is a process for each connection."""
    helpers()
    policy = deployed_policy(config)
    page = [gate.Change("docs/page.md", mode="100644", added=("A page",))]
    for clone in pristine.clones(config):
        gate.judge_changes(policy, clone.dest, page, _allowed(config, clone))


def _allowed(config: Settings, clone: Clone) -> Sequence[str]:
    found: Sequence[str] = config.allowed_paths.get(clone.dest) or DEFAULT_PREFIXES
    return found


def base_of(home: str, clone: Clone) -> str:
    """The base's commit when the inbox was made, which is what the client was shown."""
    return next(commit for commit, name in _refs(home) if name == f"{HEADS}{clone.version}")


def _packs(home: str) -> list[str]:
    """The files in which git keeps what it has received."""
    place = f"{home}/objects/pack"
    return [f"{place}/{name}" for name in os.listdir(place)] if os.path.isdir(place) else []


def _check_size(policy: document.Policy, clone: Clone, home: str, new: str, base: str) -> None:
    """Refuse what unpacks to far more than a change may be, before git writes it out as a difference."""
    most = int(document.guards(policy, clone.dest)["max_patch_bytes"]) * BOMB
    inside = {"GIT_DIR": home}
    words = ["rev-list", "--objects", "--no-object-names", new, f"^{base}"]
    status, listed, _err = git(home, words, environment=inside, ok=(0, 128), most=MAX_LISTED)
    if status:
        raise NotAllowed(f"{show(new[:12])} is no commit on top of what {clone.repo} has")
    names = rows(listed)
    if len(names) > MAX_OBJECTS:
        raise NotAllowed(f"more than {MAX_OBJECTS} objects were received")
    asked = ["cat-file", "--batch-check=%(objecttype) %(objectsize)"]
    told = git(home, asked, environment=inside, stdin="".join(f"{one}\n" for one in names).encode())[1]
    if names and (names[0] != new or not told.startswith("commit ")):
        raise NotAllowed(f"{new[:12]} is no commit")
    lines = list(zip(names, rows(told), strict=True))
    total = sum(int(line.split(" ")[1]) for _name, line in lines if " missing" not in line)
    if total <= most:
        commits = [name for name, line in lines if line.startswith("commit ")]
        total, lost = _written_out(clone, home, commits)
        if lost > MAX_LISTED:
            raise NotAllowed(f"{lost} bytes would be taken away, allowed: {MAX_LISTED}")
    if total > most:
        raise NotAllowed(
            f"{total} bytes would be unpacked, more than {BOMB} times what a change may add [max_patch_bytes]"
        )


def _written_out(clone: Clone, home: str, commits: Sequence[str]) -> tuple[int, int]:
    """How many bytes of files these commits bring, and take away, when they are written out.

    A few trees can name a file a million times. git lists what changes in memory first, which is bounded.
    """
    inside = {"GIT_DIR": home}
    words = ["diff-tree", "--stdin", "-r", "-c", "--root", "--raw", "--no-abbrev", "--no-renames"]
    given = "".join(f"{name}\n" for name in commits).encode()
    try:
        listed = git(home, words, environment=inside, stdin=given, most=MAX_LISTED)[1]
    except LoopError as error:
        raise NotAllowed(f"more files would be changed in {clone.repo} than git can list: {error}") from error
    new, old = [], []
    for line in rows(listed):
        parents = len(line) - len(line.lstrip(":"))
        if parents:  # :MODE MODE SHA SHA STATUS; of a merge as many as it has parents, and the result
            *before, after = line[parents:].split(" ")[parents + 1 : 2 * parents + 2]
            new.append(after)
            old += before[:1]
    asked = "".join(f"{name}\n" for name in {*new, *old}).encode()
    told = git(home, ["cat-file", "--batch-check"], environment=inside, stdin=asked)[1]
    sizes = {words[0]: int(words[2]) for words in map(str.split, rows(told)) if len(words) == 3}
    return sum(sizes.get(name, 0) for name in new), sum(sizes.get(name, 0) for name in old)


def _told(found: Sequence[Violation]) -> str:
    more = f" and {len(found) - REASONS_TOLD} more" if len(found) > REASONS_TOLD else ""
    return "; ".join(map(str, found[:REASONS_TOLD])) + more


# --- sending on ---------------------------------------------------------------------------------


def _forward(
    asking: Asking, clone: Clone, home: str, update: Update, commits: Sequence[str], entry: Json, way: Forwarding
) -> None:
    """Exactly what was judged goes to the forge, if it still has there what we think; else NotAllowed, in its words."""
    branch = update.ref.removeprefix(HEADS)
    before = asking.story().forwarded.get(branch, {}).get("new", "")
    old = before or pristine.read_tip(clone.path, branch)
    words = ["merge-base", "--is-ancestor", before, update.new]
    if before and before not in commits and git(home, words, environment={"GIT_DIR": home}, ok=ANY)[0]:
        raise NotAllowed(f"{show(branch)} has {before[:12]}, which this cycle published and which would be lost")
    if old and not before:
        _give_way(asking, clone, branch, old)
    asking.note("forward", **entry, old=old)
    _check_asked(asking, clone, [update])  # from here on the issue stands; it may have taken another one meanwhile
    if refused := way.push(update.new, update.ref, old):
        raise NotAllowed(f"the forge refuses it: {refused}")
    entry["old"] = old


def _give_way(asking: Asking, clone: Clone, branch: str, old: str) -> None:
    """A branch of ours that stands on the forge without an open pull request is kept here and makes room."""
    pulls = asking.forge.pulls(clone.repo, state="open", head=branch)
    if pulls:
        raise NotAllowed(f"{show(branch)} has the open pull request {pulls[0]['html_url']}")
    why = "an earlier cycle published it, and no pull request is open for it"
    kept = keep(asking, clone, branch, old, why, [])
    asking.note("replaced", repo=clone.repo, branch=branch, old=old, kept=kept)


# --- what is kept -------------------------------------------------------------------------------


def _keep(asking: Asking, clone: Clone, home: str, update: Update, reason: str) -> str:
    """Keep what was refused; its name, or empty where there is nothing to keep or no room for it."""
    if NONE.fullmatch(update.new) or not re.fullmatch(r"[0-9a-f]{40,64}", update.new):
        return ""
    kept_before = [one for one in asking.story().pushes if one.get("kept")]
    same = next((str(one["kept"]) for one in kept_before if one.get("new") == update.new), "")
    if same or len(kept_before) >= KEPT_PER_CYCLE:
        return same
    with contextlib.suppress(OSError, LoopError):
        files = _packs(home)
        if sum(os.stat(path).st_size for path in files) > KEPT_BYTES:
            return ""  # no work is that large, and the cell has it
        return keep(asking, clone, update.ref.removeprefix(HEADS), update.new, reason, files)
    return ""


def keep(asking: Asking, clone: Clone, branch: str, commit: str, why: str, packs: Sequence[str]) -> str:
    """A small repository in ``kept`` with this commit as its branch ``kept``; the name of what is kept."""
    config = asking.config
    name = f"{stamp()}-{os.urandom(4).hex()}"
    making = make_inbox(config, clone, "")
    try:
        os.makedirs(f"{making}/objects/pack", mode=0o700)
        for path in packs:
            os.link(path, f"{making}/objects/pack/{os.path.basename(path)}")
            with open(path, "rb") as handle:
                os.fsync(handle)
        git(making, ["update-ref", f"{HEADS}kept", commit], environment={"GIT_DIR": making})
        told = {
            "id": name, "at": utc_now(), "cycle": asking.cycle, "repo": clone.repo, "dest": clone.dest,
            "branch": show(branch), "commit": commit, "why": show(why, 1000),
        }  # fmt: skip
        write_atomic(f"{making}/kept.json", (json.dumps(told, indent=1) + "\n").encode(), 0o600)
        os.rename(making, f"{config.gate_dir}/kept/{name}.git")
    except (LoopError, OSError):
        shutil.rmtree(making, ignore_errors=True)
        raise
    return name


def kept(config: Settings) -> list[Json]:
    """What is kept, oldest first: ``{id at cycle repo dest branch commit why path}``."""
    place = f"{config.gate_dir}/kept"
    found: list[Json] = []
    for name in sorted(os.listdir(place)) if os.path.isdir(place) else []:
        with contextlib.suppress(LoopError):
            content = untrusted.read(f"{place}/{name}/kept.json", config.gate_dir, 65536) or b""
            one = untrusted.parse(content, name)
            if {"at", "cycle", "repo", "dest", "branch", "commit", "why"} <= one.keys():
                found.append({**one, "id": name.removesuffix(".git"), "path": f"{place}/{name}"})
    return found


def restore(config: Settings, name: str, branch: str, *, check: bool = False) -> Json:
    """As root: what is kept under this name as ``branch`` of a fresh clone for a person; ``{path branch ...}``."""
    one = next((one for one in kept(config) if one["id"] == name), None)
    if one is None:
        raise LoopError(f"the gateway keeps nothing as {show(name)}: {playbook('restore')} lists it")
    clone = next((clone for clone in pristine.clones(config) if clone.dest == one["dest"]), None)
    if clone is None:
        raise LoopError(f"{name} is of {show(str(one['dest']))}, which is no repository of this loop any more")
    place, commit = f"{pristine.place_for(config, name, branch)}/{clone.dest}", str(one["commit"])
    if not check:
        pristine.hand_out(config, clone, name, place, branch, one["path"], lambda _making: commit)
    return {"changed": True, "brought": [{"checkout": clone.dest, "path": place, "branch": branch, "left_out": []}]}


def tidy(config: Settings) -> None:
    """As the gateway, before a cycle: half-received pushes go, and what was kept long enough."""
    with audit.turn(config):
        for name in os.listdir(f"{config.gate_dir}/inbox"):
            remove_tree(f"{config.gate_dir}/inbox/{name}")
    limits = limits_of(config.quarantine_keep)
    age, room = limits.get("age"), limits.get("size")
    for one in reversed(kept(config)):  # the newest first
        size = sum(os.lstat(f"{top}/{name}").st_size for top, _names, files in os.walk(one["path"]) for name in files)
        room = None if room is None else room - size
        if (age is not None and age_of(one["id"]) > age) or (room is not None and room < 0):
            remove_tree(one["path"])
