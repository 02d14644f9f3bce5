# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is the forge of the tests GitHub's? Every request and answer of a walk through it, against the published description.

python tests/world/openapi.py fetch FILE       the description, of npm's @octokit/openapi
python tests/world/openapi.py check FILE       walks; prints what differs; exit 1 if anything does
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
from forge import Running, running
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from referencing import Registry
from referencing.jsonschema import DRAFT202012

PACKAGE = "@octokit/openapi@23.0.2"
MEMBER = "package/generated/api.github.com.json"
BASE = "urn:github"


def fetch(file: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=directory, check=True, stdout=subprocess.DEVNULL)
        with tarfile.open(next(Path(directory).glob("*.tgz"))) as archive:
            content = archive.extractfile(MEMBER)
            assert content is not None, f"{PACKAGE} has no {MEMBER}"
            file.write_bytes(content.read())


class Description:
    """Operations by method and path, and a validator for each body."""

    def __init__(self, file: Path) -> None:
        self.document: dict[str, Any] = _as_json_schema(json.loads(file.read_text(encoding="utf-8")))
        self.validators: dict[str, Draft202012Validator] = {}
        self.registry: Registry[Any] = Registry().with_resource(BASE, DRAFT202012.create_resource(self.document))
        self.patterns = [(_pattern(path), path) for path in self.document["paths"]]

    def violations(self, exchange: requests.Response) -> Iterator[str]:
        path = str(exchange.request.path_url).split("?", 1)[0].removeprefix("/api/v3")
        method = str(exchange.request.method).lower()
        operation = self._operation(path, method)
        where = f"{method.upper()} {path} -> {exchange.status_code}"
        if operation is None:
            yield f"{where}: GitHub has no such call"
            return
        answer = operation["responses"].get(str(exchange.status_code))
        if answer is None:
            yield f"{where}: GitHub never answers so; it knows {', '.join(operation['responses'])}"
        elif exchange.content:
            yield from self._differences(where, self._resolved(answer), exchange.json())
        if exchange.request.body and exchange.ok:
            sent = json.loads(exchange.request.body)
            yield from self._differences(f"{where} (request)", operation["requestBody"], sent)

    def _operation(self, path: str, method: str) -> dict[str, Any] | None:
        # The most literal of the paths that fit: /commits/{ref}/status before /commits/{ref}.
        fitting = [known for pattern, known in self.patterns if pattern.fullmatch(path) and method in self._at(known)]
        return (
            self._at(max(fitting, key=lambda known: len(re.sub(r"\{[^}]+\}", "", known))))[method] if fitting else None
        )

    def _at(self, path: str) -> dict[str, Any]:
        return dict(self.document["paths"][path])

    def _resolved(self, node: dict[str, Any]) -> dict[str, Any]:
        return dict(self.registry.resolver().lookup(node["$ref"]).contents) if "$ref" in node else node

    def _differences(self, where: str, holder: dict[str, Any], body: Any) -> Iterator[str]:
        content = holder.get("content", {})
        if "application/json" not in content:  # some refusals are described by a sentence only
            return
        for problem in self._validator(json.dumps(content["application/json"]["schema"])).iter_errors(body):
            yield f"{where}: {problem.json_path}: {problem.message[:200]}"

    def _validator(self, schema: str) -> Draft202012Validator:
        if schema not in self.validators:
            self.validators[schema] = Draft202012Validator(json.loads(schema), registry=self.registry)
        return self.validators[schema]


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


