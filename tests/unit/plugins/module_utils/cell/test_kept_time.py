# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""How old what is kept counts as, while the clock runs, jumps and goes back."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import kept_time
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell.kept_time import MANY, Passed
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings

MINUTE, HOUR, DAY, YEAR = 60.0, 3600.0, 86400.0, 365 * 86400.0


def seen(*steps: float) -> Passed:
    """What is known after cycles with so many seconds between them by the clock, the last of them now."""
    moment = time.time() - sum(steps)
    known = Passed(moment)
    for step in steps:
        moment += step
        known = known.until(moment)
    return known


def name_at(ago: float) -> str:
    return f"{datetime.fromtimestamp(time.time() - ago, UTC):%Y%m%dT%H%M%SZ}-1a2b3c4d"


@pytest.mark.parametrize(
    ("steps", "made", "age"),
    [
        ((), 5 * DAY, 5 * DAY),  # nothing is known: by the clock
        ((HOUR,) * 100, 50 * HOUR, 50 * HOUR),
        ((HOUR, 10 * YEAR, HOUR), 10 * YEAR + 90 * MINUTE, DAY + 90 * MINUTE),
        ((HOUR, 10 * YEAR, HOUR), 30 * MINUTE, 30 * MINUTE),  # made after the leap
        ((HOUR, 20 * DAY, HOUR, 30 * DAY, HOUR), 50 * DAY + 150 * MINUTE, 2 * DAY + 150 * MINUTE),
        ((HOUR, 10 * YEAR, HOUR, -10 * YEAR, HOUR), 150 * MINUTE, 150 * MINUTE),  # it went back: nothing leapt
        ((HOUR, 10 * YEAR, HOUR, -9 * YEAR, HOUR), YEAR + 150 * MINUTE, DAY + 90 * MINUTE),
        ((HOUR, -10 * YEAR, HOUR), 30 * MINUTE, 30 * MINUTE),
        # Made in the time that the clock had jumped to, or shortly before, and then it went back and jumped further.
        ((HOUR, YEAR, HOUR, -YEAR, HOUR, 3 * YEAR, HOUR), 2 * YEAR, HOUR),
        ((HOUR, 2 * HOUR, -2 * HOUR, HOUR, 3 * YEAR, HOUR), 3 * YEAR + HOUR - 30 * MINUTE, DAY + 30 * MINUTE),
        ((0.5 * DAY, DAY, DAY), 2 * DAY, 2 * DAY),  # days at most: nothing leapt
    ],
)
def test_between_two_cycles_a_day_passes_at_most(steps: tuple[float, ...], made: float, age: float) -> None:
    assert seen(*steps).age_of(name_at(made)) == pytest.approx(age, abs=3)


def test_of_many_leaps_the_oldest_count_as_one() -> None:
    known = seen(*(30 * DAY,) * (MANY + 10))
    assert len(known.leaps) == MANY
    assert known.age_of(name_at((MANY + 10) * 30 * DAY + HOUR)) == pytest.approx(MANY * DAY + HOUR, abs=3)


def test_what_is_no_moment_is_not_old() -> None:
    assert seen(HOUR, YEAR).age_of("nothing") <= 0


def test_root_notes_it_and_others_read_it(tmp_path: Path) -> None:
    config = Settings({"install_dir": str(tmp_path)})
    place = Path(kept_time.path_of(config))
    assert kept_time.passed(config).leaps == () and not place.exists()
    kept_time.note(config)
    assert os.stat(place).st_mode & 0o777 == 0o644
    place.write_text(f'{{"seen": {time.time() - YEAR}, "leaps": []}}')
    assert kept_time.passed(config).age_of(name_at(2 * YEAR)) == pytest.approx(YEAR + DAY, abs=3)
    leaps = kept_time.note(config).leaps
    assert len(leaps) == 1 and kept_time.passed(config).leaps == leaps
    assert kept_time.passed(config).age_of(name_at(2 * YEAR)) == pytest.approx(YEAR + DAY, abs=3)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"seen": "x"}', '{"leaps": []}', '{"seen": 1.5, "leaps": [3]}'])
def test_where_it_cannot_be_read_nothing_is_old(tmp_path: Path, content: str) -> None:
    config = Settings({"install_dir": str(tmp_path)})
    Path(kept_time.path_of(config)).write_text(content)
    assert kept_time.passed(config).age_of(name_at(YEAR)) <= 0
