# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the gate policy says about a change: the engine's own verdict, and ours where that can be fooled.

Changes come from a unified diff, from the commits of a range, or from a worktree; all
three end in one reader, that of git's own diff format. docs/gate-policy.md lists every
difference from the engine's evaluation with its reason.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import os
import pathlib
import posixpath
import re
import shlex
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..base.errors import LoopError
from ..base.files import read_bytes
from ..base.untrusted import show
from ..git.command import git, rows
from .document import Policy, admits_handoff, effective, guards
from .paths import (
    MAX_PATH,
    PROTECTED,
    is_below,
    is_git_itself,
    is_inside,
    normal_prefix,
    odd_character,
    on_windows,
    protector,
)
from .patterns import Pattern, deadline, prepare

JUDGE_SECONDS = 60.0
GIT_SECONDS = 120.0
MAX_COMMITS = 1000
# A few objects can be made into a difference without end: trees in trees in trees.
MAX_SAID = 128 * 1024 * 1024
MAX_PARENTS = 16
MAX_ARGUMENTS = 100_000  # bytes; a host may allow more
MAX_READ = 64 * 1024 * 1024

LINK, MODULE, PROGRAM, DIRECTORY = "120000", "160000", "100755", "040000"
MODES = ("", "000000", "100644", PROGRAM, LINK, MODULE)


def _words(text: str) -> list[str]:
    return text.split()


class Violation(NamedTuple):
    """One reason why something is not allowed: the rule's key, what broke it, and how."""

    rule: str
    subject: str
    reason: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason} [{self.rule}]"


class Change(NamedTuple):
    """One changed file. Names and text carry bytes that are not UTF-8 as surrogates."""

    path: str
    origin: str = ""  # the other name of a rename or a copy
    old_mode: str = ""
    mode: str = ""
    deleted: bool = False
    binary: bool = False
    added: tuple[str, ...] = ()
    strays: tuple[str, ...] = ()  # what only the engine takes for added lines, see ODD_ENDS
    size: int = 0  # of the file after the change; at least what was added where nothing more is known
    blob: str = ""
    commit: str = ""
    since: str = ""  # of what is changed on the whole: the common ancestor with the base that it is told from


# --- reading a unified diff ------------------------------------------------------------------------------

HUNK = re.compile(r"@@ -\d+(?:,(\d{1,9}))? \+\d+(?:,(\d{1,9}))? @@")
BASE85 = re.compile(r"[A-Za-z][0-9A-Za-z!#$%&()*+;<=>?@^_`{|}~-]{5,65}")
# str.splitlines, and so the engine, sees a line's end in more characters than git does.
ODD_ENDS = re.compile("[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
ESCAPES = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, '"': 34, "\\": 92}


class _Reader:
    """A position in the lines of a diff, and the file that is being put together."""

    def __init__(self, content: bytes) -> None:
        text = content.decode("utf-8", "surrogateescape")
        self.lines = text.split("\n")
        self.odd = bool(ODD_ENDS.search(text))
        self.nul = "\0" in text
        self.at = 0

    def refuse(self, reason: str) -> LoopError:
        return LoopError(f"the diff cannot be read: line {self.at + 1}: {reason}")

    def has_nul(self, start: int) -> bool:
        return self.nul and any("\0" in line for line in self.lines[start : self.at])

    def more(self) -> bool:
        return self.at < len(self.lines)

    @property
    def line(self) -> str:
        return self.peek(0, "")

    def peek(self, ahead: int, otherwise: str) -> str:
        return self.lines[self.at + ahead] if self.at + ahead < len(self.lines) else otherwise


def changes_in_diff(content: bytes) -> list[Change]:
    """The changes in a unified diff as git writes it. LoopError where any part of it is not understood.

    Lines of a hunk are counted, so a line of content cannot pass for a header.
    """
    reader = _Reader(content)
    changes: list[Change] = []
    while reader.more():
        line = reader.line
        if line.startswith("diff --git ") or (line.startswith("--- ") and reader.peek(1, "").startswith("+++ ")):
            changes.append(_read_file(reader))
        elif line.startswith(("diff --cc ", "diff --combined ", "@@")):
            raise reader.refuse("found a combined diff or a hunk without its file, allowed: a diff of two sides")
        elif changes and line == "-- ":
            break  # the signature of a mailed patch
        elif changes and line:
            raise reader.refuse(f"found {show(line)!r} where a file begins")
        else:
            reader.at += 1
    if not changes and content.strip():
        raise LoopError("the diff cannot be read: found text without a change in it, allowed: a unified diff")
    return changes


