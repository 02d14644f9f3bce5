# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The units that tell: what starts them by themselves is switched on, and they are asked to look once more."""

from __future__ import annotations

import contextlib
import os

from ..base.errors import LoopError
from . import systemd
from .settings import Settings

STARTERS = (".timer", ".path")
# What was told, beside the releases; and what node_exporter reads.
TOLD, TOLD_LOCK, METRICS = "told.json", ".told.lock", "engineering_loop.prom"


def bring(unit: str, *, check: bool = False) -> bool:
    """What starts ``UNIT-tell.service`` is enabled and runs from now on, and it looks; whether that was not so.

    Units of an earlier version, which has none, are passed over.
    """
    if not systemd.running():
        return False
    off = []
    for name in (f"{unit}-tell{kind}" for kind in STARTERS):
        state = systemd.properties(name, "LoadState,ActiveState,UnitFileState")
        if state.get("LoadState") == "loaded":
            right = state.get("ActiveState") == "active" and state.get("UnitFileState") == "enabled"
            off += [] if right else [name]
    if not check:
        if off:
            systemd.systemctl("enable", "--now", *off)
        soon(unit)
    return bool(off)


def soon(unit: str) -> None:
    """Look whether there is something to tell, without waiting for it; nobody fails for that."""
    with contextlib.suppress(LoopError):
        systemd.systemctl("start", "--no-block", f"{unit}-tell.service")


def files(config: Settings) -> list[str]:
    """What is ours alone and goes with the host: what was told, and the metrics."""
    paths = [f"{config.install_dir}/{name}" for name in (TOLD, TOLD_LOCK)]
    paths += [f"{config['metrics_dir']}/{METRICS}"] if config.get("metrics_dir") else []
    return [path for path in paths if os.path.lexists(path)]
