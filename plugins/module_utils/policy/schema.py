# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a policy may say: its keys, its validation, what holds for a repository, and the digest of what it means.

A policy is plain data in the engine's own form, plus ``guards``, a key of ours that the engine does not look at.
docs/gate-policy.md tells the story.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ..base.errors import APPLY, LoopError, printable
from ..base.files import inside, read_bytes, sha256
from .patterns import PARSER, try_pattern
from .strict_yaml import parse, short, what

Policy = dict[str, Any]

MAX_BYTES = 64 * 1024
MAX_ENTRIES = 1000
MAX_TEXT = 1024

# What a key holds decides what is allowed in it and which of two values is the stricter one.
DEFAULT_KEYS = {
    "max_changed_files": "limit",
    "max_file_bytes": "limit",
    "denied_path_globs": "denied globs",
    "denied_content_patterns": "denied patterns",
    "allowed_gate_commands": "allowed commands",
    "protected_branch_prefixes": "denied branches",
    "allowed_pr_remotes": "allowed remotes",
    "allowed_handoff_dirs": "allowed trees",
}
REPO_KEYS = {
    "denied_path_globs": "denied globs",
    "denied_content_patterns": "denied patterns",
    "max_file_bytes": "limit",
    "allowed_repo_roots": "allowed directories",
}
SWITCHES = (
    *("ci", "codeowners", "agent_instructions", "git_hooks", "workspace_settings", "build_settings"),
    *("dependency_manifests", "lock_files", "git_settings", "symlinks", "submodules", "executables", "binaries"),
)
GUARD_KEYS = {"max_patch_bytes": "limit", "max_line_length": "limit", **dict.fromkeys(SWITCHES, "switch")}
# What holds where a policy is silent: the engine's own values, and every guard on.
ENGINE_DEFAULTS: Policy = {"max_changed_files": 20, "max_file_bytes": 1048576, "allowed_pr_remotes": ["origin"]}
GUARD_DEFAULTS: Policy = {"max_patch_bytes": 1048576, "max_line_length": 65536, **dict.fromkeys(SWITCHES, True)}
HIGHEST = {"max_changed_files": 100_000, "max_line_length": 1024 * 1024}
HIGHEST_BYTES = 1024 * 1024 * 1024


class Part(NamedTuple):
    """One of the two parts of a policy, each with ``defaults`` and ``repos``: the engine's own keys, and the guards."""

    path: str  # of its keys: '' or 'guards.'
    keys: Mapping[str, str]  # of the defaults, with their kinds
    repo_keys: Mapping[str, str]
    silent: Policy  # what holds where a policy is silent

    def _of(self, policy: Policy) -> Policy:
        found: Policy = policy.get("guards", {}) if self.path else policy
        return found

    def defaults(self, policy: Policy) -> Any:
        return self._of(policy).get("defaults", {})

    def repos(self, policy: Policy) -> Any:
        return self._of(policy).get("repos", {})

    def holds(self, policy: Policy, repo: str = "") -> Policy:
        """What holds for ``repo``: its own entry replaces the default's, as in the engine."""
        return {**self.silent, **self.defaults(policy), **self.repos(policy).get(repo, {})}


ENGINE = Part("", DEFAULT_KEYS, REPO_KEYS, ENGINE_DEFAULTS)
GUARDS = Part("guards.", GUARD_KEYS, GUARD_KEYS, GUARD_DEFAULTS)
effective, guards = ENGINE.holds, GUARDS.holds


def _glob(value: str) -> str:
    if value.startswith(("/", "./")) or value.endswith("/") or ".." in value.split("/"):
        return "a glob for paths relative to the repository; this one never matches"
    return ""


def _pattern(value: str) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what a later Python reads differently is refused
            PARSER.parse(value)
        re.compile(value)
    except (re.error, OverflowError, RecursionError, ValueError, Warning) as error:
        return f"a regular expression of Python's re ({printable(str(error))})"
    return ""


def _command(value: str) -> str:
    bad = "/" in value or value in (".", "..") or value.split() != [value]
    return "a program's bare name; the engine compares no directories and no arguments" if bad else ""