def _read_file(reader: _Reader) -> Change:
    """One file: its headers, then its hunks or its binary patch."""
    header: dict[str, str] = {}
    if reader.line.startswith("diff --git "):
        header["git"] = reader.line[11:]
        reader.at += 1
    _read_headers(reader, header)
    old, new = _names(reader, header)
    added: list[str] = []
    strays: list[str] = []
    size = _read_binary_patch(reader) if "patch" in header else 0
    start = reader.at
    while reader.line.startswith("@@"):
        if header.get("---") is None or header.get("+++") is None:
            raise reader.refuse("a hunk without the names of its file")
        _read_hunk(reader, added, strays)
    deleted = new == "" or "deleted file mode" in header
    index = header.get("index", "").split(" ")
    kept = index[1] if len(index) > 1 else ""
    return Change(
        path=new or old,
        origin=old if old and new and old != new else "",
        old_mode=header.get("old mode") or header.get("deleted file mode") or kept,
        mode="" if deleted else header.get("new mode") or header.get("new file mode") or kept,
        deleted=deleted,
        binary="binary" in header or "patch" in header or reader.has_nul(start),
        added=tuple(added),
        strays=tuple(strays),
        size=max(size, _bytes_in(added)),
        blob="" if deleted else index[0].rpartition("..")[2],
    )


HEADERS = (
    *("old mode", "new mode", "deleted file mode", "new file mode", "copy from", "copy to", "rename from", "rename to"),
    *("similarity index", "dissimilarity index", "index", "---", "+++"),
)


def _read_headers(reader: _Reader, header: dict[str, str]) -> None:
    while reader.more():
        line = reader.line
        name = next((name for name in HEADERS if line.startswith(f"{name} ")), "")
        if name:
            if name in header:
                raise reader.refuse(f"{name!r} is there twice for one file")
            if name == "+++" and "---" not in header:
                raise reader.refuse("found '+++' without '---'")
            header[name] = line[len(name) + 1 :]
        elif line.startswith("Binary files ") and line.endswith(" differ"):
            header["binary"] = "yes"
        elif line == "GIT binary patch":
            header["patch"] = "yes"
        else:
            return
        reader.at += 1


def _names(reader: _Reader, header: Mapping[str, str]) -> tuple[str, str]:
    """The old and the new name, '' for a side that does not exist, from whichever headers name them."""
    sides: list[str | None] = [None, None]
    for number, marker in enumerate(("---", "+++")):
        if marker in header:
            sides[number] = _side(reader, header[marker], "ab"[number])
    for number, words in enumerate((("rename from", "copy from"), ("rename to", "copy to"))):
        for word in words:
            if word in header:
                name = _unquote(reader, header[word])
                if sides[number] not in (None, name):
                    raise reader.refuse(f"{word!r} and the file's header name different files")
                sides[number] = name
    if "git" in header:
        pair = _git_header(header["git"], reader)
        for number, name in enumerate(pair or ()):
            if sides[number] is None:
                sides[number] = name
            elif sides[number] not in ("", name):
                raise reader.refuse("the headers of one file name different files")
    if sides[0] is None or sides[1] is None or sides == ["", ""]:
        raise reader.refuse("the file's name cannot be told; let git write the diff with a/ and b/ before the names")
    old = "" if "new file mode" in header else sides[0]
    new = "" if "deleted file mode" in header else sides[1]
    return old, new


def _side(reader: _Reader, text: str, prefix: str) -> str:
    """The name after --- or +++, without a/ or b/ and what some tools put after a tab; '' for /dev/null."""
    text = text[: text.rindex('"') + 1] if text.startswith('"') else text.split("\t", 1)[0]
    name = _unquote(reader, text)
    if name == "/dev/null":
        return ""
    if not name.startswith(f"{prefix}/"):
        raise reader.refuse(f"found the name {show(name)!r}, allowed: one that begins with {prefix}/")
    return name[2:]


def _git_header(text: str, reader: _Reader) -> tuple[str, str] | None:
    """Both names from ``a/x b/x``. With spaces in them that is unambiguous only where they are the same."""
    if text.startswith('"') or text.endswith('"'):
        quoted = r'"(?:[^"\\]|\\.)*"'
        match = re.fullmatch(rf"({quoted}|\S.*?) ({quoted}|\S.*)", text, re.DOTALL)
        if not match:
            raise reader.refuse("a quoted name has no end")
        left, right = (_unquote(reader, side) for side in match.groups())
    else:
        half = len(text) // 2
        left, right = text[:half], text[half + 1 :]
        if left[2:] != right[2:] or text[half : half + 1] != " ":
            return None
    if not left.startswith("a/") or not right.startswith("b/"):
        raise reader.refuse("found names without a/ and b/ before them")
    return left[2:], right[2:]


def _unquote(reader: _Reader, text: str) -> str:
    """A name that git has put in quotes, with its C escapes undone; any other as it is."""
    if not text.startswith('"'):
        return text
    if len(text) < 2 or not text.endswith('"'):
        raise reader.refuse("a quoted name has no end")

    def undo(match: re.Match[bytes]) -> bytes:
        code = match[1].decode("latin-1")
        if code in ESCAPES:
            return bytes([ESCAPES[code]])
        if len(code) == 3 and int(code, 8) < 256:
            return bytes([int(code, 8)])
        raise reader.refuse("a quoted name has an escape that git does not write")

    raw = text[1:-1].encode("utf-8", "surrogateescape")
    name = re.sub(rb"\\([0-7]{3}|.?)", undo, raw, flags=re.DOTALL)
    return name.decode("utf-8", "surrogateescape")


