# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the local forge remembers: users, tokens, repositories, issues and pull requests, in one JSON file.

Git data lives in bare repositories beside it; whatever git knows (branches, diffs, commits) is
asked of git and never kept twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

Record = dict[str, Any]

CANARY_BODY = """\
## Context

The loop proves itself with one harmless documentation change.

## Action items

1. Write one page under `docs/` that says what a canary is.

## Related

- the runbook of the loop
"""

DEFAULT_SEED: Record = {
    "owner": "AS215932",
    "bot": "hyrule-loop[bot]",
    "repos": [
        {"name": "engineering-loop"},
        {"name": "network-operations"},
        {"name": "hyrule-cloud"},
        {"name": "hyrule-web"},
        {"name": "hyrule-mcp"},
        {"name": "noc-agent"},
        {"name": "hyrule-network-proxy"},
        {"name": "as215932.net"},
    ],
    "labels": [
        {"name": "loop:approved", "color": "0e8a16", "description": "Human-approved; eligible for the loop"},
        {"name": "loop:candidate", "color": "fbca04", "description": "Proposed by a machine; awaits a human"},
    ],
    "issues": [
        {
            "repo": "network-operations",
            "number": 235,
            "title": "Docs canary: describe the engineering loop canary",
            "body": CANARY_BODY,
            "labels": ["loop:approved"],
        }
    ],
}

# Like GitHub, it gives out any commit of a repository by its SHA.
REPOSITORY_CONFIG = """\
[http]
receivepack = true
[uploadpack]
allowFilter = true
allowAnySHA1InWant = true
[gc]
auto = 0
"""

# GitHub refuses this with the same words; the hook speaks them so that clients see a real refusal.
PROTECTION_HOOK = """\
#!/bin/sh
case " $FORGE_PROTECTED " in
*" $1 "*)
    echo "error: GH006: Protected branch update failed for $1." >&2
    echo "error: Changes must be made through a pull request." >&2
    exit 1
    ;;
esac
"""

# What an owner's own rules, or a hook of a GitHub Enterprise host, have against any push.
REFUSING_HOOK = """\
#!/bin/sh
[ -z "$FORGE_REFUSES" ] && exit 0
printf '%s\\n' "$FORGE_REFUSES" >&2
exit 1
"""

GIT_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C.UTF-8",
}


class ForgeError(Exception):
    """A request that the forge's own tools (not its clients) cannot fulfil."""


def now() -> str:
    """The present, as GitHub writes it."""
    return timestamp(datetime.now(UTC))


def timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def git(directory: Path, *arguments: str, stdin: str | None = None) -> str:
    """Run git in one of our own bare repositories; its stdout, or ForgeError with its stderr."""
    done = subprocess.run(
        ["git", *arguments],
        cwd=directory,
        input=stdin,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(directory), **GIT_ENVIRONMENT},
    )
    if done.returncode:
        raise ForgeError(done.stderr.strip() or f"git {arguments[0]} failed")
    return done.stdout


