# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The forge's records as GitHub's REST API writes them: real names, real types, every required property."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any
from urllib.parse import quote

from forge_store import Record, Store, git

# Templates of a repository's links: property -> what follows the repository's URL.
REPO_LINKS = {
    "archive_url": "/{archive_format}{/ref}",
    "assignees_url": "/assignees{/user}",
    "blobs_url": "/git/blobs{/sha}",
    "branches_url": "/branches{/branch}",
    "collaborators_url": "/collaborators{/collaborator}",
    "comments_url": "/comments{/number}",
    "commits_url": "/commits{/sha}",
    "compare_url": "/compare/{base}...{head}",
    "contents_url": "/contents/{+path}",
    "contributors_url": "/contributors",
    "deployments_url": "/deployments",
    "downloads_url": "/downloads",
    "events_url": "/events",
    "forks_url": "/forks",
    "git_commits_url": "/git/commits{/sha}",
    "git_refs_url": "/git/refs{/sha}",
    "git_tags_url": "/git/tags{/sha}",
    "hooks_url": "/hooks",
    "issue_comment_url": "/issues/comments{/number}",
    "issue_events_url": "/issues/events{/number}",
    "issues_url": "/issues{/number}",
    "keys_url": "/keys{/key_id}",
    "labels_url": "/labels{/name}",
    "languages_url": "/languages",
    "merges_url": "/merges",
    "milestones_url": "/milestones{/number}",
    "notifications_url": "/notifications{?since,all,participating}",
    "pulls_url": "/pulls{/number}",
    "releases_url": "/releases{/id}",
    "stargazers_url": "/stargazers",
    "statuses_url": "/statuses/{sha}",
    "subscribers_url": "/subscribers",
    "subscription_url": "/subscription",
    "tags_url": "/tags",
    "teams_url": "/teams",
    "trees_url": "/git/trees{/sha}",
}
USER_LINKS = {
    "followers_url": "/followers",
    "following_url": "/following{/other_user}",
    "gists_url": "/gists{/gist_id}",
    "starred_url": "/starred{/owner}{/repo}",
    "subscriptions_url": "/subscriptions",
    "organizations_url": "/orgs",
    "repos_url": "/repos",
    "events_url": "/events{/privacy}",
    "received_events_url": "/received_events",
}
CHANGE_WORDS = {"A": "added", "M": "modified", "D": "removed", "R": "renamed", "C": "copied", "T": "changed"}
COMMIT_FIELDS = ("%T", "%P", "%an", "%ae", "%aI", "%cn", "%ce", "%cI", "%B")
EMPTY_SHA = "0" * 40
EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


def node_id(kind: str, number: int) -> str:
    return base64.b64encode(f"{kind}:{number}".encode()).decode()