def _read_hunk(reader: _Reader, added: list[str], strays: list[str]) -> None:
    """Collect the added lines of one hunk, as many as its header announces."""
    match = HUNK.match(reader.lines[reader.at])
    if not match:
        raise reader.refuse("the head of a hunk is not one")
    old, new = (int(count) if count else 1 if count is None else 0 for count in match.groups())
    lines, total = reader.lines, len(reader.lines)
    at = reader.at + 1
    while old > 0 or new > 0:
        line = lines[at] if at < total else "?"
        mark = line[:1]
        if mark == "+":
            added.append(line[1:])
            new -= 1
        elif mark == "-":
            old -= 1
        elif mark in (" ", ""):
            old -= 1
            new -= 1
        elif mark != "\\":
            reader.at = at
            raise reader.refuse("a hunk is shorter than its head says")
        if reader.odd and mark != "+":
            strays.extend(piece[1:] for piece in line.splitlines()[1:] if piece.startswith("+"))
        at += 1
    if old < 0 or new < 0:
        reader.at = at
        raise reader.refuse("a hunk is longer than its head says")
    if at < total and lines[at].startswith("\\"):
        at += 1
    reader.at = at


def _read_binary_patch(reader: _Reader) -> int:
    """Skip both halves of a git binary patch; the new file's size where it is given whole."""
    size = 0
    for half in range(2):
        match = re.fullmatch(r"(literal|delta) (\d{1,15})", reader.line)
        if not match:
            if half == 0:
                raise reader.refuse("a binary patch without its content")
            break
        if half == 0:
            size = int(match[2])
        reader.at += 1
        while BASE85.fullmatch(reader.line):
            reader.at += 1
        if reader.more() and not reader.line:
            reader.at += 1
    return size


# --- reading a repository --------------------------------------------------------------------------------

# The diff is git's own, and nothing that the repository or its attributes say can shorten it.
DIFF = _words("""
    -r -p --text --full-index --no-renames --no-ext-diff --no-textconv --no-color --no-relative
    --ignore-submodules=none --submodule=short --unified=3 --src-prefix=a/ --dst-prefix=b/""")
OID = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
# git's names for a directory with nothing in it.
HOLLOW = tuple(digest(b"tree 0\0").hexdigest() for digest in (hashlib.sha1, hashlib.sha256))
# Of a merge, what differs from every parent.
OWN_FILES = _words("--stdin -r -c --raw -z --always --no-abbrev --no-renames --no-relative --ignore-submodules=none")
PLAIN = {"core.quotePath": "true", "diff.noprefix": "false", "core.fileMode": "true"}


