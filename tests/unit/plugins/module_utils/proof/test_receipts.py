# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Receipts: which changes of a host need a new proof, and which receipts do not count."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import systemd
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import receipts
from deployed import SEED, SHA, Host, Running, deployed, running


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("forge") / "root", seed=SEED) as forge:
        yield forge


@pytest.fixture
def host(tmp_path: Path, forge: Running, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(systemd, "UNIT_DIR", str(tmp_path / "systemd"))
    return deployed(tmp_path, forge)


def prove(host: Host, mode: str = "docs") -> Path:
    how = {"cycle": "20260101T000000Z-00000000"}
    return Path(receipts.write(host.config, mode, receipts.installed(host.config), how, applied_by="ops", overrides=[]))


def reason(host: Host, **options: Any) -> str:
    receipt, why = receipts.matching(host.config, **options)
    assert receipt is None
    assert (
        "prove it with: ansible-playbook -i INVENTORY as215932.engineering_loop.canary -l H" in why and "\n" not in why
    )
    return why


def age(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
    monkeypatch.setattr(receipts, "_now", lambda: now)


def test_nothing_is_proven_at_first(host: Host) -> None:
    assert "nothing was proven on this host yet" in reason(host)


def test_a_receipt_covers_what_was_installed(host: Host) -> None:
    path = prove(host)
    receipt, why = receipts.matching(host.config)
    assert receipt is not None and receipt["proven"]["engine_sha"] == SHA
    assert why.startswith("proven by the docs canary at 20")
    assert path.stat().st_mode & 0o777 == 0o644
    assert (path.parent / ".key").stat().st_mode & 0o777 == 0o600


# --- what needs a new proof, and what does not


def new_engine(host: Host) -> None:
    sha = "a" * 40
    release = host.top / "opt" / "releases" / sha
    release.mkdir()
    (release / ".release.json").write_text(json.dumps({"sha": sha, "lock_digest": "1" * 64}))
    (host.top / "opt" / "current").unlink()
    (host.top / "opt" / "current").symlink_to(release)


def new_lock(host: Host) -> None:
    path = host.top / "opt" / "releases" / SHA / ".release.json"
    path.write_text(json.dumps({"sha": SHA, "lock_digest": "2" * 64}))


def new_policy(host: Host) -> None:
    path = Path(host.config["policy_file"])
    path.write_text(path.read_text().replace("max_changed_files: 20", "max_changed_files: 19"))


def new_service(host: Host) -> None:
    unit = host.top / "systemd" / "hyrule-engineering-loop.service"
    unit.write_text(f"{unit.read_text()}NoNewPrivileges=no\n")


def new_drop_in(host: Host) -> None:
    directory = host.top / "systemd" / "hyrule-engineering-loop.service.d"
    directory.mkdir()
    (directory / "override.conf").write_text("[Service]\nUser=root\n")


def new_setting(host: Host) -> None:
    host.config["daemon_args"] = ["--max-runs-per-day", "99"]


def new_code(host: Host) -> None:
    (host.top / "lib" / "engineering_loop_core" / "cycle.py").write_text("# another runner\n")


def new_hook(host: Host) -> None:
    (host.top / "lib" / "hooks").mkdir()
    (host.top / "lib" / "hooks" / "pre-push").write_text("#!/bin/sh\nexit 0\n")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (new_engine, "engine"),
        (new_lock, "engine's dependency lock"),
        (new_policy, "policy"),
        (new_service, "unit"),
        (new_drop_in, "unit"),
        (new_setting, "unit"),
        (new_code, "unit"),
        (new_hook, "unit"),
    ],
)
def test_what_was_changed_must_be_proven_again(host: Host, change: Callable[[Host], None], word: str) -> None:
    prove(host)
    change(host)
    assert reason(host).startswith(f"the {word} changed after the proof of 20")
    prove(host)
    assert receipts.matching(host.config).receipt is not None


def test_an_upgrade_of_the_collection_is_told_by_its_versions(host: Host) -> None:
    before = host.config["collection_version"] = "0.1.0"
    prove(host)
    host.config["collection_version"] = "0.2.0"
    assert receipts.matching(host.config).receipt is not None  # the number alone guards nothing
    new_code(host)
    told = f" (the collection was {before} and is 0.2.0: its code guards each cycle); prove it with: "
    assert told in reason(host)
    host.config["collection_version"] = before
    assert "the collection was" not in reason(host)


def policy_layout(host: Host) -> None:
    path = Path(host.config["policy_file"])
    path.write_text("# a comment\n" + path.read_text().replace("[python3, git]", "[git, python3]"))


def other_timer(host: Host) -> None:
    (host.top / "systemd" / "hyrule-engineering-loop.timer").write_text("[Timer]\nOnCalendar=daily\n")


def new_secret(host: Host) -> None:
    Path(host.config["env_file"]).write_text("GH_TOKEN=rotated\n")


