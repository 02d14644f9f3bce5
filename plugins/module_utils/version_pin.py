# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pin: which commit of the engine a host shall run, one value in a YAML file of the inventory."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from .errors import LoopError, MissingLibrary
from .files import read_bytes, write_atomic
from .gitcmd import credentials, git

try:
    import yaml
except ImportError:
    yaml = None  # type: ignore[assignment]

KEY = "engineering_loop_version"
NETWORK_SECONDS = 300.0
FULL_SHA = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Pin:
    """The value in a file's text, and where it stands (``start`` to ``end``, in characters, quotes included)."""

    value: str
    text: str
    start: int
    end: int

    def replaced(self, sha: str) -> str:
        """The whole text with ``sha`` for the value, everything else as it was."""
        quote = self.text[self.start] if self.text[self.start] in "'\"" else ""
        # A SHA of nothing but digits would be read as a number.
        quote = quote or ("" if isinstance(yaml.safe_load(sha), str) else '"')
        return f"{self.text[: self.start]}{quote}{sha}{quote}{self.text[self.end :]}"


@dataclass(frozen=True)
class Bump:
    """From which commit to which. Numbers are None where the old one is not in the repository any more."""

    before: str
    after: str
    commits: int | None  # new ones
    dropped: int | None  # of the old one's that the new one lacks
    branch: str  # the repository's default
    compare: str  # a link, empty where there is none

    @property
    def changed(self) -> bool:
        return self.before != self.after


