# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pinned engine, built and active, or gone back from."""

from __future__ import annotations

import functools
from typing import Any

from ..base.errors import LoopError
from ..base.untrusted import show, shown
from ..forge import tokens
from ..proof import rollout
from ..release import releases
from ..release.wanted_version import SMOKE, Wanted
from .outcome import Done, How, Json

OPTIONS: dict[str, Any] = {
    "state": {"type": "str", "choices": ["present", "previous", "absent"], "default": "present"},
    "repo": {"type": "str"},
    "version": {"type": "str"},
    "branches": {"type": "list", "elements": "str", "default": []},
    "install_dir": {"type": "path", "default": "/opt/engineering-loop"},
    "keep": {"type": "int", "default": 3},
    "python": {"type": "path", "default": "/usr/bin/python3"},
    "uv": {"type": "str", "default": "uv"},
    "sync": {"type": "list", "elements": "str", "default": []},
    "wheels": {"type": "path"},
    "git_sources": {"type": "list", "elements": "str", "default": []},
    "build_tools": {"type": "list", "elements": "str", "default": []},
    "smoke": {"type": "list", "elements": "str", "default": list(SMOKE)},
    "user": {"type": "str"},
    "policy": {
        "type": "dict",
        "options": {
            "base": {"type": "str", "default": "engineering-loop-policy.yml"},
            "overlay": {"type": "dict", "default": {}},
            "handoff_dirs": {"type": "list", "elements": "str", "default": []},
            "widen": {"type": "list", "elements": "str", "default": []},
        },
    },
    "asks": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "command": {"type": "list", "elements": "str", "required": True},
            "given": {"type": "list", "elements": "str", "default": []},
        },
    },
    "lock_sha256": {"type": "str"},
    "allowed_signers": {"type": "path"},
    "keyring": {"type": "path"},
    "run_lock": {"type": "path"},
    "unit": {"type": "str", "default": "hyrule-engineering-loop"},
    "wait": {"type": "float", "default": 0},
    "timeout": {"type": "float", "default": 1800},
    "env_file": {"type": "path"},
    "hold": {"type": "path"},
    "git_url": {"type": "str", "default": ""},
    "github_app": tokens.OPTION,
}


def bring(given: Json, how: How) -> Done:
    """Have the version active, or what else ``state`` asks for; as the module ``engine_release`` has its options."""
    params = dict(given)
    state, version = params.pop("state"), params.pop("version")
    env_file, app = params.pop("env_file"), params.pop("github_app")
    try:
        # Check mode reads files alone, also on a host that has nothing yet to ask a forge with.
        secret = "" if how.check else tokens.token_for(env_file, app)
        wanted_of = {key: value for key, value in params.items() if value is not None}
        hold = functools.partial(rollout.begin, wanted_of.pop("hold")) if "hold" in wanted_of else None
        wanted = Wanted(token=secret, before_switch=hold, **wanted_of)
        if state == "present":
            result = releases.present(wanted, version, check=how.check)
        elif state == "previous":
            result = releases.previous(wanted, check=how.check)
        else:
            result = releases.absent(wanted, check=how.check)
    except OSError as error:
        at = show(error.filename or params["install_dir"])
        raise LoopError(f"{at}: {error.strerror}; nothing was switched") from error
    result = shown(result)
    told, damaged = [], result["damaged"]
    if damaged:
        told = [f"{len(damaged)} files of the release had been changed by hand: {damaged[:5]}"]
    if how.diff:
        result["diff"] = {"before": _line(result["previous"]), "after": _line(result["release"])}
    return Done(result, told)


def _line(release: dict[str, str] | None) -> str:
    return f"active: {release['sha'] if release else 'none'}\n"
