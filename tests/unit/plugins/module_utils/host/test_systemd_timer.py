# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The timer, asked and told through a systemctl that is a program on PATH."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import systemd as units
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.systemd import Timer

SYSTEMCTL = """\
#!/bin/sh
cd "${0%/*}" || exit 1
echo "$*" >> asked
case "$1" in
  enable) touch on ;;
  disable) rm -f on ;;
  show)
    [ "$3" = loop.timer ] || { echo LoadState=not-found; exit 0; }
    echo LoadState=loaded
    if [ -e on ]; then printf '%s\\n' ActiveState=active UnitFileState=enabled \\
      "NextElapseUSecRealtime=Thu 2026-01-01 00:00:00 $TZ"; fi ;;
  *) echo "Failed to $1: no" >&2; exit 5 ;;
esac
"""


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "systemctl").write_text(SYSTEMCTL)
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(units, "RUNNING_SYSTEMD", str(tmp_path))
    return tmp_path


def test_it_is_put_on_and_off_once(systemd: Path) -> None:
    assert units.timer_of("loop") == Timer(True, False, False, "") and not units.timer_of("loop").runs
    assert units.set_timer("loop", True) == Timer(True, True, True, "2026-01-01T00:00:00Z")
    assert units.set_timer("loop", True).runs
    assert not units.set_timer("loop", False).runs
    asked = (systemd / "asked").read_text().splitlines()
    assert [line for line in asked if not line.startswith("show")] == [
        "enable --now loop.timer",
        "disable --now loop.timer",
    ]


def test_one_that_is_not_there(systemd: Path) -> None:
    assert units.timer_of("other") == units.set_timer("other", False) == Timer()
    with pytest.raises(LoopError, match=r"other\.timer is not known to systemd on this host"):
        units.set_timer("other", True)


def test_what_systemd_refuses_is_one_line(systemd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoopError, match=r"systemctl stop loop\.service: Failed to stop: no"):
        units.systemctl("stop", "loop.service")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LoopError, match="systemctl cannot be run on this host"):
        units.timer_of("loop")


def test_without_systemd_there_is_no_timer(systemd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "RUNNING_SYSTEMD", str(systemd / "nothing"))
    assert units.timer_of("loop") == Timer()
    assert not (systemd / "asked").exists()
