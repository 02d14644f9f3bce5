# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""One repository's truth, read without trusting it: names, refs, objects, locks."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from ..base.errors import Denied, LoopError
from ..base.files import lstat_of
from .command import git, rows

OBJECT = re.compile(r"\b[0-9a-f]{40}(?:[0-9a-f]{24})?\b")
# A component that git, a shell and a path all read the same way.
COMPONENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=@,-]*")
PROTECTED = ("main", "master", "production", "prod", "HEAD")
# git's own: index, config, refs, and what it writes beside packed-refs before it takes its place.
LOCKED = ("AUTO_MERGE", "BISECT_HEAD", "CHERRY_PICK_HEAD", "HEAD", "MERGE_HEAD", "ORIG_HEAD", "REVERT_HEAD", "config",
          "config.worktree", "gc.pid", "index", "packed-refs", "shallow")  # fmt: skip
LOCKS = (*(f"{name}.lock" for name in LOCKED), "packed-refs.new")
SMALL = 1024 * 1024
MANY_FILTERS = 500


# What git opens before it does anything, and what must be a directory for it.
FILES = ("HEAD", "config", "config.worktree", "index", "packed-refs", "shallow", "commondir", "info/exclude",
         "info/attributes", "info/sparse-checkout", "objects/info/alternates", "logs/HEAD")  # fmt: skip
DIRECTORIES = ("objects", "refs")


@dataclass(frozen=True)
class Repo:
    """A main checkout or bare repository, and the directory that holds its refs."""

    path: str
    common: str
    bare: bool

    def git(
        self,
        arguments: Sequence[str],
        *,
        stdin: bytes | None = None,
        ok: Sequence[int] = (0,),
        environment: dict[str, str] | None = None,
        config: dict[str, str] | None = None,
    ) -> tuple[int, str, str]:
        """Run git on exactly this repository, whatever ``core.worktree`` or a gitfile may claim."""
        where = {"GIT_DIR": self.common} if self.bare else {"GIT_DIR": self.common, "GIT_WORK_TREE": self.path}
        try:
            return git(
                self.common,
                arguments,
                stdin=stdin,
                ok=ok,
                environment={**where, "GIT_NO_LAZY_FETCH": "1", **(environment or {})},
                config={"protocol.allow": "never", "core.bare": str(self.bare).lower(), **(config or {})},
            )
        except LoopError as error:
            if "Permission denied" in str(error) and os.geteuid() != 0:
                raise Denied(self.common, "") from error
            raise


def open_repo(path: str) -> Repo:
    """The repository at ``path``; LoopError where there is none that we may work on."""
    path = os.path.realpath(path)
    inner = os.path.join(path, ".git")
    if os.path.isdir(inner) and not os.path.islink(inner):
        common, bare = inner, False
    elif os.path.isfile(inner):
        raise LoopError(f"{path} is itself a linked worktree or a submodule: name the main checkout as repo")
    else:
        common, bare = path, True
    if not (os.path.isdir(os.path.join(common, "objects")) and os.path.lexists(os.path.join(common, "HEAD"))):
        raise LoopError(f"{path} is not a git repository")
    odd = odd_part(common)
    if odd:
        raise LoopError(odd)
    if in_reftable(common):
        raise LoopError(
            f"{path} keeps its refs in a reftable, which is not supported: clone it anew with refs in files"
        )
    return Repo(path, common, bare)


def odd_part(common: str) -> str:
    """What stands in the git directory that git would wait at, follow, or not be able to read; empty for nothing.

    Looked at without git, which waits for ever at a pipe and goes wherever a link leads.
    """
    for name in (".", *DIRECTORIES, *FILES):
        place, directory = f"{common}/{name}".removesuffix("/."), name not in FILES
        status = lstat_of(place)
        if status is None:
            continue
        if not (stat.S_ISDIR if directory else stat.S_ISREG)(status.st_mode):
            return f"{place} is not what a repository has there"
        if not os.access(place, os.R_OK | os.X_OK if directory else os.R_OK):
            return f"{place} cannot be read"
    return ""


def in_reftable(common: str) -> bool:
    """Are refs kept in the binary format, which hides from us what a worktree has checked out?"""
    return (read_small(f"{common}/HEAD") or "").strip() == "ref: refs/heads/.invalid"


# --- names from outside -----------------------------------------------------------------------


