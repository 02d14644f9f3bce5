# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A release is built at its final path, as virtual environments hold absolute paths, and tried there, shut in.

What makes it a release is the record ``.release.json``, written last: a directory without one is the rest of a killed
build.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from ..base import progress
from ..base.clock import utc_now
from ..base.errors import LoopError
from ..base.files import read_bytes, sha256, write_atomic
from ..host import programs
from . import frozen, git_dependencies, git_sources, git_wheels, shut_in, source, steps
from .git_dependencies import GitDependency
from .wanted_version import Wanted

Json = dict[str, Any]

RECORD = ".release.json"
BIN = ".venv/bin"
MANIFEST = ".release.files"
REQUIREMENTS = ".venv/requirements.txt"
# uv and pip have rules of their own for what they fetch from repositories: they fetch nothing.
NO_GIT = {"GIT_ALLOW_PROTOCOL": "none"}


def build(wanted: Wanted, sha: str, path: str) -> None:
    """Make the release at ``path``, where nothing stands, and record it. LoopError, or OSError, leaves a part of it."""
    begun = time.monotonic()
    progress.step(f"fetching the engine {sha}")
    branch = source.check_out(wanted, sha, path)
    lock = read_bytes(os.path.join(path, "uv.lock"))
    digest = sha256(lock) if lock is not None else ""
    if wanted.lock_sha256 and digest != wanted.lock_sha256:
        raise LoopError(f"its uv.lock has the SHA-256 {digest or '(there is none)'}, not {wanted.lock_sha256}")
    needed = [] if wanted.sync else git_dependencies.in_lock(lock or b"")
    git_sources.judge(wanted, needed)
    if wanted.sync:
        _step(wanted, wanted.sync, path)
    built = _install_with_git(wanted, path, needed) if needed else []
    for command in [] if needed or wanted.sync else _sync_commands(wanted, lock is not None):
        _step(wanted, command, path, **NO_GIT)
        if "export" in command:
            git_wheels.in_their_places(_requirements(path), [])
    fetched = time.monotonic()
    progress.step("building the engine: compiling it")
    _compile(wanted, path)
    frozen.freeze(path)
    require_program(path, wanted.smoke[0] if wanted.smoke else "")
    progress.step(f"starting the engine once, shut in: {' '.join(wanted.smoke)}")
    smoke = _smoke(wanted, path)
    if not wanted.sync and (needed or (lock is not None and wanted.wheels)):
        _check_installed(wanted, path)
    progress.step("writing down what the engine consists of")
    listing = manifest(path)
    known: Json = {
        "sha": sha,
        "source": wanted.repo,
        "branch": branch,
        "provenance": source.provenance(wanted),
        "lock_digest": digest,
        "files_digest": sha256(listing),
        "python": _first_line([os.path.join(path, ".venv/bin/python"), "--version"]).removeprefix("Python "),
        "interpreter": shut_in.interpreter(path),
        "uv": _first_line([wanted.uv, "--version"]),
        "smoke": smoke,
        "git_dependencies": [one.record() for one in built],
        "built_at": utc_now(),
        "built_by": os.environ.get("SUDO_USER") or getpass.getuser(),
        "seconds": {"install": round(fetched - begun, 2), "total": round(time.monotonic() - begun, 2)},
    }
    os.chmod(path, 0o755)  # as it was listed, it gets 0555 again with the record
    write_atomic(os.path.join(path, MANIFEST), listing, mode=0o444)
    frozen.flush(path)  # the record must not outlive a power cut that the files did not
    write_record(path, known)


def write_record(path: str, known: Json) -> None:
    os.chmod(path, 0o755)
    write_atomic(os.path.join(path, RECORD), (json.dumps(known, indent=2, sort_keys=True) + "\n").encode(), mode=0o444)
    os.chmod(path, 0o555)


def manifest(path: str) -> bytes:
    """The list of the release's files, but for what we write beside them."""
    return frozen.manifest(path, (RECORD, MANIFEST))


def _first_line(command: Sequence[str]) -> str:
    try:
        return (programs.run(command, 30).stdout.splitlines() or [""])[0]
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _sync_commands(wanted: Wanted, locked: bool) -> list[list[str]]:
    """What installs the engine and its dependencies, editable: it looks for its data beside its sources.

    None of it may fetch from a repository by itself, and what was exported is looked at: uv may read a lock in another
    way than we do.
    """
    if not locked:
        local = ["--no-index", "--find-links", wanted.wheels] if wanted.wheels else []
        return [
            [wanted.python, "-m", "venv", ".venv"],
            [".venv/bin/python", "-m", "pip", "install", "--quiet", "--no-user", *local, "--editable", "."],
        ]
    if not wanted.wheels:
        # --frozen alone would install an old lock under a new pyproject.toml without a word.
        return [
            [wanted.uv, "lock", "--check"], *_export_commands(wanted), [wanted.uv, "sync", "--frozen", "--no-dev"],
        ]  # fmt: skip
    local = ["--no-index", "--find-links", wanted.wheels]
    return [
        *_export_commands(wanted),
        [*_install(wanted), *local, "--require-hashes", "-r", REQUIREMENTS],
        [*_install(wanted), *local, "--no-deps", "--editable", "."],
    ]


