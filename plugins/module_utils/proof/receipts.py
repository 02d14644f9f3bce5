# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Receipts: what was proven by a canary, and whether that is what is installed now.

A receipt carries an HMAC-SHA256 under a key that only root of this host can read. That is
enough, and the least that is: writer and reader are the same root, so there is no public
key to hand out, and the standard library has all of it. It shows a receipt that was edited
by hand, restored by halves or copied from another host. It cannot stop root from lying,
nothing on the host could. The loop user, who may not read the key, still sees whether a
receipt is root's own, writable by root alone, and matches what is installed.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

from ..base import sizes
from ..base.clock import moment_of, written
from ..base.errors import LoopError, playbook
from ..base.files import read_bytes, sha256, write_atomic
from ..host import systemd
from ..host.settings import Settings
from ..release import agents

Json: TypeAlias = dict[str, Any]

KEY_NAME = ".key"
PROVE_AGAIN = f"prove it with: {playbook('canary')}"
UNSEEN = "nobody has seen what this changes at work"
# A proof of publishing is also a proof of being idle, never the other way round.
STRENGTH = {"empty": 0, "docs": 1}
UNPROVEN = "unproven"  # no receipt, but the record that somebody does without one
# What a proof is bound to, in the operator's words. The collection's version is told in the
# receipt but binds nothing: the code of it that runs on the host is in the unit digest.
BOUND = {
    "engine_sha": "engine",
    "lock_digest": "engine's dependency lock",
    "policy_digest": "policy",
    "unit_digest": "unit",
    "agent_digest": "agent",
}
# In loop.json, but without a say in what a cycle does (or with a digest of its own).
VOLATILE_KEYS = frozenset(
    {
        "agent",
        "agent_probe",
        "applied_by",
        "canary_max_age",
        "canary_mode",
        "canary_required",
        "cell_max_files",
        "cell_max_size",
        "collection_version",
        "min_free",
        "policy_sha256",
        "quarantine_keep",
    }
)
CLOCK_SKEW = 300.0


class Match(NamedTuple):
    """The receipt that covers what is installed, or None; and why, in words."""

    receipt: Json | None
    reason: str


# --- what is installed


def installed(config: Settings) -> Json:
    """What is on the host now: engine, lock, policy, unit, agent and the collection's version.

    Raises LoopError, naming it, where a part of it is not there yet.
    """
    from ..policy import schema  # here: it needs PyYAML, which a fresh host lacks

    release = active_release(config)
    return {
        "engine_sha": release["sha"],
        "lock_digest": release["lock_digest"],
        "policy_digest": schema.digest(schema.load_file(config.policy_file)),
        "unit_digest": unit_digest(config),
        "agent_digest": agents.digest(config),
        "collection_version": str(config.get("collection_version", "")),
    }


def active_release(config: Settings) -> dict[str, str]:
    """``sha`` and ``lock_digest`` as recorded in the release that ``current`` leads to."""
    current = os.path.join(config.install_dir, "current")
    path = os.path.join(os.path.realpath(current), ".release.json")
    content = read_bytes(path)
    if content is None:
        raise LoopError(f"no engine is installed: {path} is missing")
    try:
        known = json.loads(content)
        release = {key: str(known[key]) for key in ("sha", "lock_digest")}
    except (ValueError, KeyError, TypeError) as error:
        raise LoopError(f"{path} does not name its sha and lock_digest: build the release again") from error
    if os.path.basename(os.path.realpath(current)) != release["sha"]:
        raise LoopError(f"{current} leads to {os.path.realpath(current)}, which says that it is {release['sha']}")
    return release


def unit_digest(config: Settings, root: str = "") -> str:
    """SHA-256 over all that decides how a cycle runs: service, drop-ins, loop.json and our code on the host.

    The timer is left out: when a cycle runs changes nothing in what was proven. ``root`` is where
    a copy of the host's files stands.
    """
    files = unit_files(config, root)
    digest = hashlib.sha256()
    bound = {key: value for key, value in config.items() if key not in VOLATILE_KEYS}
    _feed(digest, "loop.json", json.dumps(bound, sort_keys=True).encode())
    for path in files:
        _feed(digest, path, read_bytes(root + path) or b"")
    return digest.hexdigest()


def meaning(config: Settings) -> Json:
    """What of the settings a proof is bound to, policy and agent included, which have digests of their own."""
    apart = ("agent", "policy_sha256")
    return {key: value for key, value in config.items() if key not in VOLATILE_KEYS or key in apart}


def unit_files(config: Settings, root: str = "") -> list[str]:
    """The files of the unit, as they stand below ``root``: service, drop-ins, our code."""
    units = unit_paths(config)
    missing = [path for path in units if not os.path.exists(root + path)]
    units += [path for path in way_out_paths(config) if os.path.exists(root + path)]
    if missing:
        raise LoopError(f"the unit {root}{missing[0]} is not installed yet")
    drop_ins = [path for unit in units for path in _tree(root, f"{unit}.d")]
    return [*units, *drop_ins, *_tree(root, config.lib_dir, leave=("uv", "__pycache__"))]


