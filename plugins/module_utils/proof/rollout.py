# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rollouts: whatever comes after a proof is undone in one step, and no timer runs meanwhile.

Before the first change to anything that a proof covers, ``begin`` keeps what is proven (see rollback_sets.py), notes it
(see rollout_ledger.py) and holds the timer. ``end`` closes a rollout that was proven; ``undo`` one that was not, and
``previous`` goes back from one that turned out bad.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from ..base import progress
from ..base.clock import stamp, utc_now
from ..base.errors import APPLY, LoopError
from ..base.files import write_atomic
from ..host import jobs, managed_files, processes, settings, systemd
from ..host.settings import Settings
from ..release import releases, store
from ..release.wanted_version import PROGRAM, Wanted, smoke_of
from . import installed, pause, rollback_sets, rollout_ledger, timer_hold
from .installed import Installed
from .pause import Pause
from .receipts import Receipt
from .rollback_sets import KeptSet
from .rollout_ledger import PROVEN, RETURNED, ROLLED_BACK, Ledger, Return, UnderWay
from .timer_hold import Proof

Json: TypeAlias = dict[str, Any]

NOTHING_PROVEN = "nothing that was proven before is on this host"


@dataclass(frozen=True)
class Order:
    """How a host is gone back: the options of the module ``loop_rollout``."""

    timer: bool  # whether it shall run afterwards
    reason: str = ""
    check: bool = False
    # What only the inventory knows of a build.
    keep: int = 3
    python: str = "/usr/bin/python3"
    uv: str = "uv"
    wheels: str = ""
    git_sources: Sequence[str] = ()
    build_tools: Sequence[str] = ()
    wait: float = 0.0  # seconds that a cycle in progress is waited for


@dataclass(frozen=True)
class Situation:
    """What a rollout finds on the host, looked at once."""

    config: Settings
    ledger: Ledger
    current: Installed | None  # None: a part of it is missing
    proof: Proof
    timer: systemd.Timer
    paused: Pause | None  # then the timer stays off

    @property
    def key(self) -> str:
        """The key of what is installed."""
        return self.current.key if self.current else ""

    @property
    def stands(self) -> bool:
        """Whether what is installed is proven, and no half of a rollout that looks like what was proven some time."""
        noted, receipt = self.ledger.under_way, self.proof.receipt
        if receipt is None or noted is None or noted.before in ("", self.key):
            return receipt is not None
        return receipt.proved_at >= noted.began


@contextlib.contextmanager
def _situation(config_file: str, *, check: bool = False) -> Iterator[Situation]:
    """What there is, with the ledger ours alone: also the settings, which whoever had it before may have changed."""
    with rollout_ledger.locked(_install_dir(config_file), check=check) as ledger:
        config = settings.load(config_file, keys=settings.LASTING)
        current, proof = _installed(config), Proof(None, "a part of it is missing")
        if current:
            proof = timer_hold.covering(config, current, mode=timer_hold.wanted_mode(config))
        yield Situation(config, ledger, current, proof, systemd.timer_of(config.unit), pause.read(config))


def in_force(config_file: str) -> Proof:
    """The proof of what is installed, as the settings ask for it; none where that is half of a rollout."""
    with _situation(config_file, check=True) as now:
        noted = now.ledger.under_way
        if noted and now.proof.receipt and not now.stands:
            return Proof(None, f"the rollout that began at {noted.began} has not ended; {APPLY}")
        return timer_hold.by_settings(now.config)


def _install_dir(config_file: str) -> str:
    return str(settings.load(config_file, keys=settings.LASTING).install_dir)


def _installed(config: Settings) -> Installed | None:
    with contextlib.suppress(LoopError):
        return installed.now(config)
    return None


# --- forward: note, hold, keep --------------------------------------------------------------


def change(config_file: str, changes: Sequence[managed_files.Change], wait: float) -> None:
    """Called before these are made: ``begin``, and before that a cycle in progress ends where they void a proof.

    A cycle takes in its units, settings and our code until its end. LoopError where it is not over in ``wait`` seconds.
    """
    hold = functools.partial(begin, config_file, [change.path for change in changes])
    config = _concerned(config_file, ())
    if config and voids(config_file, changes):
        processes.wait_until_idle("", config.unit, wait, "its units and our code were not changed", hold)
    else:
        hold()


