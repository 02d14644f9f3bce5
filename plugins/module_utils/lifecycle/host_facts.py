# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host is right now, as plain data. Reads only."""

from __future__ import annotations

import contextlib
import os
import platform
import pwd
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..base.errors import LoopError
from ..base.untrusted import show, shown
from ..cell import cells, records
from ..cycle import handover
from ..gateway import kept_pushes as kept_by_gateway
from ..host import settings, systemd
from ..host.settings import Settings
from ..proof import installed, pause, rollout, rollout_ledger, timer_hold
from ..release import agents, pypi_tools
from . import supported
from .layout import Layout
from .older_layout import plan

ROOM, ROOM_FILES = 1 << 20, 100  # with less, a disk is full: nothing can be written that an apply consists of


def _run(*command: str) -> str:
    """stdout of a command; empty where it is missing or fails."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=30, check=False).stdout
    return ""


def system() -> dict[str, Any]:
    """Operating system, Python and whether systemd runs this host."""
    release = {}
    with contextlib.suppress(OSError):
        release = platform.freedesktop_os_release()
    told = {
        "id": release.get("ID", ""),
        "version_id": release.get("VERSION_ID", ""),
        "name": release.get("PRETTY_NAME", ""),
        "python": platform.python_version(),
        "systemd": os.path.isdir("/run/systemd/system"),
        "root": os.geteuid() == 0,
        "clock": int(time.time()),
        "namespaces_problem": namespaces_problem(),
    }
    return {**told, "problem": supported.problem(told)}


def full(directories: Sequence[str]) -> list[str]:
    """Those of ``directories``, or what of them is there, whose disk has no room for as much as a few files."""
    found = set()
    for path in directories:
        while not os.path.isdir(path):
            path = os.path.dirname(path)
        disk = os.statvfs(path)
        if disk.f_bavail * disk.f_frsize < ROOM or (disk.f_files and disk.f_favail < ROOM_FILES):
            found.add(path)
    return sorted(found)


# Debian's packages of these names conflict with those of others, such as NodeSource's nodejs, which has npm in it.
NODE = {"nodejs": "node", "npm": "npm"}


def missing_packages(names: Sequence[str]) -> list[str]:
    """Those of ``names`` that dpkg does not know as installed, sorted. Whoever's node and npm are there, they do.

    A name may have an architecture, or be one that packages provide.
    """
    if not names:
        return []
    lines = _run("dpkg-query", "-W", "-f", "${Package} ${Architecture} ${db:Status-Status}\\n", *names).splitlines()
    words = [line.split() for line in lines if len(line.split()) == 3]
    states = {name: state for package, kind, state in words for name in (package, f"{package}:{kind}")}
    missing = {name for name in names if states.get(name) != "installed"}
    if missing - states.keys():
        lines = _run("dpkg-query", "-W", "-f", "${db:Status-Status}, ${Provides}\\n").splitlines()
        missing -= {
            one.split()[0] for line in lines if line.startswith("installed, ") for one in line.split(", ")[1:] if one
        }
    half = [
        name for name in NODE if states.get(name, "installed") not in ("installed", "not-installed", "config-files")
    ]
    if not half and all(shutil.which(program, path=agents.PATH) for program in NODE.values()):
        missing -= NODE.keys()
    return sorted(missing)


def packages_interrupted(updates: str = "/var/lib/dpkg/updates") -> bool:
    """Whether dpkg was killed in the middle of something: until that is ended it refuses everything else."""
    with contextlib.suppress(OSError):
        return any(name.isdigit() for name in os.listdir(updates))
    return False


def python_apt_half() -> bool:
    """Whether python3-apt is there by half, since dpkg was killed: Ansible's apt cannot be loaded then, to mend it."""
    return _run("dpkg-query", "-W", "-f", "${db:Status-Status}", "python3-apt") == "half-installed"


def uv_version(path: str) -> str:
    """The version of the uv program at ``path``; empty where there is none that everybody may run."""
    words = _run(path, "--version").split() if pypi_tools.open_to_all(os.path.dirname(path)) else []
    return words[1] if len(words) > 1 else ""


def user_exists(name: str) -> bool:
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(name))
    return False


def secrets(config: Settings | None, given: Mapping[str, str] | None, layout: Layout | None) -> dict[str, Any]:
    """What is to be said of the secrets, as ``handover.look`` does; where a host is taken over, as they will be."""
    if not config:
        return {"problem": "", "notes": [], "loose": []}
    items = plan(layout) if layout else []
    right = {item.path for item in items if item.kind in ("private", "secrets")}
    if layout and any(item.kind == "checkout" for item in items):
        right.add(layout.dotenv)  # the directory that it stands in becomes root's
    path = config.env_file
    if layout and layout.dotenv in right and not os.path.lexists(path):
        path = layout.dotenv
    return handover.look(Settings(config, env_file=path), given, right)


