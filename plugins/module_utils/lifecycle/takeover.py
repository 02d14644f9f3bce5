# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host of the role that users come from becomes ours, and loses nothing.

There the engine is a checkout that the loop's user owns, with its environment and secrets in it,
started by wrapper scripts. What ours would write over, or what could no longer run, is renamed
into ``INSTALL_DIR/taken-over/<time>`` beside a manifest that says where each thing stood. Work
(workspace, runs, state) of that layout and of our own without cells becomes a kept cell, see ``adopt``.
``plan`` only looks; ``take`` acts on it and can be
killed anywhere: what still stands in an old place is found again by the next plan.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import json
import os
import pwd
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

from ..base import untrusted
from ..base.clock import fine_stamp
from ..base.errors import LoopError, playbook
from ..base.files import flocked, inside, read_bytes, write_atomic
from ..cell import cells
from ..host import privileges, systemd
from ..host import secrets_file as env_file
from ..host.managed_files import Entry, converge
from ..host.processes import cycle_in_progress
from ..host.renderers import UNIT_DIRS, renderers_of
from ..host.users import account, as_user
from ..proof import rollout
from ..release import releases
from . import adopt

Json = dict[str, Any]

ASIDE = "taken-over"
MANIFEST = "manifest.json"
# One of these in the install directory is an engine that was checked out there. They go last, so that
# a checkout which is half moved is still seen as one.
CHECKOUT = ("pyproject.toml", ".venv", ".git")
# What our releases need there; whatever else of root's stands beside a checkout came with it.
OURS = (*releases.OURS, "budget.json", "uv", "receipts", ASIDE)
WRAPPERS = ("run-daemon", "run-reliability-governor", "github-app-token", "git-askpass")
# Of the old engine's flags those that say where things are, or what it works on: the role's variables still do.
ITS_PLACES = ("--once", "--repo", "--allow", "--workspace-root", "--output-root", "--state-dir-path", "--memory-dir")


@dataclass(frozen=True)
class Layout:
    """Where things are on this host, in the role's words."""

    install_dir: str
    config_dir: str
    lib_dir: str
    memory_dir: str
    env_file: str
    unit: str
    user: str
    group: str
    run_lock: str = ""
    state_dir: str = ""  # with the next four: where its work is; without them it is left alone
    workspace_dir: str = ""
    runs_dir: str = ""
    daemon_state_dir: str = ""
    cycles_dir: str = ""
    key_file: str = ""
    legacy_memory_dir: str = ""
    wrappers: Sequence[str] = ()
    daemon_args: Sequence[str] = ()  # what ours gives the engine
    author: str = ""  # NAME <EMAIL> of ours
    homed: Sequence[str] = ()  # what cycles find in their homes, by its path there
    env_rendered: bool = False  # the role writes the secrets itself
    forbidden_environment: Sequence[str] = ()  # what must not stand in them, as shell patterns
    unit_dir: str = systemd.UNIT_DIR

    @property
    def dotenv(self) -> str:
        return f"{self.install_dir}/.env"

    @property
    def places(self) -> adopt.Places | None:
        """Where its work is, if we were told."""
        given = (self.state_dir, self.workspace_dir, self.runs_dir, self.daemon_state_dir, self.cycles_dir)
        if not all(given):
            return None
        stays = (self.install_dir, self.config_dir, self.lib_dir, self.env_file, self.key_file)
        paths = [path for path in stays if path]
        return adopt.Places(*given, self.memory_dir, self.user, self.group, paths, self.homed)


def layout_from(given: Mapping[str, Any]) -> Layout:
    """A Layout from a module's option, where what is not set may be None."""
    values = {key: value for key, value in given.items() if value is not None}
    known = {field.name for field in fields(Layout)}
    missing = {"install_dir", "config_dir", "lib_dir", "memory_dir", "env_file", "unit", "user", "group"}
    if set(values) - known or missing - set(values):
        raise LoopError(f"a layout has the keys {', '.join(sorted(known))}; {', '.join(sorted(missing))} must be set")
    for key, value in values.items():
        if key.endswith(("_dir", "_file", "run_lock")) and value and os.path.normpath(value) != value:
            raise LoopError(f"engineering_loop_{key} {value!r} is not a plain path: write {os.path.normpath(value)}")
    return Layout(**values)


