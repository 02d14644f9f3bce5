# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Receipts: files of root's that say what was proven by a canary, whole and unedited.

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
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeAlias

from ..base import documents
from ..base.clock import moment_of, written
from ..base.errors import LoopError
from ..base.files import read_bytes, sha256, write_atomic
from ..host.settings import Settings
from . import installed
from .installed import Installed

Json: TypeAlias = dict[str, Any]

KEY_NAME = ".key"
# A proof of publishing is also a proof of being idle, never the other way round.
STRENGTH = {"empty": 0, "docs": 1}
UNPROVEN = "unproven"  # no receipt, but the record that somebody does without one


@dataclass(frozen=True)
class Receipt:
    """What decides of a receipt, and all of it as it stands in its file."""

    version: int
    mode: str
    proved_at: str
    proven: Installed
    hmac: str = ""
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)


def write(
    config: Settings, mode: str, proven: Installed, how: Json, *, applied_by: str, overrides: Iterable[str]
) -> str:
    """Write a receipt and return its path. Only root can."""
    return _write_signed(config.receipts_dir, *_record(mode, asdict(proven), how, (applied_by, overrides), "json"))


def note_unproven(config: Settings, *, applied_by: str, overrides: Iterable[str], check: bool = False) -> bool:
    """Record, beside the receipts, that the timer runs what is not proven and who wants that.

    False where the newest such record says the same of what is installed; with ``check`` nothing is written.
    """
    try:
        now = asdict(installed.now(config))
    except LoopError as error:
        now = {"engine_sha": "nothing", "missing": str(error)}
    directory = config.receipts_dir
    name, record = _record(UNPROVEN, now, {}, (applied_by, overrides), "note")
    for earlier in names(directory, "note")[:1]:
        with suppress(LoopError):
            known = read(directory, earlier).document
            if all(known.get(key) == record[key] for key in ("proven", "applied_by", "overrides")):
                return False
    if not check:
        _write_signed(directory, name, record)
    return True


def names(directory: str, ending: str = "json") -> list[str]:
    """Receipt files (or notes), the newest first: their names begin with their time."""
    try:
        found = os.listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LoopError(f"{directory} cannot be read: {error.strerror}") from error
    return sorted((name for name in found if re.fullmatch(rf"\d{{8}}T\d{{6}}Z-.*\.{ending}", name)), reverse=True)


def read(directory: str, name: str) -> Receipt:
    """A genuine receipt. LoopError where others can have written it or, as far as root can tell, changed it."""
    path = os.path.join(directory, name)
    _check_roots(directory)
    try:
        document = json.loads(_read_roots(path))
    except ValueError as error:
        raise LoopError(f"{path} is not JSON: it was not written by a canary") from error
    receipt = _parsed(path, document)
    if os.geteuid() == 0:
        if not os.path.lexists(os.path.join(directory, KEY_NAME)):
            raise LoopError(f"{path} cannot be verified: the key beside it is gone")
        if not hmac.compare_digest(_mac(_key(directory), document), receipt.hmac):
            raise LoopError(f"{path} was changed after it was written: its HMAC does not fit")
    return receipt


def _parsed(path: str, document: Any) -> Receipt:
    try:
        receipt = replace(documents.parse(Receipt, document), document=document)
        moment_of(receipt.proved_at)
        if receipt.version != 1 or receipt.mode not in (*STRENGTH, UNPROVEN):
            raise LoopError(f"version {receipt.version}, mode {receipt.mode}")
    except (LoopError, ValueError) as error:
        raise LoopError(f"{path} is not a receipt that this version of the collection knows ({error})") from error
    return receipt


def _record(mode: str, proven: Json, how: Json, who: tuple[str, Iterable[str]], ending: str) -> tuple[str, Json]:
    """The name of a file and what is in it, of this moment; ``who`` applied, with which overrides."""
    now, (applied_by, overrides) = utc_now(), who
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


def utc_now() -> datetime.datetime:
    """The moment that a receipt is dated with and that its age counts to."""
    return datetime.datetime.now(datetime.UTC)


# --- files that are root's


def _mac(key: bytes, record: Json) -> str:
    content = {name: value for name, value in record.items() if name != "hmac"}
    return hmac.new(key, json.dumps(content, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def _key(directory: str) -> bytes:
    path = os.path.join(directory, KEY_NAME)
    if not os.path.lexists(path):
        write_atomic(path, secrets.token_bytes(32), mode=0o600)
    content = _read_roots(path)
    if len(content) != 32 or stat.S_IMODE(os.lstat(path).st_mode) != 0o600:
        raise LoopError(
            f"{path} is not a key of ours (32 bytes, mode 0600). If its mode alone was changed: chmod 0600 {path}; else"
            " remove it, and what was proven has to be proven again"
        )
    return content


def signing_key(directory: str) -> bytes:
    """What receipts there are signed with, made where there is none. LoopError where none could be written."""
    if os.geteuid() != 0:
        raise LoopError("only root may write receipts")
    os.makedirs(directory, mode=0o755, exist_ok=True)
    _check_roots(directory)
    return _key(directory)


def _write_signed(directory: str, name: str, record: Json) -> str:
    signed = {**record, "hmac": _mac(signing_key(directory), record)}
    path = os.path.join(directory, name)
    write_atomic(path, (json.dumps(signed, indent=2, sort_keys=True) + "\n").encode(), mode=0o644)
    return path


def _read_roots(path: str) -> bytes:
    """A regular file's content, where root alone can have written it; its directory is known to be root's."""
    content = read_bytes(path)
    if content is None:
        raise LoopError(f"{path} cannot be read: it is gone")
    _check_roots(path)
    return content


def _check_roots(path: str) -> None:
    status = os.lstat(path)
    if status.st_uid != 0 or status.st_mode & 0o022:
        owner = f"owner {status.st_uid}, mode {status.st_mode & 0o7777:04o}"
        raise LoopError(f"{path} does not count: others than root can write it ({owner})")
