# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""git, run so that a repository's own configuration cannot choose what else runs."""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TypedDict, Unpack
from urllib.parse import urlsplit

from ..base.errors import LoopError, TimedOut, certificate
from ..base.untrusted import show

MAX_TOLD = 500
ANY = range(-128, 256)  # whatever status git ends with
MAX_MEMORY = 1024**3  # of a git whose answer is bounded
MAX_WORK = 120  # seconds of a processor, of the same: a few bytes can be made into gigabytes to be hashed
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
MOVED = "; it has moved, and the token does not go along: write the repository's new name"
SECONDS = 120.0  # for a command that asks no other host; one that takes longer hangs, or works on what is damaged

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


def whole_environment(
    environment: Mapping[str, str] | None = None, config: Mapping[str, str] | None = None
) -> dict[str, str]:
    """This process's environment without the variables that would redirect git (GIT_DIR, ...), made safe."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("GIT_") or key.startswith("GIT_SSL_")}
    return {**own, **safe_environment(environment, config)}


def available() -> bool:
    """Whether git can be run here at all: not on a host whose packages are still to come."""
    return shutil.which("git") is not None


class Terms(TypedDict, total=False):
    """What a git gets beside its words, and how much it may."""

    environment: Mapping[str, str] | None
    config: Mapping[str, str] | None
    timeout: float  # seconds
    most: int | None  # bytes that it may say, or write into a file; None for no bound


def git(
    directory: str,
    arguments: Sequence[str],
    *,
    stdin: bytes | int | None = None,
    ok: Sequence[int] = (0,),
    **terms: Unpack[Terms],
) -> tuple[int, str, str]:
    """Run ``git ARGUMENTS`` in ``directory``; (exit status, stdout, stderr), text with surrogates.

    Raises LoopError with git's own reason where the exit status is not in ``ok``, TimedOut after
    ``timeout`` seconds, and then all that git had started is ended. Where ``most`` is given and git has more bytes to
    say or to write than that, which a few objects can make without end, it is LoopError as well. ``stdin`` is what it
    reads, or the descriptor to read from.
    """
    if not os.path.isdir(directory) or not os.access(directory, os.X_OK):
        raise LoopError(f"git {arguments[0]}: {directory} is not a directory that can be entered")
    if not available():
        raise LoopError("the program git is missing on this host; Debian's package is git")
    called = f"git {arguments[0]} in {directory}"
    try:
        status, out, err = _run(directory, arguments, stdin, terms)
    except (OSError, ValueError) as error:  # too many or too long arguments; a NUL in one
        raise LoopError(f"{called} cannot be run: {error}") from error
    if status is None:
        raise TimedOut(f"{called} took longer than {terms.get('timeout', SECONDS):g} s")
    if status == -signal.SIGXCPU:
        raise TimedOut(f"{called} worked for longer than {MAX_WORK} s")
    if status == -signal.SIGXFSZ:
        raise LoopError(f"{called} has more than {terms.get('most')} bytes to say")
    if status not in ok:
        raise LoopError(f"{called} ended with {status}: {_reason(arguments[0], err)}")
    return status, out, err


def _run(
    directory: str, arguments: Sequence[str], stdin: bytes | int | None, terms: Terms
) -> tuple[int | None, str, str]:
    """(exit status, stdout, stderr); the status is None where its time was up. OSError where it cannot be started."""
    most = terms.get("most")
    source = subprocess.DEVNULL if stdin is None else stdin if isinstance(stdin, int) else subprocess.PIPE
    with contextlib.ExitStack() as stack:
        # Only what is written into a file can be bounded.
        sink = None if most is None else stack.enter_context(tempfile.TemporaryFile())
        process = subprocess.Popen(
            [*begun(), "git", *arguments], cwd=directory, start_new_session=True,
            env=whole_environment(terms.get("environment"), terms.get("config")),
            stdin=source, stdout=sink or subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        with ended_after(process, terms.get("timeout", SECONDS)) as late:
            if most is not None:
                _bound(process.pid, most)
            out, err = process.communicate(stdin if isinstance(stdin, bytes) else None)
        if sink:
            sink.seek(0)
            out = b"" if late.is_set() else sink.read()
    text, told = (stream.decode("utf-8", "surrogateescape") for stream in (out, err))
    return None if late.is_set() else process.returncode, text, told


def _reason(command: str, err: str) -> str:
    """Why it failed, of all that it says: what is wrong comes first and advice last."""
    lines = [line for line in err.splitlines() if line.strip()] or ["no message"]
    told = [line for line in lines if line.startswith(("fatal:", "error:"))][:1] or lines[-1:]
    if command == "push":  # that it failed says little: why it was refused is in the remote's own words
        remote = (line.removeprefix("remote:").strip() for line in lines if line.startswith("remote:"))
        told = [f"the remote says: {' '.join(words)}"] if (words := [line for line in remote if line]) else told
    hint = MOVED if re.search(r"returned error: 30[12378]$", told[0]) else ""
    return (certificate(told[0]) or show(told[0], MAX_TOLD)) + hint


@functools.cache
def helpers() -> str:
    """The directory of git's own helpers. To start one directly spares the git that would start it, and outlive us."""
    return git("/", ["--exec-path"])[1].rstrip("\n")