@dataclass(frozen=True)
class Item:
    """One thing and where it goes: below the directory of this take-over, or to an absolute path."""

    kind: str  # checkout | wrapper | unit | copy | secrets | private | memory | work | unfinished | unread
    path: str
    to: str = ""


# --- looking ------------------------------------------------------------------------------


def plan(layout: Layout) -> list[Item]:
    """What there is to take over, in the order in which it is done; nothing on a host that is ours."""
    open_at, known = _unfinished(layout)
    entries = known["entries"] if open_at else _checkout(layout)
    entries = [name for name in entries if os.path.lexists(f"{layout.install_dir}/{name}")]
    secrets, entries = _secrets(layout, entries, bool(open_at))
    wrappers = [Item("wrapper", path, f"lib/{os.path.basename(path)}") for path in _wrappers(layout)]
    # Units first: they are found by the programs that they start.
    items = [*_units(layout, bool(entries or wrappers)), *wrappers, *secrets, *_policy(layout, entries)]
    items += _key(layout, 0o077 if entries or open_at else 0o022)
    items += [Item("checkout", f"{layout.install_dir}/{name}", f"checkout/{name}") for name in entries]
    if entries or open_at:
        items += _memory(layout, known)
    items += [Item("work", part.path, part.name) for part in _work(layout, known)]
    if open_at:
        items.append(Item("unfinished", open_at))
    elif _deployed(layout) and layout.env_file != layout.dotenv and os.path.lexists(layout.dotenv) and not entries:
        items.append(Item("unread", layout.dotenv))
    return items


def _work(layout: Layout, known: Json) -> list[adopt.Part]:
    begun = [adopt.Part(*part) for part in known.get("work", [])]
    return adopt.plan(layout.places, begun) if layout.places else []


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
    texts = [systemd.content(path) for path in [*_wrappers(layout), f"{layout.unit_dir}/{layout.unit}.service"]]
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


def _checkout(layout: Layout) -> list[str]:
    """The names of what belongs to a checkout in the install directory; none where there is no checkout."""
    try:
        names = os.listdir(layout.install_dir)
    except (FileNotFoundError, NotADirectoryError):
        return []
    if not set(CHECKOUT) & set(names):
        return []
    rank = {name: number for number, name in enumerate(CHECKOUT, 1)}
    roots = {name for name in names if _owned(f"{layout.install_dir}/{name}")}
    # Where we are at home already, all that is root's is ours, except for another checkout.
    stays = roots - {*CHECKOUT, ".env"} if _deployed(layout) else roots & {*OURS}
    return sorted(set(names) - stays, key=lambda name: (rank.get(name, 0), name))


def _deployed(layout: Layout) -> bool:
    return os.path.lexists(f"{layout.config_dir}/loop.json")


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


def _policy(layout: Layout, entries: list[str]) -> list[Item]:
    path = f"{layout.config_dir}/policy.yml"
    theirs = entries and os.path.isfile(path) and not _deployed(layout)
    return [Item("copy", path, "config/policy.yml")] if theirs else []


def _key(layout: Layout, others: int) -> list[Item]:
    """Once the host is ours, who may read the key is for the program that renders it anew to say."""
    return _private(layout.key_file, others) if layout.key_file else []