def byte_code(host: Host) -> None:
    cache = host.top / "lib" / "engineering_loop_core" / "__pycache__"
    cache.mkdir()
    (cache / "cycle.cpython-313.pyc").write_bytes(b"x")


def newer_uv(host: Host) -> None:
    (host.top / "lib" / "uv" / "bin").mkdir(parents=True)
    (host.top / "lib" / "uv" / "bin" / "uv").write_bytes(b"x")


def volatile(host: Host) -> None:
    host.config.update(applied_by="bob", collection_version="9.9.9", canary_required=False, policy_sha256="f" * 64)


@pytest.mark.parametrize("change", [policy_layout, other_timer, new_secret, byte_code, newer_uv, volatile])
def test_what_says_nothing_about_a_cycle_needs_no_new_proof(host: Host, change: Callable[[Host], None]) -> None:
    prove(host)
    change(host)
    assert receipts.matching(host.config).receipt is not None


def test_going_back_to_what_was_proven_needs_no_new_proof(host: Host) -> None:
    prove(host)
    policy = Path(host.config["policy_file"])
    before = policy.read_bytes()
    new_policy(host)
    prove(host)
    policy.write_bytes(before)
    assert receipts.matching(host.config).receipt is not None


def test_all_that_changed_is_named(host: Host) -> None:
    prove(host)
    new_policy(host)
    new_service(host)
    assert reason(host).startswith("the policy and the unit changed after")


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
    assert receipts.matching(host.config).receipt is not None


def test_a_proof_expires(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    prove(host)
    age(monkeypatch, 3601)
    assert "is older than the 1 hours that are allowed" in reason(host, max_age=3600)
    assert receipts.matching(host.config, 3700).receipt is not None
    assert receipts.matching(host.config).receipt is not None


def test_a_proof_from_the_future_does_not_count(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    prove(host)
    age(monkeypatch, -3600)
    assert "dated in the future" in reason(host)


def test_the_empty_canary_is_the_lesser_proof(host: Host) -> None:
    prove(host, "empty")
    assert "only the empty canary was passed" in reason(host)
    assert receipts.matching(host.config, mode="empty").receipt is not None
    prove(host, "docs")
    assert receipts.matching(host.config, mode="empty").receipt is not None


# --- the loop user, who cannot read the key


def as_loop(host: Host, work: Callable[[], Any]) -> Any:
    for path in [host.top, *host.top.parents]:  # pytest's own directories are closed
        if path.stat().st_uid == os.getuid() and not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o055)
    return as_user("nobody", work)


def test_the_loop_user_sees_a_proof_but_cannot_make_one(host: Host) -> None:
    prove(host)
    answer = as_loop(host, lambda: receipts.unprivileged(host.config))
    assert answer["matches"] and answer["receipt"]["proven"]["engine_sha"] == SHA
    with pytest.raises(LoopError, match="only root may write receipts"):
        as_loop(host, lambda: str(prove(host)))
    key = Path(host.config["receipts_dir"]) / ".key"
    assert as_loop(host, lambda: os.access(key, os.R_OK)) is False


@pytest.mark.parametrize("spoil", [loops_own, group_writable, open_directory, torn])
def test_the_loop_user_does_not_trust_what_others_can_write(host: Host, spoil: Callable[[Path], None]) -> None:
    spoil(prove(host))
    assert as_loop(host, lambda: receipts.unprivileged(host.config))["matches"] is False


def test_age_and_mode_come_from_the_hosts_settings(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    prove(host, "empty")
    assert not receipts.unprivileged(host.config)["matches"]
    host.config["canary_mode"] = "empty"
    assert receipts.unprivileged(host.config)["matches"]
    host.config["canary_max_age"] = "1h"
    age(monkeypatch, 4000)
    assert "older than the 1 hours" in receipts.unprivileged(host.config)["reason"]


# --- what is not there, and bad words


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("opt/current", "no engine is installed"),
        ("etc/policy.yml", "there is no policy at"),
        ("systemd/hyrule-engineering-loop.service", "is not installed yet"),
    ],
)
def test_what_is_missing_is_named(host: Host, missing: str, words: str) -> None:
    prove(host)
    (host.top / missing).unlink()
    assert words in reason(host)


def test_a_release_that_is_not_what_it_says_is_refused(host: Host) -> None:
    (host.top / "opt" / "releases" / SHA / ".release.json").write_text('{"sha": "other", "lock_digest": "1"}')
    with pytest.raises(LoopError, match="which says that it is other"):
        receipts.installed(host.config)
    (host.top / "opt" / "releases" / SHA / ".release.json").write_text("{}")
    with pytest.raises(LoopError, match="does not name its sha and lock_digest"):
        receipts.installed(host.config)


def test_an_unknown_mode_in_the_settings_is_refused(host: Host) -> None:
    host.config["canary_mode"] = "full"
    with pytest.raises(LoopError, match="canary_mode 'full' is unknown"):
        receipts.unprivileged(host.config)
