# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""GitHub's published description of its REST API, as a judge: of what a client sends, and of what a forge answers.

`tests/tools/setup` brings it here. The forge of the tests holds every exchange to it, so that
client and forge cannot agree on something that GitHub never said.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from referencing import Registry
from referencing.jsonschema import DRAFT202012

FILE = Path(__file__).resolve().parents[2] / ".cache" / "github-api" / "description.json"
BASE = "urn:github"
# Any call can end so, whatever its own list of answers says.
REFUSALS = (400, 401, 403, 404, 429, 500, 502, 503, 504)


class Exchange(NamedTuple):
    """One request and its answer; paths as GitHub has them, below the address of the API."""

    method: str
    path: str
    query: str
    sent: bytes
    status: int
    answer: bytes


@functools.cache
def published() -> Description:
    """The description, read once. FileNotFoundError where the set-up did not bring it."""
    return Description(json.loads(FILE.read_text(encoding="utf-8")))


class Description:
    """Operations by method and path, and a validator for each body."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document: dict[str, Any] = _as_json_schema(document)
        self._registry: Registry[Any] = Registry().with_resource(BASE, DRAFT202012.create_resource(self._document))
        self._paths = [(_pattern(path), path) for path in self._document["paths"]]
        self._validators: dict[str, Draft202012Validator] = {}
        self._fine: set[str] = set()

    def violations(self, exchange: Exchange, *, request: bool = True) -> list[str]:
        """What GitHub would not know of this exchange; without ``request``, only of the answer."""
        seen = hashlib.sha256(repr((exchange, request)).encode()).hexdigest()
        if seen in self._fine:
            return []
        where = f"{exchange.method} {exchange.path} -> {exchange.status}"
        operation = self._operation(exchange)
        if operation is None:
            found = [f"{where}: GitHub has no such call"]
        else:
            found = [f"{where}: {text}" for text in self._wrong_answer(operation, exchange)]
            if request:
                found += [f"{where}: {text}" for text in self._wrong_request(operation, exchange)]
        if not found:
            self._fine.add(seen)
        return found

    def _operation(self, exchange: Exchange) -> dict[str, Any] | None:
        method = exchange.method.lower()
        fitting = [path for pattern, path in self._paths if pattern.fullmatch(exchange.path)]
        fitting = [path for path in fitting if method in self._document["paths"][path]]
        if not fitting:
            return None
        # The most literal of the paths that fit: /commits/{ref}/status before /commits/{ref}.
        best = self._document["paths"][max(fitting, key=lambda path: len(re.sub(r"\{[^}]+\}", "", path)))]
        shared = best.get("parameters", [])
        return {**best[method], "parameters": [*shared, *best[method].get("parameters", [])]}

    def _wrong_answer(self, operation: dict[str, Any], exchange: Exchange) -> Iterator[str]:
        described = operation["responses"].get(str(exchange.status))
        if described is None and exchange.status in REFUSALS:
            described = {
                "content": {"application/json": {"schema": {"$ref": f"{BASE}#/components/schemas/basic-error"}}}
            }
        if described is None:
            yield f"GitHub never answers so; it knows {', '.join(operation['responses'])}"
        elif exchange.answer:
            yield from self._differences("answer", self._resolved(described), exchange.answer)

    def _wrong_request(self, operation: dict[str, Any], exchange: Exchange) -> Iterator[str]:
        parameters = [self._resolved(parameter) for parameter in operation["parameters"]]
        known = {parameter["name"]: parameter["schema"] for parameter in parameters if parameter["in"] == "query"}
        for name, text in parse_qsl(exchange.query, keep_blank_values=True):
            if name not in known:
                yield f"query: GitHub knows no {name}; it knows {', '.join(known) or 'none'}"
                continue
            for problem in self._validator(known[name]).iter_errors(_typed(text, known[name])):
                yield f"query: {name}: {problem.message[:200]}"
        body = self._resolved(operation.get("requestBody", {}))
        if exchange.sent:
            if not body:
                yield "request: GitHub expects no body"
            yield from self._differences("request", body, exchange.sent)
        elif body.get("required"):
            yield "request: GitHub expects a body"

    def _resolved(self, node: dict[str, Any]) -> dict[str, Any]:
        return dict(self._registry.resolver().lookup(node["$ref"]).contents) if "$ref" in node else node

    def _differences(self, what: str, described: dict[str, Any], content: bytes) -> Iterator[str]:
        kinds = described.get("content", {})
        if "application/json" not in kinds:  # some refusals are described by a sentence only
            return
        try:
            body = json.loads(content)
        except ValueError:
            yield f"{what}: is not JSON"
            return
        for problem in self._validator(kinds["application/json"]["schema"]).iter_errors(body):
            yield f"{what}: {problem.json_path}: {problem.message[:200]}"

    def _validator(self, schema: dict[str, Any]) -> Draft202012Validator:
        key = json.dumps(schema)
        if key not in self._validators:
            self._validators[key] = Draft202012Validator(schema, registry=self._registry)
        return self._validators[key]


def _as_json_schema(node: Any) -> Any:
    """OpenAPI 3.0's dialect turned to JSON schema's: ``nullable``, and references that say in which document."""
    if isinstance(node, list):
        return [_as_json_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    made = {key: _as_json_schema(value) for key, value in node.items() if key not in ("example", "examples")}
    if isinstance(made.get("$ref"), str):
        made["$ref"] = made["$ref"].replace("#/", f"{BASE}#/", 1)
    if made.pop("nullable", None) is True:
        return {"anyOf": [made, {"type": "null"}]}
    return made


def _pattern(path: str) -> re.Pattern[str]:
    """What requests fit a path; refs and the two ends of a comparison may have slashes."""
    parts = re.split(r"(\{[^}]+\})", path)
    widths = {"{ref}": ".+", "{basehead}": ".+", "{branch}": ".+", "{name}": ".+"}
    return re.compile("".join(widths.get(part, "[^/]+") if part[:1] == "{" else re.escape(part) for part in parts))


def _typed(text: str, schema: dict[str, Any]) -> Any:
    """A query's text as the type that it stands for."""
    kind = schema.get("type")
    if kind == "integer" and re.fullmatch(r"-?\d+", text):
        return int(text)
    if kind == "boolean" and text in ("true", "false"):
        return text == "true"
    return text
