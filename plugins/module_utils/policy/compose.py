# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy for one host: the release's base, the inventory's overlay, and what of it lets more pass than the base.

A key that does is refused unless ``widen`` names it. The text that is written says of each entry where it comes from.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..base.errors import LoopError
from . import schema
from .schema import ENGINE, GUARDS, Checker, Part, Policy, effective, plain, within
from .strict_yaml import short


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
    for part in (ENGINE, GUARDS):
        sections = [("", "defaults", part.keys)]
        sections += [
            (repo, f"repos.{repo}", part.repo_keys) for repo in sorted({*part.repos(base), *part.repos(policy)})
        ]
        for repo, path, kinds in sections:
            set_there = {*part.repos(base).get(repo, {}), *part.repos(policy).get(repo, {})} if repo else {*kinds}
            old, new = part.holds(base, repo), part.holds(policy, repo)
            for key in (key for key in kinds if key in set_there):
                was, now = old.get(key), new.get(key)
                widened, tightened = more(kinds[key], now, was), more(kinds[key], was, now)
                if widened or tightened:
                    found.append(Difference(f"{part.path}{path}.{key}", widened, tightened))
    return found


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
    schema.validate(policy, "the composed policy")
    schema.try_patterns(policy, "the composed policy")
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
    if schema.digest(schema.load(text.encode(), "the rendered policy")) != schema.digest(policy):
        raise LoopError("the rendered policy does not read back as it was composed; nothing was written")
    return Composed(policy, widened, tightened, admitted, text)


def check_overlay(overlay: Mapping[str, Any], widen: Sequence[str] = ()) -> None:
    """LoopError where an overlay would be refused over whatever base: before there is a release to have one."""
    _check_widen(widen)
    some = {
        key: [f"/{key}" if kind.endswith(("trees", "directories")) else key]
        for key, kind in schema.DEFAULT_KEYS.items()
    }
    base = {
        "version": 1,
        "defaults": {**some, **{key: 1 for key, kind in schema.DEFAULT_KEYS.items() if kind == "limit"}},
    }
    schema.validate(_merge(base, plain(overlay), []), "engineering_loop_policy_overlay")


def _facts(handoff_dirs: Sequence[str]) -> list[str]:
    if handoff_dirs:
        Checker("engineering_loop_runs_dir", {}).entries(list(handoff_dirs), "", "directories", "a list of directories")
    return list(dict.fromkeys(os.path.normpath(entry) for entry in handoff_dirs))


def _check_widen(widen: Sequence[str]) -> None:
    known = {*schema.DEFAULT_KEYS, *schema.REPO_KEYS, *schema.GUARD_KEYS}
    for key in widen:
        if key.rpartition(".")[2] not in known:
            allowed = "a key path of the policy, or the last part of one"
            raise LoopError(f"engineering_loop_policy_widen: found {short(key)}, allowed: {allowed}")


def _merge(base: Policy, overlay: Any, facts: list[str]) -> Policy:
    """``overlay`` over ``base``; a list may be replaced, or changed by {add: [...], remove: [...]}."""
    check = Checker("engineering_loop_policy_overlay", {})
    check.outline(overlay)
    if overlay.get("version", 1) != 1:
        raise check.refuse("version", overlay["version"], "1")
    if facts:
        base = {**base, "defaults": {**base.get("defaults", {}), "allowed_handoff_dirs": facts}}
        own = ENGINE.defaults(overlay)
        if isinstance(own, dict) and isinstance(own.get("allowed_handoff_dirs"), list):
            overlay = {**overlay, "defaults": {**own, "allowed_handoff_dirs": {"add": own["allowed_handoff_dirs"]}}}
    engine = _merge_part(check, ENGINE, base, overlay)
    for directory in facts:
        if not within(directory, engine["defaults"].get("allowed_handoff_dirs", [])):
            allowed = "to remove a tree that cycles write to (engineering_loop_runs_dir)"
            raise check.refuse("defaults.allowed_handoff_dirs", directory, allowed)
    return {"version": 1, **engine, "guards": _merge_part(check, GUARDS, base, overlay)}


def _merge_part(check: Checker, part: Part, base: Policy, overlay: Any) -> Policy:
    start, path = part.holds(base), part.path
    defaults = _apply(check, f"{path}defaults", part.keys, start, part.defaults(overlay), start)
    old, new = part.repos(base), part.repos(overlay)
    repos = {
        name: _apply(check, f"{path}repos.{name}", part.repo_keys, old.get(name, {}), new.get(name, {}), defaults)
        for name in sorted({*old, *new})
    }
    return {"defaults": defaults, "repos": repos}


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

    for part, indent, before in (
        (ENGINE, "", "base"),
        (GUARDS, "  ", "base" if "guards" in base else "collection"),
    ):
        if part is GUARDS:
            out.append("guards:  # the collection's own; the engine does not read them\n")
        out.append(f"{indent}defaults:\n")
        section(f"{part.path}defaults", f"{indent}  ", part.defaults(policy), part.holds(base), before)
        out.append(f"{indent}repos:{'' if part.repos(policy) else ' {}'}\n")
        for repo, entries in part.repos(policy).items():
            out.append(f"{indent}  {_quote(repo)}:{'' if entries else ' {}'}\n")
            old = part.repos(base).get(repo, {})
            section(f"{part.path}repos.{repo}", f"{indent}    ", entries, old, before)
    return "".join(out)


def _quote(text: str) -> str:
    """A YAML double-quoted scalar on one line."""
    quoted = json.dumps(text, ensure_ascii=False)
    return re.sub("[^ -~]", lambda match: match[0] if match[0].isprintable() else f"\\U{ord(match[0]):08x}", quoted)
