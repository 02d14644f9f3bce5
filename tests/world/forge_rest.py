# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""GitHub's REST calls: what can be read and written, and how an app gets its tokens."""

from __future__ import annotations

import base64
import json
import re
import time
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from flask import Flask, g, jsonify, request
from forge_http import (
    API,
    HOUR_LIMIT,
    REPO,
    Refusal,
    body_of,
    by_state,
    commit_of,
    invalid,
    issue_of,
    json_of,
    listed,
    not_found,
    page_of,
    repo_of,
    writer,
)
from forge_store import ForgeError, Record, Store, all_refs, branches, git, now, resolve

CLIENT_OR_APP_ID = re.compile(r"[0-9]+|Iv[0-9A-Za-z.]+")


def add_reading(app: Flask, store: Store) -> None:
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
        full_name, _unused = repo_of(store, owner, name)
        return g.shapes.repo(full_name, g.login)

    @app.get(f"{REPO}/labels")
    def repo_labels(owner: str, name: str) -> Any:
        full_name, record = repo_of(store, owner, name)
        return listed(list(record["labels"]), lambda label: g.shapes.label(full_name, label))

    @app.get(f"{REPO}/issues")
    def issues(owner: str, name: str) -> Any:
        full_name, record = repo_of(store, owner, name)
        wanted = {label for label in request.args.get("labels", "").split(",") if label}
        since = request.args.get("since", "")
        creator = request.args.get("creator")
        found = [
            issue
            for issue in by_state(list(record["issues"].values()))
            if wanted <= set(issue["labels"]) and issue["updated_at"] >= since and creator in (None, issue["user"])
        ]
        return listed(found, lambda issue: g.shapes.issue(full_name, issue))

    @app.get(f"{REPO}/issues/<int:number>")
    def issue(owner: str, name: str, number: int) -> Any:
        full_name, record = repo_of(store, owner, name)
        return g.shapes.issue(full_name, issue_of(record, number))

    @app.get(f"{REPO}/issues/<int:number>/labels")
    def issue_labels(owner: str, name: str, number: int) -> Any:
        full_name, record = repo_of(store, owner, name)
        return listed(issue_of(record, number)["labels"], lambda label: g.shapes.label(full_name, label))

    @app.get(f"{REPO}/issues/<int:number>/comments")
    def issue_comments(owner: str, name: str, number: int) -> Any:
        full_name, record = repo_of(store, owner, name)
        found = issue_of(record, number)
        return listed(found["comments"], lambda comment: g.shapes.comment(full_name, found, comment))

    @app.get(f"{REPO}/pulls")
    def pulls(owner: str, name: str) -> Any:
        full_name, record = repo_of(store, owner, name)
        head, base = request.args.get("head"), request.args.get("base")
        found = [
            issue
            for issue in by_state([issue for issue in record["issues"].values() if issue["pull"]])
            if head in (None, "", f"{owner}:{issue['pull']['head']}") and base in (None, "", issue["pull"]["base"])
        ]
        return listed(found, lambda issue: g.shapes.pull(full_name, issue, whole=False))

    @app.get(f"{REPO}/pulls/<int:number>")
    def pull(owner: str, name: str, number: int) -> Any:
        full_name, record = repo_of(store, owner, name)
        return g.shapes.pull(full_name, issue_of(record, number, pull=True), whole=True)

    @app.get(f"{REPO}/pulls/<int:number>/files")
    def pull_files(owner: str, name: str, number: int) -> Any:
        full_name, record = repo_of(store, owner, name)
        found = issue_of(record, number, pull=True)["pull"]
        span = f"{found['base']}...{found['head_sha']}"
        return listed(g.shapes.files(full_name, found["head_sha"], span), lambda file: file)

    @app.get(f"{REPO}/pulls/<int:number>/commits")
    def pull_commits(owner: str, name: str, number: int) -> Any:
        full_name, record = repo_of(store, owner, name)
        found = issue_of(record, number, pull=True)["pull"]
        shas = g.shapes.commits_between(full_name, found["base"], found["head_sha"])
        return listed(shas, lambda sha: g.shapes.commit(full_name, sha))

    @app.get(f"{REPO}/branches")
    def all_branches(owner: str, name: str) -> Any:
        full_name, _unused = repo_of(store, owner, name)
        return listed(
            list(branches(store.directory(full_name)).items()), lambda item: g.shapes.branch(full_name, *item)
        )

    @app.get(f"{REPO}/branches/<path:branch>")
    def one_branch(owner: str, name: str, branch: str) -> Any:
        full_name, _unused = repo_of(store, owner, name)
        sha = branches(store.directory(full_name)).get(branch)
        if sha is None:
            raise Refusal(404, "Branch not found")
        return g.shapes.whole_branch(full_name, branch, sha)

    @app.get(f"{REPO}/git/ref/<path:ref>")
    def one_ref(owner: str, name: str, ref: str) -> Any:
        full_name, _unused = repo_of(store, owner, name)
        sha = all_refs(store.directory(full_name)).get(f"refs/{ref}")
        if sha is None:
            raise not_found()
        return g.shapes.ref(full_name, f"refs/{ref}", sha)

    @app.get(f"{REPO}/git/matching-refs/<path:ref>")
    @app.get(f"{REPO}/git/refs/<path:ref>")
    @app.get(f"{REPO}/git/refs")
    def matching_refs(owner: str, name: str, ref: str = "") -> Any:
        full_name, _unused = repo_of(store, owner, name)
        found = [item for item in all_refs(store.directory(full_name)).items() if item[0].startswith(f"refs/{ref}")]
        return listed(found, lambda item: g.shapes.ref(full_name, *item))

    @app.get(f"{REPO}/commits")
    def commits(owner: str, name: str) -> Any:
        full_name, record = repo_of(store, owner, name)
        tip = commit_of(store, full_name, request.args.get("sha") or record["default_branch"])
        shas = git(store.directory(full_name), "rev-list", tip, "--").split()
        return listed(shas, lambda sha: g.shapes.commit(full_name, sha))

    @app.get(f"{REPO}/commits/<path:ref>/check-runs")
    def check_runs(owner: str, name: str, ref: str) -> Any:
        full_name, record = repo_of(store, owner, name)
        sha = commit_of(store, full_name, ref)
        found = [run for run in record["check_runs"] if run["head_sha"] == sha]
        part, headers = page_of(found)
        body = {"total_count": len(found), "check_runs": [g.shapes.check_run(full_name, run) for run in part]}
        return jsonify(body), headers

    @app.get(f"{REPO}/commits/<path:ref>/status")
    def combined_status(owner: str, name: str, ref: str) -> Any:
        full_name, _unused = repo_of(store, owner, name)
        return g.shapes.combined_status(full_name, commit_of(store, full_name, ref))

    @app.get(f"{REPO}/commits/<path:ref>")
    def commit(owner: str, name: str, ref: str) -> Any:
        full_name, _unused = repo_of(store, owner, name)
        return g.shapes.commit(full_name, commit_of(store, full_name, ref), whole=True)

    @app.get(f"{REPO}/compare/<path:basehead>")
    def compare(owner: str, name: str, basehead: str) -> Any:
        full_name, _unused = repo_of(store, owner, name)
        ends = [resolve(store.directory(full_name), end) for end in basehead.split("...")]
        if len(ends) != 2 or None in ends:
            raise not_found()
        base, head = str(ends[0]), str(ends[1])
        try:
            git(store.directory(full_name), "merge-base", base, head)
        except ForgeError:
            raise Refusal(404, f"No common ancestor between {base} and {head}.") from None
        shas = g.shapes.commits_between(full_name, base, head)
        part, headers = page_of(shas)
        return jsonify(g.shapes.comparison(full_name, base, head, part, len(shas))), headers


