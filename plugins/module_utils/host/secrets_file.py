# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file with the secrets: read as systemd reads an EnvironmentFile, refused where that would go wrong.

systemd passes over a line that it cannot read and starts the service without it. Here such a line is
an error. No message ever holds a value, but of a path.

Another program may render the file again at any time. What counts is who can have written it: root alone. Who else
may read it is told, and is no reason to stop a cycle that does not see it.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Iterable, Mapping

from ..base.errors import LoopError
from ..base.files import read_bytes
from . import renderers
from .users import whose

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
LIMIT = 1 << 20
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
BETWEEN = re.compile(r"(?:[ \t\r\n]+|[#;][^\r\n]*)*")
# How the network is reached: for everything that a cycle starts. All else in the file is for the engine,
# and for the agent as far as the engine hands it on.
NETWORK = re.compile(
    r"(?i)[a-z]+_proxy|ssl_cert_(file|dir)|(requests|curl)_ca_bundle|git_ssl_\w+|node_(extra_ca_certs|use_env_proxy)"
)
# Set by the loop itself in every cycle, so without effect here: where work is, what git does, which forge is asked.
OURS = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|PWD|TMPDIR|LC_ALL|XDG_\w+|PYTHON\w+|BASH_ENV|ENV|GIT_(?!SSL_)\w+|GH_(?!TOKEN)\w+"
    r"|GITHUB_\w+|HYRULE_(POLICY_FILE|HANDOFF_DIR|MEMORY_DIR|WORKSPACE_ROOT)"
    r"|ENGINEERING_LOOP_(SETTINGS|GATEWAY)"
)
# What of the rest may be told: it says how something is reached or done, and lets nobody in.
TOLD = re.compile(r"(?i).*_(id|mode|user|check|(api|base)_url|path|file|files|dir|bundle|certs?)")
# What no loop host has a use for, and why.
STRAY = {
    "GITHUB_ACTIONS": "the engine takes the host for a CI runner and refuses to run",
    "HYRULE_MOCK_GITHUB_PR_URL": "the engine reports that address and opens no pull request",
}
SHAPES = {
    "plain": re.compile(r"((?:[^\\\n]|\\.)*)(\n|\Z)", re.DOTALL),
    "'": re.compile(r"'([^']*)'"),
    '"': re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL),
}


def load(path: str, forbidden: Iterable[str]) -> dict[str, str]:
    """The variables of the file; LoopError where it is missing, malformed or could be another's."""
    found = _variables(path, secret(path))
    check(found, forbidden, path)
    return found


def read(path: str) -> dict[str, str]:
    """The variables of the file, whosever it is."""
    return _variables(path, read_bytes(os.path.realpath(path), LIMIT))


def _variables(path: str, content: bytes | None) -> dict[str, str]:
    if content is None:
        raise LoopError(
            f"{path} is missing: it must hold the secrets of the loop, one KEY=value per line"
            " (engineering_loop_env_file names it, or set engineering_loop_environment). On the host,"
            f" {renderers.awaited(path)}; then run this again"
        )
    try:
        return parse(content.decode(), path)
    except UnicodeDecodeError:
        raise LoopError(f"{path} is not UTF-8 text") from None


def check(names: Iterable[str], forbidden: Iterable[str], where: str) -> None:
    """Refuse variables that must not be among the secrets. LoopError names them."""
    names = list(names)
    bad = refused(names, forbidden)
    if bad:
        raise LoopError(
            f"{where} holds {', '.join(bad)}, which must not be where generated code runs: remove it there "
            "(engineering_loop_forbidden_environment)"
        )
    for name in STRAY:
        if name in names:
            raise LoopError(f"{where} holds {name}, with which {STRAY[name]}: remove it there")


def secret(path: str, what: str = "", limit: int = LIMIT) -> bytes | None:
    """The content of a file with a secret that only root can have written; None where nothing stands there."""
    if not os.path.lexists(path):
        return None
    real, uid = whose(path)
    content = read_bytes(real, limit)
    named = f"{what}{path}"
    mode = stat.S_IMODE(os.stat(real).st_mode)
    if uid != 0:
        raise LoopError(f"{named} belongs to uid {uid} and must belong to root: {mend(path)}")
    if mode & 0o022:
        raise LoopError(f"{named} can be written by others than root (mode {mode:04o}): {mend(path)}")
    return content