def unit_paths(config: Settings) -> list[str]:
    """The units of a cycle: its own, the watch beside it, the gateway."""
    return _paths(config, ".service", "-watch.service", "-gate.service", "-gate.socket")


def way_out_paths(config: Settings) -> list[str]:
    """Those that are there only where the hosts that a cycle may reach are named."""
    way = (".service", ".socket", "-proxy.service", "-local@.service", "-local@.socket")
    return _paths(config, *(f"-egress{kind}" for kind in way))


def _paths(config: Settings, *kinds: str) -> list[str]:
    return [os.path.join(systemd.UNIT_DIR, f"{config.unit}{kind}") for kind in kinds]


def _feed(digest: Any, name: str, content: bytes) -> None:
    # Length before content, so that two files can never be read as two others.
    digest.update(f"{name}\0{len(content)}\0".encode())
    digest.update(content)


def _tree(root: str, top: str, leave: Iterable[str] = ()) -> list[str]:
    """Every regular file below ``top``, in order, without the directories named in ``leave``."""
    found: list[str] = []
    for directory, subdirectories, names in os.walk(root + top):
        subdirectories[:] = sorted(name for name in subdirectories if name not in leave)
        found += [os.path.join(directory, name) for name in sorted(names)]
    return [path.removeprefix(root) for path in found if stat.S_ISREG(os.lstat(path).st_mode)]


# --- receipts


def write(config: Settings, mode: str, proven: Json, how: Json, *, applied_by: str, overrides: Iterable[str]) -> str:
    """Write a receipt and return its path. Only root can."""
    return _write_signed(config.receipts_dir, *_record(mode, proven, how, applied_by, overrides, "json"))


def note_unproven(config: Settings, *, applied_by: str, overrides: Iterable[str], check: bool = False) -> bool:
    """Record, beside the receipts, that the timer runs what is not proven and who wants that.

    False where the newest such record says the same of what is installed; with ``check`` nothing is written.
    """
    try:
        now = installed(config)
    except LoopError as error:
        now = {"engine_sha": "nothing", "missing": str(error)}
    directory = config.receipts_dir
    name, record = _record(UNPROVEN, now, {}, applied_by, overrides, "note")
    for earlier in _names(directory, "note")[:1]:
        try:
            known = _read_signed(directory, earlier)
        except LoopError:
            break
        if all(known[key] == record[key] for key in ("proven", "applied_by", "overrides")):
            return False
    if not check:
        _write_signed(directory, name, record)
    return True


def _record(
    mode: str, proven: Json, how: Json, applied_by: str, overrides: Iterable[str], ending: str
) -> tuple[str, Json]:
    """A record of this moment and the name of its file."""
    now = _now()
    record = {
        "version": 1,
        "mode": mode,
        "proved_at": written(now),
        "proven": proven,
        "how": how,
        "applied_by": applied_by,
        "overrides": sorted(overrides),
    }
    # What it says is in the name, so that two of one second do not replace each other.
    what = sha256(json.dumps([proven, applied_by, record["overrides"]], sort_keys=True).encode())
    return f"{now:%Y%m%dT%H%M%SZ}-{mode}-{proven['engine_sha'][:8]}-{what[:8]}.{ending}", record


def matching(config: Settings, max_age: float | None = None, mode: str = "docs") -> Match:
    """The newest genuine receipt for exactly what is installed, no older than ``max_age`` seconds.

    Works for root, who checks the HMAC, and for the loop user, who cannot. Where nothing
    matches, the reason is about the newest receipt and says what must be proven again.
    """
    try:
        now = installed(config)
    except LoopError as error:
        return Match(None, f"{error}; {PROVE_AGAIN}")
    return covering(config, now, max_age, mode)


def covering(config: Settings, now: Json, max_age: float | None = None, mode: str = "docs") -> Match:
    """The newest genuine receipt for ``now``, which has the form of what ``installed`` tells."""
    reasons: list[str] = []
    for name in _names(config.receipts_dir):
        try:
            receipt = _read_signed(config.receipts_dir, name)
            problem = _mismatch(receipt, now, max_age, mode)
        except LoopError as error:
            problem = str(error)
        else:
            if not problem:
                return Match(receipt, f"proven by {mode_of(receipt)} at {receipt['proved_at']}")
        reasons.append(problem)
    if not reasons:
        return Match(None, f"nothing was proven on this host yet; {PROVE_AGAIN}")
    return Match(None, f"{reasons[0]}; {PROVE_AGAIN}")


def mode_of(receipt: Json) -> str:
    """The canary's mode in words."""
    return f"the {receipt['mode']} canary"