def add_writing(app: Flask, store: Store) -> None:
    @app.post(f"{REPO}/issues")
    def create_issue(owner: str, name: str) -> Any:
        full_name, _unused = repo_of(store, owner, name)
        login = writer(store)
        body = body_of(title=(str, int), body=str, labels=list)
        if not body.get("title"):
            raise invalid("Issue", "missing_field", "title")
        with store.lock:
            issue = store.add_issue(
                full_name,
                login,
                title=str(body["title"]),
                body=body.get("body"),
                labels=[_label_name(label) for label in body.get("labels") or []],
            )
            store.save()
        return g.shapes.issue(full_name, issue), 201

    @app.patch(f"{REPO}/issues/<int:number>")
    def change_issue(owner: str, name: str, number: int) -> Any:
        full_name, record = repo_of(store, owner, name)
        writer(store)
        issue = issue_of(record, number)
        with store.lock:
            _change(issue, body_of(title=str, body=str, state=str, state_reason=str), "Issue")
            store.save()
        return g.shapes.issue(full_name, issue)

    @app.post(f"{REPO}/issues/<int:number>/labels")
    def add_labels(owner: str, name: str, number: int) -> Any:
        full_name, record = repo_of(store, owner, name)
        writer(store)
        issue = issue_of(record, number)
        names = json_of()
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
        full_name, record = repo_of(store, owner, name)
        writer(store)
        issue = issue_of(record, number)
        with store.lock:
            if label not in issue["labels"]:
                raise Refusal(404, "Label does not exist")
            issue["labels"].remove(label)
            issue["updated_at"] = now()
            store.save()
        return jsonify(g.shapes.labels(full_name, issue))

    @app.post(f"{REPO}/issues/<int:number>/comments")
    def comment(owner: str, name: str, number: int) -> Any:
        full_name, record = repo_of(store, owner, name)
        login = writer(store)
        issue = issue_of(record, number)
        text = body_of(body=str).get("body")
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
        full_name, record = repo_of(store, owner, name)
        writer(store)
        body = body_of(name=str, color=str, description=str)
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
        full_name, record = repo_of(store, owner, name)
        writer(store)
        if label not in record["labels"]:
            raise not_found()
        body = body_of(color=str, description=str)
        with store.lock:
            record["labels"][label].update({key: body[key] for key in ("color", "description") if key in body})
            store.save()
        return g.shapes.label(full_name, label)

    @app.post(f"{REPO}/pulls")
    def create_pull(owner: str, name: str) -> Any:
        full_name, record = repo_of(store, owner, name)
        login = writer(store)
        with store.lock:
            issue = _open_pull(
                store, full_name, record, login, body_of(title=str, head=str, base=str, body=str, draft=bool)
            )
            store.save()
        return g.shapes.pull(full_name, issue, whole=True), 201

    @app.patch(f"{REPO}/pulls/<int:number>")
    def change_pull(owner: str, name: str, number: int) -> Any:
        full_name, record = repo_of(store, owner, name)
        writer(store)
        issue = issue_of(record, number, pull=True)
        body = body_of(title=str, body=str, state=str, base=str)
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
        full_name, record = repo_of(store, owner, name)
        writer(store)
        issue = issue_of(record, number, pull=True)
        logins = body_of(reviewers=list).get("reviewers") or []
        if not set(logins) <= set(store.state["users"]):
            raise Refusal(422, "Reviews may only be requested from collaborators.")
        with store.lock:
            issue["pull"]["reviewers"] = list(dict.fromkeys([*issue["pull"]["reviewers"], *logins]))
            store.save()
        return g.shapes.pull(full_name, issue, whole=False), 201

    @app.delete(f"{REPO}/git/refs/<path:ref>")
    def delete_ref(owner: str, name: str, ref: str) -> Any:
        full_name, record = repo_of(store, owner, name)
        login = writer(store)
        if f"refs/{ref}" not in all_refs(store.directory(full_name)):
            raise Refusal(422, "Reference does not exist")
        if ref.removeprefix("heads/") in record["protected"] and store.state["users"][login]["role"] != "admin":
            raise Refusal(422, "Cannot delete this protected branch")
        git(store.directory(full_name), "update-ref", "-d", f"refs/{ref}")
        with store.lock:
            store.note_pushed(full_name)
        return "", 204

    @app.post(f"{REPO}/statuses/<sha>")
    def create_status(owner: str, name: str, sha: str) -> Any:
        full_name, record = repo_of(store, owner, name)
        login = writer(store)
        body = body_of(state=str, context=str, description=str)
        if body.get("state") not in ("error", "failure", "pending", "success"):
            raise invalid("Status", "missing_field", "state")
        with store.lock:
            status = {
                "id": store.next_id(),
                "creator": login,
                "sha": commit_of(store, full_name, sha),
                "state": body["state"],
                "context": body.get("context", "default"),
                "description": body.get("description"),
                "created_at": now(),
            }
            record["statuses"].append(status)
            store.save()
        return g.shapes.new_status(full_name, status), 201

    @app.post(f"{REPO}/check-runs")
    def create_check_run(owner: str, name: str) -> Any:
        full_name, record = repo_of(store, owner, name)
        writer(store)
        body = body_of(name=str, head_sha=str, status=str, conclusion=str)
        if not body.get("name") or not body.get("head_sha"):
            raise invalid("CheckRun", "missing_field", "name" if not body.get("name") else "head_sha")
        conclusion = body.get("conclusion")
        with store.lock:
            run = {
                "id": store.next_id(),
                "name": body["name"],
                "head_sha": commit_of(store, full_name, body["head_sha"]),
                "status": "completed" if conclusion else body.get("status", "queued"),
                "conclusion": conclusion,
                "started_at": now(),
            }
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
        if (
            other["pull"]
            and other["state"] == "open"
            and (other["pull"]["head"], other["pull"]["base"]) == (head, base)
        ):
            raise invalid("PullRequest", "custom", message=f"A pull request already exists for {owner}:{head}.")
    pull = {
        "head": head,
        "head_sha": tips[head],
        "base": base,
        "base_sha": tips[base],
        "draft": bool(body.get("draft")),
        "reviewers": [],
    }
    return store.add_issue(full_name, login, title=body["title"], body=body.get("body"), pull=pull)


