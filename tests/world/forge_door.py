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
        """app_id, installation_id; and login, token_seconds. Answers with the app's new private key."""
        asked = body_of(app_id=int, installation_id=int, login=str, token_seconds=int)
        private, public = _key_pair()
        with store.lock:
            store.state["apps"][str(asked["app_id"])] = {
                "app_id": asked["app_id"],
                "installation_id": asked["installation_id"],
                "login": asked.get("login", store.state["bot"]),
                "token_seconds": asked.get("token_seconds", 3600),
                "public_key": public,
            }
            store.save()
        return {**asked, "private_key": private}, 201

    @app.post("/_forge/faults")
    def add_fault() -> Any:
        """kind: down (status), drop, slow (seconds), rate_limit (which, retry_after), expire_token (login, after).

        Each takes path (a regular expression), methods and times; a token expires at once where none is given,
        or after so many requests.
        """
        fault = body_of(kind=str)
        if fault.get("kind") not in ("down", "drop", "slow", "rate_limit", "expire_token"):
            raise Refusal(422, f"no such fault: {fault.get('kind')}")
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
            store.state["faults"] = []
            for login in store.state["users"]:
                store.limit_tokens(login, None)
            store.save()
        return "", 204


def _key_pair() -> tuple[str, str]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()