def parse(content: bytes, path: str) -> Pin:
    """The pin in the content of ``path``. LoopError unless it is there once, as a plain full SHA."""
    if yaml is None:
        raise MissingLibrary("PyYAML", "python3-yaml")
    if content.startswith(b"$ANSIBLE_VAULT;"):
        raise LoopError(f"{path} is encrypted by ansible-vault: the pin is no secret, keep {KEY} in a plain file")
    try:
        text = content.decode("utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise LoopError(f"{path} is not UTF-8 at byte {error.start}") from error
    except yaml.YAMLError as error:
        mark: Any = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise LoopError(f"{path} is no YAML that Ansible could read{where}") from None  # its text shows the file's
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    found = [(key, value) for key, value in pairs if isinstance(key, yaml.ScalarNode) and key.value == KEY]
    if not found:
        raise LoopError(f"{path} has no {KEY}: write it there once, as the full SHA of a commit")
    if len(found) > 1:
        lines = " and ".join(str(key.start_mark.line + 1) for key, _value in found)
        raise LoopError(f"{path} has {KEY} {len(found)} times, in lines {lines}: leave one")
    key, node = found[0]
    where = f"{path} line {key.start_mark.line + 1}"
    if node.tag == "!vault":
        raise LoopError(f"{where}: {KEY} is encrypted by ansible-vault: the pin is no secret, write it plainly")
    value = node.value if isinstance(node, yaml.ScalarNode) else ""
    start, end = node.start_mark.index, node.end_mark.index
    # An alias, an anchor, a tag or a block scalar is not simply the value between its quotes.
    plain = text[start:end] in (value, f"'{value}'", f'"{value}"') and start >= key.end_mark.index
    if not plain or not FULL_SHA.fullmatch(value):
        raise LoopError(f"{where}: {KEY} must be the full SHA of a commit, 40 lower-case hex digits, to be bumped")
    return Pin(value, text, start, end)


def load(path: str) -> Pin:
    """The pin in the file ``path``; LoopError where it is not there, not to be written or not fit (see ``parse``)."""
    content = read_bytes(os.path.realpath(path))
    if content is None:
        raise LoopError(f"the pin file {path} does not exist: name the file that holds {KEY}")
    if not os.access(path, os.W_OK, effective_ids=True):
        raise LoopError(f"the pin file {path} may not be written by this user")
    return parse(content, path)


def write(path: str, pin: Pin, sha: str) -> None:
    """Put ``sha`` in the place of the value; owner, mode and all other bytes stay. Nothing is left half done."""
    real = os.path.realpath(path)
    if read_bytes(real) != pin.text.encode():
        raise LoopError(f"{path} was changed by somebody else meanwhile: run again")
    status = os.stat(real)
    write_atomic(real, pin.replaced(sha).encode(), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


def resolve(
    repo: str,
    before: str,
    to: str = "",
    *,
    token: str = "",
    forge: str = "",
    allow_downgrade: bool = False,
    any_branch: bool = False,
) -> Bump:
    """What a bump from the SHA ``before`` to ``to`` is: a SHA (7 digits or more), a tag or a branch of ``repo``.

    Without ``to``, the tip of the default branch. The commit must be on the default branch unless
    ``any_branch``, and descend from ``before`` unless ``allow_downgrade``. The token goes to ``forge`` alone.
    Fetches history only, no files, into a directory that is gone afterwards. Raises LoopError, never with a
    credential in it.
    """
    shown = redact(repo)
    if not repo or repo.startswith("-") or "::" in repo or any(ord(letter) < 32 for letter in repo):
        raise LoopError(f"repo {shown!r} is not the URL or path of a git repository or bundle")
    if re.match(r"https?://[^/]*@|\w+://[^@]*:[^@]*@", repo):
        raise LoopError(f"repo {shown} holds a password, which every user of this machine could read: use GH_TOKEN")
    with tempfile.TemporaryDirectory() as directory:
        environment, config = credentials(repo, token, forge=forge)
        config.update({"http.lowSpeedLimit": "1000", "http.lowSpeedTime": "30"})
        clone = ["clone", "--quiet", "--bare", "--filter=tree:0", "--template=", "--", repo, "engine.git"]
        try:
            git(directory, clone, environment=environment, config=config, timeout=NETWORK_SECONDS)
        except LoopError as error:
            # git repeats the URL, and our own directory says nothing to anybody.
            raise LoopError(f"{shown} cannot be read: {redact(str(error).partition(': ')[2])}") from None
        return _judge(os.path.join(directory, "engine.git"), repo, before, to, allow_downgrade, any_branch)


def _judge(mirror: str, repo: str, before: str, to: str, allow_downgrade: bool, any_branch: bool) -> Bump:
    shown = redact(repo)
    listed = git(mirror, ["for-each-ref", "--format=%(refname)"])[1].split("\n")
    default = git(mirror, ["symbolic-ref", "--quiet", "HEAD"], ok=(0, 1))[1].strip()
    if default not in listed:
        raise LoopError(f"{shown} has no default branch: its HEAD names no branch that is there")
    branch = default.removeprefix("refs/heads/")
    commits = git(mirror, ["rev-list", "--all"])[1].split()  # asking for one by name would fetch it from anywhere
    after = _named(mirror, shown, to, default, listed, commits)

    def count(span: str) -> int:
        return int(git(mirror, ["rev-list", "--count", span])[1])

    if not any_branch and count(f"{default}..{after}"):
        raise LoopError(f"{after} is not on {branch}, the default branch of {shown}: merge it first, or set any_branch")
    new = dropped = None
    if before in commits:
        new, dropped = count(f"{before}..{after}"), count(f"{after}..{before}")
    if dropped != 0 and not allow_downgrade:
        if dropped is None:
            why = f"cannot be compared: the pinned {before} is not in {shown}"
        elif new:
            why = f"is not newer than the pinned {before}: the two have diverged"
        else:
            why = f"is older than the pinned {before}, by {dropped} commit{'s' if dropped > 1 else ''}"
        raise LoopError(f"{after} {why}; set allow_downgrade if you want it all the same")
    return Bump(before, after, new, dropped, branch, compare_link(repo, before, after))


def _named(mirror: str, shown: str, to: str, default: str, listed: list[str], commits: list[str]) -> str:
    """The SHA of the commit that ``to`` names."""
    if FULL_SHA.fullmatch(to) and to in commits:
        return to
    refs = [ref for ref in ((f"refs/tags/{to}", f"refs/heads/{to}") if to else (default,)) if ref in listed]
    found = {git(mirror, ["rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}"])[1].strip() for ref in refs}
    if not found and re.fullmatch(r"[0-9a-f]{7,39}", to):
        found = {sha for sha in commits if sha.startswith(to)}
    if not found:
        raise LoopError(f"{shown} has no branch, tag or commit (on a branch or tag) that is called {to!r}")
    if len(found) > 1:
        raise LoopError(f"{to!r} names {len(found)} commits of {shown}: give the full SHA")
    return found.pop()


def compare_link(repo: str, before: str, after: str) -> str:
    """Where a browser shows the difference, for a URL like GitHub's; empty for all others."""
    parts = urlsplit(repo)
    path = parts.path.strip("/").removesuffix(".git")
    if parts.scheme != "https" or not parts.hostname or path.count("/") != 1 or before == after:
        return ""
    return f"https://{parts.netloc.rpartition('@')[2]}/{path}/compare/{before}...{after}"


def redact(text: str) -> str:
    """``text`` without the user and password of any URL in it."""
    return re.sub(r"://\S+@", "://***@", text)
