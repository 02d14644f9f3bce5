# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where things are on a host: what is asked of that, and which units are known as ours."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import systemd
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.layout import layout_from


def test_the_units_that_the_role_writes_are_known_as_ours() -> None:
    templates = Path(__file__).parents[5] / "roles/engineering_loop/templates"
    for name in ("loop.service.j2", "loop.timer.j2"):
        assert systemd.ours(str(templates / name))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "a layout has the keys"),
        ({"color": "red"}, "a layout has the keys"),
        ({"install_dir": "/opt/../etc"}, "install_dir '/opt/../etc' is not a plain path: write /etc"),
    ],
)
def test_a_layout_that_cannot_be_is_one_line(given: dict[str, str], said: str) -> None:
    whole = {"config_dir": "/c", "lib_dir": "/l", "memory_dir": "/m", "env_file": "/e"}
    whole |= {"unit": "u", "user": "x", "group": "x", "install_dir": "/i"} if "color" not in given else {}
    whole |= given
    with pytest.raises(LoopError, match=said):
        layout_from(whole if given else {})
