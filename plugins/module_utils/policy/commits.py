# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a branch would publish, asked from git: each commit's changes, those of its merges, and the commits' text."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..base.errors import LoopError
from ..base.untrusted import show
from ..git import command
from .change import DIRECTORY, MODULE, Change, encoded
from .diff import DiffReader, read_file

GIT_SECONDS = 120.0
MAX_COMMITS = 1000
MAX_PARENTS = 16
# A few objects can be made into a difference without end: trees in trees in trees.
MAX_SAID = 128 * 1024 * 1024  # bytes
MAX_ARGUMENTS = 100_000  # bytes; a host may allow more

# The diff is git's own, and nothing that the repository or its attributes say can shorten it.
EVERY_FILE = ("-r", "--no-renames", "--no-relative", "--ignore-submodules=none")
DIFF_OPTIONS = (
    *(*EVERY_FILE, "-p", "--text", "--full-index", "--no-ext-diff", "--no-textconv", "--no-color", "--submodule=short"),
    *("--unified=3", "--src-prefix=a/", "--dst-prefix=b/"),
)
# Of a merge, what differs from every parent.
OWN_FILES = (*EVERY_FILE, "--stdin", "-c", "--raw", "-z", "--always", "--no-abbrev")
CONFIG = {"core.quotePath": "true", "diff.noprefix": "false", "core.fileMode": "true"}
OID = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
# git's names for a directory with nothing in it.
HOLLOW = tuple(digest(b"tree 0\0").hexdigest() for digest in (hashlib.sha1, hashlib.sha256))


@dataclass(frozen=True)
class BoundedGit:
    """git in one directory, bare or not, whose answers are bounded in time and size.

    ``environment`` is for git, such as the variables of a push that is still in quarantine.
    """

    directory: str
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, stdin: bytes | None = None, ok: Sequence[int] = (0,)) -> tuple[int, str]:
        """Exit status and stdout. LoopError where the status is not in ``ok``, or a bound is reached."""
        environment = {"GIT_LITERAL_PATHSPECS": "1", **self.environment}
        return command.git(
            *(self.directory, arguments), stdin=stdin, environment=environment, config=CONFIG, ok=ok,
            timeout=GIT_SECONDS, most=MAX_SAID,
        )[:2]  # fmt: skip

    def __call__(self, *arguments: str, stdin: bytes | None = None) -> str:
        """stdout of a git that must succeed."""
        return self.run(*arguments, stdin=stdin)[1]


class Work(NamedTuple):
    """What is published with a branch: its changes, and its commits' own text, which no diff shows."""

    changes: list[Change]
    commits: str
    names: Sequence[str] = ()  # of these commits, oldest first


def work_between(directory: str, base: str, head: str = "HEAD", environment: Mapping[str, str] | None = None) -> Work:
    """Everything that ``base..head`` publishes or would change in ``base``, and nothing that ``base`` itself did.

    Each commit with what it has that none of its parents has: a file that differs from that of every parent, and of
    it the lines that every parent lacks. So what one commit adds and the next removes is there, and a merge counts with
    what somebody wrote while merging. Whatever ``head`` holds got in by one of these commits, or stood in ``base``
    before.

    That does not say what is lost: a merge may keep an older side of a file, and so undo what ``base`` has, without
    a line of its own. Only merges can. So where there is one, the difference from the common ancestor with ``base``
    to ``head`` is there too, as a pull request shows it (``Change.since``). A merge into ``base`` changes just what
    is in that difference; and what came from ``base`` by an honest merge is in the ancestor as well, so not in it.
    Of several common ancestors (a criss-cross of merges) each is looked at; a file that is as in ``base`` is left
    alone, since there it changes nothing. Without any, every file of ``head`` came in by a commit of its own.

    Runs git in ``directory``, with ``environment``, as the user that calls. Four git processes; with merges six, and
    one more where somebody wrote something while merging.
    """
    git = BoundedGit(directory, environment or {})
    base, listing = _commits(git, base, head)
    merges = {commit: parents for commit, *parents in listing if len(parents) > 1}
    pairs = [(commit, parents[0] if parents else "") for commit, *parents in listing if commit not in merges]
    ancestors: list[str] = []
    tip = listing[-1][0] if listing else ""
    if merges:
        ancestors = git.run("merge-base", "--all", base, tip, ok=(0, 1))[1].split()
        pairs += [(tip, older) for older in ([*ancestors, base] if len(ancestors) > 1 else ancestors)]
    sides = _diffs(git, pairs)
    plain = len(listing) - len(merges)
    own, whole = sides[:plain], sides[plain:]
    changes = [
        change._replace(commit=pair[0]) for pair, side in zip(pairs[:plain], own, strict=True) for change in side
    ]
    changes += _written_while_merging(git, merges)
    differing = {change.path for change in whole[-1]} if whole else set()  # from the only ancestor, or from the base
    for ancestor, side in zip(ancestors, whole[: len(ancestors)], strict=True):
        changes += [change._replace(commit=tip, since=ancestor) for change in side if change.path in differing]
    changes += _hollow(git, base, tip) if tip else []
    return complete(git, changes, [entry[0] for entry in listing])


def _hollow(git: BoundedGit, base: str, head: str) -> list[Change]:
    """A directory with nothing in it that ``base..head`` has, the first one: no difference shows it, nor its name.

    git itself makes none. All are one object, which is listed once.
    """
    listed = command.rows(git("rev-list", "--objects", head, f"^{base}"))
    found = (row.partition(" ") for row in listed if row.startswith(HOLLOW))
    return [Change(path or ".", mode=DIRECTORY, commit=head) for _name, _space, path in found]


