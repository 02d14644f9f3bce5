# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a policy may say, by key; the published schema says the same; and the digest of what it means."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.compose import (
    compose,
)
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.schema import (
    DEFAULT_KEYS,
    ENGINE_DEFAULTS,
    GUARD_KEYS,
    REPO_KEYS,
    digest,
    guards,
    load,
    load_file,
    validate,
)
from judged import BASE, POLICY, RUNS, SCHEMA, with_default


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_changed_files", 0),
        ("max_changed_files", -1),
        ("max_changed_files", "20"),
        ("max_changed_files", True),
        ("max_file_bytes", 2**40),
        ("denied_path_globs", []),
        ("denied_path_globs", ".env"),
        ("denied_path_globs", ["/etc/*"]),
        ("denied_path_globs", ["secrets/"]),
        ("denied_path_globs", ["a/../b"]),
        ("denied_path_globs", [""]),
        ("denied_path_globs", ["\ud800"]),
        ("denied_path_globs", ["x" * 2000]),
        ("denied_content_patterns", ["("]),
        ("denied_content_patterns", ["a{99999999999999999999}"]),
        ("denied_content_patterns", ["(" * 900]),
        ("denied_content_patterns", ["[[a]b]"]),
        ("allowed_gate_commands", []),
        ("allowed_gate_commands", ["/usr/bin/python3"]),
        ("allowed_gate_commands", ["python3 -c"]),
        ("protected_branch_prefixes", []),
        ("protected_branch_prefixes", ["main/"]),
        ("allowed_handoff_dirs", []),
        ("allowed_handoff_dirs", ["/"]),
        ("allowed_handoff_dirs", ["runs"]),
        ("allowed_handoff_dirs", ["/tmp/.."]),
        ("allowed_pr_remotes", ["--upload-pack=x"]),
        ("unknown", 1),
    ],
)
def test_what_is_not_valid_is_named_by_its_key(key: str, value: Any) -> None:
    with pytest.raises(LoopError, match=rf"policy\.yml: defaults\.{key}"):
        load(with_default(key, value), "policy.yml")


@pytest.mark.parametrize("name", ["AS215932/network-operations", "", "a b", ".git"])
def test_a_repo_is_named_as_the_engine_names_it(name: str) -> None:
    with pytest.raises(LoopError, match="the name of a checkout"):
        load({**BASE, "repos": {name: {}}}, "x")


@pytest.mark.parametrize("key", sorted(set(DEFAULT_KEYS) - set(ENGINE_DEFAULTS)))
def test_a_policy_in_force_has_what_the_engine_takes_for_everything_where_missing(key: str) -> None:
    policy = copy.deepcopy(BASE)
    del policy["defaults"][key]
    load(policy, "base", complete=False)
    with pytest.raises(LoopError, match=rf"defaults\.{key}: found nothing"):
        load(policy, "policy")


def test_a_file_in_force_must_be_there_and_readable(tmp_path: Path) -> None:
    file = tmp_path / "policy.yml"
    with pytest.raises(LoopError, match="there is no policy at"):
        load_file(str(file))
    file.write_bytes(yaml.safe_dump(BASE).encode())
    assert load_file(str(file)) == BASE
    link = tmp_path / "link.yml"
    link.symlink_to(file)
    with pytest.raises(LoopError, match="cannot be read"):
        load_file(str(link))
    with pytest.raises(LoopError, match="not a regular file"):
        load_file(str(tmp_path))
    os.truncate(file, 100_000)
    with pytest.raises(LoopError, match="more than"):
        load_file(str(file))


