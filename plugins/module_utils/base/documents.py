# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""JSON documents as frozen dataclasses: parsed once where they are read, with the key's path in the error."""

from __future__ import annotations

import dataclasses
import json
import types
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from .errors import LoopError

Kind = TypeVar("Kind")

WORDS = {str: "a text", int: "a whole number", bool: "true or false", list: "a list"}


def load(kind: type[Kind], content: bytes) -> Kind:
    """The document that ``content`` holds. LoopError where it is no JSON, or a key is missing or of another kind."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise LoopError(f"it is not JSON: {error}") from error
    return parse(kind, document)


def parse(kind: type[Kind], document: object, path: str = "") -> Kind:
    """A ``kind`` (a dataclass of texts, numbers, dictionaries and other such dataclasses) from what JSON gives.

    A field's ``metadata["key"]`` is its name in the document, where that is another. Keys that ``kind`` does not know
    are passed over. LoopError names the first key that is missing or of another kind, as ``history[3].sha``.
    """
    if not isinstance(document, dict):
        raise LoopError(f"{path or 'it'} is not an object")
    hints, given = get_type_hints(kind), {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        key = field.metadata.get("key", field.name)
        at = f"{path}.{key}" if path else key
        if key in document:
            given[field.name] = _value(hints[field.name], document[key], at)
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise LoopError(f"{at} is missing")
    return kind(**given)


def _value(hint: Any, value: object, path: str) -> Any:
    if isinstance(hint, types.UnionType):  # KIND | None
        return None if value is None else _value(get_args(hint)[0], value, path)
    if get_origin(hint) is tuple:  # tuple[KIND, ...], or a pair, tuple[KIND, KIND]
        kind, more = get_args(hint)
        if not isinstance(value, list) or (more is not Ellipsis and len(value) != 2):
            raise LoopError(f"{path} is not a {'list' if more is Ellipsis else 'pair'}")
        return tuple(_value(kind, item, f"{path}[{place}]") for place, item in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return parse(hint, value, path)  # type: ignore[arg-type]
    kind = get_origin(hint) or hint
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise LoopError(f"{path} is not {WORDS.get(kind, 'an object')}")
    return value