def _branch(value: str) -> str:
    bad = value != value.strip("/") or value.split() != [value]
    return "a branch name's beginning without a slash at either end" if bad else ""


def _remote(value: str) -> str:
    return "" if value.split() == [value] and not value.startswith("-") else "a remote's name"


def _directory(value: str) -> str:
    bad = not value.startswith("/") or ".." in value.split("/") or os.path.normpath(value) in ("/", "//")
    bad = bad or any(unicodedata.category(letter) == "Cc" for letter in value)
    return "an absolute directory, not / and without .. or control characters" if bad else ""


ENTRY: dict[str, Callable[[str], str]] = {
    "globs": _glob,
    "patterns": _pattern,
    "commands": _command,
    "branches": _branch,
    "remotes": _remote,
    "trees": _directory,
    "directories": _directory,
}


class Checker(NamedTuple):
    """Raises with source, key path and line; ``lines`` is empty for data that was never a file."""

    source: str
    lines: Mapping[str, int]

    def where(self, path: str) -> str:
        line = f" (line {self.lines[path]})" if path in self.lines else ""
        return f"{self.source}: {printable(path)[:200]}{line}"

    def refuse(self, path: str, found: Any, allowed: str) -> LoopError:
        return LoopError(f"{self.where(path)}: found {what(found)}, allowed: {allowed}")

    def mapping(self, value: Any, path: str, known: Iterable[str] = ()) -> None:
        if not isinstance(value, dict):
            raise self.refuse(path, value, "a mapping")
        for key in value:
            if not isinstance(key, str) or (known and key not in known):
                here = f"{path}.{key}" if path else str(key)
                raise LoopError(f"{self.where(here)}: an unknown key, allowed: {', '.join(known) or 'names'}")

    def outline(self, policy: Any) -> None:
        """Whether the policy has its parts, and each of them its sections, whatever is in these."""
        self.mapping(policy, "", ("version", "defaults", "repos", "guards"))
        self.mapping(policy.get("guards", {}), "guards", ("defaults", "repos"))
        for part in (ENGINE, GUARDS):
            self.mapping(part.repos(policy), f"{part.path}repos")

    def section(self, value: Any, path: str, kinds: Mapping[str, str]) -> None:
        self.mapping(value, path, kinds)
        for key, entry in value.items():
            self.value(entry, f"{path}.{key}", key, kinds[key])

    def value(self, value: Any, path: str, key: str, kind: str) -> None:
        if kind == "limit":
            highest = HIGHEST.get(key, HIGHEST_BYTES)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= highest:
                raise self.refuse(path, value, f"a whole number from 1 to {highest}")
        elif kind == "switch":
            if not isinstance(value, bool):
                self.entries(value, path, "globs", "true, false, or the globs that the guard leaves alone")
        else:
            allowed = f"a list of {kind}"
            # An empty list of remotes refuses every remote. Every other empty list lets everything pass.
            self.entries(value, path, kind.split()[1], allowed, empty=kind == "allowed remotes")

    def entries(self, value: Any, path: str, noun: str, allowed: str, empty: bool = False) -> None:
        if not isinstance(value, list) or len(value) > MAX_ENTRIES:
            raise self.refuse(path, value, f"{allowed} (at most {MAX_ENTRIES})")
        if not value and not empty:
            raise self.refuse(path, value, f"{allowed} with an entry at least: an empty one would let everything pass")
        for number, entry in enumerate(value):
            here = f"{path}[{number}]"
            if not isinstance(entry, str) or not entry or len(entry) > MAX_TEXT:
                raise self.refuse(here, entry, f"a text of 1 to {MAX_TEXT} characters, in quotes if need be")
            if "\0" in entry or any("\ud800" <= char <= "\udfff" for char in entry):
                raise self.refuse(here, entry, "a text without NUL and half characters")
            reason = ENTRY[noun](entry)
            if reason:
                raise self.refuse(here, entry, reason)


