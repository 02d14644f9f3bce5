# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether something is allowed by a policy: changes, texts, branches, remotes, commands and directories.

Denied is whatever the engine's own evaluation denies, and what that can be fooled with. docs/gate-policy.md lists every
difference from the engine's evaluation with its reason.
"""

from __future__ import annotations

import os
import posixpath
import re
import shlex
from collections.abc import Sequence

from ..base.files import inside
from ..base.untrusted import show
from .change import DIRECTORY, LINK, MODES, MODULE, PROGRAM, Change, Violation, bytes_in
from .contents import judge_names, text_judge
from .paths import MAX_PATH, normal_prefix, odd_character, path_judge, spares
from .patterns import deadline
from .schema import Policy, effective, guards, within

JUDGE_SECONDS = 60.0  # of the processor


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
        found += judge_names(engine, [change.path for change in changes if not change.deleted])
        paths, texts = path_judge(engine, ours, prefixes), text_judge(engine, ours)
        for change in changes:
            found += [*paths(change), *_judge_kind(engine, ours, change), *texts(change)]
    return list(dict.fromkeys(found))


def judge_text(policy: Policy, repo: str, name: str, text: str) -> list[Violation]:
    """Whether text that no diff shows, such as a commit's message, is free of what is denied."""
    judge = text_judge(effective(policy, repo), guards(policy, repo))
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
        added = max(change.size if change.binary else 0, bytes_in(change.added))
        sizes[change.since] = sizes.get(change.since, 0) + added
    size = max(sizes.values(), default=0)
    if size > ours["max_patch_bytes"]:
        reason = f"{size} bytes are added, allowed: {ours['max_patch_bytes']}"
        found.append(Violation("guards.max_patch_bytes", "the change", reason))
    return found


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
        if applies and not spares(ours[guard], change.path):
            found.append(Violation(f"guards.{guard}", name, reason))
    return found


def admits_handoff(policy: Policy, directory: str) -> bool:
    """Whether the engine may write its handoff to ``directory``: both sides resolved, as the engine does.

    Stricter than the engine: a relative directory is never admitted (it depends on where
    somebody stands), nor is an allowed entry that a symlink turned into the whole root.
    """
    if not directory.startswith("/") or "\0" in directory:
        return False
    target = os.path.realpath(directory)
    trees = [os.path.realpath(tree) for tree in effective(policy).get("allowed_handoff_dirs", [])]
    return within(target, [tree for tree in trees if tree != "/"])


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
        if inside(branch, prefix) or inside(low, prefix.casefold()):
            return [Violation("protected_branch_prefixes", show(branch), f"is protected by {prefix}")]
    odd = odd_character(branch)
    if odd:
        return [Violation("names", show(branch), f"has {odd}")]
    with deadline(JUDGE_SECONDS, f"judging a branch's name took longer than {JUDGE_SECONDS:.0f} s: refused"):
        return judge_names(effective(policy, repo), [name])


def judge_remote(policy: Policy, remote: str, url: str | None = None, expected: str | None = None) -> list[Violation]:
    """Whether a remote may be published to; with ``expected``, also whether its ``url`` is that repository."""
    if remote not in effective(policy)["allowed_pr_remotes"]:
        return [Violation("allowed_pr_remotes", show(remote), "is not an allowed remote")]
    if expected is not None and (url is None or _address(url) != _address(expected)):
        reason = f"points to {show(_address(url or 'nothing'))}, not to {show(_address(expected))}"
        return [Violation("remote", show(remote), reason)]
    return []


def _address(url: str) -> str:
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
