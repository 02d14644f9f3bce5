# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every stage is asked and what it answers with, and a module that is one stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeAlias

from ..base.errors import LoopError

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class How:
    """Whether anything may be changed, and whether the difference is wanted."""

    check: bool = False
    diff: bool = False


@dataclass(frozen=True)
class Done:
    """What a stage did, or with ``How.check`` would do; ``result`` has ``changed``."""

    result: Json
    warnings: Sequence[str] = ()


class Failed(LoopError):
    """A stage that failed, and what there is to be returned all the same."""

    def __init__(self, message: str, result: Json) -> None:
        super().__init__(message)
        self.result = result


Bring: TypeAlias = Callable[[Json, How], Done]


class Module(Protocol):
    """What is needed of an AnsibleModule."""

    params: Json
    check_mode: bool
    _diff: bool
    ansible_version: str

    def warn(self, warning: str) -> None: ...
    def exit_json(self, **result: Any) -> NoReturn: ...
    def fail_json(self, msg: str, **result: Any) -> NoReturn: ...


def run(module: Module, bring: Bring, begin: Callable[[str], None]) -> NoReturn:
    """The whole of a module that is one stage, and that has begun with ``habits``."""
    try:
        begin(module.ansible_version)
        done = bring(dict(module.params), How(module.check_mode, module._diff))
    except LoopError as error:
        module.fail_json(msg=str(error), **(error.result if isinstance(error, Failed) else {}))
    for line in done.warnings:
        module.warn(line)
    module.exit_json(**done.result)
