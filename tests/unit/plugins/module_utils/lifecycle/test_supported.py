# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which systems are refused, by what name, and which are not."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import supported

DEBIAN: dict[str, Any] = {
    "id": "debian", "version_id": "13", "name": "Debian GNU/Linux 13 (trixie)", "systemd": True, "root": True
}  # fmt: skip


@pytest.mark.parametrize("version", ["13", "14", "13.1", ""])
def test_what_carries_the_loop(version: str) -> None:
    assert supported.problem({**DEBIAN, "version_id": version}) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version_id": "12", "name": "Debian GNU/Linux 12 (bookworm)"}, "its bubblewrap is 0.8, its systemd 252"),
        ({"id": "ubuntu", "version_id": "24.04", "name": "Ubuntu 24.04.3 LTS"}, "its bubblewrap is 0.9"),
        ({"id": "ubuntu", "version_id": "26.04", "name": "Ubuntu 26.04 LTS"}, "nobody has booted and tried"),
        ({"id": "fedora", "version_id": "43", "name": "Fedora Linux 43"}, "nobody has booted and tried"),
        ({"id": "debian", "version_id": "9", "name": "Debian GNU/Linux 9"}, "nobody has booted and tried"),
        ({"id": "debian", "version_id": "x13", "name": "Debian x13"}, "nobody has booted and tried"),
        ({"id": "", "version_id": "", "name": ""}, "runs an unknown system, which is not supported"),
    ],
)
def test_what_does_not(change: dict[str, str], words: str) -> None:
    said = supported.problem({**DEBIAN, **change})
    assert words in said and said.endswith(": use Debian 13 or later. Nothing was changed"), said
    assert said.startswith("runs ") and change["name"] in said


def test_what_is_mended_on_the_spot_is_told_first() -> None:
    assert "use a host that systemd boots" in supported.problem({**DEBIAN, "systemd": False, "id": "ubuntu"})
    assert "ansible_become" in supported.problem({**DEBIAN, "root": False})
