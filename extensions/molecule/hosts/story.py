# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A system that cannot carry the loop, booted: story.py STAGE INVENTORY [CHAPTER...]. `make hosts` boots Debian 12."""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "operator"))
from at_work import must, on_host, play
from chapters import tell

STATE = "dpkg-query -W; cat /etc/passwd /etc/group; ls -la /etc /opt /usr/local/lib /var/lib /etc/systemd/system"


def refused_by_its_name() -> None:
    """One line says what it is, what it lacks and what to take instead; nothing is changed, not even in an apply."""
    release = must(". /etc/os-release; echo $PRETTY_NAME")
    before = must(STATE)
    for words in (("--check",), ()):
        status, said = play("apply", *words)
        flat = re.sub(r"\s+", " ", said)
        assert status != 0 and f"runs {release}, which is not supported: " in flat, said[-2000:]
        assert "use Debian 13 or later. Nothing was changed" in flat and " changed=0 " in flat, said[-2000:]
        assert flat.count("fatal: ") == 1, said[-2000:]
        assert must(STATE) == before


def what_it_lacks_is_true() -> None:
    """What the line says of its packages is what its package lists say."""
    must("apt-get -qq update")
    bubblewrap = must("apt-cache policy bubblewrap | grep Candidate")
    systemd = must("systemctl --version | head -1")
    _status, said = play("apply", "--check")
    assert f"its bubblewrap is {re.findall(r'[0-9]+[.][0-9]+', bubblewrap)[0]}," in re.sub(r"\s+", " ", said), (
        bubblewrap
    )
    assert f"its systemd {systemd.split()[1]}," in re.sub(r"\s+", " ", said), systemd
    assert on_host("apt-get install -qq -y --no-install-recommends bubblewrap >/dev/null")[0] == 0
    status, refused = on_host("bwrap --ro-bind / / --overlay-src /etc --tmp-overlay /etc true")
    assert status != 0 and "Unknown option --overlay-src" in refused, refused


tell((refused_by_its_name, what_it_lacks_is_true))