def cell_problem(home_files: Sequence[Mapping[str, str]], caches: Sequence[Mapping[str, str]]) -> str:
    """Why no cell could be given what it is to find in its home; empty where all of it is fit."""
    try:
        cells.check_given(home_files, caches)
    except LoopError as error:
        return str(error)
    return ""


def agent_problem(wanted: Mapping[str, Any], lockfile: str, layout: Layout | None) -> str:
    """Why there is no agent on this host, and none could be installed; empty where there is one or will be."""
    if not wanted["agent_programs"]:
        return ""
    return agents.lacking(Settings(wanted)) or agents.too_old_a_node(
        layout.install_dir if layout else "", wanted["agent"], lockfile
    )


def rollouts(config_path: str) -> dict[str, Any]:
    """What a rollout has to know first: the rollout that did not end, and the engines that were gone back from."""
    try:
        install_dir = settings.load(config_path, keys=["install_dir"])["install_dir"]
    except LoopError:
        return {"under_way": None, "doubts": {}}  # nothing deployed, or nothing that could be read; apply mends it
    begun = rollout_ledger.read(install_dir).under_way
    return {"under_way": begun.document() if begun else None, "doubts": rollout_ledger.rejected(install_dir)}


def paused(config_path: str) -> str:
    """Why no cycle may start, since when and by whom, and how to resume; empty where the loop is not paused."""
    try:
        found = pause.read(settings.load(config_path, keys=["install_dir"]))
    except LoopError:
        return ""  # nothing deployed, or nothing that could be read; apply mends it
    return found.sentence if found else ""


def _timer(unit: str) -> dict[str, Any]:
    """State of ``UNIT.timer``; a host where it cannot be asked for has none."""
    with contextlib.suppress(LoopError):
        return systemd.timer_of(unit)._asdict()
    return systemd.Timer()._asdict()


def kept_pushes(config: Settings) -> list[dict[str, Any]]:
    """What the gateway keeps: pushes that were refused, and branches that made room; as ``kept`` tells of cells."""
    return [
        {
            "id": one["id"], "kind": "push", "outcome": "kept by the gateway", "detail": one["why"], "made": one["at"],
            "size": 0, "files": 0, "path": one["path"], "title": "", "what": f"{one['repo']} {one['branch']}",
        }
        for one in shown(kept_by_gateway.listing(config))
    ]  # fmt: skip


def kept(runs_dir: str) -> list[dict[str, Any]]:
    """Cells with work in them, newest last: ``id what issue outcome detail made size files path``."""
    found: list[dict[str, Any]] = []
    for cell, manifest in cells.listing(runs_dir):
        if not manifest.is_kept:
            continue
        issue = manifest.issue or {}
        what = f"{issue.get('repo')}#{issue.get('number')}" if issue else ", ".join(manifest.runs)
        if manifest.kind == "adopted":
            what = "what an older layout left"
        told = {key: getattr(manifest, key) for key in ("outcome", "detail", "made", "size", "files", "kind")}
        told |= {"id": cell.id, "path": cell.path, "what": show(what), "title": show(issue.get("title", ""))}
        found.append(told)
        for name, seen in cells.earlier(manifest):
            one = {"id": name, "outcome": "adopted", "detail": f"was kept below {seen}", "what": "quarantined before"}
            found.append({**told, "size": 0, "files": 0, "title": "", **one})
    return list(shown(found))


# What a kernel may be told so that nobody but root makes namespaces: file, the value that forbids it, what allows it.
NAMESPACES = (
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
    ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces=10000"),
    ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"),
)


def namespaces_problem() -> str:
    """Why the agent could not be shut in on this kernel, and how to allow it; empty where it can."""
    forbids = []
    for path, value, allow in NAMESPACES:
        with contextlib.suppress(OSError), open(path, encoding="ascii") as handle:
            if handle.read().strip() == value:
                forbids.append(allow)
    if not forbids:
        return ""
    return (
        "the kernel does not let the loop's user make namespaces, so the agent could not be shut in. Allow it:"
        f" sysctl -w {' '.join(forbids)}, and keep that in /etc/sysctl.d/engineering-loop.conf"
    )


def loop(config_path: str, last: int = 5) -> dict[str, Any] | None:
    """What is deployed and how it fares; None on a host where nothing was deployed yet."""
    if not os.path.exists(config_path):
        return None
    config = settings.load(config_path)
    release = os.path.realpath(f"{config.install_dir}/current")
    try:
        there: dict[str, Any] = asdict(installed.now(config))
        proof: dict[str, Any] = timer_hold.by_settings(config).shown()
    except LoopError as error:
        there, proof = {}, {"matches": False, "reason": str(error)}
    return {
        "settings": dict(config),
        "engine": os.path.basename(release) if os.path.isdir(release) else "",
        "installed": there,
        "proof": proof,
        "secrets": handover.look(config),
        "back": rollout.back(config),
        "timer": _timer(config.unit),
        "cycles": records.read(config.cycles_dir, last),
        "kept": kept(config.runs_dir) + kept_pushes(config),
    }
