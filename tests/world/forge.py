# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A forge on this machine: GitHub's REST calls that a loop and its deployer make, and git over HTTP.

    python tests/world/forge.py serve --root DIR --port PORT [--seed SEED.yml] [--token-file FILE]
    python tests/world/forge.py seed --root DIR [--seed SEED.yml]
    python tests/world/forge.py import DIR OWNER/NAME SOURCE

or, in a test, ``with running(root) as forge: forge.api_url, forge.token``.
Everything under ``/_forge/`` is a side door for tests: it asks for no token and is not recorded.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml
from flask import Flask, Response, g, jsonify, request
from forge_shapes import Shapes, error
from forge_store import (
    GIT_ENVIRONMENT,
    ForgeError,
    Record,
    Store,
    branches,
    commit_files,
    git,
    import_source,
    now,
    resolve,
)
from werkzeug.exceptions import HTTPException
from werkzeug.serving import WSGIRequestHandler, make_server

API = "/api/v3"
REPO = f"{API}/repos/<owner>/<name>"
HOUR_LIMIT = 5000


class Refusal(Exception):
    """An answer that is not the one the client hoped for, in GitHub's words."""

    def __init__(self, status: int, message: str, errors: list[Any] | None = None,
                 headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.errors, self.headers = status, message, errors, dict(headers or {})


def not_found() -> Refusal:
    return Refusal(404, "Not Found")


def invalid(resource: str, code: str, field: str | None = None, message: str | None = None) -> Refusal:
    detail = {"resource": resource, "code": code, "field": field, "message": message}
    return Refusal(422, "Validation Failed", [{key: value for key, value in detail.items() if value is not None}])


def create_app(store: Store) -> Flask:
    app = Flask("forge")
    app.json.sort_keys = False  # type: ignore[attr-defined]
    _add_gate(app, store)
    _add_reading(app, store)
    _add_writing(app, store)
    _add_app_tokens(app, store)
    _add_git(app, store)
    _add_side_door(app, store)
    return app


# --- who asks, faults, records: what every request passes


def _add_gate(app: Flask, store: Store) -> None:
    @app.before_request
    def enter() -> Response | None:
        g.login, g.record, g.git_commands = None, None, []
        if request.path.startswith("/_forge/"):
            return None
        g.shapes = Shapes(store, request.host_url.rstrip("/"))
        for fault in _due_faults(store):
            _suffer(fault)
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
            _add_api_headers(response)
        store.record(_account(response))
        return response


def _due_faults(store: Store) -> list[Record]:
    """The faults that hit this request; a fault with ``times`` wears out."""
    with store.lock:
        due = [
            fault for fault in store.state["faults"]
            if re.search(fault.get("path", ""), request.path) and request.method in fault.get("methods", [request.method])
            and fault.get("times", 1) > 0 and (fault["kind"] != "rate_limit" or request.path.startswith(API))
        ]
        for fault in due:
            if "times" in fault:
                fault["times"] -= 1
        if due:
            store.save()
        return due


def _suffer(fault: Record) -> None:
    if fault["kind"] == "slow":
        time.sleep(fault["seconds"])
    elif fault["kind"] == "drop":
        request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise Refusal(503, "The connection is gone")
    elif fault["kind"] == "down":
        raise Refusal(fault.get("status", 503), "No server is currently available to service your request.")
    elif fault.get("which", "primary") == "primary":
        reset = str(int(time.time()) + fault.get("retry_after", 60))
        raise Refusal(403, "API rate limit exceeded for user ID 1.", headers={
            "X-RateLimit-Limit": str(HOUR_LIMIT), "X-RateLimit-Remaining": "0", "X-RateLimit-Used": str(HOUR_LIMIT),
            "X-RateLimit-Reset": reset})
    else:
        raise Refusal(403, "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.",
                      headers={"Retry-After": str(fault.get("retry_after", 60))})


def _identify(store: Store) -> None:
    """Set ``g.login``. No credentials is a reader of what is public; wrong ones are refused."""
    header = request.headers.get("Authorization", "")
    scheme, _, value = header.partition(" ")
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


def _add_api_headers(response: Response) -> None:
    if request.method == "GET" and response.status_code == 200:
        response.add_etag(weak=True)
        response.make_conditional(request)
    response.headers["X-GitHub-Media-Type"] = "github.v3; format=json"
    response.headers["X-GitHub-Request-Id"] = os.urandom(8).hex().upper()
    for key, value in {"Limit": HOUR_LIMIT, "Remaining": HOUR_LIMIT - 1, "Used": 1, "Reset": int(time.time()) + 3600}.items():
        response.headers.setdefault(f"X-RateLimit-{key}", str(value))


def _account(response: Response) -> Record:
    """What a request was, without anything that it carried in confidence."""
    body = request.get_json(silent=True) if request.is_json else None
    account: Record = {
        "at": now(), "method": request.method, "path": request.path, "query": request.query_string.decode(),
        "status": response.status_code, "login": g.login,
        "keys": sorted(body) if isinstance(body, dict) else [],
    }
    if g.git_commands:
        account["push"] = g.git_commands
    return account


def _repo(store: Store, owner: str, name: str) -> tuple[str, Record]:
    """A repository this client may see; what it may not see does not exist for it."""
    full_name = f"{owner}/{name}"
    record = store.state["repos"].get(full_name)
    if record is None or (record["private"] and g.login is None):
        raise not_found()
    return full_name, record


def _writer(store: Store) -> str:
    if g.login is None:
        raise Refusal(401, "Requires authentication")
    if store.state["users"][g.login]["role"] == "read":
        raise Refusal(403, "Resource not accessible by integration")
    return str(g.login)


def _issue(repo: Record, number: int, *, pull: bool = False) -> Record:
    issue: Record | None = repo["issues"].get(str(number))
    if issue is None or (pull and not issue["pull"]):
        raise not_found()
    return issue


def _commit(store: Store, full_name: str, ref: str) -> str:
    sha = resolve(store.directory(full_name), ref)
    if sha is None:
        raise Refusal(422, f"No commit found for SHA: {ref}")
    return sha


def _body(**kinds: type | tuple[type, ...]) -> Record:
    """The request's JSON object; the named fields, where given, must have the right type."""
    body = request.get_json(silent=True)
    if body is None and not request.data:
        body = {}
    if not isinstance(body, dict):
        raise Refusal(400, "Problems parsing JSON")
    for field, kind in kinds.items():
        if body.get(field) is not None and not isinstance(body[field], kind):
            raise Refusal(422, f"Invalid request.\n\nFor '{field}', {body[field]!r} is not of the right type.")
    return body


def _page(items: Sequence[Any]) -> tuple[Sequence[Any], dict[str, str]]:
    """One page of a list, and the Link header that leads to the others."""
    size = min(max(request.args.get("per_page", 30, type=int), 1), 100)
    page = max(request.args.get("page", 1, type=int), 1)
    last = max((len(items) + size - 1) // size, 1)
    wanted = {"prev": page - 1, "next": page + 1, "last": last, "first": 1}
    shown = [(rel, to) for rel, to in wanted.items() if 1 <= to <= last and (page > 1 if rel in ("prev", "first") else page < last)]
    links = [f'<{request.base_url}?{urlencode({**request.args, "page": to})}>; rel="{rel}"' for rel, to in shown]
    return items[(page - 1) * size: page * size], {"Link": ", ".join(links)} if links else {}


def _listed(items: Sequence[Any], shape: Callable[[Any], Any]) -> tuple[Response, dict[str, str]]:
    part, headers = _page(items)
    return jsonify([shape(item) for item in part]), headers


def _by_state(issues: Sequence[Record]) -> list[Record]:
    state = request.args.get("state", "open")
    if state not in ("open", "closed", "all"):
        raise invalid("Issue", "invalid", "state")
    newest_first = sorted(issues, key=lambda issue: (issue["created_at"], issue["number"]),
                          reverse=request.args.get("direction", "desc") == "desc")
    return [issue for issue in newest_first if state in ("all", issue["state"])]


# --- reading


def _add_reading(app: Flask, store: Store) -> None:
    @app.get(f"{API}/user")
    def user() -> Any:
        if g.login is None:
            raise Refusal(401, "Requires authentication")
        if g.record["kind"] == "installation":
            raise Refusal(403, "Resource not accessible by integration")
        return g.shapes.public_user(g.login)

    @app.get(f"{API}/users/<login>")
    def other_user(login: str) -> Any:
        if login not in store.state["users"]:
            raise not_found()
        return g.shapes.public_user(login)

    @app.get(f"{API}/rate_limit")
    def rate_limit() -> Any:
        rate = {"limit": HOUR_LIMIT, "remaining": HOUR_LIMIT, "reset": int(time.time()) + 3600, "used": 0}
        return {"resources": {"core": rate, "search": rate, "graphql": rate}, "rate": rate}

    @app.get(REPO)
    def repo(owner: str, name: str) -> Any:
        full_name, _ = _repo(store, owner, name)
        return g.shapes.repo(full_name, g.login)

    @app.get(f"{REPO}/labels")
    def repo_labels(owner: str, name: str) -> Any:
        full_name, record = _repo(store, owner, name)
        return _listed(list(record["labels"]), lambda label: g.shapes.label(full_name, label))

    @app.get(f"{REPO}/issues")
    def issues(owner: str, name: str) -> Any:
        full_name, record = _repo(store, owner, name)
        wanted = {label for label in request.args.get("labels", "").split(",") if label}
        since = request.args.get("since", "")
        creator = request.args.get("creator")
        found = [issue for issue in _by_state(list(record["issues"].values()))
                 if wanted <= set(issue["labels"]) and issue["updated_at"] >= since and creator in (None, issue["user"])]
        return _listed(found, lambda issue: g.shapes.issue(full_name, issue))

    @app.get(f"{REPO}/issues/<int:number>")
    def issue(owner: str, name: str, number: int) -> Any:
        full_name, record = _repo(store, owner, name)
        return g.shapes.issue(full_name, _issue(record, number))

    @app.get(f"{REPO}/issues/<int:number>/labels")
    def issue_labels(owner: str, name: str, number: int) -> Any:
        full_name, record = _repo(store, owner, name)
        return _listed(_issue(record, number)["labels"], lambda label: g.shapes.label(full_name, label))

    @app.get(f"{REPO}/issues/<int:number>/comments")
    def issue_comments(owner: str, name: str, number: int) -> Any:
        full_name, record = _repo(store, owner, name)
        found = _issue(record, number)
        return _listed(found["comments"], lambda comment: g.shapes.comment(full_name, found, comment))

    @app.get(f"{REPO}/pulls")
    def pulls(owner: str, name: str) -> Any:
        full_name, record = _repo(store, owner, name)
        head, base = request.args.get("head"), request.args.get("base")
        found = [issue for issue in _by_state([issue for issue in record["issues"].values() if issue["pull"]])
                 if head in (None, "", f"{owner}:{issue['pull']['head']}") and base in (None, "", issue["pull"]["base"])]
        return _listed(found, lambda issue: g.shapes.pull(full_name, issue, whole=False))

    @app.get(f"{REPO}/pulls/<int:number>")
    def pull(owner: str, name: str, number: int) -> Any:
        full_name, record = _repo(store, owner, name)
        return g.shapes.pull(full_name, _issue(record, number, pull=True), whole=True)

    @app.get(f"{REPO}/pulls/<int:number>/files")
    def pull_files(owner: str, name: str, number: int) -> Any:
        full_name, record = _repo(store, owner, name)
        found = _issue(record, number, pull=True)["pull"]
        span = f"{found['base']}...{found['head_sha']}"
        return _listed(g.shapes.files(full_name, found["head_sha"], span), lambda file: file)

    @app.get(f"{REPO}/pulls/<int:number>/commits")
    def pull_commits(owner: str, name: str, number: int) -> Any:
        full_name, record = _repo(store, owner, name)
        found = _issue(record, number, pull=True)["pull"]
        shas = g.shapes.commits_between(full_name, found["base"], found["head_sha"])
        return _listed(shas, lambda sha: g.shapes.commit(full_name, sha))

    @app.get(f"{REPO}/branches")
    def all_branches(owner: str, name: str) -> Any:
        full_name, _ = _repo(store, owner, name)
        return _listed(list(branches(store.directory(full_name)).items()), lambda item: g.shapes.branch(full_name, *item))

    @app.get(f"{REPO}/branches/<path:branch>")
    def one_branch(owner: str, name: str, branch: str) -> Any:
        full_name, _ = _repo(store, owner, name)
        sha = branches(store.directory(full_name)).get(branch)
        if sha is None:
            raise Refusal(404, "Branch not found")
        return g.shapes.whole_branch(full_name, branch, sha)

    @app.get(f"{REPO}/git/ref/<path:ref>")
    def one_ref(owner: str, name: str, ref: str) -> Any:
        full_name, _ = _repo(store, owner, name)
        sha = _refs(store, full_name).get(f"refs/{ref}")
        if sha is None:
            raise not_found()
        return g.shapes.ref(full_name, f"refs/{ref}", sha)

    @app.get(f"{REPO}/git/matching-refs/<path:ref>")
    @app.get(f"{REPO}/git/refs/<path:ref>")
    @app.get(f"{REPO}/git/refs")
    def matching_refs(owner: str, name: str, ref: str = "") -> Any:
        full_name, _ = _repo(store, owner, name)
        found = [item for item in _refs(store, full_name).items() if item[0].startswith(f"refs/{ref}")]
        return _listed(found, lambda item: g.shapes.ref(full_name, *item))

    @app.get(f"{REPO}/commits")
    def commits(owner: str, name: str) -> Any:
        full_name, record = _repo(store, owner, name)
        tip = _commit(store, full_name, request.args.get("sha") or record["default_branch"])
        shas = git(store.directory(full_name), "rev-list", tip, "--").split()
        return _listed(shas, lambda sha: g.shapes.commit(full_name, sha))

    @app.get(f"{REPO}/commits/<path:ref>/check-runs")
    def check_runs(owner: str, name: str, ref: str) -> Any:
        full_name, record = _repo(store, owner, name)
        sha = _commit(store, full_name, ref)
        found = [run for run in record["check_runs"] if run["head_sha"] == sha]
        part, headers = _page(found)
        body = {"total_count": len(found), "check_runs": [g.shapes.check_run(full_name, run) for run in part]}
        return jsonify(body), headers

    @app.get(f"{REPO}/commits/<path:ref>/status")
    def combined_status(owner: str, name: str, ref: str) -> Any:
        full_name, _ = _repo(store, owner, name)
        return g.shapes.combined_status(full_name, _commit(store, full_name, ref))

    @app.get(f"{REPO}/commits/<path:ref>")
    def commit(owner: str, name: str, ref: str) -> Any:
        full_name, _ = _repo(store, owner, name)
        return g.shapes.commit(full_name, _commit(store, full_name, ref), whole=True)

    @app.get(f"{REPO}/compare/<path:basehead>")
    def compare(owner: str, name: str, basehead: str) -> Any:
        full_name, _ = _repo(store, owner, name)
        ends = [resolve(store.directory(full_name), end) for end in basehead.split("...")]
        if len(ends) != 2 or None in ends:
            raise not_found()
        base, head = str(ends[0]), str(ends[1])
        try:
            git(store.directory(full_name), "merge-base", base, head)
        except ForgeError:
            raise Refusal(404, f"No common ancestor between {base} and {head}.") from None
        shas = g.shapes.commits_between(full_name, base, head)
        part, headers = _page(shas)
        return jsonify(g.shapes.comparison(full_name, base, head, part, len(shas))), headers


def _refs(store: Store, full_name: str) -> dict[str, str]:
    """Branches and tags; every tag of ours is a light one."""
    lines = git(store.directory(full_name), "for-each-ref", "--format=%(refname) %(objectname)", "refs/heads/", "refs/tags/")
    return dict(line.split(" ", 1) for line in lines.splitlines())


# --- writing


def _add_writing(app: Flask, store: Store) -> None:
    @app.post(f"{REPO}/issues")
    def create_issue(owner: str, name: str) -> Any:
        full_name, _ = _repo(store, owner, name)
        login = _writer(store)
        body = _body(title=(str, int), body=str, labels=list)
        if not body.get("title"):
            raise invalid("Issue", "missing_field", "title")
        with store.lock:
            issue = store.add_issue(full_name, login, title=str(body["title"]), body=body.get("body"),
                                    labels=[_label_name(label) for label in body.get("labels") or []])
            store.save()
        return g.shapes.issue(full_name, issue), 201

    @app.patch(f"{REPO}/issues/<int:number>")
    def change_issue(owner: str, name: str, number: int) -> Any:
        full_name, record = _repo(store, owner, name)
        _writer(store)
        issue = _issue(record, number)
        with store.lock:
            _change(issue, _body(title=str, body=str, state=str, state_reason=str), "Issue")
            store.save()
        return g.shapes.issue(full_name, issue)

    @app.post(f"{REPO}/issues/<int:number>/labels")
    def add_labels(owner: str, name: str, number: int) -> Any:
        full_name, record = _repo(store, owner, name)
        _writer(store)
        issue = _issue(record, number)
        names = request.get_json(silent=True)
        if isinstance(names, dict):
            names = names.get("labels")
        if not isinstance(names, list) or not names:
            raise Refusal(422, "Invalid request.\n\nLabels are a list of names.")
        with store.lock:
            for label in map(_label_name, names):
                if label not in record["labels"]:
                    store.add_label(record, label)
                if label not in issue["labels"]:
                    issue["labels"].append(label)
            issue["updated_at"] = now()
            store.save()
        return jsonify(g.shapes.labels(full_name, issue))

    @app.delete(f"{REPO}/issues/<int:number>/labels/<path:label>")
    def remove_label(owner: str, name: str, number: int, label: str) -> Any:
        full_name, record = _repo(store, owner, name)
        _writer(store)
        issue = _issue(record, number)
        with store.lock:
            if label not in issue["labels"]:
                raise Refusal(404, "Label does not exist")
            issue["labels"].remove(label)
            issue["updated_at"] = now()
            store.save()
        return jsonify(g.shapes.labels(full_name, issue))

    @app.post(f"{REPO}/issues/<int:number>/comments")
    def comment(owner: str, name: str, number: int) -> Any:
        full_name, record = _repo(store, owner, name)
        login = _writer(store)
        issue = _issue(record, number)
        text = _body(body=str).get("body")
        if not text:
            raise invalid("IssueComment", "missing_field", "body")
        with store.lock:
            entry = {"id": store.next_id(), "body": text, "user": login, "created_at": now()}
            issue["comments"].append(entry)
            issue["updated_at"] = now()
            store.save()
        return g.shapes.comment(full_name, issue, entry), 201

    @app.post(f"{REPO}/labels")
    def create_label(owner: str, name: str) -> Any:
        full_name, record = _repo(store, owner, name)
        _writer(store)
        body = _body(name=str, color=str, description=str)
        if not body.get("name"):
            raise invalid("Label", "missing_field", "name")
        with store.lock:
            if body["name"] in record["labels"]:
                raise invalid("Label", "already_exists", "name")
            store.add_label(record, body["name"], body.get("color") or "ededed", body.get("description"))
            store.save()
        return g.shapes.label(full_name, body["name"]), 201

    @app.patch(f"{REPO}/labels/<path:label>")
    def change_label(owner: str, name: str, label: str) -> Any:
        full_name, record = _repo(store, owner, name)
        _writer(store)
        if label not in record["labels"]:
            raise not_found()
        body = _body(color=str, description=str)
        with store.lock:
            record["labels"][label].update({key: body[key] for key in ("color", "description") if key in body})
            store.save()
        return g.shapes.label(full_name, label)

    @app.post(f"{REPO}/pulls")
    def create_pull(owner: str, name: str) -> Any:
        full_name, record = _repo(store, owner, name)
        login = _writer(store)
        with store.lock:
            issue = _open_pull(store, full_name, record, login, _body(title=str, head=str, base=str, body=str, draft=bool))
            store.save()
        return g.shapes.pull(full_name, issue, whole=True), 201

    @app.patch(f"{REPO}/pulls/<int:number>")
    def change_pull(owner: str, name: str, number: int) -> Any:
        full_name, record = _repo(store, owner, name)
        _writer(store)
        issue = _issue(record, number, pull=True)
        body = _body(title=str, body=str, state=str, base=str)
        with store.lock:
            if body.get("base"):
                if body["base"] not in branches(store.directory(full_name)):
                    raise invalid("PullRequest", "invalid", "base")
                issue["pull"]["base"] = body["base"]
            _change(issue, body, "PullRequest")
            store.save()
        return g.shapes.pull(full_name, issue, whole=True)

    @app.post(f"{REPO}/pulls/<int:number>/requested_reviewers")
    def request_reviewers(owner: str, name: str, number: int) -> Any:
        full_name, record = _repo(store, owner, name)
        _writer(store)
        issue = _issue(record, number, pull=True)
        logins = _body(reviewers=list).get("reviewers") or []
        if not set(logins) <= set(store.state["users"]):
            raise Refusal(422, "Reviews may only be requested from collaborators.")
        with store.lock:
            issue["pull"]["reviewers"] = list(dict.fromkeys([*issue["pull"]["reviewers"], *logins]))
            store.save()
        return g.shapes.pull(full_name, issue, whole=False), 201

    @app.delete(f"{REPO}/git/refs/<path:ref>")
    def delete_ref(owner: str, name: str, ref: str) -> Any:
        full_name, record = _repo(store, owner, name)
        login = _writer(store)
        if f"refs/{ref}" not in _refs(store, full_name):
            raise Refusal(422, "Reference does not exist")
        if ref.removeprefix("heads/") in record["protected"] and store.state["users"][login]["role"] != "admin":
            raise Refusal(422, "Cannot delete this protected branch")
        git(store.directory(full_name), "update-ref", "-d", f"refs/{ref}")
        with store.lock:
            store.note_pushed(full_name)
        return "", 204

    @app.post(f"{REPO}/statuses/<sha>")
    def create_status(owner: str, name: str, sha: str) -> Any:
        full_name, record = _repo(store, owner, name)
        _writer(store)
        body = _body(state=str, context=str, description=str)
        if body.get("state") not in ("error", "failure", "pending", "success"):
            raise invalid("Status", "missing_field", "state")
        with store.lock:
            status = {"id": store.next_id(), "sha": _commit(store, full_name, sha), "state": body["state"],
                      "context": body.get("context", "default"), "description": body.get("description"),
                      "created_at": now()}
            record["statuses"].append(status)
            store.save()
        return g.shapes.status(full_name, status), 201

    @app.post(f"{REPO}/check-runs")
    def create_check_run(owner: str, name: str) -> Any:
        full_name, record = _repo(store, owner, name)
        _writer(store)
        body = _body(name=str, head_sha=str, status=str, conclusion=str)
        if not body.get("name") or not body.get("head_sha"):
            raise invalid("CheckRun", "missing_field", "name" if not body.get("name") else "head_sha")
        conclusion = body.get("conclusion")
        with store.lock:
            run = {"id": store.next_id(), "name": body["name"], "head_sha": _commit(store, full_name, body["head_sha"]),
                   "status": "completed" if conclusion else body.get("status", "queued"), "conclusion": conclusion,
                   "started_at": now()}
            record["check_runs"].append(run)
            store.save()
        return g.shapes.check_run(full_name, run), 201


def _label_name(label: Any) -> str:
    return str(label["name"] if isinstance(label, dict) else label)


def _change(issue: Record, body: Record, resource: str) -> None:
    state = body.get("state")
    if state not in (None, "open", "closed"):
        raise invalid(resource, "invalid", "state")
    issue.update({key: body[key] for key in ("title", "body") if key in body}, updated_at=now())
    if state and state != issue["state"]:
        closed = state == "closed"
        reason = None if issue["pull"] else body.get("state_reason") or ("completed" if closed else "reopened")
        issue.update(state=state, closed_at=now() if closed else None, state_reason=reason)


def _open_pull(store: Store, full_name: str, repo: Record, login: str, body: Record) -> Record:
    for field in ("title", "head", "base"):
        if not body.get(field):
            raise invalid("PullRequest", "missing_field", field)
    owner = full_name.split("/", 1)[0]
    tips = branches(store.directory(full_name))
    head, base = body["head"].removeprefix(f"{owner}:"), body["base"]
    for field, branch in (("base", base), ("head", head)):
        if branch not in tips:
            raise invalid("PullRequest", "invalid", field)
    if not git(store.directory(full_name), "rev-list", "-1", f"{base}..{head}", "--").strip():
        raise invalid("PullRequest", "custom", message=f"No commits between {base} and {head}")
    for other in repo["issues"].values():
        if other["pull"] and other["state"] == "open" and (other["pull"]["head"], other["pull"]["base"]) == (head, base):
            raise invalid("PullRequest", "custom", message=f"A pull request already exists for {owner}:{head}.")
    pull = {"head": head, "head_sha": tips[head], "base": base, "base_sha": tips[base],
            "draft": bool(body.get("draft")), "reviewers": []}
    return store.add_issue(full_name, login, title=body["title"], body=body.get("body"), pull=pull)


# --- an app's own tokens


def _add_app_tokens(app: Flask, store: Store) -> None:
    @app.post(f"{API}/app/installations/<int:installation>/access_tokens")
    def installation_token(installation: int) -> Any:
        known = _signed_app(store)
        if known["installation_id"] != installation:
            raise not_found()
        with store.lock:
            token = store.add_token(known["login"], seconds=known["token_seconds"], kind="installation")
            expires = store.token_record(token)
        return {"token": token, "expires_at": expires and expires["expires_at"], "repository_selection": "all",
                "permissions": {"contents": "write", "issues": "write", "metadata": "read", "pull_requests": "write"}}, 201


def _signed_app(store: Store) -> Record:
    """The app whose key signed this request's JSON web token, judged as GitHub does."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    header, _, rest = request.headers.get("Authorization", "").removeprefix("Bearer ").partition(".")
    claims_part, _, signature = rest.partition(".")
    try:
        algorithm, claims = json.loads(_unbase64(header))["alg"], json.loads(_unbase64(claims_part))
        known: Record = store.state["apps"][str(claims["iss"])]
        if algorithm != "RS256":
            raise ValueError
        key = load_pem_public_key(known["public_key"].encode())
        assert isinstance(key, RSAPublicKey)
        key.verify(_unbase64(signature), f"{header}.{claims_part}".encode(), PKCS1v15(), SHA256())
    except (ValueError, KeyError, TypeError, InvalidSignature):
        raise Refusal(401, "A JSON web token could not be decoded") from None
    moment = time.time()
    if claims.get("exp", 0) < moment:
        raise Refusal(401, "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires")
    if claims["exp"] > moment + 600 + 30:
        raise Refusal(401, "'Expiration time' claim ('exp') is too far in the future")
    if claims.get("iat", moment) > moment + 30:
        raise Refusal(401, "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued")
    return known


def _unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


# --- git over HTTP


def _add_git(app: Flask, store: Store) -> None:
    @app.route("/<owner>/<name>.git/<path:rest>", methods=["GET", "POST"])
    @app.route("/<owner>/<name>/<path:rest>", methods=["GET", "POST"])
    def smart_http(owner: str, name: str, rest: str) -> Any:
        if rest not in ("info/refs", "git-upload-pack", "git-receive-pack", "HEAD"):
            raise not_found()
        full_name = f"{owner}/{name}"
        pushing = "git-receive-pack" in (rest, request.args.get("service"))
        record = store.state["repos"].get(full_name)
        if g.login is None and (pushing or record is None or record["private"]):
            raise Refusal(401, "Repository not found.", headers={"WWW-Authenticate": 'Basic realm="GitHub"'})
        if record is None:
            raise Refusal(404, "Repository not found.")
        role = store.state["users"][g.login]["role"] if g.login else "read"
        if pushing and role == "read":
            raise Refusal(403, f"Permission to {full_name}.git denied to {g.login}.")
        body = request.get_data()
        response = _http_backend(store, full_name, rest, body, [] if role == "admin" else record["protected"])
        if rest == "git-receive-pack":
            plain = gzip.decompress(body) if request.headers.get("Content-Encoding") == "gzip" else body
            _note_push(store, full_name, plain)
        return response


def _http_backend(store: Store, full_name: str, rest: str, body: bytes, protected: Sequence[str]) -> Response:
    environment = {
        "PATH": os.environ["PATH"], **GIT_ENVIRONMENT, "GIT_PROJECT_ROOT": str(store.root / "git"),
        "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": f"/{full_name}.git/{rest}", "REQUEST_METHOD": request.method,
        "QUERY_STRING": request.query_string.decode(), "CONTENT_TYPE": request.headers.get("Content-Type", ""),
        "CONTENT_LENGTH": str(len(body)), "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
        "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""), "REMOTE_USER": g.login or "",
        "FORGE_PROTECTED": " ".join(f"refs/heads/{branch}" for branch in protected),
    }
    done = subprocess.run(["git", "http-backend"], input=body, capture_output=True, check=False, env=environment)
    head, _, content = done.stdout.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
    status = int(headers.pop("Status", "200").split(" ", 1)[0])
    return Response(content, status, headers)


def _note_push(store: Store, full_name: str, body: bytes) -> None:
    """Record which refs a push asked for, and which of them it got."""
    with store.lock:
        store.note_pushed(full_name)
        refs = _refs(store, full_name)
    for old, new, ref in _push_commands(body):
        done = refs.get(ref) == new or (set(new) == {"0"} and ref not in refs)
        g.git_commands.append({"ref": ref, "old": old, "new": new, "accepted": done})


def _push_commands(body: bytes) -> Iterator[tuple[str, str, str]]:
    """The ``old new ref`` lines at the head of a push, which end with a flush packet."""
    position = 0
    while position + 4 <= len(body):
        length = int(body[position:position + 4], 16)
        if length == 0:
            return
        line = body[position + 4:position + length].split(b"\0", 1)[0].decode().strip()
        position += length
        old, new, ref = line.split(" ", 2)
        yield old, new, ref


# --- the side door


def _add_side_door(app: Flask, store: Store) -> None:
    @app.get("/_forge/state")
    def state() -> Any:
        shown = {key: value for key, value in store.state.items() if key != "tokens"}
        return {**shown, "branches": {name: branches(store.directory(name)) for name in store.state["repos"]}}

    @app.get("/_forge/requests")
    def requests() -> Any:
        return jsonify(store.requests())

    @app.post("/_forge/issues")
    def add_issue() -> Any:
        """repo, title; and body, labels, number, user."""
        asked = _body(repo=str, title=str, body=str, labels=list, number=int, user=str)
        with store.lock:
            full_name = asked.pop("repo")
            issue = store.add_issue(full_name, asked.pop("user", full_name.split("/", 1)[0]), **asked)
            store.save()
        return issue, 201

    @app.post("/_forge/tokens")
    def add_token() -> Any:
        """login; and role (read, write, admin), seconds, uses, kind (personal, installation)."""
        asked = _body(login=str, role=str, seconds=int, uses=int, kind=str)
        with store.lock:
            role = asked.pop("role", None)
            if role:
                kind = store.state["users"].get(asked["login"], {"type": "User"})["type"]
                store.add_user(asked["login"], kind, role)
            return {"login": asked["login"], "token": store.add_token(**asked)}, 201

    @app.post("/_forge/repos")
    def add_repo() -> Any:
        """repo; and private, files."""
        asked = _body(repo=str, private=bool, files=dict)
        with store.lock:
            record = store.add_repo(asked["repo"], private=asked.get("private", False), files=asked.get("files"))
            store.save()
        return record, 201

    @app.post("/_forge/commits")
    def add_commit() -> Any:
        """repo, files; and branch, message: what a person merges while the loop is not looking."""
        asked = _body(repo=str, branch=str, message=str, files=dict)
        with store.lock:
            sha = commit_files(store.directory(asked["repo"]), asked.get("branch", "main"), asked["files"],
                               asked.get("message", "Change"), int(time.time()))
            store.note_pushed(asked["repo"])
        return {"sha": sha}, 201

    @app.post("/_forge/apps")
    def add_app() -> Any:
        """app_id, installation_id; and login, token_seconds. Answers with the app's new private key."""
        asked = _body(app_id=int, installation_id=int, login=str, token_seconds=int)
        private, public = _key_pair()
        with store.lock:
            store.state["apps"][str(asked["app_id"])] = {
                "installation_id": asked["installation_id"], "login": asked.get("login", store.state["bot"]),
                "token_seconds": asked.get("token_seconds", 3600), "public_key": public,
            }
            store.save()
        return {**asked, "private_key": private}, 201

    @app.post("/_forge/faults")
    def add_fault() -> Any:
        """kind: down (status), drop, slow (seconds), rate_limit (which, retry_after), expire_token (login, after).

        All but the last take path (a regular expression), methods and times.
        """
        fault = _body(kind=str)
        if fault.get("kind") not in ("down", "drop", "slow", "rate_limit", "expire_token"):
            raise Refusal(422, f"no such fault: {fault.get('kind')}")
        with store.lock:
            if fault["kind"] == "expire_token":
                _limit_tokens(store, fault.get("login", store.state["bot"]), fault.get("after", 0))
            else:
                store.state["faults"].append(fault)
            store.save()
        return fault, 201

    @app.delete("/_forge/faults")
    def clear_faults() -> Any:
        with store.lock:
            store.state["faults"] = []
            for login in store.state["users"]:
                _limit_tokens(store, login, None)
            store.save()
        return "", 204


def _limit_tokens(store: Store, login: str, uses: int | None) -> None:
    for record in store.state["tokens"].values():
        if record["login"] == login:
            record["uses"] = uses


def _key_pair() -> tuple[str, str]:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()


# --- running it


class _Handler(WSGIRequestHandler):
    # git sends large packs in chunks, which HTTP/1.0 does not have.
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:
        """Say nothing: ``requests.jsonl`` is the log."""


@dataclass(frozen=True)
class Running:
    """A forge that serves, as its clients see it."""

    url: str
    token: str
    store: Store

    @property
    def api_url(self) -> str:
        return self.url + API


@contextmanager
def running(root: Path, port: int = 0, seed: Mapping[str, Any] | None = None, token: str | None = None) -> Iterator[Running]:
    """Serve ``root`` on 127.0.0.1 from a thread, for as long as the block lasts."""
    store = Store(root).open(seed, token)
    server = make_server("127.0.0.1", port, create_app(store), threaded=True, request_handler=_Handler)
    server.daemon_threads = True  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, name="forge", daemon=True)
    thread.start()
    try:
        yield Running(f"http://127.0.0.1:{server.server_port}", (root / "token").read_text(encoding="utf-8").strip(), store)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="forge.py", description="A forge on this machine, for tests.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("serve", "seed"):
        command = commands.add_parser(name)
        command.add_argument("--root", type=Path, required=True)
        command.add_argument("--seed", type=Path, help="YAML with owner, bot, repos, labels, issues (all optional)")
        command.add_argument("--token-file", type=Path, help="the bot's token; else FORGE_TOKEN, else a new one in ROOT/token")
    commands.choices["serve"].add_argument("--port", type=int, required=True, help="0 takes a free one")
    importing = commands.add_parser("import", help="replace a repository's branches by those of SOURCE")
    importing.add_argument("root", type=Path)
    importing.add_argument("repo", metavar="OWNER/NAME")
    importing.add_argument("source", metavar="BUNDLE|PATH|URL")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    asked = _arguments(argv)
    try:
        if asked.command == "import":
            print(json.dumps(import_source(asked.root, asked.repo, asked.source), indent=1))
            return 0
        seed = yaml.safe_load(asked.seed.read_text(encoding="utf-8")) if asked.seed else None
        token = asked.token_file.read_text(encoding="utf-8").strip() if asked.token_file else os.environ.get("FORGE_TOKEN")
        if asked.command == "seed":
            Store(asked.root).open(seed, token)
            return 0
        with running(asked.root, asked.port, seed, token) as forge:
            print(json.dumps({"url": forge.url, "api_url": forge.api_url, "token_file": str(asked.root / "token")}), flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        pass
    except ForgeError as problem:
        print(f"forge: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
