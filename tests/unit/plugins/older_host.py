# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests look at on a host of an older layout: that all is somewhere, and what a killed run left."""

from __future__ import annotations

import grp
import json
import os
import pwd
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import takeover_manifest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.layout import Layout

ROOT = os.geteuid() == 0
ME = pwd.getpwuid(os.geteuid()).pw_name
GROUP = grp.getgrgid(os.getegid()).gr_name
# Somebody else, as whom a checkout can be given away; only root can.
OTHER = pwd.getpwnam("nobody").pw_uid if ROOT else os.geteuid()
SECRET = "GH_TOKEN=not-a-token\n"


def put(path: Path, text: str, mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def content(top: Path) -> dict[str, tuple[str, int]]:
    """Every file and link below ``top`` with what it holds and its mode."""
    found = {}
    for path in sorted(top.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(top))] = (os.readlink(path), 0)
        elif path.is_file():
            found[str(path.relative_to(top))] = (path.read_text("latin-1"), path.stat().st_mode & 0o7777)
    return found


def top_of(layout: Layout) -> Path:
    return Path(layout.config_dir).parent


def everything_is_there(before: dict[str, tuple[str, int]], layout: Layout) -> None:
    """Each file of ``before`` is where it was, or where a manifest says that it went, byte for byte."""
    top = top_of(layout)
    now = content(top)
    moved = {}
    for aside in takeover_manifest.listing(layout.install_dir):
        for item in json.loads(Path(aside, "manifest.json").read_text())["items"]:
            moved[item["path"]] = item["to"]
    for name, (text, _mode) in before.items():
        places = [f"{to}{str(top / name)[len(path) :]}" for path, to in moved.items() if under(str(top / name), path)]
        assert any(now.get(os.path.relpath(place, top), ("", 0))[0] == text for place in [*places, str(top / name)]), (
            name
        )


def under(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory}/")


def killed_at(number: int, work: Callable[[], Any]) -> bool:
    """Run ``work`` in a process that is killed at its n-th change of the disk; False where it ended before."""
    child = os.fork()
    if child == 0:
        left = number

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)

            return call

        for name in ("rename", "unlink", "mkdir", "rmdir", "fsync", "symlink", "fchown"):
            setattr(os, name, counted(getattr(os, name)))
        try:
            work()
        finally:
            os._exit(0)
    _pid, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)
