# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy for one host: the release's base, the inventory's overlay, and what of it lets more pass than the base.

A key that does is refused unless ``widen`` names it. The text that is written says of each entry where it comes from.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..base.errors import LoopError
from .schema import (
    DEFAULT_KEYS,
    GUARD_KEYS,
    REPO_KEYS,
    Checker,
    Policy,
    digest,
    effective,
    guards,
    load,
    plain,
    try_patterns,
    validate,
    within,
)
from .strict_yaml import short

# --- which of two policies lets more pass ---------------------------------------------------------------


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
        return [entry for entry in value if not within(entry, than)]
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


# --- composing -----------------------------------------------------------------------------------------


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
    policy = _merge(base, plain(overlay), facts)
    validate(policy, "the composed policy")
    try_patterns(policy, "the composed policy")
    admitted = more("allowed trees", facts, effective(base).get("allowed_handoff_dirs"))
    widened: list[str] = []
    tightened: list[str] = []
    refused: list[str] = []
    for key, more_passes, less_passes in compare(base, policy):
        if key == "defaults.allowed_handoff_dirs":
            more_passes = [entry for entry in more_passes if entry == "everything" or not within(entry, facts)]
        tightened += [key] * bool(less_passes)
        widened += [key] * bool(more_passes)
        if more_passes and key not in widen and key.rpartition(".")[2] not in widen:
            refused.append(f"{key} ({', '.join(map(short, more_passes))})")
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
    validate(_merge(base, plain(overlay), []), "engineering_loop_policy_overlay")


def _facts(handoff_dirs: Sequence[str]) -> list[str]:
    if handoff_dirs:
        Checker("engineering_loop_runs_dir", {}).entries(list(handoff_dirs), "", "directories", "a list of directories")
    return list(dict.fromkeys(os.path.normpath(entry) for entry in handoff_dirs))


def _check_widen(widen: Sequence[str]) -> None:
    known = {*DEFAULT_KEYS, *REPO_KEYS, *GUARD_KEYS}
    for key in widen:
        if key.rpartition(".")[2] not in known:
            allowed = "a key path of the policy, or the last part of one"
            raise LoopError(f"engineering_loop_policy_widen: found {short(key)}, allowed: {allowed}")


def _merge(base: Policy, overlay: Any, facts: list[str]) -> Policy:
    """``overlay`` over ``base``; a list may be replaced, or changed by {add: [...], remove: [...]}."""
    check = Checker("engineering_loop_policy_overlay", {})
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
        if not within(directory, defaults.get("allowed_handoff_dirs", [])):
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
    check: Checker, path: str, kinds: Mapping[str, str], base: Policy, overlay: Policy, inherited: Policy
) -> Policy:
    return {
        repo: _apply(check, f"{path}.{repo}", kinds, base.get(repo, {}), overlay.get(repo, {}), inherited)
        for repo in sorted({*base, *overlay})
    }


def _apply(
    check: Checker, path: str, kinds: Mapping[str, str], base: Policy, overlay: Any, inherited: Policy
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


# --- rendering -----------------------------------------------------------------------------------------

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
                source = "deployment" if key == "allowed_handoff_dirs" and entry in facts else ""
                out.append(f"{indent}  - {_quote(entry)}  # {source or (before if known else 'inventory')}\n")

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
