# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Receipts: which do not count, and who may write and read them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import receipts, timer_hold
from deployed import SHA, Host
from proofs import age, prove, reason

# --- receipts that do not count


def edited(path: Path) -> None:
    receipt = json.loads(path.read_text())
    receipt["proven"]["policy_digest"] = "0" * 64
    path.write_text(json.dumps(receipt))


def no_mac(path: Path) -> None:
    receipt = json.loads(path.read_text())
    del receipt["hmac"]
    path.write_text(json.dumps(receipt))


def other_key(path: Path) -> None:
    (path.parent / ".key").write_bytes(b"k" * 32)


def lost_key(path: Path) -> None:
    (path.parent / ".key").unlink()


def open_key(path: Path) -> None:
    (path.parent / ".key").chmod(0o644)


def short_key(path: Path) -> None:
    (path.parent / ".key").write_bytes(b"k" * 31)


def loops_own(path: Path) -> None:
    os.chown(path, 65534, 65534)


def group_writable(path: Path) -> None:
    path.chmod(0o664)


def world_writable(path: Path) -> None:
    path.chmod(0o646)


def open_directory(path: Path) -> None:
    path.parent.chmod(0o777)


def symlink(path: Path) -> None:
    path.rename(path.parent / "elsewhere")
    path.symlink_to("elsewhere")


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def binary(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")


def wrong_shape(path: Path) -> None:
    path.write_text('{"version": 1, "mode": "docs", "proven": {}, "proved_at": "2026-99-01T00:00:00Z"}')


def not_an_object(path: Path) -> None:
    path.write_text("[1]")


def newer(path: Path) -> None:
    receipt = json.loads(path.read_text())
    path.write_text(json.dumps({**receipt, "version": 2}))


def unknown_mode(path: Path) -> None:
    receipt = json.loads(path.read_text())
    path.write_text(json.dumps({**receipt, "mode": "all"}))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (edited, "its HMAC does not fit"),
        (no_mac, "its HMAC does not fit"),
        (other_key, "its HMAC does not fit"),
        (lost_key, "the key beside it is gone"),
        (open_key, "is not a key of ours"),
        (short_key, "is not a key of ours"),
        (loops_own, "others than root can write it (owner 65534, mode 0644)"),
        (group_writable, "others than root can write it (owner 0, mode 0664)"),
        (world_writable, "others than root can write it (owner 0, mode 0646)"),
        (open_directory, "others than root can write it (owner 0, mode 0777)"),
        (symlink, "cannot be read"),
        (fifo, "is not a regular file"),
        (torn, "is not JSON"),
        (binary, "is not JSON"),
        (wrong_shape, "is not a receipt"),
        (newer, "is not a receipt that this version of the collection knows (version 2, mode docs)"),
        (unknown_mode, "is not a receipt that this version of the collection knows (version 1, mode all)"),
        (not_an_object, "is not a receipt"),
    ],
)
def test_a_receipt_that_was_tampered_with_does_not_count(host: Host, spoil: Callable[[Path], None], words: str) -> None:
    spoil(prove(host))
    assert words in reason(host)


def test_an_older_genuine_receipt_still_counts(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    prove(host)
    age(monkeypatch, 60)
    edited(prove(host))
    assert timer_hold.matching(host.config).receipt is not None


def test_a_receipt_and_its_key_have_the_modes_that_they_need(host: Host) -> None:
    path = prove(host)
    modes = [one.stat().st_mode & 0o7777 for one in (path.parent, path, path.parent / ".key")]
    assert modes == [0o755, 0o644, 0o600]
    assert len((path.parent / ".key").read_bytes()) == 32


def test_the_newest_comes_first_and_nothing_else_counts(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    assert receipts.names(host.config["receipts_dir"]) == []
    older = prove(host)
    age(monkeypatch, 60)
    newest = prove(host)
    (older.parent / "note.json").write_text("{}")
    assert receipts.names(host.config["receipts_dir"]) == [newest.name, older.name]


def test_what_is_unproven_is_noted_once_for_each_who_wants_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def note(who: str, check: bool = False) -> bool:
        return receipts.note_unproven(host.config, applied_by=who, overrides=["timer"], check=check)

    assert note("ops", check=True) and receipts.names(host.config["receipts_dir"], "note") == []
    assert note("ops") and not note("ops")
    age(monkeypatch, 60)
    assert note("dev")
    age(monkeypatch, 120)
    assert note("ops"), "the newest says that it is somebody else who wants it"
    known = receipts.names(host.config["receipts_dir"], "note")
    assert len(known) == 3 and receipts.names(host.config["receipts_dir"]) == []
    (Path(host.config["receipts_dir"]) / known[0]).write_text("{")
    age(monkeypatch, 180)
    assert note("ops"), "what cannot be read says nothing"


# --- the loop user, who cannot read the key


def as_loop(host: Host, work: Callable[[], Any]) -> Any:
    for path in [host.top, *host.top.parents]:  # pytest's own directories are closed
        if path.stat().st_uid == os.getuid() and not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o055)
    return as_user("nobody", work)


def test_the_loop_user_sees_a_proof_but_cannot_make_one(host: Host) -> None:
    prove(host)
    answer = as_loop(host, lambda: timer_hold.by_settings(host.config).shown())
    assert answer["matches"] and answer["receipt"]["proven"]["engine_sha"] == SHA
    with pytest.raises(LoopError, match="only root may write receipts"):
        as_loop(host, lambda: str(prove(host)))
    key = Path(host.config["receipts_dir"]) / ".key"
    assert as_loop(host, lambda: os.access(key, os.R_OK)) is False


@pytest.mark.parametrize("spoil", [loops_own, group_writable, open_directory, torn])
def test_the_loop_user_does_not_trust_what_others_can_write(host: Host, spoil: Callable[[Path], None]) -> None:
    spoil(prove(host))
    assert as_loop(host, lambda: timer_hold.by_settings(host.config).shown())["matches"] is False
