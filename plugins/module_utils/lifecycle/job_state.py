# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of a job that an older layout ran is that of ours, where ours has a unit of the same name."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterable

from ..base import untrusted
from ..base.files import remove_tree
from ..cell.memory import copy
from ..host import systemd
from ..host.managed_files import Entry, converge
from .layout import Layout

FLAG = re.compile(rb"--state-dir-path(?:=|[ \t\\\n]+)[\"']?(/[^\s\"'\\]+)")


def theirs(layout: Layout, scripts: Iterable[str]) -> dict[str, str]:
    """By unit, where a job of an older layout has its state, as its unit or one of its ``scripts`` says."""
    found = {}
    for unit in layout.job_states:
        path = f"{layout.unit_dir}/{unit}.service"
        text = systemd.content(path)
        if not text or systemd.ours(path):
            continue
        texts = [text, *(systemd.content(script) for script in scripts if os.fsencode(script) in text)]
        if place := next((match for one in texts if (match := FLAG.search(one))), None):
            found[unit] = os.path.normpath(os.fsdecode(place[1]))
    return found


def told(layout: Layout, places: dict[str, str]) -> list[str]:
    """What happens with it, a line each."""
    lines = []
    for unit, place in places.items():
        ours = layout.job_states[unit]
        if os.path.isdir(place) and (place == ours or not os.path.lexists(ours)):
            does = "stays and is read on" if place == ours else f"is copied to {ours}"
            lines.append(f"the state of {unit} in {untrusted.show(place)} {does}")
    return lines


def bring(layout: Layout, places: dict[str, str]) -> list[str]:
    """Copy it, as the loop's user, to where ours has it, if nothing is there; what was left out, a line each.

    Nothing of that user may run meanwhile. Killed anywhere, the next one begins anew.
    """
    lines = []
    for unit, place in places.items():
        ours = layout.job_states[unit]
        if place != ours and os.path.isdir(place) and not os.path.lexists(ours):
            new = f"{ours}.new"
            remove_tree(new)
            converge([Entry(new, "directory", owner=layout.user, group=layout.group, mode=0o700)])
            if left_out := copy(layout.user, place, new)["left_out"]:
                lines.append(f"of the state of {unit} ours has no copy of {', '.join(left_out)}")
            os.rename(new, ours)
        if os.path.isdir(ours):  # whose it is tells it from what an older layout left beside it
            me = pwd.getpwuid(os.geteuid()).pw_name
            converge([Entry(ours, "directory", owner=me, group=layout.group, mode=0o770)])
    return lines
