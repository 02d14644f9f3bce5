# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every stage is asked and what it answers with, and a module that is one stage."""

from __future__ import annotations

import ast
import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeAlias

from ..base.errors import LoopError
from ..host import apply_run

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


class StageFailed(LoopError):
    """A stage that failed, and what there is to be returned all the same."""

    def __init__(self, message: str, result: Json) -> None:
        super().__init__(message)
        self.result = result


Bring: TypeAlias = Callable[[Json, How], Done]
# The option by which a module of an apply knows of which it is a step.
STEP: dict[str, Any] = {"run": {"type": "dict", "options": apply_run.OPTIONS}}


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
        found = done(module.params, bring, How(module.check_mode, module._diff))
    except LoopError as error:
        module.fail_json(**failed(error))
    for line in found.warnings:
        module.warn(line)
    module.exit_json(**found.result)


def done(params: Mapping[str, Any], bring: Bring, how: How) -> Done:
    """What the stage did with these options, as a step of its apply."""
    given = dict(params)
    with apply_run.step(given.pop("run", None), check=how.check):
        return bring(given, how)


def failed(error: LoopError) -> Json:
    """What a stage answers that ended so."""
    return {"msg": str(error), **(error.result if isinstance(error, StageFailed) else {})}


def answer(result: Json, warnings: Sequence[str], options: Mapping[str, Any], wanted: Json) -> str:
    """JSON of what a stage did, without the values of the options that no log may have."""
    values = {one for name, option in options.items() if option.get("no_log") for one in _texts(wanted[name])}
    # What is no longer than a number or a switch is no secret, and would be found in what is none.
    secrets = sorted((one for one in values if len(one) > 3 and one not in ("true", "false")), key=len, reverse=True)
    return json.dumps(_hidden({"result": result, "warnings": [*warnings]}, secrets))


def _hidden(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "********")
        return value
    if isinstance(value, dict):
        return {_hidden(name, secrets): _hidden(one, secrets) for name, one in value.items()}
    return [_hidden(one, secrets) for one in value] if isinstance(value, (list, tuple)) else value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value:
        yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(one)


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "path": (str,),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "list": (list,),
    "dict": (dict,),
    "raw": (object,),
}


def filled(options: Mapping[str, Any], given: Mapping[str, Any]) -> Json:
    """Options as a module takes them, with its defaults, where Ansible's own judge of them is not at hand.

    What a template wrote as text is read as the list or dictionary that it is; nothing else is converted. LoopError
    where one is unknown, missing or of another type.
    """
    unknown = [name for name in given if name not in options]
    if unknown:
        raise LoopError(f"{unknown[0]}: an unknown option")
    found: Json = {}
    for name, option in options.items():
        value: Any = given.get(name)
        if value is None:
            value = option.get("default")
            if value is None and option.get("required"):
                raise LoopError(f"{name}: missing")
        elif not isinstance(value := _read(value, option["type"]), _TYPES[option["type"]]):
            raise LoopError(f"{name}: found {value!r}, allowed: {option['type']}")
        elif value not in option.get("choices", [value]):
            raise LoopError(f"{name}: found {value!r}, allowed: {', '.join(option['choices'])}")
        if value is not None and "options" in option:
            each = [filled(option["options"], one) for one in (value if option["type"] == "list" else [value])]
            for one in each:
                _check_needed(one, option.get("required_if", []))
            value = each if option["type"] == "list" else each[0]
        found[name] = value
    return found


def _check_needed(given: Json, needed: Iterable[tuple[str, object, list[str]]]) -> None:
    for name, value, others in needed:
        lacking = [other for other in others if given[name] == value and given[other] is None]
        if lacking:
            raise LoopError(f"{lacking[0]}: missing, as {name} is {value}")


def _read(value: Any, kind: str) -> Any:
    """A list or dictionary that is wanted, from its text."""
    if kind in ("list", "dict") and isinstance(value, str):
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            return ast.literal_eval(value)
    return value
