# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator asks for: an engine's repository, who may have written a version of it, and how it is built."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..base.errors import LoopError
from ..git.remotes import check_engine

PROGRAM = "hyrule-engineering-loop"


def smoke_of(program: str) -> list[str]:
    """How a release whose engine is called so is started once, before it counts."""
    return [f".venv/bin/{program}", "daemon", "--help"]


SMOKE = tuple(smoke_of(PROGRAM))


@dataclass(frozen=True)
class Wanted:
    """The options of the module ``engine_release``; seconds where it says how long."""

    install_dir: str
    repo: str = ""
    branches: Sequence[str] = ()  # patterns; none: the repository's default branch
    keep: int = 3
    python: str = "/usr/bin/python3"
    uv: str = "uv"
    sync: Sequence[str] = ()
    wheels: str = ""
    git_sources: Sequence[str] = ()  # what addresses of git dependencies begin with; none: the owner of ``repo``
    build_tools: Sequence[str] = ()  # lines of requirements, with hashes; none: our own
    smoke: Sequence[str] = SMOKE
    user: str = ""  # whom the smoke command runs as; empty: whoever runs this
    policy: Mapping[str, Any] | None = None  # what gate_policy is asked for once the release is active
    lock_sha256: str = ""
    allowed_signers: str = ""
    keyring: str = ""
    run_lock: str = ""
    unit: str = ""
    wait: float = 0.0  # for a cycle in progress, and for another run
    timeout: float = 1800.0  # of each command of a build
    token: str = field(default="", repr=False)
    git_url: str = ""  # the forge that the token is for; empty where it is the repository's own
    asks: Sequence[Mapping[str, Any]] = ()  # commands whose options are compared, and what they are given
    before_switch: Callable[[], None] | None = None  # called once another release is about to become active

    def check_source(self) -> None:
        """LoopError where nothing can be fetched or compared with what is asked for."""
        check_engine(self.repo)
        if not re.fullmatch(r"([0-9a-f]{64})?", self.lock_sha256):
            raise LoopError(
                f"engineering_loop_lock_sha256 {self.lock_sha256!r} is no SHA-256: 64 lower-case hexadecimal digits"
            )


def check_version(version: str) -> str:
    """``version`` if it is a full commit id; LoopError with what it is instead."""
    if re.fullmatch(r"[0-9a-f]{40}", version):
        return version
    shown = repr(version if len(version) <= 60 else version[:57] + "...")
    if version != version.strip():
        reason = "it has white space or a line break around it"
    elif re.fullmatch(r"[0-9a-fA-F]{40}", version):
        reason = f"it has upper-case letters; write {version.lower()}"
    elif re.fullmatch(r"[0-9a-fA-F]+", version) and 4 <= len(version) < 40:
        reason = f"it has {len(version)} of the 40 characters, and a short one can become ambiguous"
    elif re.fullmatch(r"[0-9a-fA-F]+", version) and len(version) > 40:
        reason = f"it has {len(version)} characters instead of 40"
    elif not version:
        reason = "it is empty"
    else:
        reason = "a branch or tag can move to other code at any time; write the commit that it points to"
    raise LoopError(f"version {shown} is not a full commit id (40 lower-case hexadecimal digits): {reason}")
