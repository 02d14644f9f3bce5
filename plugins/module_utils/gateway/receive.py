# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A push of the cycle: received into a repository of the gateway's own, judged there, and only then sent on.

git's index-pack takes in what is sent: every object is hashed and checked. What is judged is what was received, and
exactly that is forwarded, against the exact old value. What is refused is kept, see ``kept``.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from ..base import journal, wire
from ..base.errors import LoopError
from ..base.files import remove_tree
from ..base.untrusted import show
from ..cell import pristine
from ..cell.pristine import HEADS, Clone
from ..git.command import ANY
from ..host.settings import change_id
from ..policy.change import Violation
from . import inbox
from .asking import Asking
from .forward import Forwarding
from .inbox import Inbox
from .judge import NotAllowed, judge
from .kept_pushes import keep

Json: TypeAlias = dict[str, Any]

REASONS_TOLD = 3
NONE = re.compile(r"0{40}|0{64}")
BRANCH = re.compile(r"[!-~]{1,200}")
MAX_INPUT = 256 * 1024 * 1024  # of a pack, as it comes
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

    @property
    def branch(self) -> str:
        return self.ref.removeprefix(HEADS)


def receive(asking: Asking, clone: Clone, connection: socket.socket) -> None:
    """Serve one ``git push`` on the connection, from the greeting to the report: gitprotocol-pack(5)."""
    config = asking.config
    disk = os.statvfs(config.gate_dir)
    if disk.f_bavail * disk.f_frsize < 2 * MAX_INPUT:
        raise LoopError(f"less than {2 * MAX_INPUT >> 20} MiB are free in {config.gate_dir}: nothing is received")
    with asking.turn():
        story = asking.story()
        asking.note("receive", repo=clone.repo, dest=clone.dest)  # the forge is asked each time
        into = inbox.make(config, clone, story.tips.get(clone.dest, ""))
        try:
            with Forwarding(clone, asking.token(), into.home) as way:
                connection.sendall(_greeting(into))
                updates = _asked_for(connection)
                if not updates or updates[0].shallow:  # the client sees that all is here already
                    return
                push = Push(asking, into, updates)
                whole = push.take_in(connection)
                allowed = whole and push.decide(way)
                _report(connection, push, whole, allowed)
        finally:
            remove_tree(into.home)


# --- git's protocol -----------------------------------------------------------------------------


def _greeting(into: Inbox) -> bytes:
    """What is shown to the client, and what it may use."""
    refs = into.refs()
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


def _report(connection: socket.socket, push: Push, whole: bool, allowed: bool) -> None:
    """How each ref fared, and what a person has to know of it."""
    refs = [update.ref for update in push.updates if update.ref]
    fared = [f"ok {ref}" if allowed else f"ng {ref} refused by the gateway" for ref in refs]
    lines = [f"unpack {'ok' if whole else 'index-pack failed'}\n", *(f"{line}\n" for line in fared)]
    report = b"".join(wire.packet(line.encode("utf-8", "surrogateescape")) for line in lines) + b"0000"
    told = "".join(f"{show(line, 2000)}\n" for line in push.said).encode()
    connection.settimeout(wire.SECONDS)
    with contextlib.suppress(OSError):  # who has gone hears nothing
        for band, content in ((b"\2", told), (b"\1", report)):
            for at in range(0, len(content), MAX_SENT):
                connection.sendall(wire.packet(band + content[at : at + MAX_SENT]))
        connection.sendall(b"0000")
        if not whole:
            wire.hear_out(connection)
        connection.shutdown(socket.SHUT_RDWR)  # nobody has to wait for what follows


