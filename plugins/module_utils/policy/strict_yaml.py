# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""YAML read strictly: mappings, lists, strings, whole numbers, true and false, and nothing that expands or repeats."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..base.errors import LoopError, MissingLibrary, printable

try:
    import yaml
except ImportError:  # a fresh host, before the role's packages are there
    yaml = None  # type: ignore[assignment]

HAS_YAML = yaml is not None
_RESOLVER: Any = yaml.resolver.Resolver() if HAS_YAML else None
MAX_DEPTH = 5


def parse(content: bytes, source: str) -> tuple[Any, dict[str, int]]:
    """The data of the one document in ``content``, and the line (from 1) of each key path in it.

    Anchors, aliases, tags, duplicate keys and a second document are LoopError, which names ``source`` and the line.
    """
    if not HAS_YAML:
        raise MissingLibrary("PyYAML", "python3-yaml")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise LoopError(f"{source}: line {line}: byte 0x{content[error.start]:02x} is not UTF-8") from error
    try:
        return _build(text, source)
    except yaml.YAMLError as error:
        raise LoopError(f"{source}: {_yaml_reason(error)}") from error
    except (ValueError, OverflowError) as error:  # PyYAML's own, for "\\U00110000"
        raise LoopError(f"{source}: no YAML: an escape names a character that does not exist") from error


def _yaml_reason(error: Exception) -> str:
    """Where and what, in one line, of the several that PyYAML has."""
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return printable(f"line {mark.line + 1}: {reason}" if mark else f"no YAML: {reason}")


@dataclass
class _Open:
    """A container that is being read, and the key that waits for its value."""

    value: Any
    path: str
    key: str | None = None


def _build(text: str, source: str) -> tuple[Any, dict[str, int]]:
    """Data from the parser's events, with a stack of our own: nothing here recurses or expands."""
    lines: dict[str, int] = {}
    top: list[Any] = []
    stack = [_Open(top, "")]
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            stack.pop()
        elif isinstance(event, yaml.NodeEvent):
            try:
                _take(event, stack, lines)
            except LoopError as error:
                raise LoopError(f"{source}: {error}") from error
        elif isinstance(event, yaml.DocumentStartEvent) and top:
            raise LoopError(f"{source}: line {_line(event)}: a second document begins; a policy is one")
    return (top[0] if top else None), lines


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _take(event: Any, stack: list[_Open], lines: dict[str, int]) -> None:
    """One node: a key that waits for its value, or a value put where it belongs."""
    here = stack[-1]
    line = _line(event)
    names = isinstance(here.value, dict) and here.key is None
    path = here.path if names else _join(here, here.key if isinstance(here.value, dict) else len(here.value))

    def refuse(where: str, reason: str) -> LoopError:
        return LoopError(f"{printable(where)[:200] or 'the document'} (line {line}): {reason}")

    if isinstance(event, yaml.AliasEvent) or event.anchor:
        raise refuse(path, "anchors and aliases are not allowed; write the value out")
    if event.tag:
        raise refuse(path, f"the tag {short(event.tag)} is not allowed")
    value = _scalar(event)
    if names:
        if not isinstance(value, str) or not value:
            raise refuse(path, f"found {what(value)} as a key, allowed: a name")
        if value in here.value:
            raise refuse(_join(here, value), "the key is there twice")
        here.key = value
        return
    lines[path] = line
    if isinstance(here.value, dict):
        here.value[here.key] = value
        here.key = None
    else:
        here.value.append(value)
    if isinstance(value, (dict, list)):
        if len(stack) > MAX_DEPTH:
            raise refuse(path, f"nested more than {MAX_DEPTH} levels deep")
        stack.append(_Open(value, path))


def _join(container: _Open, key: Any) -> str:
    """The key path of an entry. What holds the document itself has no name."""
    if isinstance(key, int):
        return f"{container.path}[{key}]" if container.path else ""
    return f"{container.path}.{key}" if container.path else str(key)


class _Odd(NamedTuple):
    """A YAML scalar that a policy never holds: a date, a float, null, an octal number."""

    text: str
    kind: str


def _scalar(event: Any) -> Any:
    """An event as data: an empty container, or what the engine's loader would make of a scalar."""
    if isinstance(event, yaml.MappingStartEvent):
        return {}
    if isinstance(event, yaml.SequenceStartEvent):
        return []
    text: str = event.value
    tag = str(_RESOLVER.resolve(yaml.ScalarNode, text, event.implicit)).rpartition(":")[2]
    if tag == "str":
        return text
    if tag == "bool":
        return text.lower() in ("yes", "true", "on")
    if tag == "int" and re.fullmatch("[-+]?(0|[1-9][0-9]{0,17})", text):
        return int(text)
    return _Odd(text, {"int": "a number not in plain decimal digits"}.get(tag, tag))


def what(value: Any) -> str:
    """A value in the words of an error message, never longer than a line bears."""
    if isinstance(value, _Odd):
        return f"{short(value.text)} ({value.kind})"
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list" if value else "an empty list"
    return short(value)


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