def _private(path: str, others: int = 0o077) -> list[Item]:
    """A file that root alone should own, if somebody else does or has the rights ``others`` to it."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    loose = status.st_uid != os.geteuid() or status.st_mode & others
    return [Item("private", path)] if stat.S_ISREG(status.st_mode) and loose else []


def _wrappers(layout: Layout) -> list[str]:
    """Scripts of the old role: the three where it puts them, or where its variables say."""
    usual = [f"{layout.lib_dir}/{name}" for name in WRAPPERS]
    paths = dict.fromkeys(os.path.normpath(path) for path in [*usual, *layout.wrappers] if path)
    return [path for path in paths if _is_file(path) and b"/loop " not in systemd.content(path)]


def _is_file(path: str) -> bool:
    return os.path.islink(path) or os.path.isfile(path)


def _units(layout: Layout, engine_goes: bool) -> list[Item]:
    """Units of this name that are not ours, and units whose program is about to move."""
    found = []
    for name in (f"{layout.unit}.service", f"{layout.unit}.timer"):
        if os.path.lexists(f"{layout.unit_dir}/{name}") and not systemd.ours(f"{layout.unit_dir}/{name}"):
            found.append(name)
    if engine_goes:
        found += [name for name in _bereft(layout) if name not in found]
    names = [each for name in found for each in (name, f"{name}.d") if os.path.lexists(f"{layout.unit_dir}/{each}")]
    return [Item("unit", f"{layout.unit_dir}/{name}", f"units/{name}") for name in names]


def _bereft(layout: Layout) -> list[str]:
    """Services that start what is moved, and their timers: they would fail from now on."""
    programs = [f"{layout.install_dir}/{name}/" for name in (".venv", "src", "scripts", "bin")]
    programs += _wrappers(layout)
    command = re.compile(rb"^Exec\w+=.*(?:%s)" % b"|".join(re.escape(os.fsencode(each)) for each in programs), re.M)
    try:
        names = sorted(os.listdir(layout.unit_dir))
    except FileNotFoundError:
        return []
    texts = {
        name: systemd.content(f"{layout.unit_dir}/{name}") for name in names if name.endswith((".service", ".timer"))
    }
    services = [
        name
        for name, text in texts.items()
        if name.endswith(".service") and command.search(text) and systemd.MARK not in text
    ]
    timers = [
        name
        for name, text in texts.items()
        if name.endswith(".timer") and systemd.MARK not in text and _started_by(name, text) in services
    ]
    return services + timers


def _started_by(timer: str, text: bytes) -> str:
    named = re.search(rb"^Unit=(\S+)", text, re.MULTILINE)
    return named[1].decode(errors="replace") if named else f"{timer.removesuffix('.timer')}.service"


def _memory(layout: Layout, known: Json) -> list[Item]:
    """Lessons that an older layout kept inside a workspace. They move once; what git puts there again is not ours."""
    old, new = layout.legacy_memory_dir, layout.memory_dir
    if not old or os.path.normpath(old) == os.path.normpath(new) or os.path.islink(old) or not _filled(old):
        return []
    begun = [item for item in known.get("items", []) if item["kind"] == "memory" and item["path"] == old]
    if begun:
        return [Item("memory", old, begun[0]["to"])]
    if any(item["path"] == old for each in _manifests(layout) for item in each.get("items", [])):
        return []
    return [Item("memory", old, f"{new}-legacy" if _filled(new) else new)]


def _filled(path: str) -> bool:
    try:
        return bool(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _owned(path: str) -> bool:
    return os.lstat(path).st_uid == os.geteuid()


# --- manifests ----------------------------------------------------------------------------


def listing(install_dir: str) -> list[str]:
    """The directories of all take-overs of this host, oldest first."""
    home = f"{install_dir}/{ASIDE}"
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if stat.S_ISDIR(os.lstat(home).st_mode) and _owned(home):
            return [f"{home}/{name}" for name in sorted(os.listdir(home)) if not name.startswith(".")]
    return []


def _read(aside: str) -> Json:
    try:
        known = json.loads(read_bytes(f"{aside}/{MANIFEST}") or b"{}")
    except (ValueError, LoopError):
        return {}
    return known if isinstance(known, dict) else {}


def _manifests(layout: Layout) -> list[Json]:
    return [_read(aside) for aside in listing(layout.install_dir)]


def _unfinished(layout: Layout) -> tuple[str, Json]:
    """The take-over that was begun and did not end."""
    for aside in listing(layout.install_dir):
        known = _read(aside)
        if known.get("begun") and not known.get("ended"):
            return aside, known
    return "", {}


def _write(aside: str, known: Json) -> None:
    write_atomic(f"{aside}/{MANIFEST}", (json.dumps(known, indent=2, sort_keys=True) + "\n").encode(), mode=0o600)


# --- doing --------------------------------------------------------------------------------


def prepare(layout: Layout, wait: float = 0, *, check: bool = False) -> Json:
    """Once no run is in progress, let root own the install directory, so that a release can be built beside the old
    engine, which runs on as it did. Says whether it can: not where the checkout has something of the same name;
    and where the token for it stands until the host is taken over.
    """
    items = plan(layout)
    names = {os.path.basename(item.path) for item in items if item.kind == "checkout"}
    # A loop of ours whose cycles have no cells yet has its releases where they will be.
    upgraded = not names and _deployed(layout) and any(item.kind == "work" for item in items)
    begins = bool(names) and not _unfinished(layout)[0]
    secrets = layout.env_file if os.path.lexists(layout.env_file) else layout.dotenv
    result = {"changed": begins, "beside": upgraded or (bool(names) and not names & {*OURS}), "env_file": secrets}
    if begins:
        _check_secrets(layout)
    if begins and not check:
        known = _begin(layout, items)
        systemd.rest(lambda: _cycle(layout), [], wait, "nothing was changed")
        with _alone(layout, known):
            pass
    return result


def _check_secrets(layout: Layout) -> None:
    """Refuse, before anything is changed, secrets that every cycle would refuse; their owner comes right by itself."""
    path = next((path for path in (layout.env_file, layout.dotenv) if os.path.lexists(path)), "")
    if not path or layout.env_rendered:
        return
    if path != layout.dotenv:
        env_file.load(path, layout.forbidden_environment)
    else:
        env_file.check(env_file.read(path), layout.forbidden_environment, path)


def take(layout: Layout, wait: float = 0, *, check: bool = False) -> Json:
    """Take the host over. Returns ``changed``, ``aside``, ``items`` and ``lines`` for a person."""
    items = [item for item in plan(layout) if item.kind != "unread"]
    told = [*changes(layout), *notes(layout)]
    if not items:
        return {"changed": False, "aside": "", "items": [], "lines": told}
    _check_secrets(layout)
    known = _begin(layout, items)
    if check:
        aside = _unfinished(layout)[0] or f"{layout.install_dir}/{ASIDE}/<time>"
        known = _noted(layout, {"cell": "<id>", **known})
        who = _cycle(layout) or _others(layout, items)
        lines = [f"a run is in progress ({who}): it would be waited for"] if who else []
        return _told(layout, aside, known, items, [*lines, *told])
    daemons = [name for name in _services(items) if systemd.state(name).get("ActiveState") == "active"]
    systemd.rest(
        lambda: _cycle(layout), _timers(layout, items) + daemons, wait, "nothing of it was touched",
        lambda: _others(layout, items),
    )  # fmt: skip
    with _alone(layout, known) as aside:
        items, known = plan(layout), _noted(layout, {"cell": cells.new_id(""), **known})
        entries = [_entry(layout, known, item, aside) for item in items if item.kind != "unfinished"]
        known["items"] += [entry for entry in entries if entry not in known["items"]]
        _write(aside, known)
        _hold(layout, items)
        _retire(items)
        for item in items:
            _do(layout, aside, item)
        known |= _adopt(layout, known)
        if any(item.kind == "unit" for item in items):
            systemd.systemctl("daemon-reload")
        _write(aside, {**known, "ended": fine_stamp()})
    return _told(layout, aside, known, items, told)


def _told(layout: Layout, aside: str, known: Json, items: Sequence[Item], lines: list[str]) -> Json:
    return {
        "changed": True,
        "aside": aside,
        "items": [_entry(layout, known, item, aside) for item in items if item.kind != "unfinished"],
        "lines": [*_lines(layout, aside, known, items), *lines],
    }


def _entry(layout: Layout, known: Json, item: Item, aside: str) -> Json:
    to = os.path.join(aside, item.to) if item.to else item.path
    if item.kind == "work":  # the lessons stay, and are copied
        to = item.path if item.to == "memory" else f"{layout.runs_dir}/{known['cell']}/{item.to}"
    return {"kind": item.kind, "path": item.path, "to": to}


def _noted(layout: Layout, known: Json) -> Json:
    """What is known of a take-over, with what there is of work before any of it moves."""
    if known.get("work"):
        return known
    work = _work(layout, known)
    found = adopt.told(layout.places, work, known["cell"]) if layout.places else []
    return {**known, "work": [list(astuple(part)) for part in work], "found": found}


def _adopt(layout: Layout, known: Json) -> Json:
    """Move the work, and note where it is."""
    if not (layout.places and known["work"]):
        return {}
    begun = [adopt.Part(*part) for part in known["work"]]
    binds, lines = adopt.adopt(layout.places, begun, known["cell"])
    actual = {seen: place for place, seen in binds if seen != layout.memory_dir}
    items = [{**item, "to": actual.get(item["path"], item["to"])} if item["kind"] == "work" else item
             for item in known["items"]]  # fmt: skip
    return {"items": items, "found": [*known["found"], *lines]}


def _hold(layout: Layout, items: Sequence[Item]) -> None:
    """The work moves: nothing that was proven before runs on it by itself, and nobody of the user is about."""
    if any(item.kind == "work" for item in items):
        if _deployed(layout):
            rollout.begin(f"{layout.config_dir}/loop.json")
        timer = f"{layout.unit}.timer"
        if systemd.state(timer).get("UnitFileState") in ("enabled", "enabled-runtime"):
            systemd.systemctl("disable", "--now", timer)
        privileges.quiet(layout.user)


def _begin(layout: Layout, items: Sequence[Item]) -> Json:
    """The manifest of a take-over that begins; of an unfinished one what it began with."""
    known = _unfinished(layout)[1]
    if known:
        return known
    entries = [os.path.basename(item.path) for item in items if item.kind == "checkout"]
    timers = {name: systemd.state(name) for name in _timers(layout, items)}
    head = _head(layout.install_dir) if entries else ""
    return {
        "begun": fine_stamp(), "entries": entries, "timers": timers, "head": head, "items": [],
        "owners": _owners(layout), "account": _home_and_shell(layout),
    }  # fmt: skip


def _owners(layout: Layout) -> dict[str, list[int]]:
    """Owner, group and mode of what stays in its place and becomes root's, or is made anew there."""
    paths = [layout.install_dir, layout.config_dir, layout.lib_dir, layout.memory_dir, layout.env_file, layout.dotenv]
    paths += [layout.key_file, layout.legacy_memory_dir, f"{layout.config_dir}/policy.yml"]
    paths += [layout.state_dir, layout.workspace_dir, layout.runs_dir, layout.daemon_state_dir, layout.cycles_dir]
    found = {}
    for path in filter(None, paths):
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            if not stat.S_ISLNK(status.st_mode):
                found[path] = [status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)]
    return found


