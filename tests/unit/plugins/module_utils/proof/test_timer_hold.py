# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the timer may run: which changes of a host need a new proof, and how old one may be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import timer_hold
from deployed import SHA, Host
from proofs import age, prove, reason


def test_nothing_is_proven_at_first(host: Host) -> None:
    assert "nothing was proven on this host yet" in reason(host)


def test_a_receipt_covers_what_was_installed(host: Host) -> None:
    path = prove(host)
    receipt, why = timer_hold.matching(host.config)
    assert receipt is not None and receipt.proven.engine_sha == SHA
    assert why.startswith("proven by the docs canary at 20")
    assert path.stat().st_mode & 0o777 == 0o644
    assert (path.parent / ".key").stat().st_mode & 0o777 == 0o600


def test_a_proof_that_was_edited_is_told_before_one_that_is_not_enough(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    prove(host, "empty")
    age(monkeypatch, 5)
    assert "only the empty canary was passed" in timer_hold.matching(host.config).reason
    path = prove(host)
    path.write_text(path.read_text().replace('"applied_by": "ops"', '"applied_by": "nobody"'))
    assert "was changed after it was written" in timer_hold.matching(host.config).reason


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
    host.config["daemon_args"] = [*host.config["daemon_args"], "--max-runs", "99"]


def higher_caps(host: Host) -> None:
    host.config.update(max_runs_per_day=9, daemon_args=["--max-runs-per-day", "9", "--max-cost-usd-per-day=90.5"])


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
    assert timer_hold.matching(host.config).receipt is not None


def test_an_upgrade_of_the_collection_is_told_by_its_versions(host: Host) -> None:
    before = host.config["collection_version"] = "0.1.0"
    prove(host)
    host.config["collection_version"] = "0.2.0"
    assert timer_hold.matching(host.config).receipt is not None  # the number alone guards nothing
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


@pytest.mark.parametrize("change", [policy_layout, other_timer, new_secret, byte_code, newer_uv, volatile, higher_caps])
def test_what_says_nothing_about_a_cycle_needs_no_new_proof(host: Host, change: Callable[[Host], None]) -> None:
    prove(host)
    change(host)
    assert timer_hold.matching(host.config).receipt is not None


def test_going_back_to_what_was_proven_needs_no_new_proof(host: Host) -> None:
    prove(host)
    policy = Path(host.config["policy_file"])
    before = policy.read_bytes()
    new_policy(host)
    prove(host)
    policy.write_bytes(before)
    assert timer_hold.matching(host.config).receipt is not None


def test_all_that_changed_is_named(host: Host) -> None:
    prove(host)
    new_policy(host)
    new_service(host)
    assert reason(host).startswith("the policy and the unit changed after")


# --- age and mode


def test_a_proof_expires(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    prove(host)
    age(monkeypatch, 3601)
    assert "is older than the 1 hours that are allowed" in reason(host, max_age=3600)
    assert timer_hold.matching(host.config, 3700).receipt is not None
    assert timer_hold.matching(host.config).receipt is not None


def test_a_proof_from_the_future_does_not_count(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    prove(host)
    age(monkeypatch, -3600)
    assert "dated in the future" in reason(host)


def test_the_empty_canary_is_the_lesser_proof(host: Host) -> None:
    prove(host, "empty")
    assert "only the empty canary was passed" in reason(host)
    assert timer_hold.matching(host.config, mode="empty").receipt is not None
    prove(host, "docs")
    assert timer_hold.matching(host.config, mode="empty").receipt is not None


def test_age_and_mode_come_from_the_hosts_settings(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    prove(host, "empty")
    assert not timer_hold.by_settings(host.config).receipt
    host.config["canary_mode"] = "empty"
    assert timer_hold.by_settings(host.config).receipt
    host.config["canary_max_age"] = "1h"
    age(monkeypatch, 4000)
    assert "older than the 1 hours" in timer_hold.by_settings(host.config).reason


@pytest.mark.parametrize(("text", "seconds"), [("", None), ("90s", 90), ("15m", 900), ("12h", 43200), ("2w", 1209600)])
def test_durations(text: str, seconds: float | None) -> None:
    assert timer_hold.max_age(text) == seconds


@pytest.mark.parametrize("text", ["d", "-1d", "30 d", "1y", "30G"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(LoopError, match="is not a time such as 2d"):
        timer_hold.max_age(text)


def test_an_unknown_mode_in_the_settings_is_refused(host: Host) -> None:
    host.config["canary_mode"] = "full"
    with pytest.raises(LoopError, match="canary_mode 'full' is unknown"):
        timer_hold.by_settings(host.config)
