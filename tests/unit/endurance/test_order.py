# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which faults a run brings, in which order: the same for the same seed."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest
from endurance import harm, run

NAMES = [fault.name for fault in harm.FAULTS]


def test_a_seed_brings_the_same_faults_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAULTS", raising=False)
    first, again, other = (run.order(random.Random(seed), 100) for seed in (7, 7, 8))
    assert first == again and first != other
    assert set(NAMES) == set(first), "a long run has each of them"


def test_the_short_form_has_each_of_its_few_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAULTS", raising=False)
    short = run.order(random.Random(7), run.SHORT)
    assert sorted(name for name in short if name != "none") == sorted(run.FEW)
    assert set(run.FEW) <= set(NAMES)


def test_only_what_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULTS", "reboot,forge")
    assert run.order(random.Random(7), 3) == ["reboot", "forge", "reboot"]


def test_the_hour_that_comes_twice_and_the_one_that_is_left_out() -> None:
    now = datetime(2026, 1, 15, 12, 30, tzinfo=UTC)
    assert harm.next_change(now, 0) == datetime(2026, 3, 29, 1, tzinfo=UTC)
    assert harm.next_change(now, 1) == datetime(2026, 10, 25, 1, tzinfo=UTC)