def _home_and_shell(layout: Layout) -> list[str]:
    """Home and shell of the loop's user."""
    with contextlib.suppress(KeyError):
        entry = pwd.getpwnam(layout.user)
        return [entry.pw_dir, entry.pw_shell]
    return []


@contextlib.contextmanager
def _alone(layout: Layout, known: Json) -> Iterator[str]:
    """Own the install directory and the directory of this take-over, which holds the manifest; its path."""
    install, home = layout.install_dir, f"{layout.install_dir}/{ASIDE}"
    me, us = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
    converge([Entry(install, "directory", owner=me, group=us, mode=0o755)])
    if os.path.lexists(home) and not (stat.S_ISDIR(os.lstat(home).st_mode) and _owned(home)):
        os.rename(home, f"{home}-found")  # the checkout's own; from now on nobody else can make one
        known["entries"] = [f"{ASIDE}-found", *(name for name in known["entries"] if name != ASIDE)]
    converge([Entry(home, "directory", owner=me, group=us, mode=0o700)])
    with flocked(f"{home}/.lock", wait=False) as held:
        if not held:
            raise LoopError(f"somebody else is taking this host over ({home}/.lock is held): run this again later")
        aside = _unfinished(layout)[0]
        if not aside:  # it appears with its manifest in it
            converge([Entry(f"{home}/.begin", "directory", owner=me, group=us, mode=0o700)])
            _write(f"{home}/.begin", known)
            aside = f"{home}/{known['begun']}"
            os.rename(f"{home}/.begin", aside)
        yield aside


