# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mounts that only one test sees: small disks, and what stands over the host's own files."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from celled import Box, box
from worlds import World

CLONE_NEWNS = 0x00020000


def with_mounts_of_its_own(work: Callable[[], None]) -> None:
    """Run ``work`` in a child: what that mounts nobody else sees."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
                raise OSError(ctypes.get_errno(), "no mount namespace to be had")
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - the parent must hear of anything
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def on_a_disk_of_its_own(place: Path, options: str, work: Callable[[World], None]) -> None:
    """Run ``work`` in a child that sees a small tmpfs at ``place``; nobody else does."""

    def mounted() -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
        work(World(place))

    with_mounts_of_its_own(mounted)


def with_a_host_on_a_small_disk(work: Callable[[Box], None]) -> None:
    """Run ``work`` in a child with a host whose every file stands on a tmpfs of 24 MiB; nobody else sees that."""
    place = Path(tempfile.mkdtemp(prefix="loop-disk-", dir="/tmp"))

    def mounted() -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=755", "tmpfs", str(place)], check=True)
        with box(place) as host:
            host.deploy()
            work(host)

    try:
        with_mounts_of_its_own(mounted)
    finally:
        place.rmdir()


def fill(directory: Path | str) -> None:
    """Leave not a byte on the disk of that directory."""
    with open(f"{directory}/filler", "ab", buffering=0) as handle:
        for size in (1 << 20, 4096, 1):
            try:
                while handle.write(b"x" * size):
                    pass
            except OSError:
                continue
    assert os.statvfs(directory).f_bfree == 0
