# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Times as they are written."""

from __future__ import annotations

import re
import time

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base import clock


def test_all_say_the_same_second() -> None:
    for _unused in range(20):
        now, name, day = clock.utc_now(), clock.stamp(), clock.today()
        if clock.utc_now() == now:
            break
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", now)
    assert name == now.replace("-", "").replace(":", "")
    assert now.startswith(f"{day}T")


def test_the_age_of_a_name() -> None:
    assert 0 <= clock.age_of(clock.stamp()) < 5
    then = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() - 90 * 86400))
    assert 90 * 86400 <= clock.age_of(f"{then}-1a2b3c4d") < 90 * 86400 + 5
    assert clock.age_of("99991231T235959Z-1a2b3c4d") < 0
    assert clock.age_of("20240229T000000Z") - clock.age_of("20240301T000000Z") == pytest.approx(86400, abs=1)


@pytest.mark.parametrize("name", ["00000000T000000Z-0", "99999999T999999Z-0", "20261301T000000Z-0", "x", ""])
def test_what_is_no_moment_has_no_age(name: str) -> None:
    assert clock.age_of(name) == 0.0
