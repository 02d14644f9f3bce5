# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate policy: read strictly, validated, composed for one host, compared, rendered.

A policy is plain data in the engine's own form, plus ``guards``, a key of ours that
the engine does not look at. docs/gate-policy.md tells the story; what a policy says
about a change is in gate_check.py.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..base.errors import APPLY, LoopError, MissingLibrary, printable
from ..base.files import inside, read_bytes, sha256
from .patterns import PARSER, try_pattern

try:
    import yaml
except ImportError:  # a fresh host, before the role's packages are there
    yaml = None  # type: ignore[assignment]

HAS_YAML = yaml is not None
_RESOLVER: Any = yaml.resolver.Resolver() if HAS_YAML else None
Policy = dict[str, Any]

MAX_BYTES = 64 * 1024
MAX_DEPTH = 5
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
GUARD_KEYS = {
    "max_patch_bytes": "limit",
    "max_line_length": "limit",
    "ci": "switch",
    "codeowners": "switch",
    "agent_instructions": "switch",
    "git_hooks": "switch",
    "workspace_settings": "switch",
    "build_settings": "switch",
    "dependency_manifests": "switch",
    "lock_files": "switch",
    "git_settings": "switch",
    "symlinks": "switch",
    "submodules": "switch",
    "executables": "switch",
    "binaries": "switch",
}
# What holds where a policy is silent: the engine's own values, and every guard on.
ENGINE_DEFAULTS: Policy = {"max_changed_files": 20, "max_file_bytes": 1048576, "allowed_pr_remotes": ["origin"]}
GUARD_DEFAULTS: Policy = {
    key: True if kind == "switch" else {"max_patch_bytes": 1048576, "max_line_length": 65536}[key]
    for key, kind in GUARD_KEYS.items()
}
HIGHEST = {"max_changed_files": 100_000, "max_line_length": 1024 * 1024}
HIGHEST_BYTES = 1024 * 1024 * 1024


# --- reading ---------------------------------------------------------------------------------------------


def parse(content: bytes, source: str) -> tuple[Policy, dict[str, int]]:
    """The mapping in a YAML document and the line of each key path. LoopError names path and line.

    Only what a policy needs is read: mappings, lists, strings, whole numbers, true and
    false. Anchors, aliases, tags, duplicate keys and several documents are refused.
    """
    if not HAS_YAML:
        raise MissingLibrary("PyYAML", "python3-yaml")
    if len(content) > MAX_BYTES:
        raise LoopError(f"{source} has {len(content)} bytes; a policy may have {MAX_BYTES}")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise LoopError(f"{source}: line {line}: byte 0x{content[error.start]:02x} is not UTF-8") from error
    try:
        data, lines = _build(text, source)
    except yaml.YAMLError as error:
        raise LoopError(f"{source}: {_yaml_reason(error)}") from error
    except (ValueError, OverflowError) as error:  # PyYAML's own, for "\\U00110000"
        raise LoopError(f"{source}: no YAML: an escape names a character that does not exist") from error
    if not isinstance(data, dict):
        raise LoopError(f"{source}: found {_what(data)} at the top, allowed: a mapping with version, defaults, repos")
    return data, lines


def _yaml_reason(error: Exception) -> str:
    """Where and what, in one line, of the several that PyYAML has."""
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return printable(f"line {mark.line + 1}: {reason}" if mark else f"no YAML: {reason}")


@dataclasses.dataclass
class _Open:
    """A container that is being read, and the key that waits for its value."""

    value: Any
    path: str
    key: str | None = None


