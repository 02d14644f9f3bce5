# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may ask the gateway, and whose turn it is.

Root opens a session for the unit that may ask: a cycle's, or that of a person in a kept cell. One push goes on at a
time, and root can wait for its end.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from ..base import untrusted
from ..base.errors import LoopError
from ..base.files import flocked, read_bytes, write_atomic
from ..host.settings import Settings

Json: TypeAlias = dict[str, Any]

MAX_SESSION = 1024 * 1024  # of a thousand issues that were tried before


def directory(config: Settings) -> str:
    """Where socket and sessions are: root's."""
    return f"/run/{config.unit}-gate"


def socket_of(config: Settings) -> str:
    """The gateway's socket."""
    return f"{directory(config)}/socket"


def _session(config: Settings, unit: str) -> str:
    return f"{directory(config)}/sessions/{unit}.json"


def open_session(
    config: Settings,
    unit: str,
    cycle: str,
    *,
    bound: bool = True,
    counts: Mapping[str, Json] | None = None,
    may: Sequence[str] | None = None,
) -> None:
    """As root: from now on the processes of ``unit`` may ask, as the cycle of that name.

    ``bound`` is whether it may only work on the issue that it took; a person decides that for themselves. ``counts`` is
    what root knows of issues that were tried before, as ``attempts.for_gateway`` has it. ``may`` are the rights of a
    job beside the cycle, in the place of a cycle's own.
    """
    path = _session(config, unit)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.chmod(os.path.dirname(path), 0o755)  # whatever the umask
    except OSError as error:
        raise LoopError(f"{path} cannot be made: {error.strerror}") from error
    session: Json = {"cycle": cycle, "bound": bound, "counts": dict(counts or {})}
    if may is not None:
        session["may"] = [*may]
    write_atomic(path, json.dumps(session).encode(), mode=0o644)


def close_session(config: Settings, unit: str) -> None:
    """As root: nobody in ``unit`` may ask any more."""
    with contextlib.suppress(OSError):
        os.unlink(_session(config, unit))


def session_of(config: Settings, unit: str) -> Json:
    """The session of ``unit``: ``{cycle, bound, counts}``. LoopError where it has none."""
    content = read_bytes(_session(config, unit), MAX_SESSION) if re.fullmatch(r"[\w@.:-]+\.service", unit) else None
    if content is None:
        raise LoopError("no cycle is running")
    return untrusted.parse(content, "the session")


def listing(config: Settings) -> list[str]:
    """The units that may ask now."""
    with contextlib.suppress(OSError):
        names = os.listdir(f"{directory(config)}/sessions")
        return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))
    return []


@contextlib.contextmanager
def turn(config: Settings) -> Iterator[None]:
    """As the gateway: one push at a time."""
    with flocked(_turn(config)):
        yield


def quiet(config: Settings, seconds: float) -> bool:
    """As root: wait for the end of a push that is on its way; whether it has ended."""
    deadline = time.monotonic() + seconds
    while os.path.lexists(_turn(config)):
        with flocked(_turn(config), wait=False) as ours:
            if ours:
                break
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _turn(config: Settings) -> str:
    return f"{config.gate_dir}/.turn"