def _timers(layout: Layout, items: Sequence[Item]) -> list[str]:
    """Timers that are put aside, and the loop's own where its work is moved."""
    found = [os.path.basename(item.path) for item in items if item.kind == "unit" and item.path.endswith(".timer")]
    ours = f"{layout.unit}.timer"
    work = any(item.kind == "work" for item in items) and os.path.lexists(f"{layout.unit_dir}/{ours}")
    return [*found, ours] if work and ours not in found else found


def _services(items: Sequence[Item]) -> list[str]:
    return [os.path.basename(item.path) for item in items if item.kind == "unit" and item.path.endswith(".service")]


def _cycle(layout: Layout) -> str:
    return cycle_in_progress(layout.run_lock, layout.unit)


def _others(layout: Layout, items: Sequence[Item]) -> str:
    """Who else is at work on what is about to move."""
    busy = [name for name in _services(items) if systemd.state(name).get("ActiveState") == "activating"]
    if busy:
        return f"{busy[0]} is running"
    kinds = {item.kind for item in items}
    return (_at_work(layout) if "checkout" in kinds else "") or (
        privileges.at_work(layout.user, [f"{layout.install_dir}/"]) if "work" in kinds else ""
    )


def _at_work(layout: Layout) -> str:
    """Who runs the old engine: started from the checkout, or standing in it as the loop's user."""
    started = os.fsencode(f"{layout.install_dir}/.venv/")
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError, KeyError):
            with open(f"/proc/{pid}/cmdline", "rb") as handle:
                command = handle.read(65536)
            place = os.readlink(f"/proc/{pid}/cwd")
            stands = inside(place, os.path.realpath(layout.install_dir))
            theirs = os.stat(f"/proc/{pid}").st_uid == pwd.getpwnam(layout.user).pw_uid
            if command.startswith(started) or b"\0" + started in command or (stands and theirs):
                words = command.replace(b"\0", b" ").decode(errors="replace").split()[:3]
                return f"process {pid}: {' '.join(words)}"
    return ""


