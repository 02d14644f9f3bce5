# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every request to the forge passes, and what its routes share: who asks, faults, refusals, pages, the record."""

from __future__ import annotations

import base64
import os
import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from flask import Flask, Response, g, jsonify, request
from forge_shapes import Shapes, error
from forge_store import ForgeError, Record, Store, now, resolve
from openapi import Description, Exchange
from werkzeug.exceptions import HTTPException

API = "/api/v3"
# Our own client's requests are judged even where they are refused; what a test makes up is not.
OUR_CLIENT = "as215932-engineering-loop"
REPO = f"{API}/repos/<owner>/<name>"
HOUR_LIMIT = 5000


class Refusal(Exception):
    """An answer that is not the one the client hoped for, in GitHub's words."""

    def __init__(
        self, status: int, message: str, errors: list[Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.errors, self.headers = status, message, errors, dict(headers or {})


def not_found() -> Refusal:
    return Refusal(404, "Not Found")


def invalid(resource: str, code: str, field: str | None = None, message: str | None = None) -> Refusal:
    detail = {"resource": resource, "code": code, "field": field, "message": message}
    return Refusal(422, "Validation Failed", [{key: value for key, value in detail.items() if value is not None}])


def add_gate(app: Flask, store: Store, description: Description) -> None:
    @app.before_request
    def enter() -> Response | None:
        g.login, g.record, g.git_commands, g.refuses = None, None, [], ""
        g.faulty = g.drops = g.halves = False
        if request.path.startswith("/_forge/"):
            return None
        g.shapes = Shapes(store, request.host_url.rstrip("/"))
        for fault in _due_faults(store):
            g.faulty = True
            _suffer(store, fault)
        _identify(store)
        return None

    @app.errorhandler(Refusal)
    def refuse(refusal: Refusal) -> Response:
        response = jsonify(error(refusal.message, refusal.status, refusal.errors))
        response.status_code = refusal.status
        response.headers.update(refusal.headers)
        return response

    @app.errorhandler(ForgeError)
    def misuse(problem: ForgeError) -> Response:
        return refuse(Refusal(422, str(problem)))

    @app.errorhandler(HTTPException)
    def unrouted(problem: HTTPException) -> Response:
        return refuse(Refusal(problem.code or 500, problem.name))

    @app.after_request
    def leave(response: Response) -> Response:
        if request.path.startswith("/_forge/"):
            return response
        if request.path.startswith(API):
            _judge(store, description, response)
            _add_api_headers(response)
        store.record(_account(response))
        if g.drops:  # after the account of it: whoever notices may look at that at once
            request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return halved(response) if g.halves else response


def halved(response: Response) -> Response:
    """What was promised in full and ends in the middle: the connection is closed after it."""
    whole = response.get_data()
    response.set_data(whole[: len(whole) // 2])
    response.headers["Content-Length"] = str(len(whole))
    return response


def _due_faults(store: Store) -> list[Record]:
    """The faults that hit this request; a fault with ``times`` wears out."""
    with store.lock:
        due = [
            fault
            for fault in store.state["faults"]
            if re.search(fault.get("path", ""), request.path)
            and request.method in fault.get("methods", [request.method])
            and fault.get("times", 1) > 0
            and (fault["kind"] != "rate_limit" or request.path.startswith(API))
            and (fault["kind"] != "refuse_push" or request.path.endswith("/git-receive-pack"))
        ]
        for fault in due:
            if "times" in fault:
                fault["times"] -= 1
        if due:
            store.save()
        return due


def _suffer(store: Store, fault: Record) -> None:
    if fault["kind"] == "slow":
        time.sleep(fault["seconds"])
    elif fault["kind"] == "expire_token":
        with store.lock:
            store.limit_tokens(str(fault.get("login", store.state["bot"])), 0)
            store.save()
    elif fault["kind"] == "refuse_push":
        g.refuses = fault["words"]
    elif fault["kind"] == "drop":
        g.drops = True
        raise Refusal(503, "The connection is gone")
    elif fault["kind"] == "half":
        g.halves = True
    elif fault["kind"] == "down":
        raise Refusal(fault.get("status", 503), "No server is currently available to service your request.")
    elif fault.get("which", "primary") == "primary":
        reset = str(int(time.time()) + fault.get("retry_after", 60))
        raise Refusal(
            403,
            "API rate limit exceeded for user ID 1.",
            headers={
                "X-RateLimit-Limit": str(HOUR_LIMIT),
                "X-RateLimit-Remaining": "0",
                "X-RateLimit-Used": str(HOUR_LIMIT),
                "X-RateLimit-Reset": reset,
            },
        )
    else:
        raise Refusal(
            403,
            "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.",
            headers={"Retry-After": str(fault.get("retry_after", 60))},
        )


def _identify(store: Store) -> None:
    """Set ``g.login``. No credentials is a reader of what is public; wrong ones are refused."""
    header = request.headers.get("Authorization", "")
    scheme, _unused, value = header.partition(" ")
    if scheme.lower() == "basic":
        value = base64.b64decode(value).decode().partition(":")[2]
    if not value or request.path.startswith(f"{API}/app"):  # /app is asked with an app's own signature
        return
    with store.lock:
        record = store.token_record(value)
        if record is None:
            headers = {} if request.path.startswith(API) else {"WWW-Authenticate": 'Basic realm="GitHub"'}
            raise Refusal(401, "Bad credentials", headers=headers)
        if record["uses"] is not None:
            record["uses"] -= 1
            store.save()
        g.login, g.record = record["login"], record
        app = store.app_of(record)
        if app and app["suspended"]:
            raise Refusal(403, "This installation has been suspended")


def _add_api_headers(response: Response) -> None:
    if request.method == "GET" and response.status_code == 200:
        response.add_etag(weak=True)
        response.make_conditional(request)
    response.headers["X-GitHub-Media-Type"] = "github.v3; format=json"
    response.headers["X-GitHub-Request-Id"] = os.urandom(8).hex().upper()
    for key, value in {
        "Limit": HOUR_LIMIT,
        "Remaining": HOUR_LIMIT - 1,
        "Used": 1,
        "Reset": int(time.time()) + 3600,
    }.items():
        response.headers.setdefault(f"X-RateLimit-{key}", str(value))
    if g.record and g.record["kind"] == "personal" and g.record["expires_at"]:
        ends = g.record["expires_at"].replace("T", " ").replace("Z", " UTC")
        response.headers["GitHub-Authentication-Token-Expiration"] = ends


def _judge(store: Store, description: Description, response: Response) -> None:
    """Note where this exchange is none that GitHub would have; before the headers, so that nothing is a 304 yet."""
    if g.faulty and not response.status_code < 300:
        return  # the trouble that a test arranged
    exchange = Exchange(
        request.method,
        request.path.removeprefix(API),
        request.query_string.decode(),
        request.get_data(),
        response.status_code,
        response.get_data(),
    )
    ours = request.headers.get("User-Agent", "").startswith(OUR_CLIENT)
    if ours or request.url_rule is not None:
        store.violations += description.violations(exchange, request=ours or response.status_code < 300)


def _account(response: Response) -> Record:
    """What a request was, without anything that it carried in confidence."""
    body = request.get_json(force=True, silent=True) if request.path.startswith(API) else None
    account: Record = {
        "at": now(),
        "method": request.method,
        "path": request.path,
        "query": request.query_string.decode(),
        "status": response.status_code,
        "login": g.login,
        "keys": sorted(body) if isinstance(body, dict) else [],
    }
    if g.git_commands:
        account["push"] = g.git_commands
    return account


def repo_of(store: Store, owner: str, name: str) -> tuple[str, Record]:
    """A repository this client may see; what it may not see does not exist for it."""
    full_name = f"{owner}/{name}"
    record = store.state["repos"].get(full_name)
    if record is None or (record["private"] and g.login is None):
        raise not_found()
    return full_name, record


def writer(store: Store) -> str:
    if g.login is None:
        raise Refusal(401, "Requires authentication")
    if store.state["users"][g.login]["role"] == "read":
        raise Refusal(403, "Resource not accessible by integration")
    app = store.app_of(g.record)
    if app and not any(app["permissions"].get(name) == "write" for name in _permissions()):
        needed = "; ".join(f"{name}=write" for name in _permissions())
        raise Refusal(403, "Resource not accessible by integration", headers={"X-Accepted-GitHub-Permissions": needed})
    return str(g.login)


def _permissions() -> list[str]:
    """The permissions of an app of which one is needed to write what this request writes."""
    part = request.path.removeprefix(f"{API}/repos/").split("/")[2]
    known = {
        "issues": ["issues", "pull_requests"],  # a comment or a label may be one on a pull request
        "labels": ["issues", "pull_requests"],
        "pulls": ["pull_requests"],
        "git": ["contents"],
        "statuses": ["statuses"],
        "check-runs": ["checks"],
    }
    return known[part]


def issue_of(repo: Record, number: int, *, pull: bool = False) -> Record:
    issue: Record | None = repo["issues"].get(str(number))
    if issue is None or (pull and not issue["pull"]):
        raise not_found()
    return issue


def commit_of(store: Store, full_name: str, ref: str) -> str:
    sha = resolve(store.directory(full_name), ref)
    if sha is None:
        raise Refusal(422, f"No commit found for SHA: {ref}")
    return sha


def json_of() -> Any:
    """What the request carries; like GitHub, whatever it calls it."""
    return request.get_json(force=True, silent=True) if request.get_data() else {}


def body_of(**kinds: type | tuple[type, ...]) -> Record:
    """The request's JSON object; the named fields, where given, must have the right type."""
    body = json_of()
    if not isinstance(body, dict):
        raise Refusal(400, "Problems parsing JSON")
    for field, kind in kinds.items():
        if body.get(field) is not None and not isinstance(body[field], kind):
            raise Refusal(422, f"Invalid request.\n\nFor '{field}', {body[field]!r} is not of the right type.")
    return body


def page_of(items: Sequence[Any]) -> tuple[Sequence[Any], dict[str, str]]:
    """One page of a list, and the Link header that leads to the others."""
    size = min(max(request.args.get("per_page", 30, type=int), 1), 100)
    page = max(request.args.get("page", 1, type=int), 1)
    last = max((len(items) + size - 1) // size, 1)
    wanted = {"prev": page - 1, "next": page + 1, "last": last, "first": 1}
    shown = [
        (rel, to)
        for rel, to in wanted.items()
        if 1 <= to <= last and (page > 1 if rel in ("prev", "first") else page < last)
    ]
    links = [f'<{request.base_url}?{urlencode({**request.args, "page": to})}>; rel="{rel}"' for rel, to in shown]
    return items[(page - 1) * size : page * size], {"Link": ", ".join(links)} if links else {}


def listed(items: Sequence[Any], shape: Callable[[Any], Any]) -> tuple[Response, dict[str, str]]:
    part, headers = page_of(items)
    return jsonify([shape(item) for item in part]), headers


def by_state(issues: Sequence[Record]) -> list[Record]:
    state = request.args.get("state", "open")
    if state not in ("open", "closed", "all"):
        raise invalid("Issue", "invalid", "state")
    newest_first = sorted(
        issues,
        key=lambda issue: (issue["created_at"], issue["number"]),
        reverse=request.args.get("direction", "desc") == "desc",
    )
    return [issue for issue in newest_first if state in ("all", issue["state"])]