def begin(config_file: str, paths: Sequence[str] = ()) -> None:
    """Called before the first change to anything that a proof covers: remember what was, hold the timer.

    ``paths`` are the files that will change, where that is known: some of them may concern no proof.
    A host that was not deployed yet has nothing to remember. Killed at any moment, the next call
    finds what it needs: what ran before stays noted until something else is proven.
    """
    if _concerned(config_file, paths) is None:
        return
    with _situation(config_file) as now:
        noted, config = now.ledger.under_way, now.config
        if now.current and now.stands:
            rollback_sets.keep(config_file, config, now.current)
            ran = now.timer.runs or bool(noted and noted.timer)
            noted = UnderWay(utc_now(), config.unit, now.key, ran)
        noted = noted or UnderWay(utc_now(), config.unit, timer=now.timer.runs)
        if noted != now.ledger.under_way:
            rollout_ledger.save(config.install_dir, replace(now.ledger, under_way=noted))
        if now.timer.runs:
            systemd.set_timer(config.unit, False, now.timer)


def _concerned(config_file: str, paths: Sequence[str]) -> Settings | None:
    """The settings, where what is installed could start and a proof covers one of ``paths``, or they are not known."""
    with contextlib.suppress(LoopError):
        config = settings.load(config_file, keys=settings.LASTING)
        if not paths or any(installed.covers(path, config_file, config) for path in paths):
            return config
    return None


def voids(config_file: str, changes: Iterable[managed_files.Change]) -> bool:
    """Whether a proof of what is installed holds no longer once these changes are made."""
    try:
        config = settings.load(config_file, keys=settings.LASTING)
    except LoopError:
        return bool(list(changes))  # nothing is deployed, so nothing is proven

    def meaning(content: bytes | None) -> Any:
        try:
            return installed.bound_settings(json.loads(content or b""))
        except (ValueError, AttributeError):
            return content

    return any(
        meaning(change.before) != meaning(change.after)
        if change.path == config_file
        else change.before != change.after and installed.covers(change.path, config_file, config)
        for change in changes
    )


def end(config_file: str, receipt: Receipt | None, *, check: bool = False) -> bool:
    """The rollout is over: what ``receipt`` covers is in force and kept. Whether anything had to be noted.

    Without a receipt the operator has switched the guard off, and nothing is kept.
    """
    install_dir = _install_dir(config_file)
    with rollout_ledger.locked(install_dir, check=check) as ledger:
        config = settings.load(config_file, keys=settings.LASTING)
        now = installed.now(config) if receipt else None
        newest = ledger.newest.set if ledger.newest else ""
        fresh = now and (newest != now.key or not rollback_sets.whole(install_dir, now.key))
        if check or not (fresh or ledger.under_way):
            return bool(fresh or ledger.under_way)
        if fresh and now:
            rollback_sets.keep(config_file, config, now)
            ledger = ledger.ended(PROVEN, now.key, now.engine_sha)
        rollout_ledger.save(install_dir, replace(ledger, under_way=None))
        rollback_sets.prune(install_dir, ledger.newest_first())
    return True


# --- back: whether, and to what -------------------------------------------------------------


def undo(config_file: str, order: Order, *, failed: bool = False) -> Json:
    """End a rollout that did not succeed: what ran and was proven before it is in force again.

    ``failed`` means that a cycle was judged, so that the engine is to blame unless only its policy or
    unit is new. The timer runs again where it did before and is still wanted.
    """
    if not os.path.lexists(config_file):
        return _result(systemd.Timer(), f"{NOTHING_PROVEN}: this is its first deployment")
    with _situation(config_file, check=order.check) as now:
        config = now.config
        ran = now.ledger.under_way.timer if now.ledger.under_way else now.timer.runs
        order = replace(order, timer=order.timer and ran)
        target = _interrupted(now)
        if now.stands and target is None:
            if failed:
                why = "what is installed is what was proven last, so there is nothing better to go back to"
                return _stay(now, replace(order, timer=False), why)
            told = _stay(now, order, "nothing that a proof covers was changed")
            if not order.check and now.ledger.under_way:
                rollout_ledger.save(config.install_dir, replace(now.ledger, under_way=None))
            return told
        target = target or _before(config, now.ledger, now.current)
        if target is None:
            why = NOTHING_PROVEN + rollback_sets.outlived(config.install_dir)
            return _stay(now, replace(order, timer=False), why)
        if not failed and now.ledger.under_way is None:
            why = "what is installed was not proven, and nothing is known against it; this run changed nothing of it"
            return _stay(now, replace(order, timer=False), why)
        if failed and now.current and not order.check:
            _blame(config.install_dir, now.current.engine_sha, order.reason)
        return _go_back(now, order, target, RETURNED)


