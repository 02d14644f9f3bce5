# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps of a build: one program after the other, each with what it may know of its caller."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence

from ..base.errors import LoopError
from ..host import programs
from .wanted_version import Wanted

# What a build may see of the caller's environment: indexes, certificates and proxies, no secrets of the loop, and
# nothing that leads an installation elsewhere.
PASSED_ON = re.compile(
    r"(UV|PIP)_(\w*INDEX\w*|FIND_LINKS|\w+_HOST|\w*CERTS?|NATIVE_TLS|KEYRING_PROVIDER|PROXY|CONFIG_FILE|OFFLINE"
    r"|\w*TIMEOUT|\w*RETRIES|CONCURRENT_\w+)"
    r"|SSL_CERT_\w+|(http|https|no|all)_proxy|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|HOME|TMPDIR",
    re.IGNORECASE,
)


def environment_of(wanted: Wanted) -> dict[str, str]:
    """For the build: what the host says about indexes and certificates, no more; nothing downloads a Python."""
    passed = {key: value for key, value in os.environ.items() if PASSED_ON.fullmatch(key)}
    cache = os.path.join(wanted.install_dir, "cache")
    return {
        "UV_SYSTEM_CERTS": "1",
        "LANG": "C.UTF-8",
        **passed,
        "PATH": os.pathsep.join(filter(None, [os.path.dirname(wanted.uv), os.environ.get("PATH", os.defpath)])),
        "UV_PYTHON": wanted.python,
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_PROJECT_ENVIRONMENT": ".venv",
        "UV_NO_PROGRESS": "1",
        "UV_CACHE_DIR": os.path.join(cache, "uv"),
        "PIP_CACHE_DIR": os.path.join(cache, "pip"),
        # A hard link into the cache would make the cache read-only, and a change by hand poison it.
        "UV_LINK_MODE": "copy",
    }


def run(
    wanted: Wanted,
    command: Sequence[str],
    path: str,
    environment: Mapping[str, str] | None = None,
    user: str = "",
    within: Sequence[str] = (),
) -> None:
    """Run one step of a build in ``path``, ``within`` a sandbox. LoopError with the last words of what failed."""
    program = os.path.join(path, command[0]) if command[0].startswith(".") else command[0]
    whole = [*within, program, *command[1:]]
    try:
        environment = environment or environment_of(wanted)
        done = programs.run(whole, wanted.timeout, cwd=path, environment=environment, user=user)
    except OSError as error:
        raise LoopError(f"{[*within, *command][0]} cannot be started: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise LoopError(f"`{' '.join(command)}` took longer than {wanted.timeout:g} s") from None
    if done.returncode:
        words = programs.last_words(done.stdout + done.stderr)
        raise LoopError(f"`{' '.join(command)}` ended with {done.returncode}: {words}")
