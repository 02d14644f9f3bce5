# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may ask the gateway, and whose turn it is."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.files import flocked
from ansible_collections.as215932.engineering_loop.plugins.module_utils.gateway import sessions
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user
from celled import GATE, LOOP, NAME, NEEDS_ROOT, Box, box

pytestmark = NEEDS_ROOT


@pytest.fixture
def host() -> Iterator[Box]:
    with box() as found:
        yield found
        subprocess.run(["rm", "-rf", sessions.directory(found.config)], check=True)


def test_a_session_is_roots_word(host: Box) -> None:
    assert sessions.listing(host.config) == []
    with pytest.raises(LoopError, match="no cycle is running"):
        sessions.session_of(host.config, "a.service")
    os.mkdir(sessions.directory(host.config))  # the socket's
    os.umask(0o077)
    sessions.open_session(host.config, "a.service", NAME)
    counts = {"o/r#7": {"digest": "d" * 64, "held": ""}}
    sessions.open_session(host.config, "b.service", NAME, bound=False, counts=counts)
    assert sessions.listing(host.config) == ["a.service", "b.service"]

    def seen() -> list[Any]:
        return [sessions.session_of(host.config, f"{name}.service") for name in "ab"]

    assert as_user(GATE, seen) == [
        {"cycle": NAME, "bound": True, "counts": {}},
        {"cycle": NAME, "bound": False, "counts": counts},
    ]
    with pytest.raises(LoopError, match="Operation not permitted"):
        as_user(LOOP, lambda: sessions.open_session(host.config, "c.service", NAME))
    sessions.close_session(host.config, "a.service")
    sessions.close_session(host.config, "a.service")
    assert sessions.listing(host.config) == ["b.service"]


@pytest.mark.parametrize("unit", ["", "../../x.service", "a.socket", "a.service/x", "a.service\n", "/a.service"])
def test_what_is_no_unit_has_no_session(host: Box, unit: str) -> None:
    sessions.open_session(host.config, "a.service", NAME)
    with pytest.raises(LoopError, match="no cycle is running"):
        sessions.session_of(host.config, unit)


def test_a_place_for_sessions_that_cannot_be_made(host: Box) -> None:
    Path(sessions.directory(host.config)).write_text("")
    try:
        with pytest.raises(LoopError, match=r"cannot be made: (Not a directory|File exists)"):
            sessions.open_session(host.config, "a.service", NAME)
        assert sessions.listing(host.config) == []
    finally:
        os.unlink(sessions.directory(host.config))


# --- turns


def test_one_push_at_a_time_and_root_waits_for_its_end(host: Box) -> None:
    assert sessions.quiet(host.config, 0)  # nobody has pushed yet
    place = f"{host.config['gate_dir']}/.turn"
    with flocked(place):
        began = time.monotonic()
        assert not sessions.quiet(host.config, 0.3) and time.monotonic() - began >= 0.3
        ends = threading.Event()

        def hold() -> None:
            with sessions.turn(host.config):
                ends.set()

        other = threading.Thread(target=hold)
        other.start()
        assert not ends.wait(0.2)
    other.join(5)
    assert ends.is_set() and sessions.quiet(host.config, 5)