class Shapes:
    """``base`` is the forge's own URL, as the client that asks has reached it."""

    def __init__(self, store: Store, base: str) -> None:
        self.store = store
        self.base = base
        self.api = f"{base}/api/v3"

    # --- people

    def user(self, login: str) -> Record:
        known = self.store.state["users"].get(login) or {"id": 0, "type": "User"}
        url = f"{self.api}/users/{quote(login)}"
        return {
            "login": login,
            "id": known["id"],
            "node_id": node_id("User", known["id"]),
            "avatar_url": f"{self.base}/avatars/{known['id']}",
            "gravatar_id": "",
            "url": url,
            "html_url": f"{self.base}/{quote(login)}",
            "type": known["type"],
            "site_admin": False,
            "user_view_type": "public",
            **{key: url + rest for key, rest in USER_LINKS.items()},
        }

    def app(self, number: int, login: str) -> Record:
        slug = login.removesuffix("[bot]")
        return {
            "id": number,
            "node_id": node_id("Integration", number),
            "slug": slug,
            "name": slug,
            "owner": self.user(login),
            "description": None,
            "external_url": self.base,
            "html_url": f"{self.base}/apps/{quote(slug)}",
            "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z",
            "permissions": {"contents": "write", "issues": "write", "metadata": "read", "pull_requests": "write"},
            "events": [],
        }

    def public_user(self, login: str) -> Record:
        created = self.store.state["users"][login]["created_at"]
        return {
            **self.user(login),
            "name": login,
            "company": None,
            "blog": "",
            "location": None,
            "email": None,
            "hireable": None,
            "bio": None,
            "twitter_username": None,
            "public_repos": 0,
            "public_gists": 0,
            "followers": 0,
            "following": 0,
            "created_at": created,
            "updated_at": created,
        }

    # --- repositories

    def repo(self, full_name: str, login: str | None = None) -> Record:
        record = self.store.state["repos"][full_name]
        owner, name = full_name.split("/", 1)
        url = f"{self.api}/repos/{full_name}"
        opened = sum(issue["state"] == "open" for issue in record["issues"].values())
        role = self.store.state["users"][login]["role"] if login else "read"
        host = self.base.split("//", 1)[1]
        return {
            "id": record["id"],
            "node_id": node_id("Repository", record["id"]),
            "name": name,
            "full_name": full_name,
            "owner": self.user(owner),
            "private": record["private"],
            "html_url": f"{self.base}/{full_name}",
            "description": f"{name} of {owner}",
            "fork": False,
            "url": url,
            **{key: url + rest for key, rest in REPO_LINKS.items()},
            "clone_url": f"{self.base}/{full_name}.git",
            "git_url": f"git://{host}/{full_name}.git",
            "ssh_url": f"git@{host}:{full_name}.git",
            "svn_url": f"{self.base}/{full_name}",
            "mirror_url": None,
            "homepage": None,
            "language": None,
            "forks": 0,
            "forks_count": 0,
            "stargazers_count": 0,
            "watchers": 0,
            "watchers_count": 0,
            "network_count": 0,
            "subscribers_count": 0,
            "size": 1,
            "default_branch": record["default_branch"],
            "open_issues": opened,
            "open_issues_count": opened,
            "is_template": False,
            "topics": [],
            "has_issues": True,
            "has_projects": False,
            "has_wiki": False,
            "has_pages": False,
            "has_downloads": False,
            "has_discussions": False,
            "archived": False,
            "disabled": False,
            "visibility": "private" if record["private"] else "public",
            "license": None,
            "pushed_at": record.get("pushed_at", record["created_at"]),
            "created_at": record["created_at"],
            "updated_at": record["created_at"],
            "permissions": {
                "admin": role == "admin",
                "maintain": role == "admin",
                "push": role != "read",
                "triage": role != "read",
                "pull": True,
            },
        }

    def label(self, full_name: str, name: str) -> Record:
        label = self.store.state["repos"][full_name]["labels"][name]
        return {
            "id": label["id"],
            "node_id": node_id("Label", label["id"]),
            "name": name,
            "color": label["color"],
            "url": f"{self.api}/repos/{full_name}/labels/{quote(name, safe='')}",
            "description": label["description"],
            "default": False,
        }

    def labels(self, full_name: str, issue: Record) -> list[Record]:
        return [self.label(full_name, name) for name in issue["labels"]]

    # --- issues

    def issue(self, full_name: str, issue: Record) -> Record:
        repo_url = f"{self.api}/repos/{full_name}"
        url = f"{repo_url}/issues/{issue['number']}"
        page = f"{self.base}/{full_name}/{'pull' if issue['pull'] else 'issues'}/{issue['number']}"
        shape = {
            "id": issue["id"],
            "node_id": node_id("Issue", issue["id"]),
            "url": url,
            "repository_url": repo_url,
            "labels_url": f"{url}/labels{{/name}}",
            "comments_url": f"{url}/comments",
            "events_url": f"{url}/events",
            "html_url": page,
            "number": issue["number"],
            "title": issue["title"],
            "body": issue["body"],
            "user": self.user(issue["user"]),
            "labels": self.labels(full_name, issue),
            "state": issue["state"],
            "state_reason": issue["state_reason"],
            "locked": False,
            "active_lock_reason": None,
            "assignee": None,
            "assignees": [],
            "milestone": None,
            "comments": len(issue["comments"]),
            "closed_at": issue["closed_at"],
            "created_at": issue["created_at"],
            "updated_at": issue["updated_at"],
            "author_association": "MEMBER",
        }
        if issue["pull"]:
            pull_url = f"{repo_url}/pulls/{issue['number']}"
            shape["draft"] = issue["pull"]["draft"]
            shape["pull_request"] = {
                "url": pull_url,
                "html_url": page,
                "diff_url": f"{page}.diff",
                "patch_url": f"{page}.patch",
                "merged_at": None,
            }
        return shape

    def comment(self, full_name: str, issue: Record, comment: Record) -> Record:
        issue_url = f"{self.api}/repos/{full_name}/issues/{issue['number']}"
        return {
            "id": comment["id"],
            "node_id": node_id("IssueComment", comment["id"]),
            "url": f"{self.api}/repos/{full_name}/issues/comments/{comment['id']}",
            "issue_url": issue_url,
            "html_url": f"{self.base}/{full_name}/issues/{issue['number']}#issuecomment-{comment['id']}",
            "body": comment["body"],
            "user": self.user(comment["user"]),
            "created_at": comment["created_at"],
            "updated_at": comment["created_at"],
            "author_association": "MEMBER",
        }

    # --- pull requests

    def pull(self, full_name: str, issue: Record, *, whole: bool) -> Record:
        """The short form that lists give, or the whole one with what only git can count."""
        pull = issue["pull"]
        repo_url = f"{self.api}/repos/{full_name}"
        url = f"{repo_url}/pulls/{issue['number']}"
        issue_url = f"{repo_url}/issues/{issue['number']}"
        page = f"{self.base}/{full_name}/pull/{issue['number']}"
        statuses = f"{repo_url}/statuses/{pull['head_sha']}"
        links = {
            "self": url,
            "html": page,
            "issue": issue_url,
            "comments": f"{issue_url}/comments",
            "review_comments": f"{url}/comments",
            "review_comment": f"{repo_url}/pulls/comments{{/number}}",
            "commits": f"{url}/commits",
            "statuses": statuses,
        }
        shape = {
            "url": url,
            "id": issue["id"],
            "node_id": node_id("PullRequest", issue["id"]),
            "html_url": page,
            "diff_url": f"{page}.diff",
            "patch_url": f"{page}.patch",
            "issue_url": issue_url,
            "commits_url": links["commits"],
            "review_comments_url": links["review_comments"],
            "review_comment_url": links["review_comment"],
            "comments_url": links["comments"],
            "statuses_url": statuses,
            "number": issue["number"],
            "state": issue["state"],
            "locked": False,
            "title": issue["title"],
            "user": self.user(issue["user"]),
            "body": issue["body"],
            "labels": self.labels(full_name, issue),
            "milestone": None,
            "active_lock_reason": None,
            "created_at": issue["created_at"],
            "updated_at": issue["updated_at"],
            "closed_at": issue["closed_at"],
            "merged_at": None,
            "merge_commit_sha": None,
            "assignee": None,
            "assignees": [],
            "requested_reviewers": [self.user(login) for login in pull["reviewers"]],
            "requested_teams": [],
            "head": self._side(full_name, pull["head"], pull["head_sha"]),
            "base": self._side(full_name, pull["base"], pull["base_sha"]),
            "_links": {key: {"href": link} for key, link in links.items()},
            "author_association": "MEMBER",
            "auto_merge": None,
            "draft": pull["draft"],
        }
        if not whole:
            return shape
        files = self.files(full_name, pull["head_sha"], f"{pull['base']}...{pull['head_sha']}")
        commits = self.commits_between(full_name, pull["base"], pull["head_sha"])
        return {
            **shape,
            "merged": False,
            "mergeable": True,
            "rebaseable": True,
            "mergeable_state": "draft" if pull["draft"] else "clean",
            "merged_by": None,
            "comments": len(issue["comments"]),
            "review_comments": 0,
            "maintainer_can_modify": False,
            "commits": len(commits),
            **_lines(files),
            "changed_files": len(files),
        }

    def _side(self, full_name: str, branch: str, sha: str) -> Record:
        owner = full_name.split("/", 1)[0]
        return {
            "label": f"{owner}:{branch}",
            "ref": branch,
            "sha": sha,
            "user": self.user(owner),
            "repo": self.repo(full_name),
        }

    # --- what git knows

    def _git(self, full_name: str) -> Path:
        return self.store.directory(full_name)

    def commits_between(self, full_name: str, base: str, head: str) -> list[str]:
        return git(self._git(full_name), "rev-list", "--reverse", "--topo-order", f"{base}..{head}", "--").split()

    def files(self, full_name: str, head: str, *span: str) -> list[Record]:
        """What differs over ``span`` (``base...head``, or two trees), file by file."""
        directory = self._git(full_name)
        raw = _split(git(directory, "diff", "--raw", "--no-abbrev", "-M", "-z", *span, "--"))
        counts = _numstat(git(directory, "diff", "--numstat", "-M", "-z", *span, "--"))
        return [self._file(full_name, head, span, entry, counts) for entry in _raw_entries(raw)]

    def _file(
        self, full_name: str, head: str, span: tuple[str, ...], entry: Record, counts: dict[str, tuple[int, int] | None]
    ) -> Record:
        path = entry["path"]
        added, removed = counts.get(path) or (0, 0)
        shape = {
            "sha": None if entry["sha"] == EMPTY_SHA else entry["sha"],
            "filename": path,
            "status": CHANGE_WORDS[entry["status"]],
            "additions": added,
            "deletions": removed,
            "changes": added + removed,
            "blob_url": f"{self.base}/{full_name}/blob/{head}/{quote(path)}",
            "raw_url": f"{self.base}/{full_name}/raw/{head}/{quote(path)}",
            "contents_url": f"{self.api}/repos/{full_name}/contents/{quote(path)}?ref={head}",
        }
        if entry["previous"]:
            shape["previous_filename"] = entry["previous"]
        if counts.get(path) is not None:
            patch = git(self._git(full_name), "diff", "-M", *span, "--", *filter(None, (entry["previous"], path)))
            if "\n@@" in patch:
                shape["patch"] = patch[patch.index("\n@@") + 1 :].rstrip("\n")
        return shape

    def commit(self, full_name: str, sha: str, *, whole: bool = False) -> Record:
        # Fields apart by a byte that no identity may contain; the message is last as it may contain anything.
        text = git(self._git(full_name), "show", "-s", f"--format={'%x1f'.join(COMMIT_FIELDS)}", sha)
        tree, parents, author, author_mail, authored, committer, committer_mail, committed, message = text.split(
            "\x1f", len(COMMIT_FIELDS) - 1
        )
        url = f"{self.api}/repos/{full_name}/commits/{sha}"
        git_url = f"{self.api}/repos/{full_name}/git"
        shape: Record = {
            "sha": sha,
            "node_id": node_id(f"Commit:{sha}", 0),
            "url": url,
            "html_url": f"{self.base}/{full_name}/commit/{sha}",
            "comments_url": f"{url}/comments",
            "commit": {
                "url": f"{git_url}/commits/{sha}",
                "message": message.rstrip("\n"),
                "comment_count": 0,
                "author": {"name": author, "email": author_mail, "date": authored},
                "committer": {"name": committer, "email": committer_mail, "date": committed},
                "tree": {"sha": tree, "url": f"{git_url}/trees/{tree}"},
                "verification": {
                    "verified": False,
                    "reason": "unsigned",
                    "signature": None,
                    "payload": None,
                    "verified_at": None,
                },
            },
            "author": None,
            "committer": None,
            "parents": [
                {
                    "sha": parent,
                    "url": f"{self.api}/repos/{full_name}/commits/{parent}",
                    "html_url": f"{self.base}/{full_name}/commit/{parent}",
                }
                for parent in parents.split()
            ],
        }
        if whole:
            files = self.files(full_name, sha, (parents.split() or [EMPTY_TREE])[0], sha)
            shape["files"] = files
            shape["stats"] = {**_lines(files), "total": sum(file["changes"] for file in files)}
        return shape

    def branch(self, full_name: str, name: str, sha: str) -> Record:
        url = f"{self.api}/repos/{full_name}/branches/{quote(name)}/protection"
        guarded = name in self.store.state["repos"][full_name]["protected"]
        return {
            "name": name,
            "commit": {"sha": sha, "url": f"{self.api}/repos/{full_name}/commits/{sha}"},
            "protected": guarded,
            "protection": {"enabled": guarded},
            "protection_url": url,
        }

    def whole_branch(self, full_name: str, name: str, sha: str) -> Record:
        url = f"{self.api}/repos/{full_name}/branches/{quote(name)}"
        return {
            **self.branch(full_name, name, sha),
            "commit": self.commit(full_name, sha),
            "_links": {"html": f"{self.base}/{full_name}/tree/{quote(name)}", "self": url},
        }

    def ref(self, full_name: str, ref: str, sha: str) -> Record:
        url = f"{self.api}/repos/{full_name}/git"
        return {
            "ref": ref,
            "node_id": node_id(f"Ref:{ref}", 0),
            "url": f"{url}/{quote(ref)}",
            "object": {"sha": sha, "type": "commit", "url": f"{url}/commits/{sha}"},
        }

    def comparison(self, full_name: str, base: str, head: str, page: list[str], total: int) -> Record:
        directory = self._git(full_name)
        merge_base = git(directory, "merge-base", base, head).strip()
        behind = int(git(directory, "rev-list", "--count", f"{head}..{base}", "--"))
        status = "identical" if base == head else "diverged" if total and behind else "ahead" if total else "behind"
        page_url = f"{self.base}/{full_name}/compare/{base}...{head}"
        return {
            "url": f"{self.api}/repos/{full_name}/compare/{base}...{head}",
            "html_url": page_url,
            "permalink_url": page_url,
            "diff_url": f"{page_url}.diff",
            "patch_url": f"{page_url}.patch",
            "base_commit": self.commit(full_name, base),
            "merge_base_commit": self.commit(full_name, merge_base),
            "status": status,
            "ahead_by": total,
            "behind_by": behind,
            "total_commits": total,
            "commits": [self.commit(full_name, sha) for sha in page],
            "files": self.files(full_name, head, f"{base}...{head}"),
        }

    # --- verdicts of others

    def status(self, full_name: str, status: Record) -> Record:
        return {
            "id": status["id"],
            "node_id": node_id("Status", status["id"]),
            "state": status["state"],
            "context": status["context"],
            "description": status["description"],
            "target_url": None,
            "avatar_url": None,
            "url": f"{self.api}/repos/{full_name}/statuses/{status['sha']}",
            "created_at": status["created_at"],
            "updated_at": status["created_at"],
        }

    def new_status(self, full_name: str, status: Record) -> Record:
        return {**self.status(full_name, status), "creator": self.user(status["creator"])}

    def combined_status(self, full_name: str, sha: str) -> Record:
        latest = {s["context"]: s for s in self.store.state["repos"][full_name]["statuses"] if s["sha"] == sha}
        states = {status["state"] for status in latest.values()}
        verdict = "failure" if states & {"failure", "error"} else "success" if states == {"success"} else "pending"
        url = f"{self.api}/repos/{full_name}/commits/{sha}"
        return {
            "state": verdict,
            "sha": sha,
            "total_count": len(latest),
            "repository": self.repo(full_name),
            "statuses": [self.status(full_name, status) for status in latest.values()],
            "commit_url": url,
            "url": f"{url}/status",
        }

    def check_run(self, full_name: str, run: Record) -> Record:
        url = f"{self.api}/repos/{full_name}/check-runs/{run['id']}"
        return {
            "id": run["id"],
            "node_id": node_id("CheckRun", run["id"]),
            "head_sha": run["head_sha"],
            "name": run["name"],
            "url": url,
            "html_url": f"{self.base}/{full_name}/runs/{run['id']}",
            "details_url": None,
            "external_id": None,
            "status": run["status"],
            "conclusion": run["conclusion"],
            "started_at": run["started_at"],
            "completed_at": run["started_at"] if run["conclusion"] else None,
            "check_suite": None,
            "app": None,
            "pull_requests": [],
            "output": {
                "title": None,
                "summary": None,
                "text": None,
                "annotations_count": 0,
                "annotations_url": f"{url}/annotations",
            },
        }