def _build(text: str, source: str) -> tuple[Any, dict[str, int]]:
    """Data from the parser's events, with a stack of our own: nothing here recurses or expands."""
    lines: dict[str, int] = {}
    top: list[Any] = []
    stack = [_Open(top, "")]
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            stack.pop()
        elif isinstance(event, yaml.NodeEvent):
            try:
                _take(event, stack, lines)
            except LoopError as error:
                raise LoopError(f"{source}: {error}") from error
        elif isinstance(event, yaml.DocumentStartEvent) and top:
            raise LoopError(f"{source}: line {_line(event)}: a second document begins; a policy is one")
    return (top[0] if top else None), lines


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _take(event: Any, stack: list[_Open], lines: dict[str, int]) -> None:
    """One node: a key that waits for its value, or a value put where it belongs."""
    here = stack[-1]
    line = _line(event)
    names = isinstance(here.value, dict) and here.key is None
    path = here.path if names else _join(here, here.key if isinstance(here.value, dict) else len(here.value))

    def refuse(where: str, reason: str) -> LoopError:
        return LoopError(f"{printable(where)[:200] or 'the document'} (line {line}): {reason}")

    if isinstance(event, yaml.AliasEvent) or event.anchor:
        raise refuse(path, "anchors and aliases are not allowed; write the value out")
    if event.tag:
        raise refuse(path, f"the tag {_short(event.tag)} is not allowed")
    value = _scalar(event)
    if names:
        if not isinstance(value, str) or not value:
            raise refuse(path, f"found {_what(value)} as a key, allowed: a name")
        if value in here.value:
            raise refuse(_join(here, value), "the key is there twice")
        here.key = value
        return
    lines[path] = line
    if isinstance(here.value, dict):
        here.value[here.key] = value
        here.key = None
    else:
        here.value.append(value)
    if isinstance(value, (dict, list)):
        if len(stack) > MAX_DEPTH:
            raise refuse(path, f"nested more than {MAX_DEPTH} levels deep")
        stack.append(_Open(value, path))


def _join(container: _Open, key: Any) -> str:
    """The key path of an entry. What holds the document itself has no name."""
    if isinstance(key, int):
        return f"{container.path}[{key}]" if container.path else ""
    return f"{container.path}.{key}" if container.path else str(key)


class _Odd(NamedTuple):
    """A YAML scalar that a policy never holds: a date, a float, null, an octal number."""

    text: str
    kind: str


def _scalar(event: Any) -> Any:
    """An event as data: an empty container, or what the engine's loader would make of a scalar."""
    if isinstance(event, yaml.MappingStartEvent):
        return {}
    if isinstance(event, yaml.SequenceStartEvent):
        return []
    text: str = event.value
    tag = str(_RESOLVER.resolve(yaml.ScalarNode, text, event.implicit)).rpartition(":")[2]
    if tag == "str":
        return text
    if tag == "bool":
        return text.lower() in ("yes", "true", "on")
    if tag == "int" and re.fullmatch("[-+]?(0|[1-9][0-9]{0,17})", text):
        return int(text)
    return _Odd(text, {"int": "a number not in plain decimal digits"}.get(tag, tag))


def _what(value: Any) -> str:
    """A value in the words of an error message, never longer than a line bears."""
    if isinstance(value, _Odd):
        return f"{_short(value.text)} ({value.kind})"
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list" if value else "an empty list"
    return _short(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- validating ------------------------------------------------------------------------------------------


def _limit(value: Any, key: str) -> str:
    highest = HIGHEST.get(key, HIGHEST_BYTES)
    good = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= highest
    return "" if good else f"a whole number from 1 to {highest}"


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


class _Checker(NamedTuple):
    """Raises with source, key path and line; ``lines`` is empty for data that was never a file."""

    source: str
    lines: Mapping[str, int]

    def place(self, path: str) -> str:
        line = f" (line {self.lines[path]})" if path in self.lines else ""
        return f"{self.source}: {printable(path)[:200]}{line}"

    def refuse(self, path: str, found: Any, allowed: str) -> LoopError:
        return LoopError(f"{self.place(path)}: found {_what(found)}, allowed: {allowed}")

    def mapping(self, value: Any, path: str, known: Iterable[str] = ()) -> None:
        if not isinstance(value, dict):
            raise self.refuse(path, value, "a mapping")
        for key in value:
            if not isinstance(key, str) or (known and key not in known):
                here = f"{path}.{key}" if path else str(key)
                raise LoopError(f"{self.place(here)}: an unknown key, allowed: {', '.join(known) or 'names'}")

    def section(self, value: Any, path: str, kinds: Mapping[str, str]) -> None:
        self.mapping(value, path, kinds)
        for key, entry in value.items():
            self.value(entry, f"{path}.{key}", key, kinds[key])

    def value(self, value: Any, path: str, key: str, kind: str) -> None:
        if kind == "limit":
            reason = _limit(value, key)
            if reason:
                raise self.refuse(path, value, reason)
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
    check = _Checker(source, lines or {})
    check.mapping(policy, "", ("version", "defaults", "repos", "guards"))
    if policy.get("version") != 1 or isinstance(policy.get("version"), bool):
        raise check.refuse("version", policy.get("version"), "1")
    defaults = policy.get("defaults", {})
    check.section(defaults, "defaults", DEFAULT_KEYS)
    _repos(check, policy.get("repos", {}), "repos", REPO_KEYS)
    guards = policy.get("guards", {})
    check.mapping(guards, "guards", ("defaults", "repos"))
    check.section(guards.get("defaults", {}), "guards.defaults", GUARD_KEYS)
    _repos(check, guards.get("repos", {}), "guards.repos", GUARD_KEYS)
    for key, kind in DEFAULT_KEYS.items():
        if complete and key not in defaults and key not in ENGINE_DEFAULTS:
            raise check.refuse(f"defaults.{key}", None, f"a list of {kind}; the engine lets everything pass without")


def _repos(check: _Checker, repos: Any, path: str, kinds: Mapping[str, str]) -> None:
    check.mapping(repos, path)
    for name, section in repos.items():
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name):
            raise check.refuse(f"{path}.{name}", name, "the name of a checkout (no owner and no slash: see the docs)")
        check.section(section, f"{path}.{name}", kinds)


