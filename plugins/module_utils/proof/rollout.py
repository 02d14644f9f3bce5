# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rollouts: what was proven is kept whole, so that whatever comes after it is undone in one step.

A *set* is a copy of every file that a receipt covers (policy, settings, units, our code), below
``INSTALL_DIR/proven/<sha>-<digest>/files`` under their own paths; the engine itself stays in
``releases/``. A set counts only while a genuine receipt covers it. ``INSTALL_DIR/rollout.json``
remembers which set was in force when, and the rollout that is under way: before the first change
to anything that a proof covers, ``begin`` notes it and holds the timer.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..base import sizes
from ..base.clock import utc_now
from ..base.errors import LoopError
from ..base.files import flocked, read_bytes, sha256, write_atomic
from ..host import managed_files, processes, settings, systemd
from ..host.settings import Settings
from ..policy import schema
from ..release import agents, releases, store
from ..release.wanted import Wanted
from . import receipts

Json = dict[str, Any]

LEDGER = "rollout.json"
SETS = "proven"
KEPT = 10  # sets, and
HISTORY = 200  # events that are remembered
AGAIN = ("returned", "rolled back")
NOTHING_PROVEN = "nothing that was proven before is on this host"


@dataclass(frozen=True)
class Kept:
    """One set: the engine, where its files are, and since when they count as proven."""

    key: str
    sha: str
    root: str
    config_file: str
    config: Settings
    proved_at: str

    def shown(self) -> Json:
        """What an operator is told of it."""
        return {"sha": self.sha, "proved_at": self.proved_at, "kept_at": os.path.dirname(self.root)}


# --- forward: note, hold, keep --------------------------------------------------------------


def begin(config_file: str, paths: Sequence[str] = ()) -> None:
    """Called before the first change to anything that a proof covers: remember what was, hold the timer.

    ``paths`` are the files that will change, where that is known: some of them may concern no proof.
    A host that was not deployed yet has nothing to remember. Killed at any moment, the next call
    finds what it needs: what ran before stays noted until something else is proven.
    """
    try:
        config = settings.load(config_file, keys=settings.LASTING)
    except LoopError:
        return  # nothing is deployed, or nothing that could start
    if paths and not any(_covered(path, config_file, config) for path in paths):
        return
    with _alone(config.install_dir) as known:
        current = _installed(config)
        state = systemd.timer_of(config.unit)
        under_way = known["open"]
        if _proof(config, current).receipt is not None and current is not None:
            _keep(config_file, config, current)
            under_way = {**_opened(config), "from": _key(current), "timer": state.runs or _had(under_way)}
        elif under_way is None:
            under_way = {**_opened(config), "from": "", "timer": state.runs}
        if under_way != known["open"]:
            _save(config.install_dir, {**known, "open": under_way})
        if state.runs:
            systemd.set_timer(config.unit, False, state)


def voids(config_file: str, changes: Iterable[managed_files.Change]) -> bool:
    """Whether a proof of what is installed holds no longer once these changes are made."""
    try:
        config = settings.load(config_file, keys=settings.LASTING)
    except LoopError:
        return bool(list(changes))  # nothing is deployed, so nothing is proven

    def meaning(content: bytes | None) -> Any:
        try:
            return receipts.meaning(json.loads(content or b""))
        except (ValueError, AttributeError):
            return content

    return any(
        meaning(change.before) != meaning(change.after)
        if change.path == config_file
        else change.before != change.after and _covered(change.path, config_file, config)
        for change in changes
    )


def settle(config_file: str, receipt: Json | None, *, check: bool = False) -> bool:
    """The rollout is over: what ``receipt`` covers is in force and kept. Whether anything had to be noted.

    Without a receipt the operator has switched the guard off, and nothing is kept.
    """
    config = settings.load(config_file, keys=settings.LASTING)
    with _alone(config.install_dir, check=check) as known:
        current = receipts.installed(config) if receipt else {}
        key = _key(current) if receipt else ""
        newest = known["history"][-1] if known["history"] else {}
        fresh = bool(key) and (newest.get("set") != key or not os.path.isdir(_place(config.install_dir, key)))
        if check or not (fresh or known["open"]):
            return fresh or known["open"] is not None
        if fresh:
            _keep(config_file, config, current)
            known = _happened(known, "proven", key, current["engine_sha"])
        _save(config.install_dir, {**known, "open": None})
        _prune(config.install_dir, known)
    return True


def _opened(config: Settings) -> Json:
    return {"began": utc_now(), "unit": config.unit}


