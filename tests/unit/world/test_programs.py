# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""gh and pi, called as an engine calls them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from forge_client import Client

REPO = "AS215932/network-operations"


def test_gh_answers_the_calls_of_a_cycle(client: Client, tmp_path: Path) -> None:
    fields = "number,title,body,labels,url,updatedAt"
    listed = client.run(
        "gh", "issue", "list", "--repo", REPO, "--state", "open", "--label", "loop:approved", "--json", fields,
        cwd=tmp_path,
    )  # fmt: skip
    (issue,) = json.loads(listed.stdout)
    assert sorted(issue) == sorted(fields.split(","))
    assert [label["name"] for label in issue["labels"]] == ["loop:approved"]
    viewed = client.run("gh", "issue", "view", "235", "--repo", REPO, "--json", "body", cwd=tmp_path)
    assert json.loads(viewed.stdout) == {"body": issue["body"]}
    empty = client.run("gh", "issue", "list", "--repo", "AS215932/hyrule-web", "--json", "number", cwd=tmp_path)
    assert empty.stdout == "[]\n"


def test_gh_opens_a_draft_from_the_worktree(client: Client, tmp_path: Path) -> None:
    checkout = client.clone(REPO, tmp_path / "checkout")
    client.git(checkout, "switch", "--quiet", "-c", "work")
    client.git(checkout, "commit", "--quiet", "--allow-empty", "-m", "Work")
    client.git(checkout, "push", "--quiet", "origin", "HEAD:work")
    asked = ("gh", "pr", "create", "--draft", "--title", "T", "--body", "B", "--head", "work")
    created = client.run(*asked, "--label", "loop:candidate", "--reviewer", "AS215932", cwd=checkout)
    assert created.stdout == f"{client.forge.url}/{REPO}/pull/236\n"
    pull = client.rest("GET", f"/repos/{REPO}/pulls/236").json()
    assert (pull["draft"], [label["name"] for label in pull["labels"]]) == (True, ["loop:candidate"])
    assert [user["login"] for user in pull["requested_reviewers"]] == ["AS215932"]
    again = client.run(*asked, cwd=checkout)
    assert again.returncode == 1
    assert again.stderr.startswith('a pull request for branch "work" into branch "main" already exists:\n')
    client.git(checkout, "remote", "set-url", "origin", "https://example.invalid/x/y.git")
    assert "known GitHub host" in client.run(*asked, cwd=checkout).stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["issue", "list", "-R", "AS215932/no", "--json", "number"], 1, "Could not resolve to a Repository"),
        (["issue", "view", "9", "-R", REPO, "--json", "body"], 1, "issue or pull request with the number of 9"),
        (["issue", "view", "235", "-R", REPO, "--json", "nope"], 1, 'Unknown JSON field: "nope"'),
        (["pr", "create", "--draft", "-R", REPO], 1, "must provide `--title`"),
        (["pr", "create", "-t", "T", "-b", "B", "-H", "nope", "-R", REPO], 1, "pull request create failed: GraphQL:"),
        (["label", "create", "loop:approved", "-R", REPO], 1, "already exists; use `--force`"),
    ],
)
def test_gh_fails_in_the_words_of_the_real_one(
    client: Client, tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    done = client.run("gh", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr


def test_gh_wants_a_good_token(client: Client, tmp_path: Path) -> None:
    asked = ("gh", "issue", "list", "-R", REPO, "--json", "number")
    assert client.run(*asked, cwd=tmp_path, GH_TOKEN="").returncode == 4
    refused = client.run(*asked, cwd=tmp_path, GH_TOKEN="wrong")
    assert (refused.returncode, "HTTP 401: Bad credentials" in refused.stderr) == (1, True)


def test_gh_files_an_issue_and_its_labels(client: Client, tmp_path: Path) -> None:
    made = client.run("gh", "label", "create", "new", "-R", REPO, "-c", "abcdef", "--force", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    filed = client.run("gh", "issue", "create", "-R", REPO, "-t", "T", "-b", "marker 1", "-l", "new", cwd=tmp_path)
    assert filed.stdout == f"{client.forge.url}/{REPO}/issues/236\n"
    found = client.run("gh", "issue", "list", "-R", REPO, "--search", "marker", "--json", "number", cwd=tmp_path)
    assert json.loads(found.stdout) == [{"number": 236}]


def play(client: Client, checkout: Path, *orders: str) -> int:
    body = "\n".join(f"<!-- pi: {order} -->" for order in orders)
    return client.run("pi", "--print", f"# Task\n\n## Request\n\n# A Page, please\n\n{body}\n", cwd=checkout).returncode


def test_pi_writes_one_page(client: Client, tmp_path: Path) -> None:
    checkout = client.clone(REPO, tmp_path / "checkout")
    assert play(client, checkout) == 0
    assert client.git(checkout, "status", "--porcelain") == "?? docs/a-page-please.md"


def test_pi_reads_the_issue_where_the_prompt_has_only_its_title(client: Client, tmp_path: Path) -> None:
    checkout = client.clone(REPO, tmp_path / "run" / "worktrees" / "checkout")
    (tmp_path / "run" / "request.md").write_text("# Title\n\n<!-- pi: nothing -->\n", encoding="utf-8")
    assert play(client, checkout) == 0
    assert client.git(checkout, "status", "--porcelain") == ""


def test_pi_misbehaves_as_told(client: Client, tmp_path: Path) -> None:
    checkout = client.clone(REPO, tmp_path / "run" / "worktrees" / "checkout")
    orders = [
        "write src/x.py print('x')",
        "commit src/y.py",
        "secret",
        "symlink docs/p /etc/passwd",
        "delete README.md",
    ]
    assert play(client, checkout, "crash", *orders, "fill 1", "hookspath", "printenv", "leave", "origin http://x/") == 3
    assert (checkout / "src" / "x.py").read_text(encoding="utf-8") == "print('x')\n"
    assert client.git(checkout, "log", "-1", "--format=%an %s") == "pi Agent: src/y.py"
    assert "PRIVATE KEY" in (checkout / "docs" / "deploy-notes.md").read_text(encoding="utf-8")
    assert (checkout / "docs" / "p").readlink() == Path("/etc/passwd")
    assert not (checkout / "README.md").exists()
    assert (checkout / "docs" / "filled.bin").stat().st_size == 1 << 20
    assert client.git(checkout, "config", "core.hooksPath").endswith("/agent-hooks")
    assert "- GH_TOKEN" in (checkout / "docs" / "env.md").read_text(encoding="utf-8")
    assert client.git(checkout, "remote", "get-url", "origin") == "http://x/"
    status = client.git(checkout, "status", "--porcelain", "--ignored")
    assert {"?? scratch.txt", "!! notes.ignored"} <= set(status.splitlines())


def test_pi_dies_or_leaves_something_behind(client: Client, tmp_path: Path) -> None:
    checkout = client.clone(REPO, tmp_path / "checkout")
    assert play(client, checkout, "kill") == -signal.SIGKILL
    assert play(client, checkout, "misspelt") == 1
    assert play(client, checkout, "background 4242") == 0
    left = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _sleeps(entry, checkout)]
    assert len(left) == 1
    os.kill(left[0], signal.SIGKILL)


def _sleeps(entry: Path, checkout: Path) -> bool:
    try:
        return (entry / "cmdline").read_bytes() == b"sleep\0004242\0" and (entry / "cwd").readlink() == checkout
    except OSError:
        return False