def _git(
    directory: str,
    *arguments: str,
    stdin: bytes | None = None,
    extra: Mapping[str, str] | None = None,
    ok: Sequence[int] = (0,),
) -> str:
    return git(
        directory, arguments, stdin=stdin, environment=extra, config=PLAIN, ok=ok, timeout=GIT_SECONDS, most=MAX_SAID
    )[1]


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

    Runs git in ``directory``, bare or not, as the user that calls; ``environment`` is for git, such as the variables
    of a push that is still in quarantine. Four git processes; with merges six, and one more where somebody wrote
    something while merging.
    """
    base, listing = _commits(directory, base, head, environment)
    merges = {commit: parents for commit, *parents in listing if len(parents) > 1}
    pairs = [(commit, parents[0] if parents else "") for commit, *parents in listing if commit not in merges]
    ancestors: list[str] = []
    tip = listing[-1][0] if listing else ""
    if merges:
        ancestors = _git(directory, "merge-base", "--all", base, tip, extra=environment, ok=(0, 1)).split()
        pairs += [(tip, older) for older in ([*ancestors, base] if len(ancestors) > 1 else ancestors)]
    sides = _diffs(directory, pairs, environment)
    plain = len(listing) - len(merges)
    own, whole = sides[:plain], sides[plain:]
    changes = [
        change._replace(commit=pair[0]) for pair, side in zip(pairs[:plain], own, strict=True) for change in side
    ]
    changes += _written_while_merging(directory, merges, environment)
    differing = {change.path for change in whole[-1]} if whole else set()  # from the only ancestor, or from the base
    for ancestor, side in zip(ancestors, whole[: len(ancestors)], strict=True):
        changes += [change._replace(commit=tip, since=ancestor) for change in side if change.path in differing]
    changes += _hollow(directory, base, tip, environment) if tip else []
    return _complete(directory, changes, [entry[0] for entry in listing], environment)


def _hollow(directory: str, base: str, head: str, environment: Mapping[str, str] | None) -> list[Change]:
    """A directory with nothing in it that ``base..head`` has, the first one: no difference shows it, nor its name.

    git itself makes none. All are one object, which is listed once.
    """
    listed = rows(_git(directory, "rev-list", "--objects", head, f"^{base}", extra=environment))
    found = (row.partition(" ") for row in listed if row.startswith(HOLLOW))
    return [Change(path or ".", mode=DIRECTORY, commit=head) for _name, _space, path in found]


def changes_between(
    directory: str, base: str, head: str = "HEAD", environment: Mapping[str, str] | None = None
) -> list[Change]:
    """The changes of ``work_between``, which says what they are."""
    return work_between(directory, base, head, environment).changes


def commits_between(directory: str, base: str, head: str = "HEAD", environment: Mapping[str, str] | None = None) -> str:
    """The commits in ``base..head`` as they are published, header and message, which no diff shows."""
    _base, listing = _commits(directory, base, head, environment)
    return _complete(directory, [], [entry[0] for entry in listing], environment).commits


def _commits(
    directory: str, base: str, head: str, environment: Mapping[str, str] | None
) -> tuple[str, list[list[str]]]:
    """git's name of ``base``, and the commits in ``base..head``, each followed by its parents, oldest first."""
    first, last = (name if OID.fullmatch(name) else _commit(directory, name, environment) for name in (base, head))
    options = ["--reverse", "--topo-order", "--parents", f"--max-count={MAX_COMMITS + 1}"]
    ends = [f"{last}^{{commit}}", f"^{first}^{{commit}}"]
    status, out, _err = git(
        directory,
        ["rev-list", *options, *ends],
        environment=environment,
        config=PLAIN,
        ok=(0, 128),
        timeout=GIT_SECONDS,
    )
    if status:
        for name in (base, head):
            _commit(directory, name, environment)
        raise LoopError(f"{directory}: the commits from {show(base)} to {show(head)} cannot be told")
    listing = [line.split() for line in out.splitlines()]
    if len(listing) > MAX_COMMITS:
        raise LoopError(
            f"{directory}: more than {MAX_COMMITS} commits from {show(base)} to {show(head)}, allowed: fewer"
        )
    for commit, *parents in listing:
        if len(parents) > MAX_PARENTS:
            raise LoopError(f"{directory}: {commit} has {len(parents)} parents, allowed: {MAX_PARENTS}")
    return first, listing


def _commit(directory: str, name: str, environment: Mapping[str, str] | None) -> str:
    arguments = ["rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"]
    status, out, _err = git(directory, arguments, environment=environment, config=PLAIN, ok=(0, 1, 128))
    if status:
        raise LoopError(f"{directory}: there is no commit {show(name)}")
    return out.strip()


def _diffs(
    directory: str, pairs: Sequence[tuple[str, str]], environment: Mapping[str, str] | None, only: Sequence[str] = ()
) -> list[list[Change]]:
    """For each (commit, older one) what differs, if need be in some paths only; '' is older than the first commit."""
    if not pairs:
        return []
    asked = "".join(f"{commit} {older}".rstrip() + "\n" for commit, older in pairs)
    options = ["--stdin", "--root", "--always", *DIFF]
    extra = {**(environment or {}), "GIT_LITERAL_PATHSPECS": "1"}
    text = _git(directory, "diff-tree", *options, "--", *only, stdin=asked.encode(), extra=extra)
    reader = _Reader(_bytes(text))
    sides: list[list[Change]] = []
    for commit, _older in pairs:
        if reader.line != commit:
            raise reader.refuse(f"found {show(reader.line)!r} where the changes of {commit} begin")
        reader.at += 1
        found: list[Change] = []
        while reader.line.startswith("diff --git "):
            found.append(_read_file(reader))
        sides.append(found)
    if reader.line:
        raise reader.refuse(f"found {show(reader.line)!r} where all changes have been told")
    return sides


def _written_while_merging(
    directory: str, merges: Mapping[str, Sequence[str]], environment: Mapping[str, str] | None
) -> list[Change]:
    """What merges have that none of their parents has. What an honest one brings in is not even read."""
    if not merges:
        return []
    asked = "".join(f"{commit} {' '.join(parents)}\n" for commit, parents in merges.items())
    words = iter(_git(directory, "diff-tree", *OWN_FILES, stdin=asked.encode(), extra=environment).split("\0"))
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
    sides = iter(_diffs(directory, pairs, environment, only))
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


def _complete(
    directory: str, changes: list[Change], commits: Sequence[str], environment: Mapping[str, str] | None
) -> Work:
    """The changes with the whole size of each file, which a diff does not tell, and the commits' text."""
    blobs = sorted({change.blob for change in changes if change.blob and change.mode != MODULE})
    asked = "".join([*(f"info {blob}\n" for blob in blobs), *(f"contents {commit}\n" for commit in commits)])
    if not asked:
        return Work(changes, "")
    answer = _git(directory, "cat-file", "--batch-command", stdin=asked.encode(), extra=environment)
    lines = answer.split("\n", len(blobs))
    sizes = {words[0]: int(words[2]) for words in map(str.split, lines[: len(blobs)]) if len(words) == 3}
    whole = [change._replace(size=sizes.get(change.blob, change.size)) for change in changes]
    return Work(whole, lines[-1] if commits else "", commits)


