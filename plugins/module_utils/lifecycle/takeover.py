# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host of an older layout becomes ours, and loses nothing.

What ours would write over, or what could no longer run, is renamed into ``INSTALL_DIR/taken-over/<time>`` beside a
manifest that says where each thing stood. Work (workspace, runs, state) becomes a kept cell, see ``adopt``. What there
is to do says ``older_layout.plan``; ``take`` acts on it and can be killed anywhere: what still stands in an old place
is found again by the next plan. The way back is ``put_back``.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from ..base import progress
from ..base.clock import fine_stamp
from ..base.errors import LoopError
from ..base.files import flocked, read_bytes, write_atomic
from ..cell import cells
from ..host import privileges, processes, secrets_file, systemd
from ..host.managed_files import Entry, converge
from ..host.users import as_user, entry_of
from ..proof import rollout
from . import adopt, job_state, older_layout, takeover_report
from .layout import Layout
from .older_layout import Item, plan
from .takeover_manifest import ASIDE, Manifest, Moved, Owner, is_roots_directory, unfinished
from .takeover_moves import fill, move

Json = dict[str, Any]

ENABLED = ("enabled", "enabled-runtime")


def prepare(layout: Layout, wait: float = 0, *, check: bool = False) -> Json:
    """Once no run is in progress, let root own the install directory, so that a release can be built beside the old
    engine, which runs on as it did. Says whether it can: not where the checkout has something of the same name;
    and where the token for it stands until the host is taken over.
    """
    items = plan(layout)
    names = {os.path.basename(item.path) for item in items if item.kind == "checkout"}
    # A loop of ours whose cycles have no cells yet has its releases where they will be.
    upgraded = not names and older_layout.deployed(layout) and _has(items, "work")
    begins = bool(names) and not unfinished(layout.install_dir)[0]
    secrets = layout.env_file if os.path.lexists(layout.env_file) else layout.dotenv
    beside = upgraded or (bool(names) and not names & {*older_layout.OURS})
    if begins:
        _check_secrets(layout)
    if begins and not check:
        known = _begin(layout, items)
        systemd.rest(lambda: _cycle(layout), [], wait, "nothing was changed")
        with _alone(layout, known):
            pass
    return {"changed": begins, "beside": beside, "env_file": secrets}


def take(layout: Layout, wait: float = 0, *, check: bool = False) -> Json:
    """Take the host over. Returns ``changed``, ``aside``, ``items`` and ``lines`` for a person."""
    items = [item for item in plan(layout) if item.kind != "unread"]
    told = [*takeover_report.changes(layout), *takeover_report.notes(layout)]
    if not items:
        return {"changed": False, "aside": "", "items": [], "lines": told}
    _check_secrets(layout)
    known = _begin(layout, items)
    if check:
        aside = unfinished(layout.install_dir)[0] or f"{layout.install_dir}/{ASIDE}/<time>"
        who = _cycle(layout) or _others(layout, items)
        lines = [f"a run is in progress ({who}): it would be waited for"] if who else []
        return _told(layout, aside, _with_work(layout, known, "<id>"), items, [*lines, *told])
    daemons = [name for name in _units(items, ".service") if systemd.state(name).get("ActiveState") == "active"]
    systemd.rest(
        lambda: _cycle(layout), _timers(layout, items) + daemons, wait, "nothing of it was touched",
        lambda: _others(layout, items),
    )  # fmt: skip
    with _alone(layout, known) as (aside, known):
        items, known = plan(layout), _with_work(layout, known, cells.new_id(""))
        moved = _moved(layout, aside, known, items)
        known = replace(known, items=[*known.items, *(each for each in moved if each not in known.items)])
        known.write(aside)
        _disarm(layout, items)
        left_out = job_state.bring(layout, job_state.theirs(layout, older_layout.wrapper_scripts(layout)))
        for item in items:
            progress.step(f"taking over {item.path}")
            _carry_out(layout, aside, item)
        progress.step("making a cell of the work that was there")
        known = _adopt(layout, known)
        if _has(items, "unit"):
            systemd.systemctl("daemon-reload")
        replace(known, ended=fine_stamp()).write(aside)
    return _told(layout, aside, known, items, [*left_out, *told])


