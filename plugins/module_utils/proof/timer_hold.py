# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""May the timer run what is installed, and why not: which receipt covers it, or what must be proven again."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..base.clock import moment_of
from ..base.errors import LoopError, playbook
from ..base.sizes import number_of
from ..host.settings import Settings
from . import installed, receipts
from .installed import BOUND, Installed
from .receipts import STRENGTH, Receipt

PROVE_AGAIN = f"prove it with: {playbook('canary')}"
NOTHING_YET = "nothing was proven on this host yet"
UNSEEN = "nobody has seen what this changes at work"
CLOCK_SKEW = 300.0  # seconds


class Proof(NamedTuple):
    """The receipt that covers something, or None; and why, in words."""

    receipt: Receipt | None
    reason: str

    def shown(self) -> dict[str, Any]:
        """What a person is told of it."""
        return {
            "matches": self.receipt is not None,
            "reason": self.reason,
            "receipt": dict(self.receipt.document) if self.receipt else None,
        }


def max_age(text: str) -> float | None:
    """How old a proof may be, in seconds, of ``12h`` or ``30d``; None for an empty text: no limit."""
    return number_of(text, "canary_max_age") if text else None


def wanted_mode(config: Settings) -> str:
    """The least canary that lets the timer run, as the role wrote it."""
    mode = str(config.get("canary_mode") or "docs")
    if mode not in STRENGTH:
        raise LoopError(f"canary_mode {mode!r} is unknown: it is one of {', '.join(STRENGTH)}")
    return mode


def by_settings(config: Settings) -> Proof:
    """The proof of what is installed, no older and no less than loop.json asks for."""
    return matching(config, *asked(config))


def asked(config: Settings) -> tuple[float | None, str]:
    """How old a proof may be, in seconds, and of which canary at least, as loop.json has it."""
    return max_age(str(config.get("canary_max_age") or "")), wanted_mode(config)


def matching(config: Settings, max_age: float | None = None, mode: str = "docs") -> Proof:
    """The newest genuine receipt for exactly what is installed, no older than ``max_age`` seconds.

    Works for root, who checks the HMAC, and for the loop user, who cannot. Where nothing
    matches, the reason is about the newest receipt and says what must be proven again.
    """
    try:
        now = installed.now(config)
    except LoopError as error:
        return Proof(None, f"{error}; {PROVE_AGAIN}")
    return covering(config, now, max_age, mode)


def covering(config: Settings, now: Installed, max_age: float | None = None, mode: str = "docs") -> Proof:
    """The newest genuine receipt for ``now``."""
    others, why = "", ""
    for name in receipts.names(config.receipts_dir):
        try:
            receipt = receipts.read(config.receipts_dir, name)
            problem = _mismatch(receipt, now, max_age, mode)
        except LoopError as error:
            why = why or str(error)
            continue
        if not problem:
            return Proof(receipt, f"proven by the {receipt.mode} canary at {receipt.proved_at}")
        if now.changed(receipt.proven):
            others = others or problem
        else:
            why = why or problem
    # What is wrong with a proof of this very thing, or with one that nobody can read; else what was proven last.
    return Proof(None, f"{why or others or NOTHING_YET}; {PROVE_AGAIN}")


def _mismatch(receipt: Receipt, now: Installed, max_age: float | None, mode: str) -> str:
    """Why the receipt does not cover ``now``; empty where it does."""
    proved_at, then = receipt.proved_at, receipt.proven
    changed = now.changed(then)
    if changed:
        told = f"the {' and the '.join(BOUND[part] for part in changed)} changed after the proof of {proved_at}"
        if "unit_digest" in changed and then.collection_version != now.collection_version:
            before, after = then.collection_version or "another", now.collection_version
            told += f" (the collection was {before} and is {after}: its code guards each cycle)"
        return told
    if STRENGTH[receipt.mode] < STRENGTH[mode]:
        return f"only the {receipt.mode} canary was passed ({proved_at}) and {mode} is wanted"
    age = (receipts.utc_now() - moment_of(proved_at)).total_seconds()
    if age < -CLOCK_SKEW:
        return f"the proof is dated in the future ({proved_at}): is the clock of this host right?"
    if max_age is not None and age > max_age:
        return f"the proof of {proved_at} is older than the {max_age / 3600:g} hours that are allowed"
    return ""