def check_branch(name: str) -> None:
    """LoopError unless ``name`` is a branch that git takes and nobody misreads."""
    if not name.isascii() or not name.isprintable():
        raise LoopError(f"branch {name!r}: only printable ASCII is allowed (a look-alike is another branch)")
    wrong = next((part for part in name.split("/") if not COMPONENT.fullmatch(part)), None)
    if wrong is not None:
        raise LoopError(
            f"branch {name!r}: the part {wrong!r} must begin with a letter, a digit or _ and hold only "
            "letters, digits and . _ + = @ , -"
        )
    if ".." in name or any(part.endswith((".lock", ".")) for part in name.split("/")):
        raise LoopError(f"branch {name!r}: '..', a part ending in '.lock' and one ending in '.' are refused by git")
    if len(name) > 200:
        raise LoopError(f"branch {name[:40]!r}… has {len(name)} characters: at most 200 are allowed")
    if name in PROTECTED or name.startswith("refs/"):
        raise LoopError(f"branch {name!r} is protected: name one such as hyrule-feature/ID/repo")


def check_path(path: str, what: str = "path") -> str:
    """``path`` with its existing directories resolved; LoopError where it is no place for a worktree."""
    if not os.path.isabs(path) or path.startswith("//"):
        raise LoopError(f"{what} {path!r} must be absolute")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in path):
        raise LoopError(f"{what} {path!r} holds a control character")
    if any(0xD800 <= ord(letter) <= 0xDFFF for letter in path):
        raise LoopError(f"{what} {path!r} is not valid UTF-8")
    parts = path.rstrip("/").split("/")[1:]
    if not parts or any(part in ("", ".", "..") for part in parts):
        raise LoopError(f"{what} {path!r} must name a place below /, without '.', '..' or '//'")
    if len(os.fsencode(path)) > 3000 or any(len(os.fsencode(part)) > 200 for part in parts):
        raise LoopError(f"{what} {path[:60]!r}… is too long: 3000 bytes, 200 for each part")
    if ".git" in parts:
        raise LoopError(f"{what} {path!r} lies inside a git directory")
    count = next(count for count in range(len(parts) - 1, -1, -1) if os.path.isdir("/" + "/".join(parts[:count])))
    return os.path.join(os.path.realpath("/" + "/".join(parts[:count])), *parts[count:])


# --- what is there ----------------------------------------------------------------------------


def read_small(path: str) -> str | None:
    """The text of a small regular file, None for anything else that may stand there."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > SMALL:
            return None
        return os.fsdecode(os.read(descriptor, status.st_size + 1))
    except OSError:
        return None
    finally:
        os.close(descriptor)


def refs_below(repo: Repo, names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Branches called one of ``names`` or below one: {branch: (commit, symref target)}."""
    if not names:  # git would list all
        return {}
    _status, out, _err = repo.git(
        ["for-each-ref", "--format=%(refname)%00%(objectname)%00%(symref)", *(f"refs/heads/{name}" for name in names)]
    )
    found = (row.split("\0") for row in rows(out))
    return {ref.removeprefix("refs/heads/"): (commit, symref) for ref, commit, symref in found}


def objects(repo: Repo, names: Sequence[str]) -> list[tuple[str, str]]:
    """For each of ``names`` the object it resolves to and its kind, or two empty strings; one git for all, at most."""
    if not names:
        return []
    _unused, out, err = repo.git(
        ["cat-file", "--batch-check=%(objectname) %(objecttype)"],
        stdin=os.fsencode("".join(f"{name}\n" for name in names)),
        config={"core.warnAmbiguousRefs": "true"},
    )
    for name in re.findall(r"refname '(.*)' is ambiguous", err):
        if not OBJECT.fullmatch(name):
            raise LoopError(f"{name!r} is ambiguous in {repo.path}: write refs/heads/{name} or refs/tags/{name}")
    found = (row.rpartition(" ") for row in rows(out))
    return [(name, kind) if OBJECT.fullmatch(name) and kind != "missing" else ("", "") for name, _size, kind in found]


def commits(repo: Repo, names: Sequence[str]) -> list[str]:
    """For each of ``names`` the commit it resolves to, or the empty string."""
    return [name if kind == "commit" else "" for name, kind in objects(repo, names)]