def changes_in_worktree(directory: str) -> list[Change]:
    """What is not committed: everything that ``git add -A`` would take, whatever the repository hides.

    Only the tree's own .gitignore files count. Files are compared by content, so neither
    ``assume-unchanged`` nor a stale index hides one, and no filter is run.
    """
    entries = _git(directory, "ls-tree", "-r", "-z", "--full-tree", "HEAD").split("\0")[:-1]
    tree: dict[str, tuple[str, str]] = {}
    for entry in entries:
        meta, _tab, path = entry.partition("\t")
        mode, _kind, blob = meta.split(" ")
        tree[path] = (mode, blob)
    with tempfile.TemporaryDirectory(prefix="gate-") as scratch:
        objects = _git(directory, "rev-parse", "--path-format=absolute", "--git-path", "objects").rstrip("\n")
        os.mkdir(f"{scratch}/objects")
        extra = {
            "GIT_INDEX_FILE": f"{scratch}/index",
            "GIT_OBJECT_DIRECTORY": f"{scratch}/objects",
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": f'"{objects}"',
        }
        others = _git(directory, "ls-files", "-z", "-o", "--exclude-per-directory=.gitignore", extra=extra)
        staged = _git(directory, "ls-files", "-z")
        names = {name.rstrip("/") for name in (others + staged).split("\0") if name} | set(tree)
        index, too_big = _differing(directory, sorted(names), tree, extra)
        if not index:
            return too_big
        _git(directory, "read-tree", "HEAD", extra=extra)
        lines = "".join(f"{mode} {blob}\t{path}\0" for mode, blob, path in sorted(index))
        _git(directory, "update-index", "-z", "--index-info", stdin=_bytes(lines), extra=extra)
        text = _git(directory, "diff-index", "--cached", *DIFF, "HEAD", extra=extra)
        return too_big + _complete(directory, changes_in_diff(_bytes(text)), [], extra).changes


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _differing(
    directory: str, names: Iterable[str], tree: Mapping[str, tuple[str, str]], extra: Mapping[str, str]
) -> tuple[list[tuple[str, str, str]], list[Change]]:
    """Index entries (mode, blob, path) for each file that is not as in ``tree``, and files too big to be read."""
    root = os.path.realpath(directory)

    @functools.cache
    def real(folder: str) -> bool:
        return os.path.realpath(folder) == folder

    index: list[tuple[str, str, str]] = []
    too_big: list[Change] = []
    for name in names:
        full = f"{root}/{name}"
        status = os.lstat(full) if os.path.lexists(full) and real(os.path.dirname(full)) else None
        mode = _git_mode(status, full)
        known_mode, known_blob = tree.get(name, ("", ""))
        if not mode:
            index += [("0", "0" * len(known_blob), name)] if known_mode else []
        elif mode == MODULE:
            blob = known_blob if known_mode == MODULE and not os.path.lexists(f"{full}/.git") else _module_head(full)
            index += [(mode, blob, name)] if (mode, blob) != (known_mode, known_blob) else []
        elif status and status.st_size > MAX_READ:
            too_big.append(Change(name, old_mode=known_mode, mode=mode, binary=True, size=status.st_size))
        else:
            content = _content(full, mode)
            if mode != known_mode or known_blob not in _blob_ids(content, len(known_blob)):
                blob = _git(directory, "hash-object", "-w", "--stdin", stdin=content, extra=extra).strip()
                index.append((mode, blob, name))
    return index, too_big


def _git_mode(status: os.stat_result | None, path: str) -> str:
    """The mode that git would record; '' for what it would not record at all."""
    if status is None:
        return ""
    if stat.S_ISLNK(status.st_mode):
        return LINK
    if stat.S_ISDIR(status.st_mode):
        return MODULE if os.path.lexists(f"{path}/.git") or not os.listdir(path) else ""
    if stat.S_ISREG(status.st_mode):
        return PROGRAM if status.st_mode & 0o100 else "100644"
    return ""


def _module_head(path: str) -> str:
    """The commit of a repository inside the worktree; zeros but for a one where it has none."""
    status, out, _err = git(path, ["rev-parse", "--verify", "--quiet", "HEAD"], ok=range(256), timeout=GIT_SECONDS)
    return out.strip() if status == 0 else f"{'0' * 39}1"


def _content(path: str, mode: str) -> bytes:
    if mode == LINK:
        return os.fsencode(os.readlink(path))
    return read_bytes(path, MAX_READ) or b""


def _blob_ids(content: bytes, digits: int) -> list[str]:
    """git's names for the content as it stands, and as it is where a checkout turned line ends to CRLF."""
    algorithm = hashlib.sha256 if digits == 64 else hashlib.sha1
    both = (content, content.replace(b"\r\n", b"\n"))
    return [algorithm(b"blob %d\0" % len(text) + text).hexdigest() for text in both]