def resolve(directory: Path, ref: str) -> str | None:
    """The commit that ``ref`` (branch, tag, SHA) names, or None. Branches win, as on GitHub."""
    for name in (f"refs/heads/{ref}", f"refs/tags/{ref}", ref):
        try:
            return git(directory, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").strip()
        except ForgeError:
            continue
    return None


def branches(directory: Path) -> dict[str, str]:
    lines = git(directory, "for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/heads/").split("\n")
    return dict(line.split(" ", 1) for line in lines[:-1])


def all_refs(directory: Path) -> dict[str, str]:
    """Branches and tags by their full names."""
    lines = git(directory, "for-each-ref", "--format=%(refname) %(objectname)", "refs/heads/", "refs/tags/")
    return dict(line.split(" ", 1) for line in lines.split("\n")[:-1])


def commit_files(directory: Path, branch: str, files: Mapping[str, str], message: str, when: int) -> str:
    """Add one commit on ``branch``, which starts from ``main`` where it is new.

    The same content at the same time gives the same SHA on every machine.
    """
    identity = f"AS215932 <noc@as215932.net> {when} +0000"
    tips = branches(directory)
    parent = tips.get(branch) or tips.get("main")
    lines = [f"commit refs/heads/{branch}", f"author {identity}", f"committer {identity}", _data(message + "\n")]
    if parent:
        lines.append(f"from {parent}")
    lines += [f"M 100644 inline {path}\n{_data(content)}" for path, content in files.items()]
    git(directory, "fast-import", "--quiet", stdin="\n".join(lines) + "\n")
    return git(directory, "rev-parse", f"refs/heads/{branch}").strip()


def _data(text: str) -> str:
    return f"data {len(text.encode())}\n{text}"


def import_source(root: Path, full_name: str, source: str) -> dict[str, str]:
    """Replace the branches and tags of a repository by those of a bundle, path or URL; returns its branches.

    Where the source has no ``main``, its HEAD becomes one, else its newest branch: a forge serves a default branch.
    """
    directory = root / "git" / f"{full_name}.git"
    if not directory.is_dir():
        raise ForgeError(f"no repository {full_name} in {root}: seed it first")
    if Path(source).exists():
        source = str(Path(source).resolve())
    git(
        directory,
        "fetch",
        "--quiet",
        "--force",
        "--prune",
        "--no-auto-gc",
        source,
        "+refs/heads/*:refs/heads/*",
        "+refs/tags/*:refs/tags/*",
    )
    found = branches(directory)
    if "main" not in found:
        head = _remote_head(directory, source) or next(iter(_newest(directory)), None)
        if head is None:
            raise ForgeError(f"{source} has no branches")
        git(directory, "update-ref", "refs/heads/main", head)
        found = branches(directory)
    return found


def _remote_head(directory: Path, source: str) -> str | None:
    rows = (row.split("\t") for row in git(directory, "ls-remote", source, "HEAD").split("\n"))
    return next((row[0] for row in rows if row[1:] == ["HEAD"]), None)


def _newest(directory: Path) -> list[str]:
    return git(directory, "for-each-ref", "--sort=-committerdate", "--format=%(objectname)", "refs/heads/").split()


class Store:
    """The forge's memory. Hold ``lock`` while reading or changing ``state``; ``save`` makes a change last."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = threading.RLock()
        self._state_file = root / "state.json"
        self._requests_file = root / "requests.jsonl"
        self.state: Record = {}
        self.leave: Callable[[float], None] = lambda seconds: None  # stop listening for so long
        self.violations: list[str] = []  # of GitHub's published description, by client or forge

    def open(self, seed: Mapping[str, Any] | None = None, token: str | None = None) -> Store:
        """Load what is there, else seed. Given no token, the bot keeps the one it has or gets a new one."""
        self.root.mkdir(parents=True, exist_ok=True)
        if self._state_file.exists():
            self.state = json.loads(self._state_file.read_text(encoding="utf-8"))
        else:
            self._seed({**DEFAULT_SEED, **(seed or {})})
        self._give_bot_a_token(token)
        return self

    def save(self) -> None:
        temporary = self._state_file.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.state, indent=1), encoding="utf-8")
        temporary.replace(self._state_file)

    def _seed(self, seed: Mapping[str, Any]) -> None:
        self.state = {
            "next_id": 1000,
            "bot": seed["bot"],
            "users": {},
            "tokens": {},
            "apps": {},
            "repos": {},
            "faults": [],
        }
        owner = str(seed["owner"])
        self.add_user(owner, "Organization", "admin")
        self.add_user(str(seed["bot"]), "Bot", "write")
        for repo in seed["repos"]:
            self.add_repo(
                f"{owner}/{repo['name']}",
                private=bool(repo.get("private")),
                files=repo.get("files"),
                labels=seed["labels"],
            )
        for issue in seed["issues"]:
            self.add_issue(f"{owner}/{issue['repo']}", owner, **{key: issue[key] for key in issue if key != "repo"})
        self.save()

    def _give_bot_a_token(self, token: str | None) -> None:
        file = self.root / "token"
        if token is None:
            if file.exists() and self.token_record(file.read_text(encoding="utf-8").strip()):
                return
            token = f"ghp_{secrets.token_hex(18)}"
        self.add_token(self.state["bot"], token=token)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            os.fchmod(handle.fileno(), 0o600)
            handle.write(token + "\n")

    def next_id(self) -> int:
        self.state["next_id"] += 1
        return int(self.state["next_id"])

    # --- users and tokens

    def add_user(self, login: str, kind: str = "User", role: str = "write") -> Record:
        user: Record = self.state["users"].setdefault(
            login, {"login": login, "id": self.next_id(), "created_at": now()}
        )
        user.update(type=kind, role=role)
        return user

    def add_token(
        self,
        login: str,
        token: str | None = None,
        seconds: int | None = None,
        uses: int | None = None,
        kind: str = "personal",
        app: str = "",
    ) -> str:
        """A token for ``login``, which ends after ``seconds`` or ``uses`` requests if told. Only its digest is kept."""
        token = token or f"{'ghs' if kind == 'installation' else 'ghp'}_{secrets.token_hex(18)}"
        if login not in self.state["users"]:
            self.add_user(login)
        ends = None if seconds is None else timestamp(datetime.now(UTC) + timedelta(seconds=seconds))
        self.state["tokens"][_digest(token)] = {
            "login": login,
            "kind": kind,
            "app": app,
            "expires_at": ends,
            "uses": uses,
        }
        self.save()
        return token

    def token_record(self, token: str) -> Record | None:
        """What is known of a token that is still good, else None."""
        record: Record | None = self.state["tokens"].get(_digest(token))
        if record is None or (record["expires_at"] and record["expires_at"] <= now()) or record["uses"] == 0:
            return None
        return record

    def app_of(self, record: Record | None) -> Record | None:
        """The app whose installation a token is of; None for a person's token."""
        found: Record | None = self.state["apps"].get(record["app"]) if record and record["app"] else None
        return found

    def time(self) -> float:
        """The present by the forge's own clock, which a test may set."""
        return time.time() + float(self.state.get("clock", 0))

    def limit_tokens(self, login: str, uses: int | None) -> None:
        """From now on the tokens of ``login`` are good for so many requests; None for any number."""
        for record in self.state["tokens"].values():
            if record["login"] == login:
                record["uses"] = uses

    # --- repositories

    def add_repo(
        self,
        full_name: str,
        *,
        private: bool = False,
        files: Mapping[str, str] | None = None,
        labels: Sequence[Mapping[str, Any]] = (),
    ) -> Record:
        directory = self.directory(full_name)
        directory.mkdir(parents=True, exist_ok=True)
        git(directory, "init", "--quiet", "--bare", "--initial-branch=main", "--template=", ".")
        with (directory / "config").open("a", encoding="utf-8") as config:
            config.write(REPOSITORY_CONFIG)
        (directory / "hooks").mkdir(exist_ok=True)
        for kind, script in (("update", PROTECTION_HOOK), ("pre-receive", REFUSING_HOOK)):
            hook = directory / "hooks" / kind
            hook.write_text(script, encoding="utf-8")
            hook.chmod(0o755)
        name = full_name.split("/", 1)[1]
        content = files or {
            "README.md": f"# {name}\n\nThe {name} repository of AS215932.\n",
            "docs/index.md": f"# Documentation of {name}\n\nStart here.\n",
        }
        commit_files(directory, "main", content, f"Start {name}", when=1767225600)
        repo: Record = {
            "id": self.next_id(),
            "private": private,
            "default_branch": "main",
            "protected": ["main"],
            "created_at": now(),
            "next_number": 1,
            "labels": {},
            "issues": {},
            "statuses": [],
            "check_runs": [],
        }
        self.state["repos"][full_name] = repo
        for label in labels:
            self.add_label(repo, **label)
        return repo

    def directory(self, full_name: str) -> Path:
        return self.root / "git" / f"{full_name}.git"

    def add_label(self, repo: Record, name: str, color: str = "ededed", description: str | None = None) -> Record:
        label = {"id": self.next_id(), "name": name, "color": color, "description": description}
        repo["labels"][name] = label
        return label

    # --- issues and pull requests: one numbering, as on GitHub

    def add_issue(
        self,
        full_name: str,
        login: str,
        *,
        title: str,
        body: str | None = None,
        labels: Sequence[str] = (),
        number: int | None = None,
        pull: Record | None = None,
    ) -> Record:
        repo = self.state["repos"][full_name]
        number = number or repo["next_number"]
        if str(number) in repo["issues"]:
            raise ForgeError(f"{full_name}#{number} exists")
        for name in labels:
            if name not in repo["labels"]:
                self.add_label(repo, name)
        issue: Record = {
            "id": self.next_id(),
            "number": number,
            "title": title,
            "body": body,
            "state": "open",
            "user": login,
            "labels": list(dict.fromkeys(labels)),
            "created_at": now(),
            "updated_at": now(),
            "closed_at": None,
            "state_reason": None,
            "comments": [],
            "pull": pull,
        }
        repo["issues"][str(number)] = issue
        repo["next_number"] = max(repo["next_number"], number + 1)
        return issue

    def note_pushed(self, full_name: str) -> None:
        """Open pull requests follow their branch; one whose branch is gone is closed, as on GitHub."""
        repo = self.state["repos"][full_name]
        tips = branches(self.directory(full_name))
        repo["pushed_at"] = now()
        for issue in repo["issues"].values():
            pull = issue["pull"]
            if not pull or issue["state"] != "open":
                continue
            tip = tips.get(pull["head"])
            if tip is None:
                issue.update(state="closed", closed_at=now(), updated_at=now())
            elif tip != pull["head_sha"]:
                pull["head_sha"] = tip
                issue["updated_at"] = now()
        self.save()

    # --- what was asked

    def record(self, entry: Mapping[str, Any]) -> None:
        with self.lock, self._requests_file.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(entry) + "\n")

    def requests(self) -> list[Record]:
        if not self._requests_file.exists():
            return []
        with self.lock:
            return [json.loads(line) for line in self._requests_file.read_text(encoding="utf-8").splitlines()]


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
