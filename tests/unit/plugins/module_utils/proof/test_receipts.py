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
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import timer_hold
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


def loops_own(path: Path) -> None:
    os.chown(path, 65534, 65534)


def group_writable(path: Path) -> None:
    path.chmod(0o664)


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


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (edited, "its HMAC does not fit"),
        (no_mac, "its HMAC does not fit"),
        (other_key, "its HMAC does not fit"),
        (lost_key, "the key beside it is gone"),
        (open_key, "is not a key of ours"),
        (loops_own, "others than root can write it (owner 65534, mode 0644)"),
        (group_writable, "others than root can write it (owner 0, mode 0664)"),
        (open_directory, "others than root can write it (owner 0, mode 0777)"),
        (symlink, "cannot be read"),
        (fifo, "is not a regular file"),
        (torn, "is not JSON"),
        (binary, "is not JSON"),
        (wrong_shape, "is not a receipt"),
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
