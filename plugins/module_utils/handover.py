# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What root does around a cycle, which itself runs as the loop user: secrets before it, the count after it.

``loop prepare`` reads the file with the secrets, mints the App's token with a key that the loop user
cannot read, counts the run, and leaves all that the cycle needs in one file in the unit's runtime
directory: in memory, readable by the loop user alone, and gone as soon as the cycle has read it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any, TypeAlias

from . import budget, env_file, github_app, settings
from .errors import LoopError
from .files import read_bytes
from .users import account

Config: TypeAlias = Mapping[str, Any]
Handed: TypeAlias = dict[str, Any]

# Exit statuses of a cycle that started no run, so that does not count: nothing to do, and refused.
NOTHING_DONE, REFUSED = 10, 4
SYSTEMDS_OWN = 200  # from here on systemd itself says that it could not start the program


def trigger() -> str:
    """Who started the unit, as far as systemd knows."""
    return "timer" if os.environ.get("TRIGGER_UNIT", "").endswith(".timer") else "manual"


def place(config: Config) -> str:
    """The file that goes from root to the cycle."""
    directory = os.environ.get("RUNTIME_DIRECTORY") or f"/run/{config['unit']}"
    return f"{directory}/handover.json"


def prepare(config_path: str = settings.DEFAULT_PATH) -> int:
    """As root, before a cycle. What speaks against it is handed over as well, for the cycle's account."""
    try:
        config = settings.load(config_path)
        _give(config, _prepared(config))
    except LoopError as error:
        sys.stdout.write(f"cycle refused: {error}\n")
        return REFUSED
    return 0


def _prepared(config: Config) -> Handed:
    handed: Handed = {"refused": "", "over_budget": "", "environment": {}, "token": "", "token_kind": "", "budget": {}}
    try:
        handed["over_budget"] = budget.exhausted(config)
        handed["budget"] = _figures(budget.today(config))
        if handed["over_budget"]:
            return handed
        environment = read_secrets(config)
        token = github_app.forge_token(config["github_app"], environment, config["api_url"], config["env_file"])
        handed["budget"] = _figures(budget.take(config, os.environ.get("INVOCATION_ID", ""), trigger()))
    except LoopError as error:
        handed["refused"] = str(error)
        return handed
    except Exception as error:  # noqa: BLE001 - the account must tell of anything
        traceback.print_exc()
        handed["refused"] = f"the secrets could not be prepared ({type(error).__name__}), see the journal"
        return handed
    if token.note:
        sys.stdout.write(f"{token.note}\n")
    ours = {key for key in environment if key in github_app.TOKEN_KEYS or key.startswith(github_app.PREFIX)}
    handed["environment"] = {key: value for key, value in environment.items() if key not in ours}
    handed.update(token=token.token, token_kind=token.kind, token_note=token.note, token_expires=token.expires_at)
    return handed


def read_secrets(config: Config) -> dict[str, str]:
    """The variables of the host's file with the secrets, fit to be used."""
    path = config["env_file"]
    parent = os.path.dirname(os.path.realpath(path))
    with contextlib.suppress(OSError):
        status = os.stat(parent)
        if status.st_uid != 0 or (status.st_mode & 0o022 and not status.st_mode & 0o1000):
            raise LoopError(f"{parent} can be written by others than root, so {path} could be another's: chown it")
    return env_file.load(path, config["forbidden_environment"])


def _figures(day: budget.Day) -> Handed:
    return {"runs_today": len(day["runs"]), "started_today": day["started"], "max_runs": day["max"]}


def _give(config: Config, handed: Handed) -> None:
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


def settle(config_path: str = settings.DEFAULT_PATH) -> int:
    """As root, when all of the cycle has ended: a cycle that started no run does not count for the day.

    Decided by what systemd saw, not by a file that the loop user, so the agent, could write.
    """
    code, status = os.environ.get("EXIT_CODE", ""), os.environ.get("EXIT_STATUS", "")
    began = code not in ("", "exited") or (code == "exited" and status.isdecimal() and _started_a_run(int(status)))
    try:
        if not began:
            budget.give_back(settings.load(config_path), os.environ.get("INVOCATION_ID", ""))
    except LoopError as error:
        sys.stdout.write(f"the count of the day's runs was not corrected: {error}\n")
    return 0


def _started_a_run(status: int) -> bool:
    return status not in (NOTHING_DONE, REFUSED) and status < SYSTEMDS_OWN
