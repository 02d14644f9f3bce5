# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pin: which commit of the engine a host shall run, one value in a YAML file of the inventory."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ..base.errors import LoopError, MissingLibrary, without_passwords
from ..base.files import read_bytes, write_atomic
from ..git.command import credentials, git
from ..git.remotes import check_engine

try:
    import yaml
except ImportError:
    yaml = None  # type: ignore[assignment]

KEY = "engineering_loop_version"
EXTENSIONS = ("", ".yml", ".yaml", ".json")  # that Ansible reads, in its order
ALL = "all"
NETWORK_SECONDS = 300.0
VAULT = b"$ANSIBLE_VAULT;"
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


class Found(NamedTuple):
    """The file that is in force, and those that have the key as well and are not."""

    path: str
    overridden: list[str]


def find(sources: Sequence[str], host: str, groups: Sequence[str], key: str = KEY, in_force: str = "") -> Found:
    """The file that gives ``host`` its ``key``: in ``host_vars`` or ``group_vars`` beside one of ``sources``.

    These are inventories, and last the directory of the playbook; what comes later wins, as it does for Ansible. Which
    of several groups wins is not known here: the value ``in_force`` says it. LoopError where that leaves it open.
    """
    tops = [path for path in (_directory(source) for source in sources) if path]
    layers = [("group_vars", [ALL]), ("group_vars", [name for name in groups if name != ALL]), ("host_vars", [host])]
    read = [
        ((layer, top), name, path, read_bytes(os.path.realpath(path)) or b"")
        for layer, (kind, names) in enumerate(layers)
        for top in dict.fromkeys(tops)
        for name in names
        for path in _files(f"{top}/{kind}/{name}")
    ]
    found = [one for one in read if _has(one[3], key)]
    if not found:
        closed = [path for _rank, _name, path, content in read if content.startswith(VAULT)]
        raise LoopError(
            f"no file in host_vars or group_vars beside {' or '.join(tops) or 'the inventory'} has {key} for {host}"
            + (f", {', '.join(closed)} are encrypted by ansible-vault and were not looked into" if closed else "")
            + f": write it into host_vars/{host}.yml, plainly and once, or name the file: -e engineering_loop_pin_file="
        )
    best = [one for one in found if one[0] == found[-1][0]]
    if len({name for _rank, name, *_file in best}) > 1:
        best = [one for one in best if parse(one[3], one[2], key).value == in_force]
    if len({name for _rank, name, *_file in best}) != 1:
        raise LoopError(
            f"{key} of {host} stands in {', '.join(one[2] for one in found)}, and which of the groups wins"
            " cannot be told: leave one, or name the file: -e engineering_loop_pin_file="
        )
    path = best[-1][2]
    return Found(path, [one[2] for one in found if one[2] != path])


def _directory(source: str) -> str:
    """Where ``host_vars`` of an inventory would be; nothing for a list of hosts."""
    if os.path.isdir(source):
        return os.path.normpath(source)
    return os.path.dirname(os.path.abspath(source)) if os.path.exists(source) else ""


def _files(stem: str) -> list[str]:
    """The files of a host or group as Ansible takes them: the first of these names, of a directory all in it."""
    path = next((path for path in (f"{stem}{extension}" for extension in EXTENSIONS) if os.path.exists(path)), "")
    return _below(path) if os.path.isdir(path) else [path] if path else []


def _below(directory: str) -> list[str]:
    found: list[str] = []
    for name in sorted(os.listdir(directory)):
        path = f"{directory}/{name}"
        if name.startswith(".") or name.endswith("~"):
            continue
        if os.path.isdir(path):
            found += _below(path)
        elif os.path.splitext(name)[1] in EXTENSIONS:
            found.append(path)
    return found


def _has(content: bytes, key: str) -> bool:
    if key.encode() not in content or yaml is None:
        return False
    try:
        return bool(_values(content.decode("utf-8"), key))
    except (UnicodeDecodeError, yaml.YAMLError):
        return True  # what is wrong is said when it is parsed