def _blame(install_dir: str, sha: str, reason: str) -> None:
    """Mark an engine as failed, but for one that was proven: then it is another part that is new."""
    if store.verdict(store.ledger(install_dir), sha) != "proven":
        store.record_verdict(install_dir, sha, "failed", reason)


def previous(config_file: str, order: Order, *, to: str = "") -> Json:
    """Go back to the engine that was proven and in force before this one, with the policy and unit it had.

    ``to`` names another one by its commit. Where that was done already, nothing changes.
    """
    with _situation(config_file, check=order.check) as now:
        config = now.config
        on_its_way, newest = now.ledger.back_to, now.ledger.newest
        if now.proof.receipt and now.current and not on_its_way:
            back_already = newest is not None and newest.why == ROLLED_BACK and newest.set == now.key
            if now.current.engine_sha.startswith(to) if to else back_already:
                return _stay(now, order, f"{now.current.engine_sha} is in force already, {now.proof.reason}")
        if to:
            target = _named(now, to)
        elif on_its_way:
            target = _interrupted(now)
        else:
            target = _before(config, now.ledger, now.current, other=True)
        if target is None:
            there = ", ".join(sorted({key[:40] for key in rollback_sets.keys(config.install_dir)})) or "none"
            what = f"proven release {to}" if to else "other proven release"
            behind = rollback_sets.outlived(config.install_dir)
            raise LoopError(f"there is no {what} to go back to on this host; kept as proven are: {there}{behind}")
        return _go_back(now, order, target, ROLLED_BACK)


def back(config: Settings) -> Json | None:
    """What ``previous`` would go back to; None where there is nothing."""
    target = _before(config, rollout_ledger.read(config.install_dir), _installed(config), other=True)
    return target.shown() if target else None


def _interrupted(now: Situation) -> KeptSet | None:
    """The set of a return that did not arrive."""
    going = now.ledger.back_to
    return rollback_sets.load(now.config.install_dir, going.set, despite=True) if going else None


def _before(config: Settings, ledger: Ledger, current: Installed | None, *, other: bool = False) -> KeptSet | None:
    """The set to go back to: the one that ran before the rollout under way, else the last one in force that counts.

    ``other`` prefers another engine to another policy of the same one.
    """
    first = ledger.under_way.before if ledger.under_way else ""
    rejected, now = ledger.rejected(), current.key if current else ""
    order = dict.fromkeys([first, *ledger.newest_first()])
    found = [rollback_sets.load(config.install_dir, key) for key in order if key not in ("", now)]
    usable = [kept for kept in found if kept and (kept.key == first or not {kept.key, kept.sha} & rejected)]
    if other and current:
        usable.sort(key=lambda kept: kept.sha == current.engine_sha)  # stable: the latest in force stays first
    return usable[0] if usable else None


def _named(now: Situation, to: str) -> KeptSet | None:
    """The latest set of the engine that ``to`` names. What is installed counts only for a return that did not end."""
    install_dir, installed_now = now.config.install_dir, "" if now.ledger.back_to else now.key
    order = dict.fromkeys([*now.ledger.newest_first(), *rollback_sets.keys(install_dir)])
    fitting = (key for key in order if key.startswith(to) and key != installed_now)
    return next((kept for key in fitting if (kept := rollback_sets.load(install_dir, key, despite=True))), None)


# --- back: doing it -------------------------------------------------------------------------