# --- what comes of it ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Push:
    """One push: who asks, the repository that receives it, and what is to be changed, the ref that counts first."""

    asking: Asking
    into: Inbox
    updates: Sequence[Update]
    said: list[str] = field(default_factory=list)  # lines that the engine is shown while its push waits

    @property
    def clone(self) -> Clone:
        return self.into.clone

    def take_in(self, connection: socket.socket) -> bool:
        """Take in what is sent: each object hashed and checked, and all that it names is there. Whether it was."""
        if all(update.shallow or NONE.fullmatch(update.new) for update in self.updates):
            return True  # then nothing is
        connection.settimeout(None)
        words = ["index-pack", "--stdin", "--fix-thin", "--strict", f"--max-input-size={MAX_INPUT}"]
        try:
            self.into.git(
                words, stdin=connection.fileno(), config=RECEIVING, timeout=RECEIVE_SECONDS, most=2 * MAX_INPUT
            )
        except LoopError as error:
            why = show(str(error).replace(self.into.home, "the gateway"), 1000)
            why = f"it was not received whole: {why}"
            self.asking.note("refused", asked=f"push to {self.clone.repo}", why=why)
            self.said.append(f"push refused: {why}; nothing was published")
            return False
        return True

    def decide(self, way: Forwarding) -> bool:
        """Judge what was received and send it on; whether the forge has it now. Every answer is in the record."""
        began = time.monotonic()
        update, clone = self.updates[0], self.clone
        entry: Json = {"dest": clone.dest, "repo": clone.repo, "branch": show(update.branch), "new": update.new}
        try:
            self._check_asked(self.updates)
            found, commits = judge(self.asking.config, self.into, update.new, update.ref)
            entry["judged"] = round(time.monotonic() - began, 3)
            if found:
                raise NotAllowed(_told(found))
            entry["old"] = self._forward(way, commits, entry)
        except (LoopError, OSError, MemoryError, ValueError) as error:
            if isinstance(error, MemoryError):
                error = NotAllowed("it needs more memory to be judged than any change does")
            reason = f"push refused: {error}"
            kept = self._keep(reason)
            self.asking.note(
                "push", **entry, allowed=False, reason=show(reason, 2000), kept=kept,
                seconds=round(time.monotonic() - began, 3),
            )  # fmt: skip
            told = f"{reason}; nothing was published" + (f", the gateway keeps it as {kept}" if kept else "")
            self.said.append(told)
            journal.say(f"{clone.repo}: {show(told, 2000)}\n")
            return False
        self.asking.note("push", **entry, allowed=True, reason="", seconds=round(time.monotonic() - began, 3))
        return True

    def _check_asked(self, updates: Sequence[Update]) -> None:
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
        branch = update.branch
        if not BRANCH.fullmatch(branch):
            raise NotAllowed(f"{show(branch)} is no name that a person can read, allowed: at most 200 letters of ASCII")
        prefixes = self.asking.config.branch_prefixes
        own = next((prefix for prefix in prefixes if branch.startswith(f"{prefix}/")), None)
        if own is None:
            raise NotAllowed(f"{show(branch)} is not the loop's own, allowed: below {', '.join(prefixes)}")
        if self.asking.bound:
            self._check_issue(branch, own)

    def _check_issue(self, branch: str, prefix: str) -> None:
        """Refuse a branch that is not of the issue which this cycle took, and a second one."""
        story, repo = self.asking.story(), self.clone.repo
        if story.taken is None:
            raise NotAllowed("this cycle has taken no issue, so it has nothing to publish")
        if repo != story.taken[0]:
            raise NotAllowed(f"this cycle took {story.issue}, so it publishes nothing to {repo}")
        wanted = change_id(*story.taken)
        if branch.removeprefix(f"{prefix}/").split("/")[0] != wanted:
            raise NotAllowed(f"{show(branch)} is not of the issue that this cycle took, allowed: {prefix}/{wanted}/...")
        other = next((one for one in story.forwarded if one != branch), None)
        if other:
            raise NotAllowed(f"this cycle has published {other} already, and publishes one branch")

    def _forward(self, way: Forwarding, commits: Sequence[str], entry: Json) -> str:
        """Exactly what was judged goes to the forge, if it still has there what we think; what it had before.

        NotAllowed, in the forge's words, where it does not take it.
        """
        update = self.updates[0]
        before = self.asking.story().forwarded.get(update.branch, {}).get("new", "")
        old: str = before or pristine.read_tip(self.clone.path, update.branch)
        words = ["merge-base", "--is-ancestor", before, update.new]
        if before and before not in commits and self.into.git(words, ok=ANY)[0]:
            raise NotAllowed(
                f"{show(update.branch)} has {before[:12]}, which this cycle published and which would be lost"
            )
        if old and not before:
            self._give_way(update.branch, old)
        self.asking.note("forward", **entry, old=old)
        self._check_asked([update])  # from here on the issue stands; it may have taken another one meanwhile
        if refused := way.push(update.new, update.ref, old):
            raise NotAllowed(f"the forge refuses it: {refused}")
        return old

    def _give_way(self, branch: str, old: str) -> None:
        """A branch of ours that stands on the forge without an open pull request is kept here and makes room."""
        pulls = self.asking.forge.pulls(self.clone.repo, state="open", head=branch)
        if pulls:
            raise NotAllowed(f"{show(branch)} has the open pull request {pulls[0]['html_url']}")
        why = "an earlier cycle published it, and no pull request is open for it"
        kept = keep(self.asking, self.clone, branch, old, why, [])
        self.asking.note("replaced", repo=self.clone.repo, branch=branch, old=old, kept=kept)

    def _keep(self, reason: str) -> str:
        """Keep what was refused; its name, or empty where there is nothing to keep or no room for it."""
        update = self.updates[0]
        if NONE.fullmatch(update.new) or not re.fullmatch(r"[0-9a-f]{40,64}", update.new):
            return ""
        kept_before = [one for one in self.asking.story().pushes if one.get("kept")]
        same = next((str(one["kept"]) for one in kept_before if one.get("new") == update.new), "")
        if same or len(kept_before) >= KEPT_PER_CYCLE:
            return same
        with contextlib.suppress(OSError, LoopError):
            files = self.into.packs()
            if sum(os.stat(path).st_size for path in files) > KEPT_BYTES:
                return ""  # no work is that large, and the cell has it
            return keep(self.asking, self.clone, update.branch, update.new, reason, files)
        return ""


def _told(found: Sequence[Violation]) -> str:
    more = f" and {len(found) - REASONS_TOLD} more" if len(found) > REASONS_TOLD else ""
    return "; ".join(map(str, found[:REASONS_TOLD])) + more