def ref_debris(repo: Repo, branch: str, refs: dict[str, tuple[str, str]]) -> list[str]:
    """Files in the git directory that would stop git from making ``branch``: locks, broken refs, stray logs."""
    parts = branch.split("/")
    ways = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    found = []
    for way in ways:
        ref = f"{repo.common}/refs/heads/{way}"
        found += [lock for lock in (f"{ref}.lock",) if os.path.lexists(lock)]
        status = lstat_of(ref)
        if status is None:
            continue
        if stat.S_ISLNK(status.st_mode) or (not stat.S_ISDIR(status.st_mode) and way not in refs):
            found.append(ref)
            break
        if way == branch and stat.S_ISDIR(status.st_mode):
            heads = f"{repo.common}/refs/heads/"
            found += [entry for entry in files_below(ref) if entry.removeprefix(heads) not in refs]
    for way in ways:
        log = f"{repo.common}/logs/refs/heads/{way}"
        status = lstat_of(log)
        if status is None or (way in refs and way != branch):
            break  # nothing there, or the log goes with its branch
        if stat.S_ISDIR(status.st_mode) == (way == branch):
            if way != branch or files_below(log):
                found.append(log)
            break
    return found


def files_below(directory: str) -> list[str]:
    """Files, and symlinks to whatever, below ``directory``, however deep; no link is entered."""
    found: list[str] = []
    waiting = [directory]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                (waiting if entry.is_dir(follow_symlinks=False) else found).append(entry.path)
    return sorted(found)


def git_locks(common: str) -> list[str]:
    """What git leaves in the git directory where it is killed; by name, for what else is locked there is not ours."""
    return [place for name in LOCKS if os.path.lexists(place := f"{common}/{name}")]


def main_branch(repo: Repo) -> str:
    """The branch that the main checkout's HEAD names; empty where detached. LoopError where HEAD is broken."""
    head = (read_small(f"{repo.common}/HEAD") or "").strip()
    if head.startswith("ref:"):
        return head.removeprefix("ref:").strip().removeprefix("refs/heads/")
    if OBJECT.fullmatch(head):
        return ""
    raise LoopError(f"{repo.common}/HEAD is damaged: write 'ref: refs/heads/<default branch>' into it")


def default_of(repo: Repo, taken: str) -> tuple[str, str]:
    """What the main checkout should be on instead of ``taken``: (HEAD's new content, commit)."""
    origin = (read_small(f"{repo.common}/refs/remotes/origin/HEAD") or "").strip().removeprefix("ref: ")
    name = origin.removeprefix("refs/remotes/origin/")
    local = [f"refs/heads/{each}" for each in dict.fromkeys([name, "main", "master"]) if each and each != taken]
    wanted = local[:1] + ([origin] if origin else []) + local[1:]
    for ref, commit in zip(wanted, commits(repo, wanted), strict=True):
        if commit:
            return (f"ref: {ref}" if ref.startswith("refs/heads/") else commit), commit
    raise LoopError(
        f"the main checkout {repo.path} is on {taken} and has no default branch to go back to: "
        "check out the branch that it should be on"
    )


def unknown_extensions(repo: Repo) -> list[str]:
    """Extensions that the repository has and that this host's git does not know: it refuses every command there."""
    if "extensions" not in (read_small(f"{repo.common}/config") or "extensions").lower():
        return []
    status, _out, err = repo.git(["rev-parse", "--git-dir"], ok=range(256))
    found = re.search(r"unknown repository extensions? found:((?:\n\t\S+)+)", err) if status else None
    return [name.lower() for name in found[1].split()] if found else []


def filters_off(repo: Repo) -> dict[str, str]:
    """Settings that silence every filter that the repository's configuration defines; LoopError for too many."""
    texts = [read_small(f"{repo.common}/{name}") for name in ("config", "config.worktree")]
    unread = texts[0] is None or (texts[1] is None and os.path.lexists(f"{repo.common}/config.worktree"))
    if not unread and not re.search("(?i)filter|include", "".join(each or "" for each in texts)):
        return {}
    _status, out, _err = repo.git(["config", "--list", "--name-only", "-z"])
    names = {key[len("filter.") :].rpartition(".")[0] for key in out.split("\0") if key.startswith("filter.")}
    if len(names) > MANY_FILTERS:
        raise LoopError(f"{repo.common}/config defines {len(names)} filters: remove them")
    silent = {"smudge": "", "clean": "", "process": "", "required": "false"}
    return {f"filter.{name}.{key}": value for name in sorted(names) for key, value in silent.items()}