def _go_back(now: Situation, order: Order, target: KeptSet, why: str) -> Json:
    """Bring ``target`` in force: timer held, cycle over, engine, files, and the timer where it belongs."""
    config, install_dir = now.config, now.config.install_dir
    entries = target.entries(config)
    changes = managed_files.converge(entries, check=True)  # refuses before anything is touched
    active = store.active(install_dir)
    left = active["sha"] if active else ""
    told = {"changed": True, "returned": True, "from": left, "to": target.shown()}
    told["restored"] = [change.path for change in changes]
    rules = target.under(config)
    valid = timer_hold.covering(rules, target.proven, *timer_hold.asked(rules))
    run = order.timer and not now.paused and valid.receipt is not None
    held = now.paused.sentence if now.paused else valid.reason if order.timer and not run else ""
    if order.check:
        after = systemd.set_timer(config.unit, run, now.timer, check=True)
        return {**_result(now.timer, "", after), **told, "held": held}
    if why == ROLLED_BACK:
        processes.wait_until_idle("", config.unit, order.wait, "nothing was changed")
    ledger = _noted(now, target, Return(target.key, left, order.reason))
    progress.step(f"going back to {target.sha}")
    systemd.set_timer(config.unit, False, now.timer)
    if why == RETURNED:
        # The timer is held, so what runs is the canary that did not end.
        systemd.systemctl("stop", f"{config.unit}.service")
    else:
        # It may have begun a cycle just before it was held. Run again, the rollback goes on from here.
        processes.wait_until_idle("", config.unit, order.wait, "the timer is held, and nothing else was changed")
    if left != target.sha:
        program = target.config.get("program", PROGRAM)  # a set of an earlier version of the collection names none
        releases.back_to(_build_settings(config, order, program), target.sha)
    aside = [_set_aside(install_dir, change) for change in changes if _somebodys(change, config)]
    managed_files.converge(entries)
    systemd.systemctl("daemon-reload")
    proof = timer_hold.matching(target.config, mode=timer_hold.wanted_mode(target.config))
    if proof.receipt is None:
        raise LoopError(f"went back to {target.sha}, but it does not count as proven: {proof.reason}; timer held")
    after = systemd.set_timer(rules.unit, run)
    going = ledger.back_to or Return(target.key)
    rollout_ledger.save(install_dir, ledger.ended(why, target.key, target.sha, going.left, going.reason))
    jobs.bring_timers(rules, proven=valid.receipt is not None, paused=now.paused is not None)
    return {**_result(now.timer, "; ".join([proof.reason, *aside]), after), **told, "held": held}


def _somebodys(change: managed_files.Change, config: Settings) -> bool:
    """Whether a file goes that is none of ours: a drop-in that joined the units since."""
    return change.what == "removed" and not change.path.startswith(f"{config.lib_dir}/")


def _set_aside(install_dir: str, change: managed_files.Change) -> str:
    """Keep a copy of a file that goes; in words, where."""
    copy = f"{install_dir}/aside/{stamp()}{change.path}"
    os.makedirs(os.path.dirname(copy), mode=0o700, exist_ok=True)
    write_atomic(copy, change.before or b"", mode=0o600)
    return f"{change.path} was not there when that was proven: it is in {copy} now"


def _noted(now: Situation, target: KeptSet, going: Return) -> Ledger:
    """The ledger with where this return is going, written before anything is touched: it may be killed."""
    ledger = now.ledger
    if ledger.back_to and ledger.back_to.set == target.key:
        return ledger
    noted = ledger.under_way or UnderWay(utc_now(), now.config.unit, target.key, now.timer.runs)
    ledger = replace(ledger, under_way=replace(noted, back_to=going))
    rollout_ledger.save(now.config.install_dir, ledger)
    return ledger


def _build_settings(config: Settings, order: Order, program: object) -> Wanted:
    """How a release is switched to, and built again if it must be; it comes from the host's own mirror."""
    return Wanted(
        install_dir=config.install_dir,
        user=config.user,
        unit=config.unit,
        keep=order.keep,
        python=order.python,
        uv=order.uv,
        smoke=smoke_of(str(program)),
        wheels=order.wheels,
        git_sources=order.git_sources,
        build_tools=order.build_tools,
        wait=order.wait,
    )


def _stay(now: Situation, order: Order, why: str) -> Json:
    """What is installed stays; the timer is brought to where it is wanted."""
    run = order.timer and not now.paused
    after = systemd.set_timer(now.config.unit, run, now.timer, check=order.check)
    return {**_result(now.timer, why, after), "held": now.paused.sentence if now.paused else ""}


def _result(before: systemd.Timer, why: str, after: systemd.Timer | None = None) -> Json:
    """What the module returns where nothing was gone back from."""
    after = after or before
    return {
        "changed": (after.enabled, after.active) != (before.enabled, before.active),
        "returned": False,
        "from": "",
        "to": None,
        "restored": [],
        "reason": why,
        "held": "",
        "timer": after._asdict(),
        "before": before._asdict(),
    }
