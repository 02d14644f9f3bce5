# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is installed: a part that is missing, or is not what it says, is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import installed
from deployed import SHA, Host
from proofs import prove, reason


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
        installed.now(host.config)
    (host.top / "opt" / "releases" / SHA / ".release.json").write_text("{}")
    with pytest.raises(LoopError, match="does not name its sha and lock_digest"):
        installed.now(host.config)


def test_a_drop_in_that_a_link_leads_to_is_part_of_it(host: Host, tmp_path: Path) -> None:
    mine, drop_ins = tmp_path / "mine.conf", host.top / "systemd" / "hyrule-engineering-loop.service.d"
    seen = [installed.unit_digest(host.config)]
    drop_ins.mkdir()
    (drop_ins / "nowhere.conf").symlink_to(tmp_path / "none")
    assert installed.unit_digest(host.config) == seen[0]
    (drop_ins / "mine.conf").symlink_to(mine)
    for content in ("[Service]\nProtectSystem=no\n", "[Service]\nProtectSystem=yes\n"):
        mine.write_text(content)
        assert installed.unit_digest(host.config) not in seen
        seen.append(installed.unit_digest(host.config))
