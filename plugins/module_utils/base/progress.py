# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a module does right now, a line each, in a new file that only root reads: for whoever looks on meanwhile.

Whoever starts the module names the file in the environment, reads it as it grows, and shows it. Without a name nothing
is written. Nothing is ever decided by what stands there, and a secret is never said.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Callable

from .errors import LoopError
from .untrusted import show

# Where the file is to be; an absolute path at which nothing stands.
VARIABLE = "ENGINEERING_LOOP_PROGRESS"
MAX_LINE = 2000  # characters: a line of a journal may be as long as an agent wants

_handle: int | None = None
_last = ""


def step(line: str) -> None:
    """Say what begins now, as ``cloning AS215932/hyrule-web``. Never fails, and costs nothing where nobody looks on."""
    global _handle, _last
    path = os.environ.pop(VARIABLE, None)  # programs that are started need not know of it
    if path:
        with contextlib.suppress(OSError):
            # Kept open: a child that has given root up, and may not open it, says its steps as well.
            _handle = _new_file(path)
            atexit.register(_remove, path, os.getpid())
    if _handle is not None and line != _last:  # whoever waits says it again and again
        _last = line
        with contextlib.suppress(OSError):  # a full disk ends the showing, not the work
            os.write(_handle, _line(line))


def writer(path: str) -> Callable[[str], object]:
    """What appends lines to a new file at ``path``, which whoever asked for it removes. LoopError where it cannot be.

    Each line opens the file again: where it was removed, nobody looks on any more.
    """
    try:
        os.close(_new_file(path))
    except FileExistsError:
        raise LoopError(f"{path} is there already: progress must be a new file") from None
    except OSError as error:
        raise LoopError(f"{path} cannot be written: {error.strerror}") from error

    def say(line: str) -> None:
        with contextlib.suppress(OSError), os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as progress:
            progress.write(_line(line))

    return say


def _new_file(path: str) -> int:
    """For its owner alone: what stands there already is not ours."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _line(text: str) -> bytes:
    """One line, by which no terminal is told what to do: an agent may have written it."""
    return (show(text.expandtabs(), MAX_LINE) + "\n").encode("utf-8", "replace")


def _remove(path: str, pid: int) -> None:
    if os.getpid() == pid:  # not a child's
        with contextlib.suppress(OSError):
            os.unlink(path)