def validate(policy: Any, source: str, lines: Mapping[str, int] | None = None, *, complete: bool = True) -> None:
    """Raise LoopError with the key path where ``policy`` is not what the published schema says.

    ``complete`` demands the keys that the engine reads as "everything is allowed" where
    they are missing; a base that is still to be completed is validated without.
    """
    check = Checker(source, lines or {})
    check.outline(policy)
    if policy.get("version") != 1 or isinstance(policy.get("version"), bool):
        raise check.refuse("version", policy.get("version"), "1")
    for part in (ENGINE, GUARDS):
        check.section(part.defaults(policy), f"{part.path}defaults", part.keys)
        for name, section in part.repos(policy).items():
            path = f"{part.path}repos.{name}"
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name):
                raise check.refuse(path, name, "the name of a checkout (no owner and no slash: see the docs)")
            check.section(section, path, part.repo_keys)
    for key, kind in DEFAULT_KEYS.items():
        if complete and key not in ENGINE.defaults(policy) and key not in ENGINE_DEFAULTS:
            raise check.refuse(f"defaults.{key}", None, f"a list of {kind}; the engine lets everything pass without")


def load(content: bytes | Mapping[str, Any], source: str, *, complete: bool = True) -> Policy:
    """A validated policy from YAML, or from data that some other loader has made. LoopError names ``source``."""
    lines: dict[str, int] = {}
    if isinstance(content, bytes):
        if len(content) > MAX_BYTES:
            raise LoopError(f"{source} has {len(content)} bytes; a policy may have {MAX_BYTES}")
        data, lines = parse(content, source)
        if not isinstance(data, dict):
            allowed = "a mapping with version, defaults, repos"
            raise LoopError(f"{source}: found {what(data)} at the top, allowed: {allowed}")
    else:
        data = plain(content)
    validate(data, source, lines, complete=complete)
    policy: Policy = data
    return policy


def plain(value: Any) -> Any:
    """A deep copy in plain types: Ansible hands over tagged strings and mappings of its own."""
    if isinstance(value, Mapping):
        return {str(key) if isinstance(key, str) else key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return str(value) if isinstance(value, str) else value


def load_file(path: str) -> Policy:
    """The policy in force at ``path``. LoopError where it is missing, unreadable, invalid or incomplete."""
    content = read_bytes(path, MAX_BYTES)
    if content is None:
        raise LoopError(f"there is no policy at {path}; without one the engine allows everything: {APPLY}")
    return load(content, path)


def within(directory: str, trees: Iterable[str]) -> bool:
    """Whether the directory is one of the trees or lies in one; compared as text, no link is followed."""
    path = os.path.normpath(directory)
    return any(inside(path, os.path.normpath(tree)) for tree in trees)


def try_patterns(policy: Policy, source: str) -> None:
    """Refuse each pattern that would stall a run, by its key path."""
    sections = {"defaults": ENGINE.defaults(policy), **{f"repos.{k}": v for k, v in ENGINE.repos(policy).items()}}
    tried: set[str] = set()
    for path, section in sections.items():
        for number, pattern in enumerate(section.get("denied_content_patterns", [])):
            if pattern in tried:
                continue
            tried.add(pattern)
            here = f"{source}: {path}.denied_content_patterns[{number}]"
            try_pattern(pattern, f"{here}: found {short(pattern)}, allowed: a pattern that is quick on every text")


def digest(policy: Policy) -> str:
    """SHA-256 of what the policy means: order, repetition, layout, and saying what holds anyway do not count."""

    def section(entries: Policy) -> Policy:
        lists = {key: value for key, value in entries.items() if isinstance(value, list)}
        for key in {"allowed_handoff_dirs", "allowed_repo_roots"} & set(lists):
            lists[key] = list(map(os.path.normpath, lists[key]))
        return {**entries, **{key: sorted(set(value)) for key, value in lists.items()}}

    def part(half: Part) -> Policy:
        defaults = section(half.holds(policy))
        own = {
            repo: {key: value for key, value in section(entries).items() if value != defaults.get(key)}
            for repo, entries in half.repos(policy).items()
        }
        return {"defaults": defaults, "repos": {repo: entries for repo, entries in own.items() if entries}}

    meaning = {"version": 1, **part(ENGINE), "guards": part(GUARDS)}
    return sha256(json.dumps(meaning, sort_keys=True, separators=(",", ":")).encode())