def _export_commands(wanted: Wanted) -> list[list[str]]:
    """A virtual environment, and in it the list of what the lock has for it."""
    return [
        [wanted.uv, "venv", "--python", wanted.python, ".venv"],
        [wanted.uv, "export", "--quiet", "--frozen", "--no-dev", "--no-emit-project", "-o", REQUIREMENTS],
    ]


def _install(wanted: Wanted) -> list[str]:
    return [wanted.uv, "pip", "install", "--python", ".venv/bin/python"]


def _install_with_git(wanted: Wanted, path: str, needed: Sequence[GitDependency]) -> list[git_wheels.Built]:
    """As from a directory of wheels, with a wheel of each git dependency, which is built first."""
    git_sources.require_bundles(wanted, needed)
    local = ["--no-index", "--find-links", wanted.wheels] if wanted.wheels else []
    for command in [*([] if local else [[wanted.uv, "lock", "--check"]]), *_export_commands(wanted)]:
        _step(wanted, command, path, **NO_GIT)
    built = git_wheels.build(wanted, path, needed)
    listed = git_wheels.in_their_places(_requirements(path), built)
    write_atomic(os.path.join(path, REQUIREMENTS), listed.encode())
    for command in (
        # The lock has all of it. What a wheel says of its own dependencies would lead to their repositories.
        [*_install(wanted), *local, "--no-deps", "--require-hashes", "-r", REQUIREMENTS],
        [*_install(wanted), *local, "--no-deps", "--editable", "."],
    ):
        _step(wanted, command, path, **NO_GIT)
    return built


def _requirements(path: str) -> str:
    return (read_bytes(os.path.join(path, REQUIREMENTS)) or b"").decode()


def _check_installed(wanted: Wanted, path: str) -> None:
    """Whether what is installed fits together. Without an index `uv lock --check` cannot compare the lock with
    pyproject.toml, and what a wheel of ours asks for, no lock has; what came of both, this tells.

    uv starts the release's Python for it, which runs what was installed: so this is shut in as well.
    """
    program = os.path.realpath(shutil.which(wanted.uv) or wanted.uv)
    environment = {**shut_in.ENVIRONMENT, "UV_CACHE_DIR": "/tmp/uv", "UV_NO_CONFIG": "1"}  # noqa: S108
    command = ["/uv", "pip", "check", "--python", f"{path}/.venv/bin/python"]
    within = shut_in.words(path, ["--ro-bind", program, "/uv"])
    steps.run(wanted, command, path, environment, wanted.user, within)


def _step(wanted: Wanted, command: Sequence[str], path: str, **more: str) -> None:
    progress.step(f"building the engine: {' '.join([os.path.basename(command[0]), *command[1:]])}")
    steps.run(wanted, command, path, {**steps.environment_of(wanted), **more})


def _compile(wanted: Wanted, path: str) -> None:
    """Byte code now, as nobody can write it later. Files that do not compile are none that get imported."""
    script = "import compileall, sys; compileall.compile_dir(sys.argv[1], quiet=2, workers=0)"
    python = os.path.join(path, ".venv/bin/python")
    if not os.path.exists(python):
        raise LoopError("the sync command made no .venv in the release; the engine is run from there")
    steps.run(wanted, [python, "-I", "-S", "-c", script, "."], path)  # nothing of the release's own is run by that


def require_program(path: str, name: str) -> None:
    """Refuse a release without the program that is started of it, ``.venv/bin/NAME``."""
    if os.path.dirname(name) != BIN or os.path.exists(os.path.join(path, name)):
        return
    own = re.compile(r"(?!python|pydoc|pip|(de)?activate)[A-Za-z0-9][\w.+-]*")
    programs_dir = os.path.join(path, BIN)
    there = sorted(filter(own.fullmatch, os.listdir(programs_dir) if os.path.isdir(programs_dir) else ())) or ["none"]
    raise LoopError(
        f"the engine has no program {os.path.basename(name)}, which engineering_loop_program says is started; it has"
        f" {', '.join(there[:10])} ([project.scripts] of its pyproject.toml)"
    )


def _smoke(wanted: Wanted, path: str) -> Json:
    """Start the engine once from the finished, read-only release, as the one who will run it.

    It is shut in, as nobody has proven it yet: it sees the host's programs and itself, reaches no network and none of
    the host's other files, and nothing that it leaves stays.
    """
    begun = time.monotonic()
    steps.run(wanted, wanted.smoke, path, shut_in.ENVIRONMENT, wanted.user, shut_in.words(path))
    return {"command": list(wanted.smoke), "user": wanted.user, "seconds": round(time.monotonic() - begun, 2)}
