# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an older layout of the loop is, and what of it stands on this host. Reads only.

There the engine is a checkout that the loop's user owns, with its environment and secrets in it, started by wrapper
scripts; a loop of ours from before cells has its work where all cycles share it. ``plan`` lists what a take-over does
about it, item by item.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass

from ..host import systemd, telling
from ..release import engine_options, releases
from . import adopt, takeover_manifest
from .layout import Layout
from .takeover_manifest import ASIDE, Manifest

# One of these in the install directory is an engine that was checked out there. They go last, so that
# a checkout which is half moved is still seen as one.
CHECKOUT = ("pyproject.toml", ".venv", ".git")
# What our releases need there; whatever else of root's stands beside a checkout came with it.
OURS = (
    *releases.OURS,
    "budget.json",
    "attempts.json",
    "clock.json",
    "paused.json",
    telling.TOLD,
    engine_options.FILE,
    "uv",
    "receipts",
    ASIDE,
)
WRAPPERS = ("run-daemon", "run-reliability-governor", "github-app-token", "git-askpass")


@dataclass(frozen=True)
class Item:
    """One thing and where it goes: below the directory of this take-over, or to an absolute path."""

    kind: str  # checkout | wrapper | unit | copy | secrets | private | memory | work | unfinished | unread
    path: str
    to: str = ""


def plan(layout: Layout) -> list[Item]:
    """What there is to take over, in the order in which it is done; nothing on a host that is ours."""
    begun_at, known = takeover_manifest.unfinished(layout.install_dir)
    entries = known.entries if begun_at else _checkout(layout)
    entries = [name for name in entries if os.path.lexists(f"{layout.install_dir}/{name}")]
    secrets, entries = _secrets(layout, entries, bool(begun_at))
    scripts = [Item("wrapper", path, _beside(layout, path)) for path in wrapper_scripts(layout)]
    # Units first: they are found by the programs that they start.
    items = [*_units(layout, bool(entries or scripts)), *scripts, *secrets]
    policy = f"{layout.config_dir}/policy.yml"
    if entries and os.path.isfile(policy) and not deployed(layout):
        items.append(Item("copy", policy, "config/policy.yml"))
    if layout.key_file:  # once the host is ours, who may read it is for the program that renders it anew to say
        items += _private(layout.key_file, 0o077 if entries or begun_at else 0o022)
    items += [Item("checkout", f"{layout.install_dir}/{name}", f"checkout/{name}") for name in entries]
    if entries or begun_at:
        items += _memory(layout, known)
    items += [Item("work", part.path, part.name) for part in work(layout, known)]
    if begun_at:
        items.append(Item("unfinished", begun_at))
    elif deployed(layout) and layout.env_file != layout.dotenv and os.path.lexists(layout.dotenv) and not entries:
        items.append(Item("unread", layout.dotenv))
    return items


def work(layout: Layout, known: Manifest) -> list[adopt.Part]:
    """The parts of its work that are still where it had them; none where we were not told where that is."""
    return adopt.plan(layout, known.work) if layout.tells_of_work else []


def deployed(layout: Layout) -> bool:
    """Whether the role has been applied to this host."""
    return os.path.lexists(f"{layout.config_dir}/loop.json")


def _checkout(layout: Layout) -> list[str]:
    """The names of what belongs to a checkout in the install directory; none where there is no checkout."""
    try:
        names = os.listdir(layout.install_dir)
    except (FileNotFoundError, NotADirectoryError):
        return []
    if not set(CHECKOUT) & set(names):
        return []
    rank = {name: number for number, name in enumerate(CHECKOUT, 1)}
    roots = {name for name in names if os.lstat(f"{layout.install_dir}/{name}").st_uid == os.geteuid()}
    # Where we are at home already, all that is root's is ours, except for another checkout.
    stays = roots - {*CHECKOUT, ".env"} if deployed(layout) else roots & {*OURS}
    return sorted(set(names) - stays, key=lambda name: (rank.get(name, 0), name))


