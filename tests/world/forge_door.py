# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The side door of the forge: what a test arranges and looks at, under ``/_forge/``."""

from __future__ import annotations

import time
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from flask import Flask, jsonify
from forge_http import Refusal, body_of
from forge_store import Store, branches, commit_files

KINDS = ("down", "drop", "half", "slow", "rate_limit", "expire_token", "refuse_push", "closed")
APP_PERMISSIONS = {
    "checks": "write",
    "contents": "write",
    "issues": "write",
    "metadata": "read",
    "pull_requests": "write",
    "statuses": "write",
}


def add_side_door(app: Flask, store: Store) -> None:
    @app.get("/_forge/state")
    def state() -> Any:
        shown = {key: value for key, value in store.state.items() if key != "tokens"}
        return {**shown, "branches": {name: branches(store.directory(name)) for name in store.state["repos"]}}

    @app.get("/_forge/requests")
    def requests() -> Any:
        return jsonify(store.requests())

    @app.get("/_forge/violations")
    def violations() -> Any:
        """Where an exchange was none that GitHub would have."""
        return jsonify(store.violations)

    @app.post("/_forge/issues")
    def add_issue() -> Any:
        """repo, title; and body, labels, number, user."""
        asked = body_of(repo=str, title=str, body=str, labels=list, number=int, user=str)
        with store.lock:
            full_name = asked.pop("repo")
            issue = store.add_issue(full_name, asked.pop("user", full_name.split("/", 1)[0]), **asked)
            store.save()
        return issue, 201

    @app.post("/_forge/tokens")
    def add_token() -> Any:
        """login; and role (read, write, admin), seconds, uses, kind (personal, installation)."""
        asked = body_of(login=str, role=str, seconds=int, uses=int, kind=str)
        with store.lock:
            role = asked.pop("role", None)
            if role:
                kind = store.state["users"].get(asked["login"], {"type": "User"})["type"]
                store.add_user(asked["login"], kind, role)
            return {"login": asked["login"], "token": store.add_token(**asked)}, 201

    @app.post("/_forge/repos")
    def add_repo() -> Any:
        """repo; and private, files."""
        asked = body_of(repo=str, private=bool, files=dict)
        with store.lock:
            record = store.add_repo(asked["repo"], private=asked.get("private", False), files=asked.get("files"))
            store.save()
        return record, 201

    @app.post("/_forge/commits")
    def add_commit() -> Any:
        """repo, files; and branch, message: what a person merges while the loop is not looking."""
        asked = body_of(repo=str, branch=str, message=str, files=dict)
        with store.lock:
            sha = commit_files(
                store.directory(asked["repo"]),
                asked.get("branch", "main"),
                asked["files"],
                asked.get("message", "Change"),
                int(time.time()),
            )
            store.note_pushed(asked["repo"])
        return {"sha": sha}, 201

    @app.post("/_forge/apps")
    def add_app() -> Any:
        """app_id, installation_id; and what ``change_app`` takes, login. Answers with the app's new private key."""
        asked = body_of(app_id=int, installation_id=int, login=str, token_seconds=int, permissions=dict)
        private, public = _key_pair()
        with store.lock:
            store.state["apps"][str(asked["app_id"])] = {
                "app_id": asked["app_id"],
                "installation_id": asked["installation_id"],
                "login": asked.get("login", store.state["bot"]),
                "token_seconds": asked.get("token_seconds", 3600),
                "permissions": asked.get("permissions", APP_PERMISSIONS),
                "suspended": False,
                "public_key": public,
            }
            store.save()
        return {**asked, "private_key": private}, 201

    @app.patch("/_forge/apps/<int:number>")
    def change_app(number: int) -> Any:
        """token_seconds, how long a token lives that is minted from now on; permissions, suspended, installation_id."""
        asked = body_of(token_seconds=int, permissions=dict, suspended=bool, installation_id=int)
        with store.lock:
            if str(number) not in store.state["apps"]:
                raise Refusal(404, f"no app {number}")
            store.state["apps"][str(number)].update(asked)
            store.save()
        return asked

    @app.post("/_forge/clock")
    def set_clock() -> Any:
        """seconds: how far the forge's clock is ahead of this machine's; behind where it is negative."""
        with store.lock:
            store.state["clock"] = body_of(seconds=(int, float))["seconds"]
            store.save()
        return {"clock": store.state["clock"]}, 201

    @app.post("/_forge/faults")
    def add_fault() -> Any:
        """kind: down (status), drop, half, slow (seconds), rate_limit (which, retry_after), refuse_push (words),
        expire_token (login, after), closed (seconds).

        Where the connection drops nothing of the answer comes, or half of it. Each but the last takes path (a regular
        expression), methods and times; a token expires, or is revoked, at once where none is given, or after so many
        requests. A push is refused by a hook, whose words the client sees. A closed forge refuses connections for so
        long; it is the one fault that nothing takes back.
        """
        fault = body_of(kind=str, words=str, seconds=(int, float))
        if fault.get("kind") not in KINDS:
            raise Refusal(422, f"no such fault: {fault.get('kind')}")
        if fault["kind"] == "closed":
            store.leave(fault["seconds"])
            return fault, 201
        with store.lock:
            if fault["kind"] == "expire_token" and "path" not in fault:
                store.limit_tokens(str(fault.get("login", store.state["bot"])), fault.get("after", 0))
            else:
                store.state["faults"].append(fault)
            store.save()
        return fault, 201

    @app.delete("/_forge/faults")
    def clear_faults() -> Any:
        with store.lock:
            store.state.update(faults=[], clock=0)
            for login in store.state["users"]:
                store.limit_tokens(login, None)
            store.save()
        return "", 204


def _key_pair() -> tuple[str, str]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()