def _check_secrets(layout: Layout) -> None:
    """Refuse, before anything is changed, secrets that every cycle would refuse; their owner comes right by itself."""
    path = next((path for path in (layout.env_file, layout.dotenv) if os.path.lexists(path)), "")
    if not path or layout.env_rendered:
        return
    if path != layout.dotenv:
        secrets_file.load(path, layout.forbidden_environment)
    else:
        secrets_file.check(secrets_file.read(path), layout.forbidden_environment, path)


def _has(items: Sequence[Item], kind: str) -> bool:
    return any(item.kind == kind for item in items)


def _told(layout: Layout, aside: str, known: Manifest, items: Sequence[Item], more: Sequence[str]) -> Json:
    return {
        "changed": True,
        "aside": aside,
        "items": [asdict(each) for each in _moved(layout, aside, known, items)],
        "lines": [*takeover_report.lines(layout, aside, known, items), *more],
    }


# --- the manifest -------------------------------------------------------------------------


def _begin(layout: Layout, items: Sequence[Item]) -> Manifest:
    """The manifest of a take-over that begins; of an unfinished one what it began with."""
    if (known := unfinished(layout.install_dir)[1]).begun:
        return known
    entries = [os.path.basename(item.path) for item in items if item.kind == "checkout"]
    return Manifest(
        begun=fine_stamp(),
        entries=entries,
        timers={name: systemd.state(name) for name in _timers(layout, items)},
        head=takeover_report.commit_of(layout.install_dir) if entries else "",
        owners=_owners(layout),
        account=home_and_shell(layout.user),
    )