def loose(path: str) -> int:
    """The mode of a file that others than root may read; 0 where none may."""
    status = os.stat(path)
    others = 0o007 if status.st_gid == 0 else 0o077
    return stat.S_IMODE(status.st_mode) if status.st_mode & others else 0


def mend(path: str) -> str:
    """What to do so that only root can read it, also when it is rendered again."""
    return (
        f'in its template stanza of Vault Agent, which must run as root, say perms = "0600", with no chgrp or chmod in'
        f" the command; where nothing renders it again: chown root:root {path}; chmod 0600 {path}"
    )


def without_ours(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables without those that the loop sets itself."""
    return {name: value for name, value in environment.items() if not OURS.fullmatch(name)}


def network(environment: Mapping[str, str]) -> dict[str, str]:
    """Those of the variables that say how the network is reached."""
    return {name: value for name, value in environment.items() if NETWORK.fullmatch(name)}


def confidential(environment: Mapping[str, str]) -> list[str]:
    """The values that nobody but the loop should read: all but paths, ids and how the network is reached."""
    kept = {name: value for name, value in environment.items() if not (NETWORK.fullmatch(name) or TOLD.fullmatch(name))}
    return sorted({value for value in kept.values() if not value.startswith("/")})


def refused(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Those of ``names`` that one of the shell patterns matches, upper or lower case."""
    patterns = [pattern.upper() for pattern in patterns]
    return sorted(name for name in names if any(fnmatch.fnmatchcase(name.upper(), one) for one in patterns))


def parse(text: str, path: str) -> dict[str, str]:
    """Variable -> value, the last one counting; quotes, escapes and comments are systemd's."""
    found: dict[str, str] = {}
    place = 0
    while True:
        place = _skip(text, place)
        if place >= len(text):
            return found
        where = f"{path}, line {text.count(chr(10), 0, place) + 1}"
        line = text[place:].split("\n", 1)[0]
        name, equals, _value = line.partition("=")
        name = name.rstrip()
        if not equals:
            raise LoopError(f"{where}: no KEY=value")
        if not NAME.fullmatch(name):
            raise LoopError(f"{where}: what stands before the = is not a name of letters, digits and _")
        value, place = _value_at(text, place + line.index("=") + 1, f"{where}: the value of {name}")
        if CONTROL.search(value):
            raise LoopError(f"{where}: the value of {name} has a control character in it")
        found[name] = value


def _skip(text: str, place: int) -> int:
    """Past white space and comments."""
    match = BETWEEN.match(text, place)
    return match.end() if match else place


def _value_at(text: str, place: int, what: str) -> tuple[str, int]:
    """One value, which may consist of several quoted parts; and where it ends."""
    value = ""
    while True:
        while place < len(text) and text[place] in " \t\r":
            place += 1
        if place >= len(text) or text[place] == "\n":
            return value, place
        quote = text[place]
        if quote not in "'\"":
            match = SHAPES["plain"].match(text, place)
            if match is None:
                raise LoopError(f"{what} ends with a lone backslash")
            plain = match[1]
            # An escaped blank at the end is meant to stay.
            kept = re.sub(r"(?<!\\)[ \t\r]+\Z", "", plain)
            return value + re.sub(r"\\(.)", _unescaped, kept, flags=re.DOTALL), match.end()
        match = SHAPES[quote].match(text, place)
        if match is None:
            raise LoopError(f"{what} has a quote that is not closed")
        inner = match[1]
        value += inner if quote == "'" else re.sub(r"\\(.)", _unescaped_in_quotes, inner, flags=re.DOTALL)
        place = match.end()


def _unescaped(match: re.Match[str]) -> str:
    return "" if match[1] == "\n" else match[1]


def _unescaped_in_quotes(match: re.Match[str]) -> str:
    return "" if match[1] == "\n" else match[1] if match[1] in '"\\`$' else match[0]
