# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What lets the gateway in at the forge: brought by root when it starts, minted when it is needed, known to it alone.

Root reads the file that the host's secret store renders and hands on what is the forge's, nothing of a provider. It
lies in the gateway's runtime directory, in memory, and goes when the gateway ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from datetime import UTC, datetime
from typing import Any

from ..base.clock import moment_of
from ..base.errors import LoopError
from ..base.files import read_bytes, write_atomic
from ..base.journal import say
from ..forge import tokens
from ..host import secrets_file, settings
from ..host.settings import Settings
from ..host.users import account

HANDED, MINTED = "access.json", "minted.json"
# A token is minted anew when it lives for less than this: longer than a push or a refresh takes.
SPARE_SECONDS = 900.0
NAMES = tuple(one.name for one in dataclasses.fields(tokens.App))


def directory(config: Settings) -> str:
    """The gateway's runtime directory, which no other user can enter."""
    return os.environ.get("RUNTIME_DIRECTORY") or f"/run/{config.unit}-gate-secrets"


def bring(config_path: str = settings.DEFAULT_PATH) -> int:
    """``loop access``, as root before the gateway starts. What is wrong is brought as well: it is told to who asks."""
    config = settings.load(config_path)
    handed: dict[str, Any] = {"problem": "", "environment": {}, "app": None, "token": ""}
    environment: dict[str, str] = {}
    try:
        environment = secrets_file.load(config.env_file, config.forbidden_environment)
        handed["environment"] = secrets_file.network(environment)
        app = tokens.app_of(config.github_app, environment, config.api_url)
        if app is not None:
            handed["app"] = {**dataclasses.asdict(app), "key": tokens.key_of(app).decode("ascii", "replace")}
    except LoopError as error:
        handed["problem"] = str(error)
    handed["token"] = tokens.break_glass_token(environment)
    owner = account(config.gate_user)
    content = json.dumps(handed).encode()
    write_atomic(f"{directory(config)}/{HANDED}", content, mode=0o400, uid=owner.pw_uid, gid=owner.pw_gid)
    return 0


def take(config: Settings) -> None:
    """As the gateway, once: the network's variables (proxies, certificates) are for all that it starts."""
    os.environ.update({key: str(value) for key, value in _handed(config)["environment"].items()})


def _handed(config: Settings) -> dict[str, Any]:
    content = read_bytes(f"{directory(config)}/{HANDED}")
    if content is None:
        raise LoopError(f"the gateway was not given access to the forge: systemctl restart {config.unit}-gate.service")
    found: dict[str, Any] = json.loads(content)
    return found


def token(config: Settings) -> tokens.Token:
    """The forge token: the App's, kept until shortly before it expires; else the break-glass one."""
    kept = _minted(config)
    if kept is not None:
        return kept
    handed = _handed(config)

    def find() -> tokens.App | None:
        if handed["problem"]:
            raise LoopError(handed["problem"])
        return tokens.App(**{name: handed["app"][name] for name in NAMES}) if handed["app"] else None

    made = tokens.choose(
        find, lambda app: tokens.mint(app, handed["app"]["key"].encode()), handed["token"], config.env_file
    )
    if made.note:
        say(f"{made.note}\n")
    if made.kind == "app":
        write_atomic(f"{directory(config)}/{MINTED}", json.dumps(dataclasses.asdict(made)).encode(), mode=0o400)
    return made


def _minted(config: Settings) -> tokens.Token | None:
    with contextlib.suppress(LoopError, ValueError, TypeError, KeyError):
        kept = tokens.Token(**json.loads(read_bytes(f"{directory(config)}/{MINTED}") or b""))
        ends = moment_of(kept.expires_at)
        if (ends - datetime.now(UTC)).total_seconds() > SPARE_SECONDS:
            return kept
    return None