def _owners(layout: Layout) -> dict[str, Owner]:
    """Owner, group and mode of what stays in its place and becomes root's, or is made anew there."""
    paths = [layout.install_dir, layout.config_dir, layout.lib_dir, layout.memory_dir, layout.env_file, layout.dotenv]
    paths += [layout.key_file, layout.legacy_memory_dir, f"{layout.config_dir}/policy.yml"]
    paths += [layout.state_dir, layout.workspace_dir, layout.runs_dir, layout.daemon_state_dir, layout.cycles_dir]
    found = {}
    for path in filter(None, paths):
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            if not stat.S_ISLNK(status.st_mode):
                found[path] = Owner(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
    return found


def home_and_shell(user: str) -> list[str]:
    """Home and shell of the loop's user; nothing where there is no such user."""
    with contextlib.suppress(KeyError):
        entry = pwd.getpwnam(user)
        return [entry.pw_dir, entry.pw_shell]
    return []


def _with_work(layout: Layout, known: Manifest, ident: str) -> Manifest:
    """The manifest with what there is of work before any of it moves, and with the cell ``ident`` that it becomes."""
    if known.work:
        return known
    ident, work = known.cell or ident, older_layout.work(layout, known)
    found = adopt.told(layout, work, ident) if layout.tells_of_work else []
    found += job_state.told(layout, job_state.theirs(layout, older_layout.wrapper_scripts(layout)))
    return replace(known, cell=ident, work=work, found=found)


def _moved(layout: Layout, aside: str, known: Manifest, items: Sequence[Item]) -> list[Moved]:
    """Where each item goes, as the manifest has it."""
    found = []
    for item in items:
        to = os.path.join(aside, item.to) if item.to else item.path
        if item.kind == "work":  # the lessons stay, and are copied
            to = item.path if item.to == "memory" else f"{layout.runs_dir}/{known.cell}/{item.to}"
        if item.kind != "unfinished":
            found.append(Moved(item.kind, item.path, to))
    return found


@contextlib.contextmanager
def _alone(layout: Layout, known: Manifest) -> Iterator[tuple[str, Manifest]]:
    """Own the install directory and the directory of this take-over, which holds the manifest; both are yielded."""
    install, home = layout.install_dir, f"{layout.install_dir}/{ASIDE}"
    me, us = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
    converge([Entry(install, "directory", owner=me, group=us, mode=0o755)])
    if os.path.lexists(home) and not is_roots_directory(home):
        os.rename(home, f"{home}-found")  # the checkout's own; from now on nobody else can make one
        known = replace(known, entries=[f"{ASIDE}-found", *(name for name in known.entries if name != ASIDE)])
    converge([Entry(home, "directory", owner=me, group=us, mode=0o700)])
    with flocked(f"{home}/.lock", wait=False) as held:
        if not held:
            raise LoopError(f"somebody else is taking this host over ({home}/.lock is held): run this again later")
        aside = unfinished(install)[0]
        if not aside:  # it appears with its manifest in it
            converge([Entry(f"{home}/.begin", "directory", owner=me, group=us, mode=0o700)])
            known.write(f"{home}/.begin")
            aside = f"{home}/{known.begun}"
            os.rename(f"{home}/.begin", aside)
        yield aside, known


# --- who is at work -----------------------------------------------------------------------


def _units(items: Sequence[Item], suffix: str) -> list[str]:
    """The names of the units of this kind that are put aside."""
    return [os.path.basename(item.path) for item in items if item.kind == "unit" and item.path.endswith(suffix)]


def _timers(layout: Layout, items: Sequence[Item]) -> list[str]:
    """Timers that are put aside, and the loop's own where its work is moved."""
    found, ours = _units(items, ".timer"), f"{layout.unit}.timer"
    work = _has(items, "work") and os.path.lexists(f"{layout.unit_dir}/{ours}")
    return [*found, ours] if work and ours not in found else found


def _cycle(layout: Layout) -> str:
    return processes.cycle_in_progress(layout.run_lock, layout.unit)


def _others(layout: Layout, items: Sequence[Item]) -> str:
    """Who else is at work on what is about to move."""
    busy = [name for name in _units(items, ".service") if systemd.state(name).get("ActiveState") == "activating"]
    if busy:
        return f"{busy[0]} is running"
    return (_at_work(layout) if _has(items, "checkout") else "") or (
        privileges.at_work(layout.user, [f"{layout.install_dir}/"]) if _has(items, "work") else ""
    )


def _at_work(layout: Layout) -> str:
    """Who runs the old engine: started from the checkout, or standing in it as the loop's user."""
    user = entry_of(layout.user)
    home = layout.install_dir
    return processes.at_work(os.path.realpath(home), user.pw_uid, f"{home}/.venv") if user else ""


# --- doing --------------------------------------------------------------------------------


def _disarm(layout: Layout, items: Sequence[Item]) -> None:
    """No unit that is put aside starts again, now or with the host.

    Where work moves, nothing that was proven before runs on it by itself either, and nobody of the user is about.
    """
    if _has(items, "work"):
        if older_layout.deployed(layout):
            rollout.begin(f"{layout.config_dir}/loop.json")
        timer = f"{layout.unit}.timer"
        if systemd.state(timer).get("UnitFileState") in ENABLED:
            systemd.systemctl("disable", "--now", timer)
        privileges.quiet(layout.user)
    for name in [*_units(items, ".timer"), *_units(items, ".service")]:
        found = systemd.state(name)
        if found.get("UnitFileState") in ENABLED or found.get("ActiveState") == "active":
            systemd.systemctl("disable", "--now", name)


def _carry_out(layout: Layout, aside: str, item: Item) -> None:
    target = os.path.join(aside, item.to)
    if item.kind == "private":
        _make_private(item.path, item.path)
    elif item.kind == "memory":
        _move_memory(layout, item)
    elif item.kind == "secrets":
        os.makedirs(os.path.dirname(item.to), mode=0o750, exist_ok=True)
        if _make_private(item.path, item.to):
            os.unlink(item.path)
    elif item.kind not in ("unfinished", "work"):
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        move(item.path, target, keep=item.kind == "copy")


def _make_private(source: str, target: str) -> bool:
    """Write what is in ``source`` to ``target``, which only root reads; whether there was anything."""
    content = read_bytes(source)
    if content is not None:
        write_atomic(target, content, mode=0o600, uid=os.geteuid(), gid=os.getegid())
    return content is not None


def _move_memory(layout: Layout, item: Item) -> None:
    """As the loop's user, whose places these are. What the new place has already is never written over."""
    if not os.path.isdir(item.to):
        converge([Entry(item.to, "directory", owner=layout.user, group=layout.group, mode=0o750)])

    def work() -> None:
        fill(item.path, item.to)
        with contextlib.suppress(OSError):
            os.rmdir(item.path)

    as_user(layout.user, work)


def _adopt(layout: Layout, known: Manifest) -> Manifest:
    """Move the work; the manifest that says where it is."""
    if not (layout.tells_of_work and known.work):
        return known
    binds, lines = adopt.adopt(layout, known.work, known.cell)
    actual = {seen: place for place, seen in binds if seen != layout.memory_dir}
    items = [replace(one, to=actual.get(one.path, one.to)) if one.kind == "work" else one for one in known.items]
    return replace(known, items=items, found=[*known.found, *lines])