def _commits(git: BoundedGit, base: str, head: str) -> tuple[str, list[list[str]]]:
    """git's name of ``base``, and the commits in ``base..head``, each followed by its parents, oldest first."""
    first, last = (name if OID.fullmatch(name) else _commit(git, name) for name in (base, head))
    options = ["--reverse", "--topo-order", "--parents", f"--max-count={MAX_COMMITS + 1}"]
    status, out = git.run("rev-list", *options, f"{last}^{{commit}}", f"^{first}^{{commit}}", ok=(0, 128))
    if status:
        for name in (base, head):
            _commit(git, name)
        raise LoopError(f"{git.directory}: the commits from {show(base)} to {show(head)} cannot be told")
    listing = [line.split() for line in out.splitlines()]
    if len(listing) > MAX_COMMITS:
        ends = f"from {show(base)} to {show(head)}"
        raise LoopError(f"{git.directory}: more than {MAX_COMMITS} commits {ends}, allowed: fewer")
    for commit, *parents in listing:
        if len(parents) > MAX_PARENTS:
            raise LoopError(f"{git.directory}: {commit} has {len(parents)} parents, allowed: {MAX_PARENTS}")
    return first, listing


def _commit(git: BoundedGit, name: str) -> str:
    """git's own name of a commit."""
    words = ["--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"]
    status, out = git.run("rev-parse", *words, ok=(0, 1, 128))
    if status:
        raise LoopError(f"{git.directory}: there is no commit {show(name)}")
    return out.strip()


def _diffs(git: BoundedGit, pairs: Sequence[tuple[str, str]], only: Sequence[str] = ()) -> list[list[Change]]:
    """For each (commit, older one) what differs, if need be in some paths only; '' is older than the first commit."""
    if not pairs:
        return []
    asked = "".join(f"{commit} {older}".rstrip() + "\n" for commit, older in pairs)
    text = git("diff-tree", "--stdin", "--root", "--always", *DIFF_OPTIONS, "--", *only, stdin=asked.encode())
    reader = DiffReader(encoded(text))
    sides: list[list[Change]] = []
    for commit, _older in pairs:
        if reader.line != commit:
            raise reader.refuse(f"found {show(reader.line)!r} where the changes of {commit} begin")
        reader.at += 1
        found: list[Change] = []
        while reader.line.startswith("diff --git "):
            found.append(read_file(reader))
        sides.append(found)
    if reader.line:
        raise reader.refuse(f"found {show(reader.line)!r} where all changes have been told")
    return sides


def _written_while_merging(git: BoundedGit, merges: Mapping[str, Sequence[str]]) -> list[Change]:
    """What merges have that none of their parents has. What an honest one brings in is not even read."""
    if not merges:
        return []
    asked = "".join(f"{commit} {' '.join(parents)}\n" for commit, parents in merges.items())
    words = iter(git("diff-tree", *OWN_FILES, stdin=asked.encode()).split("\0"))
    written: dict[str, list[str]] = {}
    commit = ""
    for word in words:
        if word.startswith(":"):
            written.setdefault(commit, []).append(next(words))
        else:
            commit = word
    if not written:
        return []
    paths = set().union(*written.values())
    # More names than a command may have are left out: then all is read, and the same found in it.
    only = sorted(paths) if sum(map(len, paths)) < MAX_ARGUMENTS else []
    pairs = [(commit, parent) for commit in written for parent in merges[commit]]
    sides = iter(_diffs(git, pairs, only))
    changes: list[Change] = []
    for commit in written:
        first, *others = [next(sides) for _parent in merges[commit]]
        known = [_by_path(side) for side in others]
        for change in first:
            same = [side.get(change.path, []) for side in known]
            if all(same):
                changes.append(_without_the_known(change, same)._replace(commit=commit))
    return changes


def _by_path(side: Sequence[Change]) -> dict[str, list[Change]]:
    found: dict[str, list[Change]] = {}
    for change in side:  # a file that becomes a link is there twice: removed, and added
        found.setdefault(change.path, []).append(change)
    return found


def _without_the_known(change: Change, sides: Sequence[Sequence[Change]]) -> Change:
    """A merge's change to one file, without the lines and the mode that another parent has."""
    for side in sides:
        if any(other.old_mode == change.mode for other in side):
            change = change._replace(old_mode=change.mode)
        if not change.binary:
            added = {line for other in side for line in other.added}
            strays = {line for other in side for line in other.strays}
            change = change._replace(
                added=tuple(line for line in change.added if line in added),
                strays=tuple(line for line in change.strays if line in strays),
            )
    return change


def complete(git: BoundedGit, changes: list[Change], commits: Sequence[str] = ()) -> Work:
    """The changes with the whole size of each file, which a diff does not tell, and the commits' text."""
    blobs = sorted({change.blob for change in changes if change.blob and change.mode != MODULE})
    asked = "".join([*(f"info {blob}\n" for blob in blobs), *(f"contents {commit}\n" for commit in commits)])
    if not asked:
        return Work(changes, "")
    answer = git("cat-file", "--batch-command", stdin=asked.encode())
    lines = answer.split("\n", len(blobs))
    sizes = {words[0]: int(words[2]) for words in map(str.split, lines[: len(blobs)]) if len(words) == 3}
    whole = [change._replace(size=sizes.get(change.blob, change.size)) for change in changes]
    return Work(whole, lines[-1] if commits else "", commits)