# --- judging changes -------------------------------------------------------------------------------------


def judge_changes(
    policy: Policy, repo: str, changes: Sequence[Change], prefixes: Sequence[str] | None = None
) -> list[Violation]:
    """Every reason why ``changes`` to the checkout ``repo`` are not allowed; an empty list allows them.

    ``prefixes`` are the paths that may be touched at all; None asks nothing, an empty
    list allows nothing. LoopError where judging would take too long.
    """
    for prefix in prefixes or ():
        normal_prefix(prefix)
    engine, ours = effective(policy, repo), guards(policy, repo)
    with deadline(JUDGE_SECONDS, f"judging {len(changes)} changes took longer than {JUDGE_SECONDS:.0f} s: refused"):
        found = _judge_totals(engine, ours, changes)
        found += _judge_names(engine, [change.path for change in changes if not change.deleted])
        judge_paths = _path_judge(engine, ours, prefixes)
        judge_text = _text_judge(engine, ours)
        for change in changes:
            found += judge_paths(change)
            found += _judge_kind(engine, ours, change)
            found += judge_text(change)
    return list(dict.fromkeys(found))


def judge_text(policy: Policy, repo: str, name: str, text: str) -> list[Violation]:
    """Whether text that no diff shows, such as a commit's message, is free of what is denied."""
    judge = _text_judge(effective(policy, repo), guards(policy, repo))
    with deadline(JUDGE_SECONDS, f"judging {name} took longer than {JUDGE_SECONDS:.0f} s: refused"):
        return judge(Change(name, binary="\0" in text, added=tuple(text.split("\n"))))


def _judge_totals(engine: Policy, ours: Policy, changes: Sequence[Change]) -> list[Violation]:
    found: list[Violation] = []
    paths = {name for change in changes for name in (change.path, change.origin) if name}
    if len(paths) > engine["max_changed_files"]:
        reason = f"{len(paths)} files are changed, allowed: {engine['max_changed_files']}"
        found.append(Violation("max_changed_files", "the change", reason))
    sizes: dict[str, int] = {}  # what is changed on the whole is there commit by commit as well, and not more for it
    for change in changes:
        added = max(change.size if change.binary else 0, _bytes_in(change.added))
        sizes[change.since] = sizes.get(change.since, 0) + added
    size = max(sizes.values(), default=0)
    if size > ours["max_patch_bytes"]:
        reason = f"{size} bytes are added, allowed: {ours['max_patch_bytes']}"
        found.append(Violation("guards.max_patch_bytes", "the change", reason))
    return found


def _bytes_in(lines: Sequence[str]) -> int:
    text = "\n".join(lines)
    return (len(text) if text.isascii() else len(_bytes(text))) + bool(lines)


Matcher = Callable[[str], str]


def _any_of(globs: Sequence[str]) -> Matcher:
    """One search for all globs, and only where it finds something one for each; '' matches nothing."""
    rules = [glob for glob in globs if glob]
    together = re.compile("|".join(map(fnmatch.translate, rules)) or "(?!)").match
    return lambda path: next((glob for glob in rules if fnmatch.fnmatchcase(path, glob)), "") if together(path) else ""


def _matcher(patterns: Iterable[str], *, exact: bool = False) -> Matcher:
    """A function from a path to the first glob that matches it, '' for none.

    Like the engine, a star crosses slashes. Unless ``exact``, case is ignored as well, and a
    glob without a slash also matches a name in any directory.
    """
    globs = list(patterns)
    whole = _any_of(globs)
    folded = _any_of([glob.casefold() for glob in globs])
    bare = _any_of([glob.casefold() if "/" not in glob else "" for glob in globs])

    def match(path: str) -> str:
        if exact:
            return whole(path)
        low = path.casefold()
        return whole(path) or folded(low) or bare(posixpath.basename(low))

    return functools.lru_cache(maxsize=1024)(match)


def _readings(path: str) -> list[str]:
    """The path, and what the engine makes of it: it reads git's quoted form and takes it apart by hand."""
    if re.fullmatch(r"[!#-\[\]-~]+", path):
        return [path]
    raw = path.encode("utf-8", "surrogateescape")
    names = {code: letter for letter, code in ESCAPES.items()}
    quoted = "".join(
        f"\\{names[byte]}" if byte in names else chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}" for byte in raw
    )
    status = f'"{quoted}"'.split(" -> ", 1)[-1].strip().strip('"')
    return [path, str(pathlib.PurePosixPath(status))]


def _oddities(path: str) -> list[Violation]:
    """What no honest name has."""
    name = show(path)
    found: list[Violation] = []
    if not is_inside(path):
        found.append(Violation("paths", name, "not a path inside the repository"))
    if is_git_itself(path):
        found.append(Violation("paths", name, "git's own directory"))
    odd = odd_character(path)
    if odd:
        found.append(Violation("names", name, f"has {odd}"))
    if len(path) > MAX_PATH:
        found.append(Violation("names", name, f"has {len(path)} characters, allowed: {MAX_PATH}"))
    return found