def _retire(items: Sequence[Item]) -> None:
    """No unit that is put aside starts again, now or with the host."""
    names = [os.path.basename(item.path) for item in items if item.kind == "unit" and not item.path.endswith(".d")]
    for name in sorted(names, key=lambda name: not name.endswith(".timer")):
        found = systemd.state(name)
        if found.get("UnitFileState") in ("enabled", "enabled-runtime") or found.get("ActiveState") == "active":
            systemd.systemctl("disable", "--now", name)


def _do(layout: Layout, aside: str, item: Item) -> None:
    target = os.path.join(aside, item.to)
    if item.kind == "private":
        content = read_bytes(item.path)
        if content is not None:
            write_atomic(item.path, content, mode=0o600, uid=os.geteuid(), gid=os.getegid())
    elif item.kind == "memory":
        _move_memory(layout, item)
    elif item.kind == "secrets":
        _move_secrets(item)
    elif item.kind not in ("unfinished", "work"):
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        _carry(item.path, target, keep=item.kind == "copy")


def _move_secrets(item: Item) -> None:
    content = read_bytes(item.path)
    if content is None:
        return
    os.makedirs(os.path.dirname(item.to), mode=0o750, exist_ok=True)
    write_atomic(item.to, content, mode=0o600, uid=os.geteuid(), gid=os.getegid())
    os.unlink(item.path)


def _move_memory(layout: Layout, item: Item) -> None:
    """As the loop's user, whose places these are. What the new place has already is never written over."""
    if not os.path.isdir(item.to):
        converge([Entry(item.to, "directory", owner=layout.user, group=layout.group, mode=0o750)])

    def work() -> None:
        for name in sorted(os.listdir(item.path)):
            _carry(f"{item.path}/{name}", f"{item.to}/{name}")
        with contextlib.suppress(OSError):
            os.rmdir(item.path)

    as_user(layout.user, work)