def _values(text: str, key: str) -> list[tuple[Any, Any]]:
    """The nodes of each time that the key stands at the top."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    return [(name, value) for name, value in pairs if isinstance(name, yaml.ScalarNode) and name.value == key]


def parse(content: bytes, path: str, pinned: str = KEY) -> Pin:
    """The pin ``pinned`` in the content of ``path``. LoopError unless it is there once, as a plain full SHA."""
    if yaml is None:
        raise MissingLibrary("PyYAML", "python3-yaml")
    if content.startswith(VAULT):
        raise LoopError(f"{path} is encrypted by ansible-vault: the pin is no secret, keep {pinned} in a plain file")
    try:
        text = content.decode("utf-8")
        found = _values(text, pinned)
    except UnicodeDecodeError as error:
        raise LoopError(f"{path} is not UTF-8 at byte {error.start}") from error
    except yaml.YAMLError as error:
        at: Any = getattr(error, "problem_mark", None)
        where = f" in line {at.line + 1}" if at else ""
        raise LoopError(f"{path} is no YAML that Ansible could read{where}") from None  # its text shows the file's
    if not found:
        raise LoopError(f"{path} has no {pinned}: write it there once, as the full SHA of a commit")
    if len(found) > 1:
        lines = " and ".join(str(key.start_mark.line + 1) for key, _value in found)
        raise LoopError(f"{path} has {pinned} {len(found)} times, in lines {lines}: leave one")
    key, node = found[0]
    where = f"{path} line {key.start_mark.line + 1}"
    if node.tag == "!vault":
        raise LoopError(f"{where}: {pinned} is encrypted by ansible-vault: the pin is no secret, write it plainly")
    value = node.value if isinstance(node, yaml.ScalarNode) else ""
    start, end = node.start_mark.index, node.end_mark.index
    # An alias, an anchor, a tag or a block scalar is not simply the value between its quotes.
    plain = text[start:end] in (value, f"'{value}'", f'"{value}"') and start >= key.end_mark.index
    if not plain or not FULL_SHA.fullmatch(value):
        raise LoopError(f"{where}: {pinned} must be the full SHA of a commit, 40 lower-case hex digits, to be bumped")
    return Pin(value, text, start, end)


def load(path: str, key: str = KEY) -> Pin:
    """The pin in the file ``path``; LoopError where it is not there, not to be written or not fit (see ``parse``)."""
    content = read_bytes(os.path.realpath(path))
    if content is None:
        raise LoopError(f"the pin file {path} does not exist: name the file that holds {key}")
    if not os.access(path, os.W_OK, effective_ids=True):
        raise LoopError(f"the pin file {path} may not be written by this user")
    return parse(content, path, key)


def write(path: str, pin: Pin, sha: str) -> None:
    """Put ``sha`` in the place of the value; owner, mode and all other bytes stay. Nothing is left half done."""
    real = os.path.realpath(path)
    if read_bytes(real) != pin.text.encode():
        raise LoopError(f"{path} was changed by somebody else meanwhile: run again")
    status = os.stat(real)
    write_atomic(real, pin.replaced(sha).encode(), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


@dataclass(frozen=True)
class Target:
    """What to bump to: a SHA (7 digits or more), a tag or a branch of ``repo``; without ``to`` its default branch.

    The commit must be on the default branch unless ``any_branch``, and descend from the pinned one unless
    ``allow_downgrade``. The token goes to ``forge`` alone. Without ``repo`` nobody is asked, and ``to`` is a full SHA.
    """

    repo: str
    to: str = ""
    token: str = field(default="", repr=False)
    forge: str = ""
    allow_downgrade: bool = False
    any_branch: bool = False


def resolve(target: Target, before: str) -> Bump:
    """What a bump from the SHA ``before`` to the target is. LoopError, never with a credential in it, where it is none.

    Fetches history only, no files, into a directory that is gone afterwards.
    """
    repo, to = target.repo, target.to
    if not repo:
        if not FULL_SHA.fullmatch(to):
            raise LoopError(f"{to!r} is not the full SHA of a commit: without its repository no other name means one")
        return Bump(before, to, None, None, "", "")
    check_engine(repo, on_host=False)
    with tempfile.TemporaryDirectory() as directory:
        environment, config = credentials(repo, target.token, forge=target.forge)
        config.update({"http.lowSpeedLimit": "1000", "http.lowSpeedTime": "30"})
        clone = ["clone", "--quiet", "--bare", "--filter=tree:0", "--template=", "--", repo, "engine.git"]
        try:
            git(directory, clone, environment=environment, config=config, timeout=NETWORK_SECONDS)
        except LoopError as error:
            # git repeats the URL, and our own directory says nothing to anybody.
            told = without_passwords(str(error).replace(f" in {directory}", ""))
            raise LoopError(f"{without_passwords(repo)} cannot be read: {told.partition(': ')[2] or told}") from None
        return _judge(os.path.join(directory, "engine.git"), target, before)


def _judge(mirror: str, target: Target, before: str) -> Bump:
    shown = without_passwords(target.repo)
    listed = git(mirror, ["for-each-ref", "--format=%(refname)"])[1].split("\n")
    default = git(mirror, ["symbolic-ref", "--quiet", "HEAD"], ok=(0, 1))[1].strip()
    if default not in listed:
        raise LoopError(f"{shown} has no default branch: its HEAD names no branch that is there")
    branch = default.removeprefix("refs/heads/")
    commits = git(mirror, ["rev-list", "--all"])[1].split()  # asking for one by name would fetch it from anywhere
    after = _named(mirror, shown, target.to, default, listed, commits)

    def count(span: str) -> int:
        return int(git(mirror, ["rev-list", "--count", span])[1])

    if not target.any_branch and count(f"{default}..{after}"):
        raise LoopError(
            f"{after} is not on {branch}, the default branch of {shown}: merge it first, or -e any_branch=true"
        )
    new = dropped = None
    if before in commits:
        new, dropped = count(f"{before}..{after}"), count(f"{after}..{before}")
    if dropped != 0 and not target.allow_downgrade:
        if dropped is None:
            why = f"cannot be compared: the pinned {before} is not in {shown}"
        elif new:
            why = f"is not newer than the pinned {before}: the two have diverged"
        else:
            why = f"is older than the pinned {before}, by {dropped} commit{'s' if dropped > 1 else ''}"
        raise LoopError(f"{after} {why}; if you want it all the same: -e allow_downgrade=true")
    return Bump(before, after, new, dropped, branch, compare_link(target.repo, before, after))


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