def _path_judge(engine: Policy, ours: Policy, prefixes: Sequence[str] | None) -> Callable[[Change], list[Violation]]:
    denied = _matcher(engine.get("denied_path_globs", []))
    sets = [(name, protector(name), ours[name]) for name in PROTECTED if ours[name] is not False]
    spared = {name: _matcher(switch if isinstance(switch, list) else [], exact=True) for name, _match, switch in sets}

    def judge(change: Change) -> list[Violation]:
        found: list[Violation] = []
        for path in (change.path, change.origin):
            if not path:
                continue
            found += _oddities(path)
            name, disguised = show(path), on_windows(path)
            for reading in dict.fromkeys((*_readings(path), disguised)):
                glob = denied(reading)
                if glob:
                    found.append(Violation("denied_path_globs", name, f"denied by {glob}"))
                if prefixes is not None and not is_below(reading, prefixes):
                    allowed = ", ".join(prefixes) or "nothing"
                    found.append(Violation("allowed_paths", name, f"outside of what may be changed ({allowed})"))
            for guard, match, _switch in sets:
                if (match(path) or (disguised != path and match(disguised))) and not spared[guard](path):
                    found.append(Violation(f"guards.{guard}", name, f"is protected ({guard.replace('_', ' ')})"))
        return found

    return judge


def _judge_kind(engine: Policy, ours: Policy, change: Change) -> list[Violation]:
    """Size, mode and kind of one file."""
    name = show(change.path)
    found: list[Violation] = []
    if change.deleted:
        return found
    if change.size > engine["max_file_bytes"]:
        reason = f"has {change.size} bytes, allowed: {engine['max_file_bytes']}"
        found.append(Violation("max_file_bytes", name, reason))
    if change.mode == DIRECTORY:
        found.append(Violation("modes", name, "is a directory with nothing in it, which git makes none of"))
    elif change.mode not in MODES:
        found.append(Violation("modes", name, f"has the mode {show(change.mode)}, which no file in git has"))
    kinds = {
        "symlinks": (change.mode == LINK, "is a symlink"),
        "submodules": (change.mode == MODULE, "is a submodule"),
        "executables": (change.mode == PROGRAM and change.old_mode != PROGRAM, "becomes executable"),
        "binaries": (change.binary, "is binary"),
    }
    for guard, (applies, reason) in kinds.items():
        if applies and not _spares(ours[guard], change.path):
            found.append(Violation(f"guards.{guard}", name, reason))
    return found


def _spares(switch: bool | list[str], path: str) -> bool:
    """Whether a guard leaves a path alone."""
    if isinstance(switch, bool):
        return not switch
    return any(fnmatch.fnmatchcase(path, glob) for glob in switch)


def _patterns(engine: Policy) -> list[Pattern]:
    return [prepare(text) for text in engine.get("denied_content_patterns", [])]


def _judge_names(engine: Policy, paths: Iterable[str]) -> list[Violation]:
    """Text that is denied in a file may not stand in its name, nor in a directory's."""
    whose: dict[str, str] = {}
    for path in paths:
        if len(path) <= MAX_PATH:
            for text in (path, *path.split("/")):
                whose.setdefault(text, path)
    return [
        Violation("denied_content_patterns", show(whose[text]), f"has a name denied by {pattern.text}")
        for pattern, text in _matches(_patterns(engine), list(whose))
    ]


def _text_judge(engine: Policy, ours: Policy) -> Callable[[Change], list[Violation]]:
    """Searches what a change adds, line by line as the engine does, and only where a match can be."""
    patterns = _patterns(engine)
    longest = ours["max_line_length"]

    def judge(change: Change) -> list[Violation]:
        if not change.added and not change.strays:
            return []
        name = show(change.path)
        found: list[Violation] = []
        lines = _lines(change, longest)
        length = max(map(len, lines))
        if length > longest:
            reason = f"adds a line of {length} characters, allowed: {longest}"
            found.append(Violation("guards.max_line_length", name, reason))
            lines = [line for line in lines if len(line) <= longest]
        denied = dict.fromkeys(pattern.text for pattern, _line in _matches(patterns, lines))
        found += [Violation("denied_content_patterns", name, f"adds text denied by {text}") for text in denied]
        return found

    return judge


def _matches(patterns: Iterable[Pattern], lines: Sequence[str]) -> Iterator[tuple[Pattern, str]]:
    """Each pattern with the lines that it is found in."""
    text = "\n".join(lines)
    low = text.lower() if text.isascii() else ""
    for pattern in patterns:
        whole = low if pattern.fold else text
        known = pattern.literals if whole else ()
        if known and not any(literal in whole for literal in known):
            continue
        for line in _candidates(lines, known, pattern.fold):
            if pattern.search(line):
                yield pattern, line