def add_app_tokens(app: Flask, store: Store) -> None:
    @app.post(f"{API}/app/installations/<int:installation>/access_tokens")
    def installation_token(installation: int) -> Any:
        known = _signed_app(store)
        if known["installation_id"] != installation:
            raise not_found()
        if known["suspended"]:
            raise Refusal(403, "This installation has been suspended")
        with store.lock:
            token = store.add_token(
                known["login"], seconds=known["token_seconds"], kind="installation", app=str(known["app_id"])
            )
            expires = store.token_record(token)
        return {
            "token": token,
            "expires_at": expires and expires["expires_at"],
            "repository_selection": "all",
            "permissions": known["permissions"],
        }, 201

    @app.get(f"{API}/app")
    def asking_app() -> Any:
        known = _signed_app(store)
        return g.shapes.app(known["app_id"], known["login"])


def _signed_app(store: Store) -> Record:
    """The app whose key signed this request's JSON web token, judged as GitHub does, and refused in its words."""
    header, _unused, rest = request.headers.get("Authorization", "").removeprefix("Bearer ").partition(".")
    claims_part, _unused, signature = rest.partition(".")
    undecodable = Refusal(401, "A JSON web token could not be decoded")
    try:
        algorithm, claims = json.loads(_unbase64(header))["alg"], json.loads(_unbase64(claims_part))
        issuer = str(claims["iss"])
    except (ValueError, KeyError, TypeError):
        raise undecodable from None
    if not CLIENT_OR_APP_ID.fullmatch(issuer):
        raise Refusal(401, "'Issuer' claim ('iss') must be an Integer")
    known: Record | None = store.state["apps"].get(issuer)
    if known is None:
        raise Refusal(404, "Integration not found")
    try:
        if algorithm != "RS256":
            raise ValueError
        key = load_pem_public_key(known["public_key"].encode())
        assert isinstance(key, RSAPublicKey)
        key.verify(_unbase64(signature), f"{header}.{claims_part}".encode(), PKCS1v15(), SHA256())
    except (ValueError, InvalidSignature):  # the id of another app than the key's looks just the same
        raise undecodable from None
    moment = store.time()
    issued, expires = claims.get("iat"), claims.get("exp")
    if not isinstance(expires, int) or expires <= moment:
        future = "must be a numeric value representing the future time at which the assertion expires"
        raise Refusal(401, f"'Expiration time' claim ('exp') {future}")
    if expires > moment + 600:
        raise Refusal(401, "'Expiration time' claim ('exp') is too far in the future")
    if not isinstance(issued, int) or issued > moment:
        issuing = "must be an Integer representing the time that the assertion was issued"
        raise Refusal(401, f"'Issued at' claim ('iat') {issuing}")
    return known


def _unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