def begun() -> list[str]:
    """What git is started by: however we end, it ends as well.

    A program of util-linux, which every Debian has: where threads are about, nothing of ours may run between fork and
    exec.
    """
    return [] if shutil.which("setpriv") is None else ["setpriv", "--pdeathsig", "KILL"]


def _bound(pid: int, most: int) -> None:
    """From now on it writes no file, holds no memory and works no longer than it may. That began a moment ago."""
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
        resource.prlimit(pid, resource.RLIMIT_DATA, (MAX_MEMORY, MAX_MEMORY))
        resource.prlimit(pid, resource.RLIMIT_CPU, (MAX_WORK, MAX_WORK + 1))  # with its last second it is told


@contextlib.contextmanager
def ended_after(process: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
    """End it, and all that it started, after so many seconds, or with the block; the event tells that it was too late.

    Popen's own limits look whether it has ended and sleep in between, for longer than a small git runs.
    """
    late = threading.Event()

    def stop() -> None:
        if process.returncode is None:
            late.set()
            _kill(process)

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()
        timer.join()  # who forks has one thread
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of it runs any more."""
    if process.returncode is None:
        _kill(process)
        process.communicate()


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def rows(listing: str) -> list[str]:
    """The rows of what git lists. A newline alone ends one: a ref may have in its name what Python takes for an end."""
    return listing.split("\n")[:-1]


def told_refs(listing: str) -> dict[str, str]:
    """The commit of each ref, by its full name, as ``ls-remote`` lists them.

    Look the wanted one up by its full name: asked for ``refs/heads/main``, git answers with every ref whose name
    ends so, ``refs/heads/backup/refs/heads/main`` as well, and sorts that one first.
    """
    pairs = (row.split("\t") for row in rows(listing) if not row.startswith("ref: "))
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2}


def told_branch(listing: str) -> str:
    """The branch that HEAD leads to, as ``ls-remote --symref`` lists it; empty where it leads to none."""
    heads = [row for row in rows(listing) if row.startswith("ref: refs/heads/") and row.endswith("\tHEAD")]
    return heads[0].removeprefix("ref: refs/heads/").removesuffix("\tHEAD") if heads else ""


def credentials(url: str, token: str = "", forge: str = "") -> tuple[dict[str, str], dict[str, str]]:
    """(environment, config) for ``git()`` that let it in at ``url``, and nowhere else, without argv.

    The token goes as a header bound to the URL's own host, as Basic x-access-token:TOKEN, and only if that host is the
    one of ``forge``, where it is known whose token it is. A redirect is not followed then: git would take the header
    along, to any host. An empty GIT_ASKPASS keeps a repository from naming a program of its own.
    LoopError where the token would go over the network in the clear.
    """
    environment = {"GIT_ASKPASS": ""}
    origin = origin_of(url)
    if not token or not origin or (forge and origin_of(forge) != origin):
        return environment, {}
    if origin.startswith("http:") and urlsplit(origin).hostname not in LOOPBACK:
        raise LoopError(f"{show(origin)} would get the token in the clear: use https")
    basic = base64.b64encode(f"x-access-token:{token}".encode()).decode()
    return environment, {
        "http.followRedirects": "false",
        f"http.{origin}/.extraHeader": f"Authorization: Basic {basic}",
    }


def origin_of(url: str) -> str:
    """Scheme, host and port of a web address, as they are written there; empty for every other address."""
    match = re.match(r"(https?://)(?:[^/?#\\\s@]*@)?([^/?#\\\s@]+)(?=/|$)", url)
    return f"{match[1]}{match[2]}".lower() if match else ""