def _going(known: Json) -> Json:
    """Where a return was going that did not arrive: ``{set, left, reason}``; empty where there is none."""
    return dict((known["open"] or {}).get("back_to") or {})


def _had(under_way: Json | None) -> bool:
    return bool(under_way and under_way["timer"])


def _keep(config_file: str, config: Settings, current: Json) -> None:
    """Copy what is installed, unless that very set is kept already. Whole, or not at all."""
    install_dir, key = config.install_dir, _key(current)
    place = _place(install_dir, key)
    if os.path.isdir(place):
        return
    os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
    fresh = os.path.join(os.path.dirname(place), f".new-{key}")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        for path in _files(config_file, config):
            content, status = read_bytes(path), os.lstat(path)
            copy = f"{fresh}/files{path}"
            os.makedirs(os.path.dirname(copy), mode=0o700, exist_ok=True)
            write_atomic(copy, content or b"", stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
        about = {"proven": current, "config": config_file, "kept_at": utc_now()}
        write_atomic(os.path.join(fresh, "set.json"), (json.dumps(about, indent=2) + "\n").encode(), mode=0o600)
        os.rename(fresh, place)
    except OSError as error:
        raise LoopError(f"what is proven cannot be kept in {place}: {error.strerror}") from error


def _files(config_file: str, config: Settings, root: str = "") -> list[str]:
    """Everything that belongs to a set: the files that a proof covers."""
    return [config_file, config.policy_file, *receipts.unit_files(config, root)]


def _covered(path: str, config_file: str, config: Settings) -> bool:
    units = [*receipts.unit_paths(config), *receipts.way_out_paths(config)]
    above = (*(f"{unit}.d/" for unit in units), f"{config.lib_dir}/")
    return path in (config_file, config.policy_file, *units) or path.startswith(above)


def _prune(install_dir: str, known: Json) -> None:
    """Sets whose release is gone, and the oldest beyond the bound."""
    order = list(dict.fromkeys(event["set"] for event in reversed(known["history"]) if event["set"]))
    for name in _names(install_dir):
        gone = store.record(install_dir, name[:40]) is None
        if gone or name not in order[:KEPT]:
            shutil.rmtree(_place(install_dir, name), ignore_errors=True)


# --- back -----------------------------------------------------------------------------------


def undo(
    config_file: str,
    build: Mapping[str, Any],
    *,
    wanted: bool,
    failed: bool = False,
    reason: str = "",
    check: bool = False,
) -> Json:
    """End a rollout that did not succeed: what ran and was proven before it is in force again.

    ``build`` has what only the inventory knows of a build: ``keep python uv wait``.
    ``failed`` means that a cycle was judged, so that the engine is to blame unless only its policy or
    unit is new. The timer runs again where it did before and is still ``wanted``.
    """
    if not os.path.lexists(config_file):
        return _stays(systemd.Timer(), f"{NOTHING_PROVEN}: this is its first deployment")
    config = settings.load(config_file, keys=settings.LASTING)
    with _alone(config.install_dir, check=check) as known:
        current = _installed(config)
        state = systemd.timer_of(config.unit)
        wanted = wanted and (_had(known["open"]) if known["open"] else state.runs)
        proof = _proof(config, current)
        going = _going(known)
        target = load(config.install_dir, going["set"], despite=True) if going else None
        if proof.receipt is not None and target is None:
            if failed:
                why = "what is installed is what was proven last, so there is nothing better to go back to"
                return _stays(_put(config.unit, False, state, check), why, state)
            after = _put(config.unit, wanted, state, check)
            if not check and known["open"]:
                _save(config.install_dir, {**known, "open": None})
            return _stays(after, "nothing that a proof covers was changed", state)
        target = target or _before(config.install_dir, known, current)
        if target is None:
            why = NOTHING_PROVEN + _left_behind(config.install_dir)
            return _stays(_put(config.unit, False, state, check), why, state)
        blamed = failed and current is not None and current["engine_sha"] != target.sha
        if blamed and current is not None and not check:
            store.record_verdict(config.install_dir, current["engine_sha"], "failed", reason)
        return _go_back(known, config, build, target, "returned", wanted, reason, check)


def previous(
    config_file: str, build: Mapping[str, Any], *, wanted: bool, to: str = "", reason: str = "", check: bool = False
) -> Json:
    """Go back to the engine that was proven and in force before this one, with the policy and unit it had.

    ``to`` names another one by its commit. Where that was done already, nothing changes.
    """
    config = settings.load(config_file, keys=settings.LASTING)
    install_dir = config.install_dir
    with _alone(install_dir, check=check) as known:
        current = _installed(config)
        state = systemd.timer_of(config.unit)
        proof = _proof(config, current)
        newest = known["history"][-1] if known["history"] else {}
        going = _going(known)
        if proof.receipt is not None and current is not None and not going:
            back_already = newest.get("why") == "rolled back" and newest["set"] == _key(current)
            if current["engine_sha"].startswith(to) if to else back_already:
                after = _put(config.unit, wanted, state, check)
                return _stays(after, f"{current['engine_sha']} is in force already, {proof.reason}", state)
        if to:
            target = _named(install_dir, known, None if going else current, to)
        elif going:
            target = load(install_dir, going["set"], despite=True)
        else:
            target = _before(install_dir, known, current, other=True)
        if target is None:
            there = ", ".join(sorted({name[:40] for name in _names(install_dir)})) or "none"
            what = f"proven release {to}" if to else "other proven release"
            behind = _left_behind(install_dir)
            raise LoopError(f"there is no {what} to go back to on this host; kept as proven are: {there}{behind}")
        return _go_back(known, config, build, target, "rolled back", wanted, reason, check)


def _go_back(
    known: Json,
    config: Settings,
    build: Mapping[str, Any],
    target: Kept,
    why: str,
    wanted: bool,
    reason: str,
    check: bool,
) -> Json:
    """Bring ``target`` in force: timer held, cycle over, engine, files, and the timer where it belongs."""
    install_dir = config.install_dir
    entries = _entries(target, config)
    changes = managed_files.converge(entries, check=True)  # refuses before anything is touched
    left = store.active(install_dir)
    switch = left is None or left["sha"] != target.sha
    result: Json = {
        "changed": True,
        "returned": True,
        "from": left["sha"] if left else "",
        "to": target.shown(),
        "restored": [change.path for change in changes],
    }
    before = systemd.timer_of(config.unit)
    if check:
        after = before._replace(enabled=wanted, active=wanted, next="")
        return {**result, "reason": "", "held": "", "timer": after._asdict(), "before": before._asdict()}
    if why == "rolled back":
        processes.wait_until_idle("", config.unit, build["wait"], "nothing was changed")
    going = _going(known)
    if going.get("set") != target.key:
        going = {"set": target.key, "left": left["sha"] if left else "", "reason": reason}
        under_way = known["open"] or {**_opened(config), "from": target.key, "timer": before.runs}
        known = {**known, "open": {**under_way, "back_to": going}}
        _save(install_dir, known)
    systemd.set_timer(config.unit, False, before)
    if why == "returned":
        # The timer is held, so what runs is the canary that did not end.
        systemd.systemctl("stop", f"{config.unit}.service")
    if switch:
        releases.back_to(_build_settings(config, build), target.sha)
    managed_files.converge(entries)
    systemd.systemctl("daemon-reload")
    proof = receipts.matching(target.config, mode=receipts.wanted_mode(target.config))
    if proof.receipt is None:
        raise LoopError(f"went back to {target.sha}, but it does not count as proven: {proof.reason}; timer held")
    max_age = sizes.duration(str(target.config.get("canary_max_age") or ""))
    valid = receipts.matching(target.config, max_age, receipts.wanted_mode(target.config))
    after = systemd.set_timer(target.config.unit, wanted and valid.receipt is not None)
    event = {"left": going["left"], "reason": going["reason"]}
    _save(install_dir, {**_happened(known, why, target.key, target.sha, event), "open": None})
    held = valid.reason if wanted and valid.receipt is None else ""
    return {**result, "reason": proof.reason, "held": held, "timer": after._asdict(), "before": before._asdict()}


def _build_settings(config: Settings, build: Mapping[str, Any]) -> Wanted:
    """How a release is switched to, and built again if it must be; it comes from the host's own mirror."""
    return Wanted(
        install_dir=config.install_dir,
        user=config.user,
        unit=config.unit,
        **build,
    )


def _entries(target: Kept, config: Settings) -> list[managed_files.Entry]:
    """What must stand where for the set to be in force; what joined it since goes."""
    wanted = _files(target.config_file, target.config, target.root)
    entries: dict[str, managed_files.Entry] = {}
    for path in wanted:
        for parent in _missing_parents(path, entries):
            entries[parent] = managed_files.Entry(parent, "directory", mode=0o755)
        status = os.lstat(target.root + path)
        entries[path] = managed_files.Entry(
            path,
            content=read_bytes(target.root + path) or b"",
            owner=pwd.getpwuid(status.st_uid).pw_name,
            group=grp.getgrgid(status.st_gid).gr_name,
            mode=stat.S_IMODE(status.st_mode),
        )
    with contextlib.suppress(LoopError):  # no unit there: nothing joined it
        for path in receipts.unit_files(target.config):
            if path not in entries:
                entries[path] = managed_files.Entry(path, "absent")
    return list(entries.values())


def _missing_parents(path: str, known: dict[str, managed_files.Entry]) -> list[str]:
    missing: list[str] = []
    parent = os.path.dirname(path)
    while parent not in known and not os.path.isdir(parent):
        missing.insert(0, parent)
        parent = os.path.dirname(parent)
    return missing


def _stays(after: systemd.Timer, why: str, before: systemd.Timer | None = None) -> Json:
    before = before or after
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


def _put(unit: str, run: bool, before: systemd.Timer, check: bool) -> systemd.Timer:
    if check:
        return before._replace(enabled=run, active=run, next="") if systemd.timer_differs(before, run) else before
    return systemd.set_timer(unit, run, before)


# --- what there is --------------------------------------------------------------------------


def back(config: Settings) -> Json | None:
    """What ``previous`` would go back to; None where there is nothing."""
    known = _read(config.install_dir)
    target = _before(config.install_dir, known, _installed(config), other=True)
    return target.shown() if target else None


def under_way(install_dir: str) -> Json | None:
    """The rollout that was begun and did not end, as it was noted; None where there is none."""
    found: Json | None = _read(install_dir)["open"]
    return found


def doubts(install_dir: str) -> dict[str, str]:
    """The engines that were gone back from or failed, and why: an apply that brings one of them again says so."""
    found: dict[str, str] = {}
    for event in _read(install_dir)["history"]:
        found.pop(event["sha"], None)
        if event["why"] in AGAIN and event["left"] not in ("", event["sha"]):
            found[event["left"]] = f"was {event['why']} from at {event['at']}" + (
                f" ({event['reason']})" if event["reason"] else ""
            )
    marks = store.ledger(install_dir)["marks"]
    for sha, mark in marks.items():
        if mark["verdict"] == "failed":
            found[sha] = f"failed at {mark['at']}" + (f" ({mark['detail']})" if mark["detail"] else "")
    return found


def _before(install_dir: str, known: Json, current: Json | None, *, other: bool = False) -> Kept | None:
    """The set to go back to: the one that ran before the rollout under way, else the last one in force that counts.

    ``other`` prefers another engine to another policy of the same one.
    """
    now, sha = (_key(current), current["engine_sha"]) if current else ("", "")
    left = _left(known)
    order = [event["set"] for event in reversed(known["history"])]
    if known["open"] and known["open"]["from"]:
        order.insert(0, known["open"]["from"])
    usable = [kept for key in dict.fromkeys(order) if key != now and (kept := load(install_dir, key))]
    first = known["open"]["from"] if known["open"] else ""
    usable = [kept for kept in usable if kept.key == first or not {kept.key, kept.sha} & left]
    if other:
        usable.sort(key=lambda kept: kept.sha == sha)  # stable: the latest in force stays first
    return usable[0] if usable else None


def _named(install_dir: str, known: Json, current: Json | None, to: str) -> Kept | None:
    now = _key(current) if current else ""
    order = [*(event["set"] for event in reversed(known["history"])), *_names(install_dir)]
    names = [name for name in dict.fromkeys(order) if name.startswith(to) and name != now]
    return next((kept for name in names if (kept := load(install_dir, name, despite=True))), None)


def _left(known: Json) -> set[str]:
    """Sets and engines that were gone back from, and were not wanted again since."""
    left: set[str] = set()
    for event in known["history"]:
        left -= {event["set"], event["sha"]}
        if event["why"] in AGAIN:
            left |= {event["left"]} - {"", event["sha"]}
            left |= {event["left_set"]} - {"", event["set"]}
    return left


def load(install_dir: str, key: str, *, despite: bool = False) -> Kept | None:
    """The set, if it counts: whole, its engine on disk and not failed, and covered by a genuine receipt.

    ``despite`` also takes an engine that failed: somebody names it.
    """
    place = _place(install_dir, key)
    root = os.path.join(place, "files")
    try:
        about = json.loads(read_bytes(os.path.join(place, "set.json")) or b"null")
        sha, config_file = about["proven"]["engine_sha"], about["config"]
        config = settings.load(root + config_file, keys=settings.LASTING)
        release = store.record(install_dir, sha)
        if release is None or config.install_dir != install_dir or _outlived(config):
            return None
        found = {
            "engine_sha": sha,
            "lock_digest": release["lock_digest"],
            "policy_digest": schema.digest(schema.load_file(root + config.policy_file)),
            "unit_digest": receipts.unit_digest(config, root),
            "agent_digest": agents.digest(config),
        }
        receipt = receipts.covering(config, found, mode=receipts.wanted_mode(config)).receipt
    except (LoopError, OSError, KeyError, TypeError, ValueError):
        return None
    failed = store.ledger(install_dir)["marks"].get(sha, {}).get("verdict") == "failed"
    if receipt is None or (failed and not despite):
        return None
    return Kept(key, sha, root, config_file, config, receipt["proved_at"])


def _outlived(config: Settings) -> bool:
    """Whether a set is of an older layout than the host has: its cycles have no cells, and nowhere to work any more."""
    if settings.celled(config):
        return False
    try:
        return os.stat(config.get("runs_dir", "")).st_uid == 0
    except OSError:
        return True


def agents_in_use(install_dir: str) -> list[str]:
    """Where the agents stand that belong to what is kept as proven; what is in force is, once it was proven."""
    found = []
    for name in _names(install_dir):
        with contextlib.suppress(LoopError, OSError, KeyError, TypeError, ValueError):
            found.append(agents.place(install_dir, _settings_of(_place(install_dir, name))["agent"]))
    return found


def _settings_of(place: str) -> Settings:
    about = json.loads(read_bytes(os.path.join(place, "set.json")) or b"null")
    return settings.load(f"{place}/files{about['config']}", keys=settings.LASTING)


def _left_behind(install_dir: str) -> str:
    """In words, what was proven and cannot be gone back to since it is of an older layout; empty where nothing is."""
    found = []
    for name in _names(install_dir):
        with contextlib.suppress(LoopError, OSError, KeyError, TypeError, ValueError):
            if _outlived(_settings_of(_place(install_dir, name))):
                found.append(name[:40])
    if not found:
        return ""
    shas = ", ".join(dict.fromkeys(found))
    return f"; {shas} ran where cycles had no cells, which this host has left: pin it and apply to have it proven anew"


# --- small things ---------------------------------------------------------------------------


def _installed(config: Settings) -> Json | None:
    """What is on the host now; None where a part of it is missing."""
    try:
        return receipts.installed(config)
    except LoopError:
        return None


def _proof(config: Settings, current: Json | None) -> receipts.Match:
    if current is None:
        return receipts.Match(None, "a part of it is missing")
    return receipts.covering(config, current, mode=receipts.wanted_mode(config))


def _key(current: Json) -> str:
    """The name of a set: the engine, and all that a proof covers beside it."""
    rest = json.dumps([current[part] for part in sorted(receipts.BOUND) if current[part]])
    return f"{current['engine_sha']}-{sha256(rest.encode())[:12]}"


def _place(install_dir: str, key: str) -> str:
    return os.path.join(install_dir, SETS, key)


def _names(install_dir: str) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return [name for name in sorted(os.listdir(_place(install_dir, ""))) if re.fullmatch(r"[0-9a-f]{40}-\w+", name)]
    return []


@contextlib.contextmanager
def _alone(install_dir: str, *, check: bool = False) -> Iterator[Json]:
    """What is remembered, ours alone for as long as this lasts."""
    if check or not os.path.isdir(install_dir):
        yield _read(install_dir)
        return
    with flocked(os.path.join(install_dir, ".rollout.lock")):
        yield _read(install_dir)


def _read(install_dir: str) -> Json:
    """What is remembered: ``history``, and ``open``, the rollout under way or None.

    An event of the history has ``set sha at why left left_set reason``, a rollout ``began unit from timer back_to``.
    """
    path = os.path.join(install_dir, LEDGER)
    try:
        known = json.loads(read_bytes(path) or b"{}")
        return {"open": known.get("open"), "history": list(known.get("history", []))}
    except (ValueError, AttributeError, TypeError) as error:
        raise LoopError(f"{path} cannot be understood ({error}): move it away to start anew") from error


def _save(install_dir: str, known: Json) -> None:
    content = json.dumps({**known, "history": known["history"][-HISTORY:]}, indent=2, sort_keys=True) + "\n"
    write_atomic(os.path.join(install_dir, LEDGER), content.encode(), mode=0o644)


def _happened(known: Json, why: str, key: str, sha: str, more: Json | None = None) -> Json:
    newest = known["history"][-1]["set"] if known["history"] else ""
    event = {"set": key, "sha": sha, "at": utc_now(), "why": why, "left": "", "left_set": newest, "reason": ""}
    return {**known, "history": [*known["history"], {**event, **(more or {})}]}