def _mismatch(receipt: Json, now: Json, max_age: float | None, mode: str) -> str:
    """Why the receipt does not cover ``now``; empty where it does."""
    proved_at = receipt["proved_at"]
    changed = [words for key, words in BOUND.items() if receipt["proven"].get(key, "") != now[key]]
    if changed:
        told = f"the {' and the '.join(changed)} changed after the proof of {proved_at}"
        then = receipt["proven"].get("collection_version", "")
        today = now.get("collection_version", then)  # what is kept is looked at without
        if BOUND["unit_digest"] in changed and then != today:
            told += f" (the collection was {then or 'another'} and is {today}: its code guards each cycle)"
        return told
    if STRENGTH[receipt["mode"]] < STRENGTH[mode]:
        return f"only {mode_of(receipt)} was passed ({proved_at}) and {mode} is wanted"
    age = (_now() - moment_of(proved_at)).total_seconds()
    if age < -CLOCK_SKEW:
        return f"the proof is dated in the future ({proved_at}): is the clock of this host right?"
    if max_age is not None and age > max_age:
        return f"the proof of {proved_at} is older than the {max_age / 3600:g} hours that are allowed"
    return ""


def unprivileged(config: Settings) -> Json:
    """May the timer run what is installed? For the cycle's pre-flight, as the loop user.

    ``{"matches", "reason", "receipt"}``; age and mode are the ones that loop.json asks for.
    """
    receipt, reason = matching(config, sizes.duration(str(config.get("canary_max_age") or "")), wanted_mode(config))
    return {"matches": receipt is not None, "reason": reason, "receipt": receipt}


def wanted_mode(config: Settings) -> str:
    """The least canary that lets the timer run, as the role wrote it."""
    mode = str(config.get("canary_mode") or "docs")
    if mode not in STRENGTH:
        raise LoopError(f"canary_mode {mode!r} is unknown: it is one of {', '.join(STRENGTH)}")
    return mode


# --- files that are root's, whole and unedited


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _names(directory: str, ending: str = "json") -> list[str]:
    """Receipt files (or notes), the newest first: their names begin with their time."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LoopError(f"{directory} cannot be read: {error.strerror}") from error
    return sorted((name for name in names if re.fullmatch(rf"\d{{8}}T\d{{6}}Z-.*\.{ending}", name)), reverse=True)


def _mac(key: bytes, record: Json) -> str:
    content = {name: value for name, value in record.items() if name != "hmac"}
    return hmac.new(key, json.dumps(content, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def _key(directory: str) -> bytes:
    path = os.path.join(directory, KEY_NAME)
    if not os.path.lexists(path):
        write_atomic(path, secrets.token_bytes(32), mode=0o600)
    content, status = _read_roots(path)
    if len(content) != 32 or stat.S_IMODE(status.st_mode) != 0o600:
        raise LoopError(f"{path} is not a key of ours (32 bytes, mode 0600): remove it and prove again")
    return content


def _write_signed(directory: str, name: str, record: Json) -> str:
    if os.geteuid() != 0:
        raise LoopError("only root may write receipts")
    os.makedirs(directory, mode=0o755, exist_ok=True)
    _check_roots(directory, os.lstat(directory))
    signed = {**record, "hmac": _mac(_key(directory), record)}
    path = os.path.join(directory, name)
    write_atomic(path, (json.dumps(signed, indent=2, sort_keys=True) + "\n").encode(), mode=0o644)
    return path


def _read_signed(directory: str, name: str) -> Json:
    path = os.path.join(directory, name)
    _check_roots(directory, os.lstat(directory))
    content, _status = _read_roots(path)
    try:
        record = json.loads(content)
    except ValueError as error:
        raise LoopError(f"{path} is not JSON: it was not written by a canary") from error
    if not _is_receipt(record):
        raise LoopError(f"{path} is not a receipt that this version of the collection knows")
    if os.geteuid() == 0:
        if not os.path.lexists(os.path.join(directory, KEY_NAME)):
            raise LoopError(f"{path} cannot be verified: the key beside it is gone")
        if not hmac.compare_digest(_mac(_key(directory), record), str(record.get("hmac", ""))):
            raise LoopError(f"{path} was changed after it was written: its HMAC does not fit")
    return dict(record)


def _is_receipt(record: Any) -> bool:
    try:
        moment_of(record["proved_at"])
        return bool(
            record["version"] == 1 and record["mode"] in (*STRENGTH, UNPROVEN) and isinstance(record["proven"], dict)
        )
    except (KeyError, TypeError, ValueError):
        return False


def _read_roots(path: str) -> tuple[bytes, os.stat_result]:
    """A regular file's content, where root alone can have written it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise LoopError(f"{path} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as handle:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise LoopError(f"{path} is not a regular file")
        _check_roots(path, status)
        return handle.read(), status


def _check_roots(path: str, status: os.stat_result) -> None:
    if status.st_uid != 0 or status.st_mode & 0o022:
        owner = f"owner {status.st_uid}, mode {status.st_mode & 0o7777:04o}"
        raise LoopError(f"{path} does not count: others than root can write it ({owner})")