def load(content: bytes | Mapping[str, Any], source: str, *, complete: bool = True) -> Policy:
    """A validated policy from YAML, or from data that some other loader has made."""
    if isinstance(content, bytes):
        data, lines = parse(content, source)
    else:
        data, lines = _plain(content), {}
    validate(data, source, lines, complete=complete)
    return data


def _plain(value: Any) -> Any:
    """A deep copy in plain types: Ansible hands over tagged strings and mappings of its own."""
    if isinstance(value, Mapping):
        return {str(key) if isinstance(key, str) else key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, str) else value


def load_file(path: str) -> Policy:
    """The policy in force at ``path``. LoopError where it is missing, unreadable, invalid or incomplete."""
    content = read_bytes(path, MAX_BYTES)
    if content is None:
        raise LoopError(f"there is no policy at {path}; without one the engine allows everything: {APPLY}")
    return load(content, path)


# --- what holds, and in which direction ------------------------------------------------------------------


def effective(policy: Policy, repo: str = "") -> Policy:
    """The engine's keys as they hold for ``repo``: its own entry replaces the default's, as in the engine."""
    own = policy.get("repos", {}).get(repo, {})
    return {**ENGINE_DEFAULTS, **policy.get("defaults", {}), **own}


def guards(policy: Policy, repo: str = "") -> Policy:
    """The guards as they hold for ``repo``; what nobody speaks of is on."""
    section = policy.get("guards", {})
    return {**GUARD_DEFAULTS, **section.get("defaults", {}), **section.get("repos", {}).get(repo, {})}


def _inside(directory: str, trees: Iterable[str]) -> bool:
    path = os.path.normpath(directory)
    return any(inside(path, os.path.normpath(tree)) for tree in trees)


def more(kind: str, value: Any, than: Any) -> list[Any]:
    """What ``value`` lets pass that ``than`` does not (None: the key is absent); empty where nothing."""
    if kind == "limit":
        return [value] if value > than else []
    if kind == "switch":
        passes, passed = _let_pass(value), _let_pass(than)
        return [] if passed is None else ["everything"] if passes is None else sorted(passes - passed)
    if kind.startswith("denied"):
        return [entry for entry in than or [] if entry not in (value or [])]
    if than is None:
        return []
    if value is None:
        return ["everything"]
    if kind == "allowed trees":
        return [entry for entry in value if not _inside(entry, than)]
    return [entry for entry in value if entry not in than]


def _let_pass(switch: bool | list[str]) -> set[str] | None:
    """The globs that a guard leaves alone, None for all."""
    return None if switch is False else set() if switch is True else set(switch)


class Difference(NamedTuple):
    """One key that lets more or less pass than the base does."""

    key: str
    widened: list[Any]
    tightened: list[Any]


def compare(base: Policy, policy: Policy) -> list[Difference]:
    """Each key path of ``policy`` that holds differently than in ``base``, repo by repo."""
    found: list[Difference] = []

    def look(path: str, kinds: Mapping[str, str], old: Policy, new: Policy, keys: Iterable[str]) -> None:
        for key in keys:
            was, now = old.get(key), new.get(key)
            difference = Difference(f"{path}.{key}", more(kinds[key], now, was), more(kinds[key], was, now))
            if difference.widened or difference.tightened:
                found.append(difference)

    look("defaults", DEFAULT_KEYS, effective(base), effective(policy), DEFAULT_KEYS)
    for repo, keys in _overrides(REPO_KEYS, base.get("repos", {}), policy.get("repos", {})):
        look(f"repos.{repo}", REPO_KEYS, effective(base, repo), effective(policy, repo), keys)
    look("guards.defaults", GUARD_KEYS, guards(base), guards(policy), GUARD_KEYS)
    sections = [side.get("guards", {}).get("repos", {}) for side in (base, policy)]
    for repo, keys in _overrides(GUARD_KEYS, *sections):
        look(f"guards.repos.{repo}", GUARD_KEYS, guards(base, repo), guards(policy, repo), keys)
    return found


def _overrides(order: Iterable[str], *sides: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Each repo that either side names, with the keys that either sets for it."""
    repos = sorted({repo for side in sides for repo in side})
    return [(repo, [key for key in order if any(key in side.get(repo, {}) for side in sides)]) for repo in repos]


# --- composing -------------------------------------------------------------------------------------------


class Composed(NamedTuple):
    """The policy for one host and how it differs from the base. Key paths, and directories in ``admitted``."""

    policy: Policy
    widened: list[str]
    tightened: list[str]
    admitted: list[str]
    text: str


def compose(
    base: Policy, overlay: Mapping[str, Any], handoff_dirs: Sequence[str] = (), widen: Sequence[str] = ()
) -> Composed:
    """The base, with the overlay's values in place of its own, admitting exactly the deployment's handoff directories.

    LoopError where a key would let more pass than in ``base`` and is not named in
    ``widen``, by its key path or by its last part. ``handoff_dirs`` are facts of the
    deployment: admitting them is no widening, but is told in ``admitted``.
    """
    facts = _facts(handoff_dirs)
    _check_widen(widen)
    policy = _merge(base, _plain(overlay), facts)
    validate(policy, "the composed policy")
    try_patterns(policy, "the composed policy")
    admitted = more("allowed trees", facts, effective(base).get("allowed_handoff_dirs"))
    widened: list[str] = []
    tightened: list[str] = []
    refused: list[str] = []
    for key, more_passes, less_passes in compare(base, policy):
        if key == "defaults.allowed_handoff_dirs":
            more_passes = [entry for entry in more_passes if entry == "everything" or not _inside(entry, facts)]
        tightened += [key] * bool(less_passes)
        widened += [key] * bool(more_passes)
        if more_passes and key not in widen and key.rpartition(".")[2] not in widen:
            refused.append(f"{key} ({', '.join(map(_short, more_passes))})")
    if refused:
        raise LoopError(
            f"the policy would let more pass than its base: {'; '.join(refused)}. "
            "Name the key in engineering_loop_policy_widen if that is meant, or leave it as it is in the base"
        )
    text = render(policy, base, facts, widened)
    if digest(load(text.encode(), "the rendered policy")) != digest(policy):
        raise LoopError("the rendered policy does not read back as it was composed; nothing was written")
    return Composed(policy, widened, tightened, admitted, text)


def check_overlay(overlay: Mapping[str, Any], widen: Sequence[str] = ()) -> None:
    """LoopError where an overlay would be refused over whatever base: before there is a release to have one."""
    _check_widen(widen)
    some = {key: [f"/{key}" if kind.endswith(("trees", "directories")) else key] for key, kind in DEFAULT_KEYS.items()}
    base = {"version": 1, "defaults": {**some, **{key: 1 for key, kind in DEFAULT_KEYS.items() if kind == "limit"}}}
    validate(_merge(base, _plain(overlay), []), "engineering_loop_policy_overlay")


def _facts(handoff_dirs: Sequence[str]) -> list[str]:
    if handoff_dirs:
        _Checker("engineering_loop_runs_dir", {}).entries(
            list(handoff_dirs), "", "directories", "a list of directories"
        )
    return list(dict.fromkeys(os.path.normpath(entry) for entry in handoff_dirs))


def _check_widen(widen: Sequence[str]) -> None:
    known = {*DEFAULT_KEYS, *REPO_KEYS, *GUARD_KEYS}
    for key in widen:
        if key.rpartition(".")[2] not in known:
            allowed = "a key path of the policy, or the last part of one"
            raise LoopError(f"engineering_loop_policy_widen: found {_short(key)}, allowed: {allowed}")


def _merge(base: Policy, overlay: Any, facts: list[str]) -> Policy:
    """``overlay`` over ``base``; a list may be replaced, or changed by {add: [...], remove: [...]}."""
    check = _Checker("engineering_loop_policy_overlay", {})
    check.mapping(overlay, "", ("version", "defaults", "repos", "guards"))
    guard_overlay = overlay.get("guards", {})
    check.mapping(guard_overlay, "guards", ("defaults", "repos"))
    for path, section in (("repos", overlay.get("repos", {})), ("guards.repos", guard_overlay.get("repos", {}))):
        check.mapping(section, path)
    if overlay.get("version", 1) != 1:
        raise check.refuse("version", overlay["version"], "1")

    own = overlay.get("defaults", {})
    start = effective(base)
    if facts:
        start["allowed_handoff_dirs"] = facts
        if isinstance(own, dict) and isinstance(own.get("allowed_handoff_dirs"), list):
            own = {**own, "allowed_handoff_dirs": {"add": own["allowed_handoff_dirs"]}}
    defaults = _apply(check, "defaults", DEFAULT_KEYS, start, own, start)
    for directory in facts:
        if not _inside(directory, defaults.get("allowed_handoff_dirs", [])):
            raise check.refuse(
                "defaults.allowed_handoff_dirs",
                directory,
                "to remove a tree that cycles write to (engineering_loop_runs_dir)",
            )
    policy: Policy = {"version": 1, "defaults": defaults, "repos": {}}
    policy["repos"] = _apply_repos(check, "repos", REPO_KEYS, base.get("repos", {}), overlay.get("repos", {}), defaults)
    ours = guards(base)
    everywhere = _apply(check, "guards.defaults", GUARD_KEYS, ours, guard_overlay.get("defaults", {}), ours)
    named = base.get("guards", {}).get("repos", {})
    each = _apply_repos(check, "guards.repos", GUARD_KEYS, named, guard_overlay.get("repos", {}), everywhere)
    policy["guards"] = {"defaults": everywhere, "repos": each}
    return policy


def _apply_repos(
    check: _Checker, path: str, kinds: Mapping[str, str], base: Policy, overlay: Policy, inherited: Policy
) -> Policy:
    return {
        repo: _apply(check, f"{path}.{repo}", kinds, base.get(repo, {}), overlay.get(repo, {}), inherited)
        for repo in sorted({*base, *overlay})
    }


def _apply(
    check: _Checker, path: str, kinds: Mapping[str, str], base: Policy, overlay: Any, inherited: Policy
) -> Policy:
    """One section in the schema's order. A repo's {add, remove} starts from its own list, else the inherited one."""
    check.mapping(overlay, path, kinds)
    section = dict(base)
    for key, value in overlay.items():
        here = f"{path}.{key}"
        if isinstance(value, dict) and kinds[key] != "limit":
            check.mapping(value, here, ("add", "remove"))
            noun = "globs" if kinds[key] == "switch" else kinds[key].split()[1]
            for part, entries in value.items():
                check.entries(entries, f"{here}.{part}", noun, f"a list of {noun}")
            value = _edit(base.get(key, inherited.get(key, [])), value)
        check.value(value, here, key, kinds[key])
        section[key] = value
    return {key: section[key] for key in kinds if key in section}


def _edit(value: Any, edit: Mapping[str, list[str]]) -> list[str]:
    start = list(value) if isinstance(value, list) else []
    kept = [entry for entry in start if entry not in edit.get("remove", [])]
    return list(dict.fromkeys([*kept, *edit.get("add", [])]))


def try_patterns(policy: Policy, source: str) -> None:
    """Refuse each pattern that would stall a run, by its key path."""
    sections = {"defaults": policy.get("defaults", {}), **{f"repos.{k}": v for k, v in policy.get("repos", {}).items()}}
    tried: set[str] = set()
    for path, section in sections.items():
        for number, pattern in enumerate(section.get("denied_content_patterns", [])):
            if pattern in tried:
                continue
            tried.add(pattern)
            here = f"{source}: {path}.denied_content_patterns[{number}]"
            try_pattern(pattern, f"{here}: found {_short(pattern)}, allowed: a pattern that is quick on every text")


# --- rendering and the digest ----------------------------------------------------------------------------

HEADER = """\
# The gate policy in force on this host. Ansible writes it (as215932.engineering_loop.gate_policy):
# change the inventory, not this file. Each comment says where the entry comes from: the base
# (the release's own policy), the inventory, the deployment, or the collection.
"""


def render(policy: Policy, base: Policy, facts: Sequence[str], widened: Sequence[str]) -> str:
    """YAML in the schema's order, one entry per line, so that a diff of two policies reads well."""
    out = [HEADER, "version: 1\n"]

    def section(path: str, indent: str, new: Policy, old: Policy, before: str) -> None:
        for key, value in new.items():
            wide = f", wider than the {before}'s" if f"{path}.{key}" in widened else ""
            was = old.get(key)
            if not isinstance(value, list):
                out.append(f"{indent}{key}: {json.dumps(value)}  # {before if value == was else 'inventory'}{wide}\n")
                continue
            if not value:
                out.append(f"{indent}{key}: []  # {before if value == was else 'inventory'}\n")
                continue
            out.append(f"{indent}{key}:{'  # ' + wide[2:] if wide else ''}\n")
            for entry in value:
                known = isinstance(was, list) and entry in was
                place = "deployment" if key == "allowed_handoff_dirs" and entry in facts else ""
                out.append(f"{indent}  - {_quote(entry)}  # {place or (before if known else 'inventory')}\n")

    def repos(path: str, indent: str, new: Policy, old: Policy, before: str) -> None:
        out.append(f"{indent}repos:{'' if new else ' {}'}\n")
        for repo, entries in new.items():
            out.append(f"{indent}  {_quote(repo)}:{'' if entries else ' {}'}\n")
            section(f"{path}.{repo}", f"{indent}    ", entries, old.get(repo, {}), before)

    out.append("defaults:\n")
    section("defaults", "  ", policy["defaults"], effective(base), "base")
    repos("repos", "", policy["repos"], base.get("repos", {}), "base")
    out.append("guards:  # the collection's own; the engine does not read them\n  defaults:\n")
    own = "base" if "guards" in base else "collection"
    section("guards.defaults", "    ", policy["guards"]["defaults"], guards(base), own)
    repos("guards.repos", "  ", policy["guards"]["repos"], base.get("guards", {}).get("repos", {}), own)
    return "".join(out)


def _quote(text: str) -> str:
    """A YAML double-quoted scalar on one line."""
    quoted = json.dumps(text, ensure_ascii=False)
    return re.sub("[^ -~]", lambda match: match[0] if match[0].isprintable() else f"\\U{ord(match[0]):08x}", quoted)


def digest(policy: Policy) -> str:
    """SHA-256 of what the policy means: order, repetition, layout, and saying what holds anyway do not count."""

    def section(entries: Policy) -> Policy:
        lists = {key: value for key, value in entries.items() if isinstance(value, list)}
        for key in {"allowed_handoff_dirs", "allowed_repo_roots"} & set(lists):
            lists[key] = list(map(os.path.normpath, lists[key]))
        return {**entries, **{key: sorted(set(value)) for key, value in lists.items()}}

    def repos(named: Policy, everywhere: Policy) -> Policy:
        own = {
            repo: {key: value for key, value in section(entries).items() if value != everywhere.get(key)}
            for repo, entries in named.items()
        }
        return {repo: entries for repo, entries in own.items() if entries}

    defaults, ours = section(effective(policy)), section(guards(policy))
    meaning = {
        "version": 1,
        "defaults": defaults,
        "repos": repos(policy.get("repos", {}), defaults),
        "guards": {"defaults": ours, "repos": repos(policy.get("guards", {}).get("repos", {}), ours)},
    }
    return sha256(json.dumps(meaning, sort_keys=True, separators=(",", ":")).encode())


def admits_handoff(policy: Policy, directory: str) -> bool:
    """Whether the engine may write its handoff to ``directory``: both sides resolved, as the engine does.

    Stricter than the engine: a relative directory is never admitted (it depends on where
    somebody stands), nor is an allowed entry that a symlink turned into the whole root.
    """
    if not directory.startswith("/") or "\0" in directory:
        return False
    target = os.path.realpath(directory)
    trees = [os.path.realpath(tree) for tree in effective(policy).get("allowed_handoff_dirs", [])]
    return _inside(target, [tree for tree in trees if tree != "/"])
