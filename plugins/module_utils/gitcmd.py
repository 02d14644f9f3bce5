# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""git, run so that a repository's own configuration cannot choose what else runs."""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence

from .errors import LoopError

try:
    from git.cmd import Git
    from git.exc import GitCommandNotFound
except ImportError:  # a fresh host, before the role's packages are there
    Git = None  # type: ignore[assignment,misc]

# These win over every configuration file. Filters, aliases and includes are named by the
# repository, so they are switched off one by one where a command could use them.
SAFE_CONFIG: dict[str, str] = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.commitGraph": "false",  # a forged one would show other parents
    "core.untrackedCache": "false",
    "core.pager": "cat",
    "core.editor": "false",
    "core.sshCommand": "ssh",
    "protocol.ext.allow": "never",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "commit.gpgSign": "false",
    "tag.gpgSign": "false",
    "submodule.recurse": "false",
    "credential.helper": "",
}


def safe_environment(extra: Mapping[str, str] | None = None, config: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that make git deaf to everything but ``SAFE_CONFIG`` and the repository's data."""
    entries = {**SAFE_CONFIG, **(config or {})}
    environment = {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        # Replaced objects and grafts would show another history than the one that is published.
        # git complains of grafts where that file can be opened, even an empty one.
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_GRAFT_FILE": "/dev/null/none",
        "GIT_CONFIG_COUNT": str(len(entries)),
        "LC_ALL": "C.UTF-8",
    }
    for number, (key, value) in enumerate(entries.items()):
        environment[f"GIT_CONFIG_KEY_{number}"] = key
        environment[f"GIT_CONFIG_VALUE_{number}"] = value
    environment.update(extra or {})
    return environment


def available() -> bool:
    """Whether git can be run here at all: not on a host whose packages are still to come."""
    return Git is not None and shutil.which("git") is not None


def git(
    directory: str,
    arguments: Sequence[str],
    *,
    stdin: bytes | None = None,
    environment: Mapping[str, str] | None = None,
    config: Mapping[str, str] | None = None,
    ok: Sequence[int] = (0,),
    timeout: float | None = None,
) -> tuple[int, str, str]:
    """Run ``git ARGUMENTS`` in ``directory``; (exit status, stdout, stderr), text with surrogates.

    Raises LoopError with git's own reason where the exit status is not in ``ok``.
    ``stdin`` is given whole. Variables of the caller's that would redirect git
    (GIT_DIR, GIT_WORK_TREE, ...) are not passed on.
    """
    if Git is None:
        raise LoopError("the Python library GitPython is missing on this host; Debian's package is python3-git")
    # GitPython starts from os.environ, so a caller's GIT_DIR and the like go there, once.
    for key in [key for key in os.environ if key.startswith("GIT_") and not key.startswith("GIT_SSL_")]:
        os.environ.pop(key, None)
    full = safe_environment(environment, config)
    command = ["git", *arguments]
    # GitPython would fall back to the directory that we happen to stand in.
    if not os.path.isdir(directory) or not os.access(directory, os.X_OK):
        raise LoopError(f"git {arguments[0]}: {directory} is not a directory that can be entered")
    given = None
    if stdin is not None:
        given = os.fdopen(os.memfd_create("git-stdin"), "w+b")
        given.write(stdin)
        given.seek(0)
    try:
        # With a limit it leads a process group, which ends as a whole: GitPython's own limit
        # needs the program ps, and waits for ever where there is none.
        process = Git(directory).execute(
            command, given, env=full, as_process=True, start_new_session=timeout is not None
        )
        streams = process.communicate(timeout=timeout)
    except GitCommandNotFound as error:
        raise LoopError("the program git is missing on this host; Debian's package is git") from error
    except subprocess.TimeoutExpired as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise LoopError(f"git {arguments[0]} in {directory} took longer than {timeout:g} s") from error
    finally:
        if given:
            given.close()
    status: int = process.returncode
    text, err = (stream.decode("utf-8", "surrogateescape") for stream in streams)
    if status not in ok:
        lines = [line for line in err.splitlines() if line.strip()] or ["no message"]
        # git says what is wrong first and ends with advice.
        told = [line for line in lines if line.startswith(("fatal:", "error:"))][:1] or lines[-1:]
        raise LoopError(f"git {arguments[0]} in {directory} ended with {status}: {told[0]}")
    return status, text, err


def credentials(url: str, token: str = "", askpass: str = "") -> tuple[dict[str, str], dict[str, str]]:
    """(environment, config) for ``git()`` that let it in at ``url``, and nowhere else, without argv.

    The token goes as a header bound to the URL's own host, as Basic x-access-token:TOKEN.
    An empty GIT_ASKPASS keeps a repository from naming a program of its own.
    """
    environment = {"GIT_ASKPASS": askpass}
    match = re.match(r"https?://[^/]+/", url)
    if not token or match is None:
        return environment, {}
    basic = base64.b64encode(f"x-access-token:{token}".encode()).decode()
    return environment, {f"http.{match[0]}.extraHeader": f"Authorization: Basic {basic}"}
