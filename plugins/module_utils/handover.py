# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What root hands to a cycle, once: the provider's keys, and which cell it is.

One file in the unit's runtime directory: in memory, readable by the loop's user alone, gone as soon as the cycle has
read it. A person who opens a kept cell gets the same as a credential of systemd's.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from typing import Any, TypeAlias

from .errors import LoopError
from .files import read_bytes
from .users import account

Config: TypeAlias = Mapping[str, Any]
Handed: TypeAlias = dict[str, Any]

NAME = "handover.json"


def place(config: Config) -> str:
    """The file that goes from root to the cycle."""
    directory = os.environ.get("RUNTIME_DIRECTORY") or f"/run/{config['unit']}"
    return f"{directory}/{NAME}"


def give(config: Config, handed: Handed) -> None:
    """As root: leave it for the cycle."""
    path, user = place(config), account(config["user"])
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            os.fchown(descriptor, user.pw_uid, user.pw_gid)
            json.dump(handed, handle)
    except OSError as error:
        raise LoopError(f"{path} cannot be written: {error.strerror}") from error


def take(config: Config) -> Handed:
    """As the cycle: what root has left, once."""
    path = place(config)
    content = read_bytes(path)
    if content is None:
        raise LoopError(f"a cycle gets its secrets from its unit: start it with systemctl start {config['unit']}")
    os.unlink(path)
    handed: Handed = json.loads(content)
    return handed
