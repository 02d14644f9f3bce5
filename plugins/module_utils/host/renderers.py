# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who else writes a file of the loop's: services whose command or configuration names it, as Vault Agent's does."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from . import systemd

UNIT_DIRS = (systemd.UNIT_DIR, "/usr/lib/systemd/system")
COMMANDS = re.compile(rb"^Exec\w+=((?:.*\\\n)*.*)", re.MULTILINE)
CONFIGURATION = re.compile(rb"/etc/[^\s\"'=,;:]+")


class Renderer(NamedTuple):
    """A service's unit file, and in which of its files the name was found."""

    unit: str
    named: tuple[str, ...]

    def __str__(self) -> str:
        """As ``vault-agent.service (/etc/vault-agent.hcl)``."""
        return f"{os.path.basename(self.unit)} ({', '.join(self.named) or 'its command'})"

    @property
    def user(self) -> str:
        """Who it runs as."""
        found = re.search(rb"^User=(\S+)", systemd.content(self.unit), re.MULTILINE)
        return found[1].decode(errors="replace") if found else "root"


def renderers_of(path: str, unit_dirs: Sequence[str] = ()) -> list[Renderer]:
    """Who writes ``path``, as far as it is known.

    Looked for in the commands of services and, one level deep, in what these name below /etc. Ours only read it.
    """
    name = re.compile(rb"(?<![\w./-])%s(?![\w./-])" % re.escape(os.fsencode(path)))
    found = []
    for unit in [f"{directory}/{entry}" for directory in unit_dirs or UNIT_DIRS for entry in _names(directory)]:
        text = systemd.content(unit) if unit.endswith(".service") else b""
        commands = b"\n".join(COMMANDS.findall(text))
        if systemd.MARK in text or not commands:
            continue
        places = [os.fsdecode(place) for place in dict.fromkeys(CONFIGURATION.findall(commands))]
        files = [file for place in places for file in ([f"{place}/{each}" for each in _names(place)] or [place])]
        named = [file for file in files if name.search(systemd.content(file))]
        if named or name.search(commands):
            found.append(Renderer(unit, tuple(named)))
    return found


def awaited(path: str) -> str:
    """What to do where ``path`` is missing: by whom it should have been written, and the command."""
    written = [f"{one} writes it: systemctl restart {os.path.basename(one.unit)}" for one in renderers_of(path)]
    return " and ".join(written) or "nothing is known to write it: have Vault Agent or the like do so"


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []
