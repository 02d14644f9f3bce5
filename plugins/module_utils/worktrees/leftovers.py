# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a repository says of its worktrees and branches, and which of it is a leftover. Everything here only reads."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..base.errors import Denied
from ..base.files import inside, lstat_of
from ..git.repository import Repo, files_below, git_locks, main_branch, read_small, ref_debris, refs_below
from ..git.worktree_admin import Admin, admins_of, adopt, last_commit
from .whole_moves import standing

Refs = dict[str, tuple[str, str]]  # {branch: (commit, symref target)}
DEAD = "left behind by a dead process"


@dataclass
class Leftover:
    """One thing to take out of the way, with all its parts."""

    what: str
    why: str
    repo: Repo | None = None
    path: str = ""  # stands on disk and moves to <quarantine>/<id>/tree
    target: str = ""  # where it stands or stood
    admin: Admin | None = None
    branch: str = ""
    tip: str = ""  # the commit that the branch points to, empty where that commit is missing
    value: str = ""  # what the ref holds, to be deleted only while it still does
    keep: list[str] = field(default_factory=list)  # commits that must stay reachable, tip apart
    index: str = ""  # a tree of what is staged
    debris: list[str] = field(default_factory=list)  # files inside the git directory that go
    id: str = ""

    @property
    def name(self) -> str:
        """What it is called in reports."""
        return self.target or self.branch or ", ".join(self.debris)

    @property
    def head(self) -> str:
        """The commit of a worktree's detached HEAD; empty for everything else."""
        return self.admin.head if self.admin else ""

    def words(self) -> str:
        """What it is, and what it is called."""
        return f"{self.what} {self.name}" + (f" (branch {self.branch})" if self.branch and self.target else "")

    def with_branch(self, refs: Refs, branch: str) -> Leftover:
        """Let ``branch`` go with it."""
        commit, symref = refs[branch]
        self.branch, self.tip, self.value = branch, commit, "" if symref else commit
        return self


@dataclass(frozen=True)
class Inventory:
    """A repository's branches of the names that matter, its worktrees, and what its main checkout is on."""

    repo: Repo
    head: str  # the branch of the main checkout; empty where it is detached
    refs: Refs
    admins: list[Admin]

    @classmethod
    def read(cls, repo: Repo, branches: Sequence[str], trees: Sequence[str]) -> Inventory:
        """Read it once. ``branches``: these and those below; ``trees``: where worktrees stand."""
        head, refs, admins = main_branch(repo), refs_below(repo, branches), admins_of(repo)
        adopt(admins, trees)
        return cls(repo, head, refs, admins)

    def strangers(self, leftovers: Iterable[Leftover]) -> list[Admin]:
        """The registered worktrees that are none of ``leftovers``."""
        taken = {item.admin.name for item in leftovers if item.admin}
        return [admin for admin in self.admins if admin.name not in taken]

    def _branches(self, leftovers: Sequence[Leftover], why: str) -> list[Leftover]:
        """The branches that go alone."""
        taken = {item.branch for item in leftovers}
        return [
            Leftover("branch", why, self.repo).with_branch(self.refs, name) for name in self.refs if name not in taken
        ]

    def _worktree(self, admin: Admin, why: str, tree: bool, taken: Iterable[str]) -> Leftover:
        """A registered worktree: its tree if it stands and ``tree`` goes, its admin directory, its branch."""
        found = Leftover("worktree", why, self.repo, target=admin.target, admin=admin)
        branches = admin.branches if admin.branches or admin.head else self._guess(admin)
        for branch in [name for name in branches if name in self.refs and name not in taken][:1]:
            found.with_branch(self.refs, branch)
        if tree and admin.target and os.path.lexists(admin.target):
            found.path = admin.target
        else:
            found.what = "registered worktree without its directory" if tree else "admin directory"
        return found

    def _guess(self, admin: Admin) -> tuple[str, ...]:
        """The branch of a worktree whose HEAD is lost: by the names of both, or by its last commit."""
        named = [name for name in self.refs if os.path.basename(admin.target) == "-".join(name.split("/")[:0:-1])]
        return tuple(
            named or [name for name, (commit, _symref) in self.refs.items() if commit == last_commit(admin)][:1]
        )

    def _stray_worktrees(self) -> list[str]:
        """``.git/worktrees`` itself where it is no directory."""
        place = f"{self.repo.common}/worktrees"
        return [place] if os.path.lexists(place) and not os.path.isdir(place) else []

    def in_the_way(self, path: str, branch: str) -> list[Leftover]:
        """Everything in the way of a worktree at ``path`` on ``branch``."""
        found: list[Leftover] = []
        for admin in self.admins:
            held = [name for name in admin.branches if name == branch or name in self.refs]
            if admin.target == path or held:
                why = "stands at the path" if admin.target == path else f"holds the branch {held[0]}"
                tree = not any(item.path == admin.target for item in found)
                found.append(self._worktree(admin, why, tree, [item.branch for item in found]))
        if os.path.lexists(path) and not any(item.path == path for item in found):
            found.append(Leftover(f"unregistered {kind_of(path)}", "stands at the path", self.repo, path, path))
        parent = os.path.dirname(path)
        above = standing(parent)
        if above != parent:
            first = os.path.join(above, os.path.relpath(path, above).split("/")[0])
            if os.path.lexists(first):
                found.append(Leftover(kind_of(first), "stands where a directory must be", self.repo, first, first))
        found += self._branches(found, "is in the way of the branch")
        debris = [*git_locks(self.repo.common), *ref_debris(self.repo, branch, self.refs), *self._stray_worktrees()]
        return [*found, Leftover("debris", DEAD, self.repo, debris=debris)] if debris else found

    def of_runs(self, root: str, quarantine: str, prefixes: Sequence[str], trees: Sequence[str]) -> list[Leftover]:
        """What runs left: worktrees below ``root``, branches of ``prefixes``, files of dead processes.

        ``trees`` is what stands where worktrees of runs stand (``trees_below``).
        """
        found: list[Leftover] = []
        seen: set[str] = set()
        taken: set[str] = set()
        standing_there = set(trees)
        for admin in self.admins:
            ours = inside(admin.target, root) and not inside(admin.target, quarantine)
            if not ours and not any(name in self.refs for name in admin.branches):
                continue
            tree = admin.target in standing_there or (ours and os.path.dirname(admin.target) != root)
            found.append(self._worktree(admin, "a run is over", tree and admin.target not in seen, taken))
            seen.add(admin.target)
            taken.add(found[-1].branch)
        found += self._branches(found, "a run is over")
        debris = git_locks(self.repo.common)
        for prefix in prefixes:
            debris += ref_debris(self.repo, f"{prefix}/-", self.refs)
            for way in (f"{self.repo.common}/refs/heads", f"{self.repo.common}/logs/refs/heads"):
                below = files_below(f"{way}/{prefix}")
                debris += [entry for entry in below if entry.removeprefix(f"{way}/") not in self.refs]
        debris += self._stray_worktrees()
        return [*found, *(Leftover("debris", DEAD, self.repo, debris=[entry]) for entry in dict.fromkeys(debris))]