def _lines(change: Change, longest: int) -> list[str]:
    """The texts to search: added lines, their parts where the engine ends lines and git does not, binary pieces."""
    if change.binary:
        return list(_windows("\n".join(change.added), longest))
    lines = [*change.added, *change.strays]
    if ODD_ENDS.search("\n".join(change.added)):
        for line in change.added:
            pieces = line.splitlines()
            lines += [*pieces, *(piece[1:] for piece in pieces[1:] if piece.startswith("+"))]
    return lines


def _candidates(lines: Sequence[str], literals: Sequence[str], fold: bool) -> Iterator[str]:
    """The lines that hold one of the literals."""
    if not literals:
        yield from lines
        return
    for line in lines:
        searched = line.lower() if fold else line
        if any(literal in searched for literal in literals):
            yield line


def _windows(text: str, length: int) -> Iterator[str]:
    """A binary file's text in pieces that overlap by half; again without NULs, which is how UTF-16 hides ASCII."""
    for whole in dict.fromkeys((text, text.replace("\0", ""))):
        for start in range(0, max(len(whole), 1), length):
            yield whole[start : start + length]
            yield whole[start + length // 2 : start + length + length // 2]


# --- judging everything else -----------------------------------------------------------------------------


def judge_handoff(policy: Policy, directory: str) -> list[Violation]:
    """Whether handoffs may be written to ``directory``."""
    if admits_handoff(policy, directory):
        return []
    allowed = ", ".join(effective(policy).get("allowed_handoff_dirs", []))
    return [Violation("allowed_handoff_dirs", show(directory), f"not an absolute directory inside {allowed}")]


SYSTEM_PROGRAMS = ("/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin")


def judge_gate_command(policy: Policy, command: str | Sequence[str]) -> list[Violation]:
    """Whether a gate may run ``command``; a text is split as a shell would."""
    try:
        words = shlex.split(command) if isinstance(command, str) else list(command)
    except ValueError as error:
        return [Violation("allowed_gate_commands", show(str(command)), f"cannot be split into words ({error})")]
    if not words or not words[0]:
        return [Violation("allowed_gate_commands", "a gate command", "is empty")]
    folder, name = posixpath.split(words[0])
    if name not in effective(policy).get("allowed_gate_commands", []):
        return [Violation("allowed_gate_commands", show(words[0]), "is not an allowed program")]
    if folder and folder not in SYSTEM_PROGRAMS:
        return [Violation("allowed_gate_commands", show(words[0]), "has the name of an allowed program, but is not it")]
    return []


def judge_branch(policy: Policy, branch: str, repo: str = "") -> list[Violation]:
    """Whether a branch, or a prefix of branches, keeps out of the protected ones and says nothing that is denied."""
    name = branch.removeprefix("refs/").removeprefix("heads/")
    bad = re.search(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|^[-/.]|/\.|\.lock(/|$)|[./]$|^@?$", name)
    if bad or len(name) > MAX_PATH:
        return [Violation("branch", show(branch), "is not a branch name")]
    low = name.casefold()
    for prefix in effective(policy).get("protected_branch_prefixes", []):
        held = prefix.casefold()
        if branch == prefix or branch.startswith(f"{prefix}/") or low == held or low.startswith(f"{held}/"):
            return [Violation("protected_branch_prefixes", show(branch), f"is protected by {prefix}")]
    odd = odd_character(branch)
    if odd:
        return [Violation("names", show(branch), f"has {odd}")]
    with deadline(JUDGE_SECONDS, f"judging a branch's name took longer than {JUDGE_SECONDS:.0f} s: refused"):
        return _judge_names(effective(policy, repo), [name])


def judge_remote(policy: Policy, remote: str, url: str | None = None, expected: str | None = None) -> list[Violation]:
    """Whether a remote may be published to; with ``expected``, also whether its ``url`` is that repository."""
    if remote not in effective(policy)["allowed_pr_remotes"]:
        return [Violation("allowed_pr_remotes", show(remote), "is not an allowed remote")]
    if expected is not None and (url is None or _place(url) != _place(expected)):
        reason = f"points to {show(_place(url or 'nothing'))}, not to {show(_place(expected))}"
        return [Violation("remote", show(remote), reason)]
    return []


def _place(url: str) -> str:
    """A repository's address for comparing and for messages: without credentials, case and ``.git``."""
    plain = re.sub(r"^([a-z]+://)[^/]*@", r"\1", url.strip(), flags=re.IGNORECASE).rstrip("/")
    return plain.removesuffix(".git").casefold()


def judge_repo_root(policy: Policy, repo: str, root: str) -> list[Violation]:
    """Whether ``root`` is where the checkout ``repo`` may stand."""
    allowed = effective(policy, repo).get("allowed_repo_roots")
    if not root.startswith("/"):
        return [Violation("allowed_repo_roots", show(root), "is not an absolute directory")]
    if allowed is None or os.path.realpath(root) in map(os.path.realpath, allowed):
        return []
    return [Violation("allowed_repo_roots", show(root), f"is not a root of {repo} ({', '.join(allowed)})")]
