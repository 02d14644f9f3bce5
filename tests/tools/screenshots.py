# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures of the status page in docs/img, by a headless Chromium, made small by pngquant: screenshots.py [STATUS.json]

STATUS.json is what `playbooks/status.yml -e format=json -e out=STATUS.json` writes; without it a fleet is drawn that
shows all that a page can show. Debian has both programs. Whoever changes the page looks at the pictures.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / ".collections"))

from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import playbook  # noqa: E402
from ansible_collections.as215932.engineering_loop.plugins.module_utils.report import page, status, table  # noqa: E402
from ansible_collections.as215932.engineering_loop.plugins.module_utils.report.needs import Need  # noqa: E402

IMG = ROOT / "docs" / "img"
NOW = datetime(2026, 3, 14, 3, 0, tzinfo=UTC)
REPO = "AS215932/network-operations"
ENGINE = "58735fa051d24290f128109b4267e136316cbc86"
# name, width, height, more for Chromium
PICTURES = (
    ("status-desktop", 1180, 1260, ()),
    ("status-dark", 1180, 1260, ("--force-dark-mode", "--blink-settings=preferredColorScheme=0")),
    ("status-phone", 500, 1500, ()),
)


def stamp(hours: float) -> str:
    """So many hours before now."""
    return f"{NOW - timedelta(hours=hours):%Y-%m-%dT%H:%M:%SZ}"


def history(seed: int, outcomes: list[str]) -> list[dict[str, Any]]:
    """Two weeks of cycles, as a host tells of them."""
    chance = random.Random(seed)
    told = []
    for number in range(150):
        began, outcome = stamp((150 - number) * 2.1), chance.choice(outcomes)
        worked = outcome in ("published", "needs_triage", "error")
        told.append({
            "cycle": f"{began.replace('-', '').replace(':', '')}-{number:08x}", "started": began, "outcome": outcome,
            "seconds": chance.uniform(240, 2600) if worked else chance.uniform(2, 6),
            "cost_usd": chance.uniform(0.1, 2.2) if worked else 0.0,
            "pr_url": f"https://github.com/{REPO}/pull/{300 + number}" if outcome == "published" else "",
            "issue": f"{REPO}#{200 + number}" if worked else "",
        })  # fmt: skip
    return told


def host(seed: int, outcomes: list[str], found: list[Need], **more: Any) -> dict[str, Any]:
    """One host of the fleet."""
    cycles = history(seed, outcomes)
    told = {
        "state": "deployed", "version": "0.2.0", "unit": "hyrule-engineering-loop", "looked_at": stamp(0),
        "history": cycles, "last_cycle": {**cycles[-1], "detail": ""},
        "engine": {"pin": ENGINE, "active": ENGINE, "drift": [], "back": None},
        "policy": {"sha256": "0" * 64, "matches": True},
        "proof": {"matches": True, "reason": "", "proved_at": stamp(140), "age_seconds": 504000, "expires_at": ""},
        "timer": {"active": True, "next": stamp(-0.3), "reason": ""},
        "today": {"runs": 3, "max_runs": 12, "cost_usd": 2.85, "max_cost_usd": 10.0},
    }  # fmt: skip
    return status.finished({**status.silent(""), **told, **more}, found)


def fleet() -> dict[str, Any]:
    """Three hosts: one that is well, one that wants a person, one that is down."""
    usual = ["published"] * 4 + ["idle"] * 6
    kept = {
        "count": 2, "bytes": 1_400_000_000, "restore": playbook("restore"),
        "items": [
            {"id": "20260313T110000Z-1a2b3c4d", "what": f"{REPO}#231", "title": "Rewrite the firewall",
             "outcome": "error", "detail": "the engine ended with 1", "made": stamp(16), "size": 1_100_000_000,
             "kind": "cycle", "seen": True},
            {"id": "20260313T210000Z-5e6f7a8b", "what": f"{REPO}#240", "title": "Name the new hosts",
             "outcome": "needs_triage", "detail": "two gates disagree about docs/hosts.md", "made": stamp(6),
             "size": 300_000_000, "kind": "cycle", "seen": False},
        ],
    }  # fmt: skip
    held = [{"repo": REPO, "number": 231, "title": "Rewrite the firewall", "attempts": 3, "cost_usd": 4.2,
             "since": stamp(40), "why": "3 attempts and 4.20 USD without a pull request"}]  # fmt: skip
    found = [
        Need("held", f"{REPO}#231 (Rewrite the firewall) is not worked on any more: {held[0]['why']}",
             f"change its text or labels on the forge, or {playbook('release_issue')} -e issue={REPO}#231"),
        Need("triage", f"A run stopped for a person to decide, {REPO}#240: two gates disagree about docs/hosts.md",
             "look at it: on HOST: /usr/local/lib/engineering-loop/loop enter 20260313T210000Z-5e6f7a8b"),
    ]  # fmt: skip
    hosts = {
        "loop-ams": host(3, usual, []),
        "loop-fra": host(5, [*usual, "needs_triage", "refused", "error"], found, held=held, quarantine=kept),
        "loop-lis": status.unreachable("Failed to connect to the host via ssh: No route to host"),
    }
    return {name: table.for_host(one, name, "ansible-playbook -i inventory.yml") for name, one in hosts.items()}


def main() -> int:
    """Draw the page and take its pictures."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None or shutil.which("pngquant") is None:
        print("Chromium or pngquant is missing: apt-get install chromium pngquant", file=sys.stderr)
        return 1
    told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["hosts"] if sys.argv[1:] else fleet()
    IMG.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "page.html"
        file.write_text(page.draw(told, stamp(0)), encoding="utf-8")
        for name, width, height, more in PICTURES:
            words = [
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                f"--user-data-dir={place}/{name}",
            ]
            words += [f"--window-size={width},{height}", f"--screenshot={IMG}/{name}.png", *more, file.as_uri()]
            subprocess.run([browser, *words], check=True, capture_output=True, env={**os.environ, "HOME": place})
            subprocess.run(["pngquant", "--force", "--ext=.png", "32", f"{IMG}/{name}.png"], check=True)
            print(IMG / f"{name}.png")
    print(table.draw(told, rich=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
