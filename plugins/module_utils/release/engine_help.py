# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a release says of itself: the options that ``PROGRAM SUBCOMMAND --help`` names."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence

from ..base.errors import LoopError
from ..host import programs
from . import shut_in

SECONDS = 120.0
MAX_BYTES = 1024 * 1024  # of what it may say
# A line of an option begins with it, below a heading: no deeper than this, where only its help goes on. Some frame it.
_LINE = re.compile(r"^[\s│|]{0,8}(-{1,2}[A-Za-z0-9\[].*)")
_OPTION = re.compile(r"(?<![\w-])--(?:\[no-\])?([A-Za-z0-9][\w-]*)")


def options_of(help_text: str) -> frozenset[str]:
    """The long options that a program's help offers; what its prose happens to mention is none of them.

    Those in the usage count, and those that begin a line, with their other spellings, up to where their help begins.
    """
    usage = re.search(r"(?is)^usage:.*?(?=\n[ \t]*\n|\Z)", help_text, re.MULTILINE)
    parts = [usage[0]] if usage else []
    for line in help_text.splitlines():
        if found := _LINE.match(line):
            parts.append(re.split(r"\s{2,}", found[1])[0])
    return frozenset(f"--{name}" for part in parts for name in _OPTION.findall(part))


def help_of(release: str, command: Sequence[str], user: str = "") -> str | None:
    """What the release in that directory says to ``COMMAND --help``; None where it does not know that command.

    ``command`` is a program of the release by its name, and the words that choose what it does. It is started shut in,
    as ``user`` where this is root: no network, none of the host's files but the programs, and nothing that it leaves
    stays. LoopError where it cannot be asked.
    """
    program = f"{release}/.venv/bin/{command[0]}"
    # prlimit: it may not have without end to say either.
    words = ["prlimit", f"--fsize={MAX_BYTES}", "--", *shut_in.words(release), program, *command[1:], "--help"]
    environment = {**shut_in.ENVIRONMENT, "COLUMNS": "200"}
    try:
        done = programs.run(words, SECONDS, cwd=release, environment=environment, user=user)
    except OSError as error:
        raise LoopError(f"the engine in {release} cannot be asked for its options: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None