def _carry(source: str, target: str, *, keep: bool = False) -> None:
    """Move a file, a link or a directory whole, also to another file system; never over something else."""
    if not os.path.lexists(source):
        return
    while os.path.lexists(target) and not _same(source, target):
        target += "~"
    try:
        if not keep and not os.path.lexists(target):
            os.rename(source, target)
            return
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise LoopError(f"{source} is a mount point: unmount it and run this again") from error
        if error.errno != errno.EXDEV:
            raise LoopError(f"{source} cannot be moved to {target}: {error.strerror}") from error
    _copy(source, target)
    if not keep:
        _remove(source)


def _same(one: str, other: str) -> bool:
    """Whether ``other`` is a copy of ``one`` that a killed run made; directories are looked into by _copy."""
    here, there = os.lstat(one).st_mode, os.lstat(other).st_mode
    if stat.S_IFMT(here) != stat.S_IFMT(there):
        return False
    if stat.S_ISREG(here):
        return read_bytes(one, 1 << 34) == read_bytes(other, 1 << 34)
    return stat.S_ISDIR(here) or (stat.S_ISLNK(here) and os.readlink(one) == os.readlink(other))


def _copy(source: str, target: str) -> None:
    """A faithful copy: bytes, owner where we may, mode, time."""
    status = os.lstat(source)
    mine = os.geteuid() == 0
    if stat.S_ISDIR(status.st_mode):
        with contextlib.suppress(FileExistsError):
            os.mkdir(target, 0o700)
        for name in os.listdir(source):
            child = f"{target}/{name}"
            while os.path.lexists(child) and not _same(f"{source}/{name}", child):
                child += "~"
            _copy(f"{source}/{name}", child)
        os.chmod(target, stat.S_IMODE(status.st_mode))
    elif stat.S_ISLNK(status.st_mode):
        if not os.path.lexists(target):
            os.symlink(os.readlink(source), target)
    elif stat.S_ISREG(status.st_mode):
        write_atomic(target, read_bytes(source, 1 << 34) or b"", stat.S_IMODE(status.st_mode))
    else:
        raise LoopError(f"{source} is no file, link or directory and cannot be moved to another file system")
    if mine:
        os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        for name in os.listdir(path):
            _remove(f"{path}/{name}")
        os.rmdir(path)
    else:
        os.unlink(path)


# --- the way back -------------------------------------------------------------------------


def put_back(layout: Layout, wait: float = 0, *, check: bool = False) -> Json:
    """Where ours is gone, have everything that was taken over where it stood, with its owner, and its timers on.

    Killed anywhere, the next one goes on: what is still aside is what is left to do.
    """
    taken = [(aside, _read(aside)) for aside in reversed(listing(layout.install_dir))]
    items = [(known, item) for _aside, known in taken for item in reversed(known.get("items", []))]
    moved = [item for _known, item in items if item["path"] != item["to"] and os.path.lexists(item["to"])]
    lines = [f"{item['to']} -> {item['path']}" for item in moved]
    result = {"changed": bool(taken), "aside": "", "items": moved, "lines": lines}
    if check or not taken:
        return result
    if systemd.ours(f"{layout.unit_dir}/{layout.unit}.service"):
        raise LoopError(f"the loop is still deployed, and nothing was put back: {playbook('leave')}")
    systemd.rest(lambda: _cycle(layout), [], wait, "nothing was put back", lambda: privileges.at_work(layout.user))
    for known, item in items:
        lines += _undo(layout, known, item)
    for _aside, known in taken:
        _own_again(layout, known)
    if any(item["kind"] == "unit" for _known, item in items):
        systemd.systemctl("daemon-reload")
    for name, was in {name: was for _aside, known in taken for name, was in known.get("timers", {}).items()}.items():
        if was.get("UnitFileState") == "enabled":
            systemd.systemctl("enable", *(["--now"] if was.get("ActiveState") == "active" else []), name)
    for aside, _known in taken:
        lines += _emptied(aside)
    return result