def _secrets(layout: Layout, entries: list[str], resumed: bool) -> tuple[list[Item], list[str]]:
    """What becomes of the checkout's .env, and the entries that are left to be moved."""
    dotenv = layout.dotenv
    if not (entries or resumed) or not os.path.lexists(dotenv):
        return [], entries
    rest = [name for name in entries if name != ".env"]
    if layout.env_file == dotenv:
        if os.path.islink(dotenv):
            return [], rest
        copied = [Item("copy", dotenv, "secrets/.env")] if layout.env_rendered and rest else []
        return copied + _private(dotenv), rest
    if not (os.path.lexists(layout.env_file) or layout.env_rendered or os.path.islink(dotenv)):
        return [Item("secrets", dotenv, layout.env_file)], rest
    return [], entries


def _private(path: str, others: int = 0o077) -> list[Item]:
    """A file that root alone should own, if somebody else does or has the rights ``others`` to it."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    loose = status.st_uid != os.geteuid() or status.st_mode & others
    return [Item("private", path)] if stat.S_ISREG(status.st_mode) and loose else []


def wrapper_scripts(layout: Layout) -> list[str]:
    """Scripts of the old role, where it puts them or where its variables say."""
    there = [path for path in _wrappers(layout) if os.path.islink(path) or os.path.isfile(path)]
    return [path for path in there if b"/loop " not in systemd.content(path)]


def _wrappers(layout: Layout) -> list[str]:
    usual = [f"{layout.lib_dir}/{name}" for name in WRAPPERS]
    return list(dict.fromkeys(os.path.normpath(path) for path in [*usual, *layout.wrappers] if path))


def _beside(layout: Layout, path: str) -> str:
    """Where a wrapper goes: two of one name, in two directories, have two places, whatever of them is there still."""
    name = os.path.basename(path)
    others = [one for one in _wrappers(layout) if one != path and os.path.basename(one) == name]
    return f"lib{path}" if others and os.path.dirname(path) != layout.lib_dir else f"lib/{name}"


def _units(layout: Layout, engine_goes: bool) -> list[Item]:
    """Units of this name that are not ours, and units whose program is about to move."""
    found = []
    for name in [f"{unit}.{kind}" for unit in (layout.unit, *layout.job_states) for kind in ("service", "timer")]:
        if os.path.lexists(f"{layout.unit_dir}/{name}") and not systemd.ours(f"{layout.unit_dir}/{name}"):
            found.append(name)
    if engine_goes:
        found += [name for name in _bereft(layout) if name not in found]
    names = [each for name in found for each in (name, f"{name}.d") if os.path.lexists(f"{layout.unit_dir}/{each}")]
    return [Item("unit", f"{layout.unit_dir}/{name}", f"units/{name}") for name in names]


def _bereft(layout: Layout) -> list[str]:
    """Services that start what is moved, and their timers: they would fail from now on."""
    programs = [f"{layout.install_dir}/{name}/" for name in (".venv", "src", "scripts", "bin")]
    programs += wrapper_scripts(layout)
    command = re.compile(rb"^Exec\w+=.*(?:%s)" % b"|".join(re.escape(os.fsencode(each)) for each in programs), re.M)
    try:
        names = sorted(os.listdir(layout.unit_dir))
    except FileNotFoundError:
        return []
    units = [name for name in names if name.endswith((".service", ".timer"))]
    texts = {name: systemd.content(f"{layout.unit_dir}/{name}") for name in units}
    theirs = {name: text for name, text in texts.items() if systemd.MARK not in text}
    services = [name for name, text in theirs.items() if name.endswith(".service") and command.search(text)]
    timers = [name for name, text in theirs.items() if name.endswith(".timer") and _started_by(name, text) in services]
    return services + timers


def _started_by(timer: str, text: bytes) -> str:
    named = re.search(rb"^Unit=(\S+)", text, re.MULTILINE)
    return named[1].decode(errors="replace") if named else f"{timer.removesuffix('.timer')}.service"


def _memory(layout: Layout, known: Manifest) -> list[Item]:
    """Lessons that an older layout kept inside a workspace. They move once; what git puts there again is not ours."""
    old, new = layout.legacy_memory_dir, layout.memory_dir
    if not old or os.path.normpath(old) == os.path.normpath(new) or os.path.islink(old) or not _filled(old):
        return []
    if begun := known.moved_from("memory", old):
        return [Item("memory", old, begun.to)]
    earlier = [takeover_manifest.read(aside) for aside in takeover_manifest.listing(layout.install_dir)]
    if any(item.path == old for each in earlier for item in each.items):
        return []
    return [Item("memory", old, f"{new}-legacy" if _filled(new) else new)]


def _filled(path: str) -> bool:
    try:
        return bool(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return False
