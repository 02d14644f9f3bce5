# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person is told of a take-over: what was found and where it goes, and what they should know or do."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Sequence

from ..base import untrusted
from ..base.errors import LoopError, playbook
from ..host import systemd
from ..host.jobs import GOVERNOR_UNIT
from ..host.renderers import UNIT_DIRS, renderers_of
from .layout import Layout
from .older_layout import Item, wrapper_scripts
from .takeover_manifest import MANIFEST, Manifest

# Of the old engine's flags those that say where things are, or what it works on: the role's variables still do.
ITS_PLACES = ("--once", "--repo", "--allow", "--workspace-root", "--output-root", "--state-dir-path", "--memory-dir")


def notes(layout: Layout) -> list[str]:
    """What a person should know and we cannot mend."""
    told = []
    dotenv = layout.dotenv
    writers = renderers_of(dotenv, [layout.unit_dir, *UNIT_DIRS[1:]])
    writer = f"{' and '.join(map(str, writers)) or 'something'} writes {dotenv}"
    if layout.env_file != dotenv and (writers or os.path.lexists(dotenv)):
        told.append(
            f"the unit reads its secrets from {layout.env_file}: if {writer}, let it write there or set"
            f" engineering_loop_env_file: {dotenv}, else secrets that change will not arrive"
        )
    told += [
        f"{one} runs as {one.user}, who cannot write into {layout.install_dir} any more (it belongs to root): let it"
        " run as root, or write to a directory of its own and set engineering_loop_env_file"
        for one in writers if layout.env_file == dotenv and one.user not in ("root", "0")
    ]  # fmt: skip
    for path in (dotenv if layout.env_file == dotenv else "", layout.key_file):
        if path and os.path.islink(path):
            told.append(f"{path} is a link and was left alone: see that only root can read {os.path.realpath(path)}")
    return told


def changes(layout: Layout) -> list[str]:
    """What the old role set by default, so that nobody wrote it down, and ours does otherwise."""
    told, ours = [], dict(_flags(" ".join(["daemon", *layout.daemon_args])))
    texts = [systemd.content(path) for path in [*wrapper_scripts(layout), f"{layout.unit_dir}/{layout.unit}.service"]]
    for flag, value in _flags("\n".join(text.decode(errors="replace") for text in texts)):
        named = untrusted.show(f"{flag} {value}".strip())
        if flag in ours and value not in ("", ours[flag]):
            told.append(f"the old loop gave its engine {named}, ours gives {ours[flag]}")
        elif flag not in ours and flag not in ITS_PLACES:
            told.append(f"the old loop gave its engine {named}, ours does not")
    author = _author(layout)
    if author and layout.author and author != layout.author:
        told.append(
            f"the old loop's commits were by {author}, ours are by {layout.author}: engineering_loop_git_user_name and"
            " engineering_loop_git_user_email say whose"
        )
    return told


def _flags(text: str) -> list[tuple[str, str]]:
    """The flags and their values on the engine's command line in a script or a unit, each once."""
    found = re.findall(r"(?m)^.*?\bdaemon\b((?:.*\\\n)*.*)$", text)
    words = re.findall(r"(--[a-z][a-z-]+)(?:[ =]+([^\s\\-][^\s\\]*))?", "\n".join(found))
    return list(dict.fromkeys(words))


def _author(layout: Layout) -> str:
    """Who the old loop's commits are by: git's settings in its home, which the loop's user could have written."""
    home = layout.state_dir
    with contextlib.suppress(LoopError):
        text = (untrusted.read(f"{home}/.gitconfig", home, 65536) or b"").decode(errors="replace") if home else ""
        part = re.search(r"(?ms)^\[user\]\s*$(.*?)(?=^\[|\Z)", text)
        found = dict(re.findall(r"(?m)^\s*(name|email)\s*=\s*\"?(.+?)\"?\s*$", part[1] if part else ""))
        if {"name", "email"} <= set(found):
            return untrusted.show(f"{found['name']} <{found['email']}>")
    return ""


def commit_of(directory: str) -> str:
    """The commit of the checkout, read as a file: git itself would run what its owner has configured."""
    with contextlib.suppress(LoopError, OSError):
        head = untrusted.read(f"{directory}/.git/HEAD", directory, 4096) or b""
        branch = re.fullmatch(rb"ref: (refs/[\w./-]+)\n?", head)
        if branch:
            name = os.fsdecode(branch[1])
            head = untrusted.read(f"{directory}/.git/{name}", directory, 4096) or b""
            packed = untrusted.read(f"{directory}/.git/packed-refs", directory) or b""
            found = re.search(rb"^([0-9a-f]{40,64}) %s$" % re.escape(branch[1]), packed, re.M)
            head = head or (found[1] if found else b"")
        if re.fullmatch(rb"[0-9a-f]{40,64}\n?", head):
            return head.decode().strip()
    return ""


def _again(layout: Layout, unit: str) -> str:
    """What becomes of what a timer has started."""
    if unit in (layout.unit, *layout.job_states):
        return f"it runs again only when what is installed is proven: {playbook('canary')}"
    asked = ", unless you set engineering_loop_governor_timer_enabled: true" if unit == GOVERNOR_UNIT else ""
    return f"what it started is in the checkout and goes with it{asked}"


def lines(layout: Layout, aside: str, known: Manifest, items: Sequence[Item]) -> list[str]:
    """What was found and where it goes, a line each."""
    told = []
    for name, was in known.timers.items():
        if was.get("ActiveState") == "active" or was.get("UnitFileState") == "enabled":
            told.append(f"THE TIMER {name} WAS ON AND IS STOPPED: {_again(layout, name.removesuffix('.timer'))}")
    entries = [item for item in items if item.kind == "checkout"]
    if entries:
        commit = f" at {known.head}" if known.head else ""
        told.append(f"the checkout in {layout.install_dir}{commit}, {len(entries)} entries -> {aside}/checkout")
        told.append("LOCAL CHANGES in it, if there are any, are kept with it; the pinned engine lacks them")
    words: dict[str, Callable[[Item], str]] = {
        "private": lambda item: f"{item.path} stays, only root can read it now",
        "copy": lambda item: f"{item.path}: a copy -> {aside}/{item.to}",
        "secrets": lambda item: f"the secrets {item.path} -> {item.to}, which only root can read",
        "memory": lambda item: f"the lessons in {item.path} -> {item.to}",
    }
    for item in items:
        if item.kind in words:
            told.append(words[item.kind](item))
        elif item.kind in ("wrapper", "unit"):
            told.append(f"{item.path} -> {aside}/{item.to}")
    told += known.found
    told.append(f"all that was moved is listed in {aside}/{MANIFEST}")
    return told