def _undo(layout: Layout, known: Json, item: Json) -> list[str]:
    """Bring one thing back; a line where something else stands there by now."""
    kind, there, back = item["kind"], item["to"], item["path"]
    if there == back or not os.path.lexists(there):
        return []
    if kind == "copy":
        write_atomic(back, read_bytes(there) or b"", mode=0o600)
        os.unlink(there)
    elif kind == "memory":
        _own_lessons(layout, known, there, back)
        as_user(layout.user, lambda: _lessons_back(there, back, known))
    elif kind == "work" and os.path.lexists(back):
        # The old home has room for what is mounted there in its cell.
        rooms = adopt.no_home(layout.places) if layout.places and back == layout.state_dir else set()
        names = sorted(set(os.listdir(there)) - rooms)
        told = [_undo(layout, known, {"kind": "", "to": f"{there}/{name}", "path": f"{back}/{name}"}) for name in names]
        return [line for lines in told for line in lines]
    else:
        taken = os.path.lexists(back)
        os.makedirs(os.path.dirname(back), exist_ok=True)
        _carry(there, back)
        return [f"{back} is there already: what was taken over stands beside it, as {back}~"] if taken else []
    return []


def _lessons_back(there: str, back: str, known: Json) -> None:
    """As the loop's user, whose places these are."""
    os.makedirs(back, exist_ok=True)
    for name in sorted(os.listdir(there)):
        _carry(f"{there}/{name}", f"{back}/{name}")
    if back in known.get("owners", {}):
        os.chmod(back, known["owners"][back][2])


def _own_lessons(layout: Layout, known: Json, memory: str, place: str) -> None:
    """What is in ``memory``, a directory of root's, belongs to whom ``place`` belonged."""
    entry = account(layout.user)
    uid, gid, _mode = known.get("owners", {}).get(place, [entry.pw_uid, entry.pw_gid, 0])
    for directory, names, files in os.walk(memory):
        for name in [*names, *files]:
            os.lchown(f"{directory}/{name}", uid, gid)
    os.lchown(memory, uid, gid)


def _own_again(layout: Layout, known: Json) -> None:
    """Owners and modes as they were when the host was taken over, and the user's home and shell."""
    owners = known.get("owners", {})
    if layout.memory_dir in owners:
        _own_lessons(layout, known, layout.memory_dir, layout.memory_dir)
    # The innermost first, while the directories that they are in are root's.
    for path, (uid, gid, mode) in sorted(owners.items(), key=lambda each: -len(each[0])):
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.fchown(descriptor, uid, gid)
                os.fchmod(descriptor, mode)
            finally:
                os.close(descriptor)
    if known.get("account") and known["account"] != _home_and_shell(layout) != []:
        privileges.give_back(layout.user, *known["account"])


def _emptied(aside: str) -> list[str]:
    """Remove the directory of a take-over once nothing is left in it; a line where something is."""
    left = [
        f"{place}/{name}"
        for place, directories, files in os.walk(aside)
        for name in [*files, *(each for each in directories if os.path.islink(f"{place}/{each}"))]
        if name != MANIFEST
    ]
    if left:
        return [f"{aside} stays: it has {', '.join(sorted(left)[:5])}"]
    for name in sorted(os.listdir(aside), key=lambda name: name == MANIFEST):  # what says that it is one goes last
        _remove(f"{aside}/{name}")
    os.rmdir(aside)
    home = os.path.dirname(aside)
    if os.listdir(home) == [".lock"]:
        _remove(home)
    return []


# --- telling ------------------------------------------------------------------------------


def _head(directory: str) -> str:
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


def _lines(layout: Layout, aside: str, known: Json, items: Sequence[Item]) -> list[str]:
    """What was found and where it goes, a line each."""
    told = []
    for name, was in known["timers"].items():
        if was.get("ActiveState") == "active" or was.get("UnitFileState") == "enabled":
            again = f"it runs again only when what is installed is proven: {playbook('canary')}"
            told.append(
                f"THE TIMER {name} WAS ON AND IS STOPPED: "
                + (again if name == f"{layout.unit}.timer" else "what it started is in the checkout and goes with it")
            )
    entries = [item for item in items if item.kind == "checkout"]
    if entries:
        commit = f" at {known['head']}" if known.get("head") else ""
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
    told += known["found"]
    told.append(f"all that was moved is listed in {aside}/{MANIFEST}")
    return told