def test_the_digest_is_of_the_meaning() -> None:
    reordered = copy.deepcopy(BASE)
    reordered["defaults"] = dict(reversed(reordered["defaults"].items()))
    reordered["defaults"]["denied_path_globs"].reverse()
    reordered["defaults"]["allowed_handoff_dirs"] = [f"{RUNS}/", "/tmp", "/tmp"]
    reordered["guards"] = {"defaults": {"ci": True}, "repos": {"app": {}}}
    del reordered["defaults"]["max_changed_files"]  # the engine's own default is the same 20
    assert digest(reordered) == digest(BASE)
    for key, value in (("max_file_bytes", 5), ("denied_path_globs", [".env"]), ("allowed_handoff_dirs", ["/tmp"])):
        assert digest(with_default(key, value)) != digest(BASE)
    assert digest({**BASE, "guards": {"defaults": {"ci": False}}}) != digest(BASE)
    said_again = {
        **BASE,
        "repos": {"app": {"max_file_bytes": 1048576, "denied_path_globs": ["*.key", ".env", "secrets/**"]}},
    }
    said_again["guards"] = {"repos": {"app": {"ci": True}}}
    assert digest(said_again) == digest(BASE)
    for own in ({"max_file_bytes": 1048577}, {"allowed_repo_roots": ["/srv/app"]}):
        assert digest({**BASE, "repos": {"app": own}}) != digest(BASE)
    roots = [{**BASE, "repos": {"app": {"allowed_repo_roots": [root]}}} for root in ("/srv/app", "/srv//app/")]
    assert digest(roots[0]) == digest(roots[1])
    assert digest({**BASE, "guards": {"repos": {"app": {"ci": ["x"]}}}}) != digest(BASE)


TEXTS = (
    *("x", "", "a/b", "a/", "/a", "./a", "../a", "a/../b", "..", "a..b", ".", "/", "//", "/.", "/./", "/srv", "//srv"),
    *("/srv/", "/srv/../x", "/srv/..", "/..x", "/.a", "a b", " a", "a ", "-x", "x-", "main/", "/main", "a\tb", "a\nb"),
    *("\n", "a\n", "/srv\n", "/s\x85", "a\x85", "a\u2028b", "\0", "a\0", "/a\0", "\u00e9", "/\u00e9", "*", "*.key"),
    *("(?i)x", "(", "~", "~/x", "x" * 1024, "x" * 1025, f"/{'x' * 1023}", f"/{'x' * 1024}"),
)
# No float: to JSON 1.0 is a whole number, to YAML it is not.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 1.5, 100_000, 100_001, 2**20, 2**20 + 1, 2**30, 2**30 + 1, 10**30, "x", "", {}),
    *({"a": 1}, {"max_file_bytes": 1}, [], [1], [[]], [None], [True], ["x"] * 1000, ["x"] * 1001),
    *([text] for text in TEXTS),
)
CHECKOUTS = ("app", "a/b", "", ".git", "a" * 100, "a" * 101, "a\n", "\u00e9", "A.b-c_1", "-a")
PLACES = (
    *(("version",), ("defaults",), ("repos",), ("guards",), ("other",), ("guards", "defaults"), ("guards", "repos")),
    *(("defaults", key) for key in (*DEFAULT_KEYS, "other")),
    *(("repos", "app", key) for key in (*REPO_KEYS, "other")),
    *(("guards", "defaults", key) for key in (*GUARD_KEYS, "other")),
    *(("guards", "repos", "app", key) for key in GUARD_KEYS),
    *((*section, name) for section in (("repos",), ("guards", "repos")) for name in CHECKOUTS),
)


@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_the_published_schema_and_the_code_are_of_one_mind(place: tuple[str, ...]) -> None:
    schema = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())
    minds = set()
    for value in VALUES:
        policy: dict[str, Any] = {"version": 1}
        section = policy
        for key in place[:-1]:
            section = section.setdefault(key, {})
        section[place[-1]] = value
        try:
            validate(policy, "x", complete=False)
            valid = True
        except LoopError:
            valid = False
        assert schema.is_valid(policy) == valid, value
        minds.add(valid)
    assert False in minds  # no place takes anything


def test_the_schema_takes_a_policy_that_is_in_force() -> None:
    composed = compose(BASE, {"guards": {"repos": {"app": {"binaries": ["docs/*"]}}}}, [RUNS], ["binaries"])
    jsonschema.validate(yaml.safe_load(composed.text), SCHEMA)


def test_what_guards_say_that_no_policy_names() -> None:
    found = guards(POLICY, "app")
    assert (found["max_patch_bytes"], found["max_line_length"]) == (1_048_576, 65_536)
