# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pinned command-line tool from PyPI, in a virtual environment of its own."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import subprocess
from importlib import metadata

from ..base import progress
from ..base.errors import LoopError, certificate
from ..base.files import flocked, remove_tree
from ..host import programs


def installed(dest: str) -> str:
    """The version that ``dest`` points to; empty where there is none that everybody may run.

    ``dest`` is a link to ``dest-VERSION``.
    """
    try:
        target = os.readlink(dest)
    except OSError:
        return ""
    name, dash, version = target.partition(f"{os.path.basename(dest)}-")
    return version if dash and not name and open_to_all(f"{dest}/bin") else ""


def open_to_all(directory: str) -> bool:
    """Whether it is there, and was not made under a umask that keeps all but its owner out."""
    with contextlib.suppress(OSError):
        return os.stat(directory).st_mode & 0o055 == 0o055
    return False


def install(package: str, version: str, dest: str, python: str, wheels: str = "", timeout: float = 900) -> None:
    """Install ``package==version`` and point ``dest`` at it; LoopError with pip's last line.

    With ``wheels``, a directory, no index is asked.

    It is built at ``dest-VERSION`` and takes part only once the link says so: a build that
    fails or is killed leaves the tool in use as it was, and is built anew the next time.
    """
    target = f"{dest}-{version}"
    if os.path.lexists(dest) and not os.path.islink(dest):
        raise LoopError(f"{dest} is in the way: a link to the version in use must stand there; move it aside")
    # Hidden: where an engine is checked out beside it, uv.lock is the engine's.
    with flocked(os.path.join(os.path.dirname(dest), f".{os.path.basename(dest)}.lock")):
        if installed(dest) == version:
            return  # another run was faster
        remove_tree(target)
        try:
            _build(package, version, target, python, wheels, timeout)
        except BaseException:
            remove_tree(target)
            raise
        link = f"{dest}.new"
        if os.path.lexists(link):
            os.unlink(link)
        os.symlink(os.path.basename(target), link)
        os.rename(link, dest)
        for other in glob.glob(f"{glob.escape(dest)}-[0-9]*"):  # the one before, and what killed runs left
            if other != target:
                remove_tree(other)


def unreached(said: str) -> str:
    """Why pip did not reach the index, where it says so: in its warnings alone, in the end it has found nothing."""
    broken = re.findall(r"connection broken by '(.*)': /", said)
    return f": {programs.last_words(re.sub(r'<[^<>]*>: ', '', broken[-1]))}" if broken else ""


def _build(package: str, version: str, target: str, python: str, wheels: str, timeout: float) -> None:
    local = ["--no-index", "--find-links", wheels] if wheels else []
    pip = [f"{target}/bin/python", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    # --no-user: whatever the host's pip.conf says
    for command in ([python, "-m", "venv", target], [*pip, "--no-user", *local, f"{package}=={version}"]):
        progress.step(f"installing {package} {version}: {' '.join([os.path.basename(command[0]), *command[1:]])}")
        try:
            done = programs.run(command, timeout)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LoopError(f"{package} {version} cannot be installed: {error}") from error
        if done.returncode:
            last = [f"{command[0]} failed", *(done.stderr.strip() or done.stdout.strip()).splitlines()][-1]
            source = f"what is in {wheels}" if wheels else "that this host reaches its package index"
            source += unreached(done.stderr)
            why = certificate(done.stdout + done.stderr) or f"{last} (check the version and {source})"
            raise LoopError(f"{package} {version} cannot be installed: {why}")
    if not [*metadata.distributions(name=package, path=glob.glob(f"{glob.escape(target)}/lib/*/site-packages"))]:
        raise LoopError(
            f"{package} {version} was not put into {target}: pip is told to install elsewhere, or nothing (a line"
            " such as target, prefix, root or dry-run of `pip config debug`); remove that line"
        )
