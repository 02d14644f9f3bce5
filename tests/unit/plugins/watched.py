# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that is deployed and proven, whose systemd says what a test wants, for tests of the report."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.clock import stamp, utc_now
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import records
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import systemd
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy import schema
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import receipts, rollout
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import build, frozen, store
from ansible_collections.as215932.engineering_loop.plugins.module_utils.report import status
from deployed import SHA, Host
from proofs import prove

UNIT = "hyrule-engineering-loop"


@dataclass
class Watched:
    """The host, and what its systemd says; only that is played."""

    host: Host
    units: dict[str, dict[str, str]] = field(default_factory=dict)

    def systemctl(self, *words: str) -> str:
        names = [word for word in words[1:] if not word.startswith("--")]
        return "\n".join("".join(f"{key}={value}\n" for key, value in self.units[name].items()) for name in names)

    def record(self, number: int, outcome: str, detail: str = "", **more: Any) -> None:
        """A cycle of this moment."""
        cycle = f"{stamp()[:-3]}{number:02d}Z-{number:08x}"
        told = {"cycle": cycle, "started": utc_now(), "outcome": outcome, "detail": detail, "seconds": 12.5, **more}
        records.write(self.host.config["cycles_dir"], told)

    def look(self, **more: str) -> dict[str, Any]:
        self.host.write_config()
        return status.of_host(str(self.host.config_file), **more)

    def needs(self) -> dict[str, tuple[str, str]]:
        """What is needed, by its code; the order is that of the status."""
        told = self.look()
        assert told["well"] == (not told["needs"])
        return {need["code"]: (need["what"], need["do"]) for need in told["needs"]}


def watched(host: Host, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """A host that fares well: its timer is on, its last cycle has published."""
    found = Watched(host)
    usual = {"LoadState": "loaded", "ActiveState": "inactive", "SubState": "dead", "NeedDaemonReload": "no",
             "TimeoutStartUSec": "1h", "TimeoutStopUSec": "5min", "InactiveExitTimestampMonotonic": "0"}  # fmt: skip
    endings = (".service", ".timer", "-watch.service", "-gate.service", "-gate.socket")
    found.units = {f"{UNIT}{ending}": {"Id": f"{UNIT}{ending}", **usual} for ending in endings}
    found.units[f"{UNIT}.timer"].update(
        ActiveState="active", UnitFileState="enabled", NextElapseUSecRealtime="Thu 2026-01-01 12:00:00 UTC"
    )
    monkeypatch.setattr(systemd, "systemctl", found.systemctl)
    monkeypatch.setattr(systemd, "running", lambda: True)
    config = host.config
    config.update(
        policy_sha256=schema.digest(schema.load_file(config["policy_file"])), collection_version="0.2.0",
        timer_enabled=True,
    )  # fmt: skip
    host.write_config()
    release = Path(config["install_dir"]) / "releases" / SHA
    (release / "configs/loop").mkdir(parents=True)
    (release / "configs/loop/model-policy.production.yml").write_text("backends: {default: pi}\n")
    _freeze(release)
    prove(host)
    receipt = receipts.read(config["receipts_dir"], receipts.names(config["receipts_dir"])[0])
    rollout.end(str(host.config_file), receipt)
    issue = {"repo": "AS215932/network-operations", "number": 235, "title": "Docs"}
    numbers = {"seconds": 12.5, "cost_usd": 0.25}
    found.record(1, "published", issue=issue, numbers=numbers, pr_url="https://forge.example/pull/1", agents=1)
    return found


def _freeze(release: Path) -> None:
    """A release as a build leaves it, with the digest of all its files."""
    listed = build.manifest(str(release))
    (release / build.MANIFEST).write_bytes(listed)
    record = {"sha": SHA, "lock_digest": "1" * 64, "files_digest": store.sha256(listed), "interpreter": ""}
    (release / build.RECORD).write_text(json.dumps(record))
    assert frozen.differences(listed, build.manifest(str(release))) == []