def _lines(files: list[Record]) -> Record:
    return {key: sum(file[key] for file in files) for key in ("additions", "deletions")}


def _split(text: str) -> list[str]:
    return text.split("\0")[:-1]


def _raw_entries(fields: list[str]) -> list[Record]:
    entries: list[Record] = []
    rest = iter(fields)
    for head in rest:
        sha, status = head.split(" ")[3:]
        first = next(rest)
        moved = status[0] in "RC"
        entries.append(
            {
                "status": status[0],
                "sha": sha,
                "previous": first if moved else None,
                "path": next(rest) if moved else first,
            }
        )
    return entries


def _numstat(text: str) -> dict[str, tuple[int, int] | None]:
    """Lines added and removed by path; None for a binary file."""
    counts: dict[str, tuple[int, int] | None] = {}
    rest = iter(_split(text))
    for field in rest:
        added, removed, path = field.split("\t", 2)
        if not path:  # a rename: old and new name follow
            next(rest)
            path = next(rest)
        counts[path] = None if added == "-" else (int(added), int(removed))
    return counts


def error(message: str, status: int, errors: list[Any] | None = None) -> Record:
    body: Record = {"message": message, "documentation_url": "https://docs.github.com/rest", "status": str(status)}
    if errors is not None:
        body["errors"] = errors
    return body