def walk(forge: Running) -> Iterator[requests.Response]:
    """Every call that the forge answers, as a bot, a stranger and an impostor make it."""
    calls = requests.Session()
    calls.headers["Authorization"] = f"Bearer {forge.token}"
    repo = f"{forge.api_url}/repos/AS215932/network-operations"
    branch = "hyrule-feature/WALK/hyrule-infra"
    door = {"repo": "AS215932/network-operations", "branch": branch, "files": {"docs/walk.md": "walked\n"}}
    sha = requests.post(f"{forge.url}/_forge/commits", json=door, timeout=30).json()["sha"]

    def call(method: str, url: str, body: Any = None, **more: Any) -> requests.Response:
        return calls.request(method, url, json=body, timeout=30, **more)

    pull = call("POST", f"{repo}/pulls", {"title": "Walk", "head": branch, "base": "main", "body": "b", "draft": True})
    yield pull
    number = pull.json()["number"]
    yield call("POST", f"{repo}/pulls", {"title": "Walk", "head": branch, "base": "main"})
    yield call("POST", f"{repo}/pulls", {"title": "Walk", "head": "nowhere", "base": "main"})
    yield call("POST", f"{repo}/pulls/{number}/requested_reviewers", {"reviewers": ["AS215932"]})
    yield call("PATCH", f"{repo}/pulls/{number}", {"title": "Walked", "state": "closed"})
    yield call("POST", f"{repo}/issues", {"title": "A new one", "body": "text", "labels": ["loop:candidate"]})
    yield call("POST", f"{repo}/issues", {"body": "no title"})
    yield call("PATCH", f"{repo}/issues/235", {"state": "closed", "state_reason": "completed"})
    yield call("PATCH", f"{repo}/issues/235", {"state": "open"})
    yield call("POST", f"{repo}/issues/235/labels", {"labels": ["docs"]})
    yield call("DELETE", f"{repo}/issues/235/labels/docs")
    yield call("DELETE", f"{repo}/issues/235/labels/docs")
    yield call("POST", f"{repo}/issues/235/comments", {"body": "seen"})
    yield call("POST", f"{repo}/labels", {"name": "walk", "color": "ffffff", "description": "d"})
    yield call("PATCH", f"{repo}/labels/walk", {"color": "000000"})
    yield call("POST", f"{repo}/statuses/{sha}", {"state": "success", "context": "ci"})
    yield call("POST", f"{repo}/check-runs", {"name": "ci", "head_sha": sha, "conclusion": "success"})
    for path in (
        "", "/labels", "/issues?state=all&per_page=1", "/issues/235", "/issues/999", "/issues/235/labels",
        "/issues/235/comments", "/pulls?state=all", f"/pulls/{number}", f"/pulls/{number}/files",
        f"/pulls/{number}/commits", "/branches", f"/branches/{branch}", "/branches/nowhere",
        f"/git/ref/heads/{branch}", "/git/ref/heads/nowhere", "/git/matching-refs/heads", "/commits",
        "/commits/main", f"/commits/{sha}", f"/compare/main...{sha}", f"/compare/{sha}...main",
        f"/commits/{sha}/check-runs", f"/commits/{sha}/status", "/commits/main/status",
    ):  # fmt: skip
        yield call("GET", repo + path)
    for url in ("/user", "/users/AS215932", "/rate_limit", "/repos/AS215932/nowhere"):
        yield call("GET", forge.api_url + url)
    yield call("GET", f"{forge.api_url}/user", headers={"Authorization": "Bearer wrong"})
    yield call("DELETE", f"{repo}/git/refs/heads/{branch}")
    yield call("DELETE", f"{repo}/git/refs/heads/{branch}")
    yield call("POST", f"{forge.api_url}/app/installations/7/access_tokens", {})
    yield call("POST", f"{forge.api_url}/app/installations/7/access_tokens", {}, headers=_app_header(forge))


def _app_header(forge: Running) -> dict[str, str]:
    """A web token signed with the key of an app that is made for it."""
    import base64
    import time

    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    app = {"app_id": 5, "installation_id": 7}
    made = requests.post(f"{forge.url}/_forge/apps", json=app, timeout=30).json()
    key = load_pem_private_key(made["private_key"].encode(), None)
    assert isinstance(key, RSAPrivateKey)
    claims = {"iss": "5", "iat": int(time.time()) - 60, "exp": int(time.time()) + 300}

    def part(content: bytes) -> str:
        return base64.urlsafe_b64encode(content).decode().rstrip("=")

    signed = f"{part(json.dumps({'alg': 'RS256', 'typ': 'JWT'}).encode())}.{part(json.dumps(claims).encode())}"
    return {"Authorization": f"Bearer {signed}.{part(key.sign(signed.encode(), PKCS1v15(), SHA256()))}"}


def check(file: Path) -> int:
    description = Description(file)
    seen, differences = 0, 0
    with tempfile.TemporaryDirectory() as directory, running(Path(directory)) as forge:
        for exchange in walk(forge):
            seen += 1
            for difference in description.violations(exchange):
                differences += 1
                print(difference, file=sys.stderr)
    print(f"{seen} calls, {differences} differences from {PACKAGE}")
    return 1 if differences else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="openapi.py", description="The forge against GitHub's published description.")
    parser.add_argument("command", choices=["fetch", "check"])
    parser.add_argument("file", type=Path)
    asked = parser.parse_args()
    if asked.command == "check":
        return check(asked.file)
    fetch(asked.file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