def strays(trees: Iterable[str], leftovers: Iterable[Leftover]) -> list[Leftover]:
    """What stands where worktrees stand and is none of ``leftovers``."""
    claimed = {item.path for item in leftovers}
    why = "no repository knows it"
    return [Leftover(f"unregistered {kind_of(path)}", why, None, path, path) for path in trees if path not in claimed]


def kind_of(path: str) -> str:
    """What stands at ``path``, in a word."""
    mode = os.lstat(path).st_mode
    kinds = (
        (stat.S_ISLNK, "symlink"),
        (stat.S_ISDIR, "directory"),
        (stat.S_ISREG, "file"),
        (stat.S_ISFIFO, "fifo"),
        (stat.S_ISSOCK, "socket"),
    )
    return next((word for test, word in kinds if test(mode)), "device")


def change_of(path: str, branch: str) -> str:
    """The change id that a worktree's place or a branch's name tells; empty where neither does."""
    holder = os.path.dirname(path)
    if os.path.basename(holder) == "worktrees":
        return os.path.basename(os.path.dirname(holder)).upper()
    parts = branch.split("/")
    return parts[1] if len(parts) > 2 else ""


def trees_below(root: str) -> list[str]:
    """Whatever stands where worktrees stand, ``<root>/<run>/worktrees/*``; no symlink is entered."""
    found: list[str] = []
    if not os.path.isdir(root):
        return found
    try:
        for run in sorted(os.scandir(root), key=lambda entry: entry.name):
            place = f"{run.path}/worktrees"
            if run.name.startswith(".") or not run.is_dir(follow_symlinks=False) or lstat_of(place) is None:
                continue
            if os.path.isdir(place) and not os.path.islink(place):
                found += [f"{place}/{name}" for name in sorted(os.listdir(place)) if name != ".quarantine"]
            else:
                found.append(place)
    except PermissionError as error:
        raise Denied(str(error.filename), "") from error
    return found


def touched(leftover: Leftover) -> float:
    """When the leftover last changed, in seconds of the epoch, as far as its outermost files tell."""
    files = [leftover.path, *leftover.debris]
    if leftover.admin:
        files += [f"{leftover.admin.directory}/{name}" for name in ("HEAD", "index", "logs/HEAD")]
    if leftover.branch and leftover.repo:
        common = leftover.repo.common
        files += [f"{common}/{way}/refs/heads/{leftover.branch}" for way in (".", "logs")]
    times = [status.st_mtime for status in (lstat_of(file) for file in files if file) if status]
    return max(times, default=0.0)


def healthy(repo: Repo, admin: Admin, branch: str) -> bool:
    """Is this registered worktree complete, consistent and on ``branch``, with an index that git reads?"""
    directory, tree = admin.directory, admin.target
    if admin.branches != (branch,) or (read_small(f"{directory}/HEAD") or "").strip() != f"ref: refs/heads/{branch}":
        return False
    common = (read_small(f"{directory}/commondir") or "").strip()
    link = (read_small(f"{tree}/.git") or "").strip()
    gitdir = os.path.normpath(os.path.join(tree, link.removeprefix("gitdir:").strip()))
    if not common or os.path.realpath(os.path.join(directory, common)) != os.path.realpath(repo.common):
        return False
    if not link.startswith("gitdir:") or os.path.realpath(gitdir) != os.path.realpath(directory):
        return False
    locks = [name for name in os.listdir(directory) if name.endswith(".lock")]
    if locks or not os.path.isfile(f"{directory}/index") or os.path.islink(tree):
        return False
    where = {"GIT_DIR": directory, "GIT_COMMON_DIR": repo.common, "GIT_WORK_TREE": tree}
    if repo.git(["diff-index", "--cached", "--quiet", "HEAD"], environment=where, ok=range(256))[0] > 1:
        return False
    top = repo.git(["ls-tree", "--name-only", "-z", "HEAD"], environment=where, ok=range(256))[1]
    names = [name for name in top.split("\0") if name]
    return not names or any(os.path.lexists(os.path.join(tree, name)) for name in names)
