# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the forge's links lead a person: plain pages of a repository, an issue and a pull request with its diff.

Everything in them was written by somebody else, so Jinja escapes all of it, and no page may load or run anything.
"""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, g, render_template_string
from forge_http import issue_of, repo_of
from forge_store import Record, Store

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title>
<style>
  body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
  pre { overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid; padding: .5rem }
  h1 { overflow-wrap: anywhere }
</style>
<h1><bdi>{{ title }}</bdi></h1>
{% if facts %}
<dl>{% for name, value in facts %}<dt>{{ name }}</dt><dd><bdi>{{ value }}</bdi></dd>{% endfor %}</dl>
{% endif %}
{% if body %}<pre>{{ body }}</pre>{% endif %}
{% if links %}
<ul>{% for url, text in links %}<li><a href="{{ url }}"><bdi>{{ text }}</bdi></a></li>{% endfor %}</ul>
{% endif %}
{% for name, patch in files %}<h2><bdi>{{ name }}</bdi></h2><pre>{{ patch }}</pre>
{% endfor %}
{% for user, text in comments %}<h2>{{ user }} wrote</h2><pre>{{ text }}</pre>
{% endfor %}
</html>
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; frame-ancestors 'none'"


def add_pages(app: Flask, store: Store) -> None:
    @app.get("/")
    def repositories_page() -> Response:
        shown = [name for name, repo in store.state["repos"].items() if not repo["private"]]
        return _page("Repositories", links=[(f"/{name}", name) for name in shown])

    @app.get("/<owner>/<name>")
    def repository_page(owner: str, name: str) -> Response:
        full_name, repo = repo_of(store, owner, name)
        issues = sorted(repo["issues"].values(), key=lambda issue: -issue["number"])
        return _page(full_name, links=[(_place(full_name, one), f"#{one['number']} {one['title']}") for one in issues])

    @app.get("/<owner>/<name>/issues/<int:number>")
    def issue_page(owner: str, name: str, number: int) -> Response:
        _full_name, repo = repo_of(store, owner, name)
        return _of(issue_of(repo, number))

    @app.get("/<owner>/<name>/pull/<int:number>")
    def pull_page(owner: str, name: str, number: int) -> Response:
        full_name, repo = repo_of(store, owner, name)
        found = issue_of(repo, number, pull=True)
        about = found["pull"]
        changed = g.shapes.files(full_name, about["head_sha"], f"{about['base_sha']}...{about['head_sha']}")
        files = [(f"{one['status']}: {one['filename']}", one.get("patch", "(no text)")) for one in changed]
        branches = [("branch", about["head"]), ("into", about["base"]), ("draft", "yes" if about["draft"] else "no")]
        return _of(found, branches, files)


def _place(full_name: str, issue: Record) -> str:
    return f"/{full_name}/{'pull' if issue['pull'] else 'issues'}/{issue['number']}"


def _of(issue: Record, more: Any = (), files: Any = ()) -> Response:
    facts = [("state", issue["state"]), ("by", issue["user"]), ("labels", ", ".join(issue["labels"]) or "none"), *more]
    comments = [(one["user"], one["body"]) for one in issue["comments"]]
    return _page(
        f"#{issue['number']} {issue['title']}", facts=facts, body=issue["body"], files=files, comments=comments
    )


def _page(title: str, **parts: Any) -> Response:
    response = Response(render_template_string(PAGE, title=title, **parts), mimetype="text/html")
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
